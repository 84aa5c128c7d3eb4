//! Decisions on small worlds whose answer is plain. Random ones: see `reference`.

use chrono::{DateTime, Utc};

use std::collections::HashMap;

use super::*;
use crate::core::ids::{CampaignId, RoutingVersion};
use crate::core::place::Country;
use crate::core::rules::{Compiled, parse};
use crate::core::states::NumberState;

const SF: &str = "+14155550101";
const LA: &str = "+12135550102";
const NY: &str = "+12125550103";
const TORONTO: &str = "+14165550104";
const LONDON: &str = "+442079460105";

pub(super) fn number(text: &str) -> E164 {
    E164::from_canonical(text).unwrap()
}

pub(super) fn model() -> ModelId {
    ModelId::parse("agent").unwrap()
}

/// A world in which the agent has these numbers and everything may go.
fn world(rules: &str, pool: &[&str]) -> World {
    World {
        version: RoutingVersion(1),
        rules: Arc::new(Compiled::new(parse(rules).unwrap())),
        pools: [(model(), Arc::new(Pool::new(PoolState::Current, pool.iter().map(|n| number(n)))))].into(),
        numbers: HashMap::new(),
        campaigns: HashMap::new(),
        accounts: [(AccountName::default_account(), AccountState::Active)].into(),
        kill_switch: false,
    }
}

/// A job of the campaign `c` to a callee in San Francisco.
fn class() -> Class {
    Class {
        campaign: CampaignId::parse("c").unwrap(),
        model: Some(model()),
        brand: None,
        region: "US-CA".parse().ok(),
        country: "US".parse().ok(),
        area: "+1415".parse().ok(),
        pinned: None,
        sticky: None,
    }
}

fn plan(decision: Decision) -> Plan {
    match decision {
        Decision::Dial(plan) => plan,
        other => panic!("{other:?}"),
    }
}

/// Sources and numbers of each tier.
fn tiers(decision: Decision) -> Vec<(String, Vec<String>)> {
    let numbers = |tier: &Tier| tier.candidates.iter().map(|c| c.number.as_str().to_owned()).collect();
    plan(decision).tiers.iter().map(|tier| (tier.source.name().to_owned(), numbers(tier))).collect()
}

fn tier(name: &str, numbers: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), numbers.iter().map(|n| (*n).to_owned()).collect())
}

const ANY: &str = "[[rule]]\nname = 'any'\n";

#[test]
fn what_holds_everything_comes_before_what_holds_some() {
    let mut w = world("", &[]);
    let mut c = class();
    w.kill_switch = true;
    w.campaigns.insert(c.campaign.clone(), CampaignState::Paused);
    w.version = RoutingVersion(0);
    w.accounts.clear();
    w.pools.clear();
    c.model = None;
    c.country = None;
    let held = |w: &World, reason| assert_eq!(decide(w, &c), Decision::Hold(reason));
    held(&w, Reason::KillSwitch);
    w.kill_switch = false;
    held(&w, Reason::CampaignPaused);
    w.campaigns.clear();
    held(&w, Reason::NoRoute);
    w.version = RoutingVersion(1);
    held(&w, Reason::NoAgent);
    c.model = Some(model());
    let held = |w: &World, reason| assert_eq!(decide(w, &c), Decision::Hold(reason));
    held(&w, Reason::AccountPaused);
    w.accounts.insert(AccountName::default_account(), AccountState::ProviderUnavailable);
    held(&w, Reason::ProviderUnavailable);
    w.accounts.insert(AccountName::default_account(), AccountState::Active);
    // The country is unknown, but what may be called isn't known either.
    held(&w, Reason::PoolUnknown);
    for (state, reason) in [
        (PoolState::NeverRead, Reason::PoolUnknown),
        (PoolState::Stale, Reason::PoolUnknown),
        (PoolState::AgentUnavailable, Reason::AgentUnavailable),
        (PoolState::Current, Reason::NoEligibleNumber),
    ] {
        w.pools.insert(model(), Arc::new(Pool::new(state, [])));
        held(&w, reason);
    }
    w.pools.insert(model(), Arc::new(Pool::new(PoolState::Current, [number(SF)])));
    assert_eq!(decide(&w, &c), Decision::Refuse(Reason::DestinationNotAllowed));
    c.country = "US".parse().ok();
    assert_eq!(decide(&w, &c), Decision::Hold(Reason::NoRoute));
}

#[test]
fn the_campaign_stands_in_for_what_the_job_leaves_out() {
    let rules = "[[campaign]]\nid = 'c'\nmodel_id = 'agent'\nbrand = 'acme'\n[[agent]]\nmodel_id = 'agent'\naccount = 'two'\n\
                 [[rule]]\nname = 'acme'\nmatch = { brand = ['acme'] }\n";
    let mut w = world(rules, &[SF]);
    w.accounts.insert(AccountName::parse("two").unwrap(), AccountState::Active);
    let mut c = Class { model: None, ..class() };
    let planned = plan(decide(&w, &c));
    assert_eq!((planned.model.as_str(), planned.account.as_str()), ("agent", "two"));
    assert_eq!(planned.brand.as_ref().map(|b| b.as_str()), Some("acme"));
    c.brand = Brand::parse("other").ok();
    assert_eq!(decide(&w, &c), Decision::Hold(Reason::NoRoute));
}

#[test]
fn only_allowed_countries_are_called() {
    let refused = Decision::Refuse(Reason::DestinationNotAllowed);
    let to = |country: &str| Class { country: country.parse().ok(), ..class() };
    let w = world(ANY, &[SF, LONDON]);
    for (country, allowed) in [("US", true), ("GB", true), ("CA", false), ("JM", false), ("", false)] {
        assert_eq!(decide(&w, &to(country)) != refused, allowed, "{country}");
    }
    let listed = format!("{ANY}[[campaign]]\nid = 'c'\ndestinations = ['CA']\n");
    let mut w = world(&listed, &[SF]);
    for (country, allowed) in [("CA", true), ("US", false), ("", false)] {
        assert_eq!(decide(&w, &to(country)) != refused, allowed, "{country}");
    }
    // A list is known without the pool.
    w.pools.clear();
    assert_eq!(decide(&w, &to("US")), refused);
    assert_eq!(decide(&w, &to("CA")), Decision::Hold(Reason::PoolUnknown));
}

#[test]
fn the_publishers_own_number_stands_in_place_of_the_rules() {
    let mut w = world("[[rule]]\notherwise = 'refuse'\nuse = { brand = ['none'] }\n", &[SF, LA]);
    let pinned = |n: &str| Class { pinned: Some(number(n)), ..class() };
    assert_eq!(tiers(decide(&w, &pinned(LA))), [tier("from_phone_number", &[LA])]);
    assert_eq!(decide(&w, &pinned(NY)), Decision::Hold(Reason::FromNumberNotInPool));
    w.numbers.insert(number(LA), NumberState::Resting);
    assert_eq!(decide(&w, &pinned(LA)), Decision::Hold(Reason::NoEligibleNumber));
}

#[test]
fn the_first_rule_that_matches_wins_in_file_order() {
    let rules = "
        [[rule]]
        name = 'ny'
        match = { region = ['US-NY'] }
        [[rule]]
        name = 'other campaign'
        match = { campaign = ['d'] }
        [[rule]]
        name = 'both'
        match = { region = ['US-NY', 'US'], model_id = ['agent'] }
        use = { region = ['US-CA'] }
        [[rule]]
        name = 'any'
    ";
    assert_eq!(tiers(decide(&world(rules, &[SF, LA, NY]), &class())), [tier("both", &[LA, SF])]);
}

#[test]
fn use_is_anded_and_ored_and_tags_are_all_needed() {
    let rules = |uses: &str| {
        format!(
            "[[number]]\nnumber = '{SF}'\nbrand = 'a'\ntags = ['x', 'y']\n[[number]]\nnumber = '{LA}'\nbrand = 'b'\n\
             tags = ['x']\n[[number]]\nnumber = '{NY}'\nregion = 'US-CA'\n[[rule]]\nname = 'r'\nuse = {{ {uses} }}\notherwise = 'hold'\n"
        )
    };
    for (uses, expected) in [
        ("", &[NY, LA, SF, TORONTO][..]),
        ("brand = ['a', 'b']", &[LA, SF]),
        ("brand = ['a', 'b'], tags = ['x', 'y']", &[SF]),
        ("tags = ['x']", &[LA, SF]),
        ("region = ['US-CA']", &[NY, LA, SF]),
        ("region = ['US-NY']", &[]),
        ("region = ['CA', 'GB']", &[TORONTO]),
        ("region = ['US'], brand = ['b']", &[LA]),
        (&format!("numbers = ['{TORONTO}', '{LONDON}', '{SF}']"), &[SF, TORONTO]),
        (&format!("numbers = ['{TORONTO}'], brand = ['a']"), &[]),
    ] {
        let decision = decide(&world(&rules(uses), &[SF, LA, NY, TORONTO]), &class());
        match expected {
            [] => assert_eq!(decision, Decision::Hold(Reason::NoEligibleNumber), "{uses}"),
            expected => assert_eq!(tiers(decision), [tier("r", expected)], "{uses}"),
        }
    }
}

#[test]
fn a_number_that_rests_or_is_detached_is_no_candidate() {
    let mut w = world(ANY, &[SF, LA]);
    for (state, eligible) in [
        (NumberState::Warming, true),
        (NumberState::Resting, false),
        (NumberState::Quarantined, false),
        (NumberState::Retired, false),
    ] {
        w.numbers.insert(number(SF), state);
        let expected: &[&str] = if eligible { &[LA, SF] } else { &[LA] };
        assert_eq!(tiers(decide(&w, &class())), [tier("any", expected)], "{state}");
    }
    w.pools.insert(model(), Arc::new(Pool::new(PoolState::Current, [number(SF)])));
    w.numbers.clear();
    assert_eq!(tiers(decide(&w, &class())), [tier("any", &[SF])]);
}

#[test]
fn a_rule_without_a_number_does_what_it_says_otherwise() {
    let rules = |otherwise: &str| {
        format!(
            "[[rule]]\nname = 'none'\nuse = {{ brand = ['x'] }}\notherwise = '{otherwise}'\n[[rule]]\nname = 'any'\n"
        )
    };
    let decision = |otherwise| decide(&world(&rules(otherwise), &[SF]), &class());
    assert_eq!(tiers(decision("next")), [tier("any", &[SF])]);
    assert_eq!(decision("hold"), Decision::Hold(Reason::NoEligibleNumber));
    assert_eq!(decision("refuse"), Decision::Refuse(Reason::NoEligibleNumber));
    assert_eq!(tiers(decision("agent_default")), [tier("none", &[])]);
}

#[test]
fn a_job_that_no_rule_takes_does_what_no_route_says() {
    let decision = |no_route: &str| {
        let rules = format!("[defaults]\nno_route = '{no_route}'\n[[rule]]\nuse = {{ brand = ['x'] }}\n");
        decide(&world(&rules, &[SF]), &class())
    };
    assert_eq!(decision("hold"), Decision::Hold(Reason::NoRoute));
    assert_eq!(decision("refuse"), Decision::Refuse(Reason::NoRoute));
    assert_eq!(tiers(decision("agent_default")), [tier("no_route", &[])]);
}

#[test]
fn overflow_goes_to_the_next_rule_and_a_full_number_refuses_nothing() {
    let rules = |then: &str| {
        format!(
            "[[rule]]\nname = 'one'\nuse = {{ region = ['US-CA'] }}\noverflow = 'next'\n[[rule]]\nname = 'two'\n{then}\n"
        )
    };
    let decision = |then: &str| tiers(decide(&world(&rules(then), &[SF, NY]), &class()));
    assert_eq!(decision("use = { region = ['US-NY'] }"), [tier("one", &[SF]), tier("two", &[NY])]);
    for otherwise in ["hold", "refuse", "next"] {
        let then = format!("use = {{ brand = ['x'] }}\notherwise = '{otherwise}'\n");
        assert_eq!(decision(&then), [tier("one", &[SF])], "{otherwise}");
    }
    let then = "use = { brand = ['x'] }\notherwise = 'agent_default'";
    assert_eq!(decision(then), [tier("one", &[SF]), tier("two", &[])]);
}

/// Uses by number; others have never been used.
fn using<'a>(uses: &'a [(&'a str, NumberUse)]) -> impl Fn(&E164) -> NumberUse + 'a {
    let idle = NumberUse { free: true, ..NumberUse::default() };
    move |number| uses.iter().find(|(n, _)| *n == number.as_str()).map_or(idle, |(_, used)| *used)
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn used(share: f64, last_call: i64) -> NumberUse {
    NumberUse { share, free: true, next_at: None, last_call: Some(at(last_call)) }
}

fn full(next_at: Option<i64>) -> NumberUse {
    NumberUse { share: 1.0, free: false, next_at: next_at.map(at), last_call: None }
}

fn chosen(choice: Choice) -> String {
    match choice {
        Choice::Number { number, .. } => number.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn strategy(name: &str, pool: &[&str]) -> Plan {
    plan(decide(&world(&format!("{ANY}strategy = '{name}'\n"), pool), &class()))
}

#[test]
fn each_strategy_prefers_what_it_says() {
    let uses = [(SF, used(0.5, 1)), (LA, used(0.25, 3)), (NY, used(0.75, 0))];
    let choice = |name| chosen(choose(&strategy(name, &[SF, LA, NY]), &using(&uses), None, 0));
    assert_eq!(choice("least_used"), LA);
    assert_eq!(choice("round_robin"), NY);
    assert_eq!(choice("local_presence"), SF);
    // Never called comes before the oldest call.
    assert_eq!(
        chosen(choose(&strategy("round_robin", &[SF, NY]), &using(&[(SF, used(0.0, -9))]), None, 0)),
        NY
    );
    // A full number is no choice, however good.
    let uses = [(SF, full(Some(5))), (LA, used(0.9, 3)), (NY, used(0.0, 0))];
    assert_eq!(chosen(choose(&strategy("local_presence", &[SF, LA, NY]), &using(&uses), None, 0)), LA);
}

#[test]
fn local_presence_goes_by_area_code_region_country_then_any() {
    let plan = strategy("local_presence", &[LONDON, NY, LA, SF]);
    let near: Vec<_> =
        plan.tiers[0].candidates.iter().map(|c| (c.number.as_str(), plan.tiers[0].nearness(c))).collect();
    assert_eq!(near, [(NY, 2), (LA, 1), (SF, 0), (LONDON, 3)]);
}

#[test]
fn weights_share_the_draws() {
    let rules = format!("[[number]]\nnumber = '{LA}'\nweight = 3\n{ANY}strategy = 'weighted'\n");
    let plan = plan(decide(&world(&rules, &[SF, LA]), &class()));
    let draw = |share: f64| chosen(choose(&plan, &using(&[]), None, (share * u64::MAX as f64) as u64));
    assert_eq!([0.0, 0.5, 0.74, 0.76, 1.0].map(draw), [LA, LA, LA, SF, SF]);
}

#[test]
fn a_callee_keeps_the_number_it_knows() {
    let plan = plan(decide(&world(&format!("{ANY}sticky = true\noverflow = 'next'\n"), &[SF, LA]), &class()));
    let choice =
        |uses: &[(&str, NumberUse)], known: &str| choose(&plan, &using(uses), Some(&number(known)), 0);
    let kept = |n| Choice::Number { number: number(n), tier: 0, breaks_sticky: false };
    assert_eq!(choice(&[(LA, used(0.9, 0))], LA), kept(LA));
    // At its limit the job waits, though another is free.
    assert_eq!(choice(&[(LA, full(Some(9)))], LA), Choice::Full { next_at: Some(at(9)) });
    // No longer a candidate: another is chosen, and remembered instead.
    assert_eq!(choice(&[], NY), Choice::Number { number: number(LA), tier: 0, breaks_sticky: true });
    // First contact.
    assert_eq!(choose(&plan, &using(&[]), None, 0), kept(LA));
}

#[test]
fn a_rule_that_is_not_sticky_neither_keeps_nor_breaks() {
    let plan = strategy("least_used", &[SF, LA]);
    let choice = choose(&plan, &using(&[(LA, used(0.5, 0))]), Some(&number(LA)), 0);
    assert_eq!(choice, Choice::Number { number: number(SF), tier: 0, breaks_sticky: false });
}

#[test]
fn full_tells_the_soonest_of_all_tiers() {
    let rules = "[[rule]]\nname = 'one'\nuse = { region = ['US-CA'] }\noverflow = 'next'\n[[rule]]\nname = 'two'\nuse = { region = ['US-NY'] }\n";
    let plan = plan(decide(&world(rules, &[SF, NY]), &class()));
    let uses = [(SF, full(Some(9))), (NY, full(Some(4)))];
    assert_eq!(choose(&plan, &using(&uses), None, 0), Choice::Full { next_at: Some(at(4)) });
    assert_eq!(chosen(choose(&plan, &using(&[(SF, full(None))]), None, 0)), NY);
    assert_eq!(
        choose(&plan, &using(&[(SF, full(None)), (NY, full(None))]), None, 0),
        Choice::Full { next_at: None }
    );
}

#[test]
fn a_country_is_told_by_the_numbers_own_digits() {
    // An entry may say where a number counts as being, not where its calls may go.
    let rules = format!("{ANY}[[number]]\nnumber = '{SF}'\nregion = 'GB'\n");
    let w = world(&rules, &[SF]);
    let to_gb = Class { country: Some("GB".parse::<Country>().unwrap()), ..class() };
    assert_eq!(decide(&w, &to_gb), Decision::Refuse(Reason::DestinationNotAllowed));
}

mod explaining {
    use super::*;
    use crate::core::hours::zones_of_callee;
    use crate::core::usage::Used;

    const RULES: &str = "
[[number]]
number = '+14155550101'
brand = 'acme'
limits = { per_second = 1, per_day = 100 }
[[number]]
number = '+12135550102'
brand = 'acme'
limits = { per_day = 50 }
[[campaign]]
id = 'c'
brand = 'acme'
window = { days = ['mon', 'tue', 'wed', 'thu', 'fri'], from = '09:00', to = '20:00' }
[[rule]]
name = 'New York'
match = { region = ['US-NY'] }
[[rule]]
name = 'none yet'
use = { tags = ['gold'], numbers = ['+442079460105'] }
[[rule]]
name = 'acme'
use = { brand = ['acme'], region = ['US-CA'] }
sticky = true
[[rule]]
name = 'last'
";

    /// Friday 2026-11-20, noon in San Francisco.
    fn noon() -> DateTime<Utc> {
        "2026-11-20T20:00:00Z".parse().unwrap()
    }

    fn asked(world: &World, now: DateTime<Utc>, sticky: Option<&E164>) -> Explanation {
        let (sf, la) = (number(SF), number(LA));
        let uses = [(SF, NumberUse { next_at: Some(noon()), ..full(None) }), (LA, used(0.42, 0))];
        let idle = |number: E164| Used {
            number,
            second: 0,
            minute: 0,
            hour: 0,
            day: 0,
            concurrent: 0,
            next_at: None,
            last_call: None,
        };
        explain(&Question {
            world,
            class: &class(),
            now,
            not_before: None,
            callee: Callee { suppressed: &[], consented: false },
            again_at: None,
            zones: &zones_of_callee(None, &number("+14155552671")),
            sticky,
            draw: 0,
            usage: &using(&uses),
            figures: &|n| {
                [Used { second: 1, day: 99, ..idle(sf.clone()) }, Used { day: 21, ..idle(la.clone()) }]
                    .into_iter()
                    .find(|used| used.number == *n)
            },
        })
    }

    #[test]
    fn every_rule_number_and_figure_is_told() {
        let mut w = world(RULES, &[SF, LA, NY, TORONTO]);
        w.numbers.insert(number(TORONTO), NumberState::Resting);
        insta::assert_snapshot!(asked(&w, noon(), None), @r#"
        campaign c, agent agent, account default, brand acme, callee in US-CA; routing version 1
        dial from +12135550102, by "acme" (callee in America/Los_Angeles)
          rule 1 "New York": doesn't match: region
          rule 2 "none yet": no eligible number; otherwise next
            x +12125550103  isn't among the rule's numbers
            x +12135550102  isn't among the rule's numbers
            x +14155550101  isn't among the rule's numbers
            x +14165550104  is resting
            x +442079460105  isn't attached to the agent
          rule 3 "acme": 2 eligible; least_used, sticky, overflow wait
            > +12135550102  free  share 0.42  day 21/50
              +14155550101  number_limit until 2026-11-20T20:00:00.000Z  share 1.00  second 1/1  day 99/100
            x +12125550103  its brand: none
            x +14165550104  is resting
          rule 4 "last": not reached
        "#);
    }

    #[test]
    fn a_closed_window_and_a_full_sticky_number_are_told_with_their_dates() {
        let w = world(RULES, &[SF, LA]);
        let evening = "2026-11-21T05:00:00Z".parse().unwrap();
        let said = asked(&w, evening, None);
        assert_eq!((said.outcome, said.reason), (Outcome::Wait, Some(Reason::OutsideWindow)));
        assert_eq!(said.at, "2026-11-23T17:00:00Z".parse().ok());
        let said = asked(&w, noon(), Some(&number(SF)));
        assert_eq!(
            (said.outcome, said.reason, said.at),
            (Outcome::Wait, Some(Reason::NumberLimit), Some(noon()))
        );
    }

    #[test]
    fn the_law_that_was_asked_is_told_with_its_version() {
        let w = world(&format!("[defaults]\ncalling_rules = 'standard'\n{RULES}"), &[SF, LA]);
        let law = w.rules.law().unwrap().version.clone();
        assert!(law.starts_with("20"), "{law}");
        let said = asked(&w, noon(), None);
        assert_eq!(said.calling_rules_version.as_ref(), Some(&law));
        let first = said.to_string().lines().next().map(str::to_owned).unwrap();
        assert!(first.ends_with(&format!("; routing version 1, calling rules {law}")), "{first}");
        let json = serde_json::to_value(&said).unwrap();
        assert_eq!(json["calling_rules_version"], serde_json::json!(law));
        assert_eq!(asked(&world(RULES, &[SF, LA]), noon(), None).calling_rules_version, None);
    }

    #[test]
    fn what_holds_a_job_before_any_rule_is_told() {
        let mut w = world(RULES, &[SF]);
        w.kill_switch = true;
        let said = asked(&w, noon(), None);
        assert_eq!(
            (said.outcome, said.reason, said.rules.len()),
            (Outcome::Wait, Some(Reason::KillSwitch), 0)
        );
        w.kill_switch = false;
        let pinned = Class { pinned: Some(number(SF)), ..class() };
        let question = Question {
            world: &w,
            class: &pinned,
            now: noon(),
            not_before: Some(noon() + chrono::TimeDelta::hours(1)),
            callee: Callee { suppressed: &[], consented: false },
            again_at: None,
            zones: &[],
            sticky: None,
            draw: 0,
            usage: &using(&[]),
            figures: &|_| None,
        };
        let said = explain(&question);
        assert_eq!(said.reason, Some(Reason::TimezoneUnknown));
        assert_eq!(said.rules[0].candidates[0].number, SF);
    }

    #[test]
    fn the_brief_form_counts_what_was_left_out() {
        let mut w = world(RULES, &[SF, LA, NY, TORONTO]);
        w.numbers.insert(number(TORONTO), NumberState::Resting);
        let plan = plan(decide(&w, &class()));
        let said = brief(&w, w.version, &plan, 0, Some(used(0.25, 0)));
        assert_eq!(
            said,
            serde_json::json!({
                "routing_version": 1, "rule": "acme", "strategy": "least_used", "sticky": true, "candidates": 2,
                "excluded": { "brand": 1, "state": 1 }, "share": 0.25, "last_call": at(0),
            })
        );
        assert!(said.to_string().len() <= 500);
    }
}

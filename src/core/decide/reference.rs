//! Decisions and choices again, slowly and written apart: plain loops over everything, straight from the contract's
//! words. On random worlds both must say the same.

use chrono::{DateTime, Utc};
use proptest::prelude::{Strategy as Generator, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::{select, subsequence};
use proptest::{collection, option};

use std::collections::HashMap;

use super::tests::{model, number};
use super::*;
use crate::core::ids::{CampaignId, RoutingVersion};
use crate::core::phone::place_of;
use crate::core::place::{Place, Region};
use crate::core::rules::{
    CallingRules, CampaignSettings, Compiled, Defaults, Limits, Match, NumberSettings, OnMismatch, Settings,
    Use,
};
use crate::core::states::NumberState;

const NUMBERS: [&str; 8] = [
    "+14155550101",
    "+14155550199",
    "+12135550102",
    "+12125550103",
    "+14165550104",
    "+442079460105",
    "+447400123456",
    "+18005550107",
];
const REGIONS: [&str; 6] = ["US", "US-CA", "US-NY", "CA-ON", "GB", "FR"];

/// (Place of the rule, its numbers) of every tier; one without numbers is the agent's default.
type Tiers = Vec<(Option<usize>, Vec<E164>)>;

/// A tier of these candidates, in order.
pub(crate) fn tier(
    source: TierSource,
    strategy: Strategy,
    overflow: Overflow,
    candidates: Vec<Candidate>,
    callees: Place,
) -> Tier {
    Tier {
        source,
        strategy,
        sticky: false,
        overflow,
        candidates: Arc::new(Candidates::new(candidates)),
        callees,
    }
}

/// Which of a rule's numbers may be used.
fn slow_candidates(world: &World, pool: &[&E164], rule: &Rule) -> Vec<E164> {
    let mut found = Vec::new();
    for number in pool {
        let entry = world.rules.settings().numbers.iter().find(|entry| entry.number == **number);
        let region = match entry.and_then(|entry| entry.region) {
            Some(written) => Some(written),
            None => place_of(number).region,
        };
        let active = matches!(
            world.numbers.get(number),
            None | Some(NumberState::Active) | Some(NumberState::Warming)
        );
        let uses = &rule.uses;
        let brand = uses.brand.is_empty()
            || uses.brand.iter().any(|b| entry.is_some_and(|e| e.brand.as_ref() == Some(b)));
        let place = uses.region.is_empty()
            || uses.region.iter().any(|wanted| {
                region.is_some_and(|r| r == *wanted || r.as_str().starts_with(&format!("{wanted}-")))
            });
        let tags = uses.tags.iter().all(|tag| entry.is_some_and(|e| e.tags.iter().any(|t| t == tag)));
        let listed = uses.numbers.is_empty() || uses.numbers.iter().any(|n| n == *number);
        if active && brand && place && tags && listed {
            found.push((*number).clone());
        }
    }
    found.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    found
}

fn slow_matches(rule: &Rule, class: &Class, brand: Option<&Brand>) -> bool {
    let keys = &rule.matches;
    let region = |wanted: &Region| {
        class.region.is_some_and(|r| r == *wanted || r.as_str().starts_with(&format!("{wanted}-")))
    };
    (keys.brand.is_empty() || keys.brand.iter().any(|b| Some(b) == brand))
        && (keys.region.is_empty() || keys.region.iter().any(region))
        && (keys.campaign.is_empty() || keys.campaign.contains(&class.campaign))
        && (keys.model_id.is_empty() || keys.model_id.iter().any(|m| *m == model()))
}

/// For worlds in which nothing but the rules decides.
fn slow_tiers(world: &World, class: &Class) -> Result<Tiers, Decision> {
    let settings = world.rules.settings();
    let campaign = settings.campaigns.iter().find(|c| c.id == class.campaign);
    let brand = class.brand.clone().or(campaign.and_then(|c| c.brand.clone()));
    let pool: Vec<&E164> = world.pools[&model()].numbers().iter().map(|n| &n.number).collect();
    let mut tiers = Vec::new();
    for (at, rule) in settings.rules.iter().enumerate() {
        if !slow_matches(rule, class, brand.as_ref()) {
            continue;
        }
        let numbers = slow_candidates(world, &pool, rule);
        let none = numbers.is_empty();
        let waits_already = !tiers.is_empty();
        if !none {
            tiers.push((Some(at), numbers));
        }
        match (none, rule.overflow, rule.otherwise) {
            (false, Overflow::Wait, _) => return Ok(tiers),
            (false, Overflow::Next, _) | (true, _, Otherwise::Next) => {}
            (true, _, Otherwise::AgentDefault) => {
                tiers.push((Some(at), Vec::new()));
                return Ok(tiers);
            }
            (true, _, _) if waits_already => return Ok(tiers),
            (true, _, Otherwise::Hold) => return Err(Decision::Hold(Reason::NoEligibleNumber)),
            (true, _, Otherwise::Refuse) => return Err(Decision::Refuse(Reason::NoEligibleNumber)),
        }
    }
    match (tiers.is_empty(), settings.defaults.no_route) {
        (false, _) => Ok(tiers),
        (true, NoRoute::Hold) => Err(Decision::Hold(Reason::NoRoute)),
        (true, NoRoute::Refuse) => Err(Decision::Refuse(Reason::NoRoute)),
        (true, NoRoute::AgentDefault) => Ok(vec![(None, Vec::new())]),
    }
}

/// How far a number is from the tier's callees.
fn far(tier: &Tier, candidate: &Candidate) -> usize {
    let (callees, number) = (&tier.callees, &candidate.place);
    let near = [
        callees.area.is_some_and(|area| number.area == Some(area)),
        callees.region.is_some_and(|region| number.region == Some(region)),
        callees.country.is_some_and(|country| number.country == Some(country)),
    ];
    near.iter().position(|near| *near).unwrap_or(near.len())
}

/// Sorts what is free by what the strategy prefers and takes the first.
fn slow_choose(plan: &Plan, uses: &HashMap<E164, NumberUse>, sticky: Option<&E164>, draw: u64) -> Choice {
    let mut dates = Vec::new();
    for (at, tier) in plan.tiers.iter().enumerate() {
        if tier.candidates.is_empty() {
            return Choice::AgentDefault { tier: at };
        }
        if let (true, Some(known)) = (tier.sticky, sticky) {
            let mut rest = plan.tiers.iter().enumerate().skip(at).filter(|(_, t)| t.sticky);
            if let Some((tier, _)) = rest.find(|(_, t)| t.candidates.iter().any(|c| c.number == *known)) {
                if uses[known].free {
                    return Choice::Number { number: known.clone(), tier, breaks_sticky: false };
                }
                return Choice::Full { next_at: uses[known].next_at };
            }
        }
        let mut free: Vec<&Candidate> = tier.candidates.iter().filter(|c| uses[&c.number].free).collect();
        dates.extend(
            tier.candidates.iter().filter(|c| !uses[&c.number].free).filter_map(|c| uses[&c.number].next_at),
        );
        let share = |c: &Candidate| (uses[&c.number].share * 1e9) as i64;
        let age = |c: &Candidate| uses[&c.number].last_call.map_or(i64::MIN, |at| at.timestamp());
        let text = |c: &Candidate| c.number.as_str().to_owned();
        match tier.strategy {
            Strategy::LeastUsed => free.sort_by_key(|c| (share(c), age(c), text(c))),
            Strategy::RoundRobin => free.sort_by_key(|c| (age(c), text(c))),
            Strategy::LocalPresence => free.sort_by_key(|c| (far(tier, c), share(c), age(c), text(c))),
            Strategy::Weighted => {
                free.sort_by_key(|c| text(c));
                let tickets: Vec<&Candidate> =
                    free.iter().flat_map(|c| std::iter::repeat_n(*c, c.weight as usize)).collect();
                if !tickets.is_empty() {
                    let at = (u128::from(draw) * tickets.len() as u128) >> 64;
                    free = vec![tickets[at as usize]];
                }
            }
        }
        if let Some(first) = free.first() {
            let breaks_sticky = tier.sticky && sticky.is_some();
            return Choice::Number { number: first.number.clone(), tier: at, breaks_sticky };
        }
        if tier.overflow == Overflow::Wait {
            break;
        }
    }
    Choice::Full { next_at: dates.into_iter().min() }
}

fn brands() -> impl Generator<Value = Vec<Brand>> {
    subsequence(vec!["a", "b"], 0..=2)
        .prop_map(|names| names.iter().map(|n| Brand::parse(n).unwrap()).collect())
}

fn regions() -> impl Generator<Value = Vec<Region>> {
    prop_oneof![
        3 => subsequence(vec![], 0..=0),
        2 => subsequence(REGIONS.to_vec(), 1..=2),
    ]
    .prop_map(|texts: Vec<&str>| texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn tags() -> impl Generator<Value = Vec<String>> {
    prop_oneof![3 => subsequence(vec!["x", "y"], 0..=0), 1 => subsequence(vec!["x", "y"], 1..=2)]
        .prop_map(|tags| tags.into_iter().map(str::to_owned).collect())
}

fn numbers_of(texts: Vec<&str>) -> Vec<E164> {
    texts.into_iter().map(number).collect()
}

fn rule() -> impl Generator<Value = Rule> {
    let matches =
        (brands(), regions(), subsequence(vec!["c", "d"], 0..=1), subsequence(vec!["agent", "other"], 0..=1));
    let matches = matches.prop_map(|(brand, region, campaign, model_id)| Match {
        brand,
        region,
        campaign: campaign.iter().map(|id| CampaignId::parse(id).unwrap()).collect(),
        model_id: model_id.iter().map(|id| ModelId::parse(id).unwrap()).collect(),
    });
    let listed =
        prop_oneof![3 => subsequence(NUMBERS.to_vec(), 0..=0), 1 => subsequence(NUMBERS.to_vec(), 1..=4)];
    let uses = (brands(), regions(), tags(), listed.prop_map(numbers_of))
        .prop_map(|(brand, region, tags, numbers)| Use { brand, region, tags, numbers });
    let how = (
        select(Strategy::ALL.to_vec()),
        any::<bool>(),
        select(Overflow::ALL.to_vec()),
        select(vec![
            Otherwise::Next,
            Otherwise::Next,
            Otherwise::Hold,
            Otherwise::Refuse,
            Otherwise::AgentDefault,
        ]),
    );
    (matches, uses, how).prop_map(|(matches, uses, (strategy, sticky, overflow, otherwise))| Rule {
        name: "rule".to_owned(),
        matches,
        uses,
        strategy,
        sticky,
        overflow,
        otherwise,
    })
}

fn entry(of: &'static str) -> impl Generator<Value = NumberSettings> {
    let brand = option::of(select(vec!["a", "b"]));
    let region = option::of(select(REGIONS.to_vec()));
    (brand, region, tags(), 1u32..5).prop_map(move |(brand, region, tags, weight)| NumberSettings {
        number: number(of),
        brand: brand.map(|b| Brand::parse(b).unwrap()),
        region: region.map(|r| r.parse().unwrap()),
        tags,
        weight,
        limits: Limits::UNLIMITED,
    })
}

pub(crate) fn settings() -> impl Generator<Value = Settings> {
    let entries: Vec<_> = NUMBERS.iter().map(|of| option::weighted(0.7, entry(of))).collect();
    let campaign = option::of(brands().prop_map(|brands| {
        let mut campaign = CampaignSettings::unknown(CampaignId::parse("c").unwrap());
        // Where calls may go is not what is compared here.
        campaign.destinations = Some(vec!["US".parse().unwrap()]);
        campaign.brand = brands.first().cloned();
        campaign
    }));
    (entries, campaign, collection::vec(rule(), 0..7), select(NoRoute::ALL.to_vec())).prop_map(
        |(entries, campaign, rules, no_route)| Settings {
            defaults: Defaults {
                number_limits: Limits::UNLIMITED,
                no_route,
                calling_rules: CallingRules::None,
                caller_id_mismatch: OnMismatch::Report,
            },
            calling_rules: Vec::new(),
            agents: Vec::new(),
            numbers: entries.into_iter().flatten().collect(),
            campaigns: campaign.into_iter().collect(),
            rules,
        },
    )
}

fn world() -> impl Generator<Value = World> {
    // At least one US number, so that the callee's country is allowed.
    let pool = subsequence(NUMBERS[1..].to_vec(), 0..=7);
    let states = collection::vec(option::weighted(0.3, select(NumberState::ALL.to_vec())), NUMBERS.len());
    (settings(), pool, states).prop_map(|(settings, pool, states)| {
        let attached = std::iter::once(NUMBERS[0]).chain(pool).map(number);
        World {
            version: RoutingVersion(1),
            rules: Arc::new(Compiled::new(settings)),
            pools: [(model(), Arc::new(Pool::new(PoolState::Current, attached)))].into(),
            numbers: NUMBERS.iter().zip(states).filter_map(|(n, state)| Some((number(n), state?))).collect(),
            campaigns: HashMap::new(),
            accounts: [(AccountName::default_account(), AccountState::Active)].into(),
            kill_switch: false,
        }
    })
}

fn class() -> impl Generator<Value = Class> {
    let area = option::of(select(vec!["+1415", "+1212", "+4420"]));
    (option::of(select(vec!["a", "b"])), option::of(select(REGIONS.to_vec())), area).prop_map(
        |(brand, region, area)| Class {
            campaign: CampaignId::parse("c").unwrap(),
            model: Some(model()),
            brand: brand.map(|b| Brand::parse(b).unwrap()),
            region: region.map(|r| r.parse().unwrap()),
            country: "US".parse().ok(),
            area: area.map(|a| a.parse().unwrap()),
            pinned: None,
            sticky: None,
        },
    )
}

fn uses() -> impl Generator<Value = HashMap<E164, NumberUse>> {
    let date = |second: i64| DateTime::<Utc>::from_timestamp(1_800_000_000 + second, 0).unwrap();
    let one = (0u32..4, any::<bool>(), option::of(0i64..4), option::of(0i64..4)).prop_map(
        move |(share, free, next_at, last_call)| NumberUse {
            share: f64::from(share) / 4.0,
            free,
            next_at: next_at.map(date),
            last_call: last_call.map(date),
        },
    );
    collection::vec(one, NUMBERS.len()).prop_map(|uses| NUMBERS.iter().map(|n| number(n)).zip(uses).collect())
}

/// A plan's tiers as the reference gives them.
fn seen(decision: &Decision) -> Result<Tiers, Decision> {
    let Decision::Dial(plan) = decision else { return Err(decision.clone()) };
    let place = |source: &TierSource| match source {
        TierSource::Rule { index, .. } | TierSource::AgentDefault { rule: Some((index, _)) } => Some(*index),
        TierSource::AgentDefault { rule: None } | TierSource::Publisher => None,
    };
    let numbers = |tier: &Tier| tier.candidates.iter().map(|c| c.number.clone()).collect();
    Ok(plan.tiers.iter().map(|tier| (place(&tier.source), numbers(tier))).collect())
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(2_000))]

    #[test]
    fn decisions_equal_the_slow_reference(world in world(), class in class()) {
        let decision = decide(&world, &class);
        prop_assert_eq!(seen(&decision), slow_tiers(&world, &class));
        prop_assert_eq!(decide(&world.clone(), &class.clone()), decision, "equal inputs, equal decision");
    }

    #[test]
    fn choices_equal_the_slow_reference_and_are_eligible(
        world in world(),
        class in class(),
        uses in uses(),
        sticky in option::of(select(NUMBERS.to_vec())),
        draw in any::<u64>(),
    ) {
        let Decision::Dial(plan) = decide(&world, &class) else { return Ok(()) };
        let sticky = sticky.map(number);
        let choice = choose(&plan, &|n: &E164| uses[n], sticky.as_ref(), draw);
        prop_assert_eq!(&choice, &slow_choose(&plan, &uses, sticky.as_ref(), draw));
        if let Choice::Number { number, tier, .. } = choice {
            let attached = world.pools[&model()].get(&number).is_some();
            prop_assert!(attached && world.number_state(&number).is_eligible() && uses[&number].free);
            prop_assert!(plan.tiers[tier].holds(&number));
        }
    }

    /// What `explain` tells is what is done.
    #[test]
    fn an_explanation_tells_the_decision(
        world in world(), class in class(), uses in uses(), sticky in option::of(select(NUMBERS.to_vec())), draw in any::<u64>(),
    ) {
        let sticky = sticky.map(number);
        let said = explain(&Question {
            world: &world, class: &class, now: DateTime::UNIX_EPOCH, not_before: None,
            callee: Callee { suppressed: &[], consented: false }, again_at: None, zones: &[], sticky: sticky.as_ref(),
            draw, usage: &|n| uses[n], figures: &|_| None,
        });
        match decide(&world, &class) {
            Decision::Hold(reason) => prop_assert_eq!((said.outcome, said.reason), (Outcome::Wait, Some(reason))),
            Decision::Refuse(reason) => prop_assert_eq!((said.outcome, said.reason), (Outcome::Refuse, Some(reason))),
            Decision::Dial(plan) => match choose(&plan, &|n: &E164| uses[n], sticky.as_ref(), draw) {
                Choice::Number { number, .. } => {
                    prop_assert_eq!(said.from_phone_number.as_deref(), Some(number.as_str()));
                    let chosen = said.rules.iter().flat_map(|rule| &rule.candidates).filter(|c| c.chosen);
                    prop_assert!(chosen.count() >= 1);
                }
                Choice::AgentDefault { .. } => prop_assert_eq!((said.outcome, said.from_phone_number), (Outcome::Dial, None)),
                Choice::Full { next_at } => prop_assert_eq!((said.reason, said.at), (Some(Reason::NumberLimit), next_at)),
            },
        }
        // Every number of the agent is told of, once, by each rule that was looked at.
        let pool = world.pools[&model()].numbers();
        for rule in said.rules.iter().filter(|rule| !matches!(rule.did, Did::NotMatched { .. } | Did::NotReached)) {
            for attached in pool {
                let text = attached.number.as_str();
                let told = rule.candidates.iter().filter(|c| c.number == text).count()
                    + rule.excluded.iter().filter(|e| e.number == text).count();
                prop_assert_eq!(told, 1);
            }
        }
    }

    /// With numbers drawn evenly, each is chosen as often as its weight says.
    #[test]
    fn weights_hold_over_many_draws(weights in collection::vec(1u32..6, 2..5)) {
        let candidates: Vec<Candidate> = NUMBERS.iter().zip(&weights)
            .map(|(n, weight)| Candidate { number: number(n), weight: *weight, place: Place::default() }).collect();
        let mut candidates = candidates;
        candidates.sort_by(|a, b| a.number.cmp(&b.number));
        let tier = tier(TierSource::Publisher, Strategy::Weighted, Overflow::Wait, candidates.clone(), Place::default());
        let plan = Plan { model: model(), brand: None, account: AccountName::default_account(), tiers: vec![tier] };
        let total: u32 = weights.iter().sum();
        let mut counts: HashMap<E164, u32> = HashMap::new();
        for ticket in 0..total * 4 {
            let draw = ((u128::from(ticket) << 64) / u128::from(total * 4)) as u64 + 1;
            let free = |_: &E164| NumberUse { free: true, ..NumberUse::default() };
            if let Choice::Number { number, .. } = choose(&plan, &free, None, draw) {
                *counts.entry(number).or_default() += 1;
            }
        }
        for candidate in candidates {
            prop_assert_eq!(counts.get(&candidate.number).copied(), Some(candidate.weight * 4));
        }
    }
}

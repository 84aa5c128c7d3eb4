use proptest::prelude::{Strategy as Generator, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::super::reader::FAULTS_MAX;
use super::*;
use crate::core::rules::Compiled;

/// The contract's example, with what this version can't honour left out.
const WHOLE: &str = r#"
[defaults]
number_limits = { per_second = 1, per_minute = 10, per_hour = 60, per_day = 75, concurrent = 2 }
no_route = "hold"
calling_rules = "none"

[[agent]]
model_id = "0ae2859d-c25c-4d56-a9f3-809387b725ce"
name = "Acme outbound"
account = "default"

[[number]]
number = "+1 (628) 666-6348"
brand = "acme"
region = "US-CA"
tags = ["sales"]
weight = 3
limits = { per_day = 100 }

[[campaign]]
id = "spring-sale"
brand = "acme"
model_id = "0ae2859d-c25c-4d56-a9f3-809387b725ce"
weight = 2
limits = { per_second = 5, concurrent = 20 }
window = { days = ["mon", "fri"], from = "09:00", to = "24:00" }
destinations = ["US", "CA"]
expires_after = "36h"
consent = "required"
recipient_limits = { per_day = 2, min_gap = "4h" }
retry = { max_attempts = 3, on = { no_answer = "2h", busy = "15m" } }
redial_unknown_after = "never"

[[rule]]
name = "acme, California"
match = { brand = ["acme"], region = ["US-CA"], campaign = ["spring-sale"], model_id = [] }
use = { brand = ["acme"], region = ["US"], tags = ["sales"], numbers = ["+16286666348"] }
strategy = "local_presence"
sticky = true
overflow = "next"
otherwise = "agent_default"
"#;

fn faults(source: &str) -> Vec<String> {
    parse(source).unwrap_err().iter().map(Fault::to_string).collect()
}

/// The faults of a document, but for the words after the second colon: where they are and of what.
fn keys(source: &str) -> Vec<(usize, String, FaultKind)> {
    parse(source).unwrap_err().into_iter().map(|f| (f.line, f.key, f.kind)).collect()
}

#[test]
fn the_whole_document_is_understood() {
    let settings = parse(WHOLE).unwrap();
    assert_eq!(settings.defaults.number_limits.per_day, Some(75));
    assert_eq!(settings.defaults.number_limits.concurrent, Some(2));
    assert_eq!(settings.agents[0].name.as_deref(), Some("Acme outbound"));
    let number = &settings.numbers[0];
    assert_eq!((number.number.as_str(), number.weight), ("+16286666348", 3));
    assert_eq!(number.limits.per_day, Some(100));
    assert_eq!(number.region.unwrap().as_str(), "US-CA");
    let campaign = &settings.campaigns[0];
    assert_eq!(campaign.expires_after.as_secs(), 36 * 3_600);
    assert_eq!(campaign.destinations.as_ref().unwrap()[0].as_str(), "CA", "sorted");
    assert_eq!(campaign.window.as_ref().unwrap().to().to_string(), "24:00");
    assert_eq!(campaign.consent, ConsentPolicy::Required);
    let caps: Vec<(u32, u32)> =
        campaign.recipient_limits.caps().map(|cap| (cap.calls, cap.seconds)).collect();
    assert_eq!(caps, [(2, 86_400), (1, 14_400)]);
    let retry = campaign.retry.as_ref().unwrap();
    assert_eq!(retry.max_attempts, 3);
    assert_eq!(retry.on, [(Disposition::NoAnswer, 7_200), (Disposition::Busy, 900)].into());
    let kept: Settings = serde_json::from_value(serde_json::to_value(&settings).unwrap()).unwrap();
    assert_eq!(kept, settings);
    let rule = &settings.rules[0];
    assert_eq!(rule.strategy, Strategy::LocalPresence);
    assert_eq!((rule.sticky, rule.overflow, rule.otherwise), (true, Overflow::Next, Otherwise::AgentDefault));
    assert_eq!(rule.uses.tags, ["sales"]);
}

#[test]
fn what_is_absent_has_its_default() {
    let settings = parse("").unwrap();
    assert_eq!(settings, Settings::default());
    let settings = parse("[[campaign]]\nid = 'a'\n[[rule]]\n[[rule]]\nuse = {}\n").unwrap();
    assert_eq!(settings.campaigns[0], CampaignSettings::unknown(CampaignId::parse("a").unwrap()));
    assert_eq!(settings.rules[1].name, "rule 2");
    let rule = &settings.rules[0];
    assert_eq!((rule.strategy, rule.sticky), (Strategy::LeastUsed, false));
    assert_eq!((rule.overflow, rule.otherwise), (Overflow::Wait, Otherwise::Next));
}

#[test]
fn every_fault_is_told_at_once_with_its_line() {
    let source = r#"[defaults]
number_limits = { per_second = 0, per_minutes = 10 }
no_route = "drop"

[[number]]
number = "6286666348"
region = "USA"
weight = "3"

[[number]]
brand = "acme"

[[campaign]]
id = "spring sale"
window = { days = ["monday"], from = "9:00", to = "25:00" }
destinations = ["US", "UK"]
expires_after = "7 days"
redial_unknown_after = "5s"
retry = { on = { no_answer = "5s", hung_up = "1h" } }

[[rule]]
name = "one"
match = { region = ["US-CALIFORNIA", "GB"], brands = [] }
use = { numbers = ["+1628"] }
strategy = "random"
sticky = "yes"
"#;
    use FaultKind::*;
    let expected = [
        (2, "defaults.number_limits.per_minutes", UnknownKey),
        (2, "defaults.number_limits.per_second", Invalid),
        (3, "defaults.no_route", Invalid),
        (6, "number[0].number", Invalid),
        (7, "number[0].region", Invalid),
        (8, "number[0].weight", Invalid),
        (10, "number[1]", MissingKey),
        (14, "campaign[0].id", Invalid),
        (15, "campaign[0].window.days[0]", Invalid),
        (15, "campaign[0].window.from", Invalid),
        (15, "campaign[0].window.to", Invalid),
        (16, "campaign[0].destinations[1]", Invalid),
        (17, "campaign[0].expires_after", Invalid),
        (18, "campaign[0].redial_unknown_after", Invalid),
        (19, "campaign[0].retry", MissingKey),
        (19, "campaign[0].retry.on.hung_up", UnknownKey),
        (19, "campaign[0].retry.on.no_answer", Invalid),
        (23, "rule[0].match.brands", UnknownKey),
        (23, "rule[0].match.region[0]", Invalid),
        (24, "rule[0].use.numbers[0]", Invalid),
        (25, "rule[0].strategy", Invalid),
        (26, "rule[0].sticky", Invalid),
    ];
    let expected: Vec<_> = expected.map(|(line, key, kind)| (line, key.to_owned(), kind)).into();
    assert_eq!(keys(source), expected);
}

#[test]
fn a_fault_says_what_to_write_instead() {
    assert_eq!(
        faults("[[rule]]\nstrategy = 'random'\n"),
        ["line 2: rule[0].strategy: must be one of least_used, round_robin, weighted, local_presence"]
    );
    assert_eq!(
        faults("[[agent]]\nname = 'x'\nmodel = 'y'\n"),
        [
            "line 1: agent[0]: needs \"model_id\"",
            "line 3: agent[0].model: unknown key; known here: model_id, name, account",
        ]
    );
    assert_eq!(
        faults("[[number]]\nnumber = 7\n"),
        ["line 2: number[0].number: must be a string, not integer"]
    );
    assert_eq!(
        faults("[[number]]\nnumber = '+16286666348'\nlimits = { per_day = 0x0 }\n"),
        ["line 3: number[0].limits.per_day: must be from 1 to 10000000"]
    );
}

#[test]
fn a_place_has_the_rules_that_the_file_gives_it() {
    let source = "[defaults]\ncalling_rules = 'standard'\n[[calling_rule]]\nplace = 'US-FL'\nsource = 'our counsel'\n\
                  hours = [{ days = ['mon'], from = '10:00', to = '12:00' }]\nattempts = { calls = 2, hours = 24 }\nholidays = 'US'\n";
    let settings = parse(source).unwrap();
    let kept: Settings = serde_json::from_value(serde_json::to_value(&settings).unwrap()).unwrap();
    assert_eq!(kept, settings);
    let rules = Compiled::new(settings);
    let of = |place: &str| rules.law().unwrap().of_place(Some(place.parse().unwrap()), None);
    let sources: Vec<String> = of("US-FL").iter().map(|rule| rule.source.clone()).collect();
    assert_eq!(sources.last().unwrap(), "our counsel");
    assert!(
        !sources.iter().any(|source| source.contains("501.616")),
        "what shipped is replaced: {sources:?}"
    );
    assert!(sources.len() > 1, "the country's rules hold on: {sources:?}");
    assert_eq!(of("US-CA"), Law::built_in().unwrap().of_place(Some("US-CA".parse().unwrap()), None));
    assert!(rules.keeps_recipients());
    assert!(!Compiled::new(parse("[[campaign]]\nid = 'a'\n").unwrap()).keeps_recipients());
    let capped = "[[campaign]]\nid = 'a'\nrecipient_limits = { min_gap = '4h' }\n";
    assert!(Compiled::new(parse(capped).unwrap()).keeps_recipients());
}

#[test]
fn a_calling_rule_that_says_nothing_is_told() {
    let faulty = |rest: &str| faults(&format!("[[calling_rule]]\nplace = 'US-FL'\nsource = 'x'\n{rest}"));
    assert!(faulty("")[0].contains("neither hours nor holidays nor attempts"), "{:?}", faulty(""));
    assert!(faulty("holidays = 'ES-MD'\n")[0].contains("no list \"ES-MD\""));
    let attempts = faulty("attempts = { calls = 101, hours = 1 }\n");
    assert!(attempts.iter().any(|fault| fault.contains("from 1 to 100")), "{attempts:?}");
    assert!(faulty("hour = []\n").iter().any(|fault| fault.contains("unknown key")));
}

#[test]
fn nothing_stands_twice() {
    let source = r#"
[[number]]
number = "+16286666348"
[[number]]
number = "+1 628 666 6348"
[[campaign]]
id = "a"
[[campaign]]
id = "a"
[[agent]]
model_id = "m"
[[agent]]
model_id = "m"
[[rule]]
name = "r"
[[rule]]
name = "r"
"#;
    let expected =
        [(5, "number[1].number"), (9, "campaign[1].id"), (13, "agent[1].model_id"), (17, "rule[1].name")];
    let expected: Vec<_> = expected.map(|(line, key)| (line, key.to_owned(), FaultKind::Duplicate)).into();
    assert_eq!(keys(source), expected);
    assert_eq!(faults(source)[0], "line 5: number[1].number: the same as in line 3; write it once");
}

#[test]
fn broken_syntax_is_told_with_its_line_beside_other_faults() {
    let found = keys("[[rule]]\nstrategy = random\n[[rule]]\nsticky = 1\n");
    assert!(found.contains(&(2, String::new(), FaultKind::Syntax)), "{found:?}");
    assert!(found.contains(&(4, "rule[1].sticky".into(), FaultKind::Invalid)), "{found:?}");
    let twice = keys("[defaults]\nno_route = 'hold'\nno_route = 'hold'\n");
    assert_eq!(twice, [(3, String::new(), FaultKind::Syntax)]);
}

#[test]
fn settings_survive_their_json() {
    let settings = parse(WHOLE).unwrap();
    let json = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
}

/// Pieces of which documents are made that look like ours.
fn fragment() -> impl Generator<Value = String> {
    let words = WHOLE.split_inclusive([' ', '\n', '=', ',']).map(str::to_owned).collect::<Vec<_>>();
    prop_oneof![8 => proptest::sample::select(words), 1 => any::<String>()]
}

/// A document that says what the settings say, written apart from the reader.
fn written(settings: &Settings) -> String {
    let mut text = format!("[defaults]\nno_route = \"{}\"\n", settings.defaults.no_route);
    text += &format!("number_limits = {}\n", limits_written(&settings.defaults.number_limits));
    let optional =
        |key: &str, value: Option<String>| value.map_or(String::new(), |v| format!("{key} = {v:?}\n"));
    for agent in &settings.agents {
        text += &format!("[[agent]]\nmodel_id = {:?}\naccount = {:?}\n", agent.model_id, agent.account);
        text += &optional("name", agent.name.clone());
    }
    for entry in &settings.numbers {
        text += &format!("[[number]]\nnumber = {:?}\nweight = {}\n", entry.number.as_str(), entry.weight);
        text += &optional("brand", entry.brand.as_ref().map(Brand::to_string));
        text += &optional("region", entry.region.map(|r| r.to_string()));
        text += &format!("tags = {:?}\nlimits = {}\n", entry.tags, limits_written(&entry.limits));
    }
    for campaign in &settings.campaigns {
        text += &format!("[[campaign]]\nid = {:?}\nweight = {}\n", campaign.id, campaign.weight);
        text += &optional("brand", campaign.brand.as_ref().map(Brand::to_string));
        text += &optional("model_id", campaign.model_id.as_ref().map(ModelId::to_string));
        text += &format!("limits = {}\n", limits_written(&campaign.limits));
        text += &format!("expires_after = \"{}s\"\n", campaign.expires_after.as_secs());
        let redial =
            campaign.redial_unknown_after.map_or("never".to_owned(), |after| format!("{}s", after.as_secs()));
        text += &format!("redial_unknown_after = {redial:?}\n");
        if let Some(destinations) = &campaign.destinations {
            let countries: Vec<_> = destinations.iter().map(|c| c.as_str()).collect();
            text += &format!("destinations = {countries:?}\n");
        }
        if let Some(window) = &campaign.window {
            let days: Vec<_> = window.days().iter().map(|day| day.to_string().to_lowercase()).collect();
            let (from, to) = (window.from(), window.to());
            text += &format!("window = {{ days = {days:?}, from = \"{from}\", to = \"{to}\" }}\n");
        }
    }
    for rule in &settings.rules {
        let (matches, uses) = (&rule.matches, &rule.uses);
        let texts = |list: &[Region]| list.iter().map(Region::to_string).collect::<Vec<_>>();
        let numbers: Vec<_> = uses.numbers.iter().map(E164::as_str).collect();
        text += &format!("[[rule]]\nname = {:?}\n", rule.name);
        text += &format!("match = {{ brand = {:?}, region = {:?}, ", matches.brand, texts(&matches.region));
        text += &format!("campaign = {:?}, model_id = {:?} }}\n", matches.campaign, matches.model_id);
        text += &format!("use = {{ brand = {:?}, region = {:?}, ", uses.brand, texts(&uses.region));
        text += &format!("tags = {:?}, numbers = {numbers:?} }}\n", uses.tags);
        text += &format!("strategy = \"{}\"\nsticky = {}\n", rule.strategy, rule.sticky);
        text += &format!("overflow = \"{}\"\notherwise = \"{}\"\n", rule.overflow, rule.otherwise);
    }
    text
}

fn limits_written(limits: &Limits) -> String {
    let all = [
        ("per_second", limits.per_second),
        ("per_minute", limits.per_minute),
        ("per_hour", limits.per_hour),
        ("per_day", limits.per_day),
        ("concurrent", limits.concurrent),
    ];
    let set: Vec<_> = all.iter().filter_map(|(key, limit)| limit.map(|n| format!("{key} = {n}"))).collect();
    format!("{{ {} }}", set.join(", "))
}

fn limits() -> impl Generator<Value = Limits> {
    let limit = || proptest::option::of(1u32..10_000);
    (limit(), limit(), limit(), limit(), limit()).prop_map(
        |(per_second, per_minute, per_hour, per_day, concurrent)| Limits {
            per_second,
            per_minute,
            per_hour,
            per_day,
            concurrent,
        },
    )
}

fn window() -> impl Generator<Value = Window> {
    let days =
        [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];
    let time = |h: u16, m: u16| LocalTime::parse(&format!("{h:02}:{m:02}")).unwrap();
    (proptest::sample::subsequence(days.to_vec(), 1..=7), 0u16..24, 0u16..60, 0u16..=24)
        .prop_map(move |(days, hour, minute, to)| Window::new(days, time(hour, minute), time(to, 0)).unwrap())
}

/// Every setting there is: those of the reference, and what it leaves at rest.
fn any_settings() -> impl Generator<Value = Settings> {
    let more = (limits(), limits(), limits(), proptest::option::of(window()), 60u64..1_000_000);
    (crate::core::decide::reference::settings(), more).prop_map(
        |(mut settings, (defaults, numbers, campaigns, window, expires_after))| {
            settings.defaults.number_limits = defaults;
            settings.numbers.iter_mut().for_each(|entry| entry.limits = numbers);
            for campaign in &mut settings.campaigns {
                campaign.limits = campaigns;
                campaign.window = window.clone();
                campaign.expires_after = Duration::from_secs(expires_after);
                campaign.redial_unknown_after =
                    (expires_after % 2 == 0).then(|| Duration::from_secs(expires_after.max(10)));
            }
            for (at, rule) in settings.rules.iter_mut().enumerate() {
                rule.name = format!("rule {at} \"quoted\"");
            }
            settings.agents = vec![AgentSettings {
                model_id: ModelId::parse("m").unwrap(),
                name: Some("Acme".to_owned()),
                account: AccountName::parse("two").unwrap(),
            }];
            settings
        },
    )
}

#[test]
fn of_very_many_faults_the_first_are_told_and_the_others_counted() {
    let source: String = (0..250).map(|n| format!("key{n:03} = 1\n")).collect();
    let faults = parse(&source).unwrap_err();
    assert_eq!(faults.len(), FAULTS_MAX + 1);
    assert_eq!(faults[100].to_string(), "line 100: and 150 more faults in this file; mend these first");
    let exactly: String = source.lines().take(FAULTS_MAX).map(|line| format!("{line}\n")).collect();
    assert_eq!(parse(&exactly).unwrap_err().len(), FAULTS_MAX);
}

#[test]
fn a_key_that_nobody_knows_is_told_in_short_and_on_one_line() {
    let faults = parse(&format!("\"\\u001b[2J{}\" = 1", "k".repeat(10_000))).unwrap_err();
    assert!(faults[0].key.starts_with(" [2Jkkk") && faults[0].key.len() == 100, "{}", faults[0].key);
    assert_eq!(parse("\"\" = 1").unwrap_err()[0].key, "\"\"");
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(settings in any_settings()) {
        let source = written(&settings);
        let read = parse(&source);
        prop_assert_eq!(read.as_ref(), Ok(&settings), "{}", source);
        let stored = serde_json::to_value(&settings).unwrap();
        prop_assert_eq!(serde_json::from_value::<Settings>(stored).unwrap(), settings);
    }

    #[test]
    fn no_document_makes_it_panic(pieces in proptest::collection::vec(fragment(), 0..80)) {
        let source = pieces.concat();
        let lines = source.lines().count() + 1;
        if let Err(faults) = parse(&source) {
            prop_assert!(!faults.is_empty());
            prop_assert!(faults.iter().all(|f| f.line >= 1 && f.line <= lines));
        }
    }

    #[test]
    fn no_damage_to_a_good_document_makes_it_panic(cut in 0..WHOLE.len(), length in 0usize..40) {
        let end = (cut + length).min(WHOLE.len());
        let damaged = format!("{}{}", &WHOLE[..cut], &WHOLE[end..]);
        let _ = parse(&damaged);
    }
}

//! What the demo is about, in plain tables: numbers, campaigns, their limits, and which caller ID a callee may see.
//!
//! It says what `config/demo-routing.toml` says, a second time and without the worker's code: the check of the sandbox's
//! ledger must not rest on what it checks. All phone numbers are of ranges kept free for fiction (NANP 555-01XX, Ofcom's
//! drama ranges).

use std::collections::BTreeMap;

use crate::synthflow::sandbox::{AccountConfig, AgentConfig, SandboxConfig, ScriptConfig, Span};

pub const ROUTING: &str = include_str!("../../../config/demo-routing.toml");
pub const ROUTING_FILE: &str = "config/demo-routing.toml";
pub const API_KEY: &str = "demo-key";

const ACME: &str = "d0000000-0000-4000-8000-0000000000a1";
const GLOBEX: &str = "d0000000-0000-4000-8000-0000000000b2";

/// Calls in any sliding second and minute, and at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    pub second: Option<u32>,
    pub minute: Option<u32>,
    pub at_once: Option<u32>,
}

const fn most(second: u32) -> Most {
    Most { second: Some(second), minute: None, at_once: None }
}

const fn most_at_once(second: u32, at_once: u32) -> Most {
    Most { second: Some(second), minute: None, at_once: Some(at_once) }
}

const fn most_a_minute(second: u32, minute: u32) -> Most {
    Most { second: Some(second), minute: Some(minute), at_once: None }
}

/// The account's: its CAPS, and calls at once.
pub const ACCOUNT: Most = most_at_once(100, 150);

#[derive(Debug, Clone, Copy)]
pub struct Number {
    pub number: &'static str,
    pub brand: &'static str,
    /// Whom it may call.
    pub serves: &'static [Area],
    pub most: Most,
}

/// Where a callee is, as far as the demo's rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    California,
    /// The United States but California.
    States,
    Canada,
    Britain,
}

use Area::{Britain, California, Canada, States};

pub const NUMBERS: &[Number] = &[
    Number { number: "+16285550101", brand: "acme", serves: &[California], most: most_a_minute(4, 50) },
    Number { number: "+14155550102", brand: "acme", serves: &[California], most: most_a_minute(4, 50) },
    Number { number: "+12125550103", brand: "acme", serves: &[California, States], most: most(10) },
    Number { number: "+13125550104", brand: "acme", serves: &[California, States], most: most(10) },
    Number { number: "+13055550105", brand: "acme", serves: &[California, States], most: most(10) },
    Number { number: "+14165550106", brand: "acme", serves: &[Canada], most: most_at_once(8, 8) },
    Number { number: "+16045550107", brand: "acme", serves: &[Canada], most: most(8) },
    Number { number: "+442079460108", brand: "acme", serves: &[Britain], most: most(13) },
    Number { number: "+441614960109", brand: "acme", serves: &[Britain], most: most_at_once(13, 16) },
    Number { number: "+16465550110", brand: "globex", serves: &[California, States], most: most(9) },
    Number { number: "+12135550111", brand: "globex", serves: &[California, States], most: most(6) },
    Number { number: "+15145550112", brand: "globex", serves: &[Canada], most: most(5) },
    Number { number: "+441134960113", brand: "globex", serves: &[Britain], most: most_at_once(5, 7) },
];

#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    pub id: &'static str,
    pub brand: &'static str,
    pub model_id: &'static str,
    pub most: Most,
    /// Whether rules keep a callee to one number.
    pub sticky: &'static [Area],
    /// Callees, and how many of 2,000 jobs are for them.
    pub callees: &'static [Callees],
    /// Callees whom the campaign may not call.
    pub forbidden: &'static str,
}

/// Callees of one place: `prefixes` are dialled with four more digits.
#[derive(Debug, Clone, Copy)]
pub struct Callees {
    pub area: Area,
    pub prefixes: &'static [&'static str],
    pub of_2000: usize,
}

pub static CAMPAIGNS: [Campaign; 3] = [
    Campaign {
        id: "spring-sale",
        brand: "acme",
        model_id: ACME,
        most: most(45),
        sticky: &[],
        callees: &[
            Callees {
                area: California,
                prefixes: &["+1415555", "+1213555", "+1619555", "+1916555"],
                of_2000: 240,
            },
            Callees {
                area: States,
                prefixes: &[
                    "+1212555", "+1312555", "+1305555", "+1617555", "+1206555", "+1214555", "+1404555",
                ],
                of_2000: 440,
            },
            Callees { area: Canada, prefixes: &["+1416555", "+1604555", "+1514555"], of_2000: 210 },
        ],
        forbidden: "+44151496",
    },
    Campaign {
        id: "renewals",
        brand: "acme",
        model_id: ACME,
        most: Most { second: None, minute: None, at_once: Some(25) },
        sticky: &[Britain],
        callees: &[Callees { area: Britain, prefixes: &["+44207946", "+44161496"], of_2000: 460 }],
        forbidden: "+1303555",
    },
    Campaign {
        id: "winback",
        brand: "globex",
        model_id: GLOBEX,
        most: most(25),
        sticky: &[Canada],
        callees: &[
            Callees {
                area: States,
                prefixes: &["+1718555", "+1773555", "+1702555", "+1512555"],
                of_2000: 290,
            },
            Callees { area: Canada, prefixes: &["+1905555", "+1250555"], of_2000: 90 },
            Callees { area: Britain, prefixes: &["+44131496"], of_2000: 90 },
        ],
        forbidden: "+6125550",
    },
];

/// The numbers that a callee of this campaign and place may see.
pub fn caller_ids(campaign: &Campaign, area: Area) -> impl Iterator<Item = &'static str> {
    let brand = campaign.brand;
    NUMBERS.iter().filter(move |n| n.brand == brand && n.serves.contains(&area)).map(|n| n.number)
}

/// The stand-in for the provider: the agents with their pools, and calls that end within seconds.
pub fn sandbox() -> SandboxConfig {
    let agent = |model_id: &str, brand: &str| AgentConfig {
        model_id: model_id.to_owned(),
        name: format!("{brand} outbound"),
        numbers: NUMBERS.iter().filter(|n| n.brand == brand).map(|n| n.number.into()).collect(),
        ..AgentConfig::default()
    };
    let outcomes = [
        ("completed", 40),
        ("hangup_on_voicemail", 30),
        ("no-answer", 15),
        ("busy", 5),
        ("left_voicemail", 5),
        ("failed", 5),
    ];
    SandboxConfig {
        time_scale: 80.0,
        latency_ms: Span { min: 5, max: 40 },
        script: ScriptConfig {
            outcomes: BTreeMap::from(outcomes.map(|(status, weight)| (status.to_owned(), weight))),
            ..ScriptConfig::default()
        },
        accounts: vec![AccountConfig {
            name: "default".to_owned(),
            key: API_KEY.to_owned(),
            calls_per_second: ACCOUNT.second,
            concurrent_calls: ACCOUNT.at_once,
            ..AccountConfig::default()
        }],
        agents: vec![agent(ACME, "acme"), agent(GLOBEX, "globex")],
        ..SandboxConfig::default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::core::rules::{self, Limits};

    fn most_of(limits: &Limits) -> Most {
        assert_eq!((limits.per_hour, limits.per_day), (None, None), "the check knows no longer windows");
        Most { second: limits.per_second, minute: limits.per_minute, at_once: limits.concurrent }
    }

    #[test]
    fn the_routing_file_says_the_same() {
        let file = rules::parse(ROUTING).unwrap();
        let numbers: BTreeMap<_, _> = file.numbers.iter().map(|n| (n.number.as_str(), n)).collect();
        assert_eq!((file.numbers.len(), file.campaigns.len()), (NUMBERS.len(), CAMPAIGNS.len()));
        for here in NUMBERS {
            let there = numbers[here.number];
            assert_eq!(there.brand.as_ref().unwrap().as_str(), here.brand);
            let limits = there.limits.over(&file.defaults.number_limits);
            assert_eq!(most_of(&limits), here.most, "{}", here.number);
        }
        for (there, here) in file.campaigns.iter().zip(CAMPAIGNS) {
            assert_eq!(there.id.as_str(), here.id);
            assert_eq!(there.model_id.as_ref().unwrap().as_str(), here.model_id);
            assert_eq!(most_of(&there.limits), here.most, "{}", here.id);
        }
    }

    #[test]
    fn the_sandbox_takes_it() {
        sandbox().check().unwrap();
    }
}

//! An agent's pool: the numbers that it may call from, and what a reading of the provider changes about them.
//!
//! A detached number must not be used again, and a slip of the provider must not take the numbers of a whole
//! campaign away. So: a failed reading changes nothing, and one that would drop more than half of a pool counts
//! only when a second one agrees.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::call::{Assistant, PoolNumber};
use super::ids::Brand;
use super::outcome::ProviderError;
use super::phone::{E164, place_of};
use super::place::Region;
use super::rules::{Compiled, Limits};

/// The provider's names of an attached number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handles {
    pub slug: Option<String>,
    pub sid: Option<String>,
}

/// A pool as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub attached: BTreeMap<E164, Handles>,
    /// Numbers that may be dropped without another reading: an earlier one lacked them, or we detached them.
    pub doubted: BTreeSet<E164>,
}

/// What becomes of a pool by one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The reading counts.
    Adopt(Change),
    /// It would drop more than half of the pool: nothing changes until a second reading agrees.
    HoldBack { doubted: BTreeSet<E164> },
    /// No reading: nothing changes but what went wrong.
    Keep { error: String },
    /// The provider doesn't know the agent: it is held.
    Unavailable { why: String },
}

/// Differences between a pool and a reading of it. Both empty: the pool is as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// New, or known by other handles than before.
    pub attach: Vec<PoolNumber>,
    pub detach: Vec<E164>,
    /// The agent's name at the provider.
    pub name: Option<String>,
    /// What of the reading could not be understood.
    pub note: Option<String>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.attach.is_empty() && self.detach.is_empty()
    }
}

/// Decides what a reading means for the pool.
pub fn plan(known: &Known, reading: &Result<Assistant, ProviderError>) -> Plan {
    let agent = match reading {
        Ok(agent) => agent,
        Err(ProviderError::NotFound { .. }) => {
            return Plan::Unavailable { why: "the provider doesn't know this agent (404)".to_owned() };
        }
        Err(error) => return Plan::Keep { error: error.to_string() },
    };
    let kind = agent.kind.as_deref().unwrap_or("outbound");
    if !kind.eq_ignore_ascii_case("outbound") {
        let error = format!("the agent is {kind}; only outbound agents have a pool of numbers to call from");
        return Plan::Keep { error };
    }
    match &agent.pool {
        Some(pool) => compare(known, agent, pool),
        None => Plan::Keep { error: "the answer says nothing of attached phone numbers".to_owned() },
    }
}

fn compare(known: &Known, agent: &Assistant, pool: &[PoolNumber]) -> Plan {
    let read: BTreeMap<&E164, &PoolNumber> = pool.iter().map(|entry| (&entry.number, entry)).collect();
    let detach: Vec<E164> =
        known.attached.keys().filter(|number| !read.contains_key(number)).cloned().collect();
    let most_of = |dropped: usize, all: usize| dropped * 2 > all;
    let agreed = detach.iter().filter(|number| known.doubted.contains(number)).count();
    let pool_size = known.attached.len();
    // Two readings agree where both lack most of the pool, and the second not most of the rest as well.
    let agrees = most_of(agreed, pool_size) && !most_of(detach.len() - agreed, pool_size - agreed);
    if most_of(detach.len(), pool_size) && !agrees {
        return Plan::HoldBack { doubted: detach.into_iter().collect() };
    }
    let is_news = |entry: &PoolNumber| {
        known.attached.get(&entry.number).is_none_or(|handles| {
            handles.slug.as_deref() != Some(entry.slug.as_str()) || handles.sid != entry.sid
        })
    };
    Plan::Adopt(Change {
        attach: read.into_values().filter(|entry| is_news(entry)).cloned().collect(),
        detach,
        name: agent.name.clone(),
        note: (agent.unreadable > 0)
            .then(|| format!("{} of the pool's entries are no phone numbers", agent.unreadable)),
    })
}

/// A number of a pool with what the rules say of it, as it is written down where it is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    #[serde(with = "super::phone::whole")]
    pub number: E164,
    pub slug: String,
    pub sid: Option<String>,
    pub brand: Option<Brand>,
    /// By the rules, else by its digits.
    pub region: Option<Region>,
    pub tags: Vec<String>,
    #[serde(flatten)]
    pub limits: Limits,
}

impl Listed {
    pub fn new(entry: &PoolNumber, rules: &Compiled) -> Self {
        let settings = rules.number(&entry.number);
        Self {
            number: entry.number.clone(),
            slug: entry.slug.clone(),
            sid: entry.sid.clone(),
            brand: settings.and_then(|s| s.brand.clone()),
            region: settings.and_then(|s| s.region).or_else(|| place_of(&entry.number).region),
            tags: settings.map(|s| s.tags.clone()).unwrap_or_default(),
            limits: rules.number_limits(&entry.number),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::ids::ModelId;

    fn number(n: u8) -> E164 {
        E164::from_canonical(&format!("+1415555{n:04}")).unwrap()
    }

    fn entry(n: u8) -> PoolNumber {
        PoolNumber { number: number(n), slug: number(n).as_str()[1..].to_owned(), sid: None }
    }

    fn known(attached: impl IntoIterator<Item = u8>, doubted: impl IntoIterator<Item = u8>) -> Known {
        let handles = |n| Handles { slug: Some(entry(n).slug), sid: None };
        Known {
            attached: attached.into_iter().map(|n| (number(n), handles(n))).collect(),
            doubted: doubted.into_iter().map(number).collect(),
        }
    }

    fn reading(numbers: impl IntoIterator<Item = u8>) -> Result<Assistant, ProviderError> {
        Ok(Assistant {
            model_id: ModelId::parse("agent").unwrap(),
            name: None,
            kind: Some("outbound".to_owned()),
            pool: Some(numbers.into_iter().map(entry).collect()),
            unreadable: 0,
        })
    }

    fn adopted(plan: Plan) -> Change {
        match plan {
            Plan::Adopt(change) => change,
            other => panic!("not adopted: {other:?}"),
        }
    }

    #[test]
    fn a_first_reading_is_adopted_whole() {
        let change = adopted(plan(&known([], []), &reading(0..5)));
        assert_eq!(change.attach.len(), 5);
        assert!(change.detach.is_empty());
    }

    #[test]
    fn an_equal_reading_changes_nothing() {
        assert!(adopted(plan(&known(0..5, []), &reading(0..5))).is_empty());
    }

    #[test]
    fn half_may_go_at_once_more_needs_a_second_reading() {
        assert_eq!(adopted(plan(&known(0..10, []), &reading(0..5))).detach.len(), 5);
        let first = plan(&known(0..10, []), &reading(0..4));
        assert_eq!(first, Plan::HoldBack { doubted: (4..10).map(number).collect() });
        assert_eq!(adopted(plan(&known(0..10, 4..10), &reading(0..4))).detach.len(), 6);
    }

    #[test]
    fn the_only_number_is_more_than_half() {
        assert!(matches!(plan(&known([1], []), &reading([])), Plan::HoldBack { .. }));
        assert_eq!(adopted(plan(&known([1], [1]), &reading([]))).detach, [number(1)]);
    }

    #[test]
    fn a_second_reading_that_drops_others_does_not_agree() {
        let second = plan(&known(0..10, 4..10), &reading(6..10));
        assert_eq!(second, Plan::HoldBack { doubted: (0..6).map(number).collect() });
    }

    #[test]
    fn one_more_number_gone_meanwhile_does_not_spoil_the_agreement() {
        assert_eq!(adopted(plan(&known(0..10, 4..10), &reading(1..4))).detach.len(), 7);
    }

    #[test]
    fn a_pool_exchanged_whole_is_held_back_too() {
        assert!(matches!(plan(&known(0..5, []), &reading(10..15)), Plan::HoldBack { .. }));
        assert_eq!(adopted(plan(&known(0..5, 0..5), &reading(10..15))).attach.len(), 5);
    }

    #[test]
    fn another_slug_or_sid_is_news_of_the_same_number() {
        let mut answer = reading(0..2);
        if let Ok(Assistant { pool: Some(pool), .. }) = &mut answer {
            pool[1].sid = Some("PN1".to_owned());
        }
        let change = adopted(plan(&known(0..2, []), &answer));
        assert_eq!(change.attach.iter().map(|n| n.number.clone()).collect::<Vec<_>>(), [number(1)]);
    }

    #[test]
    fn failures_keep_the_pool_and_a_404_holds_the_agent() {
        let known = known(0..3, []);
        let failed = |error| plan(&known, &Err(error));
        assert!(matches!(failed(ProviderError::Unavailable("no route".into())), Plan::Keep { .. }));
        assert!(matches!(failed(ProviderError::RateLimited { retry_after: None }), Plan::Keep { .. }));
        assert!(matches!(failed(ProviderError::NotFound { text: None }), Plan::Unavailable { .. }));
    }

    #[test]
    fn an_inbound_agent_or_a_silent_answer_is_an_error() {
        let mut inbound = reading(0..3);
        let mut silent = reading(0..3);
        if let (Ok(inbound), Ok(silent)) = (&mut inbound, &mut silent) {
            inbound.kind = Some("inbound".to_owned());
            silent.pool = None;
        }
        for answer in [inbound, silent] {
            assert!(matches!(plan(&known([], []), &answer), Plan::Keep { .. }));
        }
    }

    proptest! {
        /// Whatever is read: an adopted reading makes the pool equal to it, one alone never drops more than half,
        /// and the same reading twice in a row always counts.
        #[test]
        fn readings_settle(before in prop::collection::btree_set(0u8..30, 0..20), read in prop::collection::btree_set(0u8..30, 0..20)) {
            let pool = known(before.iter().copied(), []);
            let answer = reading(read.iter().copied());
            let change = match plan(&pool, &answer) {
                Plan::HoldBack { doubted } => {
                    prop_assert!(doubted.len() * 2 > before.len());
                    adopted(plan(&Known { doubted, ..pool.clone() }, &answer))
                }
                plan => {
                    let change = adopted(plan);
                    prop_assert!(change.detach.len() * 2 <= before.len());
                    change
                }
            };
            let mut after: BTreeSet<E164> = pool.attached.keys().cloned().collect();
            after.retain(|number| !change.detach.contains(number));
            after.extend(change.attach.iter().map(|entry| entry.number.clone()));
            prop_assert_eq!(after, read.iter().copied().map(number).collect::<BTreeSet<_>>());
        }
    }
}

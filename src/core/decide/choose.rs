//! One number of a plan, by how much each has been used.

use chrono::{DateTime, Utc};

use super::candidates::{Ring, nearness};
use super::{Candidate, Plan, Tier, TierSource};
use crate::core::phone::E164;
use crate::core::place::Place;
use crate::core::rules::{Overflow, Strategy};

/// What is known of a number's use at the moment of choosing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NumberUse {
    /// Of its tightest window: used / limit, the largest over its limits; 0 when unlimited.
    pub share: f64,
    /// Whether it could take one more within the horizon.
    pub free: bool,
    /// When it could next, if not now; none: nobody knows (all its calls must end first).
    pub next_at: Option<DateTime<Utc>>,
    pub last_call: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    Number {
        number: E164,
        /// Place in [`Plan::tiers`].
        tier: usize,
        /// The callee knew another number, which is no longer eligible: remember this one instead.
        breaks_sticky: bool,
    },
    /// Call without `from_phone_number`.
    AgentDefault { tier: usize },
    /// Every number is at its limit; the soonest is free again then.
    Full { next_at: Option<DateTime<Utc>> },
}

/// Picks a number of the plan, or says that all are at their limit.
///
/// `sticky` is the number that this callee knows, `draw` the randomness of `weighted`: 64 even bits. Equal arguments
/// give equal answers; what is equally good goes by the number's own text.
pub fn choose(plan: &Plan, usage: &impl Fn(&E164) -> NumberUse, sticky: Option<&E164>, draw: u64) -> Choice {
    choose_by(plan, usage, sticky, |tier| pick_any(tier, usage, draw))
}

/// The same, where `best` gives the best of a tier's free numbers, or else when the first is free again.
pub fn choose_by(
    plan: &Plan,
    usage: &impl Fn(&E164) -> NumberUse,
    sticky: Option<&E164>,
    mut best: impl FnMut(&Tier) -> Result<E164, Option<DateTime<Utc>>>,
) -> Choice {
    let mut soonest: Option<DateTime<Utc>> = None;
    for (at, tier) in plan.tiers.iter().enumerate() {
        if matches!(tier.source, TierSource::AgentDefault { .. }) {
            return Choice::AgentDefault { tier: at };
        }
        if tier.sticky
            && let Some(known) = sticky
        {
            // The first tier that remembers: whichever holds the known number from here on, the job keeps to it.
            let holder = (at..).zip(&plan.tiers[at..]).find(|(_, t)| t.sticky && t.holds(known));
            if let Some((tier, _)) = holder {
                let used = usage(known);
                return match used.free {
                    true => Choice::Number { number: known.clone(), tier, breaks_sticky: false },
                    false => Choice::Full { next_at: used.next_at },
                };
            }
        }
        match best(tier) {
            Ok(number) => {
                return Choice::Number { number, tier: at, breaks_sticky: tier.sticky && sticky.is_some() };
            }
            Err(next_at) => soonest = [soonest, next_at].into_iter().flatten().min(),
        }
        if tier.overflow == Overflow::Wait {
            break;
        }
    }
    Choice::Full { next_at: soonest }
}

impl Tier {
    pub fn holds(&self, number: &E164) -> bool {
        self.candidates.binary_search_by(|c| c.number.cmp(number)).is_ok()
    }

    /// To the callee, for `local_presence`: 0 same area code, 1 region, 2 country, 3 elsewhere. Else 0.
    pub(super) fn nearness(&self, candidate: &Candidate) -> u8 {
        match self.strategy {
            Strategy::LocalPresence => nearness(&self.callees, &candidate.place),
            Strategy::LeastUsed | Strategy::RoundRobin | Strategy::Weighted => 0,
        }
    }

    /// Where to look for a number, one after the other.
    pub(super) fn rings(&self) -> impl Iterator<Item = Ring> + use<> {
        let from = match self.strategy {
            Strategy::LocalPresence => self.callees,
            Strategy::LeastUsed | Strategy::RoundRobin | Strategy::Weighted => Place::default(),
        };
        Ring::around(&from)
    }
}

/// How good a number is by a strategy among those that are equally near: the least is the best. What is equally good goes by
/// its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// The bits of a share, which is never negative: they stand in the order of the numbers.
    share: u64,
    /// In microseconds; one that was never used comes first.
    last_call: i64,
}

impl Rank {
    pub(super) fn of(strategy: Strategy, used: &NumberUse) -> Self {
        let (shares, ages) = match strategy {
            Strategy::LeastUsed | Strategy::LocalPresence => (true, true),
            Strategy::RoundRobin => (false, true),
            Strategy::Weighted => (false, false),
        };
        Self {
            share: if shares { used.share.max(0.0).to_bits() } else { 0 },
            last_call: used.last_call.filter(|_| ages).map_or(i64::MIN, |at| at.timestamp_micros()),
        }
    }
}

/// The best of the tier's free numbers, looking at each; or else when the first is free again.
pub(super) fn pick_any(
    tier: &Tier,
    usage: &impl Fn(&E164) -> NumberUse,
    draw: u64,
) -> Result<E164, Option<DateTime<Utc>>> {
    let mut best: Option<(&Candidate, (u8, Rank))> = None;
    let mut soonest: Option<DateTime<Utc>> = None;
    let mut weight_total: u64 = 0;
    for candidate in tier.candidates.iter() {
        let used = usage(&candidate.number);
        if !used.free {
            soonest = [soonest, used.next_at].into_iter().flatten().min();
            continue;
        }
        weight_total += u64::from(candidate.weight);
        let standing = (tier.nearness(candidate), Rank::of(tier.strategy, &used));
        // Candidates stand in the order of their numbers: only what is strictly better replaces the best.
        if best.is_none_or(|(_, best)| standing < best) {
            best = Some((candidate, standing));
        }
    }
    let (best, _) = best.ok_or(soonest)?;
    match tier.strategy {
        Strategy::Weighted => weighted(tier, usage, draw, weight_total).ok_or(soonest),
        Strategy::LeastUsed | Strategy::RoundRobin | Strategy::LocalPresence => Ok(best.number.clone()),
    }
}

/// The free number on which the draw falls, each as wide as its weight.
fn weighted(tier: &Tier, usage: &impl Fn(&E164) -> NumberUse, draw: u64, total: u64) -> Option<E164> {
    let point = (u128::from(draw) * u128::from(total)) >> 64;
    let mut passed: u128 = 0;
    for candidate in tier.candidates.iter().filter(|c| usage(&c.number).free) {
        passed += u128::from(candidate.weight);
        if point < passed {
            return Some(candidate.number.clone());
        }
    }
    None
}

//! The same choice as [`choose`](super::choose()) makes, without looking at every number for every job: of each list of
//! candidates the order is kept, and what was asked for since is looked at again when its turn comes.
//!
//! A number that is used more falls back in the order at once. One that is used less than was known moves up when
//! the lists are made anew ([`Rankings::clear`]), after each reading of all numbers; so does one that was asked for in vain.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::choose::{NumberUse, Rank, pick_any};
use super::{Candidate, Tier};
use crate::core::phone::E164;
use crate::core::rules::Strategy;
use crate::core::usage::UsageBook;

/// Where candidates stand in a list.
type Place = u32;

/// The orders of all lists in use.
#[derive(Debug, Default)]
pub struct Rankings {
    lists: HashMap<(usize, Strategy), Ranking>,
}

#[derive(Debug)]
struct Ranking {
    /// Held, so that no other list can come to stand at its address.
    candidates: Arc<[Candidate]>,
    free: BinaryHeap<Reverse<(Rank, Place)>>,
    /// Not free, and when that is to be looked at again.
    dated: BinaryHeap<Reverse<(DateTime<Utc>, Place)>>,
    /// Not free, and nobody knows until when: looked at again in the next pass.
    undated: Vec<Place>,
    pass: u64,
}

impl Rankings {
    /// After a reading of all numbers.
    pub fn clear(&mut self) {
        self.lists.clear();
    }

    /// Whether any of the tier's numbers is free; otherwise when the first may be. Where no list is kept of them yet, none
    /// is made for that alone.
    pub fn any_free(&mut self, tier: &Tier, book: &UsageBook) -> Result<(), Option<DateTime<Utc>>> {
        let kept = self.lists.contains_key(&key(tier));
        if !kept && tier.candidates.iter().any(|candidate| book.view(&candidate.number).free) {
            return Ok(());
        }
        self.best(tier, book, 0).map(drop)
    }

    /// The best of the tier's free numbers; otherwise when the first may be free again, as far as is known.
    pub fn best(&mut self, tier: &Tier, book: &UsageBook, draw: u64) -> Result<E164, Option<DateTime<Utc>>> {
        if tier.strategy == Strategy::Weighted {
            // A draw has no order.
            return pick_any(tier, &|number| book.view(number), draw);
        }
        let ranking = self.lists.entry(key(tier)).or_insert_with(|| Ranking::new(&tier.candidates, book));
        ranking.best(tier.strategy, book)
    }
}

fn key(tier: &Tier) -> (usize, Strategy) {
    (tier.candidates.as_ptr() as usize, tier.strategy)
}

impl Ranking {
    /// Everything is to be looked at.
    fn new(candidates: &Arc<[Candidate]>, book: &UsageBook) -> Self {
        let places = 0..Place::try_from(candidates.len()).unwrap_or(Place::MAX);
        Self {
            candidates: Arc::clone(candidates),
            free: BinaryHeap::with_capacity(candidates.len()),
            dated: BinaryHeap::new(),
            undated: places.collect(),
            pass: book.pass().wrapping_sub(1),
        }
    }

    fn best(&mut self, strategy: Strategy, book: &UsageBook) -> Result<E164, Option<DateTime<Utc>>> {
        if self.pass != book.pass() {
            self.pass = book.pass();
            for place in std::mem::take(&mut self.undated) {
                self.sort_in(place, strategy, book);
            }
            while let Some(&Reverse((at, place))) = self.dated.peek()
                && at <= book.upto()
            {
                self.dated.pop();
                self.sort_in(place, strategy, book);
            }
        }
        while let Some(Reverse((stood, place))) = self.free.pop() {
            let Some(candidate) = self.candidates.get(place as usize) else { continue };
            let used = book.view(&candidate.number);
            if used.free && Rank::of(strategy, candidate, &used) == stood {
                let number = candidate.number.clone();
                self.free.push(Reverse((stood, place)));
                return Ok(number);
            }
            self.sort_in(place, strategy, book);
        }
        Err(self.soonest(book))
    }

    fn sort_in(&mut self, place: Place, strategy: Strategy, book: &UsageBook) {
        let Some(candidate) = self.candidates.get(place as usize) else { return };
        let used = book.view(&candidate.number);
        match used {
            NumberUse { free: true, .. } => {
                self.free.push(Reverse((Rank::of(strategy, candidate, &used), place)));
            }
            NumberUse { next_at: Some(at), .. } if at > book.upto() => self.dated.push(Reverse((at, place))),
            _ => self.undated.push(place),
        }
    }

    fn soonest(&self, book: &UsageBook) -> Option<DateTime<Utc>> {
        let date = |place: Place| book.view(&self.candidates.get(place as usize)?.number).next_at;
        let dated = self.dated.peek().map(|Reverse((at, _))| *at);
        self.undated.iter().filter_map(|place| date(*place)).chain(dated).min()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::super::{TierSource, reference};
    use super::*;
    use crate::core::rules::{Limits, Overflow, Strategy};
    use crate::core::usage::Used;

    const NUMBERS: usize = 6;

    fn number(n: usize) -> E164 {
        E164::from_canonical(&format!("+1628666{:04}", 6_000 + n)).unwrap()
    }

    fn tier(strategy: Strategy, nearness: &[u8]) -> Tier {
        let candidates = nearness.iter().enumerate().map(|(n, &nearness)| Candidate {
            number: number(n),
            weight: 1,
            nearness,
        });
        reference::tier(TierSource::Publisher, strategy, Overflow::Wait, candidates.collect())
    }

    fn read(book: &mut UsageBook, now: DateTime<Utc>, used: &[(u32, u32, Option<i64>, bool)]) {
        for (n, &(minute, day, next_ms, concurrent)) in used.iter().enumerate() {
            let limits = Limits {
                per_minute: Some(3),
                per_day: Some(8),
                concurrent: concurrent.then_some(2),
                ..Limits::default()
            };
            let next_at = next_ms.map(|ms| now + TimeDelta::milliseconds(ms));
            let used = Used {
                number: number(n),
                second: 0,
                minute,
                hour: 0,
                day,
                concurrent: day % 3,
                next_at,
                last_call: (day > 0).then(|| now - TimeDelta::seconds(i64::from(day))),
            };
            book.read(used, limits);
        }
    }

    proptest! {
        /// Over passes in which what is asked for is granted, and over readings.
        #[test]
        fn the_best_of_a_ranking_is_the_best_of_all(
            strategy in prop::sample::select(vec![Strategy::LeastUsed, Strategy::RoundRobin, Strategy::LocalPresence]),
            nearness in prop::collection::vec(0u8..4, NUMBERS),
            readings in prop::collection::vec(
                prop::collection::vec((0u32..4, 0u32..9, prop::option::of(0i64..400), any::<bool>()), NUMBERS), 1..3),
            passes in prop::collection::vec((0usize..6, 1i64..120, any::<bool>()), 1..6),
        ) {
            let tier = tier(strategy, &nearness);
            let mut now = DateTime::from_timestamp_millis(1_800_000_000_000).unwrap();
            let (mut book, mut rankings) = (UsageBook::default(), Rankings::default());
            for reading in readings {
                read(&mut book, now, &reading);
                rankings.clear();
                for &(asks, ms, refused) in &passes {
                    now += TimeDelta::milliseconds(ms);
                    book.begin(now, TimeDelta::milliseconds(100));
                    let mut asked = Vec::new();
                    for _ in 0..asks {
                        prop_assert_eq!(rankings.any_free(&tier, &book).is_ok(), pick_any(&tier, &|n| book.view(n), 0).is_ok());
                        let best = rankings.best(&tier, &book, 0);
                        prop_assert_eq!(&best, &pick_any(&tier, &|n| book.view(n), 0));
                        let Ok(best) = best else { break };
                        book.ask(&best);
                        asked.push(best);
                    }
                    for (nth, number) in asked.iter().enumerate() {
                        if refused && nth + 1 == asked.len() {
                            book.refused(number, Some(now + TimeDelta::milliseconds(150)));
                        }
                        book.granted(number, now);
                    }
                }
            }
        }
    }
}

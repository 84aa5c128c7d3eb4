//! The same choice as [`choose`](super::choose()) makes, without looking at every number for every job: of each list of
//! candidates the order is kept, and what was asked for since is looked at again when its turn comes.
//!
//! A number that is used more falls back in the order at once. One that is used less than was known moves up when
//! the lists are made anew ([`Rankings::clear`]), after each reading of all numbers; so does one that was asked for in vain.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustc_hash::FxHashMap;

use super::Tier;
use super::candidates::{Candidates, Ring};
use super::choose::{NumberUse, Rank, pick_any};
use crate::core::phone::E164;
use crate::core::rules::Strategy;
use crate::core::usage::UsageBook;

/// Where candidates stand in a list.
type Spot = u32;

/// The orders of all lists in use. Each list has one for every ring that somebody looks into: those of `local_presence` are
/// small but for the last, which holds all numbers and stands for callees everywhere.
#[derive(Debug, Default)]
pub struct Rankings {
    lists: FxHashMap<(usize, Strategy, Ring), Ranking>,
}

#[derive(Debug)]
struct Ranking {
    /// Held, so that no other list can come to stand at its address.
    candidates: Arc<Candidates>,
    free: BinaryHeap<Reverse<(Rank, Spot)>>,
    full: Full,
    pass: u64,
}

/// Those that are not free.
#[derive(Debug, Default)]
struct Full {
    /// When that is to be looked at again.
    dated: BinaryHeap<Reverse<(DateTime<Utc>, Spot)>>,
    /// Nobody knows until when: looked at again in the next pass.
    undated: Vec<Spot>,
}

impl Full {
    fn add(&mut self, place: Spot, used: &NumberUse, book: &UsageBook) {
        match used.next_at.filter(|at| *at > book.upto()) {
            Some(at) => self.dated.push(Reverse((at, place))),
            None => self.undated.push(place),
        }
    }
}

impl Rankings {
    /// After a reading of all numbers.
    pub fn clear(&mut self) {
        self.lists.clear();
    }

    /// Whether any of the tier's numbers is free; otherwise when the first may be. Where no order is kept of them yet, none
    /// is made for that alone.
    pub fn any_free(&mut self, tier: &Tier, book: &UsageBook) -> Result<(), Option<DateTime<Utc>>> {
        for ring in tier.rings() {
            if let Some(ranking) = self.lists.get_mut(&key(tier, ring)) {
                match ranking.best(tier.strategy, book) {
                    Ok(_) => return Ok(()),
                    Err(next_at) if ring == Ring::Everywhere => return Err(next_at),
                    Err(_) => {}
                }
            }
        }
        if tier.candidates.iter().any(|candidate| book.view(&candidate.number).free) {
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
        let mut soonest = None;
        for ring in tier.rings() {
            let ranking = self.lists.entry(key(tier, ring));
            let ranking = ranking.or_insert_with(|| Ranking::new(&tier.candidates, ring, book));
            match ranking.best(tier.strategy, book) {
                Ok(number) => return Ok(number),
                // The last ring holds all.
                Err(next_at) => soonest = next_at,
            }
        }
        Err(soonest)
    }
}

fn key(tier: &Tier, ring: Ring) -> (usize, Strategy, Ring) {
    (Arc::as_ptr(&tier.candidates) as usize, tier.strategy, ring)
}

impl Ranking {
    /// Everything is to be looked at.
    fn new(candidates: &Arc<Candidates>, ring: Ring, book: &UsageBook) -> Self {
        let undated: Vec<Spot> = candidates.within(ring).collect();
        Self {
            candidates: Arc::clone(candidates),
            free: BinaryHeap::with_capacity(undated.len()),
            full: Full { undated, ..Full::default() },
            pass: book.pass().wrapping_sub(1),
        }
    }

    fn best(&mut self, strategy: Strategy, book: &UsageBook) -> Result<E164, Option<DateTime<Utc>>> {
        if self.pass != book.pass() {
            self.pass = book.pass();
            for place in std::mem::take(&mut self.full.undated) {
                self.sort_in(place, strategy, book);
            }
            while let Some(&Reverse((at, place))) = self.full.dated.peek()
                && at <= book.upto()
            {
                self.full.dated.pop();
                self.sort_in(place, strategy, book);
            }
        }
        while let Some(mut first) = self.free.peek_mut() {
            let Reverse((stood, place)) = *first;
            let known = self.candidates.get(place as usize);
            let used = known.map(|candidate| book.view(&candidate.number)).unwrap_or_default();
            let rank = Rank::of(strategy, &used);
            match known {
                Some(candidate) if used.free && rank == stood => return Ok(candidate.number.clone()),
                Some(_) if used.free => *first = Reverse((rank, place)),
                _ => {
                    PeekMut::pop(first);
                    self.full.add(place, &used, book);
                }
            }
        }
        Err(self.soonest(book))
    }

    fn sort_in(&mut self, place: Spot, strategy: Strategy, book: &UsageBook) {
        let Some(candidate) = self.candidates.get(place as usize) else { return };
        let used = book.view(&candidate.number);
        if used.free {
            self.free.push(Reverse((Rank::of(strategy, &used), place)));
        } else {
            self.full.add(place, &used, book);
        }
    }

    fn soonest(&self, book: &UsageBook) -> Option<DateTime<Utc>> {
        let date = |place: Spot| book.view(&self.candidates.get(place as usize)?.number).next_at;
        let dated = self.full.dated.peek().map(|Reverse((at, _))| *at);
        self.full.undated.iter().filter_map(|place| date(*place)).chain(dated).min()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::super::{Candidate, TierSource, reference};
    use super::*;
    use crate::core::place::{Place, Region};
    use crate::core::rules::{Limits, Overflow, Strategy};
    use crate::core::usage::Used;

    const NUMBERS: usize = 6;

    fn number(n: usize) -> E164 {
        E164::from_canonical(&format!("+1628666{:04}", 6_000 + n)).unwrap()
    }

    fn place(area: Option<&str>, region: &str, country: &str) -> Place {
        let [region, country] = [region, country].map(|text| text.parse::<Region>().unwrap());
        Place {
            area: area.map(|area| area.parse().unwrap()),
            region: Some(region),
            country: Some(country.country()),
        }
    }

    /// A place in Los Angeles, and places that share less and less with it.
    fn at(nearness: u8) -> Place {
        match nearness {
            0 => place(Some("+1213"), "US-CA", "US"),
            1 => place(Some("+1415"), "US-CA", "US"),
            2 => place(Some("+1212"), "US-NY", "US"),
            _ => place(None, "GB", "GB"),
        }
    }

    fn tier(strategy: Strategy, nearness: &[u8]) -> Tier {
        let candidates = nearness.iter().enumerate().map(|(n, &nearness)| Candidate {
            number: number(n),
            weight: 1,
            place: at(nearness),
        });
        reference::tier(TierSource::Publisher, strategy, Overflow::Wait, candidates.collect(), at(0))
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

//! How far each number is used, as one worker believes: a reading of the ledger, plus what it has asked for since.
//! Only a choice rests on it; what is exact is the reservation.

use std::collections::hash_map;

use chrono::{DateTime, TimeDelta, Utc};
use rustc_hash::FxHashMap;

use super::decide::NumberUse;
use super::phone::E164;
use super::rules::Limits;

/// A reading of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub number: E164,
    pub second: u32,
    pub minute: u32,
    pub hour: u32,
    pub day: u32,
    /// Reservations and live calls.
    pub concurrent: u32,
    /// The next slot, by its windows; `None`: none of them is full.
    pub next_at: Option<DateTime<Utc>>,
    pub last_call: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone)]
struct Entry {
    limits: Limits,
    used: Used,
    /// The last call that the reading knew.
    read_to: Option<DateTime<Utc>>,
    /// Asked for in the pass under way.
    asked: u32,
    /// When the last of those counts as made.
    asked_at: Option<DateTime<Utc>>,
    /// The ledger said no without saying until when.
    shut_until: Option<DateTime<Utc>>,
}

/// After a refusal that named no time, a number is left alone for so long.
const SHUT_MS: i64 = 50;

#[derive(Debug, Default)]
pub struct UsageBook {
    /// Looked into several times a job. The numbers are the account's own: nobody makes them collide.
    entries: FxHashMap<E164, Entry>,
    now: DateTime<Utc>,
    horizon: TimeDelta,
    /// Not before any `last_call`.
    latest: Option<DateTime<Utc>>,
    /// Of the pass under way.
    pass: u64,
    /// Those asked for in it.
    asked: Vec<E164>,
}

impl UsageBook {
    /// A new pass begins: what was asked for in the last one has been answered.
    pub fn begin(&mut self, now: DateTime<Utc>, horizon: TimeDelta) {
        self.now = now;
        self.horizon = horizon;
        self.pass += 1;
        for number in self.asked.drain(..) {
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.asked = 0;
                entry.asked_at = None;
            }
        }
    }

    /// Of the pass under way: another one in each.
    pub fn pass(&self) -> u64 {
        self.pass
    }

    /// A number whose next slot is no later may be free.
    pub fn upto(&self) -> DateTime<Utc> {
        self.now + self.horizon
    }

    /// Takes in a reading.
    pub fn read(&mut self, used: Used, limits: Limits) {
        let read_to = used.last_call;
        let fresh = |used| Entry { limits, used, read_to, asked: 0, asked_at: None, shut_until: None };
        let last_call = match self.entries.entry(used.number.clone()) {
            hash_map::Entry::Occupied(mut known) => {
                let before = known.get();
                let last_call = used.last_call.max(before.used.last_call);
                let shut_until = before.shut_until;
                known.insert(Entry { shut_until, ..fresh(Used { last_call, ..used }) });
                last_call
            }
            hash_map::Entry::Vacant(unknown) => unknown.insert(fresh(used)).used.last_call,
        };
        self.latest = self.latest.max(last_call);
    }

    /// Drops what is no longer asked about.
    pub fn retain(&mut self, keep: impl Fn(&E164) -> bool) {
        self.entries.retain(|number, _| keep(number));
    }

    pub fn knows(&self, number: &E164) -> bool {
        self.entries.contains_key(number)
    }

    /// A number that has never been read may be tried: the ledger has the last word.
    pub fn view(&self, number: &E164) -> NumberUse {
        self.entries.get(number).map_or(
            NumberUse { share: 0.0, free: true, next_at: None, last_call: None },
            |e| NumberUse {
                share: e.share(),
                free: e.is_free(self.now, self.upto()),
                next_at: e.next_at(self.now),
                last_call: e.asked_at.or(e.used.last_call),
            },
        )
    }

    /// One more was asked for in this pass.
    pub fn ask(&mut self, number: &E164) {
        let call = self.call_after(self.now);
        if let Some(e) = self.entries.get_mut(number) {
            e.asked += 1;
            e.asked_at = Some(call);
            self.asked.push(number.clone());
        }
    }

    /// Calls of one pass may have one and the same slot: each counts a microsecond later than the one before, so that
    /// numbers which take turns do so in a burst, too.
    fn call_after(&mut self, at: DateTime<Utc>) -> DateTime<Utc> {
        let call = self.latest.map_or(at, |latest| at.max(latest + TimeDelta::microseconds(1)));
        self.latest = Some(call);
        call
    }

    /// The ledger granted a slot.
    pub fn granted(&mut self, number: &E164, slot: DateTime<Utc>) {
        let call = self.call_after(slot);
        if let Some(e) = self.entries.get_mut(number) {
            e.used.second += 1;
            e.used.minute += 1;
            e.used.hour += 1;
            e.used.day += 1;
            e.used.concurrent += 1;
            e.used.last_call = Some(call);
        }
    }

    /// The same, of a slot that the last reading may have been too early for.
    pub fn granted_since(&mut self, number: &E164, slot: DateTime<Utc>) {
        let is_newer = |e: &Entry| e.read_to.is_none_or(|last| last < slot);
        if self.entries.get(number).is_some_and(is_newer) {
            self.granted(number, slot);
        }
    }

    /// The ledger said that the number is at its limit.
    pub fn refused(&mut self, number: &E164, next_at: Option<DateTime<Utc>>) {
        let now = self.now;
        if let Some(e) = self.entries.get_mut(number) {
            match next_at {
                Some(at) => e.used.next_at = e.used.next_at.max(Some(at)),
                None => e.shut_until = Some(now + TimeDelta::milliseconds(SHUT_MS)),
            }
        }
    }

    /// Numbers whose next slot only a new reading can tell: full by this book, and no date known.
    pub fn unclear(&self) -> impl Iterator<Item = &E164> {
        self.entries
            .iter()
            .filter(|(_, e)| e.room() == 0 && e.used.next_at.is_none_or(|at| at <= self.now))
            .map(|(n, _)| n)
    }
}

impl Entry {
    /// (used, limit) of each window, concurrency included.
    fn windows(&self) -> impl Iterator<Item = (u32, u32)> {
        let (l, u) = (&self.limits, &self.used);
        [
            (u.second, l.per_second),
            (u.minute, l.per_minute),
            (u.hour, l.per_hour),
            (u.day, l.per_day),
            (u.concurrent, l.concurrent),
        ]
        .into_iter()
        .filter_map(|(used, limit)| limit.map(|limit| (used, limit)))
    }

    fn share(&self) -> f64 {
        self.windows()
            .map(|(used, limit)| f64::from(used + self.asked) / f64::from(limit.max(1)))
            .fold(0.0, f64::max)
    }

    fn room(&self) -> u32 {
        self.windows().map(|(used, limit)| limit.saturating_sub(used)).min().unwrap_or(u32::MAX)
    }

    fn concurrency_full(&self) -> bool {
        self.limits.concurrent.is_some_and(|limit| self.used.concurrent + self.asked >= limit)
    }

    fn is_free(&self, now: DateTime<Utc>, upto: DateTime<Utc>) -> bool {
        let open = self.shut_until.is_none_or(|at| at <= now);
        let due = self.used.next_at.is_none_or(|at| at <= upto);
        // Counts grow old: a full window whose next slot has come has room for one at least.
        open && due && !self.concurrency_full() && self.asked < self.room().max(1)
    }

    fn next_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.concurrency_full() {
            None
        } else {
            self.used.next_at.filter(|at| *at > now).or(self.shut_until)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    fn number() -> E164 {
        E164::from_canonical("+16286666348").unwrap()
    }

    fn used(second: u32, day: u32, next_at: Option<DateTime<Utc>>) -> Used {
        let last_call = None;
        Used { number: number(), second, minute: day, hour: day, day, concurrent: 0, next_at, last_call }
    }

    fn book(limits: Limits, used: Used) -> UsageBook {
        let mut book = UsageBook::default();
        book.begin(at(0), TimeDelta::milliseconds(100));
        book.read(used, limits);
        book
    }

    #[test]
    fn the_tightest_window_is_the_share() {
        let limits = Limits { per_second: Some(10), per_day: Some(20), ..Limits::default() };
        assert!((book(limits, used(1, 10, None)).view(&number()).share - 0.5).abs() < 1e-9);
    }

    #[test]
    fn asking_uses_up_the_room_of_a_pass() {
        let mut book = book(Limits { per_second: Some(2), ..Limits::default() }, used(0, 0, None));
        book.ask(&number());
        assert!(book.view(&number()).free);
        book.ask(&number());
        assert!(!book.view(&number()).free);
    }

    #[test]
    fn numbers_take_turns_in_a_burst_whatever_their_slots() {
        let numbers =
            ["+16286660001", "+16286660002", "+16286660003"].map(|n| E164::from_canonical(n).unwrap());
        let mut book = UsageBook::default();
        let reading = |n: &E164, last_call| Used { number: n.clone(), last_call, ..used(0, 0, None) };
        numbers.iter().for_each(|n| book.read(reading(n, None), Limits::default()));
        let oldest =
            |book: &UsageBook| numbers.iter().min_by_key(|n| book.view(n).last_call).unwrap().clone();
        let mut order = Vec::new();
        for pass in 0..2 {
            book.begin(at(pass * 10), TimeDelta::zero());
            let asked: Vec<E164> = (0..4)
                .map(|_| {
                    let n = oldest(&book);
                    book.ask(&n);
                    n
                })
                .collect();
            asked.iter().for_each(|n| book.granted(n, at(pass * 10 + 50)));
            // The ledger tells the slots, which are all the same.
            numbers.iter().for_each(|n| book.read(reading(n, Some(at(pass * 10 + 50))), Limits::default()));
            order.extend(asked);
        }
        assert!(order.iter().eq(numbers.iter().cycle().take(8)), "{order:?}");
    }

    #[test]
    fn a_full_number_is_free_again_when_its_slot_is_within_the_horizon() {
        let limits = Limits { per_second: Some(1), ..Limits::default() };
        assert!(!book(limits, used(1, 1, Some(at(500)))).view(&number()).free);
        assert!(book(limits, used(1, 1, Some(at(90)))).view(&number()).free);
    }

    #[test]
    fn what_only_an_ended_call_can_free_has_no_date() {
        let limits = Limits { concurrent: Some(1), ..Limits::default() };
        let busy = Used { concurrent: 1, ..used(0, 0, Some(at(500))) };
        let view = book(limits, busy).view(&number());
        assert!(!view.free);
        assert_eq!(view.next_at, None);
    }
}

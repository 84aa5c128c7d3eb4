//! Limits, judged where calls arrive.
//!
//! A call belongs to its slot: it arrives between the slot and the slack's end, or it is late. Nobody can hold a window
//! against what is late: a process that is stopped between its last check and the write, or a network or a machine that
//! holds a request up. So what is timely must hold every window; what is late must have a cause that the run has noted,
//! of the worker that sent it; and what windows would hold with it is told apart.

use std::collections::BTreeMap;

use super::evidence::{Evidence, Post};
use super::oracle::Verdict;
use super::routes::{Limits, Routes};
use super::tally::Trouble;
use crate::support::machine::Offset;
use crate::support::stage::most_in_window;

/// `limits.slack_ms`. A call that came a moment later, be it by what two clocks of one machine differ in reading, may be one too
/// many in its window: it is looked for what made it late, as any other.
const SLACK_US: i64 = 100_000;

#[derive(Debug)]
pub struct Lateness {
    pub troubles: Vec<Trouble>,
    /// Where each process was at work.
    pub places: BTreeMap<u32, usize>,
    /// Of the database's clock, which dates the slots.
    pub offsets: Vec<Offset>,
}

/// A slot is made at most so long before it; and what two clocks of one machine may differ in reading.
const SLOT_LEAD_US: i64 = 1_000_000;
const EARLY_US: i64 = 5_000;

struct Arrival<'a> {
    post: &'a Post,
    job: Option<&'a str>,
    campaign: Option<&'a str>,
    /// `None`: in time. `Some(None)`: late, and nobody knows why.
    late: Option<Option<&'static str>>,
    /// After its slot.
    late_us: Option<i64>,
}

impl Lateness {
    pub fn judge(&self, found: &Evidence, routes: &Routes, verdict: &mut Verdict) {
        let arrivals: Vec<Arrival> = found.posts.iter().map(|post| self.arrival(found, post)).collect();
        let mut late: BTreeMap<&str, usize> = BTreeMap::new();
        for cause in arrivals.iter().filter_map(|a| a.late) {
            *late.entry(cause.unwrap_or("nothing known")).or_default() += 1;
        }
        let mut by_thing: BTreeMap<(&str, &str), Vec<&Arrival>> = BTreeMap::new();
        for arrival in &arrivals {
            let number = arrival.post.entry.from_phone_number.as_deref().unwrap_or_default();
            by_thing.entry(("account", "default")).or_default().push(arrival);
            by_thing.entry(("number", number)).or_default().push(arrival);
            by_thing.entry(("campaign", arrival.campaign.unwrap_or_default())).or_default().push(arrival);
        }
        let (mut above, mut above_by_late, mut fullest) = (0, 0, 0);
        for ((kind, key), of) in &by_thing {
            let limits = match *kind {
                "account" => Some(routes.account_limits()),
                "number" => Some(routes.number_limits()),
                _ => routes.campaign_limits(key),
            };
            let Some(limits) = limits else { continue };
            let (broken, by_late, full) = judge_one(&limits, of);
            above += broken.len();
            above_by_late += by_late;
            fullest += full;
            for what in broken {
                verdict.breach(of[0].job, format!("{kind} {key}: {what}"));
            }
        }
        verdict.figure("windows and places above a limit", above);
        verdict.figure("windows used to the full", fullest);
        verdict.figure("windows above a limit by what was late", above_by_late);
        verdict.figure("late arrivals", late.values().sum());
        let most = arrivals.iter().filter(|a| a.late.is_some()).filter_map(|a| a.late_us).max();
        verdict.figure("latest arrival after its slot, ms", most.unwrap_or(0) as usize / 1_000);
        for past_ms in [150, 200, 300, 500] {
            let unexplained = arrivals.iter().filter(|a| a.late == Some(None));
            let so_late = unexplained.filter(|a| a.late_us.is_some_and(|us| us > past_ms * 1_000)).count();
            verdict.figure(format!("late arrivals by nothing known, after {past_ms} ms"), so_late);
        }
        for (cause, n) in late {
            verdict.figure(format!("late arrivals by {cause}"), n);
        }
    }

    /// A slot by this machine's clock. Where steps of the database's leave open by which it was dated: the one that has the
    /// call least late, but nobody sends a call before its slot.
    fn slot(&self, dated_us: i64, arrived_us: i64) -> i64 {
        let until = |n: usize| self.offsets.get(n + 1).map_or(i64::MAX, |next| next.from_us);
        let by = |(n, offset): (usize, &Offset)| {
            let slot_us = dated_us - offset.ahead_us;
            let made_then = offset.from_us <= slot_us && slot_us - SLOT_LEAD_US <= until(n);
            (made_then && slot_us <= arrived_us + EARLY_US).then_some(slot_us)
        };
        let then = self.offsets.iter().rfind(|offset| offset.from_us <= arrived_us);
        let as_it_says = dated_us - then.map_or(0, |offset| offset.ahead_us);
        self.offsets.iter().enumerate().filter_map(by).max().unwrap_or(as_it_says)
    }

    fn arrival<'a>(&self, found: &'a Evidence, post: &'a Post) -> Arrival<'a> {
        let attempt = found.attempt_of(post);
        let at_us = post.entry.at_us;
        let slot_us = attempt.map(|a| self.slot(a.slot_us, at_us));
        let late = slot_us.filter(|slot_us| at_us > slot_us + SLACK_US).map(|slot_us| {
            // Its own worker's, or everybody's.
            let place = attempt.and_then(|a| self.places.get(&a.pid?.try_into().ok()?));
            let its = |t: &Trouble| t.of.is_none() || t.of.as_ref() == place;
            let meanwhile = |t: &&Trouble| t.from_us <= at_us && slot_us <= t.to_us && its(t);
            self.troubles.iter().find(meanwhile).map(|trouble| trouble.what)
        });
        Arrival {
            post,
            job: attempt.map(|a| a.job_id.as_str()),
            campaign: attempt.map(|a| a.campaign_id.as_str()),
            late,
            late_us: slot_us.map(|slot_us| at_us - slot_us),
        }
    }
}

/// What is broken; how many windows are above their limit only by what was late; how many were full.
fn judge_one(limits: &Limits, arrivals: &[&Arrival]) -> (Vec<String>, usize, usize) {
    let (mut broken, mut by_late, mut full) = (Vec::new(), 0, 0);
    for &(seconds, calls) in &limits.windows {
        let most = |wanted: &dyn Fn(&Arrival) -> bool| {
            most_in_window(arrivals.iter().filter(|a| wanted(a)).map(|a| a.post.entry.mono_us), seconds)
        };
        let timely = most(&|a| a.late.is_none());
        let unexplained = most(&|a| !matches!(a.late, Some(Some(_))));
        if unexplained > calls {
            let known = |a: &&&Arrival| !matches!(a.late, Some(Some(_)));
            broken.push(format!(
                "{unexplained} calls in {seconds} s, {timely} of those in time, and {calls} may be: {}",
                fullest(&arrivals.iter().copied().filter(|a| known(&a)).collect::<Vec<_>>(), seconds)
            ));
        }
        by_late += usize::from(most(&|_| true) > calls && unexplained <= calls);
        full += usize::from(timely == calls);
    }
    if let Some(calls) = limits.concurrent {
        let at_once = most_at_once(arrivals.iter().filter_map(|a| a.post.call));
        if at_once > calls {
            broken.push(format!("{at_once} calls at once, and {calls} may be"));
        }
        full += usize::from(at_once == calls);
    }
    (broken, by_late, full)
}

/// The window with the most calls in it: when each arrived, and how much later than its slot.
fn fullest(arrivals: &[&Arrival], seconds: u64) -> String {
    let us = seconds * 1_000_000;
    let mut by_time = arrivals.to_vec();
    by_time.sort_unstable_by_key(|a| a.post.entry.mono_us);
    let within = |from: usize| {
        let start = by_time[from].post.entry.mono_us;
        by_time[from..].iter().take_while(move |a| a.post.entry.mono_us < start + us)
    };
    let Some(first) = (0..by_time.len()).max_by_key(|from| within(*from).count()) else {
        return String::new();
    };
    let calls = within(first).map(|a| {
        let late_ms = a.late_us.map_or("?".to_owned(), |us| format!("{:+}", us / 1_000));
        format!("{:.3} s ({late_ms} ms)", a.post.entry.at_us as f64 / 1e6)
    });
    calls.collect::<Vec<_>>().join(", ")
}

/// Of calls (begin, end).
fn most_at_once(calls: impl Iterator<Item = (u64, u64)>) -> usize {
    // At one moment ends come before beginnings.
    let mut steps: Vec<(u64, i32)> = calls.flat_map(|(from, to)| [(from, 1), (to, -1)]).collect();
    steps.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, step) in steps {
        now += step;
        most = most.max(now);
    }
    most as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_dated_by_the_clock_of_its_time() {
        let offsets = vec![
            Offset { from_us: 0, ahead_us: 0 },
            Offset { from_us: 10_000_000, ahead_us: 5_000_000 },
            Offset { from_us: 20_000_000, ahead_us: 0 },
        ];
        let lateness = Lateness { troubles: Vec::new(), places: BTreeMap::new(), offsets };
        assert_eq!(lateness.slot(3_000_000, 3_050_000), 3_000_000);
        assert_eq!(lateness.slot(20_000_000, 15_050_000), 15_000_000);
        // Made before the step, sent after it.
        assert_eq!(lateness.slot(9_990_000, 10_030_000), 9_990_000);
        assert_eq!(lateness.slot(24_990_000, 20_030_000), 19_990_000);
        // The same, held up on its way: by the clock of the time of its arrival its slot has not come yet.
        assert_eq!(lateness.slot(24_990_000, 23_900_000), 19_990_000);
    }

    #[test]
    fn calls_that_touch_are_not_at_once() {
        assert_eq!(most_at_once([(0, 10), (10, 20), (5, 15)].into_iter()), 2);
        assert_eq!(most_at_once([(0, 10), (10, 20)].into_iter()), 1);
    }
}

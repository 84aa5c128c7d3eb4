//! The database's time, as a worker knows it: an offset to its own monotonic clock, and how far that may be wrong.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// One look at the database's clock. Monotonic times are durations since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub asked: Duration,
    pub answered: Duration,
    /// What the database's clock said, at some moment between the two.
    pub said: DateTime<Utc>,
}

/// Clocks of ordinary machines drift apart by less than this; a probe's error grows with it.
const DRIFT_PER_SECOND: Duration = Duration::from_micros(200);
/// Grants need a probe younger than this.
pub const PROBE_AGE_MAX: Duration = Duration::from_secs(3);
/// A probe that took longer than that says little; it still counts, with its error.
const KEEP_PROBES: usize = 8;

/// Less is no step: two clocks that are pulled together by a fraction of a percent differ by so much in a second.
const STEP_MIN: Duration = Duration::from_millis(2);

/// The last probes; the one with the least error counts.
#[derive(Debug, Clone, Default)]
pub struct DbTime {
    probes: Vec<Probe>,
    steps: u64,
}

/// The database's clock went on by something else than the time that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStep {
    /// Ahead, or back.
    pub by: TimeDelta,
    pub error: Duration,
}

impl ClockStep {
    /// The most by which it may have gone ahead; `None`: it went back.
    pub fn ahead(&self) -> Option<Duration> {
        let by = self.by.to_std().ok()?;
        Some(by + self.error)
    }
}

/// What the database's clock shows now, and how far that may be off, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub now: DateTime<Utc>,
    pub error: Duration,
}

impl DbTime {
    /// Takes in a probe. What was known before is void where it proves a step.
    pub fn add(&mut self, probe: Probe) -> Option<ClockStep> {
        let after = Self::estimate(&probe, probe.answered);
        let step = self.read(probe.answered).and_then(|before| {
            let (by, error) = (after.now - before.now, before.error + after.error);
            (by.abs() > delta(error)).then_some(ClockStep { by, error })
        });
        if step.is_some() {
            self.probes.clear();
        }
        let step = step.filter(|step| step.by.abs() >= delta(STEP_MIN));
        self.steps += u64::from(step.is_some());
        self.probes.push(probe);
        if self.probes.len() > KEEP_PROBES {
            self.probes.remove(0);
        }
        step
    }

    /// How many steps have been proven.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the database may have said this at some moment between the two: otherwise its clock has made a step.
    pub fn agrees(&self, asked: Duration, answered: Duration, said: DateTime<Utc>) -> bool {
        let (Some(from), Some(to)) = (self.read(asked), self.read(answered)) else { return true };
        from.now - delta(from.error + STEP_MIN) <= said && said <= to.now + delta(to.error + STEP_MIN)
    }

    /// `None`: no probe yet.
    pub fn read(&self, at: Duration) -> Option<Reading> {
        self.probes.iter().map(|probe| Self::estimate(probe, at)).min_by_key(|reading| reading.error)
    }

    /// Whether a grant may rest on it.
    pub fn is_fresh(&self, at: Duration) -> bool {
        self.probes.last().is_some_and(|probe| at.saturating_sub(probe.answered) <= PROBE_AGE_MAX)
    }

    fn estimate(probe: &Probe, at: Duration) -> Reading {
        let half = probe.answered.saturating_sub(probe.asked) / 2;
        let middle = probe.asked + half;
        let since = at.saturating_sub(middle);
        let drift = DRIFT_PER_SECOND.mul_f64(since.as_secs_f64());
        Reading { now: probe.said + delta(since), error: half + drift }
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn said(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + n).unwrap()
    }

    #[test]
    fn the_shortest_round_trip_counts() {
        let mut time = DbTime::default();
        time.add(Probe { asked: ms(0), answered: ms(100), said: said(1_040) });
        time.add(Probe { asked: ms(200), answered: ms(202), said: said(1_201) });
        let reading = time.read(ms(202)).unwrap();
        assert_eq!(reading.now, said(1_202));
        assert!(reading.error < ms(2));
    }

    #[test]
    fn a_step_voids_what_was_known() {
        let mut time = DbTime::default();
        time.add(Probe { asked: ms(0), answered: ms(2), said: said(1_001) });
        let step = time.add(Probe { asked: ms(1_000), answered: ms(1_010), said: said(7_005) }).unwrap();
        assert_eq!(time.read(ms(1_010)).unwrap().now, said(7_010));
        assert_eq!((step.by, time.steps()), (TimeDelta::milliseconds(5_000), 1));
        assert!(step.ahead().is_some_and(|ahead| ahead > ms(5_000) && ahead < ms(5_010)));
        let back = time.add(Probe { asked: ms(2_000), answered: ms(2_002), said: said(2_001) }).unwrap();
        assert_eq!((back.ahead(), time.steps()), (None, 2));
    }

    #[test]
    fn what_a_slow_answer_may_hide_is_no_step() {
        let mut time = DbTime::default();
        time.add(Probe { asked: ms(0), answered: ms(2), said: said(1) });
        // Said at once, or only at the end of a second: both may be.
        assert_eq!(time.add(Probe { asked: ms(1_000), answered: ms(2_000), said: said(1_000) }), None);
        assert_eq!(time.add(Probe { asked: ms(3_000), answered: ms(4_000), said: said(4_000) }), None);
        assert_eq!(time.steps(), 0);
    }

    #[test]
    fn an_answer_outside_its_time_tells_a_step() {
        let mut time = DbTime::default();
        assert!(time.agrees(ms(0), ms(2), said(99_000)), "nothing is known yet");
        time.add(Probe { asked: ms(0), answered: ms(2), said: said(1) });
        assert!(time.agrees(ms(500), ms(520), said(500)) && time.agrees(ms(500), ms(520), said(520)));
        assert!(!time.agrees(ms(500), ms(520), said(490)) && !time.agrees(ms(500), ms(520), said(530)));
    }

    #[test]
    fn an_old_probe_is_not_fresh() {
        let mut time = DbTime::default();
        assert!(!time.is_fresh(ms(0)));
        time.add(Probe { asked: ms(0), answered: ms(2), said: said(0) });
        assert!(time.is_fresh(ms(2_000)) && !time.is_fresh(ms(3_100)));
    }
}

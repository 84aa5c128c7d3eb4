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

/// The last probes; the one with the least error counts.
#[derive(Debug, Clone, Default)]
pub struct DbTime {
    probes: Vec<Probe>,
}

/// What the database's clock shows now, and how far that may be off, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub now: DateTime<Utc>,
    pub error: Duration,
}

impl DbTime {
    pub fn add(&mut self, probe: Probe) {
        // A step of the database's clock: what it said before is void.
        if self.read(probe.answered).is_some_and(|before| {
            let apart = (Self::estimate(&probe, probe.answered).now - before.now).abs();
            apart > delta(before.error) + delta(Self::estimate(&probe, probe.answered).error)
        }) {
            self.probes.clear();
        }
        self.probes.push(probe);
        if self.probes.len() > KEEP_PROBES {
            self.probes.remove(0);
        }
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
        time.add(Probe { asked: ms(1_000), answered: ms(1_010), said: said(7_005) });
        assert_eq!(time.read(ms(1_010)).unwrap().now, said(7_010));
    }

    #[test]
    fn an_old_probe_is_not_fresh() {
        let mut time = DbTime::default();
        assert!(!time.is_fresh(ms(0)));
        time.add(Probe { asked: ms(0), answered: ms(2), said: said(0) });
        assert!(time.is_fresh(ms(2_000)) && !time.is_fresh(ms(3_100)));
    }
}

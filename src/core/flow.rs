//! How much is sent at once, and how far ahead it is prepared: learned from what was late.
//!
//! A slot lasts only as long as the slack. On a busy machine more calls than it can send in that time would miss theirs,
//! get new ones, and miss those too. So the number of calls between slot and POST is a window that shrinks when slots
//! are missed and grows while they are met, and slots are asked for as far ahead as leave takes to get.

use std::time::Duration;

/// Fewer than this at once is no way to recover.
const WINDOW_MIN: f64 = 16.0;
/// Slots are never asked for further ahead than this.
const LEAD_MAX: Duration = Duration::from_millis(400);
/// What leave is taken to need before any was asked for: the first statements of a connection are planned.
const LEAVE_AT_FIRST: Duration = Duration::from_millis(80);
/// Of the slack, the part that leave may use up: a slot may begin that much before its leave has come. In the other half no call may
/// leave without being looked at closely for when it arrived.
const SLACK_SHARE: u32 = 2;
/// Of a missed slot others of the same burst say nothing new.
const SHRINK_EVERY: Duration = Duration::from_millis(150);

/// Times are durations since the process began.
#[derive(Debug)]
pub struct Flow {
    window: f64,
    window_max: f64,
    slack: Duration,
    leave: Duration,
    shrunk_at: Option<Duration>,
}

impl Flow {
    /// `window_max`: the most that may ever be between slot and POST.
    pub fn new(window_max: usize, slack: Duration) -> Self {
        let window_max = (window_max as f64).max(WINDOW_MIN);
        Self { window: window_max.min(64.0), window_max, slack, leave: LEAVE_AT_FIRST, shrunk_at: None }
    }

    /// How many calls may be between slot and POST.
    pub fn window(&self) -> usize {
        self.window as usize
    }

    /// How far ahead a slot has to be for leave to come in time.
    pub fn lead(&self) -> Duration {
        (self.leave * 3 / 2).saturating_sub(self.slack / SLACK_SHARE).min(LEAD_MAX)
    }

    /// Leave was asked for and came. What took long counts at once, what was fast only slowly.
    pub fn leave_took(&mut self, took: Duration) {
        self.leave = if took > self.leave { took } else { (self.leave * 15 + took) / 16 };
    }

    /// A call was sent in its slot.
    pub fn met(&mut self) {
        self.window = (self.window + 4.0 / self.window).min(self.window_max);
    }

    /// A slot was missed.
    pub fn missed(&mut self, now: Duration) {
        if self.shrunk_at.is_none_or(|at| now >= at + SHRINK_EVERY) {
            self.window = (self.window * 0.6).max(WINDOW_MIN);
            self.shrunk_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_burst_of_missed_slots_shrinks_the_window_once() {
        let mut flow = Flow::new(256, ms(100));
        (0..50).for_each(|i| flow.missed(ms(1_000 + i)));
        assert_eq!(flow.window(), 38);
        (0..50).for_each(|i| flow.missed(ms(2_000 + 200 * i)));
        assert_eq!(flow.window(), 16);
    }

    #[test]
    fn it_grows_to_its_most_while_slots_are_met() {
        let mut flow = Flow::new(256, ms(100));
        flow.missed(ms(0));
        (0..100_000).for_each(|_| flow.met());
        assert_eq!(flow.window(), 256);
    }

    #[test]
    fn slow_leave_counts_at_once_and_is_forgotten_slowly() {
        let mut flow = Flow::new(256, ms(100));
        flow.leave_took(ms(100));
        assert_eq!(flow.lead(), ms(100));
        flow.leave_took(ms(4));
        assert!(flow.lead() > ms(85));
        // What is so fast is within the slack.
        (0..200).for_each(|_| flow.leave_took(ms(4)));
        assert_eq!(flow.lead(), ms(0));
        flow.leave_took(ms(5_000));
        assert_eq!(flow.lead(), ms(400));
    }
}

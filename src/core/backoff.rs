//! How long to wait before the next try: doubling, jittered, bounded.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The wait after one more failure. `fraction` is random, from 0 to 1: the wait is that much of the upper half,
    /// so that many who lost the same server don't come back at once.
    pub fn after_failure(&mut self, fraction: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        doubled.mul_f64(0.5 + fraction.clamp(0.0, 1.0) / 2.0)
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_starts_afresh_after_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 5 * second);
        let waits: Vec<_> = (0..5).map(|_| backoff.after_failure(1.0)).collect();
        assert_eq!(waits, [second, 2 * second, 4 * second, 5 * second, 5 * second]);
        assert_eq!(backoff.after_failure(0.0), 5 * second / 2);
        backoff.succeeded();
        assert_eq!(backoff.after_failure(1.0), second);
        for _ in 0..100 {
            assert!(backoff.after_failure(f64::MAX) <= 5 * second);
        }
    }
}

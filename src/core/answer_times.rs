//! How long a provider takes to answer: at its fastest, and as a rule.
//!
//! What took longer than usual was held up somewhere, be it before the request arrived. What took no longer tells
//! nothing: some providers answer in 200 ms now and in 600 ms then.

use std::time::Duration;

/// One answer's weight in what is usual.
const GAIN: f64 = 1.0 / 32.0;
/// So many times the mean deviation above the mean is still usual; as TCP waits for an acknowledgement.
const SPREADS: f64 = 4.0;
/// No provider is steadier than this, in seconds.
const SPREAD_MIN: f64 = 0.001;

#[derive(Debug, Clone)]
pub struct AnswerTimes {
    fastest: Duration,
    /// Seconds.
    mean: f64,
    /// The mean deviation from it, in seconds.
    spread: f64,
}

impl AnswerTimes {
    pub fn new(first: Duration) -> Self {
        let first_s = first.as_secs_f64();
        Self { fastest: first, mean: first_s, spread: (first_s / 2.0).max(SPREAD_MIN) }
    }

    /// Learns from one answer; forgets slowly, for a provider may become slower.
    pub fn learn(&mut self, took: Duration) {
        self.fastest = took.min(self.fastest + self.fastest / 64);
        // An outlier counts as far as the usual reaches: a few of them don't make the next ones usual.
        let off = took.as_secs_f64().min(self.usual_s()) - self.mean;
        self.mean += GAIN * off;
        self.spread = (self.spread + GAIN * (off.abs() - self.spread)).max(SPREAD_MIN);
    }

    /// A call had arrived this long before its answer came, at the least.
    pub fn fastest(&self) -> Duration {
        self.fastest
    }

    pub fn is_usual(&self, took: Duration) -> bool {
        took.as_secs_f64() <= self.usual_s()
    }

    fn usual_s(&self) -> f64 {
        self.mean + SPREADS * self.spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Of a provider that has answered often, evenly between two times.
    fn between(least: u64, most: u64) -> AnswerTimes {
        let mut times = AnswerTimes::new(ms((least + most) / 2));
        (0..500).for_each(|n| times.learn(ms(least + (n * 37) % (most - least + 1))));
        times
    }

    #[test]
    fn all_answers_of_an_uneven_provider_are_usual() {
        let times = between(200, 600);
        assert!(times.is_usual(ms(600)) && !times.is_usual(ms(1_000)));
        assert!((ms(200)..ms(240)).contains(&times.fastest()), "{:?}", times.fastest());
    }

    #[test]
    fn an_even_provider_shows_what_was_held_up() {
        let mut times = between(1, 5);
        assert!(times.is_usual(ms(5)) && !times.is_usual(ms(50)));
        (0..5).for_each(|_| times.learn(ms(300)));
        assert!(!times.is_usual(ms(50)), "a few slow ones make no rule");
    }

    #[test]
    fn a_provider_that_becomes_slower_is_believed() {
        let mut times = between(1, 5);
        (0..300).for_each(|_| times.learn(ms(300)));
        assert!(times.is_usual(ms(300)) && !times.is_usual(ms(900)));
        assert!(times.fastest() > ms(50));
    }
}

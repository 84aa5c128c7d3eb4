//! The second fence before a POST: per process and number, n calls in a window with a burst of n. The ledger's slots are
//! exact, so it never trips; if it does, the ledger is wrong, nothing is sent, and somebody is told.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::core::phone::E164;
use crate::core::rules::Limits;

/// With more numbers than this, those that have been idle for their windows are forgotten.
const NUMBERS_MAX: usize = 20_000;

#[derive(Debug, Default)]
pub struct Fence {
    numbers: Mutex<HashMap<E164, Entry>>,
}

#[derive(Debug)]
struct Entry {
    limits: Limits,
    /// Calls that were let through and not sent: so many may go without being counted again.
    credit: u32,
    windows: Vec<DefaultDirectRateLimiter>,
}

impl Fence {
    /// Whether one more call from the number may go now; counts it if so.
    pub fn admits(&self, number: &E164, limits: Limits) -> bool {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.len() > NUMBERS_MAX {
            numbers.retain(|_, entry| !entry.is_idle());
        }
        let entry = numbers.entry(number.clone()).or_insert_with(|| Entry::new(limits));
        if entry.limits != limits {
            *entry = Entry::new(limits);
        }
        // Every window counts the call, even when another refuses it: a fence may err on that side only.
        if entry.credit > 0 {
            entry.credit -= 1;
            return true;
        }
        let refusals = entry.windows.iter().filter(|window| window.check().is_err()).count();
        refusals == 0
    }

    /// A call that was let through wasn't sent; the ledger gives its slot to another.
    pub fn take_back(&self, number: &E164) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = numbers.get_mut(number) {
            entry.credit += 1;
        }
    }
}

impl Entry {
    fn new(limits: Limits) -> Self {
        let window = |(calls, seconds): (u32, u32)| {
            let calls = NonZeroU32::new(calls)?;
            let each = Duration::from_secs(u64::from(seconds)) / calls.get();
            Some(RateLimiter::direct(Quota::with_period(each)?.allow_burst(calls)))
        };
        Self { limits, credit: 0, windows: limits.windows().filter_map(window).collect() }
    }

    fn is_idle(&self) -> bool {
        let windows = self.limits.windows();
        self.windows.iter().zip(windows).all(|(window, (calls, _))| {
            NonZeroU32::new(calls).is_some_and(|n| matches!(window.check_n(n), Ok(Ok(()))))
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_full_burst_passes_and_one_more_does_not() {
        let fence = Fence::default();
        let number = E164::from_canonical("+16286666348").unwrap();
        let limits = Limits { per_second: Some(100), per_day: Some(5), ..Limits::default() };
        assert!((0..5).all(|_| fence.admits(&number, limits)));
        assert!(!fence.admits(&number, limits));
    }

    #[test]
    fn what_was_not_sent_is_given_back() {
        let fence = Fence::default();
        let number = E164::from_canonical("+16286666348").unwrap();
        let limits = Limits { per_day: Some(2), ..Limits::default() };
        for _ in 0..20 {
            assert!(fence.admits(&number, limits));
            fence.take_back(&number);
        }
        assert!(fence.admits(&number, limits) && fence.admits(&number, limits));
        assert!(!fence.admits(&number, limits));
    }

    #[test]
    fn another_number_is_not_held_up() {
        let fence = Fence::default();
        let one = E164::from_canonical("+16286666348").unwrap();
        let other = E164::from_canonical("+16286666349").unwrap();
        let limits = Limits { per_day: Some(1), ..Limits::default() };
        assert!(fence.admits(&one, limits) && !fence.admits(&one, limits) && fence.admits(&other, limits));
    }
}

//! Connections that take longer to open than a slot lasts.
//!
//! A call whose connection isn't ready in its slot is not sent, and would not be in the next slot either. So each call
//! that was too late opens one connection for the next: as many as there was need of. A provider that can't be reached
//! in any slot, however often that is done, counts as unreachable.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::Caller;
use crate::clock;
use crate::core::ids::AccountName;

/// Connections that are opened at once, as many as are kept.
const OPENING_MAX: usize = 64;
/// A connection that takes longer to open is given up.
const OPENING: Duration = Duration::from_secs(6);
/// Nothing but slots missed for so long: no connection to this provider is ever ready in time.
const HOPELESS: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Warmth {
    opening: Semaphore,
    /// Accounts with which nothing has been sent since.
    missing: Mutex<HashMap<AccountName, Instant>>,
}

impl Warmth {
    pub(super) fn new() -> Self {
        Self { opening: Semaphore::new(OPENING_MAX), missing: Mutex::default() }
    }

    pub(super) fn sent(&self, account: &AccountName) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(account);
    }

    /// A call was too late: opens a connection for the next. False: that has been of no use for long.
    pub(super) async fn missed<C: Caller>(&self, account: &AccountName, caller: &C) -> bool {
        match self.opening.try_acquire() {
            Ok(_permit) => drop(timeout(OPENING, caller.warm(account)).await),
            // One of those that are being opened will do.
            Err(_) => drop(timeout(OPENING, self.opening.acquire()).await),
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::monotonic();
        *missing.entry(account.clone()).or_insert(now) + HOPELESS > now
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::core::call::PlaceCall;
    use crate::engine::place::Posted;

    /// Opens connections, in a second each.
    #[derive(Default)]
    struct Far {
        opened: AtomicUsize,
    }

    impl Caller for Far {
        async fn warm(&self, _: &AccountName) {
            self.opened.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }

        async fn place(&self, _: &AccountName, _: &PlaceCall, _: Instant) -> Posted {
            unreachable!("nothing is placed here")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_are_opened_as_were_missing_up_to_what_is_kept() {
        let (warmth, far, account) = (Warmth::new(), Far::default(), AccountName::default_account());
        let began = clock::monotonic();
        futures_util::future::join_all((0..50).map(|_| warmth.missed(&account, &far))).await;
        assert_eq!((far.opened.load(Ordering::Relaxed), began.elapsed().as_secs()), (50, 1));
        futures_util::future::join_all((0..200).map(|_| warmth.missed(&account, &far))).await;
        assert_eq!((far.opened.load(Ordering::Relaxed), began.elapsed().as_secs()), (50 + OPENING_MAX, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_helps_is_given_up_until_something_is_sent() {
        let (warmth, far, account) = (Warmth::new(), Far::default(), AccountName::default_account());
        let first = clock::monotonic();
        while warmth.missed(&account, &far).await {}
        assert_eq!(first.elapsed().as_secs(), 16, "15 s after the first had been opened");
        assert!(!warmth.missed(&account, &far).await);
        warmth.sent(&account);
        assert!(warmth.missed(&account, &far).await);
    }
}

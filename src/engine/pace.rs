//! Politeness: so many requests a second to one account of the provider, however many there are to make.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// After a pause, so many at once.
pub const LOOKS_BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// A pace that all who hold it keep together.
#[derive(Debug)]
pub struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>,
    clock: TokioClock,
}

impl Pace {
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let clock = TokioClock { start: clock::monotonic() };
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), clock }
    }

    /// With [`LOOKS_BURST`].
    pub fn of_looks(per_second: NonZeroU32) -> Self {
        Self::new(per_second, LOOKS_BURST)
    }

    /// Waits for a turn; false: canceled before it came.
    pub async fn turn(&self, cancel: &CancellationToken) -> bool {
        loop {
            let Err(not_until) = self.limiter.check() else { return !cancel.is_cancelled() };
            let wait = not_until.wait_time_from(self.clock.now()).max(Duration::from_millis(1));
            if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return false;
            }
        }
    }
}

/// Tokio's clock, so that a paused one pauses the pace as well.
#[derive(Debug, Clone)]
struct TokioClock {
    start: Instant,
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(clock::monotonic().duration_since(self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_at_once_then_the_rate() {
        let pace = Pace::of_looks(const { NonZeroU32::new(2).unwrap() });
        let cancel = CancellationToken::new();
        let start = clock::monotonic();
        for _ in 0..LOOKS_BURST.get() {
            assert!(pace.turn(&cancel).await);
        }
        assert_eq!(clock::monotonic(), start);
        for _ in 0..10 {
            assert!(pace.turn(&cancel).await);
        }
        let took = clock::monotonic() - start;
        assert!(took >= Duration::from_millis(4990) && took < Duration::from_millis(5100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_canceled_turn_never_comes() {
        let pace = Pace::new(NonZeroU32::MIN, NonZeroU32::MIN);
        let cancel = CancellationToken::new();
        assert!(pace.turn(&cancel).await);
        cancel.cancel();
        assert!(!pace.turn(&cancel).await);
    }
}

//! Two times: the real one, in which requests arrive, and the calls' own, which may run faster.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock;

/// Both run from the sandbox's start. The wall clock is read once, so that a step of it can't bend the ledger.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    start_wall_us: i64,
    /// Where the present scale began: real and call time.
    since_us: u64,
    since_call_ms: f64,
    scale: f64,
}

impl Timeline {
    pub fn start(scale: f64) -> Self {
        Self {
            start: clock::monotonic(),
            start_wall_us: clock::wall().timestamp_micros(),
            since_us: 0,
            since_call_ms: 0.0,
            scale,
        }
    }

    /// As if it had run on since `start_wall_us` (microseconds since 1970), and at least for `past_us`.
    pub fn resume(scale: f64, start_wall_us: i64, past_us: u64) -> Self {
        let now = Self::start(scale);
        let since_us = now.start_wall_us.saturating_sub(start_wall_us).max(0) as u64;
        let ago = Duration::from_micros(since_us.max(past_us));
        Self { start: now.start.checked_sub(ago).unwrap_or(now.start), start_wall_us, ..now }
    }

    pub fn origin(&self) -> Instant {
        self.start
    }

    /// Real microseconds since the start.
    pub fn now_us(&self) -> u64 {
        micros_since(self.start)
    }

    /// Microseconds since 1970 of a real moment.
    pub fn wall_us(&self, at_us: u64) -> i64 {
        self.start_wall_us.saturating_add_unsigned(at_us)
    }

    /// The moment it all began, which no other run shares.
    pub fn start_wall_us(&self) -> i64 {
        self.start_wall_us
    }

    /// When a moment of it is on the runtime's clock.
    pub fn instant(&self, at_us: u64) -> Instant {
        self.start + Duration::from_micros(at_us)
    }

    /// The calls' own time at a real moment, in milliseconds.
    pub fn call_ms(&self, at_us: u64) -> f64 {
        self.since_call_ms + (at_us as f64 - self.since_us as f64) / 1000.0 * self.scale
    }

    /// The real moment of a moment of the calls' own time, since the present scale began.
    pub fn real_us(&self, call_ms: f64) -> u64 {
        self.since_us.saturating_add(((call_ms - self.since_call_ms) / self.scale * 1000.0) as u64)
    }

    /// How long `call_ms` of the calls' own time last in real time.
    pub fn real(&self, call_ms: f64) -> Duration {
        Duration::from_secs_f64((call_ms.max(0.0) / 1000.0 / self.scale).min(1e9))
    }

    pub fn rescale(&mut self, scale: f64) {
        let now_us = self.now_us();
        self.since_call_ms = self.call_ms(now_us);
        self.since_us = now_us;
        self.scale = scale;
    }
}

pub fn micros_since(start: Instant) -> u64 {
    clock::monotonic().saturating_duration_since(start).as_micros() as u64
}

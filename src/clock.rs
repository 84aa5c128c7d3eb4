//! The one place that reads a clock.
//!
//! Decisions take time as an argument; deadlines are judged on the monotonic clock; dates are the database's.
//! Under a paused tokio runtime `monotonic` stands still with it, so tests move time forward by hand.

use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};

/// Monotonic time, for time-outs and deadlines.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn monotonic() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// This machine's wall clock: for log lines, file names and the figure of how far it is off, never for a limit, a window or a deadline.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// Time since the first call in this process, also while this machine was asleep: what it slept through is no step of
/// another machine's clock.
pub fn uptime() -> Duration {
    static START: OnceLock<(tokio::time::Instant, Duration)> = OnceLock::new();
    let (start, asleep) = *START.get_or_init(|| (monotonic(), slept()));
    monotonic().saturating_duration_since(start) + slept().saturating_sub(asleep)
}

/// How long this machine has slept since it was started.
#[cfg(target_os = "linux")]
fn slept() -> Duration {
    let read = |id| Duration::try_from(clock_gettime(id)).unwrap_or_default();
    // What passes between the two readings shortens it: of several the longest is the least wrong.
    let slept = || {
        let boot = read(ClockId::Boottime);
        boot.saturating_sub(read(ClockId::Monotonic))
    };
    slept().max(slept()).max(slept())
}

#[cfg(not(target_os = "linux"))]
fn slept() -> Duration {
    Duration::ZERO
}

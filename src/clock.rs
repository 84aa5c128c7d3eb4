//! The one place that reads a clock.
//!
//! Decisions take time as an argument; deadlines are judged on the monotonic clock; dates are the database's.
//! Under a paused tokio runtime `monotonic` stands still with it, so tests move time forward by hand.

use chrono::{DateTime, Utc};

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

/// Monotonic time since the first call in this process.
pub fn uptime() -> std::time::Duration {
    static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(monotonic);
    monotonic().saturating_duration_since(start)
}

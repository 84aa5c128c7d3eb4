//! Tests against a real PostgreSQL, a real RabbitMQ and the real binary: one file a theme, `support` for what they share.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where its ground gives way"
)]

mod commands;
mod ends;
mod intake;
mod pool;
mod provider_side;
mod main_job;
mod publishing;
mod reading;
mod refusals;
mod routing;
mod seeded;
mod servers;
mod support;

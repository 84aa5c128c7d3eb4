//! Tests against a real PostgreSQL, a real RabbitMQ and the real binary: one file a theme, `support` for what they share.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where its ground gives way"
)]

mod answers;
mod api;
mod browser;
mod callees;
mod chaos;
mod clock;
mod commands;
mod controls;
mod crash;
mod dashboards;
mod demo;
mod deployed;
mod described;
mod ends;
mod fairness;
mod far;
mod intake;
mod limits;
mod main_job;
mod metrics;
mod page;
mod pool;
mod pooler;
mod pools_live;
mod privileges;
mod provider_death;
mod provider_side;
mod publishers;
mod publishing;
mod reading;
mod reconcile;
mod refusals;
mod retention;
mod rolling;
mod routes;
mod routing;
mod seeded;
mod servers;
mod slots;
mod starting;
mod steps;
mod stops;
mod support;
#[cfg(feature = "otlp")]
mod traces;
mod webhooks;

//! outdial: call jobs from RabbitMQ, a caller ID by rules in PostgreSQL, calls placed at Synthflow.
//!
//! Rooms and who may import whom: see ARCHITECTURE.md; `tests/layers.rs` holds the rules.

pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod engine;
pub mod failpoint;
pub mod http;
pub mod local;
pub mod store;
pub mod synthflow;
pub mod telemetry;

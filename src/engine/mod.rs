//! The stages that a job goes through, over traits: no lapin, sqlx, reqwest or axum here.

pub mod batch;
pub mod health;
pub mod intake;
pub mod ledger;
pub mod ports;

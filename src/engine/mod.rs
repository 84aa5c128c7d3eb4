//! The stages that a job goes through, over traits: no lapin, sqlx, reqwest or axum here.

pub mod accounts;
pub mod batch;
pub mod dispatch;
pub mod duty;
pub mod ends;
pub mod explained;
pub mod fence;
pub mod health;
pub mod hints;
pub mod intake;
pub mod ledger;
pub mod outbox;
pub mod pace;
pub mod place;
pub mod pool;
pub mod ports;
pub mod provider;
pub mod reconcile;
mod round;
pub mod sending;
pub mod tenure;
pub mod upkeep;
pub mod world;

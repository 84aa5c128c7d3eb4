//! Pure decisions: no tokio, sqlx, lapin, reqwest or axum; no clock and no randomness (they are arguments).

pub mod answer_times;
pub mod backoff;
pub mod call;
pub mod dbtime;
pub mod decide;
pub mod ending;
pub mod ends;
pub mod events;
pub mod fair;
pub mod flow;
pub mod ids;
pub mod job;
pub mod ledger;
pub mod outcome;
pub mod phone;
pub mod pick;
pub mod place;
pub mod pool;
pub mod reconcile;
pub mod rules;
pub mod slots;
pub mod states;
pub mod text;
pub mod usage;
pub mod webhook;
pub mod windows;
mod zones;

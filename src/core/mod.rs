//! Pure decisions: no tokio, sqlx, lapin, reqwest or axum; no clock and no randomness (they are arguments).

pub mod ids;
pub mod phone;
pub mod states;

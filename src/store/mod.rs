//! The only room with SQL. What is asked often is a function of the ledger (`migrations/`); here it gets types.

mod accounts;
mod checks;
mod connect;
mod dispatch;
mod duties;
mod ends;
pub mod forget;
mod intake;
mod ledger;
mod outbox;
pub mod pages;
mod place;
mod pool;
pub mod reconcile;
pub mod reporting;
mod retention;
mod roles;
pub mod routing;
mod schema;
pub mod stops;
pub mod suppressions;
pub mod throwaway;
mod upkeep;
mod world;

pub use accounts::{ConfiguredAccount, ensure_accounts};
pub use checks::{
    AgentNumbers, PausedAccount, ServerFacts, Standing, agents, limits_lost, newer_steps, read_clock,
    server_facts, standing,
};
pub use connect::{
    ConnectError, Connections, PATIENCE_AT_START, PATIENCE_OF_COMMANDS, Purpose, connect, error_text,
};
pub use ledger::Ledger;
pub use pool::{AgentRow, NumberRow, Pools, agent, agent_unavailable, rules_in_use, want_agent};
pub use roles::missing_grants;
pub use schema::{SchemaStatus, migrate, schema_digest, schema_status};
/// The database's own error, for rooms that don't know the driver.
pub use sqlx::Error as DatabaseError;
/// Connections to the database.
pub use sqlx::PgPool as Pool;

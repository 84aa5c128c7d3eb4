//! Databases that live for minutes: the demo's, on a server that belongs to somebody else.

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Executor};

use super::connect::{ConnectError, PATIENCE_OF_COMMANDS, Purpose, connect};

#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the database: {}", super::error_text(.0))]
    Refused(#[from] sqlx::Error),
}

/// Makes an empty database, over a connection to another one of the same server. `name`: of `[a-z0-9_]`.
///
/// # Errors
/// No connection, or the user may not make databases.
pub async fn create(admin_url: &SecretString, name: &str) -> Result<(), ThrowawayError> {
    run(admin_url, "CREATE DATABASE", name, "").await
}

/// Removes it, cutting whoever is still connected.
///
/// # Errors
/// As for [`create`].
pub async fn drop(admin_url: &SecretString, name: &str) -> Result<(), ThrowawayError> {
    run(admin_url, "DROP DATABASE IF EXISTS", name, " WITH (FORCE)").await
}

async fn run(admin_url: &SecretString, verb: &str, name: &str, rest: &str) -> Result<(), ThrowawayError> {
    let pool = connect(admin_url, Purpose::Command, 1, PATIENCE_OF_COMMANDS).await?;
    let quoted = name.replace('"', "\"\"");
    // No parameter can stand for a name, so it is quoted here.
    let done = pool.execute(AssertSqlSafe(format!("{verb} \"{quoted}\"{rest}"))).await;
    pool.close().await;
    done?;
    Ok(())
}

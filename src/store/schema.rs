//! The database's schema: applied by `outdial migrate` only. Steps are never edited once released; each is such
//! that workers of the version before can run beside it (expand, then contract).

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{PgPool, Row, SqlStr};

use super::ledger::ledger_error;
use crate::engine::ledger::LedgerError;

/// Every step, in order. A test holds this list and the folder equal.
const STEPS: &[(i64, &str, &str)] = &[
    (1, "ledger", include_str!("../../migrations/0001_ledger.sql")),
    (2, "reporting", include_str!("../../migrations/0002_reporting.sql")),
    (3, "ledger_steps", include_str!("../../migrations/0003_ledger_steps.sql")),
    (4, "stops", include_str!("../../migrations/0004_stops.sql")),
    (5, "evidence", include_str!("../../migrations/0005_evidence.sql")),
    (6, "reconcile", include_str!("../../migrations/0006_reconcile.sql")),
    (7, "callees", include_str!("../../migrations/0007_callees.sql")),
    (8, "plans", include_str!("../../migrations/0008_plans.sql")),
    (9, "retention", include_str!("../../migrations/0009_retention.sql")),
];

/// In a schema of ours, so that a database shared with another program's migrations stays unconfused.
const TABLE: &str = "outdial.schema_steps";

fn migrator() -> Migrator {
    let step = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        let name = Cow::Borrowed(name);
        Migration::new(version, name, MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    let mut migrator = Migrator::with_migrations(STEPS.iter().map(step).collect());
    migrator.create_schema("outdial");
    migrator.dangerous_set_table_name(TABLE);
    // A newer program was here: its schema still fits this one.
    migrator.set_ignore_missing(true);
    migrator
}

/// Applies what is missing; returns the steps it applied, by name. Two at once wait for each other.
///
/// # Errors
/// [`MigrateError`]; the step that failed leaves nothing behind.
pub async fn migrate(pool: &PgPool) -> Result<Vec<String>, MigrateError> {
    let before = applied(pool).await?;
    migrator().run(pool).await?;
    let new = STEPS.iter().filter(|(version, ..)| !before.contains(version));
    Ok(new.map(|(version, name, _)| format!("{version:04} {name}")).collect())
}

/// Tells this set of steps from any other: for template databases.
pub fn schema_digest() -> String {
    let mut all = Sha256::new();
    STEPS.iter().for_each(|(_, _, sql)| all.update(sql));
    hex::encode(&all.finalize()[..8])
}

/// How the database's schema stands to this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaStatus {
    /// What this program needs is there, perhaps more.
    Current,
    /// `outdial migrate` has something to do.
    Behind { missing: Vec<String> },
}

/// # Errors
/// The database's.
pub async fn schema_status(pool: &PgPool) -> Result<SchemaStatus, LedgerError> {
    let applied = applied(pool).await.map_err(ledger_error)?;
    let missing: Vec<String> = STEPS
        .iter()
        .filter(|(version, ..)| !applied.contains(version))
        .map(|(version, name, _)| format!("{version:04} {name}"))
        .collect();
    Ok(if missing.is_empty() { SchemaStatus::Current } else { SchemaStatus::Behind { missing } })
}

async fn applied(pool: &PgPool) -> Result<Vec<i64>, sqlx::Error> {
    let there: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(TABLE).fetch_one(pool).await?;
    if !there {
        return Ok(Vec::new());
    }
    let rows = sqlx::query("select version from outdial.schema_steps where success").fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn the_list_of_steps_is_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".sql"))
            .collect();
        files.sort();
        let listed: Vec<String> =
            STEPS.iter().map(|(version, name, _)| format!("{version:04}_{name}.sql")).collect();
        assert_eq!(files, listed, "add the file to STEPS");
    }
}

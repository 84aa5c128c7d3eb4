//! Ranges of records: made ahead, and dropped when they have been kept long enough.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::ledger::{Ledger, interval, ledger_error};
use crate::core::ids::JobNo;
use crate::engine::ledger::LedgerError;
use crate::engine::upkeep::retention::{Dropping, JobRange, RetentionLedger};

/// Makes room for so many jobs beyond the last number that was drawn, and a whole range more; gives how many ranges it made.
pub(super) async fn make_partitions(pool: &PgPool, jobs: usize) -> Result<u32, LedgerError> {
    let made: i32 = sqlx::query_scalar("select outdial.make_room($1)")
        .bind(i64::try_from(jobs).unwrap_or_default())
        .fetch_one(pool)
        .await
        .map_err(ledger_error)?;
    Ok(made.unsigned_abs())
}

impl RetentionLedger for Ledger {
    async fn make_partitions(&self) -> Result<u32, LedgerError> {
        make_partitions(&self.on.rest, 0).await
    }

    async fn note_ended(&self, limit: u32) -> Result<bool, LedgerError> {
        sqlx::query_scalar("select outdial.note_ended($1)")
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)
    }

    async fn drop_records(&self, kept: Duration) -> Result<Dropping, LedgerError> {
        let query =
            "select first_no, end_no, outcome = 'dropped' from outdial.drop_records(outdial.kept_since($1))";
        let row = sqlx::query(query)
            .bind(interval(kept))
            .fetch_optional(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(match row {
            None => Dropping::Nothing,
            Some(row) if row.get(2) => Dropping::Dropped(range(&row)),
            Some(row) => Dropping::Held(range(&row)),
        })
    }

    async fn forget_records(
        &self,
        kept: Duration,
        after: JobNo,
        limit: u32,
    ) -> Result<(Option<JobNo>, u32), LedgerError> {
        let query = "select upto, forgotten from outdial.forget_records(outdial.kept_since($1), $2, $3)";
        let (upto, forgotten): (Option<i64>, i32) = sqlx::query_as(query)
            .bind(interval(kept))
            .bind(after.0)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok((upto.map(JobNo), forgotten.unsigned_abs()))
    }

    async fn old_keys(&self, kept: Duration) -> Result<Vec<JobRange>, LedgerError> {
        let rows = sqlx::query("select first_no, end_no from outdial.old_keys(outdial.kept_since($1))")
            .bind(interval(kept))
            .fetch_all(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(rows.iter().map(range).collect())
    }

    async fn drop_keys(
        &self,
        ranges: &[JobRange],
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Option<Uuid>, LedgerError> {
        sqlx::query_scalar("select upto from outdial.drop_keys($1, $2, $3)")
            .bind(ranges.iter().map(|range| range.first).collect::<Vec<_>>())
            .bind(after)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)
    }
}

fn range(row: &PgRow) -> JobRange {
    JobRange { first: row.get(0), end: row.get(1) }
}

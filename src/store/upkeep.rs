//! What time brings: dates that come, jobs that expire, workers that die, logs that grow old.

use std::time::Duration;

use sqlx::Row;

use super::ledger::{Ledger, interval, ledger_error};
use crate::core::ids::JobNo;
use crate::engine::ledger::{LedgerError, UpkeepLedger};

/// Of each thing's log, at most so many grants go at a time.
const PRUNE_EACH: i32 = 2_000;

impl UpkeepLedger for Ledger {
    async fn wake(&self, limit: u32) -> Result<u32, LedgerError> {
        self.count("select outdial.wake($1)", limit).await
    }

    async fn expire(&self, limit: u32) -> Result<u32, LedgerError> {
        let expired: i32 = sqlx::query_scalar("select outdial.expire($1, $2)")
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(self.events())
            .fetch_one(&self.pool)
            .await
            .map_err(ledger_error)?;
        Ok(expired.unsigned_abs())
    }

    async fn rejudge(&self, limit: u32) -> Result<u32, LedgerError> {
        self.count("select outdial.rejudge($1)", limit).await
    }

    async fn relabel(&self, after: JobNo, limit: u32) -> Result<(Option<JobNo>, u32), LedgerError> {
        let row = sqlx::query("select upto, written from outdial.relabel($1, $2, $3)")
            .bind(after.0)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(self.events())
            .fetch_one(&self.pool)
            .await
            .map_err(ledger_error)?;
        Ok((row.get::<Option<i64>, _>(0).map(JobNo), row.get::<i32, _>(1).unsigned_abs()))
    }

    async fn take_over(&self, lease: Duration) -> Result<(u32, u32), LedgerError> {
        let row = sqlx::query(
            "select coalesce(sum(released), 0)::int, coalesce(sum(unknown), 0)::int from outdial.take_over($1, $2)",
        )
        .bind(interval(lease))
        .bind(self.events())
        .fetch_one(&self.pool)
        .await
        .map_err(ledger_error)?;
        Ok((row.get::<i32, _>(0).unsigned_abs(), row.get::<i32, _>(1).unsigned_abs()))
    }

    async fn prune(&self) -> Result<u32, LedgerError> {
        self.count("select outdial.prune_grants($1)", PRUNE_EACH.unsigned_abs()).await
    }

    async fn on_duty(&self, name: &str, lease: Duration) -> Result<bool, LedgerError> {
        let held = sqlx::query(
            "insert into outdial.duties (name, worker_no, until) values ($1, $2, clock_timestamp() + $3)
             on conflict (name) do update set worker_no = excluded.worker_no, until = excluded.until
             where duties.worker_no = excluded.worker_no or duties.until < clock_timestamp()",
        )
        .bind(name)
        .bind(self.worker_no())
        .bind(interval(lease))
        .execute(&self.pool)
        .await
        .map_err(ledger_error)?;
        Ok(held.rows_affected() == 1)
    }
}

impl Ledger {
    async fn count(&self, statement: &'static str, limit: u32) -> Result<u32, LedgerError> {
        let count: i32 = sqlx::query_scalar(statement)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(&self.pool)
            .await
            .map_err(ledger_error)?;
        Ok(count.unsigned_abs())
    }
}

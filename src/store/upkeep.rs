//! What time brings: dates that come, jobs that expire, workers that die, logs that grow old.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::ledger::{Ledger, interval, ledger_error};
use crate::core::ids::JobNo;
use crate::core::states::Reason;
use crate::engine::ledger::{LedgerError, UpkeepLedger};
use crate::failpoint::{self, Point};

/// Things whose logs are looked at in one statement, and grants that go in it at the most.
const PRUNE_THINGS: i32 = 500;
const PRUNE_GRANTS: i32 = 20_000;

impl UpkeepLedger for Ledger {
    async fn wake(&self, limit: u32) -> Result<u32, LedgerError> {
        self.count("select outdial.wake($1)", limit).await
    }

    async fn expire(&self, limit: u32) -> Result<u32, LedgerError> {
        let expired: i32 = sqlx::query_scalar("select outdial.expire($1, $2)")
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(self.events())
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(expired.unsigned_abs())
    }

    async fn rejudge(&self, after: JobNo, limit: u32) -> Result<(Option<JobNo>, u32), LedgerError> {
        let row = sqlx::query("select upto, ready from outdial.rejudge($1, $2)")
            .bind(after.0)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(walked(&row))
    }

    async fn relabel(&self, after: JobNo, limit: u32) -> Result<(Option<JobNo>, u32), LedgerError> {
        let row = sqlx::query("select upto, written from outdial.relabel($1, $2, $3)")
            .bind(after.0)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(self.events())
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(walked(&row))
    }

    async fn take_over(&self, lease: Duration) -> Result<(u32, u32), LedgerError> {
        failpoint::at(Point::BeforeTakeOver).await?;
        let row = sqlx::query("select released, unknown from outdial.take_over($1, $2)")
            .bind(interval(lease))
            .bind(self.events())
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        failpoint::at(Point::AfterTakeOver).await?;
        Ok((row.get::<i32, _>(0).unsigned_abs(), row.get::<i32, _>(1).unsigned_abs()))
    }

    async fn give_up_in_vain(&self, after: Duration, limit: u32) -> Result<u32, LedgerError> {
        let n: Option<i32> = sqlx::query_scalar("select outdial.give_up_in_vain($1, $2, $3)")
            .bind(interval(after))
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(self.events())
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(n.unwrap_or_default().unsigned_abs())
    }

    async fn count_up_campaigns(&self, limit: u32) -> Result<u32, LedgerError> {
        self.count("select outdial.count_up_campaigns($1)", limit).await
    }

    async fn count_up_numbers(&self, limit: u32) -> Result<u32, LedgerError> {
        self.count("select outdial.count_up_numbers($1)", limit).await
    }

    async fn coarsen_pace(&self, limit: u32) -> Result<u32, LedgerError> {
        self.count("select outdial.coarsen_pace($1)", limit).await
    }

    async fn prune_sticky(&self, limit: u32) -> Result<u32, LedgerError> {
        self.count("select outdial.prune_sticky($1)", limit).await
    }

    async fn prune_recipients(&self, after: i64, limit: u32) -> Result<Option<i64>, LedgerError> {
        sqlx::query_scalar("select outdial.prune_recipients($1, $2)")
            .bind(after)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)
    }

    async fn prune_grants(&self, after: i32) -> Result<Option<i32>, LedgerError> {
        sqlx::query_scalar("select upto from outdial.prune_grants($1, $2, $3)")
            .bind(after)
            .bind(PRUNE_THINGS)
            .bind(PRUNE_GRANTS)
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)
    }
}

/// How far a walk over the jobs came, and how many it changed.
fn walked(row: &PgRow) -> (Option<JobNo>, u32) {
    (row.get::<Option<i64>, _>(0).map(JobNo), row.get::<i32, _>(1).unsigned_abs())
}

/// What the ledger holds at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauges {
    pub waiting: Vec<(Reason, i64)>,
    /// Ready and held by nothing: what only more workers would speed up.
    pub dialable: i64,
    pub unknown: i64,
    pub outbox: i64,
    /// Workers that are there, at least one.
    pub workers: u32,
}

impl Ledger {
    /// # Errors
    /// The database's.
    pub async fn gauges(&self) -> Result<Gauges, LedgerError> {
        let rows = sqlx::query(
            "select coalesce(case when w.ready_at is null then c.reason else j.reason end, 'queued') as why, sum(w.jobs)::bigint
             from (select class_no, ready_at, min(job_no) as job_no, count(*) as jobs
                   from outdial.work group by class_no, ready_at) w
             join outdial.classes c using (class_no) left join outdial.jobs j on j.job_no = w.job_no
             group by why",
        )
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        let waiting: Vec<(Reason, i64)> =
            rows.iter().filter_map(|row| Some((Reason::parse(row.get(0))?, row.get(1)))).collect();
        let dialable = waiting.iter().filter(|(why, _)| *why == Reason::Queued).map(|(_, n)| n).sum();
        let row = sqlx::query(
            "select (select count(*) from outdial.live where state = 'unknown'),
                    (select count(*) from (select 1 from outdial.outbox limit 1000000) o),
                    (select count(*) from outdial.workers where ended_at is null and lease_until > clock_timestamp())",
        )
        .fetch_one(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        let workers = u32::try_from(row.get::<i64, _>(2)).unwrap_or(u32::MAX).max(1);
        Ok(Gauges { waiting, dialable, unknown: row.get(0), outbox: row.get(1), workers })
    }

    async fn count(&self, statement: &'static str, limit: u32) -> Result<u32, LedgerError> {
        let count: i32 = sqlx::query_scalar(statement)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(count.unsigned_abs())
    }
}

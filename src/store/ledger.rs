//! A worker's hold on the ledger. The steps themselves are functions of the database (`migrations/0003…`), each one
//! autocommitted statement; here are their arguments and answers. What each needs is in the file of its stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;
use sqlx::{PgPool, Row};

use super::Connections;
use super::intake::Remembered;
use super::pool::Pools;
use crate::core::events::EventTypes;
use crate::core::ids::RoutingVersion;
use crate::core::ledger::Control;
use crate::engine::ledger::{LedgerError, LifeLedger};

/// One worker's view of the ledger; clones share it.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(super) on: Connections,
    /// This worker's number, which is also its epoch: a worker taken for dead comes back under a new one.
    worker: Arc<AtomicI64>,
    /// How often it has asked for slots.
    pub(super) askings: Arc<AtomicI64>,
    /// The number it last did so as.
    pub(super) asked_as: Arc<AtomicI64>,
    /// The first number that this process had.
    witness: i64,
    in_company: bool,
    /// Which events are written; `None`: all.
    pub(super) events: Option<Arc<[&'static str]>>,
    pub(super) dry_run: bool,
    pub(super) remembered: Arc<Remembered>,
}

impl Ledger {
    /// Registers a worker. `lease`: how long it is believed alive without a word.
    pub async fn register(
        on: impl Into<Connections>,
        lease: Duration,
        events: EventTypes,
        dry_run: bool,
    ) -> Result<Self, LedgerError> {
        let mut ledger = Self {
            on: on.into(),
            worker: Arc::default(),
            askings: Arc::default(),
            asked_as: Arc::default(),
            witness: 0,
            in_company: false,
            events: events.names().map(Into::into),
            dry_run,
            remembered: Arc::default(),
        };
        ledger.in_company = ledger.enlist(lease).await?;
        ledger.witness = ledger.worker_no();
        Ok(ledger)
    }

    /// The number it asks for slots as, remembered for when the answer gets lost.
    pub(super) fn asks(&self) -> i64 {
        let worker_no = self.worker_no();
        self.asked_as.store(worker_no, Ordering::Release);
        worker_no
    }

    /// Whether other workers lived when this one was registered.
    pub fn in_company(&self) -> bool {
        self.in_company
    }

    /// For a command that only reads: no worker stands behind it.
    pub fn onlooker(pool: PgPool) -> Self {
        let (worker, remembered) = (Arc::default(), Arc::default());
        let (askings, asked_as) = (Arc::default(), Arc::default());
        Self {
            on: pool.into(),
            worker,
            askings,
            asked_as,
            witness: 0,
            in_company: false,
            events: None,
            dry_run: false,
            remembered,
        }
    }

    /// Takes a new worker number: at start, and after this worker was taken for dead. Tells whether other workers live.
    pub async fn enlist(&self, lease: Duration) -> Result<bool, LedgerError> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let row = sqlx::query(
            "insert into outdial.workers (host, pid, version, lease_until)
             values ($1, $2, $3, clock_timestamp() + $4)
             returning worker_no,
                       exists (select 1 from outdial.workers w where w.ended_at is null and w.lease_until > clock_timestamp())",
        )
        .bind(host)
        .bind(i32::try_from(std::process::id()).unwrap_or(0))
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(interval(lease))
        .fetch_one(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        self.worker.store(row.get(0), Ordering::Release);
        Ok(row.get(1))
    }

    /// Ends the lease at a graceful stop: nothing waits for it to run out.
    pub async fn resign(&self) -> Result<(), LedgerError> {
        sqlx::query("update outdial.workers set ended_at = clock_timestamp() where worker_no = $1 and ended_at is null")
            .bind(self.worker_no())
            .execute(&self.on.rest)
            .await
            .map(drop)
            .map_err(ledger_error)
    }

    pub fn worker_no(&self) -> i64 {
        self.worker.load(Ordering::Acquire)
    }

    pub fn pool(&self) -> &PgPool {
        &self.on.rest
    }

    /// Its view of pools.
    pub fn pool_ledger(&self) -> Pools {
        Pools { db: self.on.rest.clone(), events: self.events.clone() }
    }

    pub(super) fn events(&self) -> Option<&[&'static str]> {
        self.events.as_deref()
    }
}

impl LifeLedger for Ledger {
    async fn renew(&self, lease: Duration) -> Result<bool, LedgerError> {
        sqlx::query(
            "update outdial.workers set lease_until = clock_timestamp() + $2 where worker_no = $1 and ended_at is null",
        )
        .bind(self.worker_no())
        .bind(interval(lease))
        .execute(&self.on.rest)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(ledger_error)
    }

    async fn enlist_again(&self, lease: Duration) -> Result<(), LedgerError> {
        self.enlist(lease).await.map(drop)
    }

    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.on.rest).await.map_err(ledger_error)
    }

    async fn note_step(&self, ahead: Duration) -> Result<(), LedgerError> {
        sqlx::query("select outdial.note_step($1, $2)")
            .bind(self.witness)
            .bind(interval(ahead))
            .execute(&self.on.rest)
            .await
            .map(drop)
            .map_err(ledger_error)
    }

    async fn control(&self) -> Result<Control, LedgerError> {
        let row = sqlx::query("select routing_version, epoch, kill_switch from outdial.control")
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(Control { version: RoutingVersion(row.get(0)), epoch: row.get(1), kill_switch: row.get(2) })
    }
}

impl From<crate::failpoint::Lost> for LedgerError {
    fn from(lost: crate::failpoint::Lost) -> Self {
        Self::Unavailable(lost.to_string())
    }
}

/// Whether a failed statement is worth repeating.
pub(super) fn ledger_error(error: sqlx::Error) -> LedgerError {
    match &error {
        // 22: data exception; 23: integrity constraint; 42: the statement itself.
        sqlx::Error::Database(db)
            if db.code().is_some_and(|code| matches!(code.get(..2), Some("22" | "23" | "42"))) =>
        {
            LedgerError::Refused(db.message().to_owned())
        }
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
            LedgerError::Refused(error.to_string())
        }
        _ => LedgerError::Unavailable(error.to_string()),
    }
}

/// What stands in the database but can't be: a fault of ours or of a hand in the tables.
pub(super) fn unreadable(what: &str) -> LedgerError {
    LedgerError::Refused(format!("the ledger holds {what} that can't be read"))
}

pub(super) fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2),
    }
}

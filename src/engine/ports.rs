//! What the stages ask of the rooms outside: traits that the broker and the store implement.

use std::future::Future;

use chrono::{DateTime, Utc};

use crate::core::ids::JobId;
use crate::core::job::Job;

// ── intake ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A job to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    pub job: Job,
    /// Of the message's headers: the publisher's trace.
    pub traceparent: Option<String>,
    /// The publisher's, else the campaign's `expires_after` from receipt.
    pub expires_at: DateTime<Utc>,
}

/// What the ledger knows of a job that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    New,
    /// The same id with the same content is there already.
    Duplicate,
    /// The same id with other content is there already.
    Conflict,
}

/// Why the ledger didn't do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No database, or it didn't answer in time. Whether it was done may be unknown; every step may be repeated.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The data were refused, and would be again. Tells which rule was broken, never the values.
    #[error("the database refused the data: {0}")]
    Refused(String),
}

/// Where intake writes.
pub trait IntakeLedger: Send + Sync + 'static {
    /// Writes the batch down, all or nothing; the receipts are in its order. No id stands in a batch twice. Running it
    /// again does no harm: what was committed is answered `Duplicate`.
    fn accept(&self, batch: &[NewJob]) -> impl Future<Output = Result<Vec<Receipt>, LedgerError>> + Send;

    /// Cancels those of the jobs that are known and have no attempt in flight.
    fn cancel(&self, ids: &[JobId]) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// How many jobs wait; for `intake.max_waiting`, so an estimate will do.
    fn waiting(&self) -> impl Future<Output = Result<u64, LedgerError>> + Send;
}

/// What the routing says of a campaign: how long a job without `expires_at` of its own may be started.
pub trait Expiry: Send + Sync + 'static {
    fn expires_after(&self, campaign: &crate::core::ids::CampaignId) -> chrono::TimeDelta;
}

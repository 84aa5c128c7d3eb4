//! What the stages ask of the rooms outside: traits that the broker and the store implement.

use std::future::Future;

use chrono::{DateTime, TimeDelta, Utc};

use crate::core::ids::{CampaignId, JobId};
use crate::core::job::{DeadLetter, Job};
use crate::core::trace::Span;

/// Where the spans of traces go.
pub trait Traces: Send + Sync {
    /// Whether anybody collects them: without, none is made.
    fn traced(&self) -> bool {
        false
    }
    /// Takes a span that is over. Returns at once.
    fn span(&self, _: Span) {}
}

// ── intake ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A message delivered and not yet acked. Dropped, it stays the broker's, which delivers it again when the session
/// ends.
pub trait Message: Send + 'static {
    fn body(&self) -> &[u8];
    /// AMQP `message_id`.
    fn message_id(&self) -> Option<&str>;
    /// AMQP `type`.
    fn kind(&self) -> Option<&str>;
    /// Of the headers; only if well-formed by W3C Trace Context.
    fn traceparent(&self) -> Option<String>;
    /// Acks it. Returns at once; void where the session is over.
    fn done(self);
    /// Publishes it to `outdial.dead` as it is, and acks it when that is confirmed. Returns at once.
    fn bury(self, why: DeadLetter);
}

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
    /// The data were refused, and would be again. Tells which rule was broken, never the values. Only for faults of
    /// the data (SQLSTATE classes 22 and 23): intake dead-letters the job it comes down to.
    #[error("the database refused the data: {0}")]
    Refused(String),
}

/// Where intake writes.
pub trait IntakeLedger: Send + Sync + 'static {
    /// Writes the batch down, all or nothing; the receipts are in its order. No id stands in a batch twice. Running it
    /// again does no harm: what was committed is answered `Duplicate`.
    fn accept(&self, batch: &[NewJob]) -> impl Future<Output = Result<Vec<Receipt>, LedgerError>> + Send;

    /// Cancels those of the jobs that are known and have no attempt in flight; how many that were.
    fn cancel(&self, ids: &[JobId]) -> impl Future<Output = Result<u64, LedgerError>> + Send;

    /// How many jobs wait; for `intake.max_waiting`, so an estimate will do.
    fn waiting(&self) -> impl Future<Output = Result<u64, LedgerError>> + Send;
}

/// What intake must know to date a job.
pub trait IntakeTerms: Send + Sync + 'static {
    /// The database's time.
    fn now(&self) -> DateTime<Utc>;
    /// How long after receipt a job of this campaign may be started, where it doesn't say itself.
    fn expires_after(&self, campaign: &CampaignId) -> TimeDelta;
}

//! Intake: messages become waiting jobs, in batches that size themselves: while one is committed the next gathers.
//!
//! A message is acked only after what it says is committed, and whatever is done twice does no harm, so that redelivery
//! is always safe. What can't be a job is buried with the reason. While the database is away messages are kept unacked
//! and the gate is shut, so that no more are delivered.

mod batch;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ports::{IntakeLedger, IntakeTerms, LedgerError, Message, NewJob, Receipt, Traces};
use crate::clock;
use crate::core::backoff::Backoff;
use crate::core::ids::JobId;
use crate::core::job::{DeadLetter, DeadReason, JobOptions};
use crate::core::trace::{Attribute, Context, Kind, Span, Took};
use batch::{Pending, Run};

/// The most messages to a statement.
pub const BATCH_MAX: usize = 500;
/// A statement not answered by then counts as not answered at all.
const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// How long a count of waiting jobs is relied on.
const ROOM_FRESH: Duration = Duration::from_secs(1);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A new job.
    Accepted,
    /// Its job is there already.
    Duplicate,
    /// A cancel message, whether or not there was something to cancel.
    Cancel,
    Dead(DeadReason),
}

/// What intake counts.
pub trait IntakeMeter: Traces + std::fmt::Debug + Send + Sync + 'static {
    fn message(&self, became: Taken);
    /// So many jobs were written down by one statement.
    fn batch(&self, jobs: usize);
    /// Whether nothing is consumed.
    fn paused(&self, paused: bool);
    fn statement(&self, name: &'static str, took: Duration, succeeded: bool);
}

pub struct Intake<L, T> {
    pub ledger: Arc<L>,
    pub terms: Arc<T>,
    pub options: JobOptions,
    /// `intake.max_waiting`.
    pub max_waiting: u64,
    /// Whether messages are wanted; the consumer subscribes and unsubscribes by it.
    pub gate: watch::Sender<bool>,
    pub meter: Arc<dyn IntakeMeter>,
}

impl<L, T> std::fmt::Debug for Intake<L, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("max_waiting", &self.max_waiting).finish_non_exhaustive()
    }
}

/// Stopped before it was done: what is not acked stays the broker's.
#[derive(Debug)]
struct Stopped;

/// What is left below `intake.max_waiting`, and when that was counted.
struct Room {
    jobs: u64,
    counted_at: Option<Instant>,
}

impl<L: IntakeLedger, T: IntakeTerms> Intake<L, T> {
    /// Takes messages until `stop`, or until nobody sends any more.
    pub async fn run<M: Message>(&self, mut inbox: mpsc::Receiver<M>, stop: CancellationToken) {
        let mut room = Room { jobs: 0, counted_at: None };
        let mut messages = Vec::with_capacity(BATCH_MAX);
        loop {
            let Ok(most) = self.room(&mut room, &stop).await else { return };
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                received = inbox.recv_many(&mut messages, most) => received,
            };
            if received == 0 {
                return;
            }
            let Ok(accepted) = self.take(&mut messages, &stop).await else { return };
            room.jobs = room.jobs.saturating_sub(accepted);
        }
    }

    /// How many messages may be taken now, at least one; waits while too many jobs wait already.
    async fn room(&self, room: &mut Room, stop: &CancellationToken) -> Result<usize, Stopped> {
        loop {
            let fresh = room.counted_at.is_some_and(|at| at.elapsed() < ROOM_FRESH);
            if !fresh {
                let waiting = self.insist("count_waiting", stop, || self.ledger.waiting()).await?;
                let waiting = waiting.unwrap_or_else(|refused| {
                    tracing::error!(error = refused, "waiting jobs can't be counted; intake goes on");
                    0
                });
                room.jobs = self.max_waiting.saturating_sub(waiting);
                room.counted_at = Some(clock::monotonic());
            }
            if room.jobs > 0 {
                self.open_gate(true);
                return Ok(usize::try_from(room.jobs).unwrap_or(BATCH_MAX).min(BATCH_MAX));
            }
            self.open_gate(false);
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(ROOM_FRESH) => {}
            }
        }
    }

    /// Settles every message of the batch; how many new jobs there are.
    async fn take<M: Message>(
        &self,
        messages: &mut Vec<M>,
        stop: &CancellationToken,
    ) -> Result<u64, Stopped> {
        let mut accepted = 0;
        let sorted = batch::sort(messages.drain(..), &self.options, &*self.terms);
        sorted.dead.into_iter().for_each(|(message, why)| self.bury(message, why));
        for run in sorted.runs {
            match run {
                Run::Cancels(cancels) => self.cancel(cancels, stop).await?,
                Run::Jobs(jobs) => accepted += self.accept(jobs, stop).await?,
            }
        }
        Ok(accepted)
    }

    async fn accept<M: Message>(
        &self,
        jobs: Vec<Pending<M>>,
        stop: &CancellationToken,
    ) -> Result<u64, Stopped> {
        let mut accepted = 0;
        let mut left = jobs;
        let began = clock::wall();
        while !left.is_empty() {
            let (groups, batch) = batch::distinct(left);
            left = Vec::new();
            let verdicts = self.judge(&batch, stop).await?;
            for ((group, job), verdict) in groups.into_iter().zip(&batch).zip(verdicts) {
                if matches!(verdict, Ok(Receipt::New)) {
                    accepted += 1;
                    self.trace(job, began);
                }
                left.extend(self.settle(group, verdict));
            }
        }
        Ok(accepted)
    }

    /// Tells of a job that is written down.
    fn trace(&self, new: &NewJob, began: DateTime<Utc>) {
        let publisher = new.traceparent.as_deref().filter(|_| self.meter.traced()).and_then(Context::parse);
        let Some(publisher) = publisher.filter(|publisher| publisher.sampled()) else { return };
        let text = |text: &str| Attribute::Text(text.to_owned());
        self.meter.span(Span {
            name: "receive",
            kind: Kind::Consumer,
            context: publisher.child(rand::random()),
            parent: publisher.span,
            took: Took { began, ended: clock::wall() },
            attributes: vec![
                ("messaging.system", text("rabbitmq")),
                ("messaging.operation.type", text("receive")),
                ("outdial.job.id", text(new.job.job_id.as_str())),
                ("outdial.campaign.id", text(new.job.campaign_id.as_str())),
            ],
            failed: None,
        });
    }

    /// Acks or buries the messages of one job id by the verdict on the first; gives back those that need their own.
    fn settle<M: Message>(
        &self,
        group: batch::Group<M>,
        verdict: Result<Receipt, DeadLetter>,
    ) -> Vec<Pending<M>> {
        let batch::Group { first, same, other } = group;
        match verdict {
            Ok(Receipt::Conflict) => {
                self.bury(first, conflict());
                same.into_iter().for_each(|message| self.bury(message, conflict()));
                // What is known there is not the first's content; it may be another's.
                return other;
            }
            Ok(receipt) => {
                self.meter.message(match receipt {
                    Receipt::New => Taken::Accepted,
                    Receipt::Duplicate | Receipt::Conflict => Taken::Duplicate,
                });
                first.done();
                for message in same {
                    self.meter.message(Taken::Duplicate);
                    message.done();
                }
                other.into_iter().for_each(|job| self.bury(job.message, conflict()));
            }
            Err(why) => {
                self.bury(first, why.clone());
                same.into_iter().for_each(|message| self.bury(message, why.clone()));
                return other;
            }
        }
        Vec::new()
    }

    /// The ledger's word on each job. A batch that it refuses is halved until the culprit stands alone: one NUL byte
    /// must not take 500 jobs with it.
    async fn judge(
        &self,
        batch: &[NewJob],
        stop: &CancellationToken,
    ) -> Result<Vec<Result<Receipt, DeadLetter>>, Stopped> {
        let mut verdicts = Vec::with_capacity(batch.len());
        let mut todo: Vec<&[NewJob]> = vec![batch];
        while let Some(part) = todo.pop() {
            match self.insist("accept", stop, || self.write(part)).await? {
                Ok(receipts) => {
                    self.meter.batch(receipts.len());
                    verdicts.extend(receipts.into_iter().map(Ok));
                }
                Err(refused) if part.len() == 1 => {
                    let detail = format!("the database can't store it: {refused}");
                    verdicts.push(Err(DeadLetter::new(DeadReason::Malformed, detail)));
                }
                Err(_) => {
                    let (left, right) = part.split_at(part.len() / 2);
                    todo.extend([right, left]);
                }
            }
        }
        Ok(verdicts)
    }

    async fn write(&self, part: &[NewJob]) -> Result<Vec<Receipt>, LedgerError> {
        let receipts = self.ledger.accept(part).await?;
        match receipts.len() == part.len() {
            true => Ok(receipts),
            // Without a receipt for each no message may be acked.
            false => {
                Err(LedgerError::Unavailable(format!("{} receipts for {} jobs", receipts.len(), part.len())))
            }
        }
    }

    async fn cancel<M: Message>(
        &self,
        cancels: Vec<(M, JobId)>,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let (messages, ids): (Vec<M>, Vec<JobId>) = cancels.into_iter().unzip();
        if let Err(refused) = self.insist("cancel", stop, || self.ledger.cancel(&ids)).await? {
            tracing::error!(error = refused, messages = ids.len(), "cancel messages refused; dropped");
        }
        for message in messages {
            self.meter.message(Taken::Cancel);
            message.done();
        }
        Ok(())
    }

    fn bury<M: Message>(&self, message: M, why: DeadLetter) {
        self.meter.message(Taken::Dead(why.reason));
        message.bury(why);
    }

    /// Runs a step until the database answers: `Err` is its refusal. Meanwhile the gate is shut.
    async fn insist<R, F>(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        step: impl Fn() -> F,
    ) -> Result<Result<R, String>, Stopped>
    where
        F: Future<Output = Result<R, LedgerError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            // A stop waits for the answer: what is committed is to be acked, not to come again.
            let began = clock::monotonic();
            let answer = tokio::time::timeout(STATEMENT_MAX, step()).await;
            self.meter.statement(name, began.elapsed(), matches!(answer, Ok(Ok(_))));
            let why = match answer {
                Ok(Ok(done)) => return Ok(Ok(done)),
                Ok(Err(LedgerError::Refused(why))) => return Ok(Err(why)),
                Ok(Err(LedgerError::Unavailable(why))) => why,
                Err(_) => format!("no answer within {} s", STATEMENT_MAX.as_secs()),
            };
            if stop.is_cancelled() {
                return Err(Stopped);
            }
            if self.open_gate(false) {
                tracing::warn!(error = why, "the database is away: intake waits, nothing more is consumed");
            }
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(backoff.after_failure(rand::random())) => {}
            }
        }
    }

    /// Opens or shuts the gate; whether that changed anything.
    fn open_gate(&self, open: bool) -> bool {
        let turned = self.gate.send_if_modified(|is_open| std::mem::replace(is_open, open) != open);
        if turned {
            self.meter.paused(!open);
        }
        turned
    }
}

fn conflict() -> DeadLetter {
    DeadLetter::new(
        DeadReason::Conflict,
        "a job with this job_id but other content was received before; send changed content under a new job_id",
    )
}

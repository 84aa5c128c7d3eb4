//! What time brings, done by one worker at a time: dates that come, jobs that expire, workers that die, reasons
//! that have to be written into records, and records that have been kept long enough.

pub mod retention;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::duty::{Duties, Duty};
use super::ledger::{LedgerError, UpkeepLedger};
use super::sending::Sending;
use crate::clock;
use crate::core::decide::World;
use crate::core::ids::{JobNo, RoutingVersion};
use retention::{Kept, Retaining, RetentionLedger};

/// Between two rounds.
const EVERY: Duration = Duration::from_millis(250);
/// Who has the duty keeps it so long without a word.
const DUTY: Duration = Duration::from_secs(3);
/// What was written beside the records is added up this often: readers add up the rest.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// So many rows to a statement, and statements of one kind in a round: more than ten thousand calls a second write meanwhile.
const COUNTS: u32 = 10_000;
const COUNTS_MAX: usize = 5;
/// Old grants are looked for this often.
const PRUNE_EVERY: Duration = Duration::from_secs(300);
/// Jobs to a statement.
const CHUNK: u32 = 1_000;
/// Statements of one kind in a round: nothing else waits longer than these take.
const CHUNKS_MAX: usize = 20;

#[derive(Debug)]
pub struct Upkeep<L> {
    pub ledger: Arc<L>,
    pub world: watch::Receiver<Arc<World>>,
    /// `worker.lease`.
    pub lease: Duration,
    /// After which a search is in vain.
    pub in_vain: Duration,
    /// `retention.records` and `retention.keys`.
    pub kept: Kept,
    /// Its bell is rung when jobs have become ready.
    pub sending: Arc<Sending>,
}

impl<L: UpkeepLedger + RetentionLedger + Duties + Clone> Upkeep<L> {
    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut known = Known {
            labelled: JobNo(0),
            judged: None,
            judging: None,
            counted: clock::monotonic(),
            pruned: clock::monotonic(),
            recipients: 0,
            pruning: None,
            retaining: Retaining::new(),
        };
        let mut duty = Duty::new(self.ledger.as_ref().clone(), "upkeep", DUTY);
        while !stop.is_cancelled() {
            if !duty.is_ours().await {
                // Whoever has it next looks at everything again.
                known.judged = None;
                known.retaining.leave();
            } else {
                self.round(&mut known).await;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        duty.leave().await;
    }

    /// Every step, whatever became of the others: one that fails must not keep jobs from waking.
    async fn round(&self, known: &mut Known) {
        let mut ready = false;
        match self.ledger.take_over(self.lease).await {
            Ok((0, 0)) => {}
            Ok((released, unknown)) => {
                tracing::warn!(reservations = released, attempts.unknown = unknown, "worker.taken_over");
                ready |= released > 0;
            }
            Err(error) => failed("take_over", &error),
        }
        ready |= self.rejudge(known).await;
        ready |= chunks("wake", || self.ledger.wake(CHUNK)).await;
        chunks("expire", || self.ledger.expire(CHUNK)).await;
        if ready {
            self.sending.bell.notify_one();
        }
        match self.ledger.relabel(known.labelled, CHUNK).await {
            Ok((upto, _)) => known.labelled = upto.unwrap_or(JobNo(0)),
            Err(error) => failed("relabel", &error),
        }
        self.count(known).await;
        self.prune(known).await;
        known.retaining.round(&*self.ledger, self.kept).await;
    }

    /// Where more is left than a round may take, the next one goes on.
    async fn count(&self, known: &mut Known) {
        if clock::monotonic() < known.counted + COUNT_EVERY {
            return;
        }
        let campaigns = || self.ledger.count_up_campaigns(COUNTS);
        let numbers = || self.ledger.count_up_numbers(COUNTS);
        let campaigns = pieces("count_up_campaigns", COUNTS, COUNTS_MAX, campaigns).await;
        let numbers = pieces("count_up_numbers", COUNTS, COUNTS_MAX, numbers).await;
        if !campaigns.more && !numbers.more {
            known.counted = clock::monotonic();
        }
    }

    /// A piece a round, until all has been looked at; then not for a while.
    async fn prune(&self, known: &mut Known) {
        let after = match known.pruning {
            Some(after) => after,
            None if clock::monotonic() < known.pruned + PRUNE_EVERY => return,
            None => {
                // Their own account's search does it, where a worker has that account.
                chunks("give_up", || self.ledger.give_up_in_vain(self.in_vain, CHUNK)).await;
                chunks("prune_sticky", || self.ledger.prune_sticky(CHUNK)).await;
                self.prune_recipients(known).await;
                pieces("coarsen_pace", COUNTS, CHUNKS_MAX, || self.ledger.coarsen_pace(COUNTS)).await;
                0
            }
        };
        known.pruned = clock::monotonic();
        known.pruning = self.ledger.prune_grants(after).await.unwrap_or_else(|error| {
            failed("prune_grants", &error);
            None
        });
    }

    /// Some of the callees, from where it was left the last time.
    async fn prune_recipients(&self, known: &mut Known) {
        for _ in 0..CHUNKS_MAX {
            match self.ledger.prune_recipients(known.recipients, CHUNK).await {
                Ok(Some(upto)) => known.recipients = upto,
                Ok(None) => {
                    known.recipients = 0;
                    return;
                }
                Err(error) => return failed("prune_recipients", &error),
            }
        }
    }

    /// Walks once over the jobs that wait for a window, whenever the rules have changed: those that still have to wait
    /// are parked again behind it. True if any is to be looked at.
    async fn rejudge(&self, known: &mut Known) -> bool {
        let version = self.world.borrow().version;
        if known.judged != Some(version) {
            (known.judged, known.judging) = (Some(version), Some(JobNo(0)));
        }
        let mut any = false;
        for _ in 0..CHUNKS_MAX {
            let Some(after) = known.judging else { break };
            match self.ledger.rejudge(after, CHUNK).await {
                Ok((upto, ready)) => {
                    known.judging = upto;
                    any |= ready > 0;
                }
                Err(error) => {
                    failed("rejudge", &error);
                    break;
                }
            }
        }
        any
    }
}

/// What is remembered from round to round.
struct Known {
    /// How far the records were told what holds their class.
    labelled: JobNo,
    /// The version under which jobs that wait for a window are looked at, and after which job while that isn't done.
    judged: Option<RoutingVersion>,
    judging: Option<JobNo>,
    /// When counts were added up last.
    counted: tokio::time::Instant,
    pruned: tokio::time::Instant,
    /// How far callees have been looked at for calls that no cap counts any more: a phone.
    recipients: i64,
    /// How far logs have been pruned this time.
    pruning: Option<i32>,
    retaining: Retaining,
}

fn failed(step: &'static str, error: &LedgerError) {
    tracing::warn!(step, error = %error, "upkeep.failed");
}

/// Of a statement that was run piece by piece.
struct Pieces {
    /// It did anything.
    any: bool,
    /// There is more to do than it was let.
    more: bool,
}

/// Runs a statement of so many rows until it has less than that to do, `most` times at the most.
async fn pieces<F: Future<Output = Result<u32, LedgerError>>>(
    step: &'static str,
    rows: u32,
    most: usize,
    run: impl Fn() -> F,
) -> Pieces {
    let mut any = false;
    for _ in 0..most {
        match run().await {
            Ok(done) => {
                any |= done > 0;
                if done < rows {
                    return Pieces { any, more: false };
                }
            }
            Err(error) => {
                failed(step, &error);
                return Pieces { any, more: false };
            }
        }
    }
    Pieces { any, more: true }
}

/// Likewise, of [`CHUNK`] jobs; true if it did anything.
async fn chunks<F: Future<Output = Result<u32, LedgerError>>>(
    step: &'static str,
    run: impl Fn() -> F,
) -> bool {
    pieces(step, CHUNK, CHUNKS_MAX, run).await.any
}

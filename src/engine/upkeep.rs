//! What time brings, done by one worker at a time: dates that come, jobs that expire, workers that die, and reasons
//! that have to be written into records.

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

/// Between two rounds.
const EVERY: Duration = Duration::from_millis(250);
/// Who has the duty keeps it so long without a word.
const DUTY: Duration = Duration::from_secs(3);
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
    /// Its bell is rung when jobs have become ready.
    pub sending: Arc<Sending>,
}

impl<L: UpkeepLedger + Duties + Clone> Upkeep<L> {
    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut cursor = JobNo(0);
        let mut judged: Option<RoutingVersion> = None;
        let mut pruned = clock::monotonic();
        let mut duty = Duty::new(self.ledger.as_ref().clone(), "upkeep", DUTY);
        while !stop.is_cancelled() {
            if !duty.is_ours().await {
                // Whoever has it next looks at everything again.
                judged = None;
            } else if let Err(error) = self.round(&mut cursor, &mut judged, &mut pruned).await {
                tracing::warn!(error = %error, "upkeep.failed");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        duty.leave().await;
    }

    async fn round(
        &self,
        cursor: &mut JobNo,
        judged: &mut Option<RoutingVersion>,
        pruned: &mut tokio::time::Instant,
    ) -> Result<(), LedgerError> {
        let (released, unknown) = self.ledger.take_over(self.lease).await?;
        if released + unknown > 0 {
            tracing::warn!(reservations = released, attempts.unknown = unknown, "worker.taken_over");
        }
        let mut ready = released > 0;
        let version = self.world.borrow().version;
        if *judged != Some(version) {
            ready |= chunks(|| self.ledger.rejudge(CHUNK)).await?;
            *judged = Some(version);
        }
        ready |= chunks(|| self.ledger.wake(CHUNK)).await?;
        chunks(|| self.ledger.expire(CHUNK)).await?;
        if ready {
            self.sending.bell.notify_one();
        }
        let (upto, _) = self.ledger.relabel(*cursor, CHUNK).await?;
        *cursor = upto.unwrap_or(JobNo(0));
        if clock::monotonic() >= *pruned + PRUNE_EVERY {
            self.ledger.prune().await?;
            *pruned = clock::monotonic();
        }
        Ok(())
    }
}

/// Runs a chunked statement until it has less than a chunk to do; true if it did anything.
async fn chunks<F: Future<Output = Result<u32, LedgerError>>>(
    run: impl Fn() -> F,
) -> Result<bool, LedgerError> {
    let mut any = false;
    for _ in 0..CHUNKS_MAX {
        let done = run().await?;
        any |= done > 0;
        if done < CHUNK {
            break;
        }
    }
    Ok(any)
}

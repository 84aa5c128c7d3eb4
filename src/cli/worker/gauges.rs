//! Figures that are read now and then instead of counted as things happen.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::core::ids::JobId;
use crate::engine::ports::{IntakeLedger, LedgerError, NewJob, Receipt};
use crate::engine::sending::Sending;
use crate::engine::tenure::Tenure;
use crate::store::Ledger;
use crate::telemetry::Metrics;

const EVERY: Duration = Duration::from_secs(5);
/// Looks between two recounts of what holds places.
const AUDIT_EVERY: u32 = 12;
/// What the whole ledger holds costs a scan of the work list. Where that takes long, all workers together read for a part of the
/// time only: one in so many.
const LEDGER_SHARE: u32 = 20;
/// After that it is read again, whatever it takes.
const LEDGER_OLD: Duration = Duration::from_secs(60);

/// Waiting jobs, unknown attempts and the clock.
pub(super) fn start(
    ledger: &Arc<Ledger>,
    metrics: &Arc<Metrics>,
    tenure: &Arc<Tenure>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let (ledger, metrics, tenure) = (Arc::clone(ledger), Arc::clone(metrics), Arc::clone(tenure));
    let stop = stop.clone();
    tasks.spawn(async move {
        let mut read_at = clock::monotonic();
        for look in 0_u32.. {
            if look.is_multiple_of(AUDIT_EVERY) {
                audit(&ledger, &metrics).await;
            }
            if let Some(reading) = tenure.now() {
                let offset = reading.now - clock::wall();
                metrics.clock_offset_seconds.set(offset.as_seconds_f64());
                metrics.clock_error_seconds.set(reading.error.as_secs_f64());
            }
            if clock::monotonic() >= read_at {
                let apart = read(&ledger, &metrics).await;
                read_at = clock::monotonic() + apart;
            }
            if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                return;
            }
        }
    });
}

/// Gives how long not to read again.
async fn read(ledger: &Ledger, metrics: &Metrics) -> Duration {
    let began = clock::monotonic();
    match ledger.gauges().await {
        Ok(gauges) => {
            metrics.set_waiting(&gauges.waiting);
            metrics.dialable_jobs.set(gauges.dialable);
            metrics.unknown_attempts.set(gauges.unknown);
            metrics.outbox_rows.set(gauges.outbox);
            let all = began.elapsed().saturating_mul(LEDGER_SHARE).saturating_mul(gauges.workers);
            all.min(LEDGER_OLD)
        }
        // It may have taken all the time that a statement has.
        Err(error) => {
            tracing::debug!(error = %error, "gauges.unread");
            began.elapsed().saturating_mul(LEDGER_SHARE).min(LEDGER_OLD)
        }
    }
}

/// Whether the counters of places under concurrency limits are what holds places.
async fn audit(ledger: &Ledger, metrics: &Metrics) {
    match ledger.audit_places().await {
        Ok(0) => {}
        Ok(drift) => {
            metrics.places_drift.inc_by(drift);
            tracing::error!(
                places = drift,
                "limits.drifted: counters of places were wrong and have been put right"
            );
        }
        Err(error) => tracing::debug!(error = %error, "limits.unaudited"),
    }
}

/// Rings the bell whenever intake has committed jobs, so that an idle dispatch looks at once.
#[derive(Debug)]
pub(super) struct Ringing<L> {
    pub ledger: Arc<L>,
    pub sending: Arc<Sending>,
}

impl<L: IntakeLedger> IntakeLedger for Ringing<L> {
    async fn accept(&self, batch: &[NewJob]) -> Result<Vec<Receipt>, LedgerError> {
        let receipts = self.ledger.accept(batch).await?;
        if receipts.contains(&Receipt::New) {
            self.sending.bell.notify_one();
        }
        Ok(receipts)
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<u64, LedgerError> {
        self.ledger.cancel(ids).await
    }

    async fn waiting(&self) -> Result<u64, LedgerError> {
        self.ledger.waiting().await
    }
}

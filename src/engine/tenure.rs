//! Where this worker stands: what time it is for the database, and until when it is believed alive. Whoever sends a
//! call asks here, as late as it can.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::{LedgerError, LifeLedger};
use crate::clock;
use crate::core::dbtime::{DbTime, Probe, Reading};

/// Between two looks at the database's clock.
const PROBE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Tenure {
    time: Mutex<DbTime>,
    lease_until: Mutex<Option<Instant>>,
}

impl Tenure {
    /// The database's time now; `None` where it isn't known well enough to let a call go.
    pub fn now(&self) -> Option<Reading> {
        let at = clock::uptime();
        let time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        if time.is_fresh(at) { time.read(at) } else { None }
    }

    /// The same however long ago the database was last asked, if ever: for what has been, not for what may be done.
    pub fn reckon(&self) -> Option<Reading> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).read(clock::uptime())
    }

    /// The moment, on this machine, from which a call may arrive: the slot has come for certain.
    pub fn opens(&self, slot: DateTime<Utc>) -> Option<Instant> {
        let reading = self.now()?;
        let ahead = (slot - reading.now).to_std().unwrap_or_default();
        Some(clock::monotonic() + ahead + reading.error)
    }

    /// The last moment, on this machine, at which a call may leave: the slot's slack, less what the clocks may be
    /// apart, and never past the lease. `None`: it has passed, or nobody can tell.
    pub fn closes(&self, slot: DateTime<Utc>, slack: Duration) -> Option<Instant> {
        let reading = self.now()?;
        let left = (slot + TimeDelta::from_std(slack).ok()? - reading.now).to_std().ok()?;
        let closes = clock::monotonic() + left.checked_sub(reading.error)?;
        Some(closes.min(self.lease_until()?))
    }

    fn lease_until(&self) -> Option<Instant> {
        *self.lease_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in one look at the database's clock.
    pub async fn probe<L: LifeLedger>(&self, ledger: &L) -> Result<(), LedgerError> {
        let asked = clock::uptime();
        let said = ledger.now().await?;
        let probe = Probe { asked, answered: clock::uptime(), said };
        self.time.lock().unwrap_or_else(PoisonError::into_inner).add(probe);
        Ok(())
    }

    /// Renews the lease, counted from before it was asked for.
    pub async fn renew<L: LifeLedger>(&self, ledger: &L, lease: Duration) -> Result<bool, LedgerError> {
        let from = clock::monotonic();
        let alive = ledger.renew(lease).await?;
        *self.lease_until.lock().unwrap_or_else(PoisonError::into_inner) = alive.then(|| from + lease);
        Ok(alive)
    }

    /// Keeps both up until `stop`. A worker that was taken for dead starts a new life under a new number: what it left
    /// has been taken over.
    pub async fn keep<L: LifeLedger>(&self, ledger: &L, lease: Duration, stop: CancellationToken) {
        let mut renewed: Option<Instant> = None;
        while !stop.is_cancelled() {
            if let Err(error) = self.probe(ledger).await {
                tracing::warn!(error = %error, "database.clock.unread");
            }
            if renewed.is_none_or(|at| clock::monotonic() >= at + lease / 4) {
                match self.renew(ledger, lease).await {
                    Ok(true) => renewed = Some(clock::monotonic()),
                    Ok(false) => {
                        tracing::warn!("worker.fenced");
                        // Nothing is sent until the next renewal: what got leave in the old life is late by then.
                        if let Err(error) = ledger.enlist_again(lease).await {
                            tracing::warn!(error = %error, "worker.enlist.failed");
                        }
                    }
                    Err(error) => tracing::warn!(error = %error, "worker.lease.unrenewed"),
                }
            }
            let wait = PROBE_EVERY.min(lease / 4);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

//! Where this worker stands: what time it is for the database, and until when it is believed alive. Whoever sends a
//! call asks here, as late as it can.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::{LedgerError, LifeLedger};
use crate::clock;
use crate::core::dbtime::{DbTime, Probe, Reading};

/// Between two looks at the database's clock.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// By then the others have looked, and noted what they have seen.
const OTHERS_LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Tenure {
    time: Mutex<Time>,
    lease_until: Mutex<Option<Instant>>,
    /// Somebody has heard what the database's clock can't say.
    doubted: Notify,
}

#[derive(Debug, Default)]
struct Time {
    known: DbTime,
    /// By how much the database's clock went ahead, of which the ledger hasn't been told yet.
    untold: Duration,
    /// Until then (of [`clock::uptime`]) it may have made a step that this worker can't know of.
    newborn_until: Duration,
}

impl Tenure {
    /// The database's time now; `None` where it isn't known well enough to let a call go.
    pub fn now(&self) -> Option<Reading> {
        let at = clock::uptime();
        let time = self.time();
        let is_known = time.untold.is_zero() && at >= time.newborn_until && time.known.is_fresh(at);
        if is_known { time.known.read(at) } else { None }
    }

    /// This worker was born while others live. A step of the clock right before its birth only they can prove: until they
    /// have noted it, a slot would be granted too near to those from before the step.
    pub fn born_among_others(&self) {
        self.time().newborn_until = clock::uptime() + OTHERS_LOOK;
    }

    /// The same however long ago the database was last asked, if ever: for what has been, not for what may be done.
    pub fn reckon(&self) -> Option<Reading> {
        self.time().known.read(clock::uptime())
    }

    /// How often the database's clock has been seen to make a step. A slot that was made before one isn't used after it.
    pub fn steps(&self) -> u64 {
        self.time().known.steps()
    }

    /// Whether the database may have said this since `asked`, by all that is known; if not, its clock is looked at, too.
    pub fn agrees(&self, asked: Duration, said: DateTime<Utc>) -> bool {
        let agrees = self.time().known.agrees(asked, clock::uptime(), said);
        if !agrees {
            self.doubted.notify_one();
        }
        agrees
    }

    fn time(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Takes in one look at the database's clock. Of a step ahead the ledger is told before anything else is sent: its
    /// grants lie further back now than they were made.
    pub async fn probe<L: LifeLedger>(&self, ledger: &L) -> Result<(), LedgerError> {
        let asked = clock::uptime();
        let said = ledger.now().await?;
        let probe = Probe { asked, answered: clock::uptime(), said };
        let untold = {
            let mut time = self.time();
            if let Some(step) = time.known.add(probe) {
                tracing::warn!(by_ms = step.by.num_milliseconds(), "database.clock.stepped");
                time.untold += step.ahead().unwrap_or_default();
            }
            time.untold
        };
        if !untold.is_zero() {
            ledger.note_step(untold).await?;
            let mut time = self.time();
            time.untold = time.untold.saturating_sub(untold);
        }
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
                () = self.doubted.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_born_among_others_lets_nothing_go_before_they_have_looked() {
        let tenure = Tenure::default();
        let look = || {
            let asked = clock::uptime();
            tenure.time().known.add(Probe { asked, answered: asked, said: clock::wall() });
        };
        look();
        assert!(tenure.now().is_some());
        tenure.born_among_others();
        look();
        assert_eq!(tenure.now(), None);
        assert_eq!(tenure.opens(clock::wall()), None);
        assert!(tenure.reckon().is_some());
        tenure.time().newborn_until = clock::uptime();
        assert!(tenure.now().is_some());
    }
}

//! Keeps what decisions are made from current: the control row is read four times a second, the rest when it says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::{Health, Link};
use super::ledger::{LedgerError, LifeLedger, WorldLedger};
use crate::clock;
use crate::core::decide::{PoolState, World};
use crate::core::ids::AccountName;
use crate::core::ledger::Control;

/// Between two looks at the control row.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pools grow stale without anybody's doing: the world is read anew at least this often.
const READ_EVERY: Duration = Duration::from_secs(15);
/// While jobs wait for a pool that is too old: it grows young again without a word.
const READ_STALE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct WorldKeeper<L> {
    pub ledger: Arc<L>,
    /// The accounts that this worker holds a key for.
    pub accounts: Vec<AccountName>,
    /// `pool.max_age`.
    pub pool_max_age: Duration,
    pub world: watch::Sender<Arc<World>>,
    pub health: Health,
}

impl<L: LifeLedger + WorldLedger> WorldKeeper<L> {
    /// Reads the world; the first reading of a process.
    pub async fn first(
        ledger: &L,
        accounts: &[AccountName],
        pool_max_age: Duration,
    ) -> Result<(Control, World), LedgerError> {
        let control = ledger.control().await?;
        let rules = ledger.rules(control.version).await?;
        let world = ledger.world(control, rules, accounts, pool_max_age).await?;
        Ok((control, world))
    }

    /// Until `stop`. A world that can't be read stays as it was: the authorising statement looks again anyway.
    pub async fn keep(self, mut known: Control, stop: CancellationToken) {
        let mut read_at = clock::monotonic();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.look(&mut known, &mut read_at).await {
                Ok(()) => self.health.database(Link::Up),
                Err(error) => {
                    self.health.database(Link::Down(error.to_string()));
                    tracing::warn!(error = %error, "world.unread");
                }
            }
        }
    }

    async fn look(&self, known: &mut Control, read_at: &mut Instant) -> Result<(), LedgerError> {
        let control = self.ledger.control().await?;
        let stale = self.world.borrow().pools.values().any(|pool| pool.state == PoolState::Stale);
        let every = if stale { READ_STALE_EVERY } else { READ_EVERY };
        if control == *known && clock::monotonic() < *read_at + every {
            return Ok(());
        }
        let rules = if control.version == known.version {
            Arc::clone(&self.world.borrow().rules)
        } else {
            self.ledger.rules(control.version).await?
        };
        let world = self.ledger.world(control, rules, &self.accounts, self.pool_max_age).await?;
        if control.version != known.version {
            self.health.routing(Some(control.version.0));
            tracing::info!(routing.version = control.version.0, "routing.in_use");
        }
        *known = control;
        *read_at = clock::monotonic();
        self.world.send_replace(Arc::new(world));
        Ok(())
    }
}

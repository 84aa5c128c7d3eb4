//! Work of which one worker at a time is enough. A duty only saves work: whoever holds it, or two for a moment, what
//! they do is right.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::accounts::AccountKeys;
use super::ports::LedgerError;
use crate::clock;
use crate::core::ids::AccountName;

/// Where duties are shared out.
pub trait Duties: Send + Sync + 'static {
    /// Takes a duty for `lease`, or keeps it; false: another worker has it.
    fn hold(&self, name: &str, lease: Duration) -> impl Future<Output = Result<bool, LedgerError>> + Send;
    /// Leaves it to others at once.
    fn leave(&self, name: &str) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// A duty as its holder, or would-be holder, sees it.
#[derive(Debug)]
pub struct Duty<D> {
    duties: D,
    name: String,
    lease: Duration,
    held: bool,
    ask_at: Option<Instant>,
    /// What it takes: a key of this worker that works. Another's may.
    key: Option<(Arc<AccountKeys>, AccountName)>,
}

impl<D: Duties> Duty<D> {
    pub fn new(duties: D, name: impl Into<String>, lease: Duration) -> Self {
        Self { duties, name: name.into(), lease, held: false, ask_at: None, key: None }
    }

    /// Work for an account: ours only while this worker's key of it is usable.
    pub fn of_account(
        duties: D,
        work: &str,
        account: &AccountName,
        keys: &Arc<AccountKeys>,
        lease: Duration,
    ) -> Self {
        let key = Some((Arc::clone(keys), account.clone()));
        Self { key, ..Self::new(duties, format!("{work}:{account}"), lease) }
    }

    /// Whether the duty is ours now. Cheap: the database is asked three times a lease.
    pub async fn is_ours(&mut self) -> bool {
        if self.key.as_ref().is_some_and(|(keys, account)| !keys.usable(account)) {
            self.leave().await;
            return false;
        }
        let now = clock::monotonic();
        if self.ask_at.is_some_and(|at| now < at) {
            return self.held;
        }
        let held = self.duties.hold(&self.name, self.lease).await;
        self.ask_at = Some(now + self.lease / 3);
        let held = held.unwrap_or_else(|error| {
            tracing::debug!(duty = self.name, %error, "a duty could not be renewed");
            false
        });
        if held != self.held {
            tracing::debug!(duty = self.name, held, "a duty changed hands");
        }
        self.held = held;
        held
    }

    /// Leaves it to others, if it is ours.
    pub async fn leave(&mut self) {
        self.ask_at = None;
        if std::mem::take(&mut self.held)
            && let Err(error) = self.duties.leave(&self.name).await
        {
            tracing::debug!(duty = self.name, %error, "a duty could not be left; its lease will run out");
        }
    }
}

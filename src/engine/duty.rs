//! Work of which one worker at a time is enough. A duty only saves work: whoever holds it, or two for a moment, what
//! they do is right.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::accounts::AccountKeys;
use super::ports::LedgerError;
use crate::clock;
use crate::core::ids::AccountName;

/// A piece of work that takes longer may wait for what never comes, as an answer over a connection that was lost silently.
const STUCK: Duration = Duration::from_secs(120);

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
    /// Ours until then, if it is.
    held_until: Option<Instant>,
    ask_at: Option<Instant>,
    /// What it takes: a key of this worker that works. Another's may.
    key: Option<(Arc<AccountKeys>, AccountName)>,
}

impl<D: Duties> Duty<D> {
    pub fn new(duties: D, name: impl Into<String>, lease: Duration) -> Self {
        Self { duties, name: name.into(), lease, held_until: None, ask_at: None, key: None }
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
            return self.is_held();
        }
        let held = self.duties.hold(&self.name, self.lease).await;
        self.ask_at = Some(now + self.lease / 3);
        let was_held = self.held_until.is_some();
        match held {
            Ok(held) => self.held_until = held.then(|| now + self.lease),
            // Whoever had it has it for as long as was said last.
            Err(error) => tracing::debug!(duty = self.name, %error, "a duty could not be renewed"),
        }
        let held = self.is_held();
        if held != was_held {
            tracing::debug!(duty = self.name, held, "a duty changed hands");
        }
        held
    }

    fn is_held(&mut self) -> bool {
        self.held_until = self.held_until.filter(|until| clock::monotonic() < *until);
        self.held_until.is_some()
    }

    /// Does a piece of the duty's work, and keeps the duty meanwhile, however long that takes: else another would take it
    /// up between two pieces, and both would begin again and again what neither ends. But not of a piece that takes longer
    /// than [`STUCK`]: that one may never end, and others have to go on.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let end = clock::monotonic() + STUCK;
        loop {
            if clock::monotonic() >= end {
                return work.await;
            }
            let wait = self.ask_at.map_or(self.lease, |at| at.saturating_duration_since(clock::monotonic()));
            let renewed = async {
                tokio::time::sleep(wait).await;
                self.is_ours().await
            };
            tokio::select! {
                done = &mut work => return done,
                _ = renewed => {}
            }
        }
    }

    /// Leaves it to others, if it is ours.
    pub async fn leave(&mut self) {
        self.ask_at = None;
        if self.held_until.take().is_some()
            && let Err(error) = self.duties.leave(&self.name).await
        {
            tracing::debug!(duty = self.name, %error, "a duty could not be left; its lease will run out");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    /// Who holds the duty, and until when.
    #[derive(Debug, Clone)]
    struct Shared {
        me: u8,
        /// For this one there is no database.
        away: bool,
        holder: Arc<Mutex<Option<(u8, Instant)>>>,
    }

    impl Duties for Shared {
        async fn hold(&self, _: &str, lease: Duration) -> Result<bool, LedgerError> {
            if self.away {
                return Err(LedgerError::Unavailable("it is away".to_owned()));
            }
            let now = clock::monotonic();
            let mut holder = self.holder.lock().unwrap();
            let is_free = holder.is_none_or(|(who, until)| who == self.me || until < now);
            if is_free {
                *holder = Some((self.me, now + lease));
            }
            Ok(is_free)
        }

        async fn leave(&self, _: &str) -> Result<(), LedgerError> {
            *self.holder.lock().unwrap() = None;
            Ok(())
        }
    }

    fn two() -> (Duty<Shared>, Duty<Shared>) {
        let holder = Arc::default();
        let of = |me| Duty::new(Shared { me, away: false, holder: Arc::clone(&holder) }, "work", LEASE);
        (of(1), of(2))
    }

    #[tokio::test(start_paused = true)]
    async fn who_works_longer_than_a_lease_keeps_the_duty() {
        let (mut ours, mut others) = two();
        assert!(ours.is_ours().await);
        let done = ours.during(async {
            for _ in 0..20 {
                tokio::time::sleep(LEASE / 2).await;
                assert!(!others.is_ours().await);
            }
            "done"
        });
        assert_eq!(done.await, "done");
        assert!(ours.is_ours().await);
        ours.leave().await;
        tokio::time::sleep(LEASE).await;
        assert!(others.is_ours().await);
    }
    #[tokio::test(start_paused = true)]
    async fn who_is_stuck_loses_the_duty() {
        let (mut ours, mut others) = two();
        assert!(ours.is_ours().await);
        let stuck = ours.during(std::future::pending::<()>());
        assert!(tokio::time::timeout(STUCK - LEASE, stuck).await.is_err());
        assert!(!others.is_ours().await);
        let stuck = ours.during(std::future::pending::<()>());
        assert!(tokio::time::timeout(STUCK + 2 * LEASE, stuck).await.is_err());
        assert!(others.is_ours().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_failed_ends_a_duty_with_its_lease_only() {
        let (mut ours, mut others) = two();
        assert!(ours.is_ours().await);
        ours.duties.away = true;
        tokio::time::sleep(LEASE / 2).await;
        assert!(ours.is_ours().await, "nobody else can have it");
        tokio::time::sleep(LEASE).await;
        assert!(!ours.is_ours().await && others.is_ours().await);
    }
}

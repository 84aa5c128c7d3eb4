//! Keys of accounts. A 401 or 403 is a fault of the account's key or region, never of a job: this worker stops
//! sending with that key at once, and looks by harmless requests whether it works again.
//!
//! ```text
//! usable ──401, 403──▶ refused ──a probe succeeds──▶ usable
//! ```
//! In the database an account is paused when no living worker has a key that works, and resumed when one has.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::ports::LedgerError;
use super::provider::ProbesKey;
use crate::clock;
use crate::core::ids::AccountName;
use crate::core::outcome::ProviderError;

/// Between two probes of a key that doesn't work, and between two reports of one that does.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);
/// A key whose probes succeed and whose calls are refused is probed ever less often, down to this.
const PROBE_EVERY_MAX: Duration = Duration::from_secs(600);

/// Where it is written down whose keys work.
pub trait KeyLedger: Send + Sync + 'static {
    /// Whether this worker's key of the account works: pauses or resumes the account where that decides it.
    fn key_result(
        &self,
        account: &AccountName,
        works: bool,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// Which accounts this worker can send with; shared by all stages.
#[derive(Debug)]
pub struct AccountKeys {
    keys: HashMap<AccountName, Key>,
}

#[derive(Debug)]
struct Key {
    usable: AtomicBool,
    refused: Notify,
}

impl AccountKeys {
    /// Keys count as usable until a probe or a call is refused.
    pub fn new(accounts: impl IntoIterator<Item = AccountName>) -> Self {
        let key = || Key { usable: AtomicBool::new(true), refused: Notify::new() };
        Self { keys: accounts.into_iter().map(|name| (name, key())).collect() }
    }

    /// Whether calls may be sent with this worker's key; false also where it has none.
    pub fn usable(&self, account: &AccountName) -> bool {
        self.keys.get(account).is_some_and(|key| key.usable.load(Ordering::Acquire))
    }

    /// The provider answered 401 or 403: nothing more is sent with this key until a probe of it succeeds.
    pub fn report_unauthorized(&self, account: &AccountName) {
        if let Some(key) = self.keys.get(account)
            && key.usable.swap(false, Ordering::AcqRel)
        {
            key.refused.notify_one();
        }
    }
}

/// Watches one account's key.
#[derive(Debug)]
pub struct KeyWatch<L, P> {
    pub account: AccountName,
    pub keys: Arc<AccountKeys>,
    pub ledger: L,
    pub provider: P,
    pub pace: Arc<Pace>,
}

impl<L: KeyLedger, P: ProbesKey> KeyWatch<L, P> {
    /// One probe, taken note of here and in the ledger. To be awaited for each account before anything is sent, so
    /// that a wrong key is told at start and not by the first job.
    ///
    /// # Errors
    /// As the provider answers. Only a refusal makes the key unusable: an absent provider says nothing of it.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        let answer = self.provider.probe_key().await;
        match &answer {
            Ok(()) => {
                if let Some(key) = self.keys.keys.get(&self.account) {
                    key.usable.store(true, Ordering::Release);
                }
                self.report(true).await;
            }
            Err(ProviderError::Unauthorized { .. }) => {
                if let Some(key) = self.keys.keys.get(&self.account) {
                    key.usable.store(false, Ordering::Release);
                }
                self.report(false).await;
            }
            Err(_) => {}
        }
        answer
    }

    /// Runs until canceled.
    pub async fn run(self, cancel: CancellationToken) {
        let Some(key) = self.keys.keys.get(&self.account) else { return };
        let mut probe_in = PROBE_EVERY;
        let mut mended_at = None;
        if !key.usable.load(Ordering::Acquire) {
            self.report(false).await;
        }
        loop {
            if key.usable.load(Ordering::Acquire) {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = key.refused.notified() => {}
                    // Again and again: a worker that was taken for dead counts anew.
                    () = tokio::time::sleep(PROBE_EVERY) => self.report(true).await,
                }
                if !key.usable.load(Ordering::Acquire) {
                    // Refused soon after a good probe: the key may look but not call.
                    let soon = mended_at.is_some_and(|at| clock::monotonic() - at < PROBE_EVERY_MAX);
                    probe_in = if soon { (probe_in * 2).min(PROBE_EVERY_MAX) } else { PROBE_EVERY };
                    tracing::error!(
                        account = %self.account, probe_in_s = probe_in.as_secs(),
                        "the API key was refused; nothing is sent with it until it works"
                    );
                    self.report(false).await;
                }
                continue;
            }
            if cancel.run_until_cancelled(tokio::time::sleep(probe_in)).await.is_none()
                || !self.pace.turn(&cancel).await
            {
                return;
            }
            match self.probe().await {
                Ok(()) => {
                    mended_at = Some(clock::monotonic());
                    tracing::info!(account = %self.account, "the API key works again");
                }
                Err(error) => tracing::warn!(account = %self.account, %error, "the API key doesn't work yet"),
            }
        }
    }

    /// A report that fails is made again with the next probe or look.
    async fn report(&self, works: bool) {
        if let Err(error) = self.ledger.key_result(&self.account, works).await {
            tracing::warn!(account = %self.account, %error, "whether the key works could not be written down");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Fake {
        works: Arc<AtomicBool>,
        probes: Arc<Mutex<Vec<Duration>>>,
        reports: Arc<Mutex<Vec<bool>>>,
    }

    impl ProbesKey for (Fake, tokio::time::Instant) {
        async fn probe_key(&self) -> Result<(), ProviderError> {
            self.0.probes.lock().unwrap().push(clock::monotonic() - self.1);
            match self.0.works.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(ProviderError::Unauthorized { status: 401, text: None }),
            }
        }
    }

    impl KeyLedger for Fake {
        async fn key_result(&self, _: &AccountName, works: bool) -> Result<(), LedgerError> {
            self.reports.lock().unwrap().push(works);
            Ok(())
        }
    }

    fn watch(fake: &Fake) -> KeyWatch<Fake, (Fake, tokio::time::Instant)> {
        let account = AccountName::default_account();
        KeyWatch {
            keys: Arc::new(AccountKeys::new([account.clone()])),
            account,
            ledger: fake.clone(),
            provider: (fake.clone(), clock::monotonic()),
            pace: Arc::new(Pace::of_looks(std::num::NonZeroU32::new(2).unwrap())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_key_rests_and_is_probed_until_it_works() {
        let fake = Fake::default();
        let watch = watch(&fake);
        let (keys, account) = (watch.keys.clone(), watch.account.clone());
        let cancel = CancellationToken::new();
        keys.report_unauthorized(&account);
        keys.report_unauthorized(&account);
        assert!(!keys.usable(&account));
        let mend = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert!(!keys.usable(&account));
            fake.works.store(true, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(61)).await;
            assert!(keys.usable(&account));
            cancel.cancel();
        };
        tokio::join!(watch.run(cancel.clone()), mend);
        let probes: Vec<u64> = fake.probes.lock().unwrap().iter().map(Duration::as_secs).collect();
        assert_eq!(probes, [30, 60, 90, 120]);
        assert_eq!(*fake.reports.lock().unwrap(), [false, false, false, false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_absent_provider_says_nothing_of_a_key_and_a_missing_key_is_not_usable() {
        struct Away;
        impl ProbesKey for Away {
            async fn probe_key(&self) -> Result<(), ProviderError> {
                Err(ProviderError::Unavailable("no route".to_owned()))
            }
        }
        let fake = Fake::default();
        let w = watch(&fake);
        let (keys, account) = (w.keys.clone(), w.account.clone());
        let away =
            KeyWatch { provider: Away, account: w.account, keys: w.keys, ledger: w.ledger, pace: w.pace };
        assert!(away.probe().await.is_err());
        assert!(keys.usable(&account));
        assert!(fake.reports.lock().unwrap().is_empty());
        assert!(!keys.usable(&AccountName::parse("other").unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_may_look_but_not_call_is_tried_ever_less_often() {
        let fake = Fake::default();
        fake.works.store(true, Ordering::Relaxed);
        let watch = watch(&fake);
        let (keys, account) = (watch.keys.clone(), watch.account.clone());
        let cancel = CancellationToken::new();
        let calls = async {
            // Every call is refused.
            for _ in 0..3600 {
                keys.report_unauthorized(&account);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            cancel.cancel();
        };
        tokio::join!(watch.run(cancel.clone()), calls);
        let probes = fake.probes.lock().unwrap().len();
        assert!((5..=10).contains(&probes), "{probes} probes in an hour");
    }
}

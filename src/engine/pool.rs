//! Reading the pools of agents: one reading here, when to read in [`stage`].

pub mod stage;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::ports::LedgerError;
use super::provider::ReadsPools;
use crate::clock;
use crate::core::ids::{AccountName, ModelId, RoutingVersion};
use crate::core::outcome::ProviderError;
use crate::core::phone::E164;
use crate::core::pool::{Change, Known, Listed, Plan, plan};
use crate::core::rules::Compiled;

pub use stage::{PoolStage, PoolTerms};

/// The rules in use, asked anew each time.
#[derive(Clone)]
pub struct RulesNow(Arc<dyn Fn() -> (RoutingVersion, Arc<Compiled>) + Send + Sync>);

impl RulesNow {
    pub fn new(rules: impl Fn() -> (RoutingVersion, Arc<Compiled>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(rules))
    }

    pub fn get(&self) -> (RoutingVersion, Arc<Compiled>) {
        (self.0)()
    }
}

impl fmt::Debug for RulesNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RulesNow").field(&self.get().0).finish()
    }
}

/// A pool as it stood when a reading began.
#[derive(Debug, Clone)]
pub struct Begun {
    pub known: Known,
    /// Tells whether somebody else writes a reading meanwhile.
    pub seen: Option<DateTime<Utc>>,
}

/// Whether a reading was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// So many numbers have come and gone by it.
    Yes { attached: usize, detached: usize },
    /// Somebody else wrote one meanwhile, and nobody can tell which of the two is newer: read again.
    Overtaken,
    /// The rules have changed, and with them perhaps the limits of new numbers.
    OtherRules,
}

/// Written, and no number has come or gone.
pub const UNCHANGED: Written = Written::Yes { attached: 0, detached: 0 };

type Answer<T> = Result<T, LedgerError>;

/// Where pools are written down.
pub trait PoolLedger: Send + Sync + 'static {
    /// Makes rows for agents that have none; they are read soon.
    fn expect(&self, account: &AccountName, agents: &[ModelId]) -> impl Future<Output = Answer<()>> + Send;
    /// Up to a hundred agents of the account to be read: asked for, never read, read longer than `refresh` ago, or
    /// unavailable and not looked for during the last half minute. Those tried longest ago first.
    fn due(
        &self,
        account: &AccountName,
        refresh: Duration,
    ) -> impl Future<Output = Answer<Vec<ModelId>>> + Send;
    /// Takes back the wish to have it read, and tells how it stands. Makes the agent's row where there is none.
    fn begin_reading(
        &self,
        account: &AccountName,
        model: &ModelId,
    ) -> impl Future<Output = Answer<Begun>> + Send;
    /// Writes a reading that counts.
    fn adopt(
        &self,
        model: &ModelId,
        seen: Option<DateTime<Utc>>,
        version: RoutingVersion,
        change: &Change,
        attach: &[Listed],
    ) -> impl Future<Output = Answer<Written>> + Send;
    fn hold_back(
        &self,
        model: &ModelId,
        seen: Option<DateTime<Utc>>,
        doubted: &BTreeSet<E164>,
    ) -> impl Future<Output = Answer<Written>> + Send;
    /// Nothing changes but what went wrong, and when.
    fn keep(&self, model: &ModelId, error: &str) -> impl Future<Output = Answer<()>> + Send;
    fn is_attached(&self, model: &ModelId, number: &E164) -> impl Future<Output = Answer<bool>> + Send;
    /// Holds the agent: the provider doesn't know it.
    fn unavailable(
        &self,
        account: &AccountName,
        model: &ModelId,
        why: &str,
    ) -> impl Future<Output = Answer<()>> + Send;
}

/// What a reading came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Synced {
    Adopted(Change),
    /// It would drop so many numbers, most of the pool; a second reading has to agree.
    HeldBack {
        dropped: usize,
    },
    /// The provider answered with something that is no pool to call from.
    Unusable(String),
    /// No answer.
    Failed(ProviderError),
    /// The provider doesn't know the agent.
    Unavailable {
        why: String,
    },
}

/// An agent to be read, and of whom.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a, L, P> {
    pub account: &'a AccountName,
    pub model: &'a ModelId,
    pub ledger: &'a L,
    pub provider: &'a P,
    pub rules: &'a RulesNow,
}

/// A reading may be overtaken this often before it gives up till next time.
const TRIES: usize = 5;
/// For workers to notice new rules: they look every 250 ms.
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

impl<L: PoolLedger, P: ReadsPools> Reader<'_, L, P> {
    /// Reads the pool and writes down what it came to. `gone`: numbers known to be detached, for we did it.
    ///
    /// # Errors
    /// Where the ledger can't be read or written. What the provider did wrong is no error here: it is written down.
    pub async fn sync(&self, gone: &BTreeSet<E164>) -> Answer<Synced> {
        for _ in 0..TRIES {
            let mut begun = self.ledger.begin_reading(self.account, self.model).await?;
            begun.known.doubted.extend(gone.iter().cloned());
            let reading = self.provider.assistant(self.model).await;
            let plan = plan(&begun.known, &reading);
            match self.write(&begun, &plan).await? {
                Written::Yes { .. } => return Ok(told(plan, reading.err())),
                Written::Overtaken => {}
                Written::OtherRules => tokio::time::sleep(BETWEEN_TRIES).await,
            }
        }
        Err(LedgerError::Unavailable("others keep writing this agent's pool; try again".to_owned()))
    }

    async fn write(&self, begun: &Begun, plan: &Plan) -> Answer<Written> {
        match plan {
            Plan::Adopt(change) => {
                let (version, rules) = self.rules.get();
                let attach: Vec<Listed> =
                    change.attach.iter().map(|entry| Listed::new(entry, &rules)).collect();
                self.ledger.adopt(self.model, begun.seen, version, change, &attach).await
            }
            Plan::HoldBack { doubted } => self.ledger.hold_back(self.model, begun.seen, doubted).await,
            Plan::Keep { error } => self.ledger.keep(self.model, error).await.map(|()| UNCHANGED),
            Plan::Unavailable { why } => {
                self.ledger.unavailable(self.account, self.model, why).await.map(|()| UNCHANGED)
            }
        }
    }
}

/// Reads pools again after the provider has refused caller IDs. Refusals come in bursts: questions that come while a
/// reading is under way share the next one.
#[derive(Debug, Default)]
pub struct Recheck {
    /// By agent: when its last reading began.
    begun: Mutex<HashMap<ModelId, Arc<tokio::sync::Mutex<Option<Instant>>>>>,
}

impl Recheck {
    /// Whether the number is attached, by a reading that began after the question. `None`: it couldn't be read, or
    /// two readings disagree.
    pub async fn still_attached<L: PoolLedger, P: ReadsPools>(
        &self,
        reader: &Reader<'_, L, P>,
        number: &E164,
    ) -> Option<bool> {
        let asked = clock::monotonic();
        let begun = {
            let mut agents = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(agents.entry(reader.model.clone()).or_default())
        };
        let mut last = begun.lock().await;
        if last.is_none_or(|last| last < asked) {
            let now = clock::monotonic();
            let mut synced = reader.sync(&BTreeSet::new()).await;
            if let Ok(Synced::HeldBack { .. }) = synced {
                synced = reader.sync(&BTreeSet::new()).await;
            }
            if !matches!(synced, Ok(Synced::Adopted(_))) {
                return None;
            }
            *last = Some(now);
        }
        reader.ledger.is_attached(reader.model, number).await.ok()
    }
}

fn told(plan: Plan, error: Option<ProviderError>) -> Synced {
    match (plan, error) {
        (Plan::Adopt(change), _) => Synced::Adopted(change),
        (Plan::HoldBack { doubted }, _) => Synced::HeldBack { dropped: doubted.len() },
        (Plan::Unavailable { why }, _) => Synced::Unavailable { why },
        (Plan::Keep { .. }, Some(error)) => Synced::Failed(error),
        (Plan::Keep { error }, None) => Synced::Unusable(error),
    }
}

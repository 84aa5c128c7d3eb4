//! The provider accounts of a worker: their clients and keys, and what answers say of them beyond one call.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metered::Metered;
use crate::cli::Failure;
use crate::clock;
use crate::config::Config;
use crate::core::call::{ATTEMPT_VARIABLE, PlaceCall};
use crate::core::decide::World;
use crate::core::events::EventTypes;
use crate::core::ids::{AccountName, CampaignId, ModelId};
use crate::core::outcome::{Answer, NotSentCause, Sent};
use crate::core::phone::E164;
use crate::core::reconcile::Patience;
use crate::core::rules::Limits;
use crate::core::states::Reason;
use crate::engine::accounts::{AccountKeys, KeyWatch};
use crate::engine::dispatch::AccountsHere;
use crate::engine::ends::{EndsStage, EndsTerms};
use crate::engine::hints::{self, HintStage};
use crate::engine::ledger::LedgerError;
use crate::engine::pace::Pace;
use crate::engine::place::{Caller, Desk, Posted};
use crate::engine::pool::{PoolStage, PoolTerms, Reader, Recheck, RulesNow};
use crate::engine::reconcile::ReconcileStage;
use crate::http::{Door, Webhooks};
use crate::store::stops::{self, CampaignTo};
use crate::store::{ConfiguredAccount, Ledger, agent_unavailable, ensure_accounts};
use crate::synthflow::{Client, ClientConfig};
use crate::telemetry::Metrics;

/// What a worker needs of one account.
#[derive(Debug)]
struct Account {
    client: Client,
    limits: Limits,
    /// `None`: everybody may be called.
    only_phones: Option<BTreeSet<E164>>,
    /// How often the provider is asked about anything but placing.
    pace: Arc<Pace>,
    /// Rung when a call was placed.
    placed: Arc<Notify>,
    /// Rung when nobody knows whether one was.
    unconfirmed: Arc<Notify>,
}

#[derive(Debug)]
pub(super) struct Accounts {
    accounts: HashMap<AccountName, Account>,
    keys: Arc<AccountKeys>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    dry_run: bool,
    events: EventTypes,
    recheck: Recheck,
    /// Set once the world is known.
    rules: OnceLock<RulesNow>,
}

impl Accounts {
    pub(super) fn new(
        config: &Config,
        ledger: &Arc<Ledger>,
        metrics: &Arc<Metrics>,
        dry_run: bool,
    ) -> Result<Self, Failure> {
        let mut accounts = HashMap::new();
        for (name, given) in &config.accounts {
            let Some(key) = &given.api_key else { continue };
            let mut settings = ClientConfig::new(given.base_url.clone(), key.clone());
            settings.idle_connections_max = usize::try_from(config.worker.max_inflight).unwrap_or(usize::MAX);
            let client = Client::new(&settings)
                .map_err(|error| Failure::new(error).at(format!("accounts.{name}.base_url")))?;
            let limits = Limits {
                per_second: given.calls_per_second,
                concurrent: given.concurrent_calls,
                ..Limits::UNLIMITED
            };
            let account = Account {
                client,
                limits,
                only_phones: given.only_phones.clone(),
                pace: Arc::new(Pace::of_looks(config.calls.reads_per_second)),
                placed: Arc::default(),
                unconfirmed: Arc::default(),
            };
            accounts.insert(name.clone(), account);
        }
        let keys = Arc::new(AccountKeys::new(accounts.keys().cloned()));
        Ok(Self {
            accounts,
            keys,
            ledger: Arc::clone(ledger),
            metrics: Arc::clone(metrics),
            dry_run,
            events: config.events,
            recheck: Recheck::default(),
            rules: OnceLock::new(),
        })
    }

    pub(super) fn names(&self) -> Vec<AccountName> {
        self.accounts.keys().cloned().collect()
    }

    pub(super) fn limits(&self) -> HashMap<AccountName, Limits> {
        self.accounts.iter().map(|(name, account)| (name.clone(), account.limits)).collect()
    }

    /// Rows of the ledger for the accounts, with the limits of the configuration.
    pub(super) async fn ensure(&self) -> Result<(), LedgerError> {
        let configured: Vec<ConfiguredAccount> = self
            .accounts
            .iter()
            .map(|(name, account)| ConfiguredAccount {
                name: name.clone(),
                calls_per_second: account.limits.per_second,
                concurrent_calls: account.limits.concurrent,
            })
            .collect();
        for unlimited in self.accounts.iter().filter(|(_, a)| a.limits == Limits::UNLIMITED).map(|(n, _)| n) {
            tracing::warn!(account = %unlimited, "account.unlimited: neither calls_per_second nor concurrent_calls is set");
        }
        ensure_accounts(self.ledger.pool(), &configured).await
    }

    /// Starts what watches each account: its key, its agents' pools, the ends of its calls.
    pub(super) async fn watch(
        &self,
        config: &Config,
        world: &watch::Receiver<Arc<World>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let seen = world.clone();
        let rules = RulesNow::new(move || {
            let world = seen.borrow();
            (world.version, Arc::clone(&world.rules))
        });
        let rules = self.rules.get_or_init(|| rules).clone();
        let lease = config.worker.lease;
        for (name, account) in &self.accounts {
            let keys = KeyWatch {
                account: name.clone(),
                keys: Arc::clone(&self.keys),
                ledger: Ledger::clone(&self.ledger),
                provider: account.client.clone(),
                pace: Arc::clone(&account.pace),
            };
            if let Err(error) = keys.probe().await {
                tracing::warn!(account = %name, error = %error, "account.probe.failed");
            }
            tasks.spawn(keys.run(stop.clone()));
            let pools = PoolStage {
                account: name.clone(),
                ledger: self.metered(&self.ledger.pool_ledger()),
                provider: self.metered(&account.client),
                duties: Ledger::clone(&self.ledger),
                keys: Arc::clone(&self.keys),
                pace: Arc::clone(&account.pace),
                rules: rules.clone(),
                terms: PoolTerms { refresh: config.pool.refresh, lease },
            };
            tasks.spawn(pools.run(stop.clone()));
            let ends = EndsStage {
                account: name.clone(),
                ledger: self.metered(self.ledger.as_ref()),
                provider: self.metered(&account.client),
                duties: Ledger::clone(&self.ledger),
                keys: Arc::clone(&self.keys),
                pace: Arc::clone(&account.pace),
                terms: EndsTerms { poll: config.calls.poll, live_max: config.calls.live_max, lease },
                placed: Arc::clone(&account.placed),
            };
            tasks.spawn(ends.run(stop.clone()));
            let reconcile = ReconcileStage {
                account: name.clone(),
                ledger: self.metered(self.ledger.as_ref()),
                provider: self.metered(&account.client),
                duties: Ledger::clone(&self.ledger),
                keys: Arc::clone(&self.keys),
                pace: Arc::clone(&account.pace),
                world: world.clone(),
                patience: Patience { quarantine: config.reconcile.quarantine },
                lease,
                unconfirmed: Arc::clone(&account.unconfirmed),
            };
            tasks.spawn(reconcile.run(stop.clone()));
        }
    }

    /// Takes webhooks of the accounts that have a secret, from here on.
    pub(super) fn listen(
        &self,
        config: &Config,
        webhooks: &Webhooks,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let mut doors = HashMap::new();
        for (name, account) in &self.accounts {
            let Some(secret) = config.accounts.get(name).and_then(|given| given.webhook_secret.clone())
            else {
                continue;
            };
            let (inbox, hints) = hints::inbox();
            let stage = HintStage {
                account: name.clone(),
                ledger: self.metered(self.ledger.as_ref()),
                provider: self.metered(&account.client),
                keys: Arc::clone(&self.keys),
                pace: Arc::new(Pace::of_looks(config.calls.reads_per_second)),
                hints,
            };
            tasks.spawn(stage.run(stop.clone()));
            doors.insert(name.clone(), Door { secret, inbox });
        }
        webhooks.open(doors);
    }
}

impl AccountsHere for Accounts {
    fn usable(&self, account: &AccountName) -> bool {
        self.keys.usable(account)
    }

    fn may_call(&self, account: &AccountName, phone: &E164) -> bool {
        let only = self.accounts.get(account).and_then(|a| a.only_phones.as_ref());
        only.is_none_or(|only| only.contains(phone))
    }
}

impl Caller for Accounts {
    async fn warm(&self, account: &AccountName) {
        if let Some(here) = self.accounts.get(account) {
            // Whatever it answers, the connection is open.
            drop(here.client.probe_key().await);
        }
    }

    async fn place(&self, account: &AccountName, call: &PlaceCall, send_before: Instant) -> Posted {
        match self.accounts.get(account) {
            Some(_) if self.dry_run => {
                Posted { sent: not_sent_at_all(call), left_by: Some(clock::monotonic()) }
            }
            Some(here) => self.post(here, account, call, send_before).await,
            // Dispatch asks for nothing with an account that isn't here.
            None => Posted { sent: Sent::NotSent(NotSentCause::TooLate), left_by: None },
        }
    }
}

impl Accounts {
    fn metered<T: Clone>(&self, inner: &T) -> Metered<T> {
        Metered { inner: inner.clone(), metrics: Arc::clone(&self.metrics) }
    }

    async fn post(
        &self,
        here: &Account,
        account: &AccountName,
        call: &PlaceCall,
        send_before: Instant,
    ) -> Posted {
        let began = clock::monotonic();
        self.metrics.posts_in_flight.inc();
        let posted = here.client.place(call, send_before).await;
        self.metrics.posts_in_flight.dec();
        let status = match &posted.sent {
            Sent::Answered(answer) => Some(answer.status),
            Sent::Unclear(_) => None,
            // There was no POST.
            Sent::NotSent(_) => return posted,
        };
        self.metrics.answer(account.as_str(), status, posted.left_by.unwrap_or(began).elapsed());
        posted
    }
}

/// What a dry run takes for the provider's answer.
fn not_sent_at_all(call: &PlaceCall) -> Sent {
    let attempt = call.variable(ATTEMPT_VARIABLE).unwrap_or_default();
    let body = serde_json::json!({ "response": { "call_id": format!("dry-run-{attempt}") } });
    Sent::Answered(Answer { status: 200, body: body.to_string().into_bytes(), retry_after: None })
}

impl Desk for Accounts {
    async fn unauthorized(&self, account: &AccountName) {
        self.keys.report_unauthorized(account);
    }

    async fn agent_unavailable(&self, account: &AccountName, model: &ModelId, why: &str) {
        if let Err(error) = agent_unavailable(self.ledger.pool(), account, model, why).await {
            tracing::warn!(agent = %model, error = %error, "agent.unavailable.unwritten");
        }
    }

    async fn still_attached(&self, account: &AccountName, model: &ModelId, number: &E164) -> Option<bool> {
        let here = self.accounts.get(account)?;
        let reader = Reader {
            account,
            model,
            ledger: &self.metered(&self.ledger.pool_ledger()),
            provider: &self.metered(&here.client),
            rules: self.rules.get()?,
        };
        self.recheck.still_attached(&reader, number).await
    }

    fn unconfirmed(&self, account: &AccountName) {
        if let Some(here) = self.accounts.get(account) {
            here.unconfirmed.notify_one();
        }
    }

    fn placed(&self, account: &AccountName) {
        if let Some(here) = self.accounts.get(account) {
            here.placed.notify_one();
        }
    }

    async fn refused_in_a_row(&self, campaign: &CampaignId) {
        let reason = Some(Reason::ProviderRejected.as_str());
        let paused =
            stops::set_campaign(self.ledger.pool(), campaign, CampaignTo::Paused, reason, self.events).await;
        match paused {
            Ok(_) => {
                tracing::error!(campaign = %campaign, "campaign.paused: the provider refused five jobs in a row");
            }
            Err(error) => tracing::warn!(campaign = %campaign, error = %error, "campaign.pause.failed"),
        }
    }
}

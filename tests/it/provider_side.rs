//! A sandbox, a database and a worker's ledger between them: for tests of what is learned of the provider.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use outdial::core::events::EventTypes;
use outdial::core::ids::{AccountName, ModelId, RoutingVersion};
use outdial::core::rules::{Compiled, Limits, Settings};
use outdial::engine::accounts::AccountKeys;
use outdial::engine::pace::Pace;
use outdial::engine::pool::{Reader, RulesNow, Synced};
use outdial::store::{self, ConfiguredAccount, Ledger, Pools, Purpose};
use outdial::synthflow::sandbox::{AccountConfig, AgentConfig, Sandbox, SandboxConfig};
use outdial::synthflow::{Client, ClientConfig};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{Database, database};

pub const AGENT: &str = "agent-1";
pub const KEY: &str = "the-right-key";
pub const LEASE: Duration = Duration::from_secs(10);

pub struct Side {
    pub sandbox: Sandbox,
    pub db: PgPool,
    pub account: AccountName,
    pub model: ModelId,
    pub url: String,
    _database: Database,
}

impl Side {
    /// A sandbox with one account and one agent of these numbers; `change` may say more.
    pub async fn new(numbers: &[&str], change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let mut config = SandboxConfig {
            accounts: vec![AccountConfig { name: "default".into(), key: KEY.into(), ..Default::default() }],
            agents: vec![AgentConfig {
                model_id: AGENT.into(),
                name: "Acme outbound".into(),
                numbers: numbers.iter().map(|n| serde_json::from_value((*n).into()).unwrap()).collect(),
                ..AgentConfig::default()
            }],
            ..SandboxConfig::default()
        };
        change(&mut config);
        let database = database().await;
        let url = SecretString::from(database.url.clone());
        let db = store::connect(&url, Purpose::Steps, 8, Duration::from_secs(10)).await.unwrap();
        let account = AccountName::default_account();
        let configured =
            ConfiguredAccount { name: account.clone(), calls_per_second: None, concurrent_calls: None };
        store::ensure_accounts(&db, &[configured]).await.unwrap();
        Self {
            sandbox: Sandbox::start(config).await.unwrap(),
            db,
            account,
            model: ModelId::parse(AGENT).unwrap(),
            url: database.url.clone(),
            _database: database,
        }
    }

    pub fn client(&self, key: &str) -> Client {
        Client::new(&ClientConfig::new(self.sandbox.base_url(), SecretString::from(key.to_owned()))).unwrap()
    }

    pub fn pools(&self) -> Pools {
        Pools::new(self.db.clone(), EventTypes::all())
    }

    /// A worker's ledger, registered.
    pub async fn worker(&self) -> Ledger {
        Ledger::register(self.db.clone(), LEASE, EventTypes::all(), false).await.unwrap()
    }

    pub fn keys(&self) -> Arc<AccountKeys> {
        Arc::new(AccountKeys::new([self.account.clone()]))
    }

    /// No rules applied; the default limits are those given.
    pub fn rules(&self, limits: Limits) -> RulesNow {
        let mut settings = Settings::default();
        settings.defaults.number_limits = limits;
        let rules = Arc::new(Compiled::new(settings));
        RulesNow::new(move || (RoutingVersion(0), Arc::clone(&rules)))
    }

    /// Reads the agent's pool once.
    pub async fn sync(&self) -> Synced {
        let (provider, rules) = (self.client(KEY), self.rules(Limits::UNLIMITED));
        let reader = Reader {
            account: &self.account,
            model: &self.model,
            ledger: &self.pools(),
            provider: &provider,
            rules: &rules,
        };
        reader.sync(&Default::default()).await.unwrap()
    }

    pub async fn attached(&self) -> Vec<String> {
        sqlx::query_scalar("select number from outdial.pool where model_id = $1 and attached order by number")
            .bind(AGENT)
            .fetch_all(&self.db)
            .await
            .unwrap()
    }

    /// One number that a query without parameters gives.
    pub async fn count(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("select ({query})::bigint")))
            .fetch_one(&self.db)
            .await
            .unwrap()
    }

    /// One text that a query without parameters gives.
    pub async fn text(&self, query: &str) -> Option<String> {
        sqlx::query_scalar(AssertSqlSafe(format!("select ({query})::text")))
            .fetch_one(&self.db)
            .await
            .unwrap()
    }
}

/// So fast that it holds nothing up.
pub fn hurry() -> Arc<Pace> {
    Arc::new(Pace::new(NonZeroU32::new(1000).unwrap(), NonZeroU32::new(1000).unwrap()))
}

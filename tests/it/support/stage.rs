//! The whole of outdial on a stage: database, virtual host, sandbox, and as many workers as a test wants.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use outdial::synthflow::sandbox::{LedgerEntry, Sandbox, SandboxConfig};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use super::{Database, Outdial, Vhost, database, eventually, vhost};

/// The sandbox's key of the account `default`.
pub const KEY: &str = "sandbox-key";
/// The agent of most tests.
pub const AGENT: &str = "agent-1";
/// Every callee's name: one that stands in no other text.
pub const NAME: &str = "Ada Canarybird";
/// Far more than anything takes that a test waits for, on a machine that does much else.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Stage {
    pub database: Database,
    pub vhost: Vhost,
    pub sandbox: Sandbox,
    pub db: PgPool,
}

/// Numbers that libphonenumber takes for valid: Californian, n of them.
pub fn callees(n: usize) -> impl Iterator<Item = String> {
    (0..n).map(|i| format!("+1415{:03}{:04}", 200 + i / 10_000, i % 10_000))
}

/// The n-th number of a pool; 628 is Californian.
pub fn number(n: usize) -> String {
    format!("+1628666{:04}", 1000 + n)
}

pub fn numbers(n: usize) -> Vec<String> {
    (0..n).map(number).collect()
}

/// A sandbox with one agent and the given pool, fast and generous.
pub fn sandbox_config(pool: &[String]) -> SandboxConfig {
    let listed: Vec<String> = pool.iter().map(|n| format!("{n:?}")).collect();
    let text = format!(
        "seed = 1\ntime_scale = 200.0\nlatency_ms = {{ min = 1, max = 5 }}\n\
         [[account]]\nname = \"default\"\nkey = \"{KEY}\"\n\
         [[agent]]\nmodel_id = \"{AGENT}\"\nname = \"Agent\"\naccount = \"default\"\nnumbers = [{}]\n",
        listed.join(", ")
    );
    SandboxConfig::from_toml(&text).unwrap()
}

/// The rule that most tests route by: every attached number, least used first.
pub const ANY_NUMBER: &str = "[[rule]]\nname = \"any\"\nstrategy = \"least_used\"\n";

impl Stage {
    pub async fn new(config: SandboxConfig) -> Self {
        Self::on(config, database().await, vhost().await).await
    }

    /// On servers of the test's own choice.
    pub async fn on(config: SandboxConfig, database: Database, vhost: Vhost) -> Self {
        let sandbox = Sandbox::start(config).await.unwrap();
        let db = PgPool::connect(&database.url).await.unwrap();
        Self { database, vhost, sandbox, db }
    }

    pub fn env(&self) -> HashMap<String, String> {
        [
            ("DATABASE_URL", self.database.url.clone()),
            ("AMQP_URL", self.vhost.url.clone()),
            ("SYNTHFLOW_BASE_URL", self.sandbox.base_url()),
            ("SYNTHFLOW_API_KEY", KEY.to_owned()),
            ("OUTDIAL__HTTP__LISTEN", "127.0.0.1:0".to_owned()),
            ("OUTDIAL__CALLS__POLL", "200ms".to_owned()),
            // Each connection plans every statement for itself, and a suite starts hundreds of workers.
            ("OUTDIAL__DATABASE__CONNECTIONS_MAX", "5".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    pub fn start(&self, arguments: &[&str], more: &[(&str, &str)]) -> Outdial {
        let mut env = self.env();
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let env: Vec<(&str, &str)> =
            env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Outdial::start(arguments, &env)
    }

    /// A worker, once it is at work.
    pub async fn worker(&self, more: &[(&str, &str)]) -> Outdial {
        let worker = self.start(&["worker"], more);
        worker.line(Duration::from_secs(30), "worker.started").await;
        worker
    }

    /// Runs a command to its end and gives what it printed.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let (status, output) = self.start(arguments, &[]).wait(Duration::from_secs(30)).await;
        assert!(status.success(), "outdial {arguments:?}: {status}\n{output}");
        output
    }

    /// Applies routing: `calling_rules = "none"` is added to the defaults.
    pub async fn route(&self, limits: &str, rest: &str) {
        self.route_with(&format!("number_limits = {{ {limits} }}"), rest).await;
    }

    /// The same, with other defaults.
    pub async fn route_with(&self, defaults: &str, rest: &str) {
        self.apply(&format!("[defaults]\ncalling_rules = \"none\"\n{defaults}\n{rest}")).await;
    }

    /// Applies a routing file as it stands.
    pub async fn apply(&self, text: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        self.run(&["routing", "apply", file.path().to_str().unwrap()]).await;
    }

    /// Campaigns that exist already, paused.
    pub async fn paused(&self, campaigns: &[&str]) {
        let query = "with seen as (select outdial.see_campaigns($1)) select count(*) from seen";
        let _: i64 = sqlx::query_scalar(query).bind(campaigns).fetch_one(&self.db).await.unwrap();
        for campaign in campaigns {
            self.run(&["campaign", "pause", campaign]).await;
        }
    }

    pub async fn resume(&self, campaigns: &[&str]) {
        for campaign in campaigns {
            self.run(&["campaign", "resume", campaign]).await;
        }
    }

    /// Publishes bodies with confirms.
    pub async fn publish(&self, jobs: &[Value]) {
        self.publish_raw(jobs.iter().map(|job| job.to_string().into_bytes())).await;
    }

    pub async fn publish_raw(&self, bodies: impl IntoIterator<Item = Vec<u8>>) {
        self.publish_with(FieldTable::default(), bodies).await;
    }

    /// Publishes with headers, as a publisher must: what isn't confirmed is sent again. A queue whose broker has just
    /// started refuses a message or two.
    pub async fn publish_with(&self, headers: FieldTable, bodies: impl IntoIterator<Item = Vec<u8>>) {
        let mut left: Vec<Vec<u8>> = bodies.into_iter().collect();
        let confirmed = async || {
            left = self.publish_once(&headers, std::mem::take(&mut left)).await;
            left.is_empty().then_some(())
        };
        eventually(LONG, confirmed).await;
    }

    /// Gives back what wasn't confirmed.
    async fn publish_once(&self, headers: &FieldTable, bodies: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let connection = Connection::connect(&self.vhost.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let mut confirms = Vec::new();
        for body in bodies {
            let persistent = BasicProperties::default().with_delivery_mode(2).with_headers(headers.clone());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent =
                channel.basic_publish("outdial.jobs".into(), "jobs".into(), options, &body, persistent).await;
            confirms.push((body, sent));
        }
        let mut left = Vec::new();
        for (body, sent) in confirms {
            let confirmed = match sent {
                Ok(confirm) => confirm.await.is_ok_and(|confirmation| confirmation.is_ack()),
                Err(_) => false,
            };
            if !confirmed {
                left.push(body);
            }
        }
        connection.close(200, "done".into()).await.unwrap();
        left
    }

    /// The POSTs that arrived.
    pub fn posts(&self) -> Vec<LedgerEntry> {
        self.sandbox.ledger().iter().map(|entry| LedgerEntry::clone(entry)).collect()
    }

    /// Waits until the sandbox has seen `n` POSTs.
    pub async fn posted(&self, n: usize, limit: Duration) -> Vec<LedgerEntry> {
        // Without a copy of the whole ledger at each look: the sandbox keeps time in this process.
        eventually(limit, async || (self.sandbox.stats().posts >= n as u64).then_some(())).await;
        self.posts()
    }

    /// Lets a number rest, as a person would.
    pub async fn rest(&self, number: &str) {
        self.run(&["number", "rest", number]).await;
    }

    /// The call to a callee, once it has arrived.
    pub async fn called(&self, phone: &str) -> LedgerEntry {
        self.called_times(phone, 1).await.swap_remove(0)
    }

    /// The calls to a callee, once there are so many.
    pub async fn called_times(&self, phone: &str, n: usize) -> Vec<LedgerEntry> {
        let mut calls = Vec::new();
        let end = outdial::clock::monotonic() + LONG;
        while outdial::clock::monotonic() < end {
            calls = self.posts();
            calls.retain(|post| post.phone.as_deref() == Some(phone));
            if calls.len() >= n {
                return calls;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} calls to {phone}, not {n}; the jobs: {:?}", calls.len(), self.standings().await);
    }

    /// Every job's state and reason, by job id.
    pub async fn standings(&self) -> BTreeMap<String, (String, Option<String>)> {
        let rows: Vec<(String, String, Option<String>)> =
            sqlx::query_as("select job_id, state, reason from reporting.jobs limit 100")
                .fetch_all(&self.db)
                .await
                .unwrap();
        rows.into_iter().map(|(id, state, reason)| (id, (state, reason))).collect()
    }

    /// Waits until a job stands so, and gives its `due_at`.
    pub async fn stands(&self, id: &str, state: &str, reason: Option<&str>) -> Option<DateTime<Utc>> {
        let mut found = None;
        let end = outdial::clock::monotonic() + LONG;
        while outdial::clock::monotonic() < end {
            found = sqlx::query_as("select state, reason, due_at from reporting.jobs where job_id = $1")
                .bind(id)
                .fetch_optional(&self.db)
                .await
                .unwrap();
            match &found {
                Some((is, why, due_at)) if is == state && Option::as_deref(why) == reason => return *due_at,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let found: Option<(String, Option<String>, Option<DateTime<Utc>>)> = found;
        panic!("job {id} stands {found:?}, not {state} {reason:?}; all: {:?}", self.standings().await);
    }

    pub async fn count(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&self.db).await.unwrap()
    }

    /// Waits until so many jobs are in a state (and for a reason, where one is given).
    pub async fn jobs(&self, state: &str, reason: Option<&str>, n: i64, limit: Duration) {
        let query = match reason {
            Some(reason) => {
                format!("select count(*) from reporting.jobs where state = '{state}' and reason = '{reason}'")
            }
            None => format!("select count(*) from reporting.jobs where state = '{state}'"),
        };
        let end = outdial::clock::monotonic() + limit;
        loop {
            let found = self.count(&query).await;
            if found == n {
                return;
            }
            if outdial::clock::monotonic() > end {
                let all: Vec<(String, Option<String>, i64)> =
                    sqlx::query_as("select state, reason, count(*) from reporting.jobs group by 1, 2")
                        .fetch_all(&self.db)
                        .await
                        .unwrap();
                panic!("{found} jobs are {state} {reason:?}, not {n}; all: {all:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A job of a campaign.
pub fn job(id: &str, campaign: &str, phone: &str) -> Value {
    json!({ "job_id": id, "campaign_id": campaign, "phone": phone, "name": NAME, "model_id": AGENT })
}

/// `n` jobs of a campaign, each to another callee.
pub fn jobs(campaign: &str, n: usize) -> Vec<Value> {
    callees(n).enumerate().map(|(i, phone)| job(&format!("{campaign}-{i}"), campaign, &phone)).collect()
}

/// The most calls in any window of `seconds` that slides over the arrivals.
pub fn most_in_window(arrivals_us: impl IntoIterator<Item = u64>, seconds: u64) -> usize {
    let mut arrivals: Vec<u64> = arrivals_us.into_iter().collect();
    arrivals.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (at, arrival) in arrivals.iter().enumerate() {
        while arrivals[first] + seconds * 1_000_000 <= *arrival {
            first += 1;
        }
        most = most.max(at - first + 1);
    }
    most
}

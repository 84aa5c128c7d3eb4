//! One intake between a virtual host and a database of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use outdial::broker::{
    self, Consumer, DeadMessage, DeadQueue, LinkState, Outgoing, PublishError, Publisher, Settings, Target,
};
use outdial::clock;
use outdial::core::events::EventTypes;
use outdial::core::ids::CampaignId;
use outdial::core::job::JobOptions;
use outdial::engine::intake::{Intake, IntakeMeter, Taken};
use outdial::engine::ports::{IntakeTerms, Traces};
use outdial::store::{self, Ledger, Pool, Purpose};
use prometheus_client::metrics::counter::Counter;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::eventually;

pub const SOON: Duration = Duration::from_secs(30);

pub struct Terms;

impl IntakeTerms for Terms {
    fn now(&self) -> DateTime<Utc> {
        clock::wall()
    }
    fn expires_after(&self, _: &CampaignId) -> TimeDelta {
        TimeDelta::days(7)
    }
}

/// A virtual host with the topology, a publisher on it, and a database.
pub struct Ground {
    pub settings: Settings,
    pub pool: Pool,
    pub ledger: Ledger,
    pub publisher: Publisher,
    pub amqp_url: String,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Ground {
    pub async fn new(amqp_url: &str, database_url: &str) -> Self {
        let target = Target::parse(&SecretString::from(amqp_url.to_owned())).unwrap();
        broker::prepare(&target, true, SOON).await.unwrap();
        let settings = Settings { target, declare: true, prefetch: 500 };
        let url = SecretString::from(database_url.to_owned());
        let pool = store::connect(&url, Purpose::Steps, 4, SOON).await.unwrap();
        let ledger =
            Ledger::register(pool.clone(), Duration::from_secs(10), EventTypes::all(), false).await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let publisher = Publisher::start(settings.clone(), "test", &tasks, stop.clone());
        Self { settings, pool, ledger, publisher, amqp_url: amqp_url.to_owned(), tasks, stop }
    }

    pub async fn publish(&self, messages: impl IntoIterator<Item = Outgoing>) {
        let messages: Vec<Outgoing> = messages.into_iter().collect();
        let sent = messages.iter().map(|message| self.publish_one(message));
        futures_util::future::join_all(sent).await;
    }

    /// As a publisher must: what isn't confirmed is sent again. A queue that has just restarted closes a channel or two.
    async fn publish_one(&self, message: &Outgoing) {
        let confirmed = async || match self.publisher.publish(message).await {
            Ok(()) => Some(()),
            Err(PublishError::Unconfirmed(_)) => None,
            Err(error) => panic!("{error}"),
        };
        eventually(SOON, confirmed).await;
    }

    /// An intake at work.
    pub fn intake(&self) -> Running {
        self.intake_with(1_000_000)
    }

    pub fn intake_with(&self, max_waiting: u64) -> Running {
        let (gate, wanted) = watch::channel(true);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let gate_seen = wanted.clone();
        let (inbox, link) =
            Consumer::start(self.settings.clone(), wanted, Counter::default(), &tasks, stop.clone());
        let counts: Arc<Counts> = Arc::default();
        let intake = Intake {
            ledger: Arc::new(self.ledger.clone()),
            terms: Arc::new(Terms),
            options: JobOptions::default(),
            max_waiting,
            gate,
            meter: Arc::clone(&counts) as _,
        };
        let until = stop.clone();
        tasks.spawn(async move { intake.run(inbox, until).await });
        Running { counts, gate: gate_seen, link, tasks, stop }
    }

    pub async fn jobs(&self) -> i64 {
        sqlx::query_scalar("select count(*) from outdial.jobs").fetch_one(&self.pool).await.unwrap_or(-1)
    }

    pub async fn expect_jobs(&self, count: i64) {
        eventually(SOON, async || (self.jobs().await == count).then_some(())).await;
    }

    /// Waits until the queue holds nothing, unacked messages included; a queue that is consumed can't tell, so stop first.
    pub async fn depth(&self, queue: &str) -> u32 {
        let (_connection, channel) = raw(&self.amqp_url).await;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
    }

    pub async fn dead(&self) -> Vec<DeadMessage> {
        let queue = DeadQueue::open(&self.settings.target).await.unwrap();
        let messages = queue.list(10_000).await.unwrap();
        queue.close().await;
        messages
    }

    pub async fn expect_dead(&self, count: u32) {
        eventually(SOON, async || (self.depth(broker::DEAD).await == count).then_some(())).await;
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What an intake has taken.
#[derive(Debug, Default)]
pub struct Counts {
    accepted: AtomicU64,
    duplicates: AtomicU64,
}

impl Counts {
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }
}

impl Traces for Counts {}

impl IntakeMeter for Counts {
    fn message(&self, became: Taken) {
        match became {
            Taken::Accepted => self.accepted.fetch_add(1, Ordering::Relaxed),
            Taken::Duplicate => self.duplicates.fetch_add(1, Ordering::Relaxed),
            Taken::Cancel | Taken::Dead(_) => return,
        };
    }
    fn batch(&self, _: usize) {}
    fn paused(&self, _: bool) {}
    fn statement(&self, _: &'static str, _: Duration, _: bool) {}
}

pub struct Running {
    pub counts: Arc<Counts>,
    pub gate: watch::Receiver<bool>,
    pub link: watch::Receiver<LinkState>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    /// Stops as a worker does: everything settled is acked, the rest stays the broker's.
    pub async fn stop(self) -> Arc<Counts> {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(SOON, self.tasks.wait()).await.unwrap();
        self.counts
    }

    pub async fn up(&mut self) {
        tokio::time::timeout(SOON, self.link.wait_for(|state| *state == LinkState::Up))
            .await
            .unwrap()
            .unwrap();
    }
}

/// A connection that plays by no rules.
pub async fn raw(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

pub async fn get(channel: &Channel, queue: &str) -> Option<lapin::message::Delivery> {
    let message = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
    message.map(|message| message.delivery)
}

pub fn job(id: &str) -> Outgoing {
    job_named(id, "Ada Lovelace")
}

pub fn job_named(id: &str, name: &str) -> Outgoing {
    let body = serde_json::json!({
        "job_id": id, "campaign_id": "spring-sale", "phone": "+1 415 555 2671", "name": name
    });
    message(&body.to_string())
}

pub fn message(body: &str) -> Outgoing {
    Outgoing::job(body.as_bytes().to_vec(), "test", None)
}

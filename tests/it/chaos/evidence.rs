//! What is left when a run is over: the provider's ledger, our records, dead letters and events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use outdial::synthflow::sandbox::LedgerEntry;
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgPool;

/// Hears every event, over any death of the broker.
const EVENTS: &str = "chaos.events";
/// Messages under way to whoever drains a queue.
const AT_ONCE: u16 = 2_000;
/// Longer than a broker with messages takes to send the next.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A POST, and when the call that was made of it began and ended (microseconds since the ledger's start).
#[derive(Debug)]
pub struct Post {
    pub entry: LedgerEntry,
    pub call: Option<(u64, u64)>,
    /// How the call really ended, or will.
    pub end_status: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    entry: LedgerEntry,
    call: Option<Made>,
}

#[derive(Deserialize)]
struct Made {
    began_us: u64,
    script: Script,
}

#[derive(Deserialize)]
struct Script {
    ends_at_ms: Option<f64>,
    end: Ending,
}

#[derive(Deserialize)]
struct Ending {
    status: String,
}

/// Every POST that the provider has received, in order of receipt.
pub fn ledger(file: &Path, time_scale: f64) -> Vec<Post> {
    let text = std::fs::read_to_string(file).unwrap();
    let post = |line: &str| {
        let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        let end_status = line.call.as_ref().map(|made| made.script.end.status.clone());
        let call = line.call.map(|made| {
            let length_us =
                made.script.ends_at_ms.map_or(u64::MAX / 2, |ms| (ms / time_scale * 1_000.0) as u64);
            (made.began_us, made.began_us + length_us)
        });
        Post { entry: line.entry, call, end_status }
    };
    text.lines().map(post).collect()
}

#[derive(Debug, sqlx::FromRow)]
pub struct Attempt {
    pub attempt_id: String,
    pub job_id: String,
    pub phone: String,
    pub campaign_id: String,
    pub from_phone_number: Option<String>,
    pub state: String,
    pub call_id: Option<String>,
    pub provider_status: Option<String>,
    pub slot_us: i64,
    pub caller_id_verified: Option<bool>,
    /// The process that sent it.
    pub pid: Option<i32>,
}

#[derive(Debug, sqlx::FromRow)]
pub struct Job {
    pub job_id: String,
    pub campaign_id: String,
    pub phone: String,
    pub state: String,
    /// Of work, reservations and live.
    pub places: i64,
}

#[derive(Debug, Default)]
pub struct Dead {
    /// Reason by message id.
    pub reasons: HashMap<String, String>,
    /// Jobs of which a copy is there as a conflict.
    pub conflicts: HashSet<String>,
    /// Messages that came more than once.
    pub again: usize,
    /// By the broker itself, which gave up on them.
    pub given_up: usize,
}

pub struct Evidence {
    pub posts: Vec<Post>,
    pub attempts: HashMap<String, Attempt>,
    /// Attempts in review of which a person has said that they were not placed: their jobs were dialed again.
    pub resolved: HashSet<String>,
    pub jobs: BTreeMap<String, Job>,
    pub dead: Dead,
    /// Subjects of the events by type; an event that came again counts once.
    pub events: HashMap<String, HashMap<String, usize>>,
    pub events_again: usize,
    /// Counters of places that differ from a recount, and those that aren't 0.
    pub miscounted: Vec<(String, i32, i64)>,
    pub held: i64,
}

impl Evidence {
    pub async fn gather(db: &PgPool, amqp_url: &str, ledger_file: &Path, time_scale: f64) -> Self {
        let attempts: Vec<Attempt> = sqlx::query_as(
            "select a.attempt_id::text, j.job_id, a.phone, a.campaign_id, a.from_phone_number, a.state, a.call_id, a.provider_status,
                    (extract(epoch from a.slot) * 1000000)::bigint as slot_us, a.caller_id_verified, w.pid
             from outdial.attempts a join outdial.jobs j using (job_no) left join outdial.workers w using (worker_no)",
        )
        .fetch_all(db)
        .await
        .unwrap();
        let jobs: Vec<Job> = sqlx::query_as(
            "select r.job_id, r.campaign_id, j.phone, r.state,
                    (select count(*) from outdial.work w where w.job_no = j.job_no)
                    + (select count(*) from outdial.reservations v where v.job_no = j.job_no)
                    + (select count(*) from outdial.live l where l.job_no = j.job_no) as places
             from reporting.jobs r join outdial.jobs j using (job_id)",
        )
        .fetch_all(db)
        .await
        .unwrap();
        let miscounted = sqlx::query_as(
            "select l.key, l.in_use, u.n from outdial.limits l cross join lateral (
                 select (select count(*) from outdial.reservations r
                         where l.thing_no in (r.number_thing, r.campaign_thing, r.account_thing))
                        + (select count(*) from outdial.live v where v.state <> 'review'
                           and l.thing_no in (v.number_thing, v.campaign_thing, v.account_thing)) as n) u
             where l.in_use <> u.n",
        )
        .fetch_all(db)
        .await
        .unwrap();
        let held = "select coalesce(sum(abs(in_use)), 0)::bigint from outdial.limits";
        let (events, events_again) = events(amqp_url).await;
        Self {
            posts: ledger(ledger_file, time_scale),
            attempts: attempts.into_iter().map(|a| (a.attempt_id.clone(), a)).collect(),
            resolved: HashSet::new(),
            jobs: jobs.into_iter().map(|j| (j.job_id.clone(), j)).collect(),
            dead: dead(amqp_url).await,
            events,
            events_again,
            miscounted,
            held: sqlx::query_scalar(held).fetch_one(db).await.unwrap(),
        }
    }
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// From now on events are kept for [`Evidence`]. The exchange has to be there: a worker declares it.
pub async fn keep_events(amqp_url: &str) {
    let (connection, channel) = channel(amqp_url).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(EVENTS.into(), durable, quorum).await.unwrap();
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(EVENTS.into(), "outdial.events".into(), "#".into(), bind, none).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

/// Messages that wait in the jobs' queue.
pub async fn queued(amqp_url: &str) -> u32 {
    let (connection, channel) = channel(amqp_url).await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("outdial.jobs".into(), passive, FieldTable::default()).await.unwrap();
    let waiting = queue.message_count();
    connection.close(200, "done".into()).await.unwrap();
    waiting
}

/// Takes everything out of a queue to which nobody publishes any more.
async fn drain(amqp_url: &str, queue: &str, mut each: impl FnMut(&Delivery)) {
    let (connection, channel) = channel(amqp_url).await;
    channel.basic_qos(AT_ONCE, BasicQosOptions::default()).await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume(queue.into(), "chaos".into(), options, none).await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let (mut last, mut unacked) = (0, 0);
    loop {
        let next = tokio::time::timeout(PAUSE_MAX, consumer.next()).await;
        if let Ok(message) = &next {
            let message = message.as_ref().unwrap().as_ref().unwrap();
            each(message);
            (last, unacked) = (message.delivery_tag, unacked + 1);
        }
        if unacked == AT_ONCE / 2 || (next.is_err() && unacked > 0) {
            channel.basic_ack(last, BasicAckOptions { multiple: true }).await.unwrap();
            unacked = 0;
        } else if next.is_err() {
            let left = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
            if left.message_count() == 0 {
                break;
            }
        }
    }
    connection.close(200, "done".into()).await.unwrap();
}

async fn dead(amqp_url: &str) -> Dead {
    let mut dead = Dead::default();
    drain(amqp_url, "outdial.dead", |message| {
        let properties = &message.properties;
        let header = |name: &str| {
            let headers = properties.headers().as_ref()?.inner();
            headers.get(name).and_then(AMQPValue::as_long_string).map(|text| text.to_string())
        };
        let Some(reason) = header("x-outdial-reason") else {
            dead.given_up += 1;
            return;
        };
        if reason == "conflict" {
            let body: Value = serde_json::from_slice(&message.data).unwrap();
            dead.conflicts.insert(body["job_id"].as_str().unwrap().to_owned());
        }
        let id = properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        dead.again += usize::from(dead.reasons.insert(id, reason).is_some());
    })
    .await;
    dead
}

async fn events(amqp_url: &str) -> (HashMap<String, HashMap<String, usize>>, usize) {
    let (mut events, mut heard, mut again) = (HashMap::new(), HashSet::new(), 0);
    drain(amqp_url, EVENTS, |message| {
        let event: Value = serde_json::from_slice(&message.data).unwrap();
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        if heard.insert(text("id")) {
            let of_type: &mut HashMap<String, usize> = events.entry(text("type")).or_default();
            *of_type.entry(text("subject")).or_default() += 1;
        } else {
            again += 1;
        }
    })
    .await;
    (events, again)
}

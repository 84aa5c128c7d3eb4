//! The publishers: jobs of several campaigns with confirms, duplicates, conflicting copies and poison among them.
//!
//! What isn't confirmed is published again, as a careful publisher does: so in the end everything is confirmed, and some
//! of it is there more often than anybody knows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use outdial::clock;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::routes::CAMPAIGNS;
use super::schedule::Dice;
use crate::support::stage::job;

/// Messages whose confirms are waited for together.
const BATCH: usize = 100;
const TICK: Duration = Duration::from_millis(100);
const CONFIRM_MAX: Duration = Duration::from_secs(10);

/// What was published, and is confirmed.
#[derive(Debug, Default)]
pub struct Published {
    /// Campaign and callee of each job, by its id.
    pub jobs: BTreeMap<String, (String, String)>,
    /// The dead-letter reason that each poisoned message has earned, by its message id.
    pub poison: BTreeMap<String, &'static str>,
    /// Jobs of which a copy with other content was published.
    pub conflicts: Vec<String>,
    pub duplicates: u64,
    /// Publishes that were not confirmed, and repeated.
    pub repeated: u64,
}

#[derive(Debug, Clone)]
enum Kind {
    Job { id: String, campaign: String, phone: String },
    Duplicate,
    Conflict { id: String },
    Poison { reason: &'static str },
}

#[derive(Debug, Clone)]
struct Message {
    kind: Kind,
    body: Vec<u8>,
    /// Of the message, not of the job.
    id: String,
}

pub struct Publisher {
    url: String,
    dice: Dice,
    made: usize,
    jobs: usize,
    pending: VecDeque<Message>,
    published: Published,
    /// Bodies of jobs that are confirmed, to be published again.
    sent: Vec<Value>,
}

impl Publisher {
    pub fn new(url: &str, seed: u64) -> Self {
        Self {
            url: url.to_owned(),
            dice: Dice(seed ^ 0x10AD),
            made: 0,
            jobs: 0,
            pending: VecDeque::new(),
            published: Published::default(),
            sent: Vec::new(),
        }
    }

    /// So many jobs a second until `stop`, then until everything is confirmed.
    pub async fn run(mut self, jobs_per_second: usize, stop: CancellationToken) -> Published {
        let start = clock::monotonic();
        let mut channel = None;
        loop {
            let stopped = stop.is_cancelled();
            let due = (start.elapsed().as_secs_f64() * jobs_per_second as f64) as usize;
            while !stopped && self.jobs < due && self.pending.len() < BATCH {
                self.make();
            }
            if stopped && self.pending.is_empty() {
                return self.published;
            }
            if self.pending.is_empty() || !self.publish_batch(&mut channel).await {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    fn make(&mut self) {
        let n = self.jobs;
        self.jobs += 1;
        let id = format!("job-{n}");
        let campaign = CAMPAIGNS[self.dice.below(CAMPAIGNS.len() as u64) as usize];
        let phone = format!("+1415{:03}{:04}", 200 + n / 10_000, n % 10_000);
        let mut body = job(&id, campaign, &phone);
        body["priority"] = json!(self.dice.below(10));
        self.push(Kind::Job { id, campaign: campaign.to_owned(), phone }, body.to_string().into_bytes());
        self.sent.push(body);
        match self.dice.below(100) {
            0..10 => self.duplicate(),
            10 => self.conflict(),
            11..13 => self.poison(n),
            _ => {}
        }
    }

    fn push(&mut self, kind: Kind, body: Vec<u8>) {
        self.made += 1;
        self.pending.push_back(Message { kind, body, id: format!("message-{}", self.made) });
    }

    fn some_job(&mut self) -> Value {
        let n = self.dice.below(self.sent.len() as u64) as usize;
        self.sent[n].clone()
    }

    /// Of the same content, in another writing.
    fn duplicate(&mut self) {
        let body = self.some_job();
        let written = serde_json::to_vec_pretty(&body).unwrap();
        self.push(Kind::Duplicate, written);
    }

    fn conflict(&mut self) {
        let mut body = self.some_job();
        body["metadata"] = json!({ "other": true });
        let id = body["job_id"].as_str().unwrap().to_owned();
        self.push(Kind::Conflict { id }, body.to_string().into_bytes());
    }

    fn poison(&mut self, n: usize) {
        let mut body = job(&format!("poison-{n}"), CAMPAIGNS[0], "+14155550100");
        let reason = match self.dice.below(5) {
            0 => return self.push(Kind::Poison { reason: "malformed" }, b"{\"job_id\": ".to_vec()),
            1 => {
                body["from_phone"] = json!("+16286661000");
                "unknown_field"
            }
            2 => {
                body["phone"] = json!("+1415");
                "invalid_phone"
            }
            3 => {
                body.as_object_mut().unwrap().remove("phone");
                "missing_field"
            }
            _ => {
                body["metadata"] = json!({ "much": "x".repeat(70 << 10) });
                "too_large"
            }
        };
        self.push(Kind::Poison { reason }, body.to_string().into_bytes());
    }

    /// False where the broker took nothing.
    async fn publish_batch(&mut self, channel: &mut Option<(Connection, Channel)>) -> bool {
        if channel.as_ref().is_none_or(|(_, channel)| !channel.status().connected()) {
            *channel = open(&self.url).await;
        }
        let Some((_, open)) = channel else { return false };
        let batch: Vec<Message> = self.pending.drain(..self.pending.len().min(BATCH)).collect();
        let mut confirms = Vec::new();
        for message in &batch {
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_message_id(message.id.clone().into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent =
                open.basic_publish("outdial.jobs".into(), "chaos".into(), options, &message.body, properties);
            confirms.push(tokio::time::timeout(CONFIRM_MAX, sent).await);
        }
        let mut all = true;
        for (message, sent) in batch.into_iter().zip(confirms) {
            let confirmed = match sent {
                Ok(Ok(sent)) => {
                    tokio::time::timeout(CONFIRM_MAX, sent).await.is_ok_and(|c| c.is_ok_and(|c| c.is_ack()))
                }
                _ => false,
            };
            if confirmed {
                self.note(message.kind, message.id);
            } else {
                all = false;
                self.published.repeated += 1;
                self.pending.push_back(message);
            }
        }
        if !all {
            *channel = None;
        }
        all
    }

    fn note(&mut self, kind: Kind, id: String) {
        match kind {
            Kind::Job { id, campaign, phone } => drop(self.published.jobs.insert(id, (campaign, phone))),
            Kind::Duplicate => self.published.duplicates += 1,
            Kind::Conflict { id } => self.published.conflicts.push(id),
            Kind::Poison { reason } => drop(self.published.poison.insert(id, reason)),
        }
    }
}

async fn open(url: &str) -> Option<(Connection, Channel)> {
    let opening = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.ok()?;
        let channel = connection.create_channel().await.ok()?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.ok()?;
        Some((connection, channel))
    };
    tokio::time::timeout(CONFIRM_MAX, opening).await.ok().flatten()
}

//! Webhooks of ended calls: what is to be sent and when, and what was sent.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::calls::Call;
use super::config::WebhookConfig;
use super::world::{Moment, World};

/// The lead's phone in the webhook that registering a URL sends.
const TEST_PHONE: &str = "+1123456789";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookKind {
    /// The call has ended: the right one.
    End,
    Double,
    Replay,
    /// A wrong signature, and a lie.
    Forged,
    /// A right signature, and a lie.
    Lie,
    /// A URL was registered.
    Test,
    /// Never sent.
    Dropped,
}

/// A webhook that was sent or dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentWebhook {
    /// From 1, without gaps, in the order in which they were done with.
    pub n: u64,
    pub kind: WebhookKind,
    pub call_id: String,
    /// When it was sent: microseconds since the ledger's start, and since 1970.
    pub mono_us: u64,
    pub at_us: i64,
    /// What it was answered.
    pub status: Option<u16>,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// One to be sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Webhook {
    due_us: u64,
    pub kind: WebhookKind,
    pub call_id: String,
    pub url: String,
    pub body: String,
    pub signature: Option<String>,
}

#[derive(Debug)]
pub enum Next {
    Now(Webhook),
    At(Instant),
    /// Until something changes.
    Nothing,
}

#[derive(Debug)]
pub struct Outbox {
    /// Calls and when, in their own time, they end.
    ends: BinaryHeap<Reverse<(Moment, u64)>>,
    ends_max: usize,
    waiting: BinaryHeap<Reverse<Webhook>>,
    waiting_max: usize,
    on_their_way: usize,
    sent: VecDeque<Arc<SentWebhook>>,
    sent_max: usize,
    recorded: u64,
    news: Arc<Notify>,
}

impl Outbox {
    pub fn new(config: &WebhookConfig, calls_max: usize) -> Self {
        Self {
            ends: BinaryHeap::new(),
            ends_max: calls_max,
            waiting: BinaryHeap::new(),
            waiting_max: config.waiting_max,
            on_their_way: 0,
            sent: VecDeque::new(),
            sent_max: config.memory_max.max(1),
            recorded: 0,
            news: Arc::new(Notify::new()),
        }
    }

    pub fn news(&self) -> Arc<Notify> {
        self.news.clone()
    }

    /// What comes next may come at another time now.
    pub fn changed(&self) {
        self.news.notify_one();
    }

    pub fn call_will_end(&mut self, at_ms: f64, ordinal: u64) {
        // Above that calls are forgotten, too.
        if self.ends.len() < self.ends_max {
            self.ends.push(Reverse((Moment(at_ms), ordinal)));
            self.changed();
        }
    }

    /// All that are going on.
    pub fn calls_end_at(&mut self, now_ms: f64) {
        let all = std::mem::take(&mut self.ends);
        self.ends = all.into_iter().map(|Reverse((_, ordinal))| Reverse((Moment(now_ms), ordinal))).collect();
        self.changed();
    }

    fn pop_ended(&mut self, now_ms: f64) -> Option<u64> {
        let Reverse((at, _)) = self.ends.peek()?;
        (at.0 <= now_ms).then(|| self.ends.pop().map(|Reverse((_, ordinal))| ordinal))?
    }

    fn pop_due(&mut self, now_us: u64) -> Option<Webhook> {
        let Reverse(first) = self.waiting.peek()?;
        let due = if first.due_us <= now_us { self.waiting.pop() } else { None };
        self.on_their_way += usize::from(due.is_some());
        due.map(|Reverse(webhook)| webhook)
    }

    /// At most `limit` with a number above `after`, in order.
    pub fn sent_after(&self, after: u64, limit: usize) -> Vec<Arc<SentWebhook>> {
        let first = self.sent.front().map_or(0, |sent| sent.n);
        let skip = (after + 1).saturating_sub(first) as usize;
        self.sent.iter().skip(skip).take(limit).cloned().collect()
    }

    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Those that wait for their time, and those on their way.
    pub fn outstanding(&self) -> usize {
        self.waiting.len() + self.on_their_way
    }

    fn record(&mut self, mut sent: SentWebhook) {
        self.recorded += 1;
        sent.n = self.recorded;
        if self.sent.len() == self.sent_max {
            self.sent.pop_front();
        }
        self.sent.push_back(Arc::new(sent));
    }
}

impl World {
    /// The webhook whose time has come, or when there will be one.
    pub fn next_webhook(&mut self) -> Next {
        let now_us = self.timeline.now_us();
        let now_ms = self.timeline.call_ms(now_us);
        while let Some(ordinal) = self.webhooks.pop_ended(now_ms) {
            self.tell_of_end(ordinal, now_us, now_ms);
        }
        if let Some(webhook) = self.webhooks.pop_due(now_us) {
            return Next::Now(webhook);
        }
        let due_us = self.webhooks.waiting.peek().map(|Reverse(webhook)| webhook.due_us);
        let end_ms = self.webhooks.ends.peek().map(|Reverse((at, _))| at.0).filter(|at| at.is_finite());
        // A microsecond more, so that rounding doesn't make it come too soon.
        let end_us = end_ms.map(|at_ms| self.timeline.real_us(at_ms) + 1);
        match due_us.into_iter().chain(end_us).min() {
            Some(at_us) => Next::At(self.timeline.instant(at_us)),
            None => Next::Nothing,
        }
    }

    pub fn webhook_sent(&mut self, webhook: &Webhook, sent_us: u64, outcome: Result<u16, String>) {
        self.webhooks.on_their_way = self.webhooks.on_their_way.saturating_sub(1);
        let (status, error) = match outcome {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error)),
        };
        self.record_webhook(webhook.kind, webhook.call_id.clone(), sent_us, status, error);
    }

    fn record_webhook(
        &mut self,
        kind: WebhookKind,
        call_id: String,
        mono_us: u64,
        status: Option<u16>,
        error: Option<String>,
    ) {
        let at_us = self.timeline.wall_us(mono_us);
        self.webhooks.record(SentWebhook { n: 0, kind, call_id, mono_us, at_us, status, error });
    }

    fn send(&mut self, webhook: Webhook) {
        let error = match check_url(&webhook.url) {
            Ok(()) if self.webhooks.waiting.len() < self.webhooks.waiting_max => {
                self.webhooks.waiting.push(Reverse(webhook));
                return self.webhooks.changed();
            }
            Ok(()) => "too many are waiting".to_owned(),
            Err(error) => error,
        };
        self.record_webhook(WebhookKind::Dropped, webhook.call_id, webhook.due_us, None, Some(error));
    }

    fn tell_of_end(&mut self, ordinal: u64, now_us: u64, now_ms: f64) {
        let Some(call) = self.calls.at(ordinal) else { return };
        let Some(first) = self.webhook_of(call, now_us, now_ms) else { return };
        let fate = call.made.fate.clone();
        if fate.webhook_dropped {
            return self.record_webhook(WebhookKind::Dropped, first.call_id, now_us, None, None);
        }
        let first = Webhook { due_us: now_us + fate.webhook_delay_ms * 1000, ..first };
        if fate.webhook_doubled {
            self.send(Webhook { kind: WebhookKind::Double, ..first.clone() });
        }
        if let Some(after_ms) = fate.webhook_replay_ms {
            let due_us = first.due_us + after_ms * 1000;
            self.send(Webhook { kind: WebhookKind::Replay, due_us, ..first.clone() });
        }
        self.send(first);
    }

    /// The forged one and the lie, if the call just made is to have them.
    pub fn lie_about_last_call(&mut self) {
        let now_us = self.timeline.now_us();
        let last = self.calls.next_ordinal().saturating_sub(1);
        let Some(call) = self.calls.at(last) else { return };
        let fate = &call.made.fate;
        let lies = [(WebhookKind::Forged, fate.webhook_forge_ms), (WebhookKind::Lie, fate.webhook_lie_ms)];
        for (kind, after_ms) in lies {
            let (Some(call), Some(after_ms)) = (self.calls.at(last), after_ms) else { continue };
            let Some(truth) = self.webhook_of(call, now_us, 0.0) else { continue };
            let before = last.checked_sub(1).and_then(|before| self.calls.at(before));
            let others =
                before.filter(|_| kind == WebhookKind::Lie).map_or(&call.variables, |c| &c.variables);
            let mut body = self.body_of(call, 0.0);
            body["lead"]["prompt_variables"] = Value::Object(others.clone());
            body["call"]["status"] = json!("completed");
            body["call"]["end_call_reason"] = json!("human_goodbye");
            body["call"]["duration"] = json!(61);
            let signature = match kind {
                WebhookKind::Forged => Some(sign("not the secret", &call.call_id)),
                _ => truth.signature,
            };
            let due_us = now_us + after_ms * 1000;
            self.send(Webhook { kind, due_us, body: body.to_string(), signature, ..truth });
        }
    }

    /// Gives the agent a URL (or none), and sends the vendor's test there. Err: what is wrong.
    pub fn register_webhook(&mut self, model_id: &str, url: Option<String>) -> Result<(), String> {
        url.as_deref().map_or(Ok(()), check_url)?;
        let call_id = format!("test-{}", self.dice().next());
        let now_us = self.timeline.now_us();
        let agent = self.agents.get_mut(model_id).ok_or_else(|| format!("there is no agent {model_id:?}"))?;
        agent.webhook = url.clone();
        let secret = self.accounts.get(&agent.account).and_then(|a| a.config.webhook_secret.as_deref());
        let signature = secret.map(|secret| sign(secret, &call_id));
        let body = json!({
            "status": "completed", "error_message": null,
            "lead": { "name": "Test", "phone_number": TEST_PHONE, "prompt_variables": {} },
            "call": { "status": "completed", "end_call_reason": "human_goodbye", "model_id": model_id,
                "timezone": null, "call_id": call_id, "duration": 0, "start_time": null, "transcript": "",
                "recording_url": null },
            "executed_actions": {}, "analysis": {}, "collected_variables": {},
        });
        if let Some(url) = url {
            let kind = WebhookKind::Test;
            self.send(Webhook { due_us: now_us, kind, call_id, url, body: body.to_string(), signature });
        }
        Ok(())
    }

    /// The right one, due now; `None`: its agent has no URL.
    fn webhook_of(&self, call: &Call, now_us: u64, now_ms: f64) -> Option<Webhook> {
        let agent = self.agents.get(&call.model_id)?;
        let url = call.webhook_url.clone().or_else(|| agent.webhook.clone())?;
        let secret = self.accounts.get(&agent.account)?.config.webhook_secret.as_deref();
        Some(Webhook {
            due_us: now_us,
            kind: WebhookKind::End,
            call_id: call.call_id.clone(),
            url,
            body: self.body_of(call, now_ms).to_string(),
            signature: secret.map(|secret| sign(secret, &call.call_id)),
        })
    }

    fn body_of(&self, call: &Call, now_ms: f64) -> Value {
        let end = &call.made.script.end;
        let hidden = |text: &str| if call.redacted { Value::Null } else { Value::from(text) };
        let started = chrono::DateTime::from_timestamp_millis(call.received_wall_ms);
        let mut body = json!({
            "status": "completed",
            "error_message": end.error,
            "lead": {
                "name": hidden(&call.name),
                "phone_number": hidden(&call.phone),
                "prompt_variables": call.variables,
            },
            "call": {
                "status": end.status,
                "end_call_reason": end.reason,
                "model_id": call.model_id,
                "timezone": null,
                "call_id": call.call_id,
                "duration": call.duration_s(now_ms),
                "start_time": started.map(|at| at.to_rfc3339()),
                "transcript": "",
                "recording_url": call.recording_url(now_ms),
            },
            "executed_actions": {}, "analysis": {}, "collected_variables": {},
        });
        if self.config.webhooks.caller {
            body["call"]["phone_number_from"] = json!(call.made.from);
        }
        body
    }
}

/// Base64 of the HMAC-SHA256 of the call id, and of nothing else.
pub fn sign(secret: &str, call_id: &str) -> String {
    // A key of any length will do, so this can't fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(call_id.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// Err: why nothing is sent to it.
pub fn check_url(url: &str) -> Result<(), String> {
    let parsed = reqwest::Url::parse(url).map_err(|fault| format!("{url:?} is no URL: {fault}"))?;
    let host = parsed.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if parsed.scheme() == "http" && loopback {
        Ok(())
    } else {
        Err(format!(
            "{url:?}: webhooks go to http:// on loopback only, as http://127.0.0.1:8080/webhooks/synthflow"
        ))
    }
}

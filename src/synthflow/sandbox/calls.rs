//! The calls the sandbox has accepted, and how they are told.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::StatusKey;
use super::faults::CallFate;
use super::script::Script;

/// What a call is beside the POST that it was made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    /// The caller ID of its record.
    pub from: Option<String>,
    /// When it began: microseconds since the ledger's start.
    pub began_us: u64,
    pub script: Script,
    #[serde(default)]
    pub fate: CallFate,
}

#[derive(Debug)]
pub struct Call {
    pub call_id: String,
    pub model_id: String,
    pub name: String,
    pub phone: String,
    pub variables: Map<String, Value>,
    /// Real microseconds since the ledger's start, and the same as milliseconds since 1970.
    pub received_us: u64,
    pub received_wall_ms: i64,
    /// The calls' own time at which it began; its script says how it goes from there.
    pub began_ms: f64,
    pub redacted: bool,
    /// Of the POST, for the webhook.
    pub webhook_url: Option<String>,
    pub made: Made,
}

impl Call {
    pub fn status(&self, now_ms: f64) -> &str {
        self.made.script.status_at(now_ms - self.began_ms)
    }

    pub fn ends_ms(&self) -> f64 {
        self.began_ms + self.made.script.ends_at_ms
    }

    pub fn has_ended(&self, now_ms: f64) -> bool {
        now_ms >= self.ends_ms()
    }

    pub fn duration_s(&self, now_ms: f64) -> Option<u64> {
        self.has_ended(now_ms).then(|| self.made.script.duration_s())
    }

    /// As a list tells it: numbers as strings, nulls, no custom variables.
    pub fn listed(&self, now_ms: f64) -> Value {
        let ended = self.has_ended(now_ms);
        let hidden = |text: &str| if self.redacted { Value::Null } else { Value::from(text) };
        json!({
            "call_id": self.call_id,
            "call_status": self.status(now_ms),
            "model_id": self.model_id,
            "name": hidden(&self.name),
            "lead_name": hidden(&self.name),
            "lead_phone_number": hidden(&self.phone),
            "agent_phone_number": self.made.from,
            "phone_number_from": self.made.from,
            "phone_number_to": hidden(&self.phone),
            "start_time": self.received_wall_ms.to_string(),
            "duration": self.duration_s(now_ms).map(|s| s.to_string()),
            "end_call_reason": ended.then_some(&self.made.script.end.reason),
            "error_message": self.made.script.end.error.as_ref().filter(|_| ended),
            "type_of_call": "outbound",
            "timezone": null,
            "recording_url": self.recording_url(now_ms),
            "transcript": null,
            "telephony_duration": null,
            "telephony_start": null,
            "telephony_end": null,
        })
    }

    /// As a look-up of this one call tells it.
    pub fn record(&self, now_ms: f64, status_key: StatusKey) -> Value {
        let mut record = self.listed(now_ms);
        if let Value::Object(fields) = &mut record {
            let status = fields.remove("call_status").unwrap_or_default();
            let key = match status_key {
                StatusKey::Status => "status",
                StatusKey::CallStatus => "call_status",
            };
            fields.insert(key.to_owned(), status);
            fields.insert("prompt_variables".to_owned(), Value::Object(self.variables.clone()));
        }
        record
    }

    pub fn recording_url(&self, now_ms: f64) -> Option<String> {
        let spoken = self.duration_s(now_ms).is_some_and(|s| s > 0);
        spoken.then(|| format!("https://recordings.invalid/{}.mp3", self.call_id))
    }
}

/// Numbered by receipt; the oldest are forgotten first.
#[derive(Debug)]
pub struct Calls {
    kept: VecDeque<Call>,
    /// The number of the oldest one kept.
    first: u64,
    max: usize,
    by_id: HashMap<String, u64>,
    by_agent: HashMap<String, Ordinals>,
}

/// The numbers of an agent's calls, in order.
#[derive(Debug, Default)]
struct Ordinals {
    all: VecDeque<u64>,
    /// Of the calls to one callee.
    by_phone: HashMap<String, VecDeque<u64>>,
}

/// What a list asks for. All of it is optional but the agent.
#[derive(Debug, Default)]
pub struct Wanted {
    pub model_id: String,
    /// Milliseconds since 1970; `to` exclusive.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    pub status: Option<String>,
    pub phone: Option<String>,
    pub duration_min_s: Option<u64>,
    pub duration_max_s: Option<u64>,
    pub only_ended: bool,
    /// Real microseconds: now, and how long after its POST a call is in no list.
    pub now_us: u64,
    pub lag_us: u64,
}

impl Calls {
    pub fn new(max: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            first: 0,
            max: max.max(1),
            by_id: HashMap::new(),
            by_agent: HashMap::new(),
        }
    }

    /// When the last call was received, in milliseconds since 1970.
    pub fn last_wall_ms(&self) -> i64 {
        self.kept.back().map_or(0, |call| call.received_wall_ms)
    }

    /// The number the next call gets.
    pub fn next_ordinal(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    pub fn push(&mut self, call: Call) {
        if self.kept.len() == self.max {
            self.forget_oldest();
        }
        let ordinal = self.next_ordinal();
        self.by_id.insert(call.call_id.clone(), ordinal);
        let of_agent = self.by_agent.entry(call.model_id.clone()).or_default();
        of_agent.all.push_back(ordinal);
        of_agent.by_phone.entry(call.phone.clone()).or_default().push_back(ordinal);
        self.kept.push_back(call);
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.first += 1;
            self.by_id.remove(&oldest.call_id);
            if let Some(of_agent) = self.by_agent.get_mut(&oldest.model_id) {
                of_agent.all.pop_front();
                if let Some(of_phone) = of_agent.by_phone.get_mut(&oldest.phone) {
                    of_phone.pop_front();
                    if of_phone.is_empty() {
                        of_agent.by_phone.remove(&oldest.phone);
                    }
                }
            }
        }
    }

    pub fn at(&self, ordinal: u64) -> Option<&Call> {
        self.kept.get(ordinal.checked_sub(self.first)? as usize)
    }

    pub fn get(&self, call_id: &str) -> Option<&Call> {
        self.at(*self.by_id.get(call_id)?)
    }

    /// The calls wanted, oldest first. Times of receipt never fall, so the window is found by halving.
    pub fn wanted(&self, wanted: &Wanted, now_ms: f64) -> Vec<&Call> {
        let ordinals = self.by_agent.get(&wanted.model_id).and_then(|of_agent| match &wanted.phone {
            Some(phone) => of_agent.by_phone.get(phone),
            None => Some(&of_agent.all),
        });
        let Some(ordinals) = ordinals else { return Vec::new() };
        let before = |limit: i64| {
            ordinals.partition_point(|&n| self.at(n).is_some_and(|call| call.received_wall_ms < limit))
        };
        let start = wanted.from_ms.map_or(0, before);
        let end = wanted.to_ms.map_or(ordinals.len(), before).max(start);
        let in_window = ordinals.range(start..end).filter_map(|&n| self.at(n));
        in_window.filter(|call| wanted.matches(call, now_ms)).collect()
    }

    /// Every call kept, with the calls' own time at which it ends.
    pub fn ends(&self) -> impl Iterator<Item = (&str, f64)> {
        self.kept.iter().map(|call| (call.call_id.as_str(), call.ends_ms()))
    }

    /// Ends every call that is going on, now.
    pub fn end_all(&mut self, now_ms: f64) -> usize {
        let live = self.kept.iter_mut().filter(|call| !call.has_ended(now_ms));
        live.map(|call| {
            let age_ms = (now_ms - call.began_ms).max(0.0);
            call.made.script.ends_at_ms = age_ms;
            call.made.script.answered_at_ms = call.made.script.answered_at_ms.min(age_ms);
        })
        .count()
    }
}

impl Wanted {
    fn matches(&self, call: &Call, now_ms: f64) -> bool {
        let duration_s = || call.duration_s(now_ms).unwrap_or(0);
        let lag_us = self.lag_us.max(call.made.fate.list_lag_ms * 1000);
        self.now_us >= call.received_us + lag_us
            && self.status.as_deref().is_none_or(|status| call.status(now_ms) == status)
            // A workspace that redacts has nothing left to compare with.
            && self.phone.as_deref().is_none_or(|phone| !call.redacted && call.phone == phone)
            && self.duration_min_s.is_none_or(|min| duration_s() >= min)
            && self.duration_max_s.is_none_or(|max| duration_s() <= max)
            && (!self.only_ended || call.has_ended(now_ms))
    }
}

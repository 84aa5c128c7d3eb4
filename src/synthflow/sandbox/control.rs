//! What a test may do to a running sandbox, in process or under `/sandbox/`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{Guesses, NumberConfig, Span};
use super::world::{Agent, World};

/// What happens to the next POSTs instead of the usual.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Override {
    /// For so many POSTs that fit.
    #[serde(default = "one")]
    pub count: u32,
    #[serde(default)]
    pub model_id: Option<String>,
    #[serde(default)]
    pub phone: Option<String>,
    #[serde(default)]
    pub from_phone_number: Option<String>,
    /// Whether a call is made of it none the less, whatever is answered.
    #[serde(default)]
    pub place: bool,
    #[serde(default)]
    pub delay_ms: u64,
    #[serde(flatten)]
    pub action: Action,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// The usual answer, only later.
    AsUsual,
    Answer {
        status: u16,
        /// Absent: a `detail` object.
        #[serde(default)]
        body: Option<Value>,
        #[serde(default)]
        retry_after_s: Option<u64>,
    },
    /// A status without a body.
    Empty { status: u16 },
    /// No answer while the client waits.
    Hang,
    /// The connection is closed without an answer.
    Close,
    /// The usual answer, broken off in its body.
    Cut,
}

impl Override {
    /// The next `count` POSTs, whoever they are for; no call is made of them.
    pub fn next(count: u32, action: Action) -> Self {
        Self {
            count,
            model_id: None,
            phone: None,
            from_phone_number: None,
            place: false,
            delay_ms: 0,
            action,
        }
    }

    /// The same, but the call is made.
    pub fn but_place(mut self) -> Self {
        self.place = true;
        self
    }

    pub fn fits(&self, body: &Value) -> bool {
        let same = |wanted: &Option<String>, field: &str| {
            wanted.as_deref().is_none_or(|wanted| body.get(field).and_then(Value::as_str) == Some(wanted))
        };
        same(&self.model_id, "model_id")
            && same(&self.phone, "phone")
            && same(&self.from_phone_number, "from_phone_number")
    }
}

/// A change of an account; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountChange {
    pub key: Option<String>,
    pub key_valid: Option<bool>,
    /// `null` lifts the limit.
    #[serde(deserialize_with = "given")]
    pub calls_per_second: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    pub concurrent_calls: Option<Option<u32>>,
    pub redact_pii: Option<bool>,
}

/// Tells a `null` from an absent key.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// A change of how the sandbox behaves; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    pub time_scale: Option<f64>,
    pub latency_ms: Option<Span>,
    pub guesses: Option<Guesses>,
    /// Reading an agent is answered with this status instead; `null`: as usual again.
    #[serde(deserialize_with = "given")]
    pub assistant_status: Option<Option<u16>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub posts: u64,
    pub calls: u64,
    pub live_calls: usize,
}

impl World {
    pub fn change_account(&mut self, name: &str, change: AccountChange) -> Result<(), String> {
        let account = self.accounts.get_mut(name).ok_or_else(|| format!("there is no account {name:?}"))?;
        let config = &mut account.config;
        config.key = change.key.unwrap_or_else(|| config.key.clone());
        config.calls_per_second = change.calls_per_second.unwrap_or(config.calls_per_second);
        config.concurrent_calls = change.concurrent_calls.unwrap_or(config.concurrent_calls);
        config.redact_pii = change.redact_pii.unwrap_or(config.redact_pii);
        account.key_valid = change.key_valid.unwrap_or(account.key_valid);
        Ok(())
    }

    /// Replaces an agent's pool; an agent not known yet is made, for `account`.
    pub fn set_pool(
        &mut self,
        account: &str,
        model_id: &str,
        numbers: Vec<NumberConfig>,
    ) -> Result<(), String> {
        if !self.accounts.contains_key(account) {
            return Err(format!("there is no account {account:?}"));
        }
        let agent = self.agents.entry(model_id.to_owned()).or_insert_with(|| Agent {
            account: account.to_owned(),
            name: model_id.to_owned(),
            kind: "outbound".to_owned(),
            pool: Vec::new(),
        });
        agent.pool = numbers;
        Ok(())
    }

    pub fn remove_agent(&mut self, model_id: &str) -> bool {
        self.agents.remove(model_id).is_some()
    }

    pub fn change_settings(&mut self, change: SettingsChange) -> Result<(), String> {
        let mut config = self.config.clone();
        config.time_scale = change.time_scale.unwrap_or(config.time_scale);
        config.latency_ms = change.latency_ms.unwrap_or(config.latency_ms);
        config.guesses = change.guesses.unwrap_or(config.guesses);
        config.check().map_err(|faults| faults.to_string())?;
        if config.time_scale != self.config.time_scale {
            self.timeline.rescale(config.time_scale);
        }
        self.config = config;
        self.assistant_status = change.assistant_status.unwrap_or(self.assistant_status);
        Ok(())
    }

    pub fn stats(&mut self) -> Stats {
        let now_ms = self.timeline.call_ms(self.timeline.now_us());
        Stats {
            posts: self.ledger.received(),
            calls: self.calls.next_ordinal(),
            live_calls: self.accounts.values_mut().map(|account| account.live_calls(now_ms)).sum(),
        }
    }
}

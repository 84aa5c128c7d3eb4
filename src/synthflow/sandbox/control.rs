//! What a test may do to a running sandbox, in process or under `/sandbox/`.

use serde::{Deserialize, Serialize};

use super::config::{Guesses, NumberConfig, Span};
use super::faults::{Fault, FaultTable, check_faults};
use super::world::{Agent, World};

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
    /// `null`: webhooks are not signed.
    #[serde(deserialize_with = "given")]
    pub webhook_secret: Option<Option<String>>,
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
    /// Webhooks that were sent, or dropped by a fault, and those that wait for their time or are on their way.
    pub webhooks: u64,
    pub webhooks_waiting: usize,
}

impl World {
    pub fn change_account(&mut self, name: &str, change: AccountChange) -> Result<(), String> {
        let account = self.accounts.get_mut(name).ok_or_else(|| format!("there is no account {name:?}"))?;
        let config = &mut account.config;
        config.key = change.key.unwrap_or_else(|| config.key.clone());
        config.calls_per_second = change.calls_per_second.unwrap_or(config.calls_per_second);
        config.concurrent_calls = change.concurrent_calls.unwrap_or(config.concurrent_calls);
        config.redact_pii = change.redact_pii.unwrap_or(config.redact_pii);
        config.webhook_secret = change.webhook_secret.unwrap_or_else(|| config.webhook_secret.clone());
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
            webhook: None,
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
            self.webhooks.changed();
        }
        self.config = config;
        self.assistant_status = change.assistant_status.unwrap_or(self.assistant_status);
        Ok(())
    }

    /// Replaces the table of faults; its time begins now. Err: what is wrong with it, and nothing is changed.
    pub fn set_faults(&mut self, entries: Vec<Fault>) -> Result<(), String> {
        check_faults(&entries).map_err(|faults| faults.join("\n"))?;
        self.faults = FaultTable { entries, since_us: self.timeline.now_us() };
        Ok(())
    }

    pub fn stats(&mut self) -> Stats {
        let now_ms = self.timeline.call_ms(self.timeline.now_us());
        Stats {
            posts: self.ledger.received(),
            calls: self.calls.next_ordinal(),
            live_calls: self.accounts.values_mut().map(|account| account.live_calls(now_ms)).sum(),
            webhooks: self.webhooks.recorded(),
            webhooks_waiting: self.webhooks.outstanding(),
        }
    }
}

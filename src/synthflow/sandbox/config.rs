//! What a sandbox is made of: a TOML file, or values in a test.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::faults::{Fault, check_faults};
use super::webhooks::check_url;

/// The sample, which is also what runs where no file is named.
const SAMPLE: &str = include_str!("../../../config/sandbox.toml");

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// With the ordinal of a call it decides how that call goes.
    pub seed: u64,
    /// Seconds of a call's life that pass in one real second. CAPS and latency are always in real time.
    pub time_scale: f64,
    /// How long an answer takes.
    pub latency_ms: Span,
    /// Ledger entries kept in memory; the oldest go first, and the entry numbers show the gap.
    pub ledger_memory_max: usize,
    /// Calls remembered; the oldest are forgotten first.
    pub calls_max: usize,
    pub script: ScriptConfig,
    pub guesses: Guesses,
    pub webhooks: WebhookConfig,
    /// Decided for each request; none: it all goes well.
    #[serde(rename = "fault")]
    pub faults: Vec<Fault>,
    #[serde(rename = "account")]
    pub accounts: Vec<AccountConfig>,
    #[serde(rename = "agent")]
    pub agents: Vec<AgentConfig>,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            time_scale: 1.0,
            latency_ms: Span { min: 0, max: 0 },
            ledger_memory_max: 500_000,
            calls_max: 500_000,
            script: ScriptConfig::default(),
            guesses: Guesses::default(),
            webhooks: WebhookConfig::default(),
            faults: Vec::new(),
            accounts: Vec::new(),
            agents: Vec::new(),
        }
    }
}

/// From `min` to `max`, both included, all equally likely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    pub min: u64,
    pub max: u64,
}

/// How calls go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptConfig {
    pub queue_ms: Span,
    pub ring_ms: Span,
    /// Of a conversation.
    pub talk_ms: Span,
    /// Of a voicemail's announcement, or of a message left.
    pub voicemail_ms: Span,
    /// Final status → weight.
    pub outcomes: BTreeMap<String, u32>,
    /// Callee → final status, whatever the seed says.
    pub outcomes_by_phone: BTreeMap<String, String>,
}

impl Default for ScriptConfig {
    fn default() -> Self {
        // A live page of 100 calls.
        let outcomes = [
            ("hangup_on_voicemail", 80),
            ("no-answer", 7),
            ("failed", 5),
            ("completed", 4),
            ("left_voicemail", 4),
        ];
        Self {
            queue_ms: Span { min: 100, max: 1_500 },
            ring_ms: Span { min: 3_000, max: 25_000 },
            talk_ms: Span { min: 20_000, max: 180_000 },
            voicemail_ms: Span { min: 4_000, max: 30_000 },
            outcomes: outcomes.into_iter().map(|(status, weight)| (status.to_owned(), weight)).collect(),
            outcomes_by_phone: BTreeMap::new(),
        }
    }
}

/// What public sources leave open: each a switch, so that the worker can be tried against either answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guesses {
    /// A `from_phone_number` that is not attached to the agent.
    pub unattached_from: BadNumber,
    /// A `phone` that is no phone number.
    pub bad_phone: BadNumber,
    /// Whether `custom_variables` may be an object, too.
    pub variables_object: bool,
    /// Until then, a look-up of a call placed just now answers 404 (real milliseconds).
    pub fresh_call_404_ms: u64,
    /// Until then, no list tells of a call placed just now (real milliseconds).
    pub list_lag_ms: u64,
    pub list_order: ListOrder,
    /// Whether a list tells of a call from the start, or only once it has ended.
    pub list_only_ended: bool,
    /// Whether a 200 carries `eta`.
    pub eta: bool,
    /// The name of the status in a single record.
    pub record_status_key: StatusKey,
    /// Whether `response.assistants` is an array or an object.
    pub assistant_in_object: bool,
    /// Whether a call of an agent without any number waits in `queue` for ever, or fails.
    pub no_number_queues: bool,
    /// Whether requests answered 429 use up the account's calls a second.
    pub caps_count_refused: bool,
    /// Seconds in the `Retry-After` of a 429; absent: no such header.
    pub retry_after_s: Option<u64>,
    /// Over its concurrency a call waits so long for room (real milliseconds) before it is refused with 429.
    pub concurrency_wait_ms: u64,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            unattached_from: BadNumber::Reject400,
            bad_phone: BadNumber::Reject400,
            variables_object: true,
            fresh_call_404_ms: 0,
            list_lag_ms: 0,
            list_order: ListOrder::NewestFirst,
            list_only_ended: false,
            eta: false,
            record_status_key: StatusKey::Status,
            assistant_in_object: false,
            no_number_queues: true,
            caps_count_refused: false,
            retry_after_s: None,
            concurrency_wait_ms: 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadNumber {
    /// Answered 400 at once.
    #[serde(rename = "reject400")]
    Reject400,
    /// Accepted; the call's record is `failed`.
    RecordFailed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListOrder {
    NewestFirst,
    OldestFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusKey {
    Status,
    CallStatus,
}

/// How the webhooks of ended calls are sent, to agents that have a URL for them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// The header that carries the signature.
    pub header: String,
    /// Whether `call` names the caller ID (`phone_number_from`).
    pub caller: bool,
    /// On their way at the same time.
    pub concurrent_max: usize,
    /// For one to be answered.
    pub timeout_ms: u64,
    /// Waiting for their time; above it they are dropped, and recorded so.
    pub waiting_max: usize,
    /// Kept of what was sent; the oldest go first.
    pub memory_max: usize,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            header: "synthflow-signature".to_owned(),
            caller: true,
            concurrent_max: 16,
            timeout_ms: 5_000,
            waiting_max: 100_000,
            memory_max: 200_000,
        }
    }
}

/// A workspace with its key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    pub name: String,
    pub key: String,
    /// CAPS: calls accepted in any second. Absent: unlimited.
    #[serde(default)]
    pub calls_per_second: Option<u32>,
    /// Calls that have not ended. Absent: unlimited.
    #[serde(default)]
    pub concurrent_calls: Option<u32>,
    /// Its id in `GET /v2/numbers?workspace=…`; absent: its name.
    #[serde(default)]
    pub workspace: Option<String>,
    /// Numbers it owns beside those attached to its agents.
    #[serde(default)]
    pub numbers: Vec<NumberConfig>,
    /// Whether lists and records leave out names and phones.
    #[serde(default)]
    pub redact_pii: bool,
    /// Signs its webhooks; absent: they carry no signature.
    #[serde(default)]
    pub webhook_secret: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    pub model_id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default = "default_account")]
    pub account: String,
    #[serde(default = "default_kind", rename = "type")]
    pub kind: String,
    /// The pool: `"+1…"`, or `{ number = "+1…", sid = "PN…", slug = "1…" }`.
    #[serde(default)]
    pub numbers: Vec<NumberConfig>,
    /// Where the webhooks of its calls go, on loopback; absent: nowhere. A POST's own goes before it.
    #[serde(default)]
    pub external_webhook_url: Option<String>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            model_id: String::new(),
            name: String::new(),
            account: default_account(),
            kind: default_kind(),
            numbers: Vec::new(),
            external_webhook_url: None,
        }
    }
}

fn default_account() -> String {
    "default".to_owned()
}

fn default_kind() -> String {
    "outbound".to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "NumberForm")]
pub struct NumberConfig {
    pub number: String,
    /// Absent for imported numbers.
    pub sid: Option<String>,
    pub slug: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberForm {
    Plain(String),
    Full { number: String, sid: Option<String>, slug: Option<String> },
}

impl From<NumberForm> for NumberConfig {
    fn from(form: NumberForm) -> Self {
        let (number, sid, slug) = match form {
            NumberForm::Plain(number) => (number, None, None),
            NumberForm::Full { number, sid, slug } => (number, sid, slug),
        };
        let slug = slug.unwrap_or_else(|| number.trim_start_matches('+').to_owned());
        Self { number, sid, slug }
    }
}

impl From<&str> for NumberConfig {
    fn from(number: &str) -> Self {
        NumberForm::Plain(number.to_owned()).into()
    }
}

/// What is wrong with a configuration: every fault, a line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox's configuration is wrong:\n{}", .0.join("\n"))]
pub struct ConfigFaults(pub Vec<String>);

impl SandboxConfig {
    pub fn from_toml(text: &str) -> Result<Self, ConfigFaults> {
        let config: Self = toml::from_str(text).map_err(|fault| ConfigFaults(vec![fault.to_string()]))?;
        config.check()?;
        Ok(config)
    }

    /// The one of `config/sandbox.toml`.
    pub fn sample() -> Result<Self, ConfigFaults> {
        Self::from_toml(SAMPLE)
    }

    pub fn check(&self) -> Result<(), ConfigFaults> {
        let mut faults = Vec::new();
        let mut fault = |text: String| faults.push(text);
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            fault(format!("time_scale = {}: give a number above 0", self.time_scale));
        }
        let spans = [
            ("latency_ms", self.latency_ms),
            ("script.queue_ms", self.script.queue_ms),
            ("script.ring_ms", self.script.ring_ms),
            ("script.talk_ms", self.script.talk_ms),
            ("script.voicemail_ms", self.script.voicemail_ms),
        ];
        for (key, span) in spans.iter().filter(|(_, span)| span.min > span.max) {
            fault(format!("{key}: min {} is above max {}", span.min, span.max));
        }
        if self.script.outcomes.values().all(|&weight| weight == 0) {
            fault("script.outcomes: give at least one status a weight above 0".to_owned());
        }
        if reqwest::header::HeaderName::from_bytes(self.webhooks.header.as_bytes()).is_err() {
            fault(format!("webhooks.header: {:?} is no name of a header", self.webhooks.header));
        }
        if !(1..=1_000).contains(&self.webhooks.concurrent_max) || self.webhooks.timeout_ms == 0 {
            fault("webhooks: give concurrent_max 1 to 1000, and timeout_ms at least 1".to_owned());
        }
        check_faults(&self.faults).unwrap_or_else(|texts| texts.into_iter().for_each(&mut fault));
        if self.accounts.is_empty() {
            fault("no [[account]]: give at least one, with name and key".to_owned());
        }
        self.check_accounts(&mut fault);
        if faults.is_empty() { Ok(()) } else { Err(ConfigFaults(faults)) }
    }

    fn check_accounts(&self, fault: &mut impl FnMut(String)) {
        let (mut names, mut keys, mut agents) = (HashSet::new(), HashSet::new(), HashSet::new());
        for account in &self.accounts {
            if account.key.is_empty() || !keys.insert(&account.key) {
                fault(format!("account {:?}: its key is empty or another's", account.name));
            }
            if !names.insert(account.name.as_str()) {
                fault(format!("account {:?} is there twice", account.name));
            }
        }
        for agent in &self.agents {
            if !names.contains(agent.account.as_str()) {
                fault(format!("agent {:?}: there is no account {:?}", agent.model_id, agent.account));
            }
            if let Err(text) = agent.external_webhook_url.as_deref().map_or(Ok(()), check_url) {
                fault(format!("agent {:?}: external_webhook_url: {text}", agent.model_id));
            }
            if !agents.insert(&agent.model_id) {
                fault(format!("agent {:?} is there twice", agent.model_id));
            }
        }
    }
}

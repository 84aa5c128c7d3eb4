//! Each documented behaviour of the stand-in, through the real client where the client can ask for it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod calls;
mod control;
mod death;
mod faults;
mod ledger;
mod reads;
mod webhooks;

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::clock;
use crate::core::call::{ATTEMPT_VARIABLE, CallRecord, ListCalls, PlaceCall};
use crate::core::ids::{CallId, ModelId};
use crate::core::outcome::{NotPlaced, PlaceOutcome, ProviderError, Sent, Verdict, judge};
use crate::core::phone::E164;
use crate::synthflow::{Client, ClientConfig};

const AGENT: &str = "agent-1";
const FROM: &str = "+16286666348";
const SPARE: &str = "+16285550199";

fn config() -> SandboxConfig {
    SandboxConfig {
        accounts: vec![AccountConfig {
            name: "default".into(),
            key: "key-1".into(),
            numbers: vec![SPARE.into()],
            ..AccountConfig::default()
        }],
        agents: vec![AgentConfig {
            model_id: AGENT.into(),
            name: "Acme".into(),
            numbers: vec![FROM.into()],
            ..AgentConfig::default()
        }],
        ..SandboxConfig::default()
    }
}

/// Every call is answered at once and spoken for a minute: none ends while a test looks.
fn everyone_talks(config: &mut SandboxConfig) {
    config.script.outcomes = BTreeMap::from([("completed".to_owned(), 1)]);
    config.script.queue_ms = Span { min: 0, max: 0 };
    config.script.ring_ms = Span { min: 0, max: 0 };
    config.script.talk_ms = Span { min: 60_000, max: 60_000 };
}

async fn start(config: SandboxConfig) -> (Sandbox, Client) {
    let sandbox = Sandbox::start(config).await.unwrap();
    let client = client(&sandbox, "key-1");
    (sandbox, client)
}

fn client(sandbox: &Sandbox, key: &str) -> Client {
    Client::new(&ClientConfig::new(sandbox.base_url(), SecretString::from(key))).unwrap()
}

/// Waits a second for an answer, and no longer: for those that never come.
fn hasty(sandbox: &Sandbox) -> Client {
    let mut config = ClientConfig::new(sandbox.base_url(), SecretString::from("key-1"));
    config.timeout = Duration::from_secs(1);
    Client::new(&config).unwrap()
}

fn model_id() -> ModelId {
    ModelId::parse(AGENT).unwrap()
}

fn number(text: &str) -> E164 {
    E164::from_canonical(text).unwrap()
}

fn call(n: u32) -> PlaceCall {
    PlaceCall {
        model_id: model_id(),
        phone: number(&format!("+1415555{n:04}")),
        name: format!("Lead {n}"),
        from_phone_number: Some(number(FROM)),
        custom_variables: vec![(ATTEMPT_VARIABLE.to_owned(), format!("attempt-{n}"))],
        prompt: None,
        greeting: None,
        lead_email: None,
        lead_timezone: None,
        traceparent: None,
    }
}

async fn send(client: &Client, call: &PlaceCall) -> Sent {
    client.place(call, clock::monotonic() + Duration::from_secs(60)).await.sent
}

async fn place(client: &Client, call: &PlaceCall) -> Verdict {
    judge(&send(client, call).await, call.from_phone_number.is_some())
}

async fn placed(client: &Client, call: &PlaceCall) -> CallId {
    match place(client, call).await {
        Verdict { outcome: PlaceOutcome::Placed { call_id }, .. } => call_id,
        other => unreachable!("{other:?}"),
    }
}

fn list(limit: u32, offset: u32) -> ListCalls {
    ListCalls { model_id: model_id(), from: None, to: None, limit, offset, lead_phone_number: None }
}

fn why(sandbox: &Sandbox) -> Vec<String> {
    sandbox.ledger().iter().map(|entry| entry.why.clone()).collect()
}

/// What the client won't ask, asked anyway.
async fn raw(sandbox: &Sandbox, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let url = format!("http://{}{path}", sandbox.address());
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request =
        reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap().request(method, url);
    request = request.bearer_auth("key-1");
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

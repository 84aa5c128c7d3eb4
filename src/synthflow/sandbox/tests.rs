//! Each documented behaviour of the stand-in, through the real client where the client can ask for it.

#![expect(clippy::unwrap_used, reason = "tests")]

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
            account: "default".into(),
            kind: "outbound".into(),
            numbers: vec![FROM.into()],
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
    let mut config = ClientConfig::new(sandbox.base_url(), SecretString::from(key));
    config.timeout = Duration::from_millis(1_500);
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
    }
}

async fn send(client: &Client, call: &PlaceCall) -> Sent {
    client.place(call, clock::monotonic() + Duration::from_secs(60)).await
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

#[tokio::test]
async fn a_call_is_placed_told_and_written_to_the_ledger() {
    let (sandbox, client) = start(config()).await;
    let call_id = placed(&client, &call(1)).await;
    let ledger = sandbox.ledger();
    assert_eq!(ledger.len(), 1);
    let entry = &ledger[0];
    assert_eq!((entry.seq, entry.status, entry.why.as_str()), (1, Some(200), "accepted"));
    assert_eq!(entry.account.as_deref(), Some("default"));
    assert_eq!(entry.model_id.as_deref(), Some(AGENT));
    assert_eq!(entry.phone.as_deref(), Some("+14155550001"));
    assert_eq!(entry.from_phone_number.as_deref(), Some(FROM));
    assert_eq!(entry.attempt_id.as_deref(), Some("attempt-1"));
    assert_eq!(entry.call_id.as_deref(), Some(call_id.as_str()));
    assert_eq!(entry.body["name"], "Lead 1");
    let now_us = clock::wall().timestamp_micros();
    assert!((now_us - entry.at_us).abs() < 5_000_000, "arrival {} now {now_us}", entry.at_us);

    let record = client.get_call(&call_id).await.unwrap();
    assert_eq!(record.prompt_variables[ATTEMPT_VARIABLE], "attempt-1");
    assert_eq!((record.from, record.to), (Some(number(FROM)), Some(number("+14155550001"))));
    let listed = client.list_calls(&list(100, 0)).await.unwrap();
    assert_eq!(listed.total, Some(1));
    assert_eq!(listed.calls[0].call_id, call_id);
    assert!(listed.calls[0].prompt_variables.is_empty(), "a list never tells the custom variables");
    assert!(listed.calls[0].start_time.is_some());
    sandbox.stop().await;
}

#[tokio::test]
async fn a_wrong_key_is_a_401_everywhere() {
    let (sandbox, _) = start(config()).await;
    let stranger = client(&sandbox, "wrong");
    assert_eq!(place(&stranger, &call(1)).await.outcome, PlaceOutcome::NotPlaced(NotPlaced::Unauthorized));
    assert!(matches!(stranger.probe_key().await, Err(ProviderError::Unauthorized { status: 401, .. })));
    assert!(matches!(stranger.assistant(&model_id()).await, Err(ProviderError::Unauthorized { .. })));
    assert!(matches!(stranger.list_calls(&list(1, 0)).await, Err(ProviderError::Unauthorized { .. })));
    let entry = &sandbox.ledger()[0];
    assert_eq!((entry.status, &entry.account, entry.why.as_str()), (Some(401), &None, "unknown_key"));
    let invalid = AccountChange { key_valid: Some(false), ..AccountChange::default() };
    sandbox.change_account("default", invalid).unwrap();
    assert!(client(&sandbox, "key-1").probe_key().await.is_err());
    let changed =
        AccountChange { key: Some("key-2".into()), key_valid: Some(true), ..AccountChange::default() };
    sandbox.change_account("default", changed).unwrap();
    assert_eq!(client(&sandbox, "key-2").probe_key().await, Ok(Some(1)));
}

#[tokio::test]
async fn calls_above_the_calls_a_second_are_429_and_not_made() {
    let mut config = config();
    config.accounts[0].calls_per_second = Some(3);
    config.guesses.retry_after_s = Some(2);
    let (sandbox, client) = start(config).await;
    for n in 0..3 {
        placed(&client, &call(n)).await;
    }
    let busy = NotPlaced::Busy { retry_after: Some(Duration::from_secs(2)) };
    assert_eq!(place(&client, &call(3)).await.outcome, PlaceOutcome::NotPlaced(busy));
    assert_eq!(why(&sandbox), ["accepted", "accepted", "accepted", "caps"]);
    assert_eq!(sandbox.stats().calls, 3);
    // The window slides: a second after the first there is room again.
    let deadline = clock::monotonic() + Duration::from_secs(5);
    while !matches!(place(&client, &call(4)).await.outcome, PlaceOutcome::Placed { .. }) {
        assert!(clock::monotonic() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ledger = sandbox.ledger();
    let accepted: Vec<u64> = ledger.iter().filter(|e| e.why == "accepted").map(|e| e.mono_us).collect();
    assert!(accepted.windows(4).all(|w| w[3] - w[0] >= 1_000_000), "{accepted:?}");
}

#[tokio::test]
async fn calls_above_the_concurrency_are_429_until_one_ends() {
    let mut config = config();
    everyone_talks(&mut config);
    config.accounts[0].concurrent_calls = Some(2);
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    placed(&client, &call(2)).await;
    let refused = place(&client, &call(3)).await.outcome;
    assert_eq!(refused, PlaceOutcome::NotPlaced(NotPlaced::Busy { retry_after: None }));
    assert_eq!(why(&sandbox)[2], "concurrency");
    assert_eq!(sandbox.stats().live_calls, 2);
    assert_eq!(sandbox.end_all_calls(), 2);
    assert_eq!(sandbox.stats().live_calls, 0);
    placed(&client, &call(4)).await;
    let lifted = AccountChange { concurrent_calls: Some(None), ..AccountChange::default() };
    sandbox.change_account("default", lifted).unwrap();
    for n in 5..9 {
        placed(&client, &call(n)).await;
    }
}

#[tokio::test]
async fn a_call_above_the_concurrency_may_wait_a_little_for_room() {
    let mut config = config();
    everyone_talks(&mut config);
    config.time_scale = 300.0; // a minute's call lasts 200 ms
    config.accounts[0].concurrent_calls = Some(1);
    config.guesses.concurrency_wait_ms = 1_000;
    let (sandbox, client) = start(config).await;
    let started = clock::monotonic();
    placed(&client, &call(1)).await;
    placed(&client, &call(2)).await;
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(190) && waited < Duration::from_millis(1_400), "{waited:?}");
    sandbox.stop().await;
}

#[tokio::test]
async fn a_call_rings_is_spoken_and_ends() {
    let mut config = config();
    everyone_talks(&mut config);
    config.script.ring_ms = Span { min: 60_000, max: 60_000 };
    config.time_scale = 400.0; // each stage lasts 150 ms
    let (_sandbox, client) = start(config).await;
    let call_id = placed(&client, &call(1)).await;
    let mut seen: Vec<String> = Vec::new();
    let deadline = clock::monotonic() + Duration::from_secs(10);
    let last: CallRecord = loop {
        let record = client.get_call(&call_id).await.unwrap();
        let status = record.status.clone().unwrap();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        if seen.last().is_some_and(|s| s == "completed") {
            break record;
        }
        assert!(clock::monotonic() < deadline, "{seen:?}");
    };
    assert_eq!(seen, ["ringing", "in-progress", "completed"]);
    assert_eq!(last.duration_s, Some(60.0));
    assert!(last.end_reason.is_some() && last.recording_url.is_some());
}

#[tokio::test]
async fn a_list_is_paged_filtered_and_ordered() {
    let mut config = config();
    everyone_talks(&mut config);
    let (sandbox, client) = start(config).await;
    let mut ids = Vec::new();
    for n in 0..45 {
        ids.push(placed(&client, &call(n)).await);
    }
    let mut seen = Vec::new();
    for offset in [0, 20, 40, 60] {
        let page = client.list_calls(&list(20, offset)).await.unwrap();
        assert_eq!(page.total, Some(45));
        seen.extend(page.calls.into_iter().map(|c| c.call_id));
    }
    ids.reverse();
    assert_eq!(seen, ids, "newest first");

    let one = ListCalls { lead_phone_number: Some(number("+14155550007")), ..list(100, 0) };
    let found = client.list_calls(&one).await.unwrap();
    assert_eq!(found.calls.len(), 1);
    let start_time = found.calls[0].start_time.unwrap();
    let until = client.list_calls(&ListCalls { to: Some(start_time), ..list(100, 0) }).await.unwrap();
    let from = client.list_calls(&ListCalls { from: Some(start_time), ..list(100, 0) }).await.unwrap();
    assert_eq!(until.total.unwrap() + from.total.unwrap(), 45, "from inclusive, to exclusive");
    assert!(from.calls.iter().any(|c| c.call_id == found.calls[0].call_id));

    let path = format!("/v2/calls?model_id={AGENT}");
    for limit in ["0", "101", "-1"] {
        let (status, body) = raw(&sandbox, "GET", &format!("{path}&limit={limit}"), None).await;
        assert_eq!(
            (status, &body["detail"]["description"]),
            (400, &json!("Limit must be between 1 and 100."))
        );
    }
    assert_eq!(raw(&sandbox, "GET", "/v2/calls", None).await.0, 422, "model_id is required");
    let count = |body: &Value| body["response"]["pagination"]["total_records"].clone();
    let (_, all) = raw(&sandbox, "GET", &format!("{path}&lead_phone=%2B14155550007"), None).await;
    assert_eq!(count(&all), 45, "unknown parameters are ignored");
    assert_eq!(all["response"]["calls"].as_array().unwrap().len(), 20, "20 is the default limit");
    let (_, plus) = raw(&sandbox, "GET", &format!("{path}&lead_phone_number=+14155550007"), None).await;
    assert_eq!(count(&plus), 0, "a + that isn't encoded is a space");
    let (_, ended) = raw(&sandbox, "GET", &format!("{path}&call_status=completed"), None).await;
    assert_eq!(count(&ended), 0);
    sandbox.end_all_calls();
    let (_, ended) =
        raw(&sandbox, "GET", &format!("{path}&call_status=completed&duration_max=60"), None).await;
    assert_eq!(count(&ended), 45);
}

#[tokio::test]
async fn a_list_has_the_vendors_odd_types() {
    let mut config = config();
    everyone_talks(&mut config);
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    let path = format!("/v2/calls?model_id={AGENT}");
    let item = |body: Value| body["response"]["calls"][0].clone();
    let live = item(raw(&sandbox, "GET", &path, None).await.1);
    assert!(live["start_time"].as_str().unwrap().parse::<i64>().unwrap() > 1_700_000_000_000);
    assert_eq!((&live["duration"], &live["end_call_reason"]), (&Value::Null, &Value::Null));
    assert!(live.get("status").is_none() && live.get("prompt_variables").is_none());
    sandbox.end_all_calls();
    let ended = item(raw(&sandbox, "GET", &path, None).await.1);
    assert!(ended["duration"].is_string(), "{ended}");
}

#[tokio::test]
async fn a_pool_is_told_added_to_and_taken_from() {
    let (sandbox, client) = start(config()).await;
    let pool = async || -> Vec<String> {
        let agent = client.assistant(&model_id()).await.unwrap();
        agent.pool.unwrap().into_iter().map(|n| n.number.as_str().to_owned()).collect()
    };
    assert_eq!(pool().await, [FROM]);
    client.attach_numbers(&model_id(), &[number(SPARE)]).await.unwrap();
    assert_eq!(pool().await, [FROM, SPARE]);
    client.detach_slug(&model_id(), "16286666348").await.unwrap();
    assert_eq!(pool().await, [SPARE]);
    client.attach_slugs(&model_id(), &["16286666348".into()]).await.unwrap();
    assert_eq!(pool().await, [SPARE, FROM]);

    let twice = client.detach_slug(&model_id(), "19995550000").await;
    assert!(matches!(twice, Err(ProviderError::NotFound { text: Some(_) })), "{twice:?}");
    let not_owned = client.attach_numbers(&model_id(), &[number("+12125550100")]).await;
    assert!(matches!(not_owned, Err(ProviderError::NotFound { .. })), "{not_owned:?}");
    let unknown = client.assistant(&ModelId::parse("nobody").unwrap()).await;
    assert!(matches!(unknown, Err(ProviderError::NotFound { .. })), "{unknown:?}");
    let both = json!({ "phone_numbers": [SPARE], "phone_number_slugs": ["16285550199"] });
    let path = format!("/v2/assistants/{AGENT}/phone_numbers");
    assert_eq!(raw(&sandbox, "PUT", &path, Some(both)).await.0, 400, "either, never both");
    assert_eq!(raw(&sandbox, "GET", "/v2/numbers", None).await.0, 422);
    let (status, numbers) = raw(&sandbox, "GET", "/v2/numbers?workspace=default", None).await;
    assert_eq!(
        (status, numbers["response"]["phone_numbers"].as_array().unwrap().len()),
        (200, 0),
        "imported ones"
    );
}

#[tokio::test]
async fn what_can_not_be_called_is_refused_or_fails_as_switched() {
    let mut unattached = call(1);
    unattached.from_phone_number = Some(number("+12125550100"));
    let mut bad_phone = call(2);
    bad_phone.phone = number("+123");
    let mut unknown_agent = call(3);
    unknown_agent.model_id = ModelId::parse("nobody").unwrap();

    let (sandbox, client) = start(config()).await;
    let outcome = async |call| place(&client, call).await.outcome;
    assert_eq!(outcome(&unattached).await, PlaceOutcome::NotPlaced(NotPlaced::CallerIdRejected));
    assert_eq!(place(&client, &bad_phone).await.http_status, Some(400));
    assert_eq!(outcome(&unknown_agent).await, PlaceOutcome::NotPlaced(NotPlaced::AgentUnavailable));
    assert_eq!(why(&sandbox), ["unattached_from", "bad_phone", "unknown_agent"]);
    assert_eq!(sandbox.stats().calls, 0);

    let mut config = config();
    config.guesses.unattached_from = BadNumber::RecordFailed;
    config.guesses.bad_phone = BadNumber::RecordFailed;
    let (_sandbox, client) = start(config).await;
    for call in [&unattached, &bad_phone] {
        let record = client.get_call(&placed(&client, call).await).await.unwrap();
        assert_eq!(record.status.as_deref(), Some("failed"));
        assert!(record.error_message.is_some());
    }
}

#[tokio::test]
async fn a_body_without_its_fields_is_a_422() {
    let (sandbox, _) = start(config()).await;
    let good = json!({ "model_id": AGENT, "phone": "+14155550001", "name": "Ann" });
    for field in ["model_id", "phone", "name"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        let (status, answer) = raw(&sandbox, "POST", "/v2/calls", Some(body)).await;
        assert_eq!((status, &answer["detail"][0]["loc"]), (422, &json!(["body", field])));
    }
    let mut body = good.clone();
    body["custom_variables"] = json!({ "outdial_attempt_id": "x" });
    assert_eq!(raw(&sandbox, "POST", "/v2/calls", Some(body)).await.0, 200);
    assert_eq!(sandbox.ledger()[3].attempt_id.as_deref(), Some("x"));
    assert_eq!(raw(&sandbox, "POST", "/v2/calls", Some(json!("nonsense"))).await.0, 422);
    assert_eq!(sandbox.ledger().len(), 5, "whatever is answered, it was received");
    assert_eq!(raw(&sandbox, "GET", "/v2/nothing", None).await, (404, json!({ "detail": "Not Found" })));
}

#[tokio::test]
async fn without_any_number_a_call_stays_in_the_queue() {
    let mut config = config();
    config.agents[0].numbers.clear();
    config.time_scale = 1e6;
    let (_sandbox, client) = start(config).await;
    let mut call = call(1);
    call.from_phone_number = None;
    let record = client.get_call(&placed(&client, &call).await).await.unwrap();
    assert_eq!((record.status.as_deref(), record.from), (Some("queue"), None));
}

#[tokio::test]
async fn a_fresh_call_may_be_unknown_for_a_while_and_personal_data_redacted() {
    let mut config = config();
    config.guesses.fresh_call_404_ms = 60_000;
    config.guesses.record_status_key = StatusKey::CallStatus;
    config.guesses.assistant_in_object = true;
    config.accounts[0].redact_pii = true;
    let (sandbox, client) = start(config).await;
    let call_id = placed(&client, &call(1)).await;
    assert!(matches!(client.get_call(&call_id).await, Err(ProviderError::NotFound { .. })));
    let guesses = Guesses { record_status_key: StatusKey::CallStatus, ..Guesses::default() };
    sandbox.change_settings(SettingsChange { guesses: Some(guesses), ..SettingsChange::default() }).unwrap();
    let record = client.get_call(&call_id).await.unwrap();
    assert!(record.status.is_some());
    assert_eq!(record.to, None, "redacted");
    assert_eq!(record.prompt_variables[ATTEMPT_VARIABLE], "attempt-1");
    let by_phone = ListCalls { lead_phone_number: Some(number("+14155550001")), ..list(100, 0) };
    assert!(client.list_calls(&by_phone).await.unwrap().calls.is_empty(), "the phone filter is defeated");
    assert!(client.assistant(&model_id()).await.unwrap().pool.is_some());
}

#[tokio::test]
async fn answers_can_be_bent_and_the_ledger_tells_the_truth() {
    let (sandbox, client) = start(config()).await;
    let answer = |status| Action::Answer { status, body: None, retry_after_s: None };
    sandbox.override_posts(Override::next(1, answer(500)));
    sandbox.override_posts(Override::next(1, answer(500)).but_place());
    sandbox.override_posts(Override::next(1, Action::Close).but_place());
    sandbox.override_posts(Override::next(1, Action::Hang));
    sandbox.override_posts(Override::next(1, Action::Cut).but_place());
    sandbox.override_posts(Override::next(1, Action::Empty { status: 200 }));
    sandbox.override_posts(Override::next(1, answer(404)));
    let mut outcomes = Vec::new();
    for n in 0..8 {
        outcomes.push(place(&client, &call(n)).await.outcome);
    }
    assert!(outcomes[..6].iter().all(|o| *o == PlaceOutcome::Unknown), "{outcomes:?}");
    assert_eq!(outcomes[6], PlaceOutcome::NotPlaced(NotPlaced::AgentUnavailable));
    assert!(matches!(outcomes[7], PlaceOutcome::Placed { .. }), "used up: as usual again");
    let ledger = sandbox.ledger();
    let told: Vec<_> = ledger.iter().map(|e| (e.status, e.call_id.is_some())).collect();
    let expected = [
        (Some(500), false),
        (Some(500), true),
        (None, true),
        (None, false),
        (Some(200), true),
        (Some(200), false),
        (Some(404), false),
        (Some(200), true),
    ];
    assert_eq!(told, expected);
    assert_eq!(client.list_calls(&list(100, 0)).await.unwrap().total, Some(4));
}

#[tokio::test]
async fn it_is_controlled_and_read_over_http() {
    let (sandbox, client) = start(config()).await;
    let wanted = json!({ "count": 2, "phone": "+14155550002", "action": "answer", "status": 503 });
    assert_eq!(raw(&sandbox, "POST", "/sandbox/overrides", Some(wanted)).await.0, 200);
    placed(&client, &call(1)).await;
    assert_eq!(place(&client, &call(2)).await.http_status, Some(503));
    let (_, stats) = raw(&sandbox, "GET", "/sandbox/stats", None).await;
    assert_eq!((&stats["posts"], &stats["calls"]), (&json!(2), &json!(1)));
    assert_eq!(raw(&sandbox, "DELETE", "/sandbox/overrides", None).await.0, 200);
    placed(&client, &call(2)).await;

    let change = json!({ "calls_per_second": null, "key": "key-9" });
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/accounts/default", Some(change)).await.0, 200);
    assert!(self::client(&sandbox, "key-9").probe_key().await.is_ok());
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/accounts/nobody", Some(json!({}))).await.0, 400);
    let pool = json!({ "numbers": [SPARE, { "number": "+12125550142", "sid": "PN1" }] });
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/agents/agent-2", Some(pool)).await.0, 200);
    let agent = self::client(&sandbox, "key-9").assistant(&ModelId::parse("agent-2").unwrap()).await.unwrap();
    assert_eq!(agent.pool.unwrap().len(), 2);
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/settings", Some(json!({ "time_scale": 0 }))).await.0, 400);
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/settings", Some(json!({ "time_scale": 50 }))).await.0, 200);
    assert_eq!(raw(&sandbox, "DELETE", "/sandbox/agents/agent-2", None).await.0, 200);

    let url = |query: &str| format!("http://{}/sandbox/ledger{query}", sandbox.address());
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let read = async |query: &str| -> Vec<LedgerEntry> {
        let text = http.get(url(query)).send().await.unwrap().text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = read("").await;
    let kept: Vec<LedgerEntry> = sandbox.ledger().iter().map(|e| (**e).clone()).collect();
    assert_eq!(all, kept);
    assert_eq!(read("?after=1&limit=1").await, kept[1..2]);
    assert_eq!(read("?after=3").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_complete_and_in_order_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.ndjson");
    let options = SandboxOptions { ledger_file: Some(file.clone()), ..SandboxOptions::default() };
    let sandbox = Sandbox::start_with(config(), options).await.unwrap();
    let client = client(&sandbox, "key-1");
    let (senders, each) = (16, 50);
    let started = clock::monotonic();
    futures_util::future::join_all((0..senders).map(|s| {
        let client = client.clone();
        async move {
            for n in 0..each {
                placed(&client, &call(s * each + n)).await;
            }
        }
    }))
    .await;
    eprintln!("{} POSTs in {:?}", senders * each, started.elapsed());
    let ledger = sandbox.ledger();
    let mut phones: Vec<_> = ledger.iter().map(|e| e.phone.clone().unwrap()).collect();
    phones.sort();
    let sent: Vec<String> = (0..senders * each).map(|n| format!("+1415555{n:04}")).collect();
    assert_eq!(phones, sent, "each once");
    assert!(ledger.iter().zip(1..).all(|(entry, n)| entry.seq == n));
    let on_disk: Vec<LedgerEntry> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(on_disk.iter().eq(ledger.iter().map(|e| &**e)), "the file holds the same");
}

#[tokio::test]
async fn memory_is_bounded_and_the_gap_shows() {
    let mut config = config();
    config.ledger_memory_max = 3;
    config.calls_max = 2;
    let (sandbox, client) = start(config).await;
    let first = placed(&client, &call(0)).await;
    for n in 1..5 {
        placed(&client, &call(n)).await;
    }
    let kept: Vec<u64> = sandbox.ledger().iter().map(|e| e.seq).collect();
    assert_eq!(kept, [3, 4, 5]);
    assert_eq!(sandbox.ledger_after(4).len(), 1);
    assert!(client.get_call(&first).await.is_err());
    assert_eq!(client.list_calls(&list(100, 0)).await.unwrap().total, Some(2));
}

#[tokio::test]
async fn it_refuses_to_listen_beyond_loopback_and_frees_its_port() {
    let options = SandboxOptions { listen: "0.0.0.0:0".parse().unwrap(), ledger_file: None };
    let refused = Sandbox::start_with(config(), options).await;
    assert!(matches!(refused, Err(SandboxError::NotLoopback(_))));
    let sandbox = Sandbox::start(config()).await.unwrap();
    let listen = sandbox.address();
    let client = client(&sandbox, "key-1");
    client.probe_key().await.unwrap();
    sandbox.stop().await;
    let options = SandboxOptions { listen, ledger_file: None };
    Sandbox::start_with(config(), options).await.unwrap();
}

#[test]
fn the_sample_is_sound_and_faults_are_told_all_at_once() {
    let sample = SandboxConfig::sample().unwrap();
    assert_eq!(sample.agents[0].numbers.len(), 7);
    assert_eq!(sample.agents[0].numbers[1].slug, "12125550142");
    let faults = SandboxConfig::from_toml(
        "time_scale = 0.0\nlatency_ms = { min = 5, max = 1 }\n[[agent]]\nmodel_id = \"a\"\naccount = \"x\"\n",
    );
    assert_eq!(faults.unwrap_err().0.len(), 4);
    let unknown = SandboxConfig::from_toml("sede = 1").unwrap_err().to_string();
    assert!(unknown.contains("sede"), "{unknown}");
}

//! Webhooks, as a receiver sees them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{HeaderMap, StatusCode};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::synthflow::sandbox::webhooks::sign;

use super::*;
use FaultKind::{WebhookDelay, WebhookDouble, WebhookDrop, WebhookForge, WebhookLie, WebhookReplay};

#[derive(Debug, Clone)]
struct Received {
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn call_id(&self) -> String {
        self.json()["call"]["call_id"].as_str().unwrap().to_owned()
    }

    fn signature(&self) -> Option<&str> {
        Some(self.headers.get("synthflow-signature")?.to_str().unwrap())
    }
}

#[derive(Debug)]
struct Receiver {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    /// As many as ever were here at once.
    at_once: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Receiver {
    /// Answers each after `delay`.
    async fn start(delay: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let (now, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = (received.clone(), now, at_once.clone());
        let take = async move |headers: HeaderMap, body: String| {
            let (received, now, at_once) = seen.clone();
            received.lock().unwrap().push(Received { headers, body });
            at_once.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(delay).await;
            now.fetch_sub(1, Ordering::SeqCst);
            StatusCode::ACCEPTED
        };
        let app = axum::Router::new().route("/hook", axum::routing::post(take));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        TaskTracker::new()
            .spawn(async move { axum::serve(listener, app).with_graceful_shutdown(stopped).await });
        Self { url, received, at_once, _stop: stop.drop_guard() }
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

fn with_webhooks(receiver: &Receiver, faults: Vec<Fault>) -> SandboxConfig {
    let mut config = config();
    everyone_talks(&mut config);
    config.accounts[0].webhook_secret = Some("whsec".into());
    config.agents[0].external_webhook_url = Some(receiver.url.clone());
    config.faults = faults;
    config
}

/// Waits until so many webhooks are done with.
async fn done(sandbox: &Sandbox, n: usize) -> Vec<SentWebhook> {
    let deadline = clock::monotonic() + Duration::from_secs(20);
    loop {
        let sent: Vec<SentWebhook> = sandbox.webhooks().iter().map(|sent| (**sent).clone()).collect();
        if sent.len() >= n && sandbox.stats().webhooks_waiting == 0 {
            assert_eq!(sent.len(), n, "{sent:?}");
            return sent;
        }
        assert!(clock::monotonic() < deadline, "{sent:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn kinds(sent: &[SentWebhook]) -> Vec<WebhookKind> {
    let mut kinds: Vec<_> = sent.iter().map(|sent| sent.kind).collect();
    kinds.sort();
    kinds
}

#[tokio::test]
async fn the_end_of_a_call_is_told_once_and_signed() {
    let receiver = Receiver::start(Duration::ZERO).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.time_scale = 300.0; // a minute's call lasts 200 ms
    let (sandbox, client) = start(config).await;
    let call_id = placed(&client, &call(1)).await;
    let sent = done(&sandbox, 1).await;
    let entry = sandbox.ledger()[0].clone();
    assert_eq!((sent[0].kind, sent[0].call_id.as_str()), (WebhookKind::End, call_id.as_str()));
    assert_eq!((sent[0].status, sent[0].n), (Some(202), 1));
    let after_us = sent[0].mono_us - entry.mono_us;
    assert!((200_000..5_000_000).contains(&after_us), "at the call's end: {after_us}");
    let received = receiver.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].headers["content-type"], "application/json");
    let body = received[0].json();
    assert_eq!(body["lead"]["prompt_variables"][ATTEMPT_VARIABLE], "attempt-1");
    assert_eq!(
        (&body["lead"]["phone_number"], &body["lead"]["name"]),
        (&json!("+14155550001"), &json!("Lead 1"))
    );
    let told = &body["call"];
    assert_eq!((&told["status"], &told["duration"]), (&json!("completed"), &json!(60)));
    assert_eq!((&told["call_id"], &told["phone_number_from"]), (&json!(call_id.as_str()), &json!(FROM)));
    assert!(chrono::DateTime::parse_from_rfc3339(told["start_time"].as_str().unwrap()).is_ok());
}

#[tokio::test]
async fn the_signature_is_of_the_call_id_alone_in_the_header_asked_for() {
    let receiver = Receiver::start(Duration::ZERO).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.webhooks.header = "HTTP_SYNTHFLOW_SIGNATURE".into();
    let (sandbox, client) = start(config).await;
    let call_id = placed(&client, &call(1)).await;
    sandbox.end_all_calls();
    done(&sandbox, 1).await;
    let received = &receiver.received()[0];
    let signature = received.headers["http_synthflow_signature"].to_str().unwrap().to_owned();
    assert_eq!(signature, sign("whsec", call_id.as_str()));

    let unsigned = AccountChange { webhook_secret: Some(None), ..AccountChange::default() };
    sandbox.change_account("default", unsigned).unwrap();
    placed(&client, &call(2)).await;
    sandbox.end_all_calls();
    done(&sandbox, 2).await;
    assert!(receiver.received()[1].headers.get("http_synthflow_signature").is_none());
}

#[test]
fn signatures_are_as_others_make_them() {
    // printf %s call-1 | openssl dgst -sha256 -hmac whsec -binary | base64
    assert_eq!(sign("whsec", "call-1"), "z9Of2a61bkUYOIJb/8mH9/iYVod6OofLVhRqMqZ99cM=");
}

#[tokio::test]
async fn webhooks_are_dropped_doubled_delayed_and_replayed() {
    let receiver = Receiver::start(Duration::ZERO).await;
    let at = |n, kind| Fault { from_n: Some(n), to_n: Some(n + 1), ..Fault::new(kind, 1.0) };
    let faults = vec![
        at(1, WebhookDrop),
        at(2, WebhookDouble),
        at(3, WebhookReplay).delayed(100),
        at(4, WebhookDelay).delayed(1_000),
    ];
    let (sandbox, client) = start(with_webhooks(&receiver, faults)).await;
    let mut ids = Vec::new();
    for n in 1..=5 {
        ids.push(placed(&client, &call(n)).await.as_str().to_owned());
    }
    let ended_us = sandbox.shared.world().timeline.now_us();
    sandbox.end_all_calls();
    let sent = done(&sandbox, 7).await;
    use WebhookKind::{Double, Dropped, End, Replay};
    assert_eq!(kinds(&sent), [End, End, End, End, Double, Replay, Dropped]);
    let of = |id: &str| sent.iter().filter(|s| s.call_id == id).cloned().collect::<Vec<_>>();
    assert_eq!((of(&ids[0]).len(), of(&ids[0])[0].status), (1, None));
    let received = receiver.received();
    let bodies =
        |id: &str| received.iter().filter(|r| r.call_id() == id).map(|r| r.body.clone()).collect::<Vec<_>>();
    assert!(bodies(&ids[0]).is_empty());
    for id in &ids[1..3] {
        let twice = bodies(id);
        assert_eq!(twice.len(), 2);
        assert_eq!(twice[0], twice[1], "byte for byte");
    }
    let last_of = |id: &str| of(id).iter().map(|sent| sent.mono_us).max().unwrap();
    assert!(last_of(&ids[2]) >= ended_us + 100_000 && last_of(&ids[3]) >= ended_us + 1_000_000);
    let order: Vec<String> = received.iter().map(Received::call_id).collect();
    let first = |id: &String| order.iter().position(|other| other == id).unwrap();
    assert!(first(&ids[3]) > first(&ids[4]), "the delayed one was overtaken");
    // The ledger says so, too.
    let struck: Vec<_> = sandbox.ledger().iter().map(|e| e.faults.clone()).collect();
    assert_eq!(struck[..2], [vec![WebhookDrop], vec![WebhookDouble]]);
}

#[tokio::test]
async fn forged_ones_and_lies_come_while_the_call_is_live() {
    let receiver = Receiver::start(Duration::ZERO).await;
    let faults = vec![
        Fault { from_n: Some(2), ..Fault::new(WebhookForge, 1.0) },
        Fault { from_n: Some(2), ..Fault::new(WebhookLie, 1.0) },
    ];
    let (sandbox, client) = start(with_webhooks(&receiver, faults)).await;
    placed(&client, &call(1)).await;
    let second = placed(&client, &call(2)).await;
    let sent = done(&sandbox, 2).await;
    assert_eq!(kinds(&sent), [WebhookKind::Forged, WebhookKind::Lie]);
    assert!(sent.iter().all(|s| s.call_id == second.as_str()));
    let right = sign("whsec", second.as_str());
    let (lies, forged): (Vec<_>, Vec<_>) =
        receiver.received().into_iter().partition(|r| r.signature() == Some(right.as_str()));
    assert_eq!((lies.len(), forged.len()), (1, 1));
    for told in [&lies[0], &forged[0]] {
        assert_eq!(told.json()["call"]["status"], "completed");
        assert!(told.signature().is_some());
    }
    assert_eq!(lies[0].json()["lead"]["prompt_variables"][ATTEMPT_VARIABLE], "attempt-1", "another call's");
    assert_eq!(forged[0].json()["lead"]["prompt_variables"][ATTEMPT_VARIABLE], "attempt-2");
    let truth = client.get_call(&second).await.unwrap();
    assert_eq!(truth.status.as_deref(), Some("in-progress"));
}

#[tokio::test]
async fn registering_a_url_sends_a_test() {
    let receiver = Receiver::start(Duration::ZERO).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.agents[0].external_webhook_url = None;
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    let path = format!("/sandbox/agents/{AGENT}/webhook");
    assert_eq!(raw(&sandbox, "PUT", &path, Some(json!({ "url": receiver.url }))).await.0, 200);
    let sent = done(&sandbox, 1).await;
    assert_eq!((sent[0].kind, sent[0].status), (WebhookKind::Test, Some(202)));
    let test = &receiver.received()[0];
    assert_eq!(test.json()["lead"]["phone_number"], "+1123456789");
    assert_eq!(test.signature(), Some(sign("whsec", &test.call_id()).as_str()));
    // The URL is asked for when a call ends.
    sandbox.end_all_calls();
    assert_eq!(done(&sandbox, 2).await[1].kind, WebhookKind::End);
    let (_, lines) = raw(&sandbox, "GET", "/sandbox/webhooks?after=1", None).await;
    assert_eq!((&lines["n"], &lines["kind"]), (&json!(2), &json!("end")));

    sandbox.register_webhook(AGENT, None).unwrap();
    placed(&client, &call(2)).await;
    sandbox.end_all_calls();
    assert_eq!(sandbox.webhooks().len(), 2);
    for wrong in ["http://192.0.2.1/hook", "https://127.0.0.1/hook", "hook"] {
        assert!(sandbox.register_webhook(AGENT, Some(wrong)).is_err(), "{wrong}");
    }
    assert!(sandbox.register_webhook("nobody", Some(&receiver.url)).is_err());
}

#[tokio::test]
async fn a_posts_own_url_goes_first_and_never_beyond_loopback() {
    let receiver = Receiver::start(Duration::ZERO).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.agents[0].external_webhook_url = Some("http://127.0.0.1:1/nobody".into());
    let (sandbox, client) = start(config).await;
    let body = |url: &str| json!({ "model_id": AGENT, "phone": "+14155550001", "name": "A", "external_webhook_url": url });
    raw(&sandbox, "POST", "/v2/calls", Some(body(&receiver.url))).await;
    sandbox.end_all_calls();
    assert_eq!(done(&sandbox, 1).await[0].status, Some(202));
    raw(&sandbox, "POST", "/v2/calls", Some(body("http://192.0.2.1/"))).await;
    sandbox.end_all_calls();
    let sent = done(&sandbox, 2).await;
    assert_eq!((sent[1].kind, sent[1].status), (WebhookKind::Dropped, None));
    assert!(sent[1].error.as_ref().unwrap().contains("loopback"));
    placed(&client, &call(2)).await;
    sandbox.end_all_calls();
    let sent = done(&sandbox, 3).await;
    assert!(sent[2].status.is_none() && sent[2].error.is_some(), "nobody listens: {sent:?}");
}

#[tokio::test]
async fn deliveries_are_bounded_in_number_and_time() {
    let receiver = Receiver::start(Duration::from_millis(50)).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.webhooks.concurrent_max = 3;
    config.webhooks.waiting_max = 12;
    let (sandbox, client) = start(config).await;
    for n in 0..20 {
        placed(&client, &call(n)).await;
    }
    sandbox.end_all_calls();
    let sent = done(&sandbox, 20).await;
    assert_eq!(receiver.at_once.load(Ordering::SeqCst), 3);
    let dropped = sent.iter().filter(|s| s.kind == WebhookKind::Dropped).count();
    assert!(dropped >= 5, "{dropped} were too many to wait");
    assert_eq!(receiver.received().len(), 20 - dropped);
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_nothing_up_for_long() {
    let receiver = Receiver::start(Duration::from_secs(60)).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.webhooks.timeout_ms = 100;
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    sandbox.end_all_calls();
    let sent = done(&sandbox, 1).await;
    assert!(sent[0].status.is_none() && sent[0].error.is_some(), "{sent:?}");

    let receiver = Receiver::start(Duration::from_secs(60)).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.webhooks.timeout_ms = 60_000;
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    sandbox.end_all_calls();
    let asked = clock::monotonic();
    while receiver.received().is_empty() {
        assert!(asked.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = clock::monotonic();
    sandbox.stop().await;
    assert!(started.elapsed() < Duration::from_secs(1), "the delivery is cancelled");
}

#[tokio::test]
async fn personal_data_is_redacted_in_webhooks_too() {
    let receiver = Receiver::start(Duration::ZERO).await;
    let mut config = with_webhooks(&receiver, Vec::new());
    config.accounts[0].redact_pii = true;
    config.webhooks.caller = false;
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    sandbox.end_all_calls();
    done(&sandbox, 1).await;
    let body = receiver.received()[0].json();
    assert_eq!((&body["lead"]["name"], &body["lead"]["phone_number"]), (&Value::Null, &Value::Null));
    assert_eq!(body["lead"]["prompt_variables"][ATTEMPT_VARIABLE], "attempt-1");
    assert!(body["call"].get("phone_number_from").is_none());
}

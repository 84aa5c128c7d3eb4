//! The provider's webhooks: hints, whoever sends them. The sandbox tells how its calls really ended.

use std::collections::HashMap;

use outdial::core::ids::CallId;
use outdial::synthflow::sandbox::{Action, Override, SandboxConfig, WebhookKind};
use outdial::synthflow::{Client, ClientConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::stage::{AGENT, ANY_NUMBER, KEY, LONG, Stage, job, jobs, numbers, sandbox_config};
use crate::support::{Figures, Outdial, eventually};

const SECRET: (&str, &str) = ("SYNTHFLOW_WEBHOOK_SECRET", "sandbox-secret");
/// Far longer than any test: what is learned is learned from webhooks.
const NO_POLLING: (&str, &str) = ("OUTDIAL__CALLS__POLL", "10m");
const FAST_READS: (&str, &str) = ("OUTDIAL__CALLS__READS_PER_SECOND", "200");

/// A sandbox whose webhooks are signed, with faults.
fn signed(faults: &str) -> SandboxConfig {
    let mut config = sandbox_config(&numbers(20));
    let more: SandboxConfig = SandboxConfig::from_toml(&format!(
        "seed = 1\n{faults}\n[[account]]\nname = \"default\"\nkey = \"k\"\n"
    ))
    .unwrap();
    config.faults = more.faults;
    config.accounts[0].webhook_secret = Some(SECRET.1.to_owned());
    config
}

async fn hooked(faults: &str, env: &[(&str, &str)]) -> (Stage, Outdial, String) {
    let stage = Stage::new(signed(faults)).await;
    stage.route("per_second = 50", ANY_NUMBER).await;
    let (worker, address) = hook(&stage, env).await;
    (stage, worker, address)
}

/// A worker, and where it takes the agent's webhooks.
async fn hook(stage: &Stage, env: &[(&str, &str)]) -> (Outdial, String) {
    let mut all = vec![SECRET, NO_POLLING, FAST_READS];
    all.extend(env);
    let worker = stage.worker(&all).await;
    let serving = worker.line(LONG, "serving health and metrics").await;
    let line: serde_json::Value = serde_json::from_str(&serving).unwrap();
    let address =
        line["webhook.listen"].as_str().or_else(|| line["http.listen"].as_str()).unwrap().to_owned();
    stage.sandbox.register_webhook(AGENT, Some(&format!("http://{address}/webhooks/synthflow"))).unwrap();
    (worker, address)
}

/// POSTs as anybody could; gives the status.
pub async fn post(address: &str, path: &str, headers: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {path} HTTP/1.0\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // It may be refused before it is read.
    let _ = stream.write_all(body).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Dispositions as the provider's own calls have them are those recorded.
async fn told_rightly(stage: &Stage, n: i64) {
    let right = "select count(*) from reporting.calls where state = 'ended' and provider_status is not null
                 and disposition is not null and http_status = 200 and call_id is not null";
    assert_eq!(stage.count(right).await, n);
}

#[tokio::test]
async fn calls_end_by_webhooks_alone_on_a_port_of_their_own() {
    let (stage, worker, address) = hooked("", &[("OUTDIAL__WEBHOOK__LISTEN", "127.0.0.1:0")]).await;
    stage.publish(&jobs("spring", 100)).await;
    stage.jobs("done", None, 100, LONG).await;
    told_rightly(&stage, 100).await;
    stage.nothing_held().await;
    // The first call after a quiet time is also looked for in the list, once. That may end others, whose look-ups still come.
    let looked_up = async || Figures::of(&worker).await.get("polls_total{request=\"call\",result=\"ok\"}");
    let n = eventually(LONG, async || Some(looked_up().await).filter(|n| *n >= 50.0)).await;
    assert!(n <= 100.0, "one look-up a call, and no more: {n}");
    assert_eq!(post(&address, "/metrics", "", b"").await, 404, "nothing else is served there");
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_look_up_that_fails_is_tried_again_without_another_webhook() {
    let faults = "[[fault]]\nkind = \"answer\"\non = \"record\"\nstatus = 500\nrate = 0.5\n\
                  [[fault]]\nkind = \"answer\"\non = \"list\"\nstatus = 500\n";
    let (stage, worker, _) = hooked(faults, &[]).await;
    stage.publish(&jobs("spring", 12)).await;
    stage.jobs("done", None, 12, LONG).await;
    told_rightly(&stage, 12).await;
    let figures = Figures::of(&worker).await;
    assert!(figures.get("polls_total{request=\"call\",result=\"unavailable\"}") > 0.0);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_webhook_soon_after_a_false_one_is_heard_too() {
    let faults = "[[fault]]\nkind = \"webhook_lie\"\nrate = 1.0\n\
                  [[fault]]\nkind = \"answer\"\non = \"list\"\nstatus = 500\n";
    let (stage, worker, _) = hooked(faults, &[]).await;
    stage.publish(&jobs("spring", 12)).await;
    stage.jobs("done", None, 12, LONG).await;
    told_rightly(&stage, 12).await;
    let figures = Figures::of(&worker).await;
    let looked_up = figures.get("polls_total{request=\"call\",result=\"ok\"}");
    assert!((12.0..=24.0).contains(&looked_up), "once while it went on, once after its end: {looked_up}");
    stage.stopped(worker).await;
}

#[tokio::test]
async fn forged_false_doubled_and_repeated_webhooks_change_nothing() {
    let faults = "[[fault]]\nkind = \"webhook_double\"\nrate = 0.5\n[[fault]]\nkind = \"webhook_forge\"\nrate = 0.5\n\
                  [[fault]]\nkind = \"webhook_lie\"\nrate = 0.5\n[[fault]]\nkind = \"webhook_replay\"\nrate = 0.5\ndelay_ms = 300\n";
    let (stage, worker, _) = hooked(faults, &[]).await;
    stage.publish(&jobs("spring", 120)).await;
    stage.jobs("done", None, 120, LONG).await;
    told_rightly(&stage, 120).await;
    eventually(LONG, async || (stage.sandbox.stats().webhooks_waiting == 0).then_some(())).await;
    let sent = stage.sandbox.webhooks();
    for kind in
        [WebhookKind::End, WebhookKind::Double, WebhookKind::Forged, WebhookKind::Lie, WebhookKind::Replay]
    {
        let statuses: Vec<u16> = sent.iter().filter(|s| s.kind == kind).filter_map(|s| s.status).collect();
        assert!(statuses.len() > 20, "{kind:?}: {statuses:?}");
        let answer = if kind == WebhookKind::Forged { 401 } else { 204 };
        assert!(statuses.iter().all(|status| *status == answer), "{kind:?}: {statuses:?}");
    }
    // The lies say of every call that it was answered.
    recorded_as_the_provider_tells(&stage).await;
    assert_eq!(stage.posts().len(), 120);
    stage.stopped(worker).await;
}

/// What is recorded of every call is what the provider tells when it is asked.
async fn recorded_as_the_provider_tells(stage: &Stage) {
    let query = "select call_id, provider_status from reporting.calls where call_id is not null order by 1";
    let recorded: Vec<(String, String)> = sqlx::query_as(query).fetch_all(&stage.db).await.unwrap();
    let client = Client::new(&ClientConfig::new(stage.sandbox.base_url(), KEY.to_owned().into())).unwrap();
    let mut expected: Vec<(String, String)> = Vec::new();
    for (call_id, _) in &recorded {
        let record = client.get_call(&CallId::parse(call_id).unwrap()).await.unwrap();
        expected.push((call_id.clone(), record.status.unwrap()));
    }
    assert!(!recorded.is_empty());
    assert_eq!(recorded, expected);
}

#[tokio::test]
async fn a_webhook_that_comes_before_the_answer_is_believed_and_the_answer_merged() {
    let (stage, worker, _) = hooked("", &[]).await;
    let late = Override { delay_ms: 4_000, ..Override::next(1, Action::AsUsual) };
    stage.sandbox.override_posts(late);
    stage.publish(&[job("early", "spring", "+14155550123")]).await;
    let unanswered = "select count(*) from reporting.calls where state = 'ended' and http_status is null";
    eventually(LONG, async || (stage.count(unanswered).await == 1).then_some(())).await;
    stage.stands("early", "done", None).await;
    let merged = "select count(*) from reporting.calls where state = 'ended' and http_status = 200";
    eventually(LONG, async || (stage.count(merged).await == 1).then_some(())).await;
    assert_eq!(stage.posts().len(), 1);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn calls_whose_webhooks_never_come_end_by_polling() {
    let faults = "[[fault]]\nkind = \"webhook_drop\"\nrate = 0.4\n";
    let (stage, worker, _) = hooked(faults, &[("OUTDIAL__CALLS__POLL", "500ms")]).await;
    stage.publish(&jobs("spring", 60)).await;
    stage.jobs("done", None, 60, LONG).await;
    let dropped = stage.sandbox.webhooks().iter().filter(|sent| sent.kind == WebhookKind::Dropped).count();
    assert!(dropped > 5, "{dropped}");
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

/// `OUTDIAL_WEBHOOK_CALLS` (600), each with a webhook that is dropped (40 %), doubled, late, repeated, forged or false.
#[tokio::test]
async fn whatever_becomes_of_webhooks_every_call_ends_and_gives_its_place_back() {
    let given = std::env::var("OUTDIAL_WEBHOOK_CALLS").ok();
    let calls: usize = given.map_or(600, |given| given.parse().expect("OUTDIAL_WEBHOOK_CALLS is a number"));
    let fault =
        |kind: &str, rate: f64, more: &str| format!("[[fault]]\nkind = \"{kind}\"\nrate = {rate}\n{more}\n");
    let faults = [
        fault("webhook_drop", 0.4, ""),
        fault("webhook_double", 0.3, ""),
        fault("webhook_delay", 0.3, "delay_ms = { min = 0, max = 2000 }"),
        fault("webhook_replay", 0.2, "delay_ms = 500"),
        fault("webhook_forge", 0.2, ""),
        fault("webhook_lie", 0.2, ""),
    ];
    let stage = Stage::new(signed(&faults.concat())).await;
    stage.route("per_second = 20, concurrent = 15", ANY_NUMBER).await;
    let (worker, address) = hook(&stage, &[("OUTDIAL__CALLS__POLL", "500ms")]).await;
    let second = stage.worker(&[SECRET, FAST_READS, ("OUTDIAL__CALLS__POLL", "500ms")]).await;
    let published = jobs("spring", calls);
    for some in published.chunks(5_000) {
        stage.publish(some).await;
    }
    let limit = LONG + std::time::Duration::from_secs(calls as u64 / 20);
    stage.each_done_once(&published, limit).await;
    let ends = stage.sandbox.call_ends_us();
    let mut by_number: HashMap<String, Vec<(u64, i32)>> = HashMap::new();
    for post in stage.posts() {
        let end = ends[post.call_id.as_ref().unwrap()];
        let changes = by_number.entry(post.from_phone_number.unwrap()).or_default();
        // A call that ends as another begins has made room for it.
        changes.extend([(post.mono_us, 1), (end, -1)]);
    }
    for (number, mut changes) in by_number {
        changes.sort_unstable();
        let at_once = changes.iter().scan(0, |live, (_, change)| {
            *live += change;
            Some(*live)
        });
        let most = at_once.max().unwrap();
        assert!(most <= 15, "{number} had {most} calls at once, and may have 15");
    }
    let sent = stage.sandbox.webhooks();
    let of = |kind: WebhookKind| sent.iter().filter(|sent| sent.kind == kind).count();
    let counts = [WebhookKind::Dropped, WebhookKind::Double, WebhookKind::Forged, WebhookKind::Lie].map(of);
    assert!(counts.iter().all(|n| *n > calls / 20), "dropped, doubled, forged, lies: {counts:?}");
    let mut forged = sent.iter().filter(|sent| sent.kind == WebhookKind::Forged).filter_map(|s| s.status);
    assert!(forged.all(|status| matches!(status, 401 | 429)), "a forged one was taken");
    recorded_as_the_provider_tells(&stage).await;
    eprintln!("{calls} calls; dropped, doubled, forged, lies: {counts:?}; at {address}");
    stage.nothing_held().await;
    stage.stopped(worker).await;
    stage.stopped(second).await;
}

#[tokio::test]
async fn what_is_no_webhook_is_refused_and_counted() {
    let (stage, worker, address) = hooked("", &[]).await;
    let call = br#"{"call": {"call_id": "call-1"}}"#;
    let path = "/webhooks/synthflow";
    // Of call-1 with the sandbox's secret.
    let signature = "x1CqRhda6ksNjIPL17nZKfA5g/FcfGqCMdd/mG0xwaI=";
    for name in [
        "synthflow-signature",
        "X-Synthflow-Signature",
        "HTTP_SYNTHFLOW_SIGNATURE",
        "http-synthflow-signature",
    ] {
        let header = format!("{name}: {signature}\r\n");
        assert_eq!(post(&address, path, &header, call).await, 204, "{name}");
        assert_eq!(post(&address, "/webhooks/synthflow/default", &header, call).await, 204, "{name}");
        assert_eq!(post(&address, path, &header, br#"{"call": {"call_id": "call-2"}}"#).await, 401, "{name}");
    }
    assert_eq!(post(&address, path, "", call).await, 401);
    assert_eq!(post(&address, "/webhooks/synthflow/elsewhere", "", call).await, 404);
    // What nobody has signed is not read.
    assert_eq!(post(&address, path, "", &vec![b' '; 3 << 20]).await, 401);
    let header = format!("synthflow-signature: {signature}\r\n");
    assert_eq!(post(&address, path, &header, b"no JSON").await, 400);
    assert_eq!(post(&address, path, &header, &vec![b' '; 3 << 20]).await, 413);
    let figures = Figures::of(&worker).await;
    for (result, n) in [
        ("taken", 8.0),
        ("bad_signature", 6.0),
        ("unknown_account", 1.0),
        ("malformed", 1.0),
        ("too_large", 1.0),
    ] {
        // The sandbox's own test on registering is one more that is taken.
        let told = figures.get(&format!("webhooks_total{{result=\"{result}\"}}"));
        assert!((told - n).abs() <= 1.0 && told >= n, "{result}: {told}");
    }
    stage.stopped(worker).await;
}

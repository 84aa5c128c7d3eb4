//! What the provider may answer to a POST, and what becomes of jobs: the sandbox's ledger tells who was really rung.

mod keys;

use std::time::Duration;

use outdial::synthflow::sandbox::{Action, Override, Sandbox, SandboxOptions};
use serde_json::{Value, json};

use crate::support::stage::{AGENT, ANY_NUMBER, Stage, job, jobs, number, numbers, sandbox_config};
use crate::support::{Listener, assert_discreet, eventually, gaps_s, posts_by_phone};

const SOON: Duration = Duration::from_secs(60);

async fn stage(pool: usize, rest: &str) -> Stage {
    let stage = Stage::new(sandbox_config(&numbers(pool))).await;
    stage.route("per_second = 50", &format!("{rest}\n{ANY_NUMBER}")).await;
    stage
}

fn answer(status: u16) -> Action {
    Action::Answer { status, body: None, retry_after_s: None }
}

fn for_phone(phone: &Value, action: Action) -> Override {
    Override { phone: phone.as_str().map(str::to_owned), ..Override::next(1, action) }
}

fn ids(events: &[Value]) -> Vec<&str> {
    let mut ids: Vec<&str> = events.iter().map(|event| event["job_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn after_a_429_the_account_rests_as_long_as_asked_and_every_job_goes_once() {
    let stage = stage(5, "").await;
    let worker = stage.worker(&[]).await;
    stage.publish(&[job("first", "spring", "+14155550123")]).await;
    stage.jobs("done", None, 1, SOON).await;

    let busy = Action::Answer { status: 429, body: None, retry_after_s: Some(4) };
    stage.sandbox.override_posts(Override::next(2, busy));
    let many = jobs("many", 40);
    stage.publish(&many).await;
    let limited = "select count(*) from reporting.jobs where state = 'waiting' and reason = 'account_limit'";
    eventually(SOON, async || (stage.count(limited).await > 0).then_some(())).await;

    stage.jobs("done", None, 41, SOON).await;
    stage.each_placed_once(&many);
    let posts = stage.posts();
    assert_eq!(posts.len(), 43, "each of the 41 jobs, and again the two that were answered 429");
    // What had its slot already may go; then nothing for 4 s, less what slots are asked for ahead.
    let rest = gaps_s(&posts[1..]).into_iter().fold(0.0, f64::max);
    assert!(rest > 3.2, "the longest rest was {rest} s");
    let refused = "select count(*) from reporting.calls where state = 'not_placed' and http_status = 429";
    assert_eq!(stage.count(refused).await, 2);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn what_nobody_can_know_is_unknown_holds_its_room_and_is_never_dialed_again() {
    let stage = stage(20, "[[campaign]]\nid = \"held\"\nlimits = { concurrent = 7 }").await;
    let mut worker = stage.worker(&[]).await;
    let mut events = Listener::new(&stage.vhost.url).await;
    let held: Vec<Value> =
        (0..8).map(|i| job(&format!("held-{i}"), "held", &format!("+1415555012{i}"))).collect();
    let page = json!("<html><body>Bad gateway</body></html>");
    let kinds = [
        answer(500),
        Action::Answer { status: 502, body: Some(page), retry_after_s: None },
        Action::Empty { status: 200 },
        Action::Answer { status: 200, body: Some(json!({ "status": "success" })), retry_after_s: None },
        Action::Close,
        Action::Cut,
        // The client's time-out is 30 s: the one long wait of this test.
        Action::Hang,
    ];
    for (job, kind) in held.iter().zip(kinds) {
        // None is placed: what was is found again, and that is another test's.
        stage.sandbox.override_posts(for_phone(&job["phone"], kind));
    }
    stage.publish(&held[..7]).await;
    stage.posted(7, SOON).await;
    stage.publish(&held[7..]).await;
    stage.jobs("dialing", Some("unconfirmed"), 7, Duration::from_secs(90)).await;
    stage.jobs("waiting", Some("campaign_limit"), 1, SOON).await;

    // Other jobs go through, and for each that does the unknown ones had their chance to be dialed again.
    let others = jobs("other", 150);
    stage.publish(&others).await;
    stage.jobs("done", None, 150, SOON).await;
    // A worker that comes fresh finds them unknown, too.
    worker.kill9();
    let second = stage.worker(&[("OUTDIAL__WORKER__LEASE", "3s")]).await;
    let more: Vec<Value> =
        (0..20).map(|i| job(&format!("more-{i}"), "other", &format!("+141566601{i:02}"))).collect();
    stage.publish(&more).await;
    stage.jobs("done", None, 170, SOON).await;

    let posts = stage.posts();
    let by_phone = posts_by_phone(&posts);
    for job in &held[..7] {
        assert_eq!(by_phone[job["phone"].as_str().unwrap()].len(), 1, "{job}");
    }
    assert!(!by_phone.contains_key(held[7]["phone"].as_str().unwrap()), "no room beside seven unknown calls");
    assert_eq!(posts.len(), 177);
    assert_eq!(stage.count("select count(*) from reporting.calls where state = 'unknown'").await, 7);
    let in_use = "select in_use::bigint from outdial.limits where kind = 2 and key = 'held'";
    assert_eq!(stage.count(in_use).await, 7);
    let told = events.of("call.unknown", 7, SOON).await;
    assert_eq!(ids(&told), ids(&held[..7]));
    assert!(told.iter().all(|event| event["reason"] == "unconfirmed"), "{told:?}");
    assert_discreet(&worker.output(), &posts);
    stage.stopped(second).await;
}

#[tokio::test]
async fn five_unknown_in_a_row_open_the_breaker_and_one_job_tries_whether_it_is_over() {
    let stage = stage(10, "").await;
    let worker = stage.worker(&[]).await;
    // There before, so that all is seen while the breaker is open.
    stage.paused(&["more"]).await;
    let more: Vec<Value> =
        (0..30).map(|i| job(&format!("more-{i}"), "more", &format!("+141566601{i:02}"))).collect();
    stage.publish(&more).await;
    stage.jobs("waiting", Some("campaign_paused"), 30, SOON).await;
    stage.sandbox.override_posts(Override::next(6, Action::Close));
    stage.publish(&jobs("unlucky", 5)).await;
    stage.jobs("dialing", Some("unconfirmed"), 5, SOON).await;
    // At once, before the breaker lets the first one through.
    let resume = "select outdial.set_campaign('more', 'active', null, null)";
    sqlx::query(resume).execute(&stage.db).await.unwrap();
    // The first probe is closed upon as well: the others wait through both.
    stage.jobs("waiting", Some("provider_unavailable"), 30, SOON).await;
    stage.jobs("dialing", Some("unconfirmed"), 6, SOON).await;
    stage.jobs("waiting", Some("provider_unavailable"), 29, SOON).await;
    stage.jobs("done", None, 29, SOON).await;

    let posts = stage.posts();
    assert_eq!(posts.len(), 5 + 30, "nobody is rung twice");
    let gaps = gaps_s(&posts);
    // Gap n is before POST n + 1. The breaker holds for 5 s and slots are asked for a little ahead.
    assert!(gaps[4] > 4.0 && gaps[5] > 4.0, "one probe each time: {:?}", &gaps[..8]);
    assert_eq!(posts_by_phone(&posts).len(), 35);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn while_the_provider_is_unreachable_nothing_is_sent_and_then_everything_goes() {
    let mut stage = stage(5, "").await;
    let worker = stage.worker(&[]).await;
    stage.publish(&[job("first", "spring", "+14155550123")]).await;
    stage.jobs("done", None, 1, SOON).await;

    let idle = Sandbox::start(sandbox_config(&[])).await.unwrap();
    let away = std::mem::replace(&mut stage.sandbox, idle);
    let options = SandboxOptions { listen: away.address(), ..SandboxOptions::default() };
    away.stop().await;
    let many = jobs("many", 40);
    stage.publish(&many).await;
    stage.jobs("waiting", Some("provider_unavailable"), 40, SOON).await;
    assert_eq!(stage.count("select count(*) from outdial.attempts").await, 1, "only the first job's");

    stage.sandbox = Sandbox::start_with(sandbox_config(&numbers(5)), options).await.unwrap();
    stage.jobs("done", None, 41, SOON).await;
    stage.each_placed_once(&many);
    assert_eq!(stage.posts().len(), 40);
    let attempts = "select count(*) from reporting.calls where attempt_no = 1 and state = 'ended'";
    assert_eq!(stage.count(attempts).await, 41, "what was never sent counts for nothing");
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn an_agent_that_answers_404_is_held_and_its_jobs_wait_for_a_good_reading() {
    let stage = stage(3, "").await;
    let worker = stage.worker(&[]).await;
    stage.publish(&[job("first", "spring", "+14155550123")]).await;
    stage.jobs("done", None, 1, SOON).await;

    assert!(stage.sandbox.remove_agent(AGENT));
    let many = jobs("many", 100);
    stage.publish(&many).await;
    stage.jobs("waiting", Some("agent_unavailable"), 100, SOON).await;
    let asked = stage.posts().len();

    let pool = numbers(3);
    let pool: Vec<&str> = pool.iter().map(String::as_str).collect();
    stage.sandbox.set_pool("default", AGENT, &pool).unwrap();
    stage.run(&["pool", "sync", AGENT]).await;
    stage.jobs("done", None, 101, SOON).await;
    stage.each_placed_once(&many);
    assert_eq!(stage.posts().len(), asked + 100);
    assert_eq!(stage.count("select count(*) from reporting.jobs where state = 'refused'").await, 0);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_caller_id_refused_though_attached_refuses_the_job_and_keeps_the_answer() {
    let stage = stage(2, "").await;
    let worker = stage.worker(&[]).await;
    let body = json!({ "detail": { "status": "error", "description": "No calls to +14155550100, sorry.",
        "request_id": "00000000000000000000000000000001", "category": "important" } });
    let refusal = Action::Answer { status: 400, body: Some(body), retry_after_s: None };
    let unlucky = job("unlucky", "spring", "+14155550100");
    stage.sandbox.override_posts(for_phone(&unlucky["phone"], refusal));
    stage.publish(&[unlucky]).await;
    stage.publish(&jobs("other", 10)).await;
    stage.jobs("done", None, 10, SOON).await;
    stage.jobs("refused", Some("provider_rejected"), 1, SOON).await;
    assert_eq!(stage.posts().len(), 11);

    let kept: (String, i16, String, String) = sqlx::query_as(
        "select c.state, c.http_status, c.provider_error, a.provider_answer
         from reporting.calls c join outdial.attempts a using (attempt_id) where c.job_id = 'unlucky'",
    )
    .fetch_one(&stage.db)
    .await
    .unwrap();
    assert_eq!((kept.0.as_str(), kept.1), ("not_placed", 400));
    assert!(kept.2.starts_with("No calls to") && !kept.2.contains("4155550100"), "{}", kept.2);
    assert!(kept.3.contains("\"request_id\"") && kept.3.contains("+14155550100"), "as it came: {}", kept.3);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_number_found_gone_by_a_400_is_dropped_and_its_jobs_go_from_another() {
    let stage = stage(4, "").await;
    let worker = stage.worker(&[]).await;
    stage.publish(&[job("first", "spring", "+14155550123")]).await;
    stage.jobs("done", None, 1, SOON).await;

    // Detached at the provider; the worker's next reading by itself is five minutes away.
    let (gone, left) = (number(0), numbers(4));
    let left: Vec<&str> = left[1..].iter().map(String::as_str).collect();
    stage.sandbox.set_pool("default", AGENT, &left).unwrap();
    let many = jobs("many", 60);
    stage.publish(&many).await;
    stage.jobs("done", None, 61, SOON).await;
    stage.each_placed_once(&many);

    let posts = stage.posts();
    let from_gone: Vec<_> =
        posts[1..].iter().filter(|p| p.from_phone_number.as_deref() == Some(&gone)).collect();
    assert!(!from_gone.is_empty() && from_gone.iter().all(|p| p.status == Some(400)), "{from_gone:?}");
    let attached = format!("select count(*) from outdial.pool where number = '{gone}' and attached");
    assert_eq!(stage.count(&attached).await, 0);
    let last_gone = from_gone.last().unwrap().seq;
    stage.publish(&[job("later", "spring", "+14155550124")]).await;
    stage.jobs("done", None, 62, SOON).await;
    assert!(posts.last().unwrap().seq > last_gone, "the number rests while others work");
    stage.stopped(worker).await;
}

#[tokio::test]
async fn five_refusals_in_a_row_pause_the_campaign_and_say_so() {
    let stage = stage(4, "").await;
    let worker = stage.worker(&[]).await;
    let mut events = Listener::new(&stage.vhost.url).await;
    stage.publish(&jobs("bystander", 3)).await;
    stage.jobs("done", None, 3, SOON).await;

    let five: Vec<Value> =
        (0..5).map(|i| job(&format!("bad-{i}"), "bad", &format!("+1415555012{i}"))).collect();
    stage.sandbox.override_posts(Override::next(5, answer(422)));
    stage.publish(&five).await;
    stage.jobs("refused", Some("provider_rejected"), 5, SOON).await;
    let changed = events.of("campaign.state_changed", 1, SOON).await;
    assert_eq!(changed[0]["campaign_id"], "bad");
    assert_eq!(
        (&changed[0]["state"], &changed[0]["reason"]),
        (&json!("paused"), &json!("provider_rejected"))
    );
    assert_eq!(ids(&events.of("job.refused", 5, SOON).await), ids(&five));

    let rest: Vec<Value> =
        (0..10).map(|i| job(&format!("rest-{i}"), "bad", &format!("+1415555013{i}"))).collect();
    stage.publish(&rest).await;
    stage.jobs("waiting", Some("campaign_paused"), 10, SOON).await;
    let other: Vec<Value> =
        (0..10).map(|i| job(&format!("o-{i}"), "bystander", &format!("+1415555014{i}"))).collect();
    stage.publish(&other).await;
    stage.jobs("done", None, 13, SOON).await;
    assert_eq!(stage.posts().len(), 3 + 5 + 10, "nothing of the paused campaign goes");

    stage.run(&["campaign", "resume", "bad"]).await;
    stage.jobs("done", None, 23, SOON).await;
    stage.each_placed_once(&rest);
    assert_eq!(stage.posts().len(), 28);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

//! Stops on running workers under load: pauses, cancels, orderly ends, kills, and servers that go away.

mod deaths;
mod servers;

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::callees::serving;
use crate::support::eventually;
use crate::support::stage::{ANY_NUMBER, Stage, job, jobs, numbers, sandbox_config};

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(180);

/// Ten numbers of 15 calls a second: a thousand jobs are a load for seven seconds.
async fn stage(rest: &str) -> Stage {
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    route(&stage, rest).await;
    stage
}

async fn route(stage: &Stage, rest: &str) {
    stage.route("per_second = 15", &format!("{rest}\n{ANY_NUMBER}")).await;
}

/// Tells how long it took since then, and fails where that is longer than promised.
fn recovered(what: &str, since: tokio::time::Instant, promised: Duration) {
    let took = since.elapsed();
    println!("recovery: {what} after {:.1} s, promised are {} s", took.as_secs_f64(), promised.as_secs());
    assert!(took <= promised, "{what} after {took:?}");
}

async fn moment(stage: &Stage, query: &str) -> DateTime<Utc> {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&stage.db).await.unwrap()
}

/// Since `stop`, which is its own commit at the latest, nothing `of` this was authorised, and 1 s later nothing arrived.
async fn assert_nothing_since(stage: &Stage, stop: DateTime<Utc>, of: &str) {
    let late: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "select count(*) from outdial.attempts where submitted_at > $1 and {of}"
    )))
    .bind(stop)
    .fetch_one(&stage.db)
    .await
    .unwrap();
    assert_eq!(late, 0, "authorised after the stop");
    let attempts: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "select attempt_id::text from outdial.attempts where {of}"
    )))
    .fetch_all(&stage.db)
    .await
    .unwrap();
    let attempts: HashSet<&str> = attempts.iter().map(String::as_str).collect();
    let limit_us = stop.timestamp_micros() + 1_000_000;
    let posts = stage.posts();
    let mut late = posts.iter().filter(|p| attempts.contains(p.attempt_id.as_deref().unwrap()));
    assert!(late.all(|post| post.at_us <= limit_us), "a POST more than 1 s after the stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_or_canceled_campaign_stops_at_once_and_others_go_on() {
    let stage = stage("").await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    let (big, small) = (jobs("big", 1500), more("small", 200));
    stage.publish(&big).await;
    stage.posted(150, SOON).await;
    stage.run(&["campaign", "pause", "big"]).await;
    let paused = "select state_since from outdial.campaigns where campaign_id = 'big'";
    let stop = moment(&stage, paused).await;
    stage.publish(&small).await;
    let small_done = "select count(*) from reporting.jobs where campaign_id = 'small' and state = 'done'";
    eventually(LONG, async || (stage.count(small_done).await == 200).then_some(())).await;
    assert_nothing_since(&stage, stop, "campaign_id = 'big'").await;
    let waiting = "select count(*) from reporting.jobs where campaign_id = 'big' and state = 'waiting'";
    let left = stage.count(waiting).await;
    assert!(left > 200, "the pause came in the middle: {left} are left");
    stage.jobs("waiting", Some("campaign_paused"), left, SOON).await;

    stage.run(&["campaign", "resume", "big"]).await;
    stage.posted((1700 - left + 100) as usize, SOON).await;
    stage.run(&["campaign", "cancel", "big"]).await;
    let stop = moment(&stage, paused).await;
    let open = "select count(*) from reporting.jobs where state not in ('done', 'canceled')";
    eventually(LONG, async || (stage.count(open).await == 0).then_some(())).await;
    assert_nothing_since(&stage, stop, "campaign_id = 'big'").await;
    let canceled = stage.count("select count(*) from reporting.jobs where state = 'canceled'").await;
    assert!(canceled > 50, "{canceled} canceled");
    assert_eq!(stage.posts().len() as i64, 1700 - canceled, "whoever wasn't canceled was rung, once");
    assert_eq!(posted_phones(&stage).len() as i64, 1700 - canceled);
    stage.nothing_held().await;
    stage.stopped(one).await;
    stage.stopped(two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_account_sends_nothing_takes_jobs_and_goes_on_when_resumed() {
    let stage = stage("").await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    let mut many = Vec::new();
    // Several times: a pause shows what it is worth only where it meets calls that have their slot already.
    for _ in 0..4 {
        feed(&stage, &["many"], &mut many, 500).await;
        stage.posted(stage.posts().len() + 80, SOON).await;
        stage.run(&["account", "pause", "default"]).await;
        let stop = moment(&stage, "select state_since from outdial.accounts").await;
        let dialing = "select count(*) from outdial.reservations full join outdial.live using (job_no)
                       where live.state is distinct from 'placed'";
        eventually(SOON, async || (stage.count(dialing).await == 0).then_some(())).await;
        assert_nothing_since(&stage, stop, "true").await;
        stage.run(&["account", "resume", "default"]).await;
    }
    feed(&stage, &["many"], &mut many, 800).await;
    stage.posted(stage.posts().len() + 20, SOON).await;
    stage.run(&["account", "pause", "default"]).await;
    let stop = moment(&stage, "select state_since from outdial.accounts").await;
    let meanwhile = 100;
    publish_more(&stage, &["many"], &mut many, meanwhile).await;
    let settled = "select count(*) from reporting.jobs where state in ('done', 'waiting')";
    eventually(LONG, async || (stage.count(settled).await == many.len() as i64).then_some(())).await;
    let left = stage.count("select count(*) from reporting.jobs where state = 'waiting'").await;
    assert!(left > meanwhile as i64, "the pause came in the middle: {left} are left");
    stage.jobs("waiting", Some("account_paused"), left, SOON).await;
    assert_nothing_since(&stage, stop, "true").await;
    stage.run(&["account", "resume", "default"]).await;
    stage.each_done_once(&many, LONG).await;
    stage.nothing_held().await;
    stage.stopped(one).await;
    stage.stopped(two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_switch_stops_every_call_at_once_and_loses_nothing() {
    let stage = stage("").await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    let (campaigns, mut many) = (["many", "more"], Vec::new());
    for _ in 0..3 {
        feed(&stage, &campaigns, &mut many, 500).await;
        stage.posted(stage.posts().len() + 80, SOON).await;
        stage.run(&["kill-switch", "on"]).await;
        let stop = moment(&stage, "select changed_at from outdial.control").await;
        let dialing = "select count(*) from outdial.reservations full join outdial.live using (job_no)
                       where live.state is distinct from 'placed'";
        eventually(SOON, async || (stage.count(dialing).await == 0).then_some(())).await;
        assert_nothing_since(&stage, stop, "true").await;
        stage.run(&["kill-switch", "off"]).await;
    }
    stage.run(&["kill-switch", "on"]).await;
    let stop = moment(&stage, "select changed_at from outdial.control").await;
    assert_eq!(stage.run(&["kill-switch", "on"]).await, "the kill switch is on already\n");
    publish_more(&stage, &campaigns, &mut many, 50).await;
    let settled = "select count(*) from reporting.jobs where state in ('done', 'waiting')";
    eventually(LONG, async || (stage.count(settled).await == many.len() as i64).then_some(())).await;
    let left = stage.count("select count(*) from reporting.jobs where state = 'waiting'").await;
    assert!(left >= 50, "{left}");
    stage.jobs("waiting", Some("kill_switch"), left, SOON).await;
    assert_nothing_since(&stage, stop, "true").await;
    assert_eq!(stage.run(&["kill-switch", "off"]).await, "the kill switch is off now\n");
    stage.each_done_once(&many, LONG).await;
    stage.nothing_held().await;
    stage.stopped(one).await;
    stage.stopped(two).await;
}

/// `OUTDIAL_STOP_TRIES` stops, of each sort in turn, of three workers under load: nothing is authorised after any of them
/// has committed, and no POST arrives 1 s later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stop_of_many_is_late() {
    let tries: usize = std::env::var("OUTDIAL_STOP_TRIES").map_or(3, |n| n.parse().unwrap());
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    stage.route("per_second = 30", ANY_NUMBER).await;
    let workers = [stage.worker(&[]).await, stage.worker(&[]).await, stage.worker(&[]).await];
    let stops: [(&[&str], &[&str], &str); 3] = [
        (
            &["campaign", "pause", "many"],
            &["campaign", "resume", "many"],
            "select state_since from outdial.campaigns where campaign_id = 'many'",
        ),
        (&["kill-switch", "on"], &["kill-switch", "off"], "select changed_at from outdial.control"),
        (
            &["account", "pause", "default"],
            &["account", "resume", "default"],
            "select state_since from outdial.accounts where name = 'default'",
        ),
    ];
    let mut latest: Vec<(i64, i64)> = Vec::new();
    let mut many = Vec::new();
    for n in 0..tries {
        let (stop, resume, since) = stops[n % 3];
        let posted = stage.posts().len();
        feed(&stage, &["many"], &mut many, 800).await;
        stage.posted(posted + 100, SOON).await;
        stage.run(stop).await;
        let at = moment(&stage, since).await;
        let dialing = "select count(*) from outdial.reservations full join outdial.live using (job_no)
                       where live.state is distinct from 'placed'";
        eventually(SOON, async || (stage.count(dialing).await == 0).then_some(())).await;
        assert_nothing_since(&stage, at, "true").await;
        let authorised = moment(&stage, "select max(submitted_at) from outdial.attempts").await;
        let arrived = stage.posts().iter().map(|post| post.at_us).max().unwrap();
        latest.push((authorised.timestamp_micros() - at.timestamp_micros(), arrived - at.timestamp_micros()));
        stage.run(resume).await;
    }
    let authorised = latest.iter().map(|(authorised, _)| authorised).max().unwrap() / 1000;
    let arrived = latest.iter().map(|(_, arrived)| arrived).max().unwrap() / 1000;
    println!(
        "stops: {tries} tries, latest authorisation {authorised} ms and latest POST {arrived} ms after the commit"
    );
    let cancel = ["campaign", "cancel", "many"];
    stage.run(&cancel).await;
    let open = "select count(*) from reporting.jobs where state not in ('done', 'canceled')";
    eventually(LONG, async || (stage.count(open).await == 0).then_some(())).await;
    let rung = stage.count("select count(*) from reporting.jobs where state = 'done'").await;
    assert_eq!(stage.posts().len() as i64, rung, "each once, and none lost: {} jobs", many.len());
    assert_eq!(stage.count("select count(*) from reporting.jobs").await, many.len() as i64);
    stage.nothing_held().await;
    for worker in workers {
        stage.stopped(worker).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_rests_is_not_called_from_until_it_is_active_again() {
    let stage = stage("").await;
    let worker = stage.worker(&[]).await;
    let many = jobs("many", 700);
    stage.publish(&many[..200]).await;
    stage.posted(80, SOON).await;
    let resting = numbers(1).remove(0);
    let told = stage.run(&["number", "rest", &resting, "--reason", "spam label"]).await;
    assert_eq!(told, format!("{resting} is resting now (was active)\n"));
    let since = format!("select state_since from outdial.numbers where number = '{resting}'");
    let stop = moment(&stage, &since).await;
    stage.publish(&many[200..380]).await;
    stage.posted(380, SOON).await;
    assert_nothing_since(&stage, stop, &format!("from_phone_number = '{resting}'")).await;
    let told = stage.run(&["number", "activate", &resting]).await;
    assert_eq!(told, format!("{resting} is active now (was resting)\n"));
    let again = moment(&stage, &since).await;
    // Far more than the others take before a worker knows of it.
    stage.publish(&many[380..]).await;
    stage.each_done_once(&many, LONG).await;
    let posts = stage.posts();
    let from = posts.iter().filter(|post| post.from_phone_number.as_deref() == Some(resting.as_str()));
    assert!(from.clone().any(|post| post.at_us < stop.timestamp_micros()), "before");
    assert!(from.clone().any(|post| post.at_us > again.timestamp_micros()), "and afterwards");
    let told = "select count(*) from reporting.numbers where state = 'active' and state_reason is null";
    assert!(stage.count(told).await > 0);
    stage.stopped(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_jobs_are_canceled_by_command_api_and_message_while_others_go() {
    let stage = stage("[[campaign]]\nid = \"slow\"\nlimits = { per_second = 5 }").await;
    let worker = stage.worker(&[("OUTDIAL_API_TOKEN", "a-long-enough-token")]).await;
    let (slow, many) = (jobs("slow", 60), more("many", 300));
    stage.publish(&slow).await;
    stage.publish(&many).await;
    let slow_began = || posted_phones(&stage).contains(slow[0]["phone"].as_str().unwrap());
    eventually(SOON, async || slow_began().then_some(())).await;
    stage.run(&["job", "cancel", "slow-59"]).await;
    let address = serving(&worker);
    let cancel = async |token: &str, job: &str| {
        let headers = format!("authorization: Bearer {token}\r\n");
        crate::webhooks::post(&address, &format!("/api/v1/jobs/{job}/cancel"), &headers, b"").await
    };
    assert_eq!(cancel("another-long-token", "slow-58").await, 401);
    for (job, answer) in [("slow-58", 200), ("slow-58", 200), ("nobody", 404), ("slow-0", 409)] {
        assert_eq!(cancel("a-long-enough-token", job).await, answer, "{job}");
    }
    // Some of them are past canceling already: those are rung.
    cancel_by_message(&stage, slow[..58].iter().rev()).await;

    let over = "select count(*) from reporting.jobs where state in ('done', 'canceled')";
    eventually(LONG, async || (stage.count(over).await == 360).then_some(())).await;
    let canceled: Vec<String> =
        sqlx::query_scalar("select phone from outdial.jobs where state = 'canceled' and reason = 'canceled'")
            .fetch_all(&stage.db)
            .await
            .unwrap();
    assert!((20..60).contains(&canceled.len()), "{} canceled", canceled.len());
    let rung = posted_phones(&stage);
    assert!(canceled.iter().all(|phone| !rung.contains(phone)), "a canceled job was rung");
    assert_eq!(rung.len() + canceled.len(), 360);
    assert_eq!(stage.posts().len(), rung.len(), "nobody is rung twice");
    let both =
        "select count(*) from reporting.jobs where job_id in ('slow-58', 'slow-59') and state = 'canceled'";
    assert_eq!(stage.count(both).await, 2);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_under_load_loses_and_repeats_nothing() {
    let stage = stage("").await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    let many = jobs("many", 900);
    stage.publish(&many).await;
    stage.posted(150, SOON).await;
    stage.stopped(one).await;
    stage.posted(400, SOON).await;
    stage.stopped(two).await;
    let posted = stage.posts().len();
    assert!(posted < 900, "both stopped in the middle");
    assert_eq!(stage.count("select count(*) from outdial.reservations").await, 0, "slots are handed back");
    let in_flight = "select count(*) from outdial.live where state <> 'placed'";
    assert_eq!(stage.count(in_flight).await, 0, "every answer is written");

    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    stage.each_done_once(&many, LONG).await;
    stage.nothing_held().await;
    stage.stopped(one).await;
    stage.stopped(two).await;
}

/// Publishes more of these until `ahead` are still to go: a command takes its time, and jobs have to be left when it is done.
async fn feed(stage: &Stage, campaigns: &[&str], published: &mut Vec<Value>, ahead: usize) {
    let wanted = stage.posts().len() + ahead;
    publish_more(stage, campaigns, published, wanted.saturating_sub(published.len())).await;
}

/// `n` jobs more, of each campaign in turn.
async fn publish_more(stage: &Stage, campaigns: &[&str], published: &mut Vec<Value>, n: usize) {
    if n == 0 {
        return;
    }
    let next = published.len()..published.len() + n;
    let next: Vec<Value> = next
        .map(|i| {
            let campaign = campaigns[i % campaigns.len()];
            job(&format!("{campaign}-{i}"), campaign, &format!("+1415{:07}", 2_000_000 + i))
        })
        .collect();
    stage.publish(&next).await;
    published.extend(next);
}

/// `n` jobs to other callees than those of `jobs`.
fn more(campaign: &str, n: usize) -> Vec<Value> {
    (0..n).map(|i| job(&format!("{campaign}-{i}"), campaign, &format!("+1415701{i:04}"))).collect()
}

fn posted_phones(stage: &Stage) -> HashSet<String> {
    stage.posts().into_iter().map(|post| post.phone.unwrap()).collect()
}

async fn cancel_by_message(stage: &Stage, jobs: impl Iterator<Item = &Value>) {
    let connection = Connection::connect(&stage.vhost.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for job in jobs {
        let body = json!({ "job_id": job["job_id"] }).to_string();
        let cancel = BasicProperties::default().with_delivery_mode(2).with_type("cancel".into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = channel
            .basic_publish("outdial.jobs".into(), "any".into(), options, body.as_bytes(), cancel)
            .await;
        assert!(sent.unwrap().await.unwrap().is_ack());
    }
    connection.close(200, "done".into()).await.unwrap();
}

//! Pools that change while jobs wait and calls go: what is no longer attached, or rests, is never called from again.

use chrono::{DateTime, Utc};
use outdial::synthflow::sandbox::{SandboxConfig, SettingsChange};
use serde_json::json;

use crate::support::eventually;
use crate::support::stage::{AGENT, LONG, Stage, job, jobs, number, numbers, sandbox_config};

const ANY: &str = "[[rule]]\nname = \"any\"\n";

/// The account owns more numbers than are attached.
fn owning(pool: &[String], more: &[String]) -> SandboxConfig {
    let mut config = sandbox_config(pool);
    config.accounts[0].numbers = more.iter().map(|number| number.as_str().into()).collect();
    config
}

/// When the last change that workers are told of was committed.
async fn told_at(stage: &Stage) -> DateTime<Utc> {
    sqlx::query_scalar("select changed_at from outdial.control").fetch_one(&stage.db).await.unwrap()
}

/// Nothing was authorised from a number after a moment, and nothing arrived more than a second later: what was on its
/// way. Every job went, once, from a number of the pool.
async fn never_again(stage: &Stage, number: &str, since: DateTime<Utc>, jobs: usize) {
    let authorised: i64 = sqlx::query_scalar(
        "select count(*) from outdial.attempts where from_phone_number = $1 and submitted_at > $2",
    )
    .bind(number)
    .bind(since)
    .fetch_one(&stage.db)
    .await
    .unwrap();
    assert_eq!(authorised, 0);
    let posts = stage.posts();
    for post in posts.iter().filter(|post| post.from_phone_number.as_deref() == Some(number)) {
        let arrived = DateTime::from_timestamp_micros(post.at_us).unwrap();
        assert!(arrived < since + chrono::TimeDelta::seconds(1), "{arrived}, {since}");
    }
    let accepted: Vec<_> = posts.iter().filter(|post| post.status == Some(200)).collect();
    let callees: std::collections::HashSet<_> = accepted.iter().map(|post| &post.phone).collect();
    assert_eq!((accepted.len(), callees.len()), (jobs, jobs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_detached_while_jobs_go_and_wait_is_never_used_again() {
    let pool = numbers(3);
    let stage = Stage::new(owning(&pool, &[])).await;
    stage.route("per_second = 5", ANY).await;
    let _workers = (stage.worker(&[]).await, stage.worker(&[]).await);
    stage.publish(&jobs("c", 150)).await;
    stage.posted(30, LONG).await;
    stage.run(&["pool", "detach", AGENT, "--slug", &pool[1][1..]]).await;
    let since = told_at(&stage).await;
    let left = stage.count("select count(*) from reporting.jobs where state = 'waiting'").await;
    assert!(left > 0, "jobs were still waiting");
    stage.jobs("done", None, 150, LONG * 2).await;
    assert!(stage.posts().iter().any(|post| post.from_phone_number.as_ref() == Some(&pool[1])));
    never_again(&stage, &pool[1], since, 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_is_rested_is_never_used_until_it_is_active() {
    let pool = numbers(3);
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("per_second = 5", ANY).await;
    let _workers = (stage.worker(&[]).await, stage.worker(&[]).await);
    stage.publish(&jobs("c", 150)).await;
    stage.posted(30, LONG).await;
    stage.rest(&pool[2]).await;
    let since = told_at(&stage).await;
    stage.jobs("done", None, 150, LONG * 2).await;
    never_again(&stage, &pool[2], since, 150).await;
    // A job for it alone waits, till it is active again.
    let own = json!({ "job_id": "own", "campaign_id": "c", "phone": "+16025550101", "name": "Ada", "model_id": AGENT,
                      "from_phone_number": pool[2] });
    stage.publish(&[own]).await;
    stage.stands("own", "waiting", Some("no_eligible_number")).await;
    for state in ["quarantined", "retired", "warming"] {
        let set = format!("update outdial.numbers set state = '{state}' where number = '{}'", pool[2]);
        sqlx::query(sqlx::AssertSqlSafe(set)).execute(&stage.db).await.unwrap();
        sqlx::query("select outdial.raise_epoch()").execute(&stage.db).await.unwrap();
        if state != "warming" {
            stage.stands("own", "waiting", Some("no_eligible_number")).await;
        }
    }
    assert_eq!(stage.called("+16025550101").await.from_phone_number.as_ref(), Some(&pool[2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_wait_for_an_eligible_number_go_when_one_is_attached() {
    let (pool, later) = (numbers(1), number(7));
    let stage = Stage::new(owning(&pool, std::slice::from_ref(&later))).await;
    let rule =
        format!("[[rule]]\nname = \"only\"\nuse = {{ numbers = [{later:?}] }}\notherwise = \"hold\"\n");
    stage.route("", &rule).await;
    let _worker = stage.worker(&[]).await;
    stage.publish(&jobs("c", 20)).await;
    stage.jobs("waiting", Some("no_eligible_number"), 20, LONG).await;
    stage.run(&["pool", "attach", AGENT, "--number", &later]).await;
    let posts = stage.posted(20, LONG).await;
    assert!(posts.iter().all(|post| post.from_phone_number.as_ref() == Some(&later)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_pool_holds_jobs_and_refuses_none() {
    let stage = Stage::new(sandbox_config(&[])).await;
    stage.route("", ANY).await;
    let _worker = stage.worker(&[]).await;
    stage.publish(&[job("here", "c", "+14155550101"), job("abroad", "c", "+33142685300")]).await;
    stage.jobs("waiting", Some("no_eligible_number"), 2, LONG).await;
    stage.sandbox.set_pool("default", AGENT, &[&number(0)]).unwrap();
    stage.run(&["pool", "sync", AGENT]).await;
    stage.called("+14155550101").await;
    stage.stands("abroad", "refused", Some("destination_not_allowed")).await;
    assert_eq!(stage.posts().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_shrinks_by_more_than_half_counts_at_the_second_reading() {
    let pool = numbers(4);
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("per_second = 20", ANY).await;
    let _worker = stage.worker(&[]).await;
    stage.publish(&jobs("before", 8)).await;
    let posts = stage.posted(8, LONG).await;
    let used: std::collections::HashSet<_> =
        posts.iter().map(|post| post.from_phone_number.clone()).collect();
    assert_eq!(used.len(), 4);
    stage.sandbox.set_pool("default", AGENT, &[&pool[3]]).unwrap();
    sqlx::query("update outdial.agents set sync_wanted = true").execute(&stage.db).await.unwrap();
    // One reading may be a slip: until a second agrees, nothing is dropped.
    let doubted = "select count(*) from outdial.agents where jsonb_array_length(pool_shrunk) = 3
                   and (select count(*) from outdial.pool where attached) = 4";
    eventually(LONG, async || (stage.count(doubted).await == 1).then_some(())).await;
    let attached = "select count(*) from outdial.pool where attached";
    eventually(LONG, async || (stage.count(attached).await == 1).then_some(())).await;
    stage.publish(&jobs("after", 20)).await;
    let posts = stage.posted(28, LONG).await;
    assert!(posts[8..].iter().all(|post| post.from_phone_number.as_ref() == Some(&pool[3])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_too_old_to_trust_refuses_nothing_and_recovers() {
    let pool = numbers(2);
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("", ANY).await;
    let _worker = stage.worker(&[("OUTDIAL__POOL__REFRESH", "1s"), ("OUTDIAL__POOL__MAX_AGE", "4s")]).await;
    stage.publish(&[job("before", "c", "+14155550101")]).await;
    stage.called("+14155550101").await;

    let answers = |status| SettingsChange { assistant_status: Some(status), ..SettingsChange::default() };
    stage.sandbox.change_settings(answers(Some(503))).unwrap();
    let stale =
        "select count(*) from outdial.agents where pool_read_at < clock_timestamp() - interval '4 seconds'";
    eventually(LONG, async || (stage.count(stale).await == 1).then_some(())).await;
    // Workers look at the age of pools now and then; this makes it now.
    sqlx::query("select outdial.raise_epoch()").execute(&stage.db).await.unwrap();
    let own = json!({ "job_id": "own", "campaign_id": "c", "phone": "+14155550104", "name": "Ada", "model_id": AGENT,
                      "from_phone_number": number(9) });
    eventually(LONG, async || {
        // A job that comes before the workers have seen it may still go.
        let n = stage.count("select count(*) from reporting.jobs").await;
        stage.publish(&[job(&format!("probe-{n}"), "c", &format!("+1415555{:04}", 1000 + n))]).await;
        let waits = "select count(*) from reporting.jobs where reason = 'pool_unknown'";
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        (stage.count(waits).await > 0).then_some(())
    })
    .await;
    // One of those may still be on its way.
    let going = "select (select count(*) from outdial.reservations) + (select count(*) from outdial.live where state = 'submitting')";
    eventually(LONG, async || (stage.count(going).await == 0).then_some(())).await;
    let posts = stage.posts().len();
    stage.publish(&[job("home", "c", "+14155550102"), job("abroad", "c", "+33142685300"), own]).await;
    for id in ["home", "abroad", "own"] {
        stage.stands(id, "waiting", Some("pool_unknown")).await;
    }
    assert_eq!(stage.posts().len(), posts);
    assert_eq!(stage.count("select count(*) from reporting.jobs where state = 'refused'").await, 0);

    stage.sandbox.change_settings(answers(None)).unwrap();
    stage.called("+14155550102").await;
    stage.stands("abroad", "refused", Some("destination_not_allowed")).await;
    stage.stands("own", "waiting", Some("from_number_not_in_pool")).await;
}

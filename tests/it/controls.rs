//! Negative controls: the usual mistakes of dialers, made on purpose, each of which the checks must find. A check that
//! never failed proves nothing.
//!
//! Each mistake is put into the ledger of the test's own database, or made where the broker or the configuration lets
//! one make it: the program under test is the one that ships.

use std::time::Duration;

use futures_util::FutureExt;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use outdial::synthflow::sandbox::{Action, Override};
use rustix::process::Signal;
use sqlx::AssertSqlSafe;

use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, numbers, sandbox_config};
use crate::support::{Figures, eventually, vhost};

const LEASE: (&str, &str) = ("OUTDIAL__WORKER__LEASE", "3s");

async fn stage(limits: &str) -> Stage {
    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    stage.route(limits, ANY_NUMBER).await;
    stage
}

/// Puts a mistake into a step of the ledger.
async fn mistake(stage: &Stage, step: &str, right: &str, wrong: &str) {
    let definition: String =
        sqlx::query_scalar("select pg_get_functiondef(oid) from pg_proc where pronamespace = 'outdial'::regnamespace and proname = $1")
            .bind(step)
            .fetch_one(&stage.db)
            .await
            .unwrap();
    assert!(
        definition.contains(right),
        "{step} has no {right:?} any more: the mistake is to be made otherwise"
    );
    sqlx::query(AssertSqlSafe(definition.replacen(right, wrong, 1))).execute(&stage.db).await.unwrap();
}

/// What a check says when it fails; it must.
async fn found(check: impl Future<Output = ()>) -> String {
    let failed =
        std::panic::AssertUnwindSafe(check).catch_unwind().await.expect_err("the check found nothing");
    match failed.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast::<&str>().map(|text| (*text).to_owned()).unwrap_or_default(),
    }
}

#[tokio::test]
async fn an_ack_before_the_commit_loses_jobs_and_is_found() {
    let stage = stage("per_second = 20").await;
    // What is acked was never written down.
    mistake(
        &stage,
        "accept",
        "    with sent as materialized (",
        "    return query select 'new' from unnest(p_job_id);\n    return;\n    with sent as materialized (",
    )
    .await;
    let worker = stage.worker(&[]).await;
    let published = jobs("spring", 5);
    stage.publish(&published).await;
    eventually(LONG, async || {
        let figures = Figures::of(&worker).await;
        (figures.get("intake_messages_total{result=\"accepted\"}") == 5.0).then_some(())
    })
    .await;
    let said = found(stage.prove(&published, &[])).await;
    assert!(said.contains("published, confirmed, and lost"), "{said}");
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_retry_on_time_out_rings_somebody_twice_and_is_found() {
    let stage = stage("per_second = 20").await;
    mistake(
        &stage,
        "settle",
        "begin\n",
        "begin\n    p_outcome := array(select case o when 'unknown' then 'retry' else o end from unnest(p_outcome) with ordinality u(o, n) order by n);\n",
    )
    .await;
    let worker = stage.worker(&[]).await;
    stage.sandbox.override_posts(Override::next(1, Action::Close).but_place());
    let published = [job("once", "spring", "+14155550123")];
    stage.publish(&published).await;
    stage.posted(2, LONG).await;
    stage.jobs("done", None, 1, LONG).await;
    let said = found(stage.prove(&published, &[])).await;
    assert!(said.contains("rung again although the last may have been placed"), "{said}");
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_lease_without_fencing_lets_a_sleeper_send_and_is_found() {
    let stage = stage("per_second = 20").await;
    // Whose lease has run out counts as never having sent; and no deadline holds who wakes late.
    mistake(&stage, "take_over", "array_fill('unknown'::text", "array_fill('retry'::text").await;
    let sleeper = stage.start(
        &["worker"],
        &[LEASE, ("OUTDIAL__LIMITS__SLACK_MS", "10000"), ("OUTDIAL_FAILPOINT", "BeforeWrite:1=stop")],
    );
    sleeper.line(LONG, "worker.started").await;
    let published = [job("once", "spring", "+14155550123")];
    stage.publish(&published).await;
    sleeper.line(LONG, "failpoint BeforeWrite").await;
    let second = stage.worker(&[LEASE]).await;
    stage.posted(1, LONG).await;
    sleeper.signal(Signal::CONT);
    stage.posted(2, LONG).await;
    let said = found(async { stage.never_twice() }).await;
    assert!(said.contains("rung again although the last may have been placed"), "{said}");
    drop(sleeper);
    stage.stopped(second).await;
}

#[tokio::test]
async fn a_limiter_in_each_process_is_too_little_for_three_and_is_found() {
    let stage = stage("per_second = 2").await;
    let (one, two, three) = (stage.worker(&[]).await, stage.worker(&[]).await, stage.worker(&[]).await);
    // The first job makes the pool known, and with it its limits.
    stage.publish(&[job("first", "spring", "+14155550123")]).await;
    stage.posted(1, LONG).await;
    // The ledger knows of no limit; each process holds its own.
    sqlx::query("update outdial.limits set per_second = null").execute(&stage.db).await.unwrap();
    let published = jobs("spring", 60);
    stage.publish(&published).await;
    stage.posted(30, LONG).await;
    let said = found(stage.within(&[(1, 2)])).await;
    assert!(said.contains("calls in 1 s, and may make 2"), "{said}");
    for worker in [one, two, three] {
        drop(worker);
    }
}

#[tokio::test]
async fn a_delivery_limit_without_dead_lettering_drops_the_innocent_and_is_found() {
    let stage = Stage::on(sandbox_config(&numbers(1)), crate::support::database().await, vhost().await).await;
    let connection = Connection::connect(&stage.vhost.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(3));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("careless".into(), durable, arguments).await.unwrap();
    let published = [job("innocent", "spring", "+14155550123")];
    let body = published[0].to_string().into_bytes();
    let persistent = BasicProperties::default().with_delivery_mode(2);
    channel
        .basic_publish("".into(), "careless".into(), BasicPublishOptions::default(), &body, persistent)
        .await
        .unwrap()
        .await
        .unwrap();
    // A worker that dies with it, again and again.
    let mut deliveries = 0;
    eventually(LONG, async || {
        let got = channel.basic_get("careless".into(), BasicGetOptions::default()).await.unwrap();
        match got {
            Some(message) => {
                deliveries += 1;
                let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                message.acker.nack(back).await.unwrap();
                None
            }
            None => (deliveries > 3).then_some(()),
        }
    })
    .await;
    let said = found(stage.prove(&published, &[])).await;
    assert!(said.contains("published, confirmed, and lost"), "{said}");
    connection.close(200, "done".into()).await.unwrap();
}

/// The same stage without a mistake: the checks have nothing to find.
#[tokio::test]
async fn without_a_mistake_nothing_is_found() {
    let stage = stage("per_second = 4").await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    let published = jobs("spring", 30);
    stage.publish(&published).await;
    stage.jobs("done", None, 30, Duration::from_secs(90)).await;
    stage.prove(&published, &[(1, 4)]).await;
    stage.stopped(one).await;
    stage.stopped(two).await;
}

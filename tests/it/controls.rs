//! Negative controls: the usual mistakes of dialers, made on purpose, each of which the checks must find. A check that
//! never failed proves nothing.
//!
//! Each mistake is put into the ledger of the test's own database, or made where the broker, the database or the
//! configuration lets one make it: the program under test is the one that ships. Where the mistake needs a story to show
//! itself, the same story is told without it first, and nothing is found.

use std::time::Duration;

use futures_util::FutureExt;
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use outdial::broker::{DEAD, JOBS};
use outdial::synthflow::sandbox::{Action, Override};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, numbers, sandbox_config};
use crate::support::{Figures, busy, database_on, eventually, own_postgres, posts_by_phone, vhost};

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

/// The database tells that a job is committed before it is on its disk, the worker acks it, and the database dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_before_the_commit_loses_jobs_and_is_found() {
    for careless in [false, true] {
        let mut postgres = own_postgres().await;
        let stage = Stage::on(sandbox_config(&numbers(3)), database_on(&postgres).await, vhost().await).await;
        let mut asleep = None;
        if careless {
            // Nobody else brings to the disk what the commits left behind.
            let writer = "select pid from pg_stat_activity where backend_type = 'walwriter'";
            let writer: i32 = sqlx::query_scalar(writer).fetch_one(&stage.db).await.unwrap();
            let writer = Pid::from_raw(writer).unwrap();
            kill_process(writer, Signal::STOP).unwrap();
            asleep = Some(writer);
            let later = "do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$";
            sqlx::query(later).execute(&stage.db).await.unwrap();
        }
        let worker = stage.worker(&[]).await;
        let published = jobs("spring", 5);
        stage.publish(&published).await;
        eventually(LONG, async || {
            let figures = Figures::of(&worker).await;
            (figures.get("intake_messages_total{result=\"accepted\"}") == 5.0).then_some(())
        })
        .await;
        // By then its acks have gone out.
        stage.stopped(worker).await;
        postgres.kill9();
        if let Some(writer) = asleep {
            // It can't see that its server is gone, and has the memory of it.
            kill_process(writer, Signal::KILL).unwrap();
            eventually(LONG, async || test_kill_process(writer).is_err().then_some(())).await;
        }
        postgres.resume().unwrap();
        if careless {
            let said = found(stage.prove(&published, &[])).await;
            assert!(said.contains("published, confirmed, and lost"), "{said}");
        } else {
            stage.prove(&published, &[]).await;
        }
        drop(stage);
    }
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

/// A worker that is stopped before it asks for leave, and wakes when its job was another's and is rung.
#[tokio::test]
async fn a_lease_without_an_epoch_lets_a_sleeper_send_and_is_found() {
    let _cores = busy().await;
    for careless in [false, true] {
        let stage = stage("per_second = 1").await;
        if careless {
            // Whoever once had the job may send it: by what the worker remembers, not by what stands in the ledger.
            for kept in [
                "create table outdial.kept (like outdial.reservations)",
                "create function outdial.keep() returns trigger language plpgsql as
                 $$ begin
                     delete from outdial.kept k where k.job_no = new.job_no and k.worker_no = new.worker_no;
                     insert into outdial.kept select new.*;
                     return null;
                 end $$",
                "create trigger keep after insert on outdial.reservations for each row execute function outdial.keep()",
            ] {
                sqlx::query(kept).execute(&stage.db).await.unwrap();
            }
            mistake(&stage, "authorise", "from outdial.reservations r", "from outdial.kept r").await;
            mistake(&stage, "authorise", "then 'fenced' end", "then null end").await;
        }
        let slack = ("OUTDIAL__LIMITS__SLACK_MS", "10000");
        let failpoint = ("OUTDIAL_FAILPOINT", "BeforeAuthorise:1=stop");
        let sleeper = stage.start(&["worker"], &[("OUTDIAL__WORKER__LEASE", "60s"), slack, failpoint]);
        sleeper.line(LONG, "worker.started").await;
        // Each of the three numbers has a call; the next ones' slots are a while later: where leave doesn't come with them yet, it
        // is asked for by itself. If not for the fourth job, for one of those after it.
        let published: Vec<Value> =
            (1..=13).map(|n| job(&format!("job-{n}"), "spring", &format!("+141555501{n:02}"))).collect();
        stage.publish(&published).await;
        sleeper.line(LONG, "failpoint BeforeAuthorise").await;
        let held: Vec<String> =
            sqlx::query_scalar("select phone from outdial.reservations join outdial.jobs using (job_no)")
                .fetch_all(&stage.db)
                .await
                .unwrap();
        assert!(!held.is_empty());
        // By its own clock the sleeper has its lease for long yet; its duties are free for another.
        for over in [
            "update outdial.workers set lease_until = clock_timestamp()",
            "update outdial.duties set until = clock_timestamp()",
        ] {
            sqlx::query(over).execute(&stage.db).await.unwrap();
        }
        let second = stage.worker(&[LEASE]).await;
        for phone in &held {
            stage.called(phone).await;
        }
        sleeper.signal(Signal::CONT);
        if careless {
            let rung = || {
                let posts = stage.posts();
                let by_phone = posts_by_phone(&posts);
                held.iter().any(|phone| by_phone[phone.as_str()].len() > 1)
            };
            eventually(LONG, async || rung().then_some(())).await;
            let said = found(async { stage.never_twice() }).await;
            assert!(said.contains("rung again although the last may have been placed"), "{said}");
        } else {
            let unused = async || Figures::of(&sleeper).await.sum("unused_slots_total");
            eventually(LONG, async || (unused().await > 0.0).then_some(())).await;
            stage.jobs("done", None, published.len() as i64, LONG).await;
            stage.prove(&published, &[]).await;
        }
        drop(sleeper);
        stage.stopped(second).await;
    }
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
    // Enough for all three, who don't begin together.
    let published = jobs("spring", 200);
    stage.publish(&published).await;
    stage.posted(120, LONG).await;
    // One alone may let three go in a second that lies well: its allowance refills while it is used.
    let said = found(stage.within(&[(1, 4)])).await;
    assert!(said.contains("calls in 1 s, and may make 4"), "{said}");
    for worker in [one, two, three] {
        drop(worker);
    }
}

/// An innocent job that three workers die with.
#[tokio::test]
async fn a_delivery_limit_without_dead_lettering_drops_the_innocent_and_is_found() {
    for careless in [false, true] {
        let stage = stage("per_second = 20").await;
        let first = stage.worker(&[]).await;
        stage.stopped(first).await;
        let connection =
            Connection::connect(&stage.vhost.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.queue_delete(JOBS.into(), QueueDeleteOptions::default()).await.unwrap();
        let mut arguments = FieldTable::default();
        let text = |value: &str| AMQPValue::LongString(value.into());
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(2));
        if !careless {
            arguments.insert("x-dead-letter-exchange".into(), text(DEAD));
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-overflow".into(), text("reject-publish"));
        }
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(JOBS.into(), durable, arguments).await.unwrap();
        channel
            .queue_bind(
                JOBS.into(),
                JOBS.into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        let published = [job("innocent", "spring", "+14155550123")];
        stage.publish(&published).await;
        for _ in 0..3 {
            let death = ("OUTDIAL_FAILPOINT", "BeforeAccept:1=kill");
            let dying = stage.start(&["worker"], &[("OUTDIAL__AMQP__DECLARE", "false"), death]);
            dying.wait(LONG).await;
        }
        let healthy = stage.worker(&[("OUTDIAL__AMQP__DECLARE", "false")]).await;
        if careless {
            // Once a later one is through, nothing stands in the queue any more.
            let published = [published, [job("later", "spring", "+14155550124")]].concat();
            stage.publish(&published[1..]).await;
            stage.jobs("done", None, 1, LONG).await;
            assert!(stage.run(&["dead", "replay"]).await.contains("0 replayed, 0 left"));
            let said = found(stage.prove(&published, &[])).await;
            assert!(said.contains("published, confirmed, and lost: {\"innocent\"}"), "{said}");
        } else {
            eventually(LONG, async || {
                stage.run(&["dead", "replay"]).await.contains("1 replayed").then_some(())
            })
            .await;
            stage.jobs("done", None, 1, LONG).await;
            stage.prove(&published, &[]).await;
        }
        connection.close(200, "done".into()).await.unwrap();
        stage.stopped(healthy).await;
    }
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

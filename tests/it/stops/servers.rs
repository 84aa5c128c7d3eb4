//! A broker and a database that go away and come back under load.

use std::time::Duration;

use outdial::clock;
use outdial::synthflow::sandbox::{SandboxConfig, Span};

use super::{LONG, SOON, more, recovered, route};
use crate::support::stage::{Stage, jobs, numbers, sandbox_config};
use crate::support::{Figures, Vhost, database, database_on, eventually, own_postgres, own_rabbit, vhost};

const SERVER_BACK: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_is_away_accepted_jobs_go_on_and_nothing_is_lost_or_repeated() {
    let mut rabbit = own_rabbit().await;
    let stage = Stage::on(sandbox_config(&numbers(10)), database().await, Vhost::of(&rabbit)).await;
    route(&stage, "").await;
    let worker = stage.worker(&[]).await;
    let (many, held) = (jobs("many", 900), more("held", 100));
    // Left for when the broker is away, however long it takes to end.
    stage.paused(&["held"]).await;
    stage.publish(&held).await;
    stage.publish(&many[..600]).await;
    let taken = "select count(*) from outdial.jobs";
    eventually(SOON, async || (stage.count(taken).await == 700).then_some(())).await;

    rabbit.halt();
    stage.resume(&["held"]).await;
    stage.posted(700, SOON).await;
    rabbit.resume().unwrap();
    stage.publish(&many[600..]).await;
    // It is back when it confirms.
    let back = clock::monotonic();
    eventually(SOON, async || (stage.count(taken).await > 700).then_some(())).await;
    recovered("jobs are taken from a broker that is back", back, SERVER_BACK);
    // Long enough for every back-off to have grown.
    rabbit.kill9();
    tokio::time::sleep(AWAY).await;
    rabbit.resume().unwrap();
    let before = stage.count(taken).await;
    // To others than those of `held`.
    let late = more("late", 150).split_off(100);
    stage.publish(&late).await;
    let back = clock::monotonic();
    eventually(SOON, async || (stage.count(taken).await > before).then_some(())).await;
    recovered("jobs are taken from a broker that was killed, and away for long", back, SERVER_BACK);
    let many = [many, held, late].concat();
    stage.each_done_once(&many, LONG).await;
    let outbox = "select count(*) from outdial.outbox";
    eventually(SOON, async || (stage.count(outbox).await == 0).then_some(())).await;
    stage.nothing_held().await;
    stage.stopped(worker).await;
    drop(stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_calls_became_while_the_database_was_away_is_written_when_it_is_back() {
    let mut postgres = own_postgres().await;
    let slow = SandboxConfig { latency_ms: Span { min: 300, max: 600 }, ..sandbox_config(&numbers(10)) };
    let stage = Stage::on(slow, database_on(&postgres).await, vhost().await).await;
    route(&stage, "").await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    let many = jobs("many", 900);
    stage.publish(&many).await;
    stage.posted(100, SOON).await;

    for orderly in [true, false] {
        if orderly {
            postgres.halt()
        } else {
            postgres.kill9()
        }
        let down = stage.posts().len();
        assert!(down < 800, "it went away in the middle");
        let quiet = quiet(&stage).await;
        assert!(quiet - down < 100, "hardly anything is sent without a database: {}", quiet - down);
        eventually(SOON, async || {
            let figures = [Figures::of(&one).await, Figures::of(&two).await];
            let told = |name: &str| figures.iter().map(|f| f.sum(name)).sum::<f64>() > 0.0;
            let gone = figures.iter().all(|f| f.get("database_connected") == 0.0);
            (gone && told("unwritten_results") && told("statement_failures_total")).then_some(())
        })
        .await;
        postgres.resume().unwrap();
        let back = clock::monotonic();
        stage.posted(quiet + 1, SOON).await;
        recovered("calls go on after the database is back", back, SERVER_BACK);
        stage.posted(quiet + 100, SOON).await;
    }
    stage.each_done_once(&many, LONG).await;
    assert_eq!(stage.count("select count(*) from reporting.calls where state <> 'ended'").await, 0);
    stage.nothing_held().await;
    for worker in [&one, &two] {
        assert_eq!(Figures::of(worker).await.get("unwritten_results"), 0.0);
    }
    stage.stopped(one).await;
    stage.stopped(two).await;
}

/// Waits until no POST has come for a second and a half, by when every answer is there; gives how many came.
async fn quiet(stage: &Stage) -> usize {
    let still = Duration::from_millis(1500);
    let mut last = (stage.posts().len(), outdial::clock::monotonic());
    eventually(SOON, async || {
        let now = stage.posts().len();
        if now != last.0 {
            last = (now, outdial::clock::monotonic());
        }
        (last.1.elapsed() > still).then_some(now)
    })
    .await
}

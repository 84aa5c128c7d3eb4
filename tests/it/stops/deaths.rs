//! Workers that are killed, and workers that are stopped and wake late.

use std::collections::HashMap;
use std::time::Duration;

use outdial::clock;
use outdial::synthflow::sandbox::{LedgerEntry, SandboxConfig, Span};
use rustix::process::Signal;

use super::{LONG, SOON, feed, recovered, route};
use crate::support::stage::{Stage, jobs, numbers, sandbox_config};
use crate::support::{Figures, Outdial, assert_discreet, eventually, posts_by_phone};

/// The shortest that is allowed.
const LEASE: (&str, &str) = ("OUTDIAL__WORKER__LEASE", "3s");

/// Answers take long enough for calls to be in flight at any moment.
const LATENCY_MS: Span = Span { min: 150, max: 300 };

fn slow_answers() -> SandboxConfig {
    SandboxConfig { latency_ms: LATENCY_MS, ..sandbox_config(&numbers(10)) }
}

/// Stops it at a moment when it has calls whose answers are still to come: the other may have all that go for a while.
async fn stop_while_it_calls(stage: &Stage, worker: &Outdial, worker_no: i64, latency_ms: Span) {
    // Since its slot, before which none is sent, less time has passed than the quickest answer takes.
    let calling = format!(
        "select count(*) from outdial.live where worker_no = {worker_no} and state = 'submitting'
            and slot > clock_timestamp() - interval '{} milliseconds'",
        latency_ms.min * 4 / 5
    );
    let caught = async || {
        worker.signal(Signal::STOP);
        let caught = stage.count(&calling).await > 0;
        if !caught {
            worker.signal(Signal::CONT);
        }
        caught.then_some(())
    };
    eventually(SOON, caught).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_killed_worker_only_the_calls_in_flight_are_unknown_and_nobody_is_rung_twice() {
    // So slow that it has some calls in flight when it dies.
    let latency_ms = Span { min: 600, max: 900 };
    let stage = Stage::new(SandboxConfig { latency_ms, ..slow_answers() }).await;
    route(&stage, "").await;
    // With the lease that is the default.
    let (mut doomed, other) = (stage.worker(&[]).await, stage.worker(&[]).await);
    let doomed_no = stage.count("select min(worker_no) from outdial.workers").await;
    let many = jobs("many", 700);
    stage.publish(&many).await;
    stage.posted(200, SOON).await;
    stop_while_it_calls(&stage, &doomed, doomed_no, latency_ms).await;
    doomed.kill9();
    let died = clock::monotonic();
    let held = format!(
        "select (select count(*) from outdial.reservations where worker_no = {doomed_no})
                + (select count(*) from outdial.live where worker_no = {doomed_no} and state = 'submitting')"
    );
    assert!(stage.count(&held).await > 0, "it held something when it died");
    eventually(SOON, async || (stage.count(&held).await == 0).then_some(())).await;
    recovered("what a dead worker held moves again", died, Duration::from_secs(15));

    let open = "select count(*) from reporting.jobs
                where state <> 'done' and (state, reason) is distinct from ('dialing', 'unconfirmed')";
    eventually(LONG, async || (stage.count(open).await == 0).then_some(())).await;
    let unknown: Vec<(String, i64)> = sqlx::query_as(
        "select phone, worker_no from outdial.attempts where state = 'unknown' and reason = 'unconfirmed'",
    )
    .fetch_all(&stage.db)
    .await
    .unwrap();
    let in_flight =
        |line: &str| line.contains("worker.taken_over") && !line.contains("\"attempts.unknown\":0");
    assert!(other.output().lines().any(in_flight), "some calls were in flight");
    // Those that were placed may have been found since.
    assert!(unknown.iter().all(|(_, worker)| *worker == doomed_no), "only the killed worker's: {unknown:?}");
    let posts = stage.posts();
    let by_phone = posts_by_phone(&posts);
    let mut unknown: HashMap<&str, i64> = unknown.iter().map(|(phone, n)| (phone.as_str(), *n)).collect();
    for job in &many {
        let phone = job["phone"].as_str().unwrap();
        let rung = by_phone.get(phone).map_or(0, Vec::len);
        // One that was authorised and not yet sent is unknown, too: nobody can tell the two apart.
        let right = if unknown.remove(phone).is_some() { rung <= 1 } else { rung == 1 };
        assert!(right, "{phone} was rung {rung} times");
    }
    assert_eq!(stage.count("select count(*) from outdial.reservations").await, 0, "all were taken over");
    // In one look: a call that is found meanwhile leaves both.
    let uncounted = "select (select sum(in_use)::bigint from outdial.limits where kind = 1) - (select count(*) from outdial.live)";
    assert_eq!(stage.count(uncounted).await, 0);
    assert_discreet(&doomed.output(), &posts);
    stage.stopped(other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_slept_through_its_lease_sends_nothing_stale_and_goes_on_anew() {
    let stage = Stage::new(slow_answers()).await;
    route(&stage, "").await;
    let (sleeper, other) = (stage.worker(&[LEASE]).await, stage.worker(&[LEASE]).await);
    let sleeper_no = stage.count("select min(worker_no) from outdial.workers").await;
    let mut many = Vec::new();
    feed(&stage, &["many"], &mut many, 1200).await;
    stage.posted(200, SOON).await;
    stop_while_it_calls(&stage, &sleeper, sleeper_no, LATENCY_MS).await;
    let dead = format!(
        "select count(*) from outdial.workers where worker_no = {sleeper_no} and ended_at is not null"
    );
    eventually(SOON, async || (stage.count(&dead).await == 1).then_some(())).await;
    let taken_over = other.line(SOON, "worker.taken_over").await;
    let none = "\"attempts.unknown\":0";
    assert!(!taken_over.contains(none), "its calls in flight are unknown while it sleeps: {taken_over}");
    sleeper.signal(Signal::CONT);
    sleeper.line(SOON, "worker.fenced").await;
    let again = "select count(*) from outdial.workers where ended_at is null";
    eventually(SOON, async || (stage.count(again).await == 2).then_some(())).await;
    let new_no = stage.count("select max(worker_no) from outdial.workers").await;
    let sent = format!("select count(*) from outdial.attempts where worker_no = {new_no}");
    // It dials again, under its new number; the other may have done all that there was.
    let dials = async || {
        feed(&stage, &["many"], &mut many, 200).await;
        (stage.count(&sent).await > 0).then_some(())
    };
    eventually(SOON, dials).await;

    // What it had in flight is evidence when it wakes: the answers are read, or it is known that nothing was sent.
    stage.each_done_once(&many, LONG).await;
    // A POST is stale when it arrives long after its leave.
    let leaves: Vec<(String, i64)> = sqlx::query_as(
        "select attempt_id::text, (extract(epoch from submitted_at) * 1000000)::bigint from outdial.attempts",
    )
    .fetch_all(&stage.db)
    .await
    .unwrap();
    let leaves: HashMap<String, i64> = leaves.into_iter().collect();
    let after = |p: &LedgerEntry| p.at_us - leaves[p.attempt_id.as_ref().unwrap()];
    let late = stage.posts().iter().filter(|p| after(p) > 1_500_000).count() as f64;
    // One that was stopped between the last look at the clock and the write nobody can hold back, one of each thread; but it is
    // told.
    let threads = std::thread::available_parallelism().unwrap().get() as f64;
    let told = Figures::of(&sleeper).await.get("late_sends_total");
    assert!(late <= told.min(threads), "{late} POSTs arrived long after their leave, told were {told}");
    stage.nothing_held().await;
    stage.stopped(sleeper).await;
    stage.stopped(other).await;
}

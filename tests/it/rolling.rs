//! Three workers replaced one after the other while calls are placed, as a rolling update does.

use std::collections::HashMap;
use std::time::Duration;

use outdial::clock;
use rustix::process::Signal;

use crate::support::busy;
use crate::support::stage::{ANY_NUMBER, LONG, Stage, jobs, numbers, sandbox_config};

/// Jobs in all, so many a batch, and the time between two batches: a hundred a second.
const JOBS: usize = 1_500;
const BATCH: usize = 10;
const EVERY: Duration = Duration::from_millis(100);
/// From publishing to the POST, at the worst: a worker's end, whose jobs another takes, and far less than a lease.
const WAIT_MAX_US: i64 = 5_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_dials_nobody_twice_and_is_hardly_noticed() {
    let _beside = busy().await;
    let stage = Stage::new(sandbox_config(&numbers(20))).await;
    stage.route("per_second = 50", ANY_NUMBER).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(stage.worker(&[]).await);
    }
    let all = jobs("rolling", JOBS);
    let mut published: HashMap<String, i64> = HashMap::new();
    let publish = async {
        let mut tick = tokio::time::interval(EVERY);
        for batch in all.chunks(BATCH) {
            tick.tick().await;
            let now = clock::wall().timestamp_micros();
            published.extend(batch.iter().map(|job| (job["phone"].as_str().unwrap().to_owned(), now)));
            stage.publish(batch).await;
        }
    };
    let restart = async {
        for (nth, worker) in workers.iter_mut().enumerate() {
            // Under way by then.
            stage.posted((nth + 1) * JOBS / 5, LONG).await;
            let next = stage.worker(&[]).await;
            let old = std::mem::replace(worker, next);
            old.signal(Signal::TERM);
            let (status, printed) = old.wait(LONG).await;
            assert!(status.success(), "{status}\n{printed}");
        }
        clock::wall().timestamp_micros()
    };
    let ((), over_us) = tokio::join!(publish, restart);
    stage.jobs("done", None, JOBS as i64, LONG).await;

    let posts = stage.posts();
    assert_eq!(posts.len(), JOBS, "each once");
    let mut waits: Vec<(bool, i64)> = posts
        .iter()
        .map(|post| {
            let from = published.remove(post.phone.as_deref().unwrap()).expect("nobody twice");
            (from < over_us, post.at_us - from)
        })
        .collect();
    waits.sort_unstable_by_key(|wait| wait.1);
    let during: Vec<i64> = waits.iter().filter(|wait| wait.0).map(|wait| wait.1).collect();
    assert!(during.len() > JOBS / 2, "{} jobs were published meanwhile", during.len());
    let at = |share: f64| during[((during.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    eprintln!(
        "rolling restart of 3 workers, {} jobs meanwhile: from publishing to the POST p50 {:.0} ms, p99 {:.0} ms, at most {:.0} ms",
        during.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert!(*during.last().unwrap() < WAIT_MAX_US, "at most {} ms", at(1.0));
}

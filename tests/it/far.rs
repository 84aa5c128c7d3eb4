//! A provider far away: opening a connection, TLS and all, takes longer than a slot.

use std::collections::HashSet;
use std::time::Duration;

use crate::support::Outdial;
use crate::support::eventually;
use crate::support::far::Far;
use crate::support::stage::{ANY_NUMBER, LONG, Stage, jobs, numbers, sandbox_config};

const OPENING: Duration = Duration::from_millis(200);
const FOR_EVER: Duration = Duration::from_secs(3_600);

async fn worker(stage: &Stage, far: &Far) -> Outdial {
    let env = far.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    stage.worker(&env).await
}

/// Each callee once, and no number above its limit.
async fn holds(stage: &Stage, jobs: usize, per_second: usize) {
    let posts = stage.posts();
    let phones: HashSet<_> = posts.iter().map(|post| post.phone.clone()).collect();
    assert_eq!((posts.len(), phones.len()), (jobs, jobs), "each callee once");
    stage.within(&[(1, per_second)]).await;
    stage.most_in_time().await;
}

/// Fifty at once, and not one connection is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_over_cold_connections_is_placed() {
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    let far = Far::new(stage.sandbox.address(), OPENING, FOR_EVER).await;
    stage.route("per_second = 5", ANY_NUMBER).await;
    let worker = worker(&stage, &far).await;
    stage.publish(&jobs("big", 150)).await;
    stage.jobs("done", None, 150, LONG).await;
    holds(&stage, 150, 5).await;
    // One for each call of a burst that found none, which is lost with it, and one for the next; and a few for polls.
    assert!(far.opened() <= 250, "{} connections", far.opened());
    let (status, output) = worker.stop(LONG).await;
    assert!(status.success(), "{output}");
}

/// Connections that were open are closed by the other side between two bursts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_closed_by_the_provider_hold_nothing_up() {
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    let far = Far::new(stage.sandbox.address(), OPENING, Duration::from_secs(1)).await;
    stage.route("per_second = 5", ANY_NUMBER).await;
    let worker = worker(&stage, &far).await;
    let all = jobs("big", 60);
    for (burst, jobs) in all.chunks(20).enumerate() {
        stage.publish(jobs).await;
        stage.jobs("done", None, 20 * (burst as i64 + 1), LONG).await;
        // One is kept by polls.
        eventually(LONG, async || (far.open() <= 2).then_some(())).await;
    }
    holds(&stage, 60, 5).await;
    let (status, output) = worker.stop(LONG).await;
    assert!(status.success(), "{output}");
}

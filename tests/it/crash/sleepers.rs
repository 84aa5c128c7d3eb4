//! Row 12: a worker is stopped, its lease runs out, and it wakes late.

use std::path::PathBuf;

use rustix::process::Signal;

use crate::crash::round::{SOON, rounds};
use crate::support::{Outdial, eventually};

#[tokio::test]
async fn row_12_a_worker_that_wakes_late_sends_nothing() {
    rounds(async |round| {
        let point = round.one_of(&["BeforePost", "AfterReserve", "AfterAuthorise", "BeforeAuthorise"]);
        let sleeper = round.doomed(point, "stop").await;
        round.publish_until(|| is_stopped(&sleeper)).await;
        let other = round.worker().await;
        let stage = &round.stage;
        let dead = "select count(*) from outdial.workers where ended_at is not null";
        let held =
            "select (select count(*) from outdial.reservations r join outdial.workers w using (worker_no)
                            where w.ended_at is not null)
                           + (select count(*) from outdial.live where state = 'submitting')";
        let buried = async || stage.count(dead).await == 1 && stage.count(held).await == 0;
        eventually(SOON, async || buried().await.then_some(())).await;
        let unknown = round.jobs_of("(select job_no from outdial.live where state = 'unknown') l").await;
        assert!(!unknown.is_empty() || point != "BeforePost", "it had leave to send");
        assert!(unknown.iter().all(|job| round.posts_of(job) <= 1), "nobody sends what it may have sent");
        sleeper.signal(Signal::CONT);
        sleeper.line(SOON, "worker.fenced").await;

        // Awake, it knows what it sent and what it didn't: nothing stays unknown.
        round.all_done().await;
        round.stage.stopped(sleeper).await;
        round.finish(other).await;
    })
    .await;
}

fn is_stopped(worker: &Outdial) -> bool {
    let stat = PathBuf::from(format!("/proc/{}/stat", worker.pid()));
    // The state follows the program's name, which stands in brackets.
    std::fs::read_to_string(stat).unwrap().rsplit(')').next().unwrap().trim_start().starts_with('T')
}

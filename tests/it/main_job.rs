//! The main job: from a message on RabbitMQ to a placed, recorded call with the right caller ID.

use std::collections::HashSet;
use std::time::Duration;

use crate::support::stage::{ANY_NUMBER, Stage, job, jobs, numbers, sandbox_config};

const SOON: Duration = Duration::from_secs(30);

/// As many connections as the default has; other tests make do with fewer.
const AS_IT_COMES: (&str, &str) = ("OUTDIAL__DATABASE__CONNECTIONS_MAX", "10");

#[tokio::test]
async fn a_job_becomes_a_call_from_a_number_of_the_pool_and_is_recorded() {
    let pool = numbers(3);
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("per_second = 1, per_day = 10", ANY_NUMBER).await;
    let worker = stage.worker(&[AS_IT_COMES]).await;

    stage.publish(&[job("first", "spring", "+14155550123")]).await;
    let posts = stage.posted(1, SOON).await;
    assert_eq!(posts[0].phone.as_deref(), Some("+14155550123"));
    assert!(pool.contains(posts[0].from_phone_number.as_ref().unwrap()));
    stage.jobs("done", None, 1, SOON).await;

    let row: (String, String, String, Option<String>, Option<bool>) = sqlx::query_as(
        "select attempt_id::text, from_phone_number, state, call_id, caller_id_verified from reporting.calls",
    )
    .fetch_one(&stage.db)
    .await
    .unwrap();
    assert_eq!(Some(row.0), posts[0].attempt_id);
    assert_eq!(Some(row.1), posts[0].from_phone_number);
    assert_eq!(row.2, "ended");
    assert_eq!(row.3, posts[0].call_id);
    assert_eq!(row.4, Some(true));
    assert_eq!(stage.count("select sum(in_use) from outdial.limits").await, 0);

    let (status, output) = worker.stop(SOON).await;
    assert!(status.success(), "{output}");
}

#[tokio::test]
async fn a_thousand_jobs_keep_every_limit_over_two_workers() {
    let pool = numbers(20);
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("per_second = 3, per_minute = 60, concurrent = 4", ANY_NUMBER).await;
    let (one, two) = (stage.worker(&[AS_IT_COMES]).await, stage.worker(&[AS_IT_COMES]).await);
    stage.publish(&jobs("big", 1000)).await;
    let posts = stage.posted(1000, Duration::from_secs(180)).await;
    stage.jobs("done", None, 1000, SOON).await;
    assert_eq!(stage.posts().len(), 1000, "no callee is rung twice");
    assert_eq!(posts.iter().map(|p| &p.phone).collect::<HashSet<_>>().len(), 1000);
    assert!(posts.iter().all(|post| pool.iter().any(|n| Some(n) == post.from_phone_number.as_ref())));
    stage.within(&[(1, 3), (60, 60)]).await;
    stage.most_in_time().await;
    for worker in [one, two] {
        let (status, output) = worker.stop(SOON).await;
        assert!(status.success(), "{output}");
    }
}

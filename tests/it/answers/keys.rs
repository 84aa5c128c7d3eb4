//! A key that stops working: nothing is lost and nothing refused, however long it takes.

use std::time::Duration;

use outdial::synthflow::sandbox::AccountChange;
use serde_json::json;

use super::{SOON, stage};
use crate::support::stage::{KEY, jobs};
use crate::support::{Listener, eventually};

/// A key is probed every 30 s.
const NEXT_PROBE: Duration = Duration::from_secs(240);

fn key(text: &str) -> AccountChange {
    AccountChange { key: Some(text.to_owned()), ..AccountChange::default() }
}

#[tokio::test]
async fn jobs_of_an_hour_with_a_wrong_key_all_go_once_it_is_right_again() {
    const JOBS: usize = 2_000;
    let stage = stage(20, "").await;
    let worker = stage.worker(&[]).await;
    let mut events = Listener::new(&stage.vhost.url).await;
    let many = jobs("many", JOBS);
    stage.publish(&many[..100]).await;
    stage.jobs("done", None, 100, SOON).await;

    stage.sandbox.change_account("default", key("another-key")).unwrap();
    stage.publish(&many[100..]).await;
    stage.jobs("waiting", Some("account_paused"), JOBS as i64 - 100, SOON).await;
    let changed = events.of("account.state_changed", 1, SOON).await;
    assert_eq!(
        changed[0],
        json!({ "account": "default", "state": "paused", "was": "active", "reason": "unauthorized" })
    );
    let refused_posts = stage.posts().iter().filter(|post| post.status == Some(401)).count();
    assert!(
        (1..=256).contains(&refused_posts),
        "only what was under way is sent with the key: {refused_posts}"
    );

    stage.sandbox.change_account("default", key(KEY)).unwrap();
    stage.jobs("done", None, JOBS as i64, NEXT_PROBE).await;
    stage.each_placed_once(&many);
    assert_eq!(stage.posts().len(), JOBS + refused_posts);
    let changed = events.of("account.state_changed", 2, SOON).await;
    assert_eq!(changed[1], json!({ "account": "default", "state": "active", "was": "paused" }));
    assert_eq!(stage.count("select count(*) from reporting.jobs where state <> 'done'").await, 0);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_worker_started_with_the_new_key_takes_the_account_up_again() {
    let stage = stage(20, "").await;
    let old = stage.worker(&[]).await;
    let many = jobs("many", 300);
    stage.sandbox.change_account("default", key("the-new-key")).unwrap();
    stage.publish(&many).await;
    stage.jobs("waiting", Some("account_paused"), 300, SOON).await;
    let refused_posts = stage.posts().len();

    let new = stage.worker(&[("SYNTHFLOW_API_KEY", "the-new-key")]).await;
    stage.jobs("done", None, 300, SOON).await;
    stage.each_placed_once(&many);
    assert_eq!(stage.posts().len(), 300 + refused_posts, "the old key is used no more");
    let active = "select count(*) from outdial.accounts where state = 'active'";
    eventually(SOON, async || (stage.count(active).await == 1).then_some(())).await;
    stage.nothing_held().await;
    stage.stopped(old).await;
    stage.stopped(new).await;
}

//! What may break: the broker, the queue, the database, the process itself.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use outdial::broker::{self, BrokerError, LinkState, Links, Target};
use outdial::local::Rabbit;
use secrecy::SecretString;

use super::ground::{Ground, SOON, job, raw};
use crate::support::{database, eventually, own_postgres, own_rabbit, vhost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_restart_loses_nothing_and_is_told() {
    let (mut rabbit, database) = (own_rabbit().await, database().await);
    let ground = Ground::new(&rabbit.amqp_url(), &database.url).await;
    let mut running = ground.intake();
    ground.publish((0..100).map(|n| job(&format!("before-{n}")))).await;
    ground.expect_jobs(100).await;
    let rabbit = tokio::task::spawn_blocking(move || {
        rabbit.restart().unwrap();
        rabbit
    });
    let down = |state: &LinkState| matches!(state, LinkState::Down(_) | LinkState::Connecting);
    tokio::time::timeout(SOON, running.link.wait_for(down)).await.unwrap().unwrap();
    let rabbit = rabbit.await.unwrap();
    running.up().await;
    ground.publish((0..100).map(|n| job(&format!("after-{n}")))).await;
    ground.expect_jobs(200).await;
    running.stop().await;
    assert_eq!(ground.depth(broker::JOBS).await, 0);
    ground.end().await;
    drop(rabbit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_connection_is_told_and_goes_on_when_the_broker_has_room() {
    let (rabbit, database) = (own_rabbit().await, database().await);
    let ground = Ground::new(&rabbit.amqp_url(), &database.url).await;
    let mut running = ground.intake();
    running.up().await;
    let rabbit = ctl(rabbit, "0").await;
    // The alarm reaches a connection when it publishes.
    let links = Links { consuming: running.link.clone(), publishing: ground.publisher.state() };
    let (one, told) =
        (job("a"), eventually(SOON, async || links.ready().err().filter(|why| why.contains("blocks"))));
    let publishing = async {
        while ground.publisher.publish(&one).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let unblocked = async {
        told.await;
        assert_eq!(ground.jobs().await, 0);
        ctl(rabbit, "0.8").await
    };
    let ((), rabbit) = tokio::join!(publishing, unblocked);
    ground.expect_jobs(1).await;
    eventually(SOON, async || links.ready().ok()).await;
    running.stop().await;
    ground.end().await;
    drop(rabbit);
}

/// Sets the share of memory above which the broker takes nothing more.
async fn ctl(rabbit: Rabbit, watermark: &'static str) -> Rabbit {
    tokio::task::spawn_blocking(move || {
        rabbit.ctl(&["set_vm_memory_high_watermark", watermark]).unwrap();
        rabbit
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_consumer_declares_its_queue_again_and_goes_on() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    let running = ground.intake();
    ground.publish([job("a")]).await;
    ground.expect_jobs(1).await;
    let (_connection, channel) = raw(&vhost.url).await;
    channel.queue_delete(broker::JOBS.into(), QueueDeleteOptions::default()).await.unwrap();
    // Returned, as long as no queue is bound.
    eventually(SOON, async || ground.publisher.publish(&job("b")).await.ok()).await;
    ground.expect_jobs(2).await;
    running.stop().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_messages_stay_with_the_broker() {
    let vhost = vhost().await;
    let mut postgres = own_postgres().await;
    let url = postgres.url("postgres");
    let secret = SecretString::from(url.clone());
    let pool = outdial::store::connect(&secret, outdial::store::Purpose::Command, 2, SOON).await.unwrap();
    outdial::store::migrate(&pool).await.unwrap();
    let ground = Ground::new(&vhost.url, &url).await;
    let mut running = ground.intake();
    ground.publish([job("a")]).await;
    ground.expect_jobs(1).await;
    let mut postgres = tokio::task::spawn_blocking(move || {
        postgres.halt();
        postgres
    })
    .await
    .unwrap();
    ground.publish((0..200).map(|n| job(&format!("j{n}")))).await;
    tokio::time::timeout(SOON, running.gate.wait_for(|open| !open)).await.unwrap().unwrap();
    tokio::time::timeout(SOON, running.link.wait_for(|state| *state == LinkState::Paused))
        .await
        .unwrap()
        .unwrap();
    // Paused: what comes now isn't even delivered.
    ground.publish((200..300).map(|n| job(&format!("j{n}")))).await;
    eventually(SOON, async || (ground.depth(broker::JOBS).await >= 100).then_some(())).await;
    let postgres = tokio::task::spawn_blocking(move || {
        postgres.resume().unwrap();
        postgres
    })
    .await
    .unwrap();
    ground.expect_jobs(301).await;
    running.stop().await;
    assert_eq!((ground.depth(broker::JOBS).await, ground.depth(broker::DEAD).await), (0, 0));
    ground.end().await;
    drop(postgres);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intakes_that_stop_under_load_lose_nothing_and_double_nothing() {
    const JOBS: i64 = 6_000;
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    ground.publish((0..JOBS).map(|n| job(&format!("j{n}")))).await;
    let mut accepted = 0;
    for part in 1..=3 {
        let running = ground.intake();
        eventually(SOON, async || (ground.jobs().await >= part * JOBS / 4).then_some(())).await;
        accepted += running.stop().await.accepted();
    }
    let running = ground.intake();
    ground.expect_jobs(JOBS).await;
    accepted += running.stop().await.accepted();
    assert_eq!(accepted, JOBS as u64, "each job was new once");
    assert_eq!((ground.depth(broker::JOBS).await, ground.depth(broker::DEAD).await), (0, 0));
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_consumed_above_max_waiting() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    ground.publish((0..500).map(|n| job(&format!("j{n}")))).await;
    let mut running = ground.intake_with(120);
    tokio::time::timeout(SOON, running.gate.wait_for(|open| !open)).await.unwrap().unwrap();
    tokio::time::timeout(SOON, running.link.wait_for(|state| *state == LinkState::Paused))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ground.jobs().await, 120);
    sqlx::query("delete from outdial.work").execute(&ground.pool).await.unwrap();
    eventually(SOON, async || (ground.jobs().await > 120).then_some(())).await;
    running.stop().await;
    // What wasn't acked is the queue's again a moment after the session is over.
    let all =
        async || (ground.jobs().await + i64::from(ground.depth(broker::JOBS).await) == 500).then_some(());
    eventually(SOON, all).await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topology_that_differs_is_told_item_by_item() {
    let vhost = vhost().await;
    let target = Target::parse(&SecretString::from(vhost.url.clone())).unwrap();
    let Err(BrokerError::Topology(missing)) = broker::prepare(&target, false, Duration::ZERO).await else {
        panic!("nothing is there, and nothing may be declared");
    };
    assert_eq!(missing.len(), 5, "{missing:?}");
    let (_connection, channel) = raw(&vhost.url).await;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    for queue in [broker::JOBS, broker::DEAD] {
        channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
    }
    let error = broker::prepare(&target, true, Duration::ZERO).await.unwrap_err().to_string();
    for told in
        ["queue outdial.jobs: PRECONDITION_FAILED", "queue outdial.dead: PRECONDITION_FAILED", "x-queue-type"]
    {
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_at_once() {
    let vhost = vhost().await;
    let (before, after) = vhost.url.split_once('@').unwrap();
    let (user, _) = before.rsplit_once(':').unwrap();
    let target = Target::parse(&SecretString::from(format!("{user}:hunter2@{after}"))).unwrap();
    let error = broker::prepare(&target, true, SOON).await.unwrap_err();
    assert!(matches!(error, BrokerError::Refused { .. }), "{error}");
    assert!(!error.to_string().contains("hunter2"));
}

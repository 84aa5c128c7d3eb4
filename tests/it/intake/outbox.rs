//! Events on a real broker.

use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use outdial::broker;
use outdial::engine::duty::Duties;
use outdial::engine::outbox;
use outdial::engine::ports::LedgerError;
use tokio_util::sync::CancellationToken;

use super::ground::{Ground, SOON, get, job, raw};
use crate::support::{database, eventually, vhost};

struct Mine;

impl Duties for Mine {
    async fn hold(&self, _: &str, _: Duration) -> Result<bool, LedgerError> {
        Ok(true)
    }
    async fn leave(&self, _: &str) -> Result<(), LedgerError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_is_published_as_cloud_events_and_struck_off() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    let (_connection, channel) = raw(&vhost.url).await;
    channel
        .queue_declare("listener".into(), QueueDeclareOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind("listener".into(), broker::EVENTS.into(), "job.*".into(), bind, FieldTable::default())
        .await
        .unwrap();
    let running = ground.intake();
    ground.publish((0..50).map(|n| job(&format!("j{n}")))).await;
    ground.expect_jobs(50).await;
    running.stop().await;

    let stop = CancellationToken::new();
    let publishing = outbox::run(&ground.ledger, &ground.publisher, Mine, &stop);
    let emptied = async {
        eventually(SOON, async || {
            let left: i64 = sqlx::query_scalar("select count(*) from outdial.outbox")
                .fetch_one(&ground.pool)
                .await
                .unwrap();
            (left == 0).then_some(())
        })
        .await;
        stop.cancel();
    };
    tokio::join!(publishing, emptied);

    let mut subjects = Vec::new();
    while let Some(delivery) = get(&channel, "listener").await {
        assert_eq!(delivery.routing_key.as_str(), "job.accepted");
        let content_type = delivery.properties.content_type().as_ref().unwrap();
        assert_eq!(content_type.as_str(), "application/cloudevents+json");
        let event: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap();
        assert_eq!(
            (event["specversion"].as_str(), event["type"].as_str()),
            (Some("1.0"), Some("job.accepted"))
        );
        assert_eq!(event["data"]["job_id"], event["subject"]);
        assert_eq!(event["data"]["campaign_id"], "spring-sale");
        subjects.push(event["subject"].as_str().unwrap().to_owned());
    }
    subjects.sort();
    let mut expected: Vec<_> = (0..50).map(|n| format!("j{n}")).collect();
    expected.sort();
    assert_eq!(subjects, expected);
    ground.end().await;
}

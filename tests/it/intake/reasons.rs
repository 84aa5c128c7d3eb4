//! What a message may be: every dead-letter reason, duplicates, conflicts, cancel messages.

use outdial::broker::{self, DeadQueue, Outgoing};
use outdial::core::job::DeadReason;

use super::ground::{Ground, get, job, job_named, message, raw};
use crate::support::{database, vhost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_dead_letter_reason_is_told_with_the_original_message() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    let valid = r#""job_id":"j","campaign_id":"c","phone":"+14155552671","name":"Ada""#;
    let bodies: Vec<(DeadReason, Vec<u8>)> = vec![
        (DeadReason::TooLarge, format!("{{{valid},\"prompt\":\"{}\"}}", "x".repeat(64 * 1024)).into_bytes()),
        (DeadReason::Malformed, b"{".to_vec()),
        (DeadReason::Malformed, b"{\"name\":\"\0\"}".to_vec()),
        (DeadReason::Malformed, b"\xff\xfe".to_vec()),
        (
            DeadReason::UnknownField,
            format!("{{{valid},\"form_phone_number\":\"+16286666348\"}}").into_bytes(),
        ),
        (DeadReason::MissingField, br#"{"job_id":"j","campaign_id":"c","name":"Ada"}"#.to_vec()),
        (DeadReason::InvalidPhone, format!("{{{valid}}}").replace("+1415", "415").into_bytes()),
        (DeadReason::InvalidField, format!("{{{valid},\"priority\":10}}").into_bytes()),
        (DeadReason::InvalidField, format!("{{{valid}}}").replace("Ada", "A\\u0000da").into_bytes()),
        (DeadReason::InvalidField, format!("{{{valid}}}").replace("Ada", "A\\ud800da").into_bytes()),
        (DeadReason::Conflict, format!("{{{valid}}}").replace("Ada", "Bob").into_bytes()),
    ];
    let running = ground.intake();
    ground.publish([message(&format!("{{{valid}}}"))]).await;
    ground.expect_jobs(1).await;
    for (i, (_, body)) in bodies.iter().enumerate() {
        let id = format!("message-{i}");
        ground.publish([Outgoing::job(body.clone(), "crm.eu", Some(&id))]).await;
        ground.expect_dead(u32::try_from(i + 1).unwrap()).await;
    }
    running.stop().await;
    assert_eq!(ground.depth(broker::JOBS).await, 0);
    assert_eq!(ground.jobs().await, 1);
    let dead = ground.dead().await;
    assert_eq!(dead.len(), bodies.len());
    for (i, (message, (reason, body))) in dead.iter().zip(&bodies).enumerate() {
        assert_eq!((message.why.reason, &message.body), (*reason, body), "{i}: {}", message.why);
        assert_eq!(message.message_id.as_deref(), Some(format!("message-{i}").as_str()));
        assert_eq!(message.routing_key, "crm.eu");
        assert!(!message.why.detail.is_empty() && !message.why.detail.contains("5552671"));
    }
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_redelivered_messages_make_no_second_job() {
    const JOBS: i64 = 10_000;
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    let all = || (0..JOBS).map(|n| job(&format!("j{n}")));
    let running = ground.intake();
    ground.publish(all()).await;
    ground.expect_jobs(JOBS).await;
    running.stop().await;
    // The same again, and held by one that dies before it acks: what comes now is redelivered.
    ground.publish(all()).await;
    let (connection, channel) = raw(&vhost.url).await;
    for _ in 0..JOBS {
        assert!(get(&channel, broker::JOBS).await.is_some());
    }
    connection.close(200, "crash".into()).await.unwrap();
    let running = ground.intake();
    let counts = running.counts.clone();
    crate::support::eventually(super::ground::SOON, async || {
        (counts.duplicates() == JOBS as u64).then_some(())
    })
    .await;
    running.stop().await;
    assert_eq!(counts.accepted(), 0);
    assert_eq!(ground.jobs().await, JOBS);
    assert_eq!((ground.depth(broker::JOBS).await, ground.depth(broker::DEAD).await), (0, 0));
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_database_refuses_takes_no_other_with_it() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    sqlx::query("alter table outdial.jobs add constraint no_poison check (name <> 'poison')")
        .execute(&ground.pool)
        .await
        .unwrap();
    let name = |n| if n == 77 { "poison" } else { "Ada" };
    ground.publish((0..400).map(|n| job_named(&format!("j{n}"), name(n)))).await;
    let running = ground.intake();
    ground.expect_jobs(399).await;
    ground.expect_dead(1).await;
    running.stop().await;
    let dead = ground.dead().await;
    assert_eq!(dead[0].why.reason, DeadReason::Malformed);
    assert!(dead[0].why.detail.contains("no_poison"), "{}", dead[0].why);
    assert_eq!(ground.depth(broker::JOBS).await, 0);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_message_cancels_a_waiting_job() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    ground.publish([job("a"), job("b")]).await;
    ground.publish([Outgoing::cancel(br#"{"job_id":"a"}"#.to_vec())]).await;
    let running = ground.intake();
    let state_of = async |id: &str| -> Option<String> {
        let state = sqlx::query_scalar("select state from outdial.jobs where job_id = $1").bind(id);
        state.fetch_optional(&ground.pool).await.unwrap()
    };
    crate::support::eventually(super::ground::SOON, async || {
        (state_of("a").await.as_deref() == Some("canceled")).then_some(())
    })
    .await;
    assert_eq!(state_of("b").await.as_deref(), Some("waiting"));
    running.stop().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_the_dead_takes_nothing_away_and_replaying_does() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    let running = ground.intake();
    ground.publish([message("{"), job("a")]).await;
    ground.expect_jobs(1).await;
    ground.publish([job_named("a", "Eve")]).await;
    ground.expect_dead(2).await;
    running.stop().await;
    // Brokers from 4.0 on drop a message that came back 20 times. What was given back is there a moment later.
    for _ in 0..25 {
        assert_eq!(ground.dead().await.len(), 2);
        ground.expect_dead(2).await;
    }
    let mut reasons: Vec<_> = ground.dead().await.iter().map(|m| m.why.reason).collect();
    reasons.sort();
    assert_eq!(reasons, [DeadReason::Malformed, DeadReason::Conflict]);
    ground.expect_dead(2).await;
    sqlx::query("delete from outdial.job_keys").execute(&ground.pool).await.unwrap();
    let queue = DeadQueue::open(&ground.settings.target).await.unwrap();
    let replayed = queue.replay(Some(DeadReason::Conflict), 10, |_| ()).await.unwrap();
    queue.close().await;
    assert_eq!((replayed.replayed, replayed.left), (1, 1));
    ground.expect_dead(1).await;
    assert_eq!(ground.dead().await.len(), 1);
    let running = ground.intake();
    ground.expect_jobs(2).await;
    running.stop().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_dead_letters_is_listed_as_delivery_limit() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = Ground::new(&vhost.url, &database.url).await;
    ground.publish([job("a")]).await;
    let (_connection, channel) = raw(&vhost.url).await;
    while let Some(delivery) = get(&channel, broker::JOBS).await {
        let again = lapin::options::BasicNackOptions { requeue: true, ..Default::default() };
        delivery.acker.nack(again).await.unwrap();
    }
    ground.expect_dead(1).await;
    assert_eq!(ground.dead().await[0].why.reason, DeadReason::DeliveryLimit);
    ground.end().await;
}

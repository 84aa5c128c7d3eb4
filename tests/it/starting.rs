//! Workers that can't do their work, or not yet: what they print, how they end, and that no job is lost by it.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use outdial::synthflow::sandbox::AccountChange;

use crate::support::eventually;
use crate::support::stage::{AGENT, ANY_NUMBER, Stage, jobs, numbers, sandbox_config};

const SOON: Duration = Duration::from_secs(60);

type Env<'a> = &'a [(&'a str, &'a str)];

async fn stage(pool: usize) -> Stage {
    Stage::new(sandbox_config(&numbers(pool))).await
}

/// Messages that wait in the queue of jobs; nobody consumes it.
async fn queued(stage: &Stage) -> u32 {
    let connection = Connection::connect(&stage.vhost.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("outdial.jobs".into(), passive, FieldTable::default()).await.unwrap();
    queue.message_count()
}

/// How many of the worker's connections wait for a lock, and whether to end them.
async fn held_up(stage: &Stage, end: bool) -> i64 {
    let what = if end { "count(*) filter (where pg_terminate_backend(pid))" } else { "count(*)" };
    let held =
        "datname = current_database() and application_name like 'outdial%' and wait_event_type = 'Lock'";
    stage.count(&format!("select {what} from pg_stat_activity where {held}")).await
}

#[tokio::test]
async fn a_worker_whose_database_goes_away_while_it_starts_tries_on() {
    let stage = stage(3).await;
    stage.route("per_second = 10", ANY_NUMBER).await;
    let mut lock = stage.db.begin().await.unwrap();
    sqlx::query("lock table outdial.workers").execute(&mut *lock).await.unwrap();
    let worker = stage.start(&["worker"], &[]);
    // Each time that it asks, its connection is cut; then it is let through.
    for _ in 0..2 {
        eventually(SOON, async || (held_up(&stage, false).await > 0).then_some(())).await;
        held_up(&stage, true).await;
        eventually(SOON, async || (held_up(&stage, false).await == 0).then_some(())).await;
    }
    worker.line(SOON, "waiting for the database").await;
    lock.rollback().await.unwrap();
    worker.line(SOON, "worker.started").await;
    let many = jobs("spring", 5);
    stage.publish(&many).await;
    stage.each_done_once(&many, SOON).await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_worker_that_cannot_start_takes_no_job_from_the_queue() {
    let stage = stage(3).await;
    stage.route("per_second = 10", ANY_NUMBER).await;
    let first = stage.worker(&[]).await;
    stage.stopped(first).await;
    let many = jobs("many", 20);
    stage.publish(&many).await;

    let (_, server) = stage.database.url.split_once('@').unwrap();
    let wrong_password = format!("postgres://nobody:hunter2@{server}");
    let at_once: [(Env, &[&str]); 2] = [
        (
            &[
                ("OUTDIAL__CALLS__POLL", "often"),
                ("OUTDIAL__WORKER__LEASE", "1ms"),
                ("OUTDIAL__AMPQ__PREFETCH", "1"),
            ],
            &["the configuration has 3 faults", "calls.poll", "worker.lease", "amqp"],
        ),
        (&[("DATABASE_URL", &wrong_password)], &["refuses the connection", "nobody", "mend:"]),
    ];
    for (env, expected) in at_once {
        refused(&stage, env, expected, SOON).await;
    }
    // These wait a minute for the server to come, side by side.
    let patience = Duration::from_secs(150);
    let no_database = [("DATABASE_URL", "postgres://dialer:hunter2@127.0.0.1:1/calls")];
    let no_broker = [("AMQP_URL", "amqp://dialer:hunter2@127.0.0.1:1/%2f")];
    let began = outdial::clock::monotonic();
    tokio::join!(
        refused(
            &stage,
            &no_database,
            &["no connection to the database calls at 127.0.0.1:1", "within 1m", "mend:  start the database"],
            patience
        ),
        refused(
            &stage,
            &no_broker,
            &["no connection to the broker 127.0.0.1:1", "mend:  start RabbitMQ"],
            patience
        ),
    );
    assert!(began.elapsed() > Duration::from_secs(55), "it is waited for");
    assert_eq!(queued(&stage).await, 20);
    assert!(stage.posts().is_empty());

    let good = stage.worker(&[]).await;
    stage.each_done_once(&many, SOON).await;
    stage.stopped(good).await;
}

async fn refused(stage: &Stage, env: Env<'_>, expected: &[&str], limit: Duration) {
    let (status, told) = stage.start(&["worker"], env).wait(limit).await;
    assert_eq!(status.code(), Some(1), "{told}");
    for text in expected {
        assert!(told.contains(text), "{text} in\n{told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_worker_with_a_wrong_key_or_region_names_the_hosts_and_keeps_every_job() {
    let stage = stage(3).await;
    stage.route("per_second = 20", ANY_NUMBER).await;
    // A key of another region is answered as a wrong one is: 401.
    let wrong = stage.worker(&[("SYNTHFLOW_API_KEY", "key-of-another-region")]).await;
    for host in ["api.us.synthflow.ai", "api.eu.synthflow.ai", "https://api.synthflow.ai"] {
        wrong.line(SOON, host).await;
    }
    let many = jobs("many", 50);
    stage.publish(&many).await;
    stage.jobs("waiting", None, 50, SOON).await;
    let paused =
        "select count(*) from outdial.accounts where state = 'paused' and state_reason = 'unauthorized'";
    eventually(SOON, async || (stage.count(paused).await == 1).then_some(())).await;
    stage.jobs("waiting", Some("account_paused"), 50, SOON).await;
    let told = stage.stopped(wrong).await;
    assert!(!told.contains("key-of-another-region"), "{told}");
    assert!(stage.posts().is_empty(), "a key known to be wrong is not tried on jobs");

    let right = stage.worker(&[]).await;
    stage.each_done_once(&many, SOON).await;
    stage.stopped(right).await;
}

#[tokio::test]
async fn without_routing_and_with_an_empty_pool_jobs_wait_and_say_why() {
    let stage = stage(0).await;
    let worker = stage.worker(&[]).await;
    let many = jobs("many", 30);
    stage.publish(&many).await;
    stage.jobs("waiting", Some("no_route"), 30, SOON).await;
    stage.route("per_second = 20", ANY_NUMBER).await;
    stage.jobs("waiting", Some("no_eligible_number"), 30, SOON).await;
    assert!(stage.posts().is_empty());

    let pool = numbers(2);
    let pool: Vec<&str> = pool.iter().map(String::as_str).collect();
    stage.sandbox.set_pool("default", AGENT, &pool).unwrap();
    stage.run(&["pool", "sync", AGENT]).await;
    stage.each_done_once(&many, SOON).await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_dry_run_does_everything_but_the_post_and_says_so_in_the_records() {
    let stage = stage(5).await;
    stage.route("per_second = 5, concurrent = 2", ANY_NUMBER).await;
    let worker = stage.start(&["worker", "--dry-run"], &[]);
    worker.line(SOON, "worker.started").await;
    let many = jobs("many", 60);
    stage.publish(&many).await;
    stage.jobs("done", None, 60, SOON).await;
    assert!(stage.posts().is_empty(), "not one POST");
    let marked = "select count(*) from outdial.attempts
                  where dry_run and state = 'ended' and from_phone_number is not null and call_id like 'dry-run-%'";
    assert_eq!(stage.count(marked).await, 60);
    let spread = "select count(distinct from_phone_number) from outdial.attempts";
    assert_eq!(stage.count(spread).await, 5, "the rules choose as ever");
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn no_log_level_tells_of_callees() {
    let stage = stage(3).await;
    stage.route("per_second = 20", ANY_NUMBER).await;
    let worker = stage.worker(&[("RUST_LOG", "trace")]).await;
    let many = jobs("many", 30);
    stage.publish(&many[..20]).await;
    stage.jobs("done", None, 20, SOON).await;
    let wrong = AccountChange { key_valid: Some(false), ..AccountChange::default() };
    stage.sandbox.change_account("default", wrong).unwrap();
    stage.publish(&many[20..]).await;
    stage.jobs("waiting", Some("account_paused"), 10, SOON).await;
    let printed = stage.stopped(worker).await;
    assert!(printed.contains("\"level\":\"DEBUG\""), "there was something to tell");
}

//! Commands of operators on a small ledger: what they print, what they change, how they exit.

use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::seeded;
use crate::support::{Database, Outdial, database, eventually};

const LIMIT: Duration = Duration::from_secs(20);

struct Ground {
    database: Database,
    pool: sqlx::PgPool,
}

impl Ground {
    async fn new() -> Self {
        let database = database().await;
        let pool = seeded::pool(&database.url).await;
        seeded::seed(&pool).await;
        Self { database, pool }
    }

    fn start(&self, arguments: &[&str]) -> Outdial {
        Outdial::start(arguments, &[("DATABASE_URL", &self.database.url)])
    }

    async fn run(&self, arguments: &[&str]) -> (ExitStatus, String) {
        self.start(arguments).wait(LIMIT).await
    }

    async fn done(&self, arguments: &[&str]) -> String {
        let (status, told) = self.run(arguments).await;
        assert!(status.success(), "{arguments:?}: {told}");
        told
    }

    async fn failed(&self, arguments: &[&str]) -> String {
        let (status, told) = self.run(arguments).await;
        assert_eq!(status.code(), Some(1), "{arguments:?}: {told}");
        told
    }

    async fn text(&self, query: &str) -> String {
        seeded::text(&self.pool, query).await
    }
}

#[tokio::test]
async fn a_campaign_is_paused_resumed_and_canceled() {
    let ground = Ground::new().await;
    let epoch = "select epoch from outdial.control";
    let before: i64 = ground.text(epoch).await.parse().unwrap();

    let told = ground.done(&["campaign", "pause", "spring-sale", "--reason", "wrong prompt"]).await;
    assert_eq!(told, "spring-sale is paused now (was active)\n");
    assert_eq!(
        ground.text("select state, state_reason from outdial.campaigns").await,
        "paused,\"wrong prompt\""
    );
    assert_eq!(ground.done(&["campaign", "pause", "spring-sale"]).await, "spring-sale is paused already\n");
    assert_eq!(
        ground.done(&["campaign", "resume", "spring-sale"]).await,
        "spring-sale is active now (was paused)\n"
    );
    let told = ground.done(&["campaign", "cancel", "spring-sale"]).await;
    assert!(
        told.contains("is canceled now (was active)") && told.contains("2 waiting jobs canceled"),
        "{told}"
    );
    // Its jobs are over: nothing looks as if they came back.
    for action in ["resume", "pause"] {
        let told = ground.failed(&["campaign", action, "spring-sale"]).await;
        assert!(
            told.contains("spring-sale is canceled") && told.contains("another campaign_id"),
            "{action}: {told}"
        );
    }
    let told = ground.done(&["campaign", "cancel", "spring-sale"]).await;
    assert_eq!(told, "spring-sale is canceled already\n0 waiting jobs canceled\n");
    assert_eq!(ground.text("select state from outdial.campaigns").await, "canceled");

    // The epoch rose with each change, and not where nothing changed.
    let after: i64 = ground.text(epoch).await.parse().unwrap();
    assert_eq!(after - before, 3);
    let events = "select string_agg(concat_ws(' ', subject, sequence, data ->> 'state'), ', ' order by id)
                  from outdial.outbox where type = 'campaign.state_changed'";
    assert_eq!(
        ground.text(events).await,
        "\"spring-sale 1 paused, spring-sale 2 active, spring-sale 3 canceled\""
    );
    let jobs = "select string_agg(concat_ws(' ', job_id, state), ', ' order by job_id) from outdial.jobs";
    assert_eq!(ground.text(jobs).await, "\"j-1 done, j-2 canceled, j-3 canceled\"");
    assert_eq!(ground.text("select count(*) from outdial.work").await, "0");
    let told = ground.text("select count(*) from outdial.outbox where type = 'job.canceled'").await;
    assert_eq!(told, "2");
}

#[tokio::test]
async fn events_that_are_not_wanted_are_not_written() {
    let ground = Ground::new().await;
    ground.done(&["campaign", "pause", "spring-sale", "--set", "events.types=job.done"]).await;
    let written = "select count(*) from outdial.outbox where type = 'campaign.state_changed'";
    assert_eq!(ground.text(written).await, "0");
}

#[tokio::test]
async fn an_unknown_campaign_account_or_job_is_told_with_the_mend() {
    let ground = Ground::new().await;
    let told = ground.failed(&["campaign", "pause", "autumn"]).await;
    assert!(told.contains("there is no campaign autumn") && told.contains("outdial campaign list"), "{told}");
    let told = ground.failed(&["account", "pause", "defualt"]).await;
    assert!(told.contains("there is no account defualt") && told.contains("[accounts.NAME]"), "{told}");
    let told = ground.failed(&["number", "rest", "+16286660000"]).await;
    assert!(
        told.contains("nobody knows the number +16286660000") && told.contains("outdial number list"),
        "{told}"
    );
    let (status, told) = ground.run(&["number", "rest", "16286"]).await;
    assert_eq!(status.code(), Some(2), "{told}");
    for action in ["show", "cancel"] {
        let told = ground.failed(&["job", action, "j-9"]).await;
        assert!(told.contains("there is no job j-9") && told.contains("outdial dead list"), "{told}");
    }
    let (status, told) = ground.run(&["job", "show", "not an id"]).await;
    assert_eq!(status.code(), Some(2), "{told}");
}

/// Nothing is authorised after a pause has returned, and a pause waits for what is being authorised.
#[tokio::test]
async fn a_pause_is_a_border() {
    let ground = Ground::new().await;
    seeded::run(
        &ground.pool,
        &format!(
            "update outdial.limits set per_second = null;
             select * from outdial.reserve(1, 0, '0', '1 second', '100 ms', array[2::bigint], array['spring-sale'],
                 array['default'], array['{}'], array[null::text], array[null::text], array[null::text]);",
            seeded::NUMBER
        ),
    )
    .await;
    let mut authorising = ground.pool.begin().await.unwrap();
    sqlx::query("select outdial.go_lock()").execute(&mut *authorising).await.unwrap();

    let pause = ground.start(&["campaign", "pause", "spring-sale"]);
    eventually(LIMIT, async || {
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                     and database = (select oid from pg_database where datname = current_database())";
        (ground.text(waits).await == "1").then_some(())
    })
    .await;
    assert_eq!(ground.text("select state from outdial.campaigns").await, "active");
    authorising.commit().await.unwrap();

    let (status, told) = pause.wait(LIMIT).await;
    assert!(status.success(), "{told}");
    let attempt = "'01890000-0000-7000-8000-000000000002'::uuid";
    assert_eq!(seeded::authorise(&ground.pool, 2, attempt).await.as_deref(), Some("campaign_paused"));
}

#[tokio::test]
async fn a_number_is_rested_and_activated_with_its_cause() {
    let ground = Ground::new().await;
    let number = seeded::NUMBER;
    for (action, told) in [
        ("rest", "is resting now (was active)"),
        ("rest", "is resting already"),
        ("activate", "is active now (was resting)"),
    ] {
        let said = ground.done(&["number", action, number, "--reason", "spam label"]).await;
        assert_eq!(said, format!("{number} {told}\n"));
    }
    let events = "select string_agg(data ->> 'was' || '-' || (data ->> 'state') || '-' || (data ->> 'reason'), ' ' order by sequence)
                  from outdial.outbox where type = 'number.state_changed'";
    assert_eq!(
        ground.text(events).await.trim_matches('"'),
        "active-resting-spam label resting-active-spam label"
    );
}

#[tokio::test]
async fn an_account_is_listed_paused_and_resumed() {
    let ground = Ground::new().await;
    let told = ground.done(&["account", "pause", "default", "--reason", "audit"]).await;
    assert_eq!(told, "default is paused now (was active)\n");
    let list = ground.done(&["account", "list"]).await;
    assert!(list.contains("ACCOUNT") && list.contains("paused") && list.contains("audit"), "{list}");
    let rows: Value = serde_json::from_str(
        &ground.done(&["account", "list", "--json", "--set", "accounts.eu.calls_per_second=5"]).await,
    )
    .unwrap();
    let names: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["account"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "eu"], "an account that no worker has used yet is listed");
    assert_eq!(rows[1]["calls_per_second"], 5);
    assert_eq!(ground.done(&["account", "resume", "default"]).await, "default is active now (was paused)\n");
    let events =
        "select count(*) from outdial.outbox where type = 'account.state_changed' and subject = 'default'";
    assert_eq!(ground.text(events).await, "2");
}

#[tokio::test]
async fn a_jobs_story_is_told() {
    let ground = Ground::new().await;
    let waits = ground.done(&["job", "show", "j-2"]).await;
    for line in
        ["job j-2", "state: waiting", "reason: number_limit", "class_reason: number_limit", "ahead: 0"]
    {
        assert!(waits.contains(line), "{line} in\n{waits}");
    }
    let done = ground.done(&["job", "show", "j-1"]).await;
    for line in
        ["state: done", "attempt 1", "disposition: answered", "rule: acme, California", "call_id: call-1"]
    {
        assert!(done.contains(line), "{line} in\n{done}");
    }
    let story: Value = serde_json::from_str(&ground.done(&["job", "show", "j-1", "--json"]).await).unwrap();
    assert_eq!(story["attempts"][0]["from_phone_number"], seeded::NUMBER);
    assert_eq!(story["waits"], Value::Null);
}

#[tokio::test]
async fn a_job_is_canceled_once_and_not_after_its_call() {
    let ground = Ground::new().await;
    assert_eq!(ground.done(&["job", "cancel", "j-3"]).await, "j-3 is canceled\n");
    let told = ground.failed(&["job", "cancel", "j-3"]).await;
    assert!(told.contains("it is canceled"), "{told}");
    let told = ground.failed(&["job", "cancel", "j-1"]).await;
    assert!(told.contains("it is done") && told.contains("outdial job show j-1"), "{told}");
}

#[tokio::test]
async fn lists_are_tables_for_people_and_the_views_for_programs() {
    let ground = Ground::new().await;
    let campaigns = ground.done(&["campaign", "list"]).await;
    assert!(campaigns.starts_with("CAMPAIGN_ID") && campaigns.contains("number_limit"), "{campaigns}");
    let rows: Value = serde_json::from_str(&ground.done(&["campaign", "list", "--json"]).await).unwrap();
    assert_eq!((&rows[0]["campaign_id"], &rows[0]["waiting"]), (&"spring-sale".into(), &2.into()));
    let numbers = ground.done(&["number", "list"]).await;
    assert!(numbers.contains(seeded::NUMBER) && numbers.contains("1/75"), "{numbers}");
    let rows: Value = serde_json::from_str(&ground.done(&["number", "list", "--json"]).await).unwrap();
    assert_eq!(rows[0]["limit_day"], 75);
}

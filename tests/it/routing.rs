//! Routing versions: what `outdial routing` prints, and what it does to the tables.

use std::io::Write;
use std::time::Duration;

use outdial::core::ids::RoutingVersion;
use outdial::core::rules;
use outdial::store::routing::{self, Applied};
use sqlx::{PgPool, Row};

use crate::support::{Outdial, database};

const LIMIT: Duration = Duration::from_secs(30);
const SAMPLE: &str = include_str!("../../config/routing.toml");

async fn outdial(url: &str, arguments: &[&str]) -> (i32, String) {
    let (status, output) =
        Outdial::start(arguments, &[("DATABASE_URL", url), ("USER", "tester")]).wait(LIMIT).await;
    (status.code().unwrap(), output)
}

fn file(content: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    (file, path)
}

async fn apply(pool: &PgPool, source: &str) -> Applied {
    routing::apply(pool, source, rules::parse(source).unwrap(), "tester").await.unwrap()
}

#[tokio::test]
async fn a_file_becomes_a_version_and_comes_back_as_it_was() {
    let database = database().await;
    let (_kept, path) = file(SAMPLE);
    let (code, output) = outdial(&database.url, &["routing", "export"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("no routing is applied yet"), "{output}");

    let (code, output) = outdial(&database.url, &["routing", "apply", &path]).await;
    assert_eq!((code, output.trim()), (0, "version 1 is in use: 1 agent, 2 numbers, 1 campaign, 2 rules"));
    let (code, output) = outdial(&database.url, &["routing", "apply", &path]).await;
    assert_eq!((code, output.trim()), (0, "no change: version 1 is this document"));
    assert_eq!(outdial(&database.url, &["routing", "export"]).await, (0, SAMPLE.to_owned()));

    let (_kept, other) =
        file(&SAMPLE.replace("weight = 1  ", "weight = 7  ").replace("\"wait\"", "\"next\""));
    let (code, output) = outdial(&database.url, &["routing", "diff", &other]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("~ campaign spring-sale\n    weight: 1 -> 7"), "{output}");
    assert!(output.contains("~ rule acme, California\n    overflow: \"wait\" -> \"next\""), "{output}");
    assert_eq!(outdial(&database.url, &["routing", "apply", &other]).await.0, 0);

    let (code, output) = outdial(&database.url, &["routing", "rollback", "1"]).await;
    assert!(code == 0 && output.starts_with("version 3 is in use"), "{output}");
    assert_eq!(outdial(&database.url, &["routing", "export"]).await, (0, SAMPLE.to_owned()));
    let (code, output) = outdial(&database.url, &["routing", "versions", "--json"]).await;
    let versions: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(code, 0);
    assert_eq!(versions.as_array().unwrap().len(), 3);
    assert_eq!((&versions[0]["version"], &versions[0]["in_use"]), (&3.into(), &true.into()));
    assert_eq!(versions[0]["digest"], versions[2]["digest"]);
    assert_eq!(versions[0]["applied_by"], "tester");

    let (code, output) = outdial(&database.url, &["routing", "rollback", "9"]).await;
    assert!(code == 1 && output.contains("there is no version 9"), "{output}");
    assert_eq!(outdial(&database.url, &["routing", "apply"]).await.0, 2);
}

#[tokio::test]
async fn of_a_file_with_faults_nothing_is_applied_and_all_are_told() {
    let database = database().await;
    let bad = SAMPLE
        .replace("calling_rules = \"standard\"\n", "calling_rules = \"lawful\"\n")
        .replace("brand = \"acme\"", "brnad = \"acme\"")
        .replace("\"US-CA\"  ", "\"California\"  ");
    let (_kept, path) = file(&bad);
    let (code, output) = outdial(&database.url, &["routing", "apply", &path]).await;
    assert_eq!(code, 1);
    assert!(output.contains("has 5 faults; nothing was applied"), "{output}");
    assert!(output.contains("defaults.calling_rules: must be one of none, standard"), "{output}");
    assert!(output.contains("number[0].region: \"California\" is not a region"), "{output}");
    let pool = PgPool::connect(&database.url).await.unwrap();
    assert_eq!(routing::versions(&pool, 10).await.unwrap(), []);
}

/// per_second, per_minute, per_day of a thing.
async fn limits(pool: &PgPool, key: &str) -> (Option<i32>, Option<i32>, Option<i32>) {
    let row = sqlx::query("select per_second, per_minute, per_day from outdial.limits where key = $1")
        .bind(key)
        .fetch_one(pool)
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn every_limit_is_merged_and_states_survive() {
    let database = database().await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    // A number that only the pool knows, and a campaign that only jobs named.
    sqlx::query("insert into outdial.numbers (number, state) values ('+14155550188', 'resting')")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("insert into outdial.limits (kind, key) values (3, '+14155550188'), (2, 'seen')")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("insert into outdial.campaigns (campaign_id, state, brand) values ('seen', 'paused', 'old')")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(apply(&pool, SAMPLE).await, Applied::New(RoutingVersion(1)));
    assert_eq!(limits(&pool, "+16286666348").await, (Some(1), Some(10), Some(100)));
    assert_eq!(limits(&pool, "+14155550188").await, (Some(1), Some(10), Some(75)));
    assert_eq!(limits(&pool, "spring-sale").await, (Some(5), None, None));
    assert_eq!(limits(&pool, "seen").await, (None, None, None));
    let row = sqlx::query("select state, brand from outdial.campaigns where campaign_id = 'seen'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((row.get::<String, _>(0).as_str(), row.get::<Option<String>, _>(1)), ("paused", None));
    let row = sqlx::query("select state, region from outdial.numbers where number = '+14155550188'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((row.get::<String, _>(0).as_str(), row.get::<String, _>(1).as_str()), ("resting", "US-CA"));
    let row = sqlx::query("select brand, tags from outdial.numbers where number = '+16286666348'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(
        (row.get::<String, _>(0).as_str(), row.get::<Vec<String>, _>(1)),
        ("acme", vec!["sales".to_owned()])
    );
    let row =
        sqlx::query("select routing_version, epoch from outdial.control").fetch_one(&pool).await.unwrap();
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (1, 1));

    // The next file takes everything back that it doesn't name.
    assert_eq!(apply(&pool, "# nothing\n").await, Applied::New(RoutingVersion(2)));
    for key in ["+16286666348", "+14155550188", "spring-sale"] {
        assert_eq!(limits(&pool, key).await, (None, None, None), "{key}");
    }
    let account: String =
        sqlx::query_scalar("select account from outdial.agents").fetch_one(&pool).await.unwrap();
    assert_eq!(account, "default");
}

#[tokio::test]
async fn a_new_window_counts_the_calls_that_were_made_before_it() {
    let database = database().await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    apply(&pool, "[[number]]\nnumber = '+16286666348'\n[[campaign]]\nid = 'c'\n").await;
    sqlx::query(
        "insert into outdial.attempts (job_no, attempt_no, attempt_id, worker_no, campaign_id, account, model_id, phone,
             from_phone_number, routing_version, decision, state, http_status, slot, submitted_at)
         select n, 1, gen_random_uuid(), 1, 'c', 'default', 'm', '+14155550100', '+16286666348', 1, '{}',
                case when n = 4 then 'not_placed' else 'ended' end, case when n = 5 then 400 end,
                clock_timestamp() - n * interval '1 minute', clock_timestamp() - n * interval '1 minute'
         from generate_series(1, 5) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    apply(&pool, "[[number]]\nnumber = '+16286666348'\nlimits = { per_day = 10 }\n[[campaign]]\nid = 'c'\nlimits = { per_hour = 9 }\n").await;
    for key in ["+16286666348", "c"] {
        let row = sqlx::query(
            "select l.last_ordinal, count(*), max(g.ordinal), l.last_slot = max(g.slot)
             from outdial.limits l join outdial.grants g using (thing_no) where l.key = $1 group by l.thing_no",
        )
        .bind(key)
        .fetch_one(&pool)
        .await
        .unwrap();
        // The fourth is taken for not placed, without an answer of the provider: it may have been sent all the same.
        assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1), row.get::<i64, _>(2)), (5, 5, 5), "{key}");
        assert!(row.get::<bool, _>(3));
    }
}

const JOB: &str = r#"{"campaign_id": "spring-sale", "phone": "+1 415 555 2671", "name": "Jo", "lead_timezone": "America/Los_Angeles"}"#;

#[tokio::test]
async fn explain_tells_what_a_worker_would_do() {
    let database = database().await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    let (_kept, job) = file(JOB);
    let explain = async |arguments: &[&str]| {
        let arguments = [&["routing", "explain", "--job", &job][..], arguments].concat();
        outdial(&database.url, &arguments).await
    };
    let (code, output) = explain(&[]).await;
    assert!(code == 0 && output.contains("wait no_route"), "{output}");

    // Whatever the hour is.
    let no_window = SAMPLE.lines().filter(|line| !line.starts_with("window")).collect::<Vec<_>>().join("\n");
    let no_window = no_window.replace("\"standard\"", "\"none\"");
    apply(&pool, &no_window).await;
    let (_, output) = explain(&[]).await;
    assert!(output.contains("wait pool_unknown"), "{output}");
    sqlx::query("update outdial.agents set pool_read_at = now()").execute(&pool).await.unwrap();
    sqlx::query(
        "insert into outdial.pool (model_id, number)
         select model_id, n from outdial.agents, unnest(array['+16286666348', '+12125550142']) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let (code, output) = explain(&[]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("dial from +16286666348, by \"acme, California\""), "{output}");
    assert!(
        output.contains("> +16286666348  free  share 0.00  second 0/1  minute 0/10  hour 0/60  day 0/100"),
        "{output}"
    );
    assert!(output.contains("x +12125550142  its region: US-NY"), "{output}");
    assert!(output.contains("rule 2 \"acme, everywhere else\": not reached"), "{output}");

    // Its concurrency is used up: the job waits, and nobody can say until when.
    sqlx::query("update outdial.limits set in_use = 2 where key = '+16286666348'")
        .execute(&pool)
        .await
        .unwrap();
    let (_, output) = explain(&["--json"]).await;
    let said: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&said["outcome"], &said["reason"]), (&"wait".into(), &"number_limit".into()));
    assert_eq!(said["rules"][0]["candidates"][0]["windows"][4]["used"], 2);

    let (_kept, bad) = file(r#"{"campaign_id": "c", "phone": "415 555 2671", "name": "Jo"}"#);
    let (code, output) = outdial(&database.url, &["routing", "explain", "--job", &bad]).await;
    assert!(code == 1 && output.contains("invalid_phone"), "{output}");
}

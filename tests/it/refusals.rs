//! How the program says no: bad configuration, no database, an old schema, a wrong key.

use std::time::Duration;

use outdial::broker::{self, Target};
use outdial::local::PostgresSetup;
use secrecy::SecretString;

use crate::provider_side::{AGENT, KEY, Side};
use crate::seeded;
use crate::support::{Outdial, database, database_on, own_postgres, own_postgres_with, vhost};

const LIMIT: Duration = Duration::from_secs(30);

async fn run(arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let (status, told) = Outdial::start(arguments, env).wait(LIMIT).await;
    (status.code(), told)
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_told_at_once() {
    let env = [
        ("OUTDIAL__CALLS__POLL", "often"),
        ("OUTDIAL__LIMITS__SLAK_MS", "5"),
        ("SYNTHFLOW_WEBHOOK_SECRET", "hunter2 "),
    ];
    let (code, told) = run(&["check"], &env).await;
    assert_eq!(code, Some(1), "{told}");
    for line in [
        "the configuration has 6 faults",
        "calls.poll: \"often\" is not a length of time",
        "where: environment variable OUTDIAL__CALLS__POLL",
        "did you mean limits.slack_ms?",
        "accounts.default.webhook_secret: is empty, or has blanks at its ends",
        "set DATABASE_URL",
        "set AMQP_URL",
        "set SYNTHFLOW_API_KEY",
    ] {
        assert!(told.contains(line), "{line} in\n{told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn wrong_usage_exits_2() {
    for arguments in [&["dance"][..], &["job", "show"], &["--set", "nothing", "migrate"], &[]] {
        let (code, told) = run(arguments, &[]).await;
        assert_eq!(code, Some(2), "{arguments:?}: {told}");
    }
    assert_eq!(run(&["--version"], &[]).await.0, Some(0));
}

#[tokio::test]
async fn an_absent_database_is_named() {
    // Port 1 of loopback: nothing listens there.
    let url = "postgres://dialer:hunter2@127.0.0.1:1/calls";
    let (code, told) = run(&["campaign", "list"], &[("DATABASE_URL", url)]).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("calls at 127.0.0.1:1 (user dialer)") && told.contains("mend:"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_schema_that_is_missing_or_old_asks_for_migrate() {
    let server = own_postgres().await;
    let url = server.url("postgres");
    let env = [("DATABASE_URL", url.as_str())];
    let refused = async || {
        let (code, told) = run(&["campaign", "list"], &env).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("older than this program") && told.contains("outdial migrate"), "{told}");
    };
    refused().await;
    let (code, told) = run(&["migrate"], &env).await;
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(run(&["campaign", "list"], &env).await.0, Some(0));
    let pool = seeded::pool(&url).await;
    seeded::run(&pool, "delete from outdial.schema_steps where version = 4").await;
    refused().await;
}

#[tokio::test]
async fn check_tells_what_holds_and_what_does_not() {
    // Of the test's own: the shared one doesn't wait for the disk, which is a problem.
    let server = own_postgres().await;
    let (database, vhost) = (database_on(&server).await, vhost().await);
    let sandbox = Outdial::start(&["sandbox", "--listen", "127.0.0.1:0"], &[]);
    let line = sandbox.line(LIMIT, "SYNTHFLOW_BASE_URL=").await;
    let base_url = line.split_once("SYNTHFLOW_BASE_URL=").unwrap().1;
    let env = |key| {
        [
            ("DATABASE_URL", database.url.as_str()),
            ("AMQP_URL", vhost.url.as_str()),
            ("SYNTHFLOW_BASE_URL", base_url),
            ("SYNTHFLOW_API_KEY", key),
        ]
    };

    let (code, told) = run(&["check"], &env("sandbox-key")).await;
    assert_eq!(code, Some(0), "{told}");
    for line in [
        "ok      configuration: no fault",
        "ok      database: PostgreSQL",
        "ok      replication: no standby",
        "ok      clock:",
        "ok      schema: up to date",
        "ok      kill switch: off",
        "ok      broker:",
        "warning topology: not there: exchange outdial.jobs",
        "ok      account default: the key works",
        "warning account default: no limits are set",
        "warning routing: none is applied",
        "ok      pools: no agent is known yet",
    ] {
        assert!(told.contains(line), "{line} in\n{told}");
    }
    let target = Target::parse(&SecretString::from(vhost.url.clone())).unwrap();
    assert_eq!(broker::present(&target).await.unwrap(), [""; 0], "it declares nothing");

    broker::prepare(&target, true, LIMIT).await.unwrap();
    let (code, told) = run(&["check"], &env("wrong-key")).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("ok      topology: exchanges and queues are there, queues with"), "{told}");
    assert!(told.contains("problem account default") && told.contains("a check failed"), "{told}");
    for host in ["api.us.synthflow.ai", "api.eu.synthflow.ai", "https://api.synthflow.ai"] {
        assert!(told.contains(host), "{host} in\n{told}");
    }
    assert!(!told.contains("wrong-key"), "{told}");
}

/// Everything at once, read as a program reads it.
#[tokio::test]
async fn check_finds_what_loses_stops_or_misleads_calls() {
    let hasty = PostgresSetup { fsync: false, ..PostgresSetup::default() };
    let server = own_postgres_with(std::env::temp_dir(), hasty).await;
    let (database, vhost) = (database_on(&server).await, vhost().await);
    let pool = seeded::pool(&database.url).await;
    seeded::run(
        &pool,
        "update outdial.control set kill_switch = true;
         insert into outdial.accounts (name, state, state_reason) values ('default', 'paused', 'audit');
         insert into outdial.agents (model_id, account) values ('agent-1', 'elsewhere');
         insert into outdial.pool (model_id, number) values ('agent-1', '+16286666348');
         insert into outdial.schema_steps (version, description, success, checksum, execution_time)
             values (9999, 'later', true, '', 0);",
    )
    .await;
    let connection =
        lapin::Connection::connect(&vhost.url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("outdial.jobs".into(), durable, Default::default()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();

    let env = [
        ("DATABASE_URL", database.url.as_str()),
        ("AMQP_URL", vhost.url.as_str()),
        ("SYNTHFLOW_BASE_URL", "http://127.0.0.1:1/v2"),
        ("SYNTHFLOW_API_KEY", "any-key"),
    ];
    let (code, told) = run(&["check", "--json"], &env).await;
    assert_eq!(code, Some(1), "{told}");
    // What is logged, and the failure, stand on lines of their own between them.
    let json: String = told.lines().filter(|line| line.starts_with(['[', ' ', ']'])).collect();
    let findings: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    for (grade, subject, part) in [
        ("problem", "durability", "fsync = off"),
        ("warning", "schema", "9999"),
        ("warning", "kill switch", "nothing is dialed"),
        ("warning", "account default", "paused: audit"),
        ("warning", "numbers", "1 of 1 attached"),
        ("problem", "topology", "queue outdial.jobs: PRECONDITION_FAILED"),
        ("warning", "topology", "exchange outdial.jobs"),
        ("problem", "account default", "unavailable"),
        ("warning", "account elsewhere", "not configured here"),
    ] {
        let found = findings.iter().any(|finding| {
            finding["grade"] == grade
                && finding["subject"] == subject
                && finding["what"].as_str().unwrap().contains(part)
                && finding["mend"].is_string()
        });
        assert!(found, "{grade} {subject} {part} in\n{told}");
    }
}

#[tokio::test]
async fn check_tells_which_pools_differ_and_leaves_them_so() {
    let (side, vhost) = (Side::new(&["+16286666348", "+12125550142"], |_| {}).await, vhost().await);
    side.sync().await;
    side.sandbox.set_pool("default", AGENT, &["+16286666348", "+14165550144"]).unwrap();
    let tried = side.text("select pool_tried_at from outdial.agents").await;
    let base_url = side.sandbox.base_url();
    let env = [
        ("DATABASE_URL", side.url.as_str()),
        ("AMQP_URL", vhost.url.as_str()),
        ("SYNTHFLOW_BASE_URL", base_url.as_str()),
        ("SYNTHFLOW_API_KEY", KEY),
    ];
    // The exit code is the server's matter: it may be one that doesn't wait for the disk.
    let (_, told) = run(&["check"], &env).await;
    let line =
        format!("warning agent {AGENT}: only at the provider: +*********44; only here: +*********42\n");
    assert!(told.contains(&line), "{told}");
    assert!(told.contains(&format!("mend: outdial pool sync {AGENT}")), "{told}");
    assert!(!told.contains("4165550144") && !told.contains("2125550142"), "{told}");
    assert_eq!(side.attached().await, ["+12125550142", "+16286666348"]);
    assert_eq!(side.text("select pool_tried_at from outdial.agents").await, tried);

    side.sync().await;
    let (_, told) = run(&["check"], &env).await;
    assert!(
        told.contains("ok      pools: with the same numbers as at the provider: 1 of 1 agents"),
        "{told}"
    );
}

/// A worker that can't start says what, where and the mend, and leaves with 1. What waiting might mend it waits for
/// (60 s); what it can't, it says at once.
#[tokio::test]
async fn a_worker_that_cannot_start_says_why() {
    let (database, vhost) = (database().await, vhost().await);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (scheme, rest) = vhost.url.split_once("://").unwrap();
    let wrong_broker_user = format!("{scheme}://nobody:hunter2@{}", rest.split_once('@').unwrap().1);
    let wrong_database = format!("{}_gone", database.url);
    let good = [
        ("DATABASE_URL", database.url.as_str()),
        ("AMQP_URL", vhost.url.as_str()),
        ("SYNTHFLOW_API_KEY", "sandbox-key"),
        ("SYNTHFLOW_BASE_URL", "http://127.0.0.1:1/v2"),
        ("OUTDIAL__HTTP__LISTEN", "127.0.0.1:0"),
    ];
    let cases = [
        (
            "DATABASE_URL",
            wrong_database.as_str(),
            &["does not exist", "correct the user, password or name"][..],
        ),
        ("AMQP_URL", wrong_broker_user.as_str(), &["refuses the connection", "nobody"]),
        ("OUTDIAL__HTTP__LISTEN", taken.as_str(), &["http.listen", taken.as_str()]),
        ("OUTDIAL__HTTP__LISTEN", "0.0.0.0:0", &["no token is set", "OUTDIAL_API_TOKEN"]),
        (
            "SYNTHFLOW_BASE_URL",
            "https://api.us.synthflow.ai",
            &["doesn't end in /v2", "https://api.eu.synthflow.ai/v2"],
        ),
    ];
    for (name, value, expected) in cases {
        let env = good.map(|(key, good)| (key, if key == name { value } else { good }));
        let (code, told) = run(&["worker"], &env).await;
        assert_eq!(code, Some(1), "{name}={value}: {told}");
        for text in expected {
            assert!(told.contains(text), "{name}={value}: {text} in\n{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }

    let pool = seeded::pool(&database.url).await;
    seeded::run(&pool, "delete from outdial.schema_steps where version = 4").await;
    let (code, told) = run(&["worker"], &good).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("0004 stops missing") && told.contains("mend:  outdial migrate"), "{told}");
}

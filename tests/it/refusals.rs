//! How the program says no: bad configuration, no database, an old schema, a wrong key.

use std::time::Duration;

use crate::seeded;
use crate::support::{Outdial, database, own_postgres, vhost};

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
        ("SYNTHFLOW_WEBHOOK_SECRET", "hunter2"),
    ];
    let (code, told) = run(&["check"], &env).await;
    assert_eq!(code, Some(1), "{told}");
    for line in [
        "the configuration has 6 faults",
        "calls.poll: \"often\" is not a length of time",
        "where: environment variable OUTDIAL__CALLS__POLL",
        "did you mean limits.slack_ms?",
        "accounts.default.webhook_secret: not_supported",
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
    let (database, vhost) = (database().await, vhost().await);
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
        "ok    configuration",
        "ok    schema: up to date",
        "ok    broker:",
        "ok    account default: the key works",
        "warn  account default: no limits are set",
        "warn  replication:",
        "warn  routing: none is applied",
    ] {
        assert!(told.contains(line), "{line} in\n{told}");
    }

    let (code, told) = run(&["check"], &env("wrong-key")).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("FAIL  account default") && told.contains("a check failed"), "{told}");
    for host in ["api.us.synthflow.ai", "api.eu.synthflow.ai", "https://api.synthflow.ai"] {
        assert!(told.contains(host), "{host} in\n{told}");
    }
    assert!(!told.contains("wrong-key"), "{told}");
}

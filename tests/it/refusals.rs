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

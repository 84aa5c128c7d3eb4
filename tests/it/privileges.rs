//! The main job under the roles of least privilege that `deploy/` has scripts for, and what those roles may not do.

use std::process::Command;

use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use outdial::local::Rabbit;
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection};

use crate::support::stage::{ANY_NUMBER, LONG, Stage, jobs, numbers, sandbox_config};
use crate::support::{Listener, Vhost, empty_database_on, own_postgres, own_rabbit};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

/// An address with another user in it; the password is the user's name.
fn as_user(url: &str, user: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    format!("{scheme}://{user}:{user}@{}", rest.split_once('@').unwrap().1)
}

/// Runs the script and has the broker take what it prints; gives the address of a user of its virtual host.
async fn defined(rabbit: Rabbit) -> (Rabbit, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("definitions.json");
    let users = ["worker", "publisher", "listener"];
    let printed = Command::new(format!("{DEPLOY}/rabbitmq/definitions.sh"))
        .envs(users.map(|user| (format!("{}_PASSWORD", user.to_uppercase()), format!("outdial-{user}"))))
        .env("VHOST", "calls")
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    std::fs::write(&file, printed.stdout).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755); // the broker runs as another user
    std::fs::set_permissions(folder.path(), everybody).unwrap();
    let url = rabbit.vhost_url("calls");
    let rabbit = tokio::task::spawn_blocking(move || {
        rabbit.ctl(&["import_definitions", file.to_str().unwrap()]).unwrap();
        drop(folder);
        rabbit
    })
    .await
    .unwrap();
    (rabbit, move |user: &str| as_user(&url, &format!("outdial-{user}")))
}

#[tokio::test]
async fn the_main_job_needs_no_more_than_the_roles_of_least_privilege() {
    let (server, rabbit) = tokio::join!(own_postgres(), own_rabbit());
    let (_rabbit, amqp) = defined(rabbit).await;
    let database = empty_database_on(&server).await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    let roles = std::fs::read_to_string(format!("{DEPLOY}/postgres/roles.sql")).unwrap();
    // Twice: it may be run again.
    for _ in 0..2 {
        admin.execute(AssertSqlSafe(roles.clone())).await.unwrap();
    }
    for role in ["outdial_owner", "outdial_worker"] {
        admin.execute(AssertSqlSafe(format!("alter role {role} password '{role}'"))).await.unwrap();
    }
    let (owner, worker) = (as_user(&database.url, "outdial_owner"), as_user(&database.url, "outdial_worker"));

    // The stage's own connection is the administrator's; every program has its role's.
    let stage = Stage::on(sandbox_config(&numbers(3)), database, Vhost::at(amqp("publisher"))).await;
    let run = async |arguments: &[&str], database: &str| {
        let own = [("DATABASE_URL", database), ("OUTDIAL__AMQP__DECLARE", "false")];
        let (status, output) = stage.start(arguments, &own).wait(LONG).await;
        assert!(status.success(), "{arguments:?}: {output}");
        output
    };
    run(&["migrate"], &owner).await;
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), format!("[defaults]\ncalling_rules = \"none\"\n{ANY_NUMBER}")).unwrap();
    run(&["routing", "apply", rules.path().to_str().unwrap()], &worker).await;
    let broker = amqp("worker");
    let own = [
        ("DATABASE_URL", worker.as_str()),
        ("AMQP_URL", broker.as_str()),
        ("OUTDIAL__AMQP__DECLARE", "false"),
    ];
    let mut listener = Listener::new(&amqp("listener")).await;
    let process = stage.worker(&own).await;
    let mut all = jobs("spring", 100);
    stage.publish(&all).await;
    stage.jobs("done", None, 100, LONG).await;
    assert_eq!(stage.posts().len(), 100);
    listener.of("job.done", 100, LONG).await;
    // What people do beside it.
    let first = all.remove(0);
    let id = first["job_id"].as_str().unwrap();
    assert!(run(&["job", "show", id], &worker).await.contains(first["phone"].as_str().unwrap()));
    run(&["suppress", "add", "+14155550123"], &worker).await;
    run(&["campaign", "pause", "spring"], &worker).await;
    run(&["forget", first["phone"].as_str().unwrap()], &worker).await;
    stage.publish_raw([b"no job".to_vec()]).await;
    let deadline = outdial::clock::monotonic() + LONG;
    loop {
        let dead = stage.start(&["dead", "list"], &own).wait(LONG).await.1;
        if dead.contains("malformed") {
            break;
        }
        assert!(outdial::clock::monotonic() < deadline, "what is no job is not set aside: {dead}");
    }
    stage.stopped(process).await;

    // Ranges of records are made and dropped for it, which it can't do itself.
    let mut db = PgConnection::connect(&worker).await.unwrap();
    let ranges = "select count(*) from outdial.partitions where records_gone_at is null";
    let before: i64 = sqlx::query_scalar(ranges).fetch_one(&mut db).await.unwrap();
    let made: i32 =
        sqlx::query_scalar("select outdial.make_room(50000000)").fetch_one(&mut db).await.unwrap();
    assert!(made > 0);
    db.execute("update outdial.partitions set over_upto = end_no where first_no = (select max(first_no) from outdial.partitions)")
        .await
        .unwrap();
    let dropped = "select outcome from outdial.drop_records(now() - interval '3 days')";
    assert_eq!(sqlx::query_scalar::<_, String>(dropped).fetch_one(&mut db).await.unwrap(), "dropped");
    let after: i64 = sqlx::query_scalar(ranges).fetch_one(&mut db).await.unwrap();
    assert_eq!(after, before + i64::from(made) - 1);
    db.execute("insert into outdial.jobs (job_no, job_id, campaign_id, class_no, priority, expires_at, received_at, state)
                values (45000000, 'far', 'spring', 1, 4, now(), now(), 'expired')")
        .await
        .unwrap();

    // And what they may not.
    for forbidden in [
        "create table outdial.mine (n int)",
        "drop table outdial.jobs",
        "truncate outdial.jobs",
        "alter table outdial.jobs add column mine int",
        "create table public.mine (n int)",
        "create role mine",
        "drop function outdial.stop_lock()",
        "drop table outdial.jobs_000010000000",
        "set role outdial_reader_pii; select outdial.make_room(0)",
    ] {
        let refused = db.execute(forbidden).await.unwrap_err().to_string();
        assert!(
            refused.contains("permission denied") || refused.contains("must be owner"),
            "{forbidden}: {refused}"
        );
    }
    for (user, exchange) in
        [("publisher", "outdial.events"), ("worker", "amq.topic"), ("listener", "outdial.jobs")]
    {
        let url = amqp(user);
        // What is refused closes its channel: each has a connection of its own.
        let (_connection, channel) = self::channel(&url).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = BasicPublishOptions::default();
        let sent = channel
            .basic_publish(exchange.into(), "x".into(), options, b"{}", BasicProperties::default())
            .await;
        let refused = match sent {
            Ok(confirm) => confirm.await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{user} publishes to {exchange}");
        let (_connection, channel) = self::channel(&url).await;
        let made = channel.exchange_declare(
            "mine".into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        );
        assert!(made.await.is_err(), "{user} declares an exchange");
        if user != "worker" {
            let (_connection, channel) = self::channel(&url).await;
            let read = channel.basic_get("outdial.jobs".into(), BasicGetOptions::default()).await;
            assert!(read.is_err(), "{user} reads jobs");
        }
    }
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

//! Workers behind a PgBouncer in transaction mode, set up as `deploy/postgres/pgbouncer.ini` has it.

use std::process::Stdio;

use outdial::store::{self, Purpose};
use secrecy::SecretString;
use sqlx::{Connection, PgConnection, Row};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::programs::run;
use crate::support::stage::{ANY_NUMBER, LONG, Stage, jobs, numbers, sandbox_config};
use crate::support::{Database, busy, database_on, eventually, own_postgres, vhost};

const SAMPLE: &str = include_str!("../../deploy/postgres/pgbouncer.ini");

/// Keep the places alike with deploy/local/install.sh.
const PROGRAMS: [&str; 3] = ["/usr/local/lib/outdial/pgbouncer", "pgbouncer", "/usr/sbin/pgbouncer"];
/// Of 1.x: the first that keeps prepared statements in transaction mode.
const MINOR_MIN: u32 = 21;

/// To the server, for all workers together: far fewer than they hold to the pooler, so that each statement of a worker runs
/// where others' ran before.
const SERVER_CONNECTIONS: usize = 2;
const WORKER_CONNECTIONS: &str = "10";
const JOBS: usize = 300;

/// The first that is new enough.
async fn program() -> Option<&'static str> {
    for program in PROGRAMS {
        let Some(told) = run(Command::new(program).arg("--version"), LONG).await else { continue };
        let minor = told.out.strip_prefix("PgBouncer 1.").and_then(|rest| rest.split('.').next());
        if minor.and_then(|minor| minor.parse().ok()).is_some_and(|minor: u32| minor >= MINOR_MIN) {
            return Some(program);
        }
    }
    None
}

/// The sample as it is, and after it what belongs to this place alone: what is said last holds.
struct Pooler {
    port: u16,
    user: String,
    folder: TempDir,
    _process: Child,
}

impl Pooler {
    async fn start(program: &str, database: &Database) -> Self {
        let (login, place) = database.url.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (place, name) = place.split_once('/').unwrap();
        let (host, server_port) = place.split_once(':').unwrap();
        let server = format!("host={host} port={server_port} dbname={name} user={user} password={password}");
        let (_, limits) = SAMPLE.split_once("dbname=outdial ").expect("the sample has its database");
        let limits = limits.lines().next().unwrap();
        assert!(limits.starts_with("connect_query="), "{limits}");

        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // It refuses to run as root.
        let runs_as = if rustix::process::geteuid().is_root() { "user = nobody\n" } else { "" };
        let config = format!(
            "{SAMPLE}\n{runs_as}auth_type = any\nadmin_users = {user}\nunix_socket_dir =\nlisten_port = {port}\n\
             default_pool_size = {SERVER_CONNECTIONS}\n\
             [databases]\noutdial = {server} {limits}\nbare = {server}\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(program)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pooler = Self { port, user: user.to_owned(), folder, _process: process };
        eventually(LONG, async || PgConnection::connect(&pooler.url("pgbouncer")).await.ok()).await;
        pooler
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{}@127.0.0.1:{}/{database}", self.user, self.port)
    }

    /// Connections that programs hold to it, as its own console tells.
    async fn clients(&self) -> usize {
        let mut console = PgConnection::connect(&self.url("pgbouncer")).await.unwrap();
        // The console takes no statement that is prepared.
        let clients = sqlx::raw_sql("show clients").fetch_all(&mut console).await.unwrap();
        clients.iter().filter(|client| client.get::<String, _>("database") == "outdial").count()
    }

    /// A setting, as it holds on a connection that a worker makes.
    async fn setting(&self, purpose: Purpose, name: &str) -> String {
        let url = SecretString::from(self.url("outdial"));
        let pool = store::connect(&url, purpose, 1, LONG).await.unwrap();
        sqlx::query_scalar("select current_setting($1)").bind(name).fetch_one(&pool).await.unwrap()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            println!("--- pgbouncer printed:\n{}", log.unwrap_or_default());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_two_connections_of_a_pooler_in_transaction_mode() {
    let Some(program) = program().await else {
        eprintln!("skipped: there is no PgBouncer 1.{MINOR_MIN} here (deploy/local/install.sh pgbouncer)");
        return;
    };
    let _beside = busy().await;
    // Of the test's own, whose address is of a form that is known.
    let server = own_postgres().await;
    let stage = Stage::on(sandbox_config(&numbers(20)), database_on(&server).await, vhost().await).await;
    // Three seconds of calls, for the second worker waits for two before it sends any.
    stage.route("per_second = 5", ANY_NUMBER).await;
    let pooler = Pooler::start(program, &stage.database).await;
    let (pooled, bare) = (pooler.url("outdial"), pooler.url("bare"));

    let own = [("DATABASE_URL", pooled.as_str()), ("OUTDIAL__DATABASE__CONNECTIONS_MAX", WORKER_CONNECTIONS)];
    let workers = [stage.worker(&own).await, stage.worker(&own).await];
    let all = jobs("pooled", JOBS);
    stage.publish(&all).await;
    stage.each_done_once(&all, LONG).await;

    let clients = pooler.clients().await;
    assert!(clients > SERVER_CONNECTIONS, "{clients} connections of workers");
    // The stage has none of these names.
    let servers = "select count(*) from pg_stat_activity where application_name like 'outdial %'";
    let servers = stage.count(servers).await;
    assert!((1..=SERVER_CONNECTIONS as i64).contains(&servers), "{servers} connections to the server");
    for worker in workers {
        stage.stopped(worker).await;
    }

    // What a worker asks for when it connects never reaches the server, and holds all the same.
    for (name, value) in [
        ("statement_timeout", "2s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "2s"),
        ("jit", "off"),
        ("max_parallel_workers_per_gather", "0"),
        ("default_transaction_read_only", "off"),
    ] {
        assert_eq!(pooler.setting(Purpose::Steps, name).await, value, "{name}");
    }
    assert_eq!(pooler.setting(Purpose::Reads, "default_transaction_read_only").await, "on");
    assert_eq!(pooler.setting(Purpose::Steps, "default_transaction_read_only").await, "off");
    let check = async |url: &str| stage.start(&["check"], &[("DATABASE_URL", url)]).wait(LONG).await.1;
    let told = check(&pooled).await;
    assert!(told.contains("ok      timeouts: "), "{told}");
    let told = check(&bare).await;
    let lost = "warning timeouts: a worker's connection asks for 2 s and has \
                idle_in_transaction_session_timeout = 0, lock_timeout = 0, statement_timeout = 0";
    assert!(told.contains(lost) && told.contains("deploy/docs/pooler.md"), "{told}");
}

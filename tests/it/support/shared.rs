//! One PostgreSQL and one RabbitMQ for all tests of this process, started when the first test asks.
//!
//! A test gets a database and a virtual host of its own, so that tests run side by side. Statics are never dropped: at
//! the end of the process the servers' keepers stop them (see `outdial::local`), after which nothing is left.
//!
//! With `DATABASE_URL` the databases are made on that server and dropped after use; its template stays for the next run.
//! With `AMQP_URL` there is one virtual host, which the tests use in turns, emptied each time.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock};

use outdial::local::{Given, Postgres, PostgresSetup, Rabbit, Servers};
use outdial::store;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::sync::{OnceCell, OwnedMutexGuard};

/// Virtual hosts made at a time; a hundred cost a second at start.
const VHOSTS: u32 = 48;
/// Any number: processes that make the template at the same time wait for each other by it.
const TEMPLATE_LOCK: i64 = 0x006f_7574_6469_616c;

struct Shared {
    servers: Servers,
    vhosts_given: u32,
}

static SHARED: OnceLock<Mutex<Shared>> = OnceLock::new();
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

/// Runs on the shared servers, on a thread that may block.
async fn with_shared<T: Send + 'static>(work: impl FnOnce(&mut Shared) -> T + Send + 'static) -> T {
    let run = move || {
        let shared = SHARED.get_or_init(|| {
            let setup = PostgresSetup { fsync: false, ..PostgresSetup::default() };
            let servers = Servers::start(Given::from_env(), &std::env::temp_dir(), setup, VHOSTS);
            let servers = servers.unwrap_or_else(|error| panic!("test servers: {error}"));
            Mutex::new(Shared { servers, vhosts_given: 0 })
        });
        // A test that failed while it held the lock changed nothing that others rely on.
        work(&mut shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// A database with all migrations applied, this test's alone; gone when dropped.
#[derive(Debug)]
pub struct Database {
    pub url: String,
    name: String,
    admin_url: String,
}

pub async fn database() -> Database {
    let (admin_url, new_url) = with_shared(|shared| {
        let name = format!("outdial_test_{}", uuid::Uuid::now_v7().simple());
        (shared.servers.admin_url(), (shared.servers.database_url(&name), name))
    })
    .await;
    let (url, name) = new_url;
    let template = TEMPLATE.get_or_init(|| template(admin_url.clone())).await;
    let mut admin = connect(&admin_url).await;
    run(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    Database { url, name, admin_url }
}

/// A database with all migrations applied, on a server of the test's own.
pub async fn database_on(server: &Postgres) -> Database {
    let database = empty_database_on(server).await;
    let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
    store::migrate(&pool).await.unwrap_or_else(|error| panic!("migrations: {error}"));
    pool.close().await;
    database
}

/// The same, without any migration.
pub async fn empty_database_on(server: &Postgres) -> Database {
    let name = format!("outdial_test_{}", uuid::Uuid::now_v7().simple());
    let admin_url = server.url("postgres");
    let mut admin = connect(&admin_url).await;
    run(&mut admin, format!("CREATE DATABASE {name}")).await;
    Database { url: server.url(&name), name, admin_url }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // A thread of its own, because a runtime can't wait within another one.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut admin = connect(&admin_url).await;
                run(&mut admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
            });
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("could not drop {}", self.name);
        }
    }
}

/// The name of a database that holds the migrated schema; made once for each set of migrations.
async fn template(admin_url: String) -> String {
    let name = format!("outdial_schema_{}", store::schema_digest());
    let mut admin = connect(&admin_url).await;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut admin).await.unwrap();
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    if !exists {
        let unfinished = format!("{name}_unfinished");
        run(&mut admin, format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
        run(&mut admin, format!("CREATE DATABASE {unfinished}")).await;
        let options = PgConnectOptions::from_str(&admin_url).unwrap().database(&unfinished);
        let pool = sqlx::PgPool::connect_with(options).await.unwrap();
        store::migrate(&pool).await.unwrap_or_else(|error| panic!("migrations: {error}"));
        pool.close().await;
        run(&mut admin, format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await;
    }
    admin.close().await.unwrap();
    name
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap_or_else(|error| panic!("database server of the tests: {error}"))
}

/// For statements that take no parameters; every name in them is made in this file.
async fn run(connection: &mut PgConnection, statement: String) {
    let done = connection.execute(AssertSqlSafe(statement.clone())).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// An empty virtual host, this test's alone as long as the value or a clone lives.
#[derive(Debug, Clone)]
pub struct Vhost {
    pub url: String,
    _turn: Option<Arc<OwnedMutexGuard<()>>>,
}

impl Vhost {
    /// Of a broker of the test's own.
    pub fn of(server: &Rabbit) -> Self {
        Self { url: server.amqp_url(), _turn: None }
    }

    /// By the address that somebody was given.
    pub fn at(url: String) -> Self {
        Self { url, _turn: None }
    }

    /// One of those besides `/`.
    pub fn nth(server: &Rabbit, nth: usize) -> Self {
        Self { url: server.vhost_url(&format!("v{nth}")), _turn: None }
    }
}

pub async fn vhost() -> Vhost {
    let private = with_shared(|shared| {
        let rabbit = shared.servers.rabbit.as_mut()?;
        if shared.vhosts_given == rabbit.vhosts() {
            rabbit.add_vhosts(VHOSTS).unwrap_or_else(|error| panic!("more virtual hosts: {error}"));
        }
        shared.vhosts_given += 1;
        Some(rabbit.vhost_url(&format!("v{}", shared.vhosts_given - 1)))
    })
    .await;
    match private {
        Some(url) => Vhost { url, _turn: None },
        None => {
            let url = with_shared(|shared| shared.servers.amqp_url()).await;
            given_vhost(url).await
        }
    }
}

/// The one virtual host of a given broker: waits for its turn, then empties it.
pub async fn given_vhost(url: String) -> Vhost {
    static TURN: OnceLock<Arc<tokio::sync::Mutex<()>>> = OnceLock::new();
    let turn = TURN.get_or_init(Arc::default).clone().lock_owned().await;
    empty(&url).await;
    Vhost { url, _turn: Some(Arc::new(turn)) }
}

/// Removes what earlier tests declared; what isn't there is no error in RabbitMQ.
async fn empty(url: &str) {
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    for name in ["outdial.jobs", "outdial.dead", "outdial.events"] {
        channel.queue_delete(name.into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
        channel.exchange_delete(name.into(), lapin::options::ExchangeDeleteOptions::default()).await.unwrap();
    }
    connection.close(200, "done".into()).await.unwrap();
}

/// A PostgreSQL of the test's own, for tests that stop or kill it. Empty: no migrations.
pub async fn own_postgres() -> Postgres {
    own_postgres_with(std::env::temp_dir(), PostgresSetup::default()).await
}

/// The same, in a folder inside this one.
pub async fn own_postgres_with(parent: PathBuf, setup: PostgresSetup) -> Postgres {
    let start = move || Postgres::start_with(&parent, setup);
    tokio::task::spawn_blocking(start).await.unwrap().unwrap_or_else(|error| panic!("{error}"))
}

/// A RabbitMQ of the test's own, for tests that stop, block or kill it. Takes several seconds.
pub async fn own_rabbit() -> Rabbit {
    own_rabbit_with(0).await
}

/// The same, with virtual hosts besides `/`.
pub async fn own_rabbit_with(vhosts: u32) -> Rabbit {
    let start = move || Rabbit::start_with(&std::env::temp_dir(), vhosts);
    tokio::task::spawn_blocking(start).await.unwrap().unwrap_or_else(|error| panic!("{error}"))
}

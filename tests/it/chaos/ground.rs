//! The servers of a run, each a process of its own that can die, and the network between them and each worker.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outdial::local::{Postgres, PostgresSetup, Rabbit};
use outdial::synthflow::sandbox::Fault;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::faults::webhook_faults;
use super::proxy::{Line, Proxy};
use super::routes::Routes;
use super::schedule::{CREW_MAX, Server};
use crate::support::machine::{Disk, FakeClock, Offset};
use crate::support::stage::KEY;
use crate::support::{Database, Outdial, database_on, own_postgres_with, own_rabbit};

const SOON: Duration = Duration::from_secs(60);
/// The shortest that is allowed: what a dead or sleeping worker left is taken over the sooner.
pub const LEASE: &str = "3s";
const QUARANTINE: &str = "5s";
/// Signs the provider's webhooks.
pub const WEBHOOK_SECRET: &str = "sandbox-secret";

pub struct Ground {
    pub db: PgPool,
    database: Database,
    /// `None` only while somebody stops or starts it.
    postgres: Mutex<Option<Postgres>>,
    rabbit: Mutex<Option<Rabbit>>,
    provider: Mutex<Outdial>,
    links: Vec<Links>,
    /// Where the provider sends its webhooks: one of the workers.
    webhooks: Proxy,
    amqp_url: String,
    files: TempDir,
    clock: Option<FakeClock>,
    /// The database's. Dropped after its server.
    disk: Option<Disk>,
}

/// Of one worker.
struct Links {
    database: Proxy,
    broker: Proxy,
    provider: Proxy,
}

impl Links {
    fn to(&self, server: Server) -> &Proxy {
        match server {
            Server::Database => &self.database,
            Server::Broker => &self.broker,
            Server::Provider => &self.provider,
        }
    }
}

impl Ground {
    pub async fn new(routes: &Routes, seed: u64) -> Self {
        let (clock, disk) = (FakeClock::find(), Disk::mount());
        let env = clock.as_ref().map(FakeClock::env).unwrap_or_default();
        let folder = disk.as_ref().map_or_else(std::env::temp_dir, |disk| disk.path().to_owned());
        let setup = PostgresSetup { env, ..PostgresSetup::default() };
        let (postgres, rabbit) = tokio::join!(own_postgres_with(folder, setup), own_rabbit());
        if let Some(clock) = &clock {
            clock.is_of(postgres.pid());
        }
        let database = database_on(&postgres).await;
        let files = tempfile::tempdir().unwrap();
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Nobody listens there until a worker does.
        let webhooks = Proxy::to(local(1)).await.unwrap();
        let url = format!("http://{}/webhooks/synthflow", webhooks.address());
        std::fs::write(files.path().join("sandbox.toml"), routes.sandbox(seed, &url)).unwrap();
        let (provider, address) = start_provider(files.path()).await;
        let mut links = Vec::new();
        for _ in 0..CREW_MAX {
            links.push(Links {
                database: Proxy::to(local(postgres.port())).await.unwrap(),
                broker: Proxy::to(local(rabbit.port())).await.unwrap(),
                provider: Proxy::to(address).await.unwrap(),
            });
        }
        Self {
            db: PgPool::connect(&database.url).await.unwrap(),
            database,
            amqp_url: rabbit.amqp_url(),
            postgres: Mutex::new(Some(postgres)),
            rabbit: Mutex::new(Some(rabbit)),
            provider: Mutex::new(provider),
            links,
            webhooks,
            files,
            clock,
            disk,
        }
    }

    /// The broker's, without a proxy: for those who publish and those who listen.
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    pub fn ledger_file(&self) -> PathBuf {
        self.files.path().join("ledger.ndjson")
    }

    /// Of a worker behind its proxies, or of a command without (`None`).
    pub fn env(&self, worker: Option<usize>, more: &[(String, String)]) -> BTreeMap<String, String> {
        let links = worker.map(|n| &self.links[n]);
        let at = |url: &str, proxy: Option<&Proxy>| {
            proxy.map_or(url.to_owned(), |p| with_port(url, p.address().port()))
        };
        let provider = self.links[worker.unwrap_or(0)].provider.address();
        let mut env: BTreeMap<String, String> = [
            ("DATABASE_URL", at(&self.database.url, links.map(|l| &l.database))),
            ("AMQP_URL", at(&self.amqp_url, links.map(|l| &l.broker))),
            ("SYNTHFLOW_BASE_URL", format!("http://{provider}/v2")),
            ("SYNTHFLOW_API_KEY", KEY.to_owned()),
            ("SYNTHFLOW_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
            ("OUTDIAL__HTTP__LISTEN", "127.0.0.1:0".to_owned()),
            ("OUTDIAL__CALLS__POLL", "500ms".to_owned()),
            ("OUTDIAL__CALLS__READS_PER_SECOND", "200".to_owned()),
            ("OUTDIAL__WORKER__LEASE", LEASE.to_owned()),
            ("OUTDIAL__WORKER__DRAIN", "10s".to_owned()),
            ("OUTDIAL__RECONCILE__QUARANTINE", QUARANTINE.to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(more.iter().cloned());
        env
    }

    /// The server dies, stays away for so long, and comes back with what it had.
    pub async fn down(&self, server: Server, gone: Duration) {
        match server {
            Server::Database => {
                away(&self.postgres, Postgres::stop_at_once, gone, Postgres::resume).await;
                self.note_clock().await;
            }
            Server::Broker => away(&self.rabbit, Rabbit::kill9, gone, Rabbit::resume).await,
            Server::Provider => {
                let mut provider = self.provider.lock().await;
                provider.kill9();
                tokio::time::sleep(gone).await;
                self.revive(&mut provider).await;
            }
        }
    }

    /// The database's clock steps; false: it has none that could.
    pub fn step_clock(&self, by_s: i64) -> bool {
        self.clock.as_ref().map(|clock| clock.step(by_s)).is_some()
    }

    pub fn clock_offsets(&self) -> Vec<Offset> {
        self.clock.as_ref().map(FakeClock::offsets).unwrap_or_default()
    }

    /// Nothing can be written to the database's disk for so long, of which its server may die; false: it has none of its own.
    pub async fn fill_disk(&self, length: Duration) -> bool {
        let Some(disk) = &self.disk else { return false };
        let mut held = self.postgres.lock().await;
        disk.fill();
        tokio::time::sleep(length).await;
        disk.free();
        let mut postgres = held.take().expect("whoever takes it brings it back");
        let tended = move || {
            if postgres.has_ended() {
                postgres.resume().unwrap_or_else(|error| panic!("{error}"));
            }
            postgres
        };
        *held = Some(tokio::task::spawn_blocking(tended).await.unwrap());
        drop(held);
        self.note_clock().await;
        true
    }

    async fn note_clock(&self) {
        if let (Some(clock), Some(postgres)) = (&self.clock, &*self.postgres.lock().await) {
            clock.is_of(postgres.pid());
        }
    }

    /// From now on this worker hears the provider's webhooks.
    pub fn hear(&self, worker: SocketAddr) {
        self.webhooks.move_to(worker);
    }

    /// Starts the provider anew where a fault has ended it; says whether it had.
    pub async fn tend(&self) -> bool {
        let Ok(mut provider) = self.provider.try_lock() else { return false };
        let dead = provider.ended().is_some();
        if dead {
            self.revive(&mut provider).await;
        }
        dead
    }

    async fn revive(&self, provider: &mut Outdial) {
        let address;
        (*provider, address) = start_provider(self.files.path()).await;
        self.links.iter().for_each(|links| links.provider.move_to(address));
    }

    pub fn cut(&self, worker: Option<usize>, server: Server) {
        self.links_of(worker, server).for_each(Proxy::cut);
    }

    pub fn set_line(&self, worker: Option<usize>, server: Server, line: Line) {
        self.links_of(worker, server).for_each(|proxy| proxy.set(line));
    }

    fn links_of(&self, worker: Option<usize>, server: Server) -> impl Iterator<Item = &Proxy> {
        let which = self.links.iter().enumerate().filter(move |(n, _)| worker.is_none_or(|w| w == *n));
        which.map(move |(_, links)| links.to(server))
    }

    /// Besides those of its webhooks. Nothing where the provider is away: it comes back without others.
    pub async fn set_faults(&self, table: &[Fault]) {
        let provider = self.provider.lock().await;
        let address = address_of(&provider).await;
        let body = serde_json::to_string(&[table, &webhook_faults()].concat()).unwrap();
        let request = format!(
            "PUT /sandbox/faults HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let put = async || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        if let Ok(answer) = put().await {
            assert!(answer.starts_with("HTTP/1.0 200") || answer.is_empty(), "{answer}");
        }
    }

    /// Everything is up, and the network and the provider are as they should be.
    pub async fn heal(&self) {
        for server in [Server::Database, Server::Broker, Server::Provider] {
            self.set_line(None, server, Line::default());
        }
        self.tend().await;
        self.set_faults(&[]).await;
    }
}

/// Both steps block their thread.
async fn away<S: Send + 'static>(
    server: &Mutex<Option<S>>,
    stop: fn(&mut S),
    gone: Duration,
    resume: fn(&mut S) -> Result<(), outdial::local::LocalError>,
) {
    let mut held = server.lock().await;
    let mut stopped = held.take().expect("whoever takes it brings it back");
    let stopping = move || {
        stop(&mut stopped);
        stopped
    };
    let mut stopped = tokio::task::spawn_blocking(stopping).await.unwrap();
    tokio::time::sleep(gone).await;
    let resuming = move || {
        resume(&mut stopped).unwrap_or_else(|error| panic!("{error}"));
        stopped
    };
    *held = Some(tokio::task::spawn_blocking(resuming).await.unwrap());
}

async fn start_provider(files: &Path) -> (Outdial, SocketAddr) {
    let file = |name: &str| files.join(name).to_string_lossy().into_owned();
    let (config, ledger) = (file("sandbox.toml"), file("ledger.ndjson"));
    let listen = ["--listen", "127.0.0.1:0"];
    let arguments = [&["sandbox", "--config", &config, "--ledger", &ledger][..], &listen].concat();
    let provider = Outdial::start(&arguments, &[]);
    let address = address_of(&provider).await;
    (provider, address)
}

async fn address_of(provider: &Outdial) -> SocketAddr {
    let line = provider.line(SOON, "SYNTHFLOW_BASE_URL=").await;
    let (_, url) = line.split_once("http://").unwrap();
    url.trim_end_matches("/v2").parse().unwrap()
}

/// The URL with another port.
fn with_port(url: &str, port: u16) -> String {
    let (before, after) = url.split_once("@127.0.0.1:").expect("a private server's URL");
    let path = after.split_once('/').map_or("", |(_, path)| path);
    format!("{before}@127.0.0.1:{port}/{path}")
}

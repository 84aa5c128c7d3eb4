//! The private servers of a run, and queues filled before anybody consumes.

use std::collections::VecDeque;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, PublisherConfirm};
use outdial::clock;
use outdial::local::{Given, PostgresSetup, Servers};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::{profile, usage};

pub const AGENT: &str = "agent-bench";
pub const NUMBERS: usize = 2_000;
/// Of PostgreSQL, for the textbook pipeline as for outdial: what its documentation advises for a machine of its own.
const SETTINGS: [&str; 2] = ["shared_buffers=2GB", "max_wal_size=8GB"];
/// Messages on their way to the broker at a time.
const UNCONFIRMED: usize = 2_000;

#[derive(Debug)]
pub struct Ground {
    pub servers: Servers,
    /// PostgreSQL counts its statements.
    pub profile: bool,
    _folder: tempfile::TempDir,
}

impl Ground {
    /// With fsync, as in production, and room in memory for what is written in a run.
    pub fn start(profile: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("outdial-bench-").tempdir()?;
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o711); // root's servers run as other users
        std::fs::set_permissions(folder.path(), everybody)?;
        let mut settings = SETTINGS.to_vec();
        if profile {
            settings.extend(profile::SETTINGS);
        }
        let setup = PostgresSetup { settings, ..PostgresSetup::default() };
        let servers = Servers::start(Given::default(), folder.path(), setup, 0)?;
        Ok(Self { servers, profile, _folder: folder })
    }

    /// An empty database.
    pub async fn database(&self, name: &str) -> Result<String> {
        let mut admin = PgConnection::connect(&self.servers.admin_url()).await?;
        for statement in [format!("drop database if exists {name}"), format!("create database {name}")] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await?;
        }
        Ok(self.servers.database_url(name))
    }

    pub async fn publisher(&self) -> Result<Publisher> {
        let connection =
            Connection::connect(&self.servers.amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Publisher { connection, channel, unconfirmed: VecDeque::new() })
    }

    /// Fills a quorum queue with these jobs, each to a callee of its own, of so many campaigns; what it held is gone.
    pub async fn fill(&self, queue: &str, jobs: Range<usize>, campaigns: usize) -> Result<()> {
        let mut publisher = self.publisher().await?;
        publisher.empty(queue).await?;
        for n in jobs {
            publisher.publish(queue, &job(n, n % campaigns)).await?;
        }
        publisher.close().await
    }

    /// A queue that hears every event and that nobody reads.
    pub async fn listen(&self) -> Result<()> {
        let connection =
            Connection::connect(&self.servers.amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("bench.events".into(), durable, FieldTable::default()).await?;
        channel
            .queue_bind(
                "bench.events".into(),
                "outdial.events".into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        channel.queue_purge("bench.events".into(), QueuePurgeOptions::default()).await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    }
}

/// A channel with confirms.
#[derive(Debug)]
pub struct Publisher {
    connection: Connection,
    pub channel: Channel,
    unconfirmed: VecDeque<PublisherConfirm>,
}

impl Publisher {
    /// A quorum queue with nothing in it; the worker's own is declared by workers.
    pub async fn empty(&self, queue: &str) -> Result<()> {
        if queue != "outdial.jobs" {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            self.channel.queue_declare(queue.into(), durable, arguments).await?;
        }
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }

    pub async fn publish(&mut self, queue: &str, body: &serde_json::Value) -> Result<()> {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let body = body.to_string();
        let confirm =
            self.channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), persistent).await?;
        self.unconfirmed.push_back(confirm);
        self.confirmed(UNCONFIRMED).await
    }

    /// Until no more than so many wait to be confirmed.
    async fn confirmed(&mut self, left: usize) -> Result<()> {
        while self.unconfirmed.len() > left
            && let Some(confirm) = self.unconfirmed.pop_front()
        {
            ensure!(confirm.await?.is_ack(), "the broker refused a message");
        }
        Ok(())
    }

    pub async fn close(mut self) -> Result<()> {
        self.confirmed(0).await?;
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

pub fn job(n: usize, campaign: usize) -> serde_json::Value {
    json!({
        "job_id": format!("bench-{n}"), "campaign_id": format!("campaign-{campaign}"), "model_id": AGENT,
        "phone": format!("+1{}{:07}", [212, 312, 415, 206][n % 4], 2_000_000 + n), "name": "A Callee",
    })
}

/// A process that is ended with the bench.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub pid: u32,
}

impl Process {
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().context("a program of the bench")?;
        let pid = child.id();
        Ok(Self { child, pid })
    }

    /// This program in another role.
    pub fn role(arguments: &[&str], stdout: Stdio) -> Result<Self> {
        Self::start(Command::new(std::env::current_exe()?).args(arguments).stdout(stdout))
    }

    pub fn stdout(&mut self) -> Result<std::process::ChildStdout> {
        self.child.stdout.take().context("its output is piped")
    }

    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks it to end.
    pub fn terminate(&self) -> Result<()> {
        signal(self.pid, Signal::TERM)
    }

    /// A server and all its processes stand still, or go on.
    pub fn halt_all(root: u32, still: bool) -> Result<()> {
        for pid in usage::family(root)? {
            // One may have ended meanwhile.
            let _ = signal(pid, if still { Signal::STOP } else { Signal::CONT });
        }
        Ok(())
    }

    /// Waits for its own end.
    pub async fn wait(&mut self, limit: Duration) -> Result<()> {
        let end = clock::monotonic() + limit;
        while clock::monotonic() < end {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() {
                    Ok(())
                } else {
                    bail!("a program of the bench failed: {status}")
                };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("a program of the bench has not ended after {limit:?}")
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

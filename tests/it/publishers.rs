//! The publishers of `deploy/publishing`, as a team would copy them: Python with pika and Node with amqplib, through a real
//! broker, up to calls that carry their traces; and what they make of a broker that doesn't keep a message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use outdial::broker::JOBS;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::programs::{Ended, fetched, run, there};
use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, numbers, sandbox_config};
use crate::support::{assert_discreet, busy, posts_by_phone};

const PUBLISHING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/publishing");
const GIVEN_TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Longer than the publishers' own limits of time.
const PUBLISH_MAX: Duration = Duration::from_secs(90);

/// Job id and trace of each line.
fn traces_of(ended: &Ended) -> BTreeMap<&str, &str> {
    ended.out.lines().map(|line| line.split_once(' ').unwrap()).collect()
}

/// A copy of the examples in a folder of its own, with the library that one of them needs.
struct Publisher {
    folder: TempDir,
    program: PathBuf,
    script: &'static str,
}

impl Publisher {
    async fn in_python() -> Option<Self> {
        // Some distributions have Python without what a venv needs.
        let needs = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
        if !there("python3", &["-c", needs], "Python 3.11 or newer with venv and pip").await {
            return None;
        }
        let _cores = busy().await;
        let folder = copied();
        let venv = folder.path().join("venv");
        fetched(Command::new("python3").args(["-m", "venv"]).arg(&venv)).await;
        let mut install = Command::new(venv.join("bin/pip"));
        install.args(["install", "--no-cache-dir", "--disable-pip-version-check", "-r", "requirements.txt"]);
        fetched(install.current_dir(folder.path())).await;
        Some(Self { program: venv.join("bin/python"), folder, script: "publish.py" })
    }

    async fn on_node() -> Option<Self> {
        let needs = "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)";
        let node = there("node", &["-e", needs], "Node 20 or newer").await;
        if !node || !there("npm", &["--version"], "npm").await {
            return None;
        }
        let _cores = busy().await;
        let folder = copied();
        let mut install = Command::new("npm");
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
        install.env("npm_config_cache", folder.path().join("cache"));
        fetched(install.current_dir(folder.path())).await;
        Some(Self { program: "node".into(), folder, script: "publish.mjs" })
    }

    /// Publishes jobs from a file.
    async fn publish(&self, amqp_url: &str, jobs: &[Value]) -> Ended {
        let file = self.file_of(jobs);
        self.run(self.command(amqp_url).arg(file)).await
    }

    /// The same from standard input, as part of a given trace.
    async fn publish_in_trace(&self, amqp_url: &str, jobs: &[Value], traceparent: &str) -> Ended {
        let file = std::fs::File::open(self.file_of(jobs)).unwrap();
        self.run(self.command(amqp_url).stdin(file).env("TRACEPARENT", traceparent)).await
    }

    fn file_of(&self, jobs: &[Value]) -> PathBuf {
        let file = self.folder.path().join("jobs.ndjson");
        let lines: Vec<String> = jobs.iter().map(|job| format!("{job}\n")).collect();
        std::fs::write(&file, lines.concat()).unwrap();
        file
    }

    fn command(&self, amqp_url: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(self.folder.path().join(self.script));
        command.env("AMQP_URL", amqp_url).env_remove("TRACEPARENT");
        command
    }

    async fn run(&self, command: &mut Command) -> Ended {
        run(command, PUBLISH_MAX).await.expect("it was there a moment ago")
    }
}

/// Where the libraries can be put beside them, and are gone with the test.
fn copied() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(PUBLISHING).unwrap() {
        let from = entry.unwrap().path();
        if from.is_file() {
            std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
        }
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_with_pika() {
    if let Some(publisher) = Publisher::in_python().await {
        judge(&publisher).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_amqplib() {
    if let Some(publisher) = Publisher::on_node().await {
        judge(&publisher).await;
    }
}

async fn judge(publisher: &Publisher) {
    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    stage.route("per_second = 50, per_day = 1000", ANY_NUMBER).await;
    let worker = stage.worker(&[]).await;
    // A queue that was just made refuses a message or two; this one is sent until it is taken.
    stage.publish(&[job("first", "spring", "+14155550150")]).await;
    stage.stands("first", "done", None).await;

    each_job_is_called_once_in_its_trace(publisher, &stage).await;
    stage.stopped(worker).await;
    what_is_not_kept_is_told(publisher, &stage).await;
}

async fn each_job_is_called_once_in_its_trace(publisher: &Publisher, stage: &Stage) {
    let before = stage.posts().len();
    let jobs = jobs("spring", 5);
    let told = publisher.publish(&stage.vhost.url, &jobs).await;
    assert!(told.success, "{}{}", told.out, told.err);
    let traces = traces_of(&told);
    assert_eq!(traces.keys().copied().collect::<BTreeSet<_>>(), ids(&jobs));
    let own: BTreeSet<&str> = traces.values().map(|traceparent| trace_id(traceparent)).collect();
    assert_eq!(own.len(), jobs.len(), "a trace is one job's: {}", told.out);
    assert!(traces.values().all(|traceparent| traceparent.ends_with("-01")), "sampled: {}", told.out);
    stage.posted(before + jobs.len(), LONG).await;

    // Once more, and one that is new. There is one worker, and its queue keeps the order: it has seen the others before.
    let last = job("last", "spring", "+14155550151");
    let again = [&jobs[..], std::slice::from_ref(&last)].concat();
    let told_again = publisher.publish_in_trace(&stage.vhost.url, &again, GIVEN_TRACE).await;
    assert!(told_again.success, "{}{}", told_again.out, told_again.err);
    let traces_again = traces_of(&told_again);
    assert_eq!(traces_again.keys().copied().collect::<BTreeSet<_>>(), ids(&again));
    assert!(traces_again.values().all(|traceparent| *traceparent == GIVEN_TRACE), "{}", told_again.out);
    stage.stands("last", "done", None).await;

    let posts = stage.posts();
    assert_eq!(posts.len(), before + again.len(), "nobody is called twice");
    let by_phone = posts_by_phone(&posts);
    for job in &again {
        let id = job["job_id"].as_str().unwrap();
        let [post] = by_phone[job["phone"].as_str().unwrap()][..] else { panic!("{id} was called twice") };
        let sent =
            post.traceparent.as_deref().unwrap_or_else(|| panic!("no trace came with the call of {id}"));
        let first_told = traces.get(id).copied().unwrap_or(GIVEN_TRACE);
        assert_eq!(trace_id(sent), trace_id(first_told), "{id}");
    }
    for told in [&told, &told_again] {
        assert_discreet(&format!("{}{}", told.out, told.err), &posts);
    }
}

/// Nobody consumes any more: the queue goes, comes back with room for one, and then the exchange goes.
async fn what_is_not_kept_is_told(publisher: &Publisher, stage: &Stage) {
    let jobs = jobs("summer", 3);
    let posts = stage.posts();
    let refused = async |confirmed: &[&str], why: &str| {
        let told = publisher.publish(&stage.vhost.url, &jobs).await;
        assert!(!told.success, "{}{}", told.out, told.err);
        assert_eq!(traces_of(&told).into_keys().collect::<Vec<_>>(), confirmed, "{}", told.err);
        let named = format!("summer-{}: not confirmed", confirmed.len());
        assert!(told.err.contains(&named) && told.err.contains(why), "{named}, {why}: {}", told.err);
        assert_discreet(&format!("{}{}", told.out, told.err), &posts);
        told
    };
    let connection = Connection::connect(&stage.vhost.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();

    channel.queue_delete(JOBS.into(), QueueDeleteOptions::default()).await.unwrap();
    refused(&[], "returned by the broker").await;

    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut room_for_one = FieldTable::default();
    room_for_one.insert("x-max-length".into(), AMQPValue::LongInt(1));
    room_for_one.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel.queue_declare(JOBS.into(), durable, room_for_one).await.unwrap();
    let bind = QueueBindOptions::default();
    channel.queue_bind(JOBS.into(), JOBS.into(), "#".into(), bind, FieldTable::default()).await.unwrap();
    let told = refused(&["summer-0"], "refused by the broker").await;
    let kept = channel.basic_get(JOBS.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    let properties = &kept.delivery.properties;
    assert_eq!(kept.delivery.data, jobs[0].to_string().into_bytes(), "as it was written");
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "summer-0");
    let headers = properties.headers().as_ref().unwrap();
    let traceparent = AMQPValue::LongString(traces_of(&told)["summer-0"].into());
    assert_eq!(headers.inner().get("traceparent"), Some(&traceparent));

    channel.exchange_delete(JOBS.into(), ExchangeDeleteOptions::default()).await.unwrap();
    refused(&[], "no exchange 'outdial.jobs'").await;
    connection.close(200, "done".into()).await.unwrap();
    // A broker that isn't there at all.
    let told = publisher.publish("amqp://somebody:hunter2@127.0.0.1:1/v", &jobs).await;
    assert!(!told.success && told.out.is_empty(), "{}{}", told.out, told.err);
    assert!(
        told.err.contains("no connection to the broker") && !told.err.contains("hunter2"),
        "{}",
        told.err
    );
}

fn ids(jobs: &[Value]) -> BTreeSet<&str> {
    jobs.iter().map(|job| job["job_id"].as_str().unwrap()).collect()
}

fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap()
}

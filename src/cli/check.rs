//! `outdial check`: whether a worker would run here, and what an operator had better know. Places no call.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::output::{self, Output};
use super::{Context, Failure};
use crate::broker;
use crate::config::{Account, Config, Needs};
use crate::core::ids::AccountName;
use crate::store::{self, Pool, Purpose, SchemaStatus};
use crate::synthflow::{Client, ClientConfig};

/// The oldest PostgreSQL that the migrations need (`unique nulls not distinct`).
const POSTGRES_MIN: i32 = 150_000;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    /// It runs, but not as well or as safely as it could.
    Warn,
    /// A worker would not run, or dial nothing.
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    grade: Grade,
    subject: String,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// What was found, in the order of looking.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, subject: &str, what: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Ok, subject: subject.to_owned(), what: what.into(), mend: None });
    }

    fn warn(&mut self, subject: &str, what: impl Into<String>, mend: impl Into<String>) {
        self.bad(Grade::Warn, subject, what, mend);
    }

    fn fail(&mut self, subject: &str, what: impl Into<String>, mend: impl Into<String>) {
        self.bad(Grade::Fail, subject, what, mend);
    }

    fn bad(&mut self, grade: Grade, subject: &str, what: impl Into<String>, mend: impl Into<String>) {
        let (subject, what, mend) = (subject.to_owned(), what.into(), Some(mend.into()));
        self.0.push(Finding { grade, subject, what, mend });
    }

    fn failed(&self) -> usize {
        self.0.iter().filter(|finding| finding.grade == Grade::Fail).count()
    }

    fn told(&self) -> String {
        let mut text = String::new();
        for Finding { grade, subject, what, mend } in &self.0 {
            let grade = match grade {
                Grade::Ok => "ok",
                Grade::Warn => "warn",
                Grade::Fail => "FAIL",
            };
            let _ = writeln!(text, "{grade:<5} {subject}: {what}");
            if let Some(mend) = mend {
                let _ = writeln!(text, "      mend: {mend}");
            }
        }
        text
    }
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    // Its faults are all told at once already, and nothing else can be asked without it.
    let config = context.config(Needs::WORKER)?;
    let mut findings = Findings::default();
    findings.ok("configuration", "no fault");
    database(&config, &mut findings).await;
    broker(&config, &mut findings).await;
    for (name, account) in &config.accounts {
        limits(name, account, &mut findings);
        key(name, account, &mut findings).await;
    }
    if args.output.json {
        output::print_json(&findings.0)?;
    } else {
        output::print(&findings.told())?;
    }
    match findings.failed() {
        0 => Ok(()),
        1 => Err(Failure::new("a check failed")),
        n => Err(Failure::new(format!("{n} checks failed"))),
    }
}

async fn database(config: &Config, findings: &mut Findings) {
    let pool = match super::connect(config, Purpose::Command, PATIENCE).await {
        Ok(pool) => pool,
        Err(failure) => {
            return findings.fail("database", failure.what(), failure.mend_or("see DATABASE_URL"));
        }
    };
    match store::schema_status(&pool).await {
        Ok(SchemaStatus::Current) => findings.ok("schema", "up to date"),
        Ok(SchemaStatus::Behind { missing }) => {
            return findings.fail("schema", format!("missing: {}", missing.join(", ")), "outdial migrate");
        }
        Err(error) => {
            return findings.fail(
                "schema",
                error.to_string(),
                "give this user the right to read schema outdial",
            );
        }
    }
    if let Err(error) = server(&pool, findings).await {
        findings.fail(
            "database",
            store::error_text(&error),
            "give this user the right to use schema outdial",
        );
    }
}

async fn server(pool: &Pool, findings: &mut Findings) -> Result<(), store::DatabaseError> {
    let facts = store::server_facts(pool).await?;
    if facts.version_num < POSTGRES_MIN {
        let what = format!("PostgreSQL {} is too old", facts.version);
        findings.fail("database", what, "PostgreSQL 15 or newer");
    } else {
        findings.ok("database", format!("PostgreSQL {}", facts.version));
    }
    if !facts.careless.is_empty() {
        let what = format!("{}: a crash may forget a call that was placed", facts.careless.join(", "));
        findings.warn(
            "durability",
            what,
            "set them on in postgresql.conf; without them a job may be dialed twice",
        );
    }
    if !facts.synchronous_replication {
        findings.warn(
            "replication",
            "commits don't wait for a standby: a failover may forget calls that were placed",
            "set synchronous_standby_names where there is a standby; without one there is nothing to fail over to",
        );
    }
    let grants = store::missing_grants(pool).await?;
    if !grants.is_empty() {
        findings.warn("reporting", "the readers' roles are missing or can't read", grants.join(" "));
    }
    match facts.routing_version {
        0 => findings.warn("routing", "none is applied: jobs wait no_route", "outdial routing apply FILE"),
        version => findings.ok("routing", format!("version {version}")),
    }
    Ok(())
}

/// As the worker does at its start: declares what is missing, unless `amqp.declare` is false.
async fn broker(config: &Config, findings: &mut Findings) {
    let outcome = async {
        let url = config.amqp.url().map_err(|error| error.to_string())?;
        let target = broker::Target::parse(url).map_err(|error| error.to_string())?;
        let prepared = broker::prepare(&target, config.amqp.declare, PATIENCE).await;
        prepared.map(|()| target.to_string()).map_err(|error| error.to_string())
    };
    match outcome.await {
        Ok(target) => findings.ok("broker", format!("{target}, exchanges and queues as they must be")),
        Err(what) => {
            findings.fail("broker", what, "start the broker, or correct AMQP_URL, or do as it says above")
        }
    }
}

fn limits(name: &AccountName, account: &Account, findings: &mut Findings) {
    let subject = format!("account {name}");
    if account.calls_per_second.is_none() && account.concurrent_calls.is_none() {
        findings.warn(
            &subject,
            "no limits are set: it dials until the provider answers 429",
            format!("set accounts.{name}.calls_per_second and concurrent_calls to the account's own"),
        );
    }
    let host = account.base_url.strip_prefix("http://");
    let beyond = |host: &str| {
        !(host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]"))
    };
    if host.is_some_and(beyond) {
        let what = "base_url is http://: the key and the callees' numbers travel readable";
        findings.warn(&subject, what, "https://");
    }
}

async fn key(name: &AccountName, account: &Account, findings: &mut Findings) {
    let subject = format!("account {name}");
    let Some(api_key) = account.api_key.clone() else { return };
    let client = match Client::new(&ClientConfig::new(account.base_url.clone(), api_key)) {
        Ok(client) => client,
        Err(error) => return findings.fail(&subject, error.to_string(), "correct the account's section"),
    };
    match client.probe_key().await {
        Ok(Some(agents)) => {
            findings.ok(&subject, format!("the key works at {}, {agents} agents", account.base_url))
        }
        Ok(None) => findings.ok(&subject, format!("the key works at {}", account.base_url)),
        Err(error) => {
            let mend = format!("correct accounts.{name}.api_key or base_url ({})", account.base_url);
            findings.fail(&subject, error.to_string(), mend);
        }
    }
}

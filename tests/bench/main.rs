//! `make bench`: how fast outdial is beside the textbook pipeline, in one run on one machine, and where the time goes.
//!
//! Every program is a process of its own, so that its processor time can be told apart: PostgreSQL and RabbitMQ (private,
//! with settings that lose nothing), a provider that only answers, the textbook pipeline, outdial itself. The queue is
//! filled before a program starts. Speed is taken from the first POST to the last record that says `placed`.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "programs to measure against, and the tests' own steps of the ledger"
)]

mod ground;
#[expect(dead_code, reason = "the tests call more of the steps")]
#[path = "../it/support/ledger.rs"]
mod ledger;
mod parts;
mod provider;
mod report;
mod subjects;
mod textbook;
mod usage;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use ground::Ground;
use subjects::Subject;

#[derive(Debug, Parser)]
#[command(about = "outdial beside the textbook pipeline, on private servers")]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Jobs for outdial
    #[arg(long, default_value_t = 500_000)]
    jobs: usize,
    /// Jobs for the textbook pipeline, and for each of the parts
    #[arg(long, default_value_t = 50_000)]
    baseline_jobs: usize,
    /// How often the whole is run; the table has median, least and most
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What this program is when it has started itself.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Provider { numbers: usize },
    #[command(hide = true)]
    Textbook { amqp: String, database: String, provider: String, jobs: usize },
    #[command(hide = true)]
    Part { part: parts::Part, amqp: String, database: String, provider: String, jobs: usize },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Every client of ours has it; the bench's own speak without TLS and want it all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    match args.role {
        Some(Role::Provider { numbers }) => return provider::serve(numbers).await,
        Some(Role::Textbook { amqp, database, provider, jobs }) => {
            return textbook::run(&amqp, &database, &provider, jobs).await;
        }
        Some(Role::Part { part, amqp, database, provider, jobs }) => {
            println!("{}", parts::run(part, &amqp, &database, &provider, jobs).await?);
            return Ok(());
        }
        None => {}
    }
    let mut runs = Vec::new();
    for run in 1..=args.runs {
        println!("run {run} of {}: servers start", args.runs);
        let ground = tokio::task::spawn_blocking(Ground::start).await??;
        let outcome = one_run(&ground, &args).await;
        tokio::task::spawn_blocking(move || drop(ground)).await?;
        runs.push(outcome?);
    }
    println!("\n{}", report::table(&runs));
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report::json(&runs))?)?;
    }
    Ok(())
}

async fn one_run(ground: &Ground, args: &Args) -> anyhow::Result<report::Run> {
    let mut run = report::Run::default();
    for &subject in Subject::ALL {
        let jobs = if subject == Subject::Textbook { args.baseline_jobs } else { args.jobs };
        let measured = subjects::measure(ground, subject, jobs).await?;
        println!("{subject:?}: {measured}");
        run.subjects.insert(subject, measured);
    }
    for &part in parts::Part::ALL {
        let rate = subjects::part(ground, part, args.baseline_jobs).await?;
        println!("{part:?} alone: {rate:.0}/s");
        run.parts.insert(part, rate);
    }
    Ok(run)
}

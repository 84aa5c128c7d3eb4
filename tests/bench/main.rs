//! `make bench`: how fast outdial is beside the textbook pipeline, in one run on one machine, and where the time goes; how
//! long a job takes; what grows with size; what several workers make of limits; and what becomes of the flow when others stall.
//!
//! Every program is a process of its own, so that its processor time can be told apart: PostgreSQL and RabbitMQ (private,
//! with settings that lose nothing), a provider that only answers, the textbook pipeline, outdial itself.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "programs to measure against, and the tests' own steps of the ledger"
)]

mod choice;
mod flat;
mod ground;
mod latency;
#[expect(dead_code, reason = "the tests call more of the steps")]
#[path = "../it/support/ledger.rs"]
mod ledger;
mod limits;
mod parts;
mod pressure;
mod profile;
mod provider;
mod report;
mod speed;
mod stage;
mod textbook;
mod usage;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use ground::Ground;
use report::Findings;

#[derive(Debug, Parser)]
#[command(about = "outdial beside the textbook pipeline, on private servers")]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_value = "speed")]
    what: Vec<What>,
    /// Jobs for outdial
    #[arg(long, default_value_t = 500_000)]
    jobs: usize,
    /// Jobs for the textbook pipeline, for each of the parts, and for outdial beside itself
    #[arg(long, default_value_t = 50_000)]
    baseline_jobs: usize,
    /// The sizes of `flat` in percent: 100 is ten million records
    #[arg(long, default_value_t = 100)]
    percent: u64,
    /// How often the whole is run; the table has median, least and most
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Print where PostgreSQL's time goes; the rates are worth nothing then
    #[arg(long)]
    profile: bool,
    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Jobs a second beside the textbook pipeline, and the parts alone
    Speed,
    /// From publish to POST at 100 jobs a second, beside what can't be avoided
    Latency,
    /// Choosing a number, alone
    Choice,
    /// Jobs a second with much of everything, beside little; what dashboards ask
    Flat,
    /// What several workers make of limits, and of each other
    Limits,
    /// Slow and busy provider, a database that stalls
    Pressure,
}

/// What this program is when it has started itself.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Provider {
        numbers: usize,
        #[arg(long)]
        watch: bool,
    },
    #[command(hide = true)]
    Textbook { amqp: String, database: String, provider: String, jobs: usize },
    #[command(hide = true)]
    Part { part: parts::Part, amqp: String, database: String, provider: String, jobs: usize },
}

#[tokio::main]
async fn main() -> Result<()> {
    // Every client of ours has it; the bench's own speak without TLS and want it all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    match args.role {
        Some(Role::Provider { numbers, watch }) => return provider::serve(numbers, watch).await,
        Some(Role::Textbook { amqp, database, provider, jobs }) => {
            return textbook::run(&amqp, &database, &provider, jobs).await;
        }
        Some(Role::Part { part, amqp, database, provider, jobs }) => {
            println!("{}", parts::run(part, &amqp, &database, &provider, jobs).await?);
            return Ok(());
        }
        None => {}
    }
    for &what in &args.what {
        let mut runs = Vec::new();
        for run in 1..=args.runs {
            println!("{what:?}, run {run} of {}", args.runs);
            let profile = args.profile;
            let ground = tokio::task::spawn_blocking(move || Ground::start(profile)).await??;
            let outcome = measure(&ground, what, &args).await;
            tokio::task::spawn_blocking(move || drop(ground)).await?;
            runs.push(outcome?);
            println!("\n{what:?}\n{}", report::table(&runs));
            let Some(path) = &args.json else { continue };
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let path = if args.what.len() == 1 {
                path.clone()
            } else {
                path.with_file_name(format!("{stem}-{what:?}.json").to_lowercase())
            };
            std::fs::write(path, serde_json::to_string_pretty(&report::json(&runs))?)?;
        }
    }
    Ok(())
}

async fn measure(ground: &Ground, what: What, args: &Args) -> Result<Findings> {
    match what {
        What::Speed => speed::findings(ground, args.jobs, args.baseline_jobs).await,
        What::Latency => latency::findings(ground).await,
        What::Choice => choice::findings(),
        What::Flat => flat::findings(ground, args.baseline_jobs, args.percent).await,
        What::Limits => limits::findings(ground, args.baseline_jobs).await,
        What::Pressure => pressure::findings(ground).await,
    }
}

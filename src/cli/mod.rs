//! The command line: one file a command.
//!
//! A command is an `Args` struct for clap and `pub async fn run(args, &Context) -> Result<(), Failure>`; it gets a
//! variant of [`Command`] and a line in [`dispatch`].

mod account;
mod campaign;
mod check;
mod completions;
mod dead;
mod demo;
mod failure;
mod forget;
mod job;
mod kill_switch;
mod migrate;
mod number;
pub mod output;
mod pool;
mod progress;
mod publish;
mod review;
mod routing;
mod sandbox;
mod schema;
mod suppress;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use std::time::Duration;

use clap::{Parser, Subcommand};

pub use failure::Failure;

use crate::clock;
use crate::config::{Config, Needs, Sources};
use crate::core::job::JobOptions;
use crate::engine::explained::Explainer;
use crate::engine::ledger::LedgerError;
use crate::store::{self, Pool, Purpose, SchemaStatus};
use crate::telemetry;

/// Takes call jobs from RabbitMQ, chooses caller IDs by rules in PostgreSQL and places the calls at Synthflow.
#[derive(Debug, Parser)]
#[command(name = "outdial", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Configuration file [default: config/outdial.toml, where it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the configuration; may be repeated
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List, pause and resume accounts at the provider
    Account(account::Args),
    /// List, pause, resume and cancel campaigns
    Campaign(campaign::Args),
    /// Tell whether a worker would run here: configuration, database, broker, keys
    Check(check::Args),
    /// Print what a shell needs to complete the command line
    Completions(completions::Args),
    /// Look through what could not be a job, and replay it
    Dead(dead::Args),
    /// Erase what is kept of a callee; keys and suppressions stay
    Forget(forget::Args),
    /// Show a job's whole story, or cancel it
    Job(job::Args),
    /// Show the main job on this machine: two workers, 2,000 jobs, a stand-in for Synthflow, and a check of the result
    Demo(demo::Args),
    /// Stop every call of every account at once, or let them go on
    KillSwitch(kill_switch::Args),
    /// List numbers and what is used of their limits, rest and activate them
    Number(number::Args),
    /// Bring the database's schema up to this version
    Migrate(migrate::Args),
    /// Publish call jobs from a file, each confirmed; a second run makes no job twice
    Publish(publish::Args),
    /// Decide on calls of which nobody could find out whether they were placed
    Review(review::Args),
    /// Put routing rules into use, compare, export and roll back
    Routing(routing::Args),
    /// Keep the list of phones that must not be called: add, remove, import, list
    Suppress(suppress::Args),
    /// Consume jobs, choose caller IDs, place calls, until stopped
    Worker(worker::Args),
    /// Show, read, attach and detach the numbers that an agent calls from
    Pool(pool::Args),
    /// Run a stand-in for Synthflow on loopback, which keeps a ledger of every POST it receives
    Sandbox(sandbox::Args),
    /// Print what publishers may send, as JSON Schema
    Schema(schema::Args),
}

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    sources: Sources,
}

impl Context {
    /// Reads the configuration, all of it, demands what the command needs, and starts the log.
    pub fn config(&self, needs: Needs) -> Result<Config, Failure> {
        let config = Config::load(&self.sources, needs)?;
        telemetry::init(&config.log);
        Ok(config)
    }

    /// The configuration, and a connection to the database whose schema this program fits: what most commands need.
    pub async fn ledger(&self, needs: Needs) -> Result<(Config, Pool), Failure> {
        let config = self.config(needs)?;
        let pool = connect(&config, Purpose::Command, store::PATIENCE_OF_COMMANDS).await?;
        demand_schema(&pool, Duration::ZERO).await?;
        Ok((config, pool))
    }
}

/// Between two tries of a step that the database didn't answer.
const INSIST: Duration = Duration::from_millis(500);

/// Connects as `config` says, waiting for the database for `patience`.
pub async fn connect(config: &Config, purpose: Purpose, patience: Duration) -> Result<Pool, Failure> {
    Ok(store::connect(config.database.url()?, purpose, config.database.connections_max, patience).await?)
}

/// Explains jobs as a worker of this configuration sees them.
pub fn explainer(config: &Config) -> Explainer {
    Explainer {
        accounts: config.accounts.keys().cloned().collect(),
        pool_max_age: config.pool.max_age,
        slack: config.limits.slack,
        options: job_options(config),
    }
}

/// How jobs are read.
pub fn job_options(config: &Config) -> JobOptions {
    JobOptions { unknown_fields: config.intake.unknown_fields, phone_check: config.intake.phone_check }
}

/// Takes a step again while the database doesn't answer, for `patience`: it may go away right after the first connection.
pub async fn insist<T, F: Future<Output = Result<T, LedgerError>>>(
    patience: Duration,
    step: impl Fn() -> F,
) -> Result<T, Failure> {
    let started = clock::monotonic();
    loop {
        match step().await {
            Err(LedgerError::Unavailable(why)) if started.elapsed() < patience => {
                tracing::warn!(error = why, "waiting for the database");
                tokio::time::sleep(INSIST).await;
            }
            answer => return answer.map_err(Failure::new),
        }
    }
}

/// Nothing but `migrate` touches the schema; the others say so.
pub async fn demand_schema(pool: &Pool, patience: Duration) -> Result<(), Failure> {
    match insist(patience, || store::schema_status(pool)).await? {
        SchemaStatus::Current => Ok(()),
        SchemaStatus::Behind { missing } => {
            let what =
                format!("the database's schema is older than this program: {} missing", missing.join(", "));
            Err(Failure::new(what).mend("outdial migrate"))
        }
    }
}

async fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Account(args) => account::run(args, context).await,
        Command::Campaign(args) => campaign::run(args, context).await,
        Command::Check(args) => check::run(args, context).await,
        Command::Dead(args) => dead::run(args, context).await,
        Command::Publish(args) => publish::run(args, context).await,
        Command::Completions(args) => completions::run(args, context).await,
        Command::Schema(args) => schema::run(args, context).await,
        Command::Forget(args) => forget::run(args, context).await,
        Command::Job(args) => job::run(args, context).await,
        Command::Demo(args) => demo::run(args, context).await,
        Command::KillSwitch(args) => kill_switch::run(args, context).await,
        Command::Number(args) => number::run(args, context).await,
        Command::Migrate(args) => migrate::run(args, context).await,
        Command::Review(args) => review::run(args, context).await,
        Command::Routing(args) => routing::run(args, context).await,
        Command::Suppress(args) => suppress::run(args, context).await,
        Command::Worker(args) => worker::run(args, context).await,
        Command::Pool(args) => pool::run(args, context).await,
        Command::Sandbox(args) => sandbox::run(args, context).await,
    }
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    // Prints usage, help and version itself, and exits: 2 for wrong usage.
    let cli = Cli::parse();
    let context = Context { sources: Sources::of_process(cli.global.config, cli.global.set) };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime can't start: {error}")))
        .and_then(|runtime| runtime.block_on(dispatch(cli.command, &context)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write SECTION.KEY=VALUE, such as calls.poll=2s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

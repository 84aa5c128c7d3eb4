//! `outdial check`: whether a worker would run here, and what an operator had better know. Places no call, and changes
//! nothing anywhere.
//!
//! Each file of `check/` looks at one thing: `look` gathers values, the functions beside it judge them.

mod accounts;
mod database;
mod files;
mod finding;
mod pools;
mod topology;

use std::time::Duration;

use super::output::{self, Output};
use super::{Context, Failure};
use crate::config::Needs;
use crate::store::{self, DatabaseError};

/// For the database to take a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one answer, or the few that belong together.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    // Its faults are all told at once already, and nothing else can be asked without it.
    let config = context.config(Needs::WORKER)?;
    let mut findings = files::judge(&files::look(&context.sources));
    let (told, pool) = database::look(&config).await;
    findings.extend(told);
    findings.extend(topology::look(&config).await);
    let (told, reachable) = accounts::look(&config).await;
    findings.extend(told);
    if let Some(pool) = &pool {
        findings.extend(pools::look(&config, pool, &reachable).await);
    }
    if args.output.json {
        output::print_json(&findings)?;
    } else {
        output::print(&finding::told(&findings))?;
    }
    match finding::problems(&findings) {
        0 => Ok(()),
        1 => Err(Failure::new("a check failed")),
        n => Err(Failure::new(format!("{n} checks failed"))),
    }
}

/// What the database answers, or in words why not.
async fn answer<T>(asked: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, String> {
    in_time(asked).await?.map_err(|error| store::error_text(&error))
}

async fn in_time<T>(asked: impl Future<Output = T>) -> Result<T, String> {
    let no_answer = |_| format!("no answer within {}", humantime::format_duration(ANSWER_MAX));
    tokio::time::timeout(ANSWER_MAX, asked).await.map_err(no_answer)
}

//! `outdial schema`: what publishers may send, for programs.

use clap::Subcommand;

use super::{Context, Failure, output};
use crate::core::job::job_schema;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A call job, as JSON Schema 2020-12
    Job,
}

pub async fn run(args: Args, _: &Context) -> Result<(), Failure> {
    match args.what {
        What::Job => output::print_json(&job_schema()),
    }
}

//! `outdial routing explain`: what would become of a job now.

use super::super::output::{self, Output};
use super::super::{Context, Failure, explainer};
use super::read_file;
use crate::config::Needs;
use crate::core::job::BODY_BYTES_MAX;
use crate::engine::explained::ExplainError;
use crate::store::Ledger;

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The job as a publisher would send it, JSON; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    job: String,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(asked: Explain, context: &Context) -> Result<(), Failure> {
    let body = read_file(&asked.job, BODY_BYTES_MAX)?;
    let (config, pool) = context.ledger(Needs::DATABASE).await?;
    let ledger = Ledger::onlooker(pool);
    let explanation =
        explainer(&config).explain(&ledger, &body, rand::random()).await.map_err(|error| match error {
            ExplainError::NoJob(_) => Failure::new(error).at(&asked.job),
            ExplainError::Ledger(error) => Failure::new(error),
        })?;
    if asked.output.json {
        return output::print_json(&explanation);
    }
    output::print(&explanation.to_string())
}

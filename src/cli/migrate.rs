//! `outdial migrate`: brings the database's schema up to this version. The only thing that does.

use super::{Context, Failure, connect, output};
use crate::config::Needs;
use crate::store::{self, Purpose};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args, context: &Context) -> Result<(), Failure> {
    let config = context.config(Needs::DATABASE)?;
    let pool = connect(&config, Purpose::Command, store::PATIENCE_AT_START).await?;
    let applied = store::migrate(&pool).await.map_err(|error| {
        Failure::new(format!("the schema can't be brought up to date: {error}"))
            .mend("the step that failed left nothing behind; correct the cause and run it again")
    })?;
    let mut text: String = applied.iter().map(|step| format!("applied {step}\n")).collect();
    if applied.is_empty() {
        text.push_str("the schema is up to date\n");
    }
    let missing = store::missing_grants(&pool).await?;
    if !missing.is_empty() {
        text.push_str("\nthis user may not make the readers' roles; somebody who may has to run:\n");
        missing.iter().for_each(|statement| text.push_str(&format!("  {statement}\n")));
    }
    output::print(&text)
}

//! `outdial number`: list.

use clap::Subcommand;
use serde_json::Value;

use super::output::{self, Output, Table, cell};
use super::{Context, Failure};
use crate::config::Needs;
use crate::store::reporting;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every number: state, what is used of each limit, agents it is attached to
    List(Output),
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let Action::List(output) = args.action;
    let (_, pool) = context.ledger(Needs::DATABASE).await?;
    let numbers = reporting::numbers(&pool).await?;
    if output.json {
        return output::print_json(&numbers);
    }
    let windows = ["second", "minute", "hour", "day", "concurrent"];
    let headings = ["number", "state", "brand", "region", "agents"].into_iter().chain(windows);
    let mut table = Table::new(&headings.chain(["last_call_at"]).collect::<Vec<_>>());
    for number in &numbers {
        let first = ["number", "state", "brand", "region"].map(|column| cell(&number[column]));
        let agents = number["agents"].as_array().map_or(0, Vec::len).to_string();
        let used = windows.map(|window| used_of(number, window));
        table.row(first.into_iter().chain([agents]).chain(used).chain([cell(&number["last_call_at"])]));
    }
    output::print(&table.render())
}

/// `3/60`; without a limit `3`.
fn used_of(number: &Value, window: &str) -> String {
    let used = cell(&number[format!("used_{window}")]);
    match &number[format!("limit_{window}")] {
        Value::Null => used,
        limit => format!("{used}/{limit}"),
    }
}

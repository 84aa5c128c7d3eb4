//! `outdial number`: list, rest, activate.

use clap::Subcommand;
use serde_json::Value;

use super::output::{self, Output, Table, cell};
use super::{Context, Failure};
use crate::config::{Config, Needs};
use crate::core::phone::{self, E164, PhoneCheck};
use crate::store::stops::{self, NumberTo};
use crate::store::{Pool, reporting};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every number: state, what is used of each limit, agents it is attached to
    List(Output),
    /// Call from it no more; its jobs take others, or wait
    Rest(One),
    /// Call from it again, whatever state it was in
    Activate(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// In E.164: +16286666348
    #[arg(value_name = "NUMBER", value_parser = number)]
    number: E164,
    /// Why; shown in lists and events
    #[arg(long)]
    reason: Option<String>,
}

fn number(text: &str) -> Result<E164, String> {
    phone::parse(text, PhoneCheck::Possible).map(|phone| phone.number).map_err(|fault| fault.to_string())
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (config, pool) = context.ledger(Needs::DATABASE).await?;
    match args.action {
        Action::List(output) => list(&pool, output).await,
        Action::Rest(one) => set(&config, &pool, &one, NumberTo::Resting).await,
        Action::Activate(one) => set(&config, &pool, &one, NumberTo::Active).await,
    }
}

async fn set(config: &Config, pool: &Pool, one: &One, to: NumberTo) -> Result<(), Failure> {
    let number = &one.number;
    match stops::set_number(pool, number, to, one.reason.as_deref(), config.events).await? {
        None => Err(Failure::new(format!("nobody knows the number {}", number.as_str()))
            .mend("outdial number list; it has to be in an agent's pool, or in the routing file")),
        Some(was) if was == to.as_str() => output::print(&format!("{} is {was} already\n", number.as_str())),
        Some(was) => output::print(&format!("{} is {} now (was {was})\n", number.as_str(), to.as_str())),
    }
}

async fn list(pool: &Pool, output: Output) -> Result<(), Failure> {
    let numbers = reporting::numbers(pool).await?;
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

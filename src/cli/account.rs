//! `outdial account`: list, pause, resume.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{self, Output, Table, cell};
use super::{Context, Failure};
use crate::config::{Config, Needs};
use crate::core::ids::AccountName;
use crate::store::stops::{self, AccountTo};
use crate::store::{Pool, reporting};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every account: state, limits, calls at once, agents
    List(Output),
    /// Stop placing calls with it; its jobs wait
    Pause(One),
    /// Go on with a paused account
    Resume(One),
}

#[derive(Debug, clap::Args)]
struct One {
    #[arg(value_name = "NAME", value_parser = |text: &str| AccountName::parse(text))]
    account: AccountName,
    /// Why; shown in lists and events
    #[arg(long)]
    reason: Option<String>,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (config, pool) = context.ledger(Needs::DATABASE).await?;
    match args.action {
        Action::List(output) => list(&config, &pool, output).await,
        Action::Pause(one) => set(&config, &pool, &one, AccountTo::Paused).await,
        Action::Resume(one) => set(&config, &pool, &one, AccountTo::Active).await,
    }
}

/// What the ledger knows, and accounts of the configuration that no worker has used yet.
async fn all(config: &Config, pool: &Pool) -> Result<Vec<Value>, Failure> {
    let mut accounts: BTreeMap<String, Value> = BTreeMap::new();
    for account in reporting::accounts(pool).await? {
        accounts.insert(cell(&account["account"]), account);
    }
    for (name, account) in &config.accounts {
        let unused = || {
            json!({ "account": name.as_str(), "state": "active", "in_use": 0, "agents": [],
                "calls_per_second": account.calls_per_second, "concurrent_calls": account.concurrent_calls })
        };
        accounts.entry(name.to_string()).or_insert_with(unused)["base_url"] = json!(account.base_url);
    }
    Ok(accounts.into_values().collect())
}

async fn list(config: &Config, pool: &Pool, output: Output) -> Result<(), Failure> {
    let accounts = all(config, pool).await?;
    if output.json {
        return output::print_json(&accounts);
    }
    let columns = [
        "account",
        "state",
        "reason",
        "calls_per_second",
        "concurrent_calls",
        "in_use",
        "backoff_until",
        "breaker_until",
        "agents",
        "base_url",
    ];
    let mut table = Table::new(&columns);
    for account in &accounts {
        table.row(columns.map(|column| cell(&account[column])));
    }
    output::print(&table.render())
}

async fn set(config: &Config, pool: &Pool, one: &One, to: AccountTo) -> Result<(), Failure> {
    let account = &one.account;
    let mut known = reporting::accounts(pool).await?.into_iter().map(|known| cell(&known["account"]));
    if !config.accounts.contains_key(account) && !known.any(|known| known == account.as_str()) {
        return Err(Failure::new(format!("there is no account {account}"))
            .mend("outdial account list; accounts stand in the configuration as [accounts.NAME]"));
    }
    let was = stops::set_account(pool, account, to, one.reason.as_deref(), config.events).await?;
    if was == to.as_str() {
        return output::print(&format!("{account} is {was} already\n"));
    }
    output::print(&format!("{account} is {} now (was {was})\n", to.as_str()))
}

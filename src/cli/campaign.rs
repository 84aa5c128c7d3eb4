//! `outdial campaign`: list, pause, resume, cancel.

use clap::Subcommand;
use serde_json::Value;

use super::output::{self, Output, Table, cell};
use super::{Context, Failure};
use crate::config::Needs;
use crate::core::events::EventTypes;
use crate::core::ids::{CampaignId, JobNo};
use crate::store::stops::{self, CampaignTo};
use crate::store::{Pool, reporting};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every campaign: state, jobs by state, pace, expected finish
    List(Output),
    /// Stop placing its calls; its jobs wait
    Pause(One),
    /// Go on with a paused campaign
    Resume(One),
    /// Cancel it for good: its waiting jobs, and those that are still to come; calls under way go on
    Cancel(One),
}

#[derive(Debug, clap::Args)]
struct One {
    #[arg(value_name = "CAMPAIGN_ID", value_parser = |text: &str| CampaignId::parse(text))]
    campaign: CampaignId,
    /// Why; shown in lists and events
    #[arg(long)]
    reason: Option<String>,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (config, pool) = context.ledger(Needs::DATABASE).await?;
    match args.action {
        Action::List(output) => list(&pool, output).await,
        Action::Pause(one) => set(&pool, &one, CampaignTo::Paused, config.events).await,
        Action::Resume(one) => set(&pool, &one, CampaignTo::Active, config.events).await,
        Action::Cancel(one) => {
            set(&pool, &one, CampaignTo::Canceled, config.events).await?;
            cancel_jobs(&pool, &one.campaign, config.events).await
        }
    }
}

async fn list(pool: &Pool, output: Output) -> Result<(), Failure> {
    let campaigns = reporting::campaigns(pool).await?;
    if output.json {
        return output::print_json(&campaigns);
    }
    let columns = [
        "campaign_id",
        "brand",
        "state",
        "waiting",
        "dialing",
        "placed",
        "done",
        "refused",
        "expired",
        "canceled",
        "answered",
        "placed_last_hour",
        "expected_finish_at",
    ];
    let mut table = Table::new(&columns);
    for campaign in &campaigns {
        table.row(columns.map(|column| cell(&campaign[column])));
    }
    output::print(&table.render())?;
    waiting(pool).await
}

/// Why jobs wait, below the list.
async fn waiting(pool: &Pool) -> Result<(), Failure> {
    let waiting: Vec<Value> = reporting::waiting(pool, None).await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let columns = ["campaign_id", "reason", "jobs", "oldest_received_at", "next_due_at"];
    let mut table = Table::new(&columns);
    for row in &waiting {
        table.row(columns.map(|column| cell(&row[column])));
    }
    output::print(&format!("\n{}", table.render()))
}

async fn set(pool: &Pool, one: &One, to: CampaignTo, events: EventTypes) -> Result<(), Failure> {
    let campaign = &one.campaign;
    match stops::set_campaign(pool, campaign, to, one.reason.as_deref(), events).await? {
        None => Err(Failure::new(format!("there is no campaign {campaign}"))
            .mend("outdial campaign list; a campaign is there from its first job or routing entry on")),
        Some(was) if was == to.as_str() => output::print(&format!("{campaign} is {was} already\n")),
        // Its waiting jobs are over: going on would only look as if they were back.
        Some(was) if was == CampaignTo::Canceled.as_str() => Err(Failure::new(format!(
            "{campaign} is canceled, and stays so: its waiting jobs were canceled with it"
        ))
        .mend("publish what is still to be called under another campaign_id, with new job ids")),
        Some(was) => output::print(&format!("{campaign} is {} now (was {was})\n", to.as_str())),
    }
}

async fn cancel_jobs(pool: &Pool, campaign: &CampaignId, events: EventTypes) -> Result<(), Failure> {
    let mut canceled = 0;
    let mut after = JobNo(0);
    loop {
        let (some, last) = stops::cancel_some_of(pool, campaign, after, events).await?;
        canceled += some;
        match last {
            Some(last) => after = last,
            None => return output::print(&format!("{canceled} waiting jobs canceled\n")),
        }
    }
}

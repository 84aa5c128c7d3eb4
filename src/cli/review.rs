//! `outdial review`: calls of which nobody could find out whether they were placed, and what a person says of them.

use clap::{Subcommand, ValueEnum};

use super::output::{self, Output, Table, cell};
use super::{Context, Failure};
use crate::config::Needs;
use crate::core::ids::{AttemptId, CallId, CampaignId};
use crate::store::pages;
use crate::store::reconcile::{self, Resolution, Reviewed};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What waits for a person's word, with the evidence there is
    List {
        /// Only of this campaign
        #[arg(long, value_name = "CAMPAIGN_ID", value_parser = |text: &str| CampaignId::parse(text))]
        campaign: Option<CampaignId>,
        /// At most so many, oldest first
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Say what became of one, or of all of a campaign
    Resolve(Resolve),
}

#[derive(Debug, clap::Args)]
struct Resolve {
    /// As listed
    #[arg(value_name = "ATTEMPT_ID", value_parser = attempt, required_unless_present = "campaign", conflicts_with = "campaign")]
    attempt: Option<AttemptId>,
    /// All of this campaign that are in review
    #[arg(long, value_name = "CAMPAIGN_ID", value_parser = |text: &str| CampaignId::parse(text))]
    campaign: Option<CampaignId>,
    /// What became of the call
    #[arg(long)]
    outcome: Outcome,
    /// The provider's id of the call, where it was placed: its end is then learned
    #[arg(long, value_name = "CALL_ID", value_parser = |text: &str| CallId::parse(text), conflicts_with = "campaign")]
    call_id: Option<CallId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Outcome {
    /// It was placed
    Placed,
    /// It was not: the job is dialed again
    #[value(name = "not_placed")]
    NotPlaced,
    /// Nobody will know: the job is done
    Closed,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (config, pool) = context.ledger(Needs::DATABASE).await?;
    match args.action {
        Action::List { campaign, limit, output } => {
            let from = pages::From { after: None, limit, scanned_max: pages::SCANNED_MAX };
            list(&pages::review(&pool, campaign.as_ref(), from).await?.rows, output)
        }
        Action::Resolve(resolve) => {
            let (which, resolution) = resolve.meant()?;
            let mut resolved = 0;
            // What comes into review meanwhile nobody has looked at.
            let until = reconcile::now(&pool).await?;
            loop {
                match reconcile::resolve_some(&pool, &which, &resolution, until, config.events).await? {
                    0 => break,
                    some => resolved += some,
                }
            }
            if resolved == 0 {
                return Err(Failure::new("nothing of that is in review").mend("outdial review list"));
            }
            output::print(&format!("{resolved} resolved\n"))
        }
    }
}

fn list(rows: &[serde_json::Value], output: Output) -> Result<(), Failure> {
    if output.json {
        return output::print_json(&rows);
    }
    if rows.is_empty() {
        return output::print("nothing is in review\n");
    }
    let columns = [
        "attempt_id",
        "job_id",
        "campaign_id",
        "phone",
        "from_phone_number",
        "submitted_at",
        "provider_error",
        "looks",
        "not_found_until",
    ];
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(columns.map(|column| cell(&row[column])));
    }
    output::print(&table.render())
}

impl Resolve {
    fn meant(self) -> Result<(Reviewed, Resolution), Failure> {
        let resolution = match (self.outcome, self.call_id) {
            (Outcome::Placed, call_id) => Resolution::Placed { call_id },
            (_, Some(_)) => {
                return Err(Failure::usage("--call-id goes with --outcome placed only"));
            }
            (Outcome::NotPlaced, None) => Resolution::NotPlaced,
            (Outcome::Closed, None) => Resolution::Closed,
        };
        let which = match (self.attempt, self.campaign) {
            (Some(attempt), _) => Reviewed::Attempt(attempt),
            (None, Some(campaign)) => Reviewed::Campaign(campaign),
            (None, None) => return Err(Failure::usage("name an ATTEMPT_ID or a --campaign")),
        };
        Ok((which, resolution))
    }
}

fn attempt(text: &str) -> Result<AttemptId, String> {
    uuid::Uuid::parse_str(text)
        .map(AttemptId)
        .map_err(|_| "an attempt's id is a UUID, as review list shows it".to_owned())
}

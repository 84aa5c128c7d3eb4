//! `outdial dead`: what could not be a job, looked through and replayed.

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{self, Output, Table, cell};
use super::progress::Progress;
use super::{Context, Failure};
use crate::broker::{self, BrokerError, DeadMessage, DeadQueue, Target};
use crate::config::Needs;
use crate::core::job::DeadReason;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the oldest messages; they stay where they are
    List {
        /// How many at most
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Publish messages to outdial.jobs again, the oldest first; each leaves the dead queue when that is confirmed
    Replay {
        /// Only those with this reason
        #[arg(long, value_parser = reason)]
        reason: Option<DeadReason>,
        /// How many at most
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true, value_name = "N")]
        limit: usize,
    },
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let config = context.config(Needs::BROKER)?;
    let target = Target::parse(config.amqp.url()?).map_err(Failure::new)?;
    let queue = DeadQueue::open(&target).await.map_err(Failure::new)?;
    let outcome = match args.action {
        Action::List { limit, output } => list(&queue, limit, output).await,
        Action::Replay { reason, limit } => replay(&queue, reason, limit).await,
    };
    queue.close().await;
    outcome
}

async fn list(queue: &DeadQueue, limit: usize, output: Output) -> Result<(), Failure> {
    let messages = queue.list(limit).await.map_err(failure)?;
    if output.json {
        return output::print_json(&messages.iter().map(as_json).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["reason", "job", "detail"]);
    for message in &messages {
        table.row([
            message.why.reason.to_string(),
            job_id(message).unwrap_or_default(),
            cell(&Value::from(message.why.detail.as_str())),
        ]);
    }
    output::print(&table.render())
}

async fn replay(queue: &DeadQueue, reason: Option<DeadReason>, limit: usize) -> Result<(), Failure> {
    let mut progress = Progress::new(0);
    let outcome = queue
        .replay(reason, limit, |so_far| {
            progress
                .at(so_far.replayed as u64, || format!("{} replayed, {} left", so_far.replayed, so_far.left));
        })
        .await;
    progress.end();
    let done = outcome.map_err(failure)?;
    output::print(&format!("{} replayed, {} left\n", done.replayed, done.left))
}

fn as_json(message: &DeadMessage) -> Value {
    json!({
        "reason": message.why.reason.as_str(),
        "detail": message.why.detail,
        "job_id": job_id(message),
        "message_id": message.message_id,
        "routing_key": message.routing_key,
        "body": String::from_utf8_lossy(&message.body),
    })
}

/// The id that it has or would have had, as far as one can tell.
fn job_id(message: &DeadMessage) -> Option<String> {
    let in_body = serde_json::from_slice::<Value>(&message.body).ok();
    let in_body = in_body.as_ref().and_then(|body| body.get("job_id")).map(cell);
    in_body
        .filter(|id| !id.is_empty())
        .or_else(|| message.message_id.clone())
        .map(|id| cell(&Value::from(id)))
}

fn reason(word: &str) -> Result<DeadReason, String> {
    DeadReason::parse(word).ok_or_else(|| {
        let known: Vec<&str> = DeadReason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("write one of {}", known.join(", "))
    })
}

fn failure(error: BrokerError) -> Failure {
    Failure::new(error).at(format!("queue {}", broker::DEAD)).mend("run the command again: nothing is lost")
}

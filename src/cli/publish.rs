//! `outdial publish`: jobs of a file to the broker, each confirmed.

mod rows;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::rows::{Format, Row};
use super::progress::Progress;
use super::{Context, Failure, job_options, output};
use crate::broker::{self, LinkState, Outgoing, PublishError, Publisher, Settings, Target};
use crate::clock;
use crate::config::Needs;
use crate::core::backoff::Backoff;
use crate::core::job::{DeadLetter, DeadReason, JobOptions, decode};

/// Messages under way at once.
const WINDOW: usize = 500;
/// A row that the broker doesn't confirm for so long ends the command.
const PATIENCE: Duration = Duration::from_secs(60);
/// A command doesn't wait as long for the broker as a worker does.
const PATIENCE_AT_START: Duration = Duration::from_secs(5);
/// Bad rows that are told one by one.
const TOLD_MAX: u64 = 100;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Jobs, one a line (.ndjson, .jsonl) or one a row (.csv, whose columns are the job's fields, custom_variables.X
    /// and metadata.X)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Send bad rows too: the worker dead-letters them
    #[arg(long)]
    no_check: bool,
}

#[derive(Debug, Default)]
struct Tally {
    published: u64,
    bad: u64,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let shown = args.file.display().to_string();
    let format = Format::of(&args.file).ok_or_else(|| {
        Failure::usage("the file's name tells its format: .ndjson, .jsonl or .csv").at(&shown)
    })?;
    let file = File::open(&args.file).map_err(|error| Failure::from(error).at(&shown))?;
    let size = file.metadata().map_or(0, |meta| meta.len());
    let config = context.config(Needs::BROKER)?;
    let target = Target::parse(config.amqp.url()?).map_err(Failure::new)?;
    let settings = Settings { target, declare: config.amqp.declare, prefetch: 1 };
    broker::prepare(&settings.target, settings.declare, PATIENCE_AT_START).await.map_err(Failure::new)?;

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let publisher = Publisher::start(settings, "publish", &tasks, stop.clone());
    // Rows that wait for the link together would go out in any order; from here on they go in the file's.
    let _ =
        tokio::time::timeout(PATIENCE_AT_START, publisher.state().wait_for(|s| *s == LinkState::Up)).await;
    let (hand, mut rows) = mpsc::channel(WINDOW);
    let check = !args.no_check;
    let reading = tokio::task::spawn_blocking(move || {
        rows::read(file, format, check, &mut |row| hand.blocking_send(row).is_ok())
    });
    let mut progress = Progress::new(size);
    let options = job_options(&config);
    let sent = send_all(&mut rows, &publisher, &options, check, &shown, &mut progress).await;
    // Ends the reading too, where sending gave up.
    drop(rows);
    progress.end();
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let read = reading.await.map_err(Failure::new)?;
    report(sent?, read, &shown)
}

fn report(tally: Tally, read: Result<(), String>, shown: &str) -> Result<(), Failure> {
    output::print(&format!("{}: {} published, {} bad\n", shown, tally.published, tally.bad))?;
    let again = "mend it and run the command again: what is published already stays one job";
    read.map_err(|fault| Failure::new(fault).at(shown).mend(again))?;
    match tally.bad {
        0 => Ok(()),
        1 => Err(Failure::new("1 row is bad and was not sent").at(shown).mend(again)),
        bad => Err(Failure::new(format!("{bad} rows are bad and were not sent")).at(shown).mend(again)),
    }
}

async fn send_all(
    rows: &mut mpsc::Receiver<Row>,
    publisher: &Publisher,
    options: &JobOptions,
    check: bool,
    shown: &str,
    progress: &mut Progress,
) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            row = rows.recv(), if open && under_way.len() < WINDOW => {
                let Some(row) = row else {
                    open = false;
                    continue;
                };
                match message(row.body, options, check) {
                    Ok(message) => under_way.push(insist(publisher, message, row.read)),
                    Err(why) => {
                        tally.bad += 1;
                        match tally.bad {
                            ..=TOLD_MAX => progress.tell(&format!("{shown}:{}: {why}", row.line)),
                            n if n == TOLD_MAX + 1 => progress.tell("further bad rows are only counted"),
                            _ => {}
                        }
                    }
                }
            }
            Some(confirmed) = under_way.next() => {
                let read = confirmed.map_err(|error| {
                    let done = format!("{} rows were published before", tally.published);
                    Failure::new(error).at(format!("{shown}: {done}")).mend(
                        "when the broker takes messages again, run the command again: \
                         what is published already stays one job",
                    )
                })?;
                tally.published += 1;
                progress.at(read, || format!("{} published, {} bad", tally.published, tally.bad));
            }
        }
    }
    Ok(tally)
}

/// The message of a row: sent as it is, and without a `job_id` under an id that its content gives, so that the same
/// row is the same job however often it is published.
fn message(body: Result<Vec<u8>, String>, options: &JobOptions, check: bool) -> Result<Outgoing, String> {
    let body = body?;
    // The date of receipt is no part of the content.
    let now = clock::wall();
    let judged = match decode(&body, None, now, options) {
        Err(DeadLetter { reason: DeadReason::MissingField, .. }) => {
            decode(&body, Some("row"), now, options).map(|job| Some(job.content_digest()))
        }
        judged => judged.map(|_| None),
    };
    let id = match judged {
        Ok(None) => None,
        Ok(Some(digest)) => Some(digest),
        Err(why) if check => return Err(why.to_string()),
        Err(_) => {
            let mut digest = [0; 16];
            digest.copy_from_slice(&Sha256::digest(&body)[..16]);
            Some(digest)
        }
    };
    let id = id.map(|digest| format!("row-{}", hex::encode(digest)));
    Ok(Outgoing::job(body, "publish", id.as_deref()))
}

/// Publishes until it is confirmed; gives back what it was given.
async fn insist(publisher: &Publisher, message: Outgoing, read: u64) -> Result<u64, PublishError> {
    let started = clock::monotonic();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match publisher.publish(&message).await {
            Ok(()) => return Ok(read),
            Err(error @ PublishError::Unroutable(_)) => return Err(error),
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(backoff.after_failure(rand::random())).await,
        }
    }
}

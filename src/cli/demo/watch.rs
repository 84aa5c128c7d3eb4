//! Waiting for the end, with progress.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::Failure;
use super::crew::Crew;
use super::jobs::{Ends, Line};
use crate::cli::progress::Progress;
use crate::clock;
use crate::store::{Pool, reporting};
use crate::synthflow::sandbox::Sandbox;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After this the check says what is missing.
const DIALING_MAX: Duration = Duration::from_secs(120);
/// So does it where nothing has moved for so long.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Standing {
    waiting: u64,
    under_way: u64,
    ended: u64,
}

impl Standing {
    fn of(campaigns: &[Value]) -> Self {
        let sum = |states: &[&str]| {
            let counts = campaigns.iter().flat_map(|campaign| states.iter().map(|state| &campaign[*state]));
            counts.filter_map(Value::as_u64).sum()
        };
        Self {
            waiting: sum(&["waiting"]),
            under_way: sum(&["dialing", "placed"]),
            ended: sum(&["done", "refused", "expired", "canceled", "review"]),
        }
    }
}

/// Waits until every line that becomes a record has ended, or until nothing moves any more. What it saw, for people.
pub async fn until_ended(
    pool: &Pool,
    sandbox: &Sandbox,
    crew: &mut Crew,
    lines: &[Line],
) -> Result<String, Failure> {
    let records = lines.iter().filter(|line| !matches!(line.ends, Ends::Dead(_)));
    let wanted = records.map(|line| line.job_id.as_str()).collect::<BTreeSet<_>>().len() as u64;
    let mut progress = Progress::new(wanted);
    let started = clock::monotonic();
    let (mut seen, mut moved) = (Standing::default(), started);
    let finished = loop {
        crew.demand_running()?;
        let now = Standing::of(&reporting::campaigns(pool).await?);
        if now != seen {
            (seen, moved) = (now, clock::monotonic());
        }
        let calls = sandbox.stats().calls;
        let rate = calls as f64 / started.elapsed().as_secs_f64().max(0.001);
        progress.at(now.ended, || {
            let Standing { waiting, under_way, ended } = now;
            format!("{calls:>5} placed, {waiting} waiting, {under_way} under way, {ended} ended; {rate:.0} calls/s")
        });
        if now.ended >= wanted && now.waiting + now.under_way == 0 {
            break format!("{calls} calls in {:.1} s", started.elapsed().as_secs_f64());
        }
        if started.elapsed() > DIALING_MAX || moved.elapsed() > STANDSTILL_MAX {
            let waits = why(&reporting::waiting(pool, None).await?);
            break format!(
                "given up: {} of {wanted} ended, {} under way; waiting: {waits}",
                now.ended, now.under_way
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    progress.end();
    Ok(finished)
}

fn why(waiting: &[Value]) -> String {
    if waiting.is_empty() {
        return "none".to_owned();
    }
    let told = |row: &Value| format!("{} {} {}", row["jobs"], row["campaign_id"], row["reason"]);
    waiting.iter().map(told).collect::<Vec<_>>().join(", ")
}

//! `outdial routing explain`: what would become of a job now, decided by the worker's own functions.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::super::output::{self, Output};
use super::super::{Context, Failure};
use super::read_file;
use crate::config::{Config, Needs};
use crate::core::decide::{AccountState, Callee, Class, Explanation, Question, World, explain};
use crate::core::hours::zones_of_callee;
use crate::core::ids::AccountName;
use crate::core::job::{self, BODY_BYTES_MAX, Job, JobOptions};
use crate::core::ledger::StickyKey;
use crate::core::phone::E164;
use crate::core::usage::UsageBook;
use crate::engine::ledger::{DispatchLedger, LedgerError, LifeLedger};
use crate::engine::world::WorldKeeper;
use crate::store::Ledger;

/// A number is free if its next slot is no further away: what a worker looks ahead.
const HORIZON: TimeDelta = TimeDelta::milliseconds(120);
/// Stands in for an absent `job_id`: the job is only looked at.
const NO_ID: &str = "explain";

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
    let now = ledger.now().await.map_err(Failure::new)?;
    let options =
        JobOptions { unknown_fields: config.intake.unknown_fields, phone_check: config.intake.phone_check };
    let job = job::decode(&body, Some(NO_ID), now, &options).map_err(|letter| {
        Failure::new(format!("it can't be a job: {}: {}", letter.reason, letter.detail)).at(&asked.job)
    })?;
    let explanation = answer(&ledger, &config, &job, now).await.map_err(Failure::new)?;
    if asked.output.json {
        return output::print_json(&explanation);
    }
    output::print(&explanation.to_string())
}

async fn answer(
    ledger: &Ledger,
    config: &Config,
    job: &Job,
    now: DateTime<Utc>,
) -> Result<Explanation, LedgerError> {
    let world = world(ledger, config).await?;
    let class = Class::of_job(job);
    let campaign = world.rules.campaign(&class.campaign);
    let model = class.model.clone().or_else(|| campaign?.model_id.clone());
    let (mut book, mut figures, mut sticky) = (UsageBook::default(), HashMap::new(), None);
    book.begin(now, HORIZON);
    if let Some(model) = model {
        let numbers: Vec<E164> = world
            .pools
            .get(&model)
            .map_or(Vec::new(), |pool| pool.numbers().iter().map(|n| n.number.clone()).collect());
        for used in ledger.used(&numbers, config.limits.slack).await? {
            book.read(used.clone(), world.rules.number_limits(&used.number));
            figures.insert(used.number.clone(), used);
        }
        let brand = class.brand.clone().or_else(|| campaign?.brand.clone());
        let key = StickyKey { model, brand, phone: job.phone.number.clone() };
        sticky = ledger.sticky(&[key]).await?.pop().flatten();
    }
    let suppressed = ledger.suppressed_for(&job.phone.number).await?;
    let brand = class.brand.clone().or_else(|| campaign?.brand.clone());
    let again_at = match world.recipients(&class, brand.as_ref(), now) {
        Some(asked) => ledger.called_again_at(&job.phone.number, &asked, config.limits.slack).await?,
        None => None,
    };
    let named: Option<Tz> = job.content.lead_timezone.as_deref().and_then(|name| name.parse().ok());
    let zones = zones_of_callee(named, &job.phone.number);
    Ok(explain(&Question {
        world: &world,
        class: &class,
        now,
        not_before: job.not_before,
        zones: &zones,
        callee: Callee { suppressed: &suppressed, consented: job.content.consent.is_some() },
        again_at,
        sticky: sticky.as_ref(),
        draw: rand::random(),
        usage: &|number| book.view(number),
        figures: &|number| figures.get(number).cloned(),
    }))
}

/// As a worker with this configuration sees it; an account that no worker has registered yet counts as active.
async fn world(ledger: &Ledger, config: &Config) -> Result<World, LedgerError> {
    let names: Vec<AccountName> = config.accounts.keys().cloned().collect();
    let max_age: Duration = config.pool.max_age;
    let (_, mut world) = WorldKeeper::first(ledger, &names, max_age).await?;
    for name in names {
        world.accounts.entry(name).or_insert(AccountState::Active);
    }
    Ok(world)
}

//! What would become of a job now, decided by the worker's own functions: nothing is written.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::ledger::{DispatchLedger, ExplainLedger, LedgerError, LifeLedger, WorldLedger};
use super::world::WorldKeeper;
use crate::core::decide::{AccountState, Callee, Class, Explanation, Question, World, explain};
use crate::core::hours::zones_of_callee;
use crate::core::ids::AccountName;
use crate::core::job::{self, DeadLetter, Job, JobOptions};
use crate::core::ledger::StickyKey;
use crate::core::phone::E164;
use crate::core::usage::UsageBook;

/// A number is free if its next slot is no further away: what a worker looks ahead.
const HORIZON: TimeDelta = TimeDelta::milliseconds(120);
/// Stands in for an absent `job_id`: the job is only looked at.
const NO_ID: &str = "explain";

/// Explains jobs as a worker with this configuration sees them.
#[derive(Debug, Clone)]
pub struct Explainer {
    pub accounts: Vec<AccountName>,
    /// `pool.max_age`
    pub pool_max_age: Duration,
    /// `limits.slack`
    pub slack: Duration,
    pub options: JobOptions,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// As it would be dead-lettered.
    #[error("it can't be a job: {}: {}", .0.reason, .0.detail)]
    NoJob(DeadLetter),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Explainer {
    /// Of a job as a publisher would send it; its `job_id` may be absent. `draw`: the randomness of weighted choices.
    ///
    /// # Errors
    /// [`ExplainError`].
    pub async fn explain<L>(&self, ledger: &L, body: &[u8], draw: u64) -> Result<Explanation, ExplainError>
    where
        L: DispatchLedger + LifeLedger + WorldLedger + ExplainLedger,
    {
        let now = ledger.now().await?;
        let job = job::decode(body, Some(NO_ID), now, &self.options).map_err(ExplainError::NoJob)?;
        Ok(self.answer(ledger, &job, now, draw).await?)
    }

    async fn answer<L>(
        &self,
        ledger: &L,
        job: &Job,
        now: DateTime<Utc>,
        draw: u64,
    ) -> Result<Explanation, LedgerError>
    where
        L: DispatchLedger + LifeLedger + WorldLedger + ExplainLedger,
    {
        let world = self.world(ledger).await?;
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
            for used in ledger.used(&numbers, self.slack).await? {
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
            Some(asked) => ledger.called_again_at(&job.phone.number, &asked, self.slack).await?,
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
            draw,
            usage: &|number| book.view(number),
            figures: &|number| figures.get(number).cloned(),
        }))
    }

    /// An account that no worker has registered yet counts as active.
    async fn world<L: LifeLedger + WorldLedger>(&self, ledger: &L) -> Result<World, LedgerError> {
        let (_, mut world) = WorldKeeper::first(ledger, &self.accounts, self.pool_max_age).await?;
        for name in &self.accounts {
            world.accounts.entry(name.clone()).or_insert(AccountState::Active);
        }
        Ok(world)
    }
}

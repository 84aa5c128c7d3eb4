//! What the stages ask of the ledger, as traits. `store` implements them over PostgreSQL.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::core::decide::{Class, World};
use crate::core::ids::{AccountName, AttemptId, CampaignId, ClassNo, JobNo, ModelId, RoutingVersion};
use crate::core::ledger::*;
use crate::core::phone::E164;
use crate::core::rules::Compiled;
use crate::core::suppression::Scope;
use crate::core::usage::Used;

pub use super::ports::LedgerError;

type Answer<T> = Result<T, LedgerError>;

/// The ledger as dispatch sees it.
pub trait DispatchLedger: Send + Sync + 'static {
    /// The first ready job of every class that has one.
    fn heads(&self) -> impl Future<Output = Answer<Vec<ClassHead>>> + Send;
    /// What classes are made of; without those that can't be read, of which it complains.
    fn classes(&self, numbers: &[ClassNo]) -> impl Future<Output = Answer<Vec<(ClassNo, Class)>>> + Send;
    /// The numbers of classes, made where they are new.
    fn class_numbers(&self, classes: &[Class]) -> impl Future<Output = Answer<Vec<ClassNo>>> + Send;
    /// Up to so many ready jobs of each class, in order. `shard`: (nth, of): a worker looks at its own share first.
    fn candidates(
        &self,
        classes: &[(ClassNo, usize)],
        shard: (u32, u32),
    ) -> impl Future<Output = Answer<Vec<Waiting>>> + Send;
    fn sticky(&self, keys: &[StickyKey]) -> impl Future<Output = Answer<Vec<Option<E164>>>> + Send;
    fn used(&self, numbers: &[E164], slack: Duration) -> impl Future<Output = Answer<Vec<Used>>> + Send;
    /// A slot for each ask, and leave at once where it is near. The i-th intent is that of the i-th ask.
    fn reserve(
        &self,
        version: RoutingVersion,
        terms: SlotTerms,
        asks: &[Ask],
        intents: &[Intent],
    ) -> impl Future<Output = Answer<SlotAnswers>> + Send;
    /// Takes back what a lost answer of [`DispatchLedger::reserve`] may have reserved or given leave for: nothing of it
    /// was sent.
    fn undo(
        &self,
        slack: Duration,
        unheard: &[(JobNo, AttemptId)],
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Parks what was decided under the rules of a version; nothing once others hold. Likewise below.
    fn park(&self, version: RoutingVersion, jobs: &[Park]) -> impl Future<Output = Answer<()>> + Send;
    /// Refuses or cancels up to `limit` ready jobs of a class; gives how many.
    fn end_class(
        &self,
        version: RoutingVersion,
        class: ClassNo,
        end: ClassEnd,
        limit: usize,
    ) -> impl Future<Output = Answer<usize>> + Send;
    /// Refuses or cancels waiting jobs.
    fn end_jobs(
        &self,
        version: RoutingVersion,
        jobs: &[JobNo],
        end: ClassEnd,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Tells what holds each class.
    fn note(&self, classes: &[ClassStatus]) -> impl Future<Output = Answer<()>> + Send;
    /// Which of the living workers this one is: (nth, of).
    fn share(&self) -> impl Future<Output = Answer<(u32, u32)>> + Send;
    /// Asks for an agent's pool to be read.
    fn want_pool(&self, model: &ModelId, account: &AccountName) -> impl Future<Output = Answer<()>> + Send;
}

/// The ledger as placing sees it.
pub trait PlaceLedger: Send + Sync + 'static {
    fn authorise(
        &self,
        slack: Duration,
        leaves: &[Leave],
    ) -> impl Future<Output = Answer<Vec<(JobNo, Authorised)>>> + Send;
    /// Hands reservations back, as if they had never been made.
    fn release(&self, jobs: &[JobNo]) -> impl Future<Output = Answer<()>> + Send;
    /// Gives the campaigns that the provider has refused five times in a row.
    fn settle(
        &self,
        slack: Duration,
        settlements: &[Settlement],
    ) -> impl Future<Output = Answer<Vec<CampaignId>>> + Send;
}

/// What an explanation asks beside what a worker does: of one callee.
pub trait ExplainLedger: Send + Sync + 'static {
    /// For whom a phone must not be called.
    fn suppressed_for(&self, phone: &E164) -> impl Future<Output = Answer<Vec<Scope>>> + Send;
    /// When caps let a callee be called again; `None`: now.
    fn called_again_at(
        &self,
        phone: &E164,
        asked: &RecipientAsk,
        slack: Duration,
    ) -> impl Future<Output = Answer<Option<DateTime<Utc>>>> + Send;
}

/// A worker's life.
pub trait LifeLedger: Send + Sync + 'static {
    /// Extends the lease; false: this worker was taken for dead.
    fn renew(&self, lease: Duration) -> impl Future<Output = Answer<bool>> + Send;
    /// Takes a new number after this worker was taken for dead.
    fn enlist_again(&self, lease: Duration) -> impl Future<Output = Answer<()>> + Send;
    fn now(&self) -> impl Future<Output = Answer<DateTime<Utc>>> + Send;
    /// The database's clock went ahead by so much: windows are wider by it until they have passed.
    fn note_step(&self, ahead: Duration) -> impl Future<Output = Answer<()>> + Send;
    fn control(&self) -> impl Future<Output = Answer<Control>> + Send;
}

/// What decisions are made from.
pub trait WorldLedger: Send + Sync + 'static {
    /// The rules of a version.
    fn rules(&self, version: RoutingVersion) -> impl Future<Output = Answer<Arc<Compiled>>> + Send;
    fn world(
        &self,
        control: Control,
        rules: Arc<Compiled>,
        accounts: &[AccountName],
        pool_max_age: Duration,
    ) -> impl Future<Output = Answer<World>> + Send;
}

/// What time brings.
pub trait UpkeepLedger: Send + Sync + 'static {
    /// Dates that have come; gives how many jobs are ready now. Likewise below: while it gives `limit`, there is more.
    fn wake(&self, limit: u32) -> impl Future<Output = Answer<u32>> + Send;
    fn expire(&self, limit: u32) -> impl Future<Output = Answer<u32>> + Send;
    /// Looks again at jobs that wait for a window, after new rules: from job `after` on. Gives how far it came (`None`:
    /// to the end) and how many are ready.
    fn rejudge(&self, after: JobNo, limit: u32) -> impl Future<Output = Answer<(Option<JobNo>, u32)>> + Send;
    /// Writes what holds a class into the records of its jobs, from job `after` on. Gives how far it came (`None`: to
    /// the end) and how many it wrote.
    fn relabel(&self, after: JobNo, limit: u32) -> impl Future<Output = Answer<(Option<JobNo>, u32)>> + Send;
    /// Takes over what workers left whose lease has run out: (reservations, attempts that are unknown now).
    fn take_over(&self, lease: Duration) -> impl Future<Output = Answer<(u32, u32)>> + Send;
    /// Gives attempts to a person that have been sought for so long, of whatever account; gives how many.
    fn give_up_in_vain(&self, after: Duration, limit: u32) -> impl Future<Output = Answer<u32>> + Send;
    /// Adds up what was written beside the records of campaigns.
    fn count_up_campaigns(&self, limit: u32) -> impl Future<Output = Answer<u32>> + Send;
    /// Likewise, of numbers.
    fn count_up_numbers(&self, limit: u32) -> impl Future<Output = Answer<u32>> + Send;
    /// Makes the pace of calls that views tell of coarser as it grows old.
    fn coarsen_pace(&self, limit: u32) -> impl Future<Output = Answer<u32>> + Send;
    /// Forgets which number callees knew whose time is over.
    fn prune_sticky(&self, limit: u32) -> impl Future<Output = Answer<u32>> + Send;
    /// Forgets calls to callees that no cap counts any more, of some phones after the given one; gives how far it came
    /// (`None`: to the end).
    fn prune_recipients(&self, after: i64, limit: u32) -> impl Future<Output = Answer<Option<i64>>> + Send;
    /// Drops grants that no window looks at any more, of some things after the given one; gives how far it came.
    fn prune_grants(&self, after: i32) -> impl Future<Output = Answer<Option<i32>>> + Send;
}

//! Dispatch: waiting jobs are pulled by free capacity, never pushed by timers.
//!
//! A pass looks at the first job of every class, decides each class by the rules in use, reads as many jobs as there is
//! room for of those that may be dialed, lets [`pick`] choose, and asks the ledger for slots. What the ledger refuses
//! is remembered only as long as the ledger said.

mod classes;
mod pass;
mod slots;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ledger::{DispatchLedger, LedgerError};
use super::sending::{Sending, Unsent};
use super::tenure::Tenure;
use crate::clock;
use crate::core::decide::{Rankings, World};
use crate::core::fair::Turns;
use crate::core::ids::{AccountName, AttemptId, CampaignId, JobNo, RoutingVersion};
use crate::core::ledger::{ClassHead, Intent, Reserved, SlotTerms};
use crate::core::phone::E164;
use crate::core::pick::Pick;
use crate::core::rules::Limits;
use crate::core::states::Reason;
use crate::core::trace::Took;
use crate::core::usage::{UsageBook, Used};
use classes::Classes;

/// With nothing to do, the work list is looked at this often all the same: another worker may have filled it.
const IDLE: Duration = Duration::from_millis(250);
/// After a pass in which others were faster.
const COLLIDED: Duration = Duration::from_millis(10);
/// After an error of the ledger.
const BACK_OFF: Duration = Duration::from_millis(500);
/// Between two looks at how many workers there are.
const SHARE_EVERY: Duration = Duration::from_secs(2);
/// Reading the first jobs of all classes takes at most a tenth of the time, once it takes longer than this.
const HEADS_QUICK: Duration = Duration::from_millis(2);
/// However long it takes, they are read again after this.
const HEADS_OLD: Duration = Duration::from_secs(1);
/// Between two readings of the numbers' use, which by all workers together take at most a twentieth of one's time.
const READ_EVERY: Duration = Duration::from_secs(1);
/// However long it takes, it is read again after this.
const READ_OLD: Duration = Duration::from_secs(30);
/// Of a slot that begins so soon after leave can come, leave is asked for at once: it would be a moment later.
const SOON: Duration = Duration::from_millis(20);
/// The most slots asked for in one statement.
pub const ASKS_MAX: usize = 256;

/// A job with a slot.
#[derive(Debug)]
pub struct Slotted {
    pub reserved: Reserved,
    pub pick: Pick,
    pub intent: Intent,
    pub version: RoutingVersion,
    /// Of the database's clock, when the slot was asked for.
    pub steps: u64,
    /// Asking for it.
    pub decided: Took,
}

impl Slotted {
    pub fn account(&self) -> &AccountName {
        &self.pick.ask.account
    }

    /// The caller ID; `None`: the agent's own default.
    pub fn number(&self) -> Option<&E164> {
        self.pick.ask.number.as_ref()
    }
}

/// On its way to be placed.
#[derive(Debug)]
pub struct Ready {
    pub job: Slotted,
    /// Its place among those in flight, until it is settled.
    pub permit: OwnedSemaphorePermit,
    /// Dropped when its POST begins.
    pub unsent: Unsent,
}

/// What this process may do with an account, whatever the ledger says.
pub trait AccountsHere: std::fmt::Debug + Send + Sync + 'static {
    /// Its key works, as far as is known.
    fn usable(&self, account: &AccountName) -> bool;
    /// `only_phones`: a staging account calls nobody else.
    fn may_call(&self, account: &AccountName, phone: &E164) -> bool;
}

/// What dispatch counts.
pub trait DispatchMeter: std::fmt::Debug + Send + Sync + 'static {
    /// A slot so far ahead was reserved.
    fn reserved(&self, ahead: Duration);
    fn statement(&self, name: &'static str, took: Duration, succeeded: bool);
}

/// What dispatch needs.
#[derive(Debug)]
pub struct Dispatch<L> {
    pub ledger: Arc<L>,
    pub meter: Arc<dyn DispatchMeter>,
    pub world: watch::Receiver<Arc<World>>,
    pub tenure: Arc<Tenure>,
    /// A slot is at most this much further ahead than leave takes.
    pub horizon: Duration,
    pub slack: Duration,
    /// The accounts' limits, of the configuration.
    pub accounts: HashMap<AccountName, Limits>,
    /// Whether this worker may send with an account, and whom it may call.
    pub accounts_here: Arc<dyn AccountsHere>,
    /// As many permits as calls may be under way in this process.
    pub inflight: Arc<Semaphore>,
    pub placing: mpsc::Sender<Ready>,
    pub sending: Arc<Sending>,
}

/// What it keeps from pass to pass.
struct State {
    classes: Classes,
    book: UsageBook,
    rankings: Rankings,
    turns: Turns,
    campaigns_shut: HashMap<CampaignId, Shut>,
    /// At its limit, or the provider is out of reach by it.
    accounts_shut: HashMap<AccountName, Shut>,
    /// Asked for, and no answer was heard or may be acted on: to be taken back before anything else.
    unheard: Vec<(JobNo, AttemptId)>,
    /// The rules of the last pass.
    version: Option<RoutingVersion>,
    share: (u32, u32),
    share_read: Option<tokio::time::Instant>,
    heads: Option<Vec<ClassHead>>,
    heads_due: Option<tokio::time::Instant>,
    usage_due: Option<tokio::time::Instant>,
    /// The reading of all numbers' use that is under way, and what has been granted since it began.
    reading: JoinSet<(Result<Vec<Used>, LedgerError>, Duration)>,
    granted: Vec<(E164, DateTime<Utc>)>,
    draws: Box<dyn FnMut() -> u64 + Send + Sync>,
}

/// Why nothing of a campaign or an account is asked for.
#[derive(Debug, Clone, Copy)]
struct Shut {
    why: Reason,
    /// Not asked again before.
    until: DateTime<Utc>,
    /// When the next slot is, where that is known.
    due_at: Option<DateTime<Utc>>,
}

/// When to look again.
enum Next {
    Now,
    At(DateTime<Utc>),
    In(Duration),
}

impl<L: DispatchLedger> Dispatch<L> {
    /// Until `stop`. `draws` gives randomness, for weighted choices.
    pub async fn run(mut self, draws: Box<dyn FnMut() -> u64 + Send + Sync>, stop: CancellationToken) {
        let mut state = State {
            classes: Classes::default(),
            book: UsageBook::default(),
            rankings: Rankings::default(),
            turns: Turns::default(),
            campaigns_shut: HashMap::new(),
            accounts_shut: HashMap::new(),
            unheard: Vec::new(),
            version: None,
            share: (0, 1),
            share_read: None,
            heads: None,
            heads_due: None,
            usage_due: None,
            reading: JoinSet::new(),
            granted: Vec::new(),
            draws,
        };
        while !stop.is_cancelled() {
            let wait = match self.pass(&mut state).await {
                Ok(Next::Now) => Duration::ZERO,
                Ok(Next::In(wait)) => wait.min(IDLE),
                Ok(Next::At(date)) => self.until(date).min(IDLE),
                Err(error) => {
                    log_pass_error(&error);
                    BACK_OFF
                }
            };
            if wait.is_zero() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.sending.bell.notified() => {}
                changed = self.world.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(wait) => {}
            }
        }
        while let Err(error) = self.take_back(&mut state).await {
            log_pass_error(&error);
            tokio::time::sleep(BACK_OFF).await;
        }
    }

    /// Takes back what was asked for in vain. Refused, it is left to upkeep, which finds it overdue.
    async fn take_back(&self, state: &mut State) -> Result<(), LedgerError> {
        if state.unheard.is_empty() {
            return Ok(());
        }
        match self.ledger.undo(self.slack, &state.unheard).await {
            Err(error @ LedgerError::Unavailable(_)) => return Err(error),
            Err(error @ LedgerError::Refused(_)) => log_pass_error(&error),
            Ok(()) => {}
        }
        state.unheard.clear();
        Ok(())
    }

    fn terms(&self) -> SlotTerms {
        SlotTerms { lead: self.sending.lead(), soon: SOON, horizon: self.horizon, slack: self.slack }
    }

    /// How long until a slot at `date` is within the horizon.
    fn until(&self, date: DateTime<Utc>) -> Duration {
        let Some(reading) = self.tenure.now() else { return IDLE };
        let terms = self.terms();
        let ahead = TimeDelta::from_std(terms.lead + terms.horizon).unwrap_or_default();
        (date - ahead - reading.now)
            .to_std()
            .unwrap_or(Duration::from_millis(1))
            .max(Duration::from_millis(1))
    }
}

fn log_pass_error(error: &LedgerError) {
    match error {
        LedgerError::Unavailable(_) => tracing::warn!(error = %error, "dispatch.ledger.unavailable"),
        LedgerError::Refused(_) => tracing::error!(error = %error, "dispatch.ledger.refused"),
    }
}

impl State {
    fn forget_past(&mut self, now: DateTime<Utc>) {
        self.campaigns_shut.retain(|_, shut| shut.until > now);
        self.accounts_shut.retain(|_, shut| shut.until > now);
    }

    fn forget_limits(&mut self) {
        self.campaigns_shut.clear();
        self.accounts_shut.clear();
        self.usage_due = None;
    }

    fn is_share_old(&self) -> bool {
        self.share_read.is_none_or(|at| clock::monotonic() >= at + SHARE_EVERY)
    }
}

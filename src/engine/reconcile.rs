//! What nobody knows is looked up: attempts whose POST got no answer are searched for among the provider's calls. One
//! worker looks for an account's, as politely as its [`Pace`] says; what to ask is decided in [`crate::core::reconcile`].
//!
//! It takes no input but the ledger and may stop anywhere: it is rung when an attempt becomes unknown, looks by itself
//! as well, and doing something twice changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounts::AccountKeys;
use super::duty::{Duties, Duty};
use super::ends::{EndsLedger, write_down};
use super::pace::Pace;
use super::ports::LedgerError;
use super::provider::{ReadsCalls, ReadsPools};
use super::round::Stop;
use crate::clock;
use crate::core::backoff::Backoff;
use crate::core::call::{CallPage, CallRecord, ListCalls};
use crate::core::decide::World;
use crate::core::ids::{AccountName, AttemptId, CallId, ModelId};
use crate::core::outcome::ProviderError;
use crate::core::reconcile::{Found, GiveUp, Look, Patience, Step, Told, Unknown, windows};

/// Unknown attempts of one account that are looked for at a time, oldest first.
const UNKNOWN_MAX: usize = 10_000;
/// The ledger is asked for unknown attempts this often, and when rung.
const EVERY: Duration = Duration::from_secs(2);
/// Requests of a look that are under way at once.
const AT_ONCE: usize = 8;
/// A look that takes more requests is broken off, and proves nothing.
const REQUESTS_MAX: usize = 5_000;
/// So many times in a row the provider may answer nothing of what a look asks; then it is broken off.
const UNANSWERED_MAX: u32 = 5;
/// More than this between two readings of the database's clock and ours is a step of one.
const STEP: Duration = Duration::from_secs(3);
/// Calls of an agent that are remembered as others', so that each is looked up once.
const OTHERS_MAX: usize = 20_000;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

type Answer<T> = Result<T, LedgerError>;

/// What is unknown of one account.
#[derive(Debug, Clone, Default)]
pub struct Sought {
    pub by_agent: BTreeMap<ModelId, Vec<Unknown>>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// Where evidence is written down.
pub trait EvidenceLedger: EndsLedger {
    /// Up to `max` unknown attempts of an account, oldest first.
    fn unknown(&self, account: &AccountName, max: usize) -> impl Future<Output = Answer<Sought>> + Send;
    /// Which of these calls, begun in the window, are known to be of attempts already.
    fn known_calls(
        &self,
        window: (DateTime<Utc>, DateTime<Utc>),
        calls: &[CallId],
    ) -> impl Future<Output = Answer<HashSet<CallId>>> + Send;
    /// Calls that carry our attempt ids: whatever was believed of those attempts, they were placed.
    fn found(
        &self,
        account: &AccountName,
        calls: &[(AttemptId, CallId)],
    ) -> impl Future<Output = Answer<Heard>> + Send;
    /// A look that began then has not found these. `complete`: by a provider that told everything.
    fn looked(
        &self,
        attempts: &[AttemptId],
        complete: bool,
        began: DateTime<Utc>,
        gap: Duration,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Ends the search, for those that still are as they were; gives how many.
    fn give_up(&self, attempts: &[(AttemptId, GiveUp)]) -> impl Future<Output = Answer<usize>> + Send;
}

/// What calls with our attempt ids told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Attempts of which nobody knew that they were placed.
    pub news: usize,
    /// Calls besides the one that their attempt is known to have: the provider, or a proxy on the way, has doubled a POST.
    pub twice: usize,
}

/// Writes a found call down, with its end. Shared by all who bring evidence.
///
/// # Errors
/// The ledger's; running it again changes nothing.
pub async fn learn<L: EvidenceLedger>(ledger: &L, account: &AccountName, found: &Found) -> Answer<()> {
    let heard = ledger.found(account, &[(found.attempt, found.call_id.clone())]).await?;
    if heard.twice > 0 {
        tracing::error!(
            %account, attempt.id = %found.attempt, call.id = %found.call_id,
            "call.twice: the provider has two calls of one attempt"
        );
    }
    if let Some(end) = &found.end {
        write_down(ledger, std::slice::from_ref(end)).await?;
    }
    Ok(())
}

/// Looks for one account's unknown attempts.
#[derive(Debug)]
pub struct ReconcileStage<L, P, D> {
    pub account: AccountName,
    pub ledger: L,
    pub provider: P,
    pub duties: D,
    pub keys: Arc<AccountKeys>,
    pub pace: Arc<Pace>,
    pub world: watch::Receiver<Arc<World>>,
    pub patience: Patience,
    /// `worker.lease`
    pub lease: Duration,
    /// Rung when an attempt became unknown.
    pub unconfirmed: Arc<Notify>,
}

/// A look that goes on.
#[derive(Debug)]
struct Open {
    model: ModelId,
    look: Look,
    began: Instant,
    requests: usize,
    unanswered: Option<Unanswered>,
}

/// How long, and how often in a row, the provider has answered nothing of what a look asked.
#[derive(Debug)]
struct Unanswered {
    since: Instant,
    times: u32,
}

/// What one request has told.
#[derive(Debug)]
enum Answered {
    Page(ListCalls, CallPage),
    Call(CallId, Result<CallRecord, ProviderError>),
    Agent(bool),
}

impl Open {
    /// A look that heard nothing for too long is no look at the time between.
    fn answered(&mut self, agent: &mut Agent, came: Instant, gap: Duration) {
        if self.unanswered.take().is_some_and(|unanswered| came > unanswered.since + gap) {
            agent.unbroken_since = agent.unbroken_since.max(came);
        }
        agent.succeeded();
    }

    fn unanswered(&mut self, asked: Instant) {
        self.unanswered.get_or_insert(Unanswered { since: asked, times: 0 }).times += 1;
    }

    fn may_go_on(&self) -> bool {
        self.unanswered.as_ref().is_none_or(|unanswered| unanswered.times < UNANSWERED_MAX)
    }
}

/// When it was asked for, and when it came.
#[derive(Debug)]
struct Reply {
    asked: Instant,
    came: Instant,
    answered: Answered,
}

/// What is remembered from turn to turn; losing it costs requests only.
#[derive(Debug, Default)]
struct Search {
    looks: VecDeque<Open>,
    agents: HashMap<ModelId, Agent>,
    asked_at: Option<Instant>,
    /// The database's time then.
    now: DateTime<Utc>,
    contact: Contact,
}

/// Whether the provider has told something all along.
#[derive(Debug, Default)]
struct Contact {
    last: Option<Instant>,
    /// The end of a silence that no look has taken account of yet.
    lost_until: Option<Instant>,
}

impl Contact {
    /// An answer that came to what was asked then. After a longer silence nobody knows what was; so after a request that
    /// took longer, for this process was asleep in it.
    fn answered(&mut self, asked: Instant, came: Instant, gap: Duration) {
        if came > asked + gap || self.last.is_none_or(|last| asked > last + gap) {
            self.lost_until = self.lost_until.max(Some(came));
        }
        self.last = self.last.max(Some(came));
    }
}

impl Search {
    /// The look whose turn it is: not of an agent that is left alone for a while.
    fn next_look(&mut self) -> Option<Open> {
        let now = clock::monotonic();
        let ready = self
            .looks
            .iter()
            .position(|open| !self.agents.get(&open.model).is_some_and(|a| a.is_quiet(now)))?;
        self.looks.remove(ready)
    }

    /// How long there is nothing to ask the provider; [`EVERY`] at most.
    fn rest(&self) -> Duration {
        let now = clock::monotonic();
        let rest = |open: &Open| match self.agents.get(&open.model).and_then(|agent| agent.quiet_until) {
            Some(until) => until.saturating_duration_since(now),
            None => Duration::ZERO,
        };
        self.looks.iter().map(rest).min().unwrap_or(EVERY).min(EVERY)
    }

    /// After a silence all looks begin anew.
    fn heed_silence(&mut self) {
        if let Some(until) = self.contact.lost_until.take() {
            self.break_rows(until);
        }
    }

    fn break_rows(&mut self, at: Instant) {
        self.agents.values_mut().for_each(|agent| agent.unbroken_since = agent.unbroken_since.max(at));
    }

    /// The database tells the time. Where more of it has passed by its clock than by ours, that clock has made a step, and
    /// how long looks are apart by it says nothing.
    fn read_clock(&mut self, now: DateTime<Utc>) {
        let read_at = clock::monotonic();
        if let Some(asked_at) = self.asked_at {
            let passed = (now - self.now).to_std().unwrap_or_default();
            if passed.abs_diff(read_at - asked_at) > STEP {
                self.break_rows(read_at);
            }
        }
        (self.now, self.asked_at) = (now, Some(read_at));
    }
}

#[derive(Debug)]
struct Agent {
    /// Its looks have followed each other since then, as fast as politeness allows, and none has failed.
    unbroken_since: Instant,
    others: HashSet<CallId>,
    backoff: Backoff,
    quiet_until: Option<Instant>,
}

impl Agent {
    fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    /// Leaves it alone for a while; gives how long.
    fn failed(&mut self) -> Duration {
        let wait = self.backoff.after_failure(rand::random());
        self.quiet_until = Some(clock::monotonic() + wait);
        wait
    }

    fn succeeded(&mut self) {
        self.backoff.succeeded();
        self.quiet_until = None;
    }

    /// These are others' calls, for good.
    fn know(&mut self, calls: impl IntoIterator<Item = CallId>) {
        for call_id in calls {
            if self.others.len() >= OTHERS_MAX {
                self.others.clear();
            }
            self.others.insert(call_id);
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            unbroken_since: clock::monotonic(),
            others: HashSet::new(),
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            quiet_until: None,
        }
    }
}

impl<L: EvidenceLedger, P: ReadsCalls + ReadsPools, D: Duties + Clone> ReconcileStage<L, P, D> {
    /// Runs until canceled.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { account, keys, .. } = &self;
        let mut duty = Duty::of_account(self.duties.clone(), "reconcile", account, keys, self.lease);
        let mut search = Search::default();
        let mut busy = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut wait = Duration::ZERO;
        while self.pause(wait, &cancel).await {
            wait = EVERY;
            if !duty.is_ours().await {
                search = Search::default();
                continue;
            }
            match duty.during(self.turn(&mut search, &cancel)).await {
                Ok(()) => {
                    busy.succeeded();
                    wait = search.rest();
                }
                Err(stop) => match stop.wait("reconcile", account, EVERY, &mut busy) {
                    Some(longer) => wait = longer,
                    None => break,
                },
            }
        }
        duty.leave().await;
    }

    /// Waits for the next turn; false: canceled.
    async fn pause(&self, wait: Duration, cancel: &CancellationToken) -> bool {
        if wait.is_zero() {
            return !cancel.is_cancelled();
        }
        tokio::select! {
            () = cancel.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
            () = self.unconfirmed.notified() => true,
        }
    }

    /// Asks the ledger now and then, and the provider a few times for the look whose turn it is.
    async fn turn(&self, search: &mut Search, cancel: &CancellationToken) -> Result<(), Stop> {
        if search.asked_at.is_none_or(|at| clock::monotonic() >= at + EVERY) || search.looks.is_empty() {
            self.plan(search).await?;
        }
        let Some(mut open) = search.next_look() else { return Ok(()) };
        let agent = search.agents.entry(open.model.clone()).or_default();
        match self.look(&mut open, agent, &mut search.contact, search.now, cancel).await {
            Ok(true) => {
                search.heed_silence();
                // Up to this look's beginning: from there on it has seen itself.
                let unbroken = search
                    .agents
                    .get(&open.model)
                    .map(|agent| open.began.saturating_duration_since(agent.unbroken_since));
                let gap = self.patience.gap().max(unbroken.unwrap_or_default());
                let began = open.look.began();
                let (attempts, complete) = open.look.in_vain();
                self.ledger.looked(&attempts, complete, began, gap).await?;
                Ok(())
            }
            Ok(false) => {
                search.looks.push_back(open);
                Ok(())
            }
            // It goes on where it was: what it has seen, it has seen.
            Err(stop @ (Stop::Ledger(_) | Stop::Provider(ProviderError::RateLimited { .. }))) => {
                search.looks.push_front(open);
                Err(stop)
            }
            Err(Stop::Provider(ProviderError::Unavailable(why))) if open.may_go_on() => {
                let retry_ms = agent.failed().as_millis() as u64;
                tracing::debug!(account = %self.account, model_id = %open.model, why, retry_ms, "reconcile.unanswered");
                search.looks.push_back(open);
                Ok(())
            }
            Err(stop) => {
                if matches!(&stop, Stop::Provider(_)) {
                    // The agent's other looks would wait for the same, ahead of those of others.
                    search.looks.retain(|other| other.model != open.model);
                }
                self.broke_off(open, agent, stop).await
            }
        }
    }

    /// A look that broke off proves nothing: it begins anew later.
    async fn broke_off(&self, open: Open, agent: &mut Agent, stop: Stop) -> Result<(), Stop> {
        if let Stop::Provider(error) = &stop {
            let wait = agent.failed();
            agent.unbroken_since = clock::monotonic();
            let began = open.look.began();
            let (attempts, _) = open.look.in_vain();
            self.ledger.looked(&attempts, false, began, self.patience.gap()).await?;
            match error {
                ProviderError::Unauthorized { .. } => self.keys.report_unauthorized(&self.account),
                error => {
                    tracing::warn!(
                        account = %self.account, model_id = %open.model, attempts = attempts.len(), %error,
                        retry_ms = wait.as_millis() as u64, "reconcile.broke_off"
                    );
                    return Ok(());
                }
            }
        }
        Err(stop)
    }

    /// Gives up what was sought long enough, and begins looks for what is due.
    async fn plan(&self, search: &mut Search) -> Result<(), Stop> {
        let sought = self.ledger.unknown(&self.account, UNKNOWN_MAX).await?;
        search.read_clock(sought.now);
        search.agents.retain(|model, _| sought.by_agent.contains_key(model));
        let mut over = Vec::new();
        for (model, attempts) in sought.by_agent {
            let agent = search.agents.entry(model.clone()).or_default();
            let quiet = agent.is_quiet(clock::monotonic());
            let under_way = search.looks.iter().any(|open| open.model == model);
            let mut due = Vec::new();
            for unknown in attempts {
                let redial_after = self.world.borrow().rules.redial_unknown_after(&unknown.campaign);
                match self.patience.verdict(&unknown, redial_after, sought.now) {
                    Some(verdict) => over.push((unknown.attempt, verdict)),
                    None if !quiet && !under_way && self.patience.is_due(&unknown, sought.now) => {
                        due.push(unknown);
                    }
                    None => {}
                }
            }
            let looks = windows(&model, due, sought.now).into_iter();
            let began = clock::monotonic();
            let open = |look| Open { model: model.clone(), look, began, requests: 0, unanswered: None };
            search.looks.extend(looks.map(open));
        }
        if !over.is_empty() {
            let attempts = self.ledger.give_up(&over).await?;
            tracing::warn!(account = %self.account, attempts, "reconcile.given_up: see outdial review list");
        }
        Ok(())
    }

    /// Asks what a look may ask at once, and takes what is answered; true: the look is over. What got no answer is asked
    /// again next time.
    async fn look(
        &self,
        open: &mut Open,
        agent: &mut Agent,
        contact: &mut Contact,
        now: DateTime<Utc>,
        cancel: &CancellationToken,
    ) -> Result<bool, Stop> {
        let steps = open.look.next(AT_ONCE);
        if steps.is_empty() {
            return Ok(true);
        }
        open.requests += steps.len();
        if open.requests > REQUESTS_MAX {
            tracing::warn!(account = %self.account, model_id = %open.model, "reconcile.too_long");
            return Ok(true);
        }
        let asked = clock::monotonic();
        let replies = join_all(steps.into_iter().map(|step| self.ask(&open.model, step, cancel))).await;
        let is_unavailable = |stop: &Stop| matches!(stop, Stop::Provider(ProviderError::Unavailable(_)));
        let some_answered = replies.iter().any(Result::is_ok);
        let mut stop = None;
        for reply in replies {
            match reply {
                Ok(reply) => {
                    contact.answered(reply.asked, reply.came, self.patience.gap());
                    open.answered(agent, reply.came, self.patience.gap());
                    self.take(&mut open.look, agent, reply.answered, now).await?;
                }
                Err(one) if some_answered && is_unavailable(&one) => {}
                Err(one) => stop = stop.filter(|worse| !is_unavailable(worse)).or(Some(one)),
            }
        }
        match stop {
            Some(stop) => {
                if is_unavailable(&stop) {
                    open.unanswered(asked);
                }
                Err(stop)
            }
            None => Ok(open.look.next(1).is_empty()),
        }
    }

    async fn ask(&self, model: &ModelId, step: Step, cancel: &CancellationToken) -> Result<Reply, Stop> {
        if !self.pace.turn(cancel).await {
            return Err(Stop::Canceled);
        }
        let asked = clock::monotonic();
        let answered = match step {
            Step::List(filter) => {
                let page = self.provider.list_calls(&filter).await.map_err(Stop::Provider)?;
                Answered::Page(filter, page)
            }
            Step::Get(call_id) => match self.provider.get_call(&call_id).await {
                Err(
                    error @ (ProviderError::Unauthorized { .. }
                    | ProviderError::RateLimited { .. }
                    | ProviderError::Unavailable(_)),
                ) => return Err(Stop::Provider(error)),
                answer => Answered::Call(call_id, answer),
            },
            Step::Agent => match self.provider.assistant(model).await {
                Ok(_) => Answered::Agent(true),
                Err(ProviderError::NotFound { .. } | ProviderError::Rejected { .. }) => {
                    Answered::Agent(false)
                }
                Err(error) => return Err(Stop::Provider(error)),
            },
        };
        Ok(Reply { asked, came: clock::monotonic(), answered })
    }

    async fn take(
        &self,
        look: &mut Look,
        agent: &mut Agent,
        answered: Answered,
        now: DateTime<Utc>,
    ) -> Result<(), Stop> {
        match answered {
            Answered::Page(filter, page) => {
                let unsure = look.may_be_ours(&page).filter(|id| !agent.others.contains(id));
                let unsure: Vec<CallId> = unsure.cloned().collect();
                if !unsure.is_empty() {
                    agent.know(self.ledger.known_calls(look.window(), &unsure).await?);
                }
                look.listed(&filter, &page, &agent.others);
            }
            Answered::Call(call_id, answer) => match look.told(&call_id, &answer, now) {
                Told::Found(found) => self.found(found).await?,
                Told::Anothers(call_id) => agent.know([call_id]),
                Told::Nothing => {}
            },
            Answered::Agent(known) => look.agent(known),
        }
        Ok(())
    }

    async fn found(&self, found: Found) -> Result<(), Stop> {
        learn(&self.ledger, &self.account, &found).await?;
        tracing::info!(account = %self.account, attempt.id = %found.attempt, call.id = %found.call_id, "reconcile.found");
        Ok(())
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;

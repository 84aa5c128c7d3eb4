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
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
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
const AT_ONCE: usize = 16;
/// How long a look goes on asking before another has its turn.
const TURN: Duration = Duration::from_secs(2);
/// A look that takes more requests is broken off, and proves nothing.
const REQUESTS_MAX: usize = 5_000;
/// So many times in a row a look may learn nothing, for the provider doesn't answer or the ledger doesn't; then it is
/// broken off.
const FAILURES_MAX: u32 = 5;
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
    /// In a row, see [`FAILURES_MAX`].
    failures: u32,
    /// Since then the provider has answered nothing that it asked.
    silent_since: Option<Instant>,
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
    fn heard(&mut self, agent: &mut Agent, came: Instant, gap: Duration) {
        if self.silent_since.take().is_some_and(|since| came > since + gap) {
            agent.unbroken_since = agent.unbroken_since.max(came);
        }
        agent.succeeded();
    }

    /// Counts one more; whether it may be tried again.
    fn failed(&mut self) -> bool {
        self.failures += 1;
        self.failures < FAILURES_MAX
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
#[derive(Debug)]
struct Search {
    looks: VecDeque<Open>,
    /// How many requests of a look are under way at once: fewer where that was too many for the provider.
    at_once: usize,
    agents: HashMap<ModelId, Agent>,
    asked_at: Option<Instant>,
    /// The database's time then.
    now: DateTime<Utc>,
    contact: Contact,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            looks: VecDeque::new(),
            at_once: AT_ONCE,
            agents: HashMap::new(),
            asked_at: None,
            now: DateTime::UNIX_EPOCH,
            contact: Contact::default(),
        }
    }
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
        let looked =
            self.look(&mut open, agent, &mut search.contact, search.at_once, search.now, cancel).await;
        match looked {
            Ok(true) => {
                search.heed_silence();
                let noted = self.note(&open, search).await;
                if matches!(noted, Err(LedgerError::Unavailable(_))) && open.failed() {
                    search.looks.push_back(open);
                }
                Ok(noted?)
            }
            Ok(false) => {
                open.failures = 0;
                search.at_once = (search.at_once + 1).min(AT_ONCE);
                search.looks.push_back(open);
                Ok(())
            }
            // In all these it goes on where it was: what it has seen, it has seen.
            Err(stop @ Stop::Provider(ProviderError::RateLimited { .. })) => {
                search.at_once = (search.at_once / 2).max(1);
                search.looks.push_front(open);
                Err(stop)
            }
            Err(stop @ Stop::Ledger(LedgerError::Unavailable(_))) => {
                if open.failed() {
                    search.looks.push_back(open);
                }
                Err(stop)
            }
            Err(stop @ Stop::Provider(ProviderError::Unavailable(_))) => {
                if !open.failed() {
                    return self.broke_off(open, search, stop).await;
                }
                let retry_ms = agent.failed().as_millis() as u64;
                tracing::debug!(account = %self.account, model_id = %open.model, retry_ms, "reconcile.unanswered");
                search.looks.push_back(open);
                Ok(())
            }
            Err(stop) => self.broke_off(open, search, stop).await,
        }
    }

    /// Writes down what a look that is over has not found.
    async fn note(&self, open: &Open, search: &Search) -> Answer<()> {
        // Up to this look's beginning: from there on it has seen itself.
        let agent = search.agents.get(&open.model);
        let unbroken = agent.map(|agent| open.began.saturating_duration_since(agent.unbroken_since));
        let gap = self.patience.gap().max(unbroken.unwrap_or_default());
        let (attempts, complete) = open.look.in_vain();
        self.ledger.looked(&attempts, complete, open.look.began(), gap).await
    }

    /// A look that broke off proves nothing: it begins anew later.
    async fn broke_off(&self, open: Open, search: &mut Search, stop: Stop) -> Result<(), Stop> {
        if let Stop::Provider(error) = &stop {
            // The agent's other looks would wait for the same, ahead of those of others.
            search.looks.retain(|other| other.model != open.model);
            let agent = search.agents.entry(open.model.clone()).or_default();
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
        let all = sought.by_agent.values().flatten().map(|unknown| unknown.attempt).collect::<HashSet<_>>();
        if all.len() < UNKNOWN_MAX {
            search.looks.iter_mut().for_each(|open| open.look.only(&all));
        }
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
            let open = |look| Open {
                model: model.clone(),
                look,
                began,
                requests: 0,
                failures: 0,
                silent_since: None,
            };
            search.looks.extend(looks.map(open));
        }
        if !over.is_empty() {
            let attempts = self.ledger.give_up(&over).await?;
            tracing::warn!(account = %self.account, attempts, "reconcile.given_up: see outdial review list");
        }
        Ok(())
    }

    /// Asks for a while what a look may ask, several things at once, and takes what is answered; true: the look is over.
    /// When something got no answer it asks no further: that is for the next turn.
    async fn look(
        &self,
        open: &mut Open,
        agent: &mut Agent,
        contact: &mut Contact,
        at_once: usize,
        now: DateTime<Utc>,
        cancel: &CancellationToken,
    ) -> Result<bool, Stop> {
        let (model, since, gap) = (open.model.clone(), clock::monotonic(), self.patience.gap());
        let (mut heard, mut unanswered, mut stop) = (false, None, None);
        let mut under_way = FuturesUnordered::new();
        let mut asked: Vec<Step> = Vec::new();
        loop {
            if unanswered.is_none() && stop.is_none() && clock::monotonic() < since + TURN {
                let fresh = open.look.next(at_once).into_iter().filter(|step| !asked.contains(step));
                let fresh: Vec<Step> = fresh.take(at_once.saturating_sub(asked.len())).collect();
                open.requests += fresh.len();
                if open.requests > REQUESTS_MAX {
                    tracing::warn!(account = %self.account, model_id = %model, "reconcile.too_long");
                    return Ok(true);
                }
                for step in fresh {
                    asked.push(step.clone());
                    under_way.push(async { (step.clone(), self.ask(&model, step, cancel).await) });
                }
            }
            let Some(next) = cancel.run_until_cancelled(under_way.next()).await else {
                return Err(Stop::Canceled);
            };
            let Some((step, reply)) = next else { break };
            asked.retain(|other| *other != step);
            match reply {
                Ok(reply) => {
                    heard = true;
                    contact.answered(reply.asked, reply.came, gap);
                    open.heard(agent, reply.came, gap);
                    stop = stop.or(self.take(&mut open.look, agent, reply.answered, now).await.err());
                }
                Err(one @ Stop::Provider(ProviderError::Unavailable(_))) => {
                    open.look.put_off(&step);
                    unanswered = Some(one);
                }
                Err(one) => stop = stop.or(Some(one)),
            }
        }
        if !heard && unanswered.is_some() {
            open.silent_since.get_or_insert(since);
        }
        match stop.or(unanswered.filter(|_| !heard)) {
            Some(stop) => Err(stop),
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
            Answered::Call(call_id, answer) => {
                // Written down before the look forgets it.
                if let Ok(record) = &answer
                    && let Some(found) = Found::of_record(record, now)
                {
                    self.found(found).await?;
                }
                match look.told(&call_id, &answer, now) {
                    Told::Anothers(call_id) => agent.know([call_id]),
                    Told::Found(_) | Told::Nothing => {}
                }
            }
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

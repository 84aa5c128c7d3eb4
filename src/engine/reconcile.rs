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
use crate::core::decide::World;
use crate::core::ids::{AccountName, AttemptId, CallId, ModelId};
use crate::core::outcome::ProviderError;
use crate::core::reconcile::{Found, GiveUp, Look, Patience, Step, Told, Unknown, windows};

/// Unknown attempts of one account that are looked for at a time, oldest first.
const UNKNOWN_MAX: usize = 10_000;
/// The ledger is asked for unknown attempts this often, and when rung.
const EVERY: Duration = Duration::from_secs(2);
/// Requests for one look before another has its turn.
const TURN: usize = 20;
/// A look that takes more requests is broken off, and proves nothing.
const REQUESTS_MAX: usize = 5_000;
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
    /// An answer to what was asked then. After a longer silence nobody knows what was; so after a request that took longer,
    /// for this process was asleep in it.
    fn answered(&mut self, asked: Instant, gap: Duration) {
        let now = clock::monotonic();
        if now > asked + gap || self.last.is_none_or(|last| asked > last + gap) {
            self.lost_until = Some(now);
        }
        self.last = Some(now);
    }
}

impl Search {
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
            match self.turn(&mut search, &cancel).await {
                Ok(()) => {
                    busy.succeeded();
                    if !search.looks.is_empty() {
                        wait = Duration::ZERO;
                    }
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
        let Some(mut open) = search.looks.pop_front() else { return Ok(()) };
        let agent = search.agents.entry(open.model.clone()).or_default();
        match self.look(&mut open, agent, &mut search.contact, search.now, cancel).await {
            Ok(true) => {
                agent.backoff.succeeded();
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
            // It goes on where it was.
            Err(stop @ Stop::Provider(ProviderError::RateLimited { .. })) => {
                search.looks.push_front(open);
                Err(stop)
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
            let wait = agent.backoff.after_failure(rand::random());
            agent.quiet_until = Some(clock::monotonic() + wait);
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
            let quiet = agent.quiet_until.is_some_and(|until| clock::monotonic() < until);
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
            search.looks.extend(looks.map(|look| Open { model: model.clone(), look, began, requests: 0 }));
        }
        if !over.is_empty() {
            let attempts = self.ledger.give_up(&over).await?;
            tracing::warn!(account = %self.account, attempts, "reconcile.given_up: see outdial review list");
        }
        Ok(())
    }

    /// A few steps of a look; true: it is over.
    async fn look(
        &self,
        open: &mut Open,
        agent: &mut Agent,
        contact: &mut Contact,
        now: DateTime<Utc>,
        cancel: &CancellationToken,
    ) -> Result<bool, Stop> {
        for _ in 0..TURN {
            let Some(step) = open.look.next() else { return Ok(true) };
            if open.requests >= REQUESTS_MAX {
                tracing::warn!(account = %self.account, model_id = %open.model, "reconcile.too_long");
                return Ok(true);
            }
            open.requests += 1;
            if !self.pace.turn(cancel).await {
                return Err(Stop::Canceled);
            }
            let asked = clock::monotonic();
            match step {
                Step::List(filter) => {
                    let page = self.provider.list_calls(&filter).await.map_err(Stop::Provider)?;
                    contact.answered(asked, self.patience.gap());
                    let unsure = open.look.may_be_ours(&page).filter(|id| !agent.others.contains(id));
                    let unsure: Vec<CallId> = unsure.cloned().collect();
                    if !unsure.is_empty() {
                        let known = self.ledger.known_calls(open.look.window(), &unsure).await?;
                        agent.know(known);
                    }
                    open.look.listed(&page, &agent.others);
                }
                Step::Agent => {
                    let known = match self.provider.assistant(&open.model).await {
                        Ok(_) => true,
                        Err(ProviderError::NotFound { .. } | ProviderError::Rejected { .. }) => false,
                        Err(error) => return Err(Stop::Provider(error)),
                    };
                    contact.answered(asked, self.patience.gap());
                    open.look.agent(known);
                }
                Step::Get(call_id) => {
                    let answer = self.provider.get_call(&call_id).await;
                    if let Err(
                        error @ (ProviderError::Unauthorized { .. }
                        | ProviderError::RateLimited { .. }
                        | ProviderError::Unavailable(_)),
                    ) = answer
                    {
                        return Err(Stop::Provider(error));
                    }
                    contact.answered(asked, self.patience.gap());
                    match open.look.told(&answer, now) {
                        Told::Found(found) => self.found(found).await?,
                        Told::Anothers(call_id) => agent.know([call_id]),
                        Told::Nothing => {}
                    }
                }
            }
        }
        Ok(open.look.next().is_none())
    }

    async fn found(&self, found: Found) -> Result<(), Stop> {
        learn(&self.ledger, &self.account, &found).await?;
        tracing::info!(account = %self.account, attempt.id = %found.attempt, call.id = %found.call_id, "reconcile.found");
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(5);

    async fn answer_after(contact: &mut Contact, wait: Duration, takes: Duration) {
        tokio::time::sleep(wait).await;
        let asked = clock::monotonic();
        tokio::time::sleep(takes).await;
        contact.answered(asked, GAP);
    }

    #[tokio::test(start_paused = true)]
    async fn many_slow_answers_are_no_silence_but_one_that_took_too_long_is() {
        let mut contact = Contact::default();
        let second = Duration::from_secs(1);
        answer_after(&mut contact, Duration::ZERO, second).await;
        assert!(
            contact.lost_until.take().is_some(),
            "of the time before the first answer nobody knows anything"
        );
        for _ in 0..20 {
            answer_after(&mut contact, second, 4 * second).await;
        }
        assert_eq!(contact.lost_until, None);
        answer_after(&mut contact, second, 6 * second).await;
        assert_eq!(contact.lost_until.take(), Some(clock::monotonic()));
        answer_after(&mut contact, 6 * second, second).await;
        assert_eq!(contact.lost_until.take(), Some(clock::monotonic()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_breaks_every_row_that_began_before_its_end() {
        let mut search = Search::default();
        let (old, new) = (ModelId::parse("old").unwrap(), ModelId::parse("new").unwrap());
        search.agents.insert(old.clone(), Agent::default());
        answer_after(&mut search.contact, Duration::ZERO, 6 * GAP).await;
        let ended = clock::monotonic();
        tokio::time::sleep(GAP).await;
        search.agents.insert(new.clone(), Agent::default());
        search.heed_silence();
        assert_eq!(search.agents[&old].unbroken_since, ended);
        assert_eq!(search.agents[&new].unbroken_since, ended + GAP, "it came after the silence");
    }
}

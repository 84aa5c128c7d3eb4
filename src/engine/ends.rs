//! The ends of calls, learned by polling: what frees concurrency and tells how calls went. One worker polls an account,
//! as politely as its [`Pace`] says, and only while calls are open. What to ask is planned in [`crate::core::ends`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounts::AccountKeys;
use super::duty::{Duties, Duty};
use super::pace::Pace;
use super::ports::LedgerError;
use super::provider::ReadsCalls;
use super::round::Stop;
use crate::clock;
use crate::core::backoff::Backoff;
use crate::core::call::{CallRecord, ListCalls};
use crate::core::ends::{End, OpenCall, Walk, plan_round};
use crate::core::ids::{AccountName, AttemptId, CallId, ModelId};
use crate::core::outcome::ProviderError;

/// Open calls of one account that are looked at in a round, oldest first.
const OPEN_MAX: usize = 20_000;
/// Requests about one agent in a round: with many agents each gets its turn.
const REQUESTS_PER_ROUND: usize = 10;
/// The provider's list may not show a call of the last seconds; later, one that it lacks is looked up.
const LIST_LAG: Duration = Duration::from_secs(30);
/// After the first call following a quiet time the list is read this soon (or after `calls.poll`, if that is less).
const AFTER_QUIET: Duration = Duration::from_secs(1);
/// Ends in one statement.
const BATCH_MAX: usize = 500;
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// An agent whose calls can't be listed has them looked up one by one for this long.
const WITHOUT_LIST: Duration = Duration::from_secs(60);

type Answer<T> = Result<T, LedgerError>;

/// The open calls of an account.
#[derive(Debug, Clone, Default)]
pub struct Open {
    /// By agent, oldest first.
    pub by_agent: BTreeMap<ModelId, Vec<OpenCall>>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// Where ends of calls are written down.
pub trait EndsLedger: Send + Sync + 'static {
    /// Up to `max` calls that were placed with the account and have no end, oldest first.
    fn open(&self, account: &AccountName, max: usize) -> impl Future<Output = Answer<Open>> + Send;
    /// Up to `max` calls, of any account, that have been open for longer than `live_max`.
    fn overdue(&self, live_max: Duration, max: usize) -> impl Future<Output = Answer<Vec<AttemptId>>> + Send;
    /// Writes ends down and frees their places; gives the attempts of which that was news.
    fn finish(&self, ends: &[End]) -> impl Future<Output = Answer<Vec<AttemptId>>> + Send;
    /// Looks at calls that the provider has placed from another number than was chosen: complains, quarantines where the
    /// rules say so, and gives how many. Each is looked at once, after its end was written, by whoever comes first.
    fn mismatched(&self) -> impl Future<Output = Answer<usize>> + Send;
}

/// Writes ends down, and looks at the numbers that were shown; gives how many were news. Shared by all who learn of ends.
///
/// # Errors
/// The ledger's; running it again changes nothing.
pub async fn write_down<L: EndsLedger>(ledger: &L, ends: &[End]) -> Answer<usize> {
    let news = ledger.finish(ends).await?;
    if ends.iter().any(|end| end.from_reported.is_some()) {
        judge_mismatches(ledger).await;
    }
    Ok(news.len())
}

/// Ends are written whether that succeeds or not: what is left is looked at with the next.
async fn judge_mismatches<L: EndsLedger>(ledger: &L) {
    if let Err(error) = ledger.mismatched().await {
        tracing::debug!(%error, "mismatched caller IDs are looked at later");
    }
}

/// Lengths of time, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct EndsTerms {
    /// `calls.poll`
    pub poll: Duration,
    /// `calls.live_max`
    pub live_max: Duration,
    /// `worker.lease`
    pub lease: Duration,
}

/// Polls for the ends of one account's calls.
#[derive(Debug)]
pub struct EndsStage<L, P, D> {
    pub account: AccountName,
    pub ledger: L,
    pub provider: P,
    pub duties: D,
    pub keys: Arc<AccountKeys>,
    pub pace: Arc<Pace>,
    pub terms: EndsTerms,
    /// Notified when a call is placed: after a quiet time the first end is then learned sooner.
    pub placed: Arc<Notify>,
}

/// What is remembered of an agent from round to round.
#[derive(Debug)]
struct Agent {
    walk: Option<Walk>,
    /// To be looked up one by one.
    single: VecDeque<CallId>,
    /// Calls in the provider's list for a second of time.
    per_second: f64,
    no_list_until: Option<Instant>,
    quiet_until: Option<Instant>,
    backoff: Backoff,
}

impl Default for Agent {
    fn default() -> Self {
        let backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        Self {
            walk: None,
            single: VecDeque::new(),
            per_second: 0.0,
            no_list_until: None,
            quiet_until: None,
            backoff,
        }
    }
}

impl<L: EndsLedger, P: ReadsCalls, D: Duties> EndsStage<L, P, D> {
    /// Runs until canceled.
    pub async fn run(self, cancel: CancellationToken)
    where
        D: Clone,
    {
        let Self { account, keys, terms, .. } = &self;
        let mut duty = Duty::of_account(self.duties.clone(), "ends", account, keys, terms.lease);
        let mut agents: HashMap<ModelId, Agent> = HashMap::new();
        // Of the whole account: it asked to slow down.
        let mut busy = Backoff::new(terms.poll.max(RETRY_FIRST), RETRY_MAX);
        let mut wait = Duration::ZERO;
        let mut quiet = true;
        while self.pause(wait, quiet, &cancel).await {
            wait = terms.poll;
            if !duty.is_ours().await {
                continue;
            }
            match duty.during(self.round(&mut agents, &cancel)).await {
                Ok(open) => {
                    quiet = open == 0;
                    busy.succeeded();
                }
                Err(stop) => match stop.wait("ends", account, terms.poll, &mut busy) {
                    Some(longer) => wait = longer,
                    None => break,
                },
            }
        }
        duty.leave().await;
    }

    /// Waits for the next round; false: canceled.
    async fn pause(&self, wait: Duration, quiet: bool, cancel: &CancellationToken) -> bool {
        let woken = async {
            self.placed.notified().await;
            tokio::time::sleep(AFTER_QUIET).await;
        };
        tokio::select! {
            () = cancel.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
            () = woken, if quiet => true,
        }
    }

    /// One look at all open calls of the account; gives how many there were.
    async fn round(
        &self,
        agents: &mut HashMap<ModelId, Agent>,
        cancel: &CancellationToken,
    ) -> Result<usize, Stop> {
        // Of those whose end somebody wrote who died then.
        judge_mismatches(&self.ledger).await;
        let overdue = self.ledger.overdue(self.terms.live_max, BATCH_MAX).await?;
        if !overdue.is_empty() {
            let ends: Vec<End> = overdue.into_iter().map(End::unknown).collect();
            let calls = write_down(&self.ledger, &ends).await?;
            tracing::warn!(calls, "calls whose end nobody learned gave their places back");
        }
        let open = self.ledger.open(&self.account, OPEN_MAX).await?;
        agents.retain(|model, _| open.by_agent.contains_key(model));
        for (model, calls) in &open.by_agent {
            let agent = agents.entry(model.clone()).or_default();
            if agent.quiet_until.is_some_and(|at| clock::monotonic() < at) {
                continue;
            }
            let outcome = Look { stage: self, model, calls, now: open.now, cancel, left: REQUESTS_PER_ROUND }
                .run(agent)
                .await;
            match outcome {
                Ok(()) => {
                    agent.backoff.succeeded();
                    agent.quiet_until = None;
                }
                Err(Stop::Provider(ProviderError::Unauthorized { status, text })) => {
                    self.keys.report_unauthorized(&self.account);
                    return Err(Stop::Provider(ProviderError::Unauthorized { status, text }));
                }
                Err(Stop::Provider(error)) if !matches!(error, ProviderError::RateLimited { .. }) => {
                    let wait = agent.backoff.after_failure(rand::random());
                    agent.quiet_until = Some(clock::monotonic() + wait);
                    tracing::warn!(
                        account = %self.account, model_id = %model, %error, retry_ms = wait.as_millis() as u64,
                        "the ends of an agent's calls could not be looked for"
                    );
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(open.by_agent.values().map(Vec::len).sum())
    }
}

/// A look at the open calls of one agent.
struct Look<'a, L, P, D> {
    stage: &'a EndsStage<L, P, D>,
    model: &'a ModelId,
    calls: &'a [OpenCall],
    now: DateTime<Utc>,
    cancel: &'a CancellationToken,
    /// Requests that may still be made.
    left: usize,
}

impl<L: EndsLedger, P: ReadsCalls, D: Duties> Look<'_, L, P, D> {
    async fn run(mut self, agent: &mut Agent) -> Result<(), Stop> {
        let mut open: HashMap<CallId, AttemptId> =
            self.calls.iter().filter_map(|call| Some((call.call_id.clone()?, call.attempt))).collect();
        agent.single.retain(|call_id| open.contains_key(call_id));
        self.plan(agent, &open);
        // Half of the requests are kept for single calls, if there are so many.
        let kept = agent.single.len().min(self.left / 2);
        while self.left > kept && agent.walk.is_some() {
            match self.page(agent, &mut open).await {
                Err(Stop::Provider(ProviderError::NotFound { .. } | ProviderError::Rejected { .. })) => {
                    // The agent may be gone; its calls aren't.
                    agent.no_list_until = Some(clock::monotonic() + WITHOUT_LIST);
                    agent.walk = None;
                    self.queue_all(agent);
                }
                other => other?,
            }
        }
        while self.left > 0
            && let Some(call_id) = agent.single.pop_front()
        {
            if let Some(attempt) = open.get(&call_id).copied() {
                self.look_up(&call_id, attempt).await?;
            }
        }
        Ok(())
    }

    /// Goes on with the walk through the list, or plans a new one.
    fn plan(&self, agent: &mut Agent, open: &HashMap<CallId, AttemptId>) {
        if let Some(walk) = &mut agent.walk {
            walk.unseen.retain(|call_id, _| open.contains_key(call_id));
            return;
        }
        if agent.no_list_until.is_some_and(|until| clock::monotonic() < until) {
            self.queue_all(agent);
            return;
        }
        let round = plan_round(self.calls, agent.per_second, self.now);
        agent.walk = round.list_from.map(|from| Walk::begin(from, self.calls));
        queue(&mut agent.single, round.single);
    }

    fn queue_all(&self, agent: &mut Agent) {
        queue(&mut agent.single, self.calls.iter().filter_map(|call| call.call_id.clone()));
    }

    async fn page(&mut self, agent: &mut Agent, open: &mut HashMap<CallId, AttemptId>) -> Result<(), Stop> {
        let Some(walk) = &mut agent.walk else { return Ok(()) };
        self.turn().await?;
        let filter = ListCalls {
            model_id: self.model.clone(),
            from: Some(walk.from),
            to: None,
            limit: ListCalls::LIMIT_MAX,
            offset: walk.offset,
            lead_phone_number: None,
        };
        let page = self.stage.provider.list_calls(&filter).await.map_err(Stop::Provider)?;
        if let (0, Some(total)) = (walk.offset, page.total) {
            let window_s = (self.now - walk.from).as_seconds_f64().max(1.0);
            agent.per_second = total as f64 / window_s;
        }
        let entries = page.calls.len() + page.unreadable;
        if walk.turn(page.calls.iter().map(|record| &record.call_id), entries, page.total) {
            queue(&mut agent.single, walk.missed(self.now, LIST_LAG));
            agent.walk = None;
        }
        // Each record once, though pages may overlap: what has ended is open no more.
        let ends: Vec<End> = page.calls.iter().filter_map(|record| self.end_of(open, record)).collect();
        self.finish(&ends).await
    }

    fn end_of(&self, open: &mut HashMap<CallId, AttemptId>, record: &CallRecord) -> Option<End> {
        let end = End::of_record(*open.get(&record.call_id)?, record, self.now)?;
        open.remove(&record.call_id);
        Some(end)
    }

    async fn look_up(&mut self, call_id: &CallId, attempt: AttemptId) -> Result<(), Stop> {
        self.turn().await?;
        match self.stage.provider.get_call(call_id).await {
            Ok(record) => match End::of_record(attempt, &record, self.now) {
                Some(end) => self.finish(&[end]).await,
                None => Ok(()),
            },
            // Perhaps not known yet; `calls.live_max` ends it at last.
            Err(
                ProviderError::NotFound { .. }
                | ProviderError::Unreadable(_)
                | ProviderError::Rejected { .. },
            ) => Ok(()),
            Err(error) => Err(Stop::Provider(error)),
        }
    }

    async fn turn(&mut self) -> Result<(), Stop> {
        self.left -= 1;
        if self.stage.pace.turn(self.cancel).await { Ok(()) } else { Err(Stop::Canceled) }
    }

    async fn finish(&self, ends: &[End]) -> Result<(), Stop> {
        for batch in ends.chunks(BATCH_MAX) {
            let calls = write_down(&self.stage.ledger, batch).await?;
            tracing::debug!(account = %self.stage.account, model_id = %self.model, calls, "calls have ended");
        }
        Ok(())
    }
}

fn queue(single: &mut VecDeque<CallId>, calls: impl IntoIterator<Item = CallId>) {
    for call_id in calls {
        if !single.contains(&call_id) {
            single.push_back(call_id);
        }
    }
}

#[cfg(test)]
#[path = "ends_tests.rs"]
mod tests;

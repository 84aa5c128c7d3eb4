//! Placing: a job with a slot becomes a POST, once.
//!
//! Leave (the attempt is committed as `submitting`) has come with the slot, or is asked for shortly before it; look at the
//! clocks once more, send, and write down what became of it. Leave and results go in group commits. What can't be written
//! while the database is away is kept and tried again: it is all the evidence there is.

mod arrivals;
mod pulse;
mod settle;
mod trail;
mod warmth;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::arrivals::Arrivals;
use self::pulse::Pulse;
use self::trail::Trail;
use self::warmth::Warmth;
use super::batch::Batcher;
use super::dispatch::{Ready, Slotted};
use super::fence::Fence;
use super::ledger::{LedgerError, PlaceLedger};
use super::ports::Traces;
use super::sending::{Sending, Unsent};
use super::tenure::Tenure;
use crate::clock;
use crate::core::call::{ATTEMPT_VARIABLE, PlaceCall};
use crate::core::decide::World;
use crate::core::ids::{AccountName, AttemptId, CampaignId, JobNo, ModelId};
use crate::core::ledger::{Authorised, Became, Leave, NoLeave, Reserved, Settlement};
use crate::core::outcome::{NotPlaced, NotSentCause, PlaceOutcome, Sent, Verdict, judge};
use crate::core::phone::E164;
use crate::core::states::Reason;
use crate::core::trace::Took;

/// The most to a statement.
const BATCH_MAX: usize = 256;
/// Of the slack, the part that is left for a request's way to the provider: it leaves before, or not at all.
const TRANSIT_SHARE: u32 = 4;
/// Between two tries to write down what became of a POST.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// A callee's pool could not be read again after the provider refused the caller ID.
const RECHECK_AGAIN: Duration = Duration::from_secs(60);
/// After the second fence has tripped.
const TRIPPED: Duration = Duration::from_secs(1);
/// An unreachable provider is tried again after this; the breaker holds the account meanwhile.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// The provider, as placing sees it.
pub trait Caller: Send + Sync + 'static {
    /// Opens a connection, where it takes longer than a slot lasts: the next call finds it open.
    fn warm(&self, account: &AccountName) -> impl Future<Output = ()> + Send;
    /// One POST, never repeated; nothing leaves at or after `send_before`.
    fn place(
        &self,
        account: &AccountName,
        call: &PlaceCall,
        send_before: Instant,
    ) -> impl Future<Output = Posted> + Send;
}

/// One POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    pub sent: Sent,
    /// The last byte had left by then; `None`: nothing has, or nobody saw it leave.
    pub left_by: Option<Instant>,
}

/// Who is told when an answer says more than what became of its call.
pub trait Desk: Send + Sync + 'static {
    /// The account's key was refused: this worker sends nothing more with it.
    fn unauthorized(&self, account: &AccountName) -> impl Future<Output = ()> + Send;
    /// The provider doesn't know the agent.
    fn agent_unavailable(
        &self,
        account: &AccountName,
        model: &ModelId,
        why: &str,
    ) -> impl Future<Output = ()> + Send;
    /// Reads the agent's pool again: whether the number is in it. `None`: it couldn't be read.
    fn still_attached(
        &self,
        account: &AccountName,
        model: &ModelId,
        number: &E164,
    ) -> impl Future<Output = Option<bool>> + Send;
    /// A call was placed with the account: its end is to be learned.
    fn placed(&self, account: &AccountName);
    /// Nobody knows whether one was: it is to be looked for.
    fn unconfirmed(&self, account: &AccountName);
    /// The provider has refused the campaign's jobs five times in a row.
    fn refused_in_a_row(&self, campaign: &CampaignId) -> impl Future<Output = ()> + Send;
}

/// What placing counts.
pub trait PlaceMeter: Traces + Send + Sync + 'static {
    /// A job's first POST, so long after its receipt.
    fn first_post(&self, waited: Duration);
    fn settled(&self, account: &AccountName, became: &Became);
    /// A slot given up without leave to send: `late`, `stopped`, `stale`, `gone`, `fenced`, `draining`, `unavailable`.
    fn unused(&self, why: &'static str);
    /// One more result is to be written down; `false`: one less.
    fn unwritten(&self, more: bool);
    /// A POST left after the last check's deadline: the process was stopped in between.
    fn late_send(&self);
    /// The second fence tripped: the ledger is wrong.
    fn violation(&self);
    fn statement(&self, name: &'static str, items: usize, took: Duration, succeeded: bool);
}

#[derive(Debug)]
pub struct Place<L, C, D, M> {
    pub ledger: Arc<L>,
    pub caller: Arc<C>,
    pub desk: Arc<D>,
    pub meter: Arc<M>,
    pub world: watch::Receiver<Arc<World>>,
    pub tenure: Arc<Tenure>,
    pub slack: Duration,
    pub sending: Arc<Sending>,
}

/// Everything one job's placing needs.
struct Desks<L, C, D, M> {
    parts: Place<L, C, D, M>,
    fence: Fence,
    arrivals: Arrivals,
    warmth: Warmth,
    leave: Batcher<Leave, Result<Authorised, LedgerError>>,
    release: Batcher<JobNo, Result<(), LedgerError>>,
    settle: Batcher<Settlement, Result<(), LedgerError>>,
    draining: CancellationToken,
}

impl<L: PlaceLedger, C: Caller, D: Desk, M: PlaceMeter> Place<L, C, D, M> {
    /// Until `ready` is closed and everything under way is settled. After `draining` slots to come are handed back; POSTs
    /// in flight are waited for.
    pub async fn run(self, mut ready: mpsc::Receiver<Ready>, draining: CancellationToken) {
        let batches = TaskTracker::new();
        let jobs = TaskTracker::new();
        let (pulse, over) = (Arc::new(Pulse::default()), CancellationToken::new());
        let (beats, until) = (Arc::clone(&pulse), over.clone());
        batches.spawn(async move { until.run_until_cancelled(beats.beat()).await });
        let leave = settle::leave_batches(&self, &batches);
        let release = settle::release_batches(&self, &batches);
        let settle = settle::settle_batches(&self, &batches);
        let desks = Arc::new(Desks {
            parts: self,
            fence: Fence::default(),
            arrivals: Arrivals::new(pulse),
            warmth: Warmth::new(),
            leave,
            release,
            settle,
            draining,
        });
        while let Some(job) = ready.recv().await {
            let desks = Arc::clone(&desks);
            jobs.spawn(async move { desks.place(job).await });
        }
        jobs.close();
        jobs.wait().await;
        drop(desks);
        over.cancel();
        batches.close();
        batches.wait().await;
    }
}

impl<L: PlaceLedger, C: Caller, D: Desk, M: PlaceMeter> Desks<L, C, D, M> {
    async fn place(&self, ready: Ready) {
        let Ready { job, permit, unsent } = ready;
        self.place_in_slot(&job, unsent).await;
        drop(permit);
        self.parts.sending.freed();
    }

    async fn place_in_slot(&self, job: &Slotted, unsent: Unsent) {
        let attempt = job.intent.attempt;
        let trail = Trail::of(job).filter(|_| self.parts.meter.traced());
        let leave = match job.reserved.leave {
            Some(leave) => leave,
            None => match self.leave_later(job).await {
                Some(leave) => leave,
                None => return,
            },
        };
        let first = match leave {
            Authorised::Go { attempt_no } => attempt_no == 1,
            Authorised::No(why) => return self.no_leave(job, why).await,
        };
        if let Some(trail) = &trail {
            self.parts.meter.span(trail.decided(job));
        }
        let (verdict, arrived_by) = self.send(job, attempt, first, unsent, trail.as_ref()).await;
        let settlement = Settlement { arrived_by, ..self.meaning(job, attempt, verdict).await };
        let became = settlement.became.clone();
        self.write(settlement).await;
        if let Some(trail) = &trail {
            self.parts.meter.span(trail.dialed(job, attempt, &became));
        }
        match became {
            Became::Placed { .. } => self.parts.desk.placed(job.account()),
            Became::Unknown => self.parts.desk.unconfirmed(job.account()),
            Became::Refused { .. } | Became::Retry { .. } | Became::Unsent { .. } => {}
        }
    }

    /// Leave for a slot that was too far ahead for it when it was made. `None`: there is none, and all is tidied up.
    async fn leave_later(&self, job: &Slotted) -> Option<Authorised> {
        let sending = &self.parts.sending;
        if !self.wait_for(job.reserved.slot, sending.lead()).await {
            self.hand_back(job, "draining").await;
            return None;
        }
        let Reserved { job_no, slot, .. } = job.reserved;
        let asked = clock::monotonic();
        let leave = self.leave.ask(Leave { job_no, slot, intent: job.intent.clone() }).await;
        sending.leave_took(asked.elapsed());
        if let Ok(Ok(leave)) = leave {
            return Some(leave);
        }
        // Whether it was committed, or still will be, is not known, but nothing was sent: both ends are tidied up. Without
        // its reservation no leave can be given any more; so that goes first.
        self.hand_back(job, "unavailable").await;
        self.write(Settlement::nothing_sent(job.intent.attempt)).await;
        None
    }

    /// Waits until `ahead` before the slot; false: stopping.
    async fn wait_for(&self, slot: DateTime<Utc>, ahead: Duration) -> bool {
        let Some(opens) = self.parts.tenure.opens(slot) else { return true };
        let until = opens.checked_sub(ahead).unwrap_or(opens);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => true,
            () = self.draining.cancelled() => false,
        }
    }

    async fn no_leave(&self, job: &Slotted, why: NoLeave) {
        match why {
            NoLeave::Gone => self.parts.meter.unused("gone"),
            // Handing back is by worker: where it was taken over already, this does nothing.
            NoLeave::Fenced => self.hand_back(job, "fenced").await,
            NoLeave::Late => {
                self.parts.sending.missed();
                self.hand_back(job, "late").await;
            }
            NoLeave::Stale => self.hand_back(job, "stale").await,
            NoLeave::Stopped(_) => self.hand_back(job, "stopped").await,
        }
    }

    async fn hand_back(&self, job: &Slotted, why: &'static str) {
        self.parts.meter.unused(why);
        while let Ok(Err(error)) = self.release.ask(job.reserved.job_no).await {
            if matches!(error, LedgerError::Refused(_)) {
                tracing::error!(error = %error, job.id = %job.reserved.job_id, "reservation.release.refused");
                return;
            }
            tokio::time::sleep(WRITE_AGAIN).await;
        }
        self.parts.sending.bell.notify_one();
    }

    /// The POST itself, between the slot's beginning and the end of its slack. Gives also by when the call has arrived,
    /// if that may be later than the slack allows.
    async fn send(
        &self,
        job: &Slotted,
        attempt: AttemptId,
        first: bool,
        unsent: Unsent,
        trail: Option<&Trail>,
    ) -> (Verdict, Option<DateTime<Utc>>) {
        let Place { tenure, slack, sending, .. } = &self.parts;
        let slot = job.reserved.slot;
        if let Some(opens) = tenure.opens(slot) {
            tokio::time::sleep_until(opens).await;
        }
        let closes = tenure.closes(slot, *slack - *slack / TRANSIT_SHARE);
        let late = || (judge(&Sent::NotSent(NotSentCause::TooLate), true), None);
        // After a step of the database's clock the slot is another moment than it was.
        let stepped = tenure.steps() != job.steps;
        let Some(closes) = closes.filter(|at| *at > clock::monotonic() && !stepped) else {
            sending.missed();
            return late();
        };
        if !self.fence_admits(job).await {
            return late();
        }
        let mut call = call_of(job, attempt);
        if let Some(trail) = trail {
            call.traceparent = Some(trail.header());
        }
        let received = job.reserved.received_at;
        let waited = tenure.now().filter(|_| first).map(|reading| (reading.now - received).to_std());
        drop(unsent);
        let began = clock::wall();
        let mut posted = self.parts.caller.place(job.account(), &call, closes).await;
        let took = Took { began, ended: clock::wall() };
        self.note(job, &mut posted, closes, waited.map(Result::unwrap_or_default)).await;
        if let Some(trail) = trail {
            self.parts.meter.span(trail.posted(took, attempt, &posted));
        }
        // A process that was stopped for long doesn't know the time well any more, but well enough for this.
        let now = self.parts.tenure.reckon();
        let arrived_by = now.and_then(|now| self.arrivals.late(job.account(), &posted, (slot, *slack), now));
        (judge(&posted.sent, job.number().is_some()), arrived_by)
    }

    /// What a POST says beside what became of its call. `waited`: from the job's receipt, for its first POST.
    async fn note(&self, job: &Slotted, posted: &mut Posted, closes: Instant, waited: Option<Duration>) {
        let Place { sending, meter, caller, .. } = &self.parts;
        match &posted.sent {
            Sent::NotSent(cause) => {
                if let Some(number) = job.number() {
                    self.fence.take_back(number);
                }
                if *cause != NotSentCause::TooLate {
                    return sending.met();
                }
                sending.missed();
                // The slot may have gone by while a connection was opened: without this it would, every time.
                if !self.warmth.missed(job.account(), caller.as_ref()).await {
                    posted.sent = Sent::NotSent(NotSentCause::ConnectTimeout);
                }
            }
            Sent::Unclear(_) | Sent::Answered(_) => {
                sending.met();
                self.warmth.sent(job.account());
                if posted.left_by.is_none_or(|at| at > closes) {
                    meter.late_send();
                }
                if let Some(waited) = waited {
                    meter.first_post(waited);
                }
            }
        }
    }

    async fn fence_admits(&self, job: &Slotted) -> bool {
        let Some(number) = job.number() else { return true };
        let limits = {
            let world = self.parts.world.borrow();
            // Its slot is exact by the limits of the version it was made under; those of a newer one say nothing of it.
            if world.version != job.version {
                return true;
            }
            world.rules.number_limits(number)
        };
        let admits = self.fence.admits(number, limits);
        if !admits {
            self.parts.meter.violation();
            let job_id = &job.reserved.job_id;
            tracing::error!(number.masked = %number.masked(), job.id = %job_id, "limit.violation.prevented");
            // Its job would be chosen for the same number again at once.
            tokio::time::sleep(TRIPPED).await;
        }
        admits
    }

    /// What a verdict means for the job, and for whom else.
    async fn meaning(&self, job: &Slotted, attempt: AttemptId, verdict: Verdict) -> Settlement {
        let account = job.account();
        let model = &job.pick.plan.model;
        let desk = &self.parts.desk;
        let became = match &verdict.outcome {
            PlaceOutcome::NotPlaced(NotPlaced::Unauthorized) => {
                desk.unauthorized(account).await;
                Became::Retry { reason: Reason::AccountPaused, ready_in: None }
            }
            PlaceOutcome::NotPlaced(NotPlaced::AgentUnavailable) => {
                let why = verdict.provider_error.as_deref().unwrap_or("the provider answered 404");
                desk.agent_unavailable(account, model, why).await;
                Became::Retry { reason: Reason::AgentUnavailable, ready_in: None }
            }
            PlaceOutcome::NotPlaced(NotPlaced::CallerIdRejected) => {
                let attached = match job.number() {
                    Some(number) => desk.still_attached(account, model, number).await,
                    None => Some(true),
                };
                match attached {
                    Some(true) => Became::Refused { reason: Reason::ProviderRejected },
                    Some(false) => Became::Retry { reason: Reason::NoEligibleNumber, ready_in: None },
                    None => Became::Retry { reason: Reason::PoolUnknown, ready_in: Some(RECHECK_AGAIN) },
                }
            }
            outcome => settle::became(outcome),
        };
        self.parts.meter.settled(account, &became);
        Settlement {
            attempt,
            became,
            http_status: verdict.http_status,
            error: verdict.provider_error,
            answer: verdict.raw,
            signal: settle::signal(&verdict.outcome, verdict.http_status),
            arrived_by: None,
        }
    }

    /// Writes down what became of an attempt, however long the database is away.
    async fn write(&self, settlement: Settlement) {
        let waits = matches!(settlement.became, Became::Retry { .. } | Became::Unsent { .. });
        self.parts.meter.unwritten(true);
        self.insist(settlement).await;
        self.parts.meter.unwritten(false);
        if waits {
            self.parts.sending.bell.notify_one();
        }
    }

    async fn insist(&self, settlement: Settlement) {
        while let Ok(Err(error)) = self.settle.ask(settlement.clone()).await {
            if matches!(error, LedgerError::Refused(_)) {
                tracing::error!(error = %error, attempt.id = %settlement.attempt, "attempt.settle.refused");
                return;
            }
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }
}

fn call_of(job: &Slotted, attempt: AttemptId) -> PlaceCall {
    let content = job.reserved.content.clone();
    let mut custom_variables = content.custom_variables;
    custom_variables.push((ATTEMPT_VARIABLE.to_owned(), attempt.to_string()));
    PlaceCall {
        model_id: job.pick.plan.model.clone(),
        phone: job.reserved.phone.clone(),
        name: job.reserved.name.clone(),
        from_phone_number: job.number().cloned(),
        custom_variables,
        prompt: content.prompt,
        greeting: content.greeting,
        lead_email: content.lead_email,
        lead_timezone: content.lead_timezone,
        // Whose trace isn't recorded here hands it on as it came.
        traceparent: job.reserved.traceparent.clone(),
    }
}

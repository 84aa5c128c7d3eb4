//! What is asked of the ledger and what it answers, as plain values.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::ids::{
    AccountName, AttemptId, Brand, CallId, CampaignId, ClassNo, JobId, JobNo, ModelId, RoutingVersion,
};
use super::job::Content;
use super::phone::E164;
use super::place::Region;
use super::states::Reason;
use super::suppression::Scope;

/// The control row, and the database's time when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    pub version: RoutingVersion,
    pub epoch: i64,
    pub kill_switch: bool,
}

/// The first waiting job of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassHead {
    pub class_no: ClassNo,
    /// 9 − priority: the smallest goes first.
    pub rank: i16,
    pub job_no: JobNo,
}

/// A waiting job that could be dialed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub job_no: JobNo,
    pub class_no: ClassNo,
    pub rank: i16,
    pub phone: E164,
    /// An IANA zone, as the publisher gave it.
    pub lead_timezone: Option<String>,
    /// The publisher tells of the callee's consent.
    pub consented: bool,
    /// For whom its phone must not be called.
    pub suppressed: Vec<Scope>,
}

/// A callee's own number, by whom and for which brand it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StickyKey {
    pub model: ModelId,
    pub brand: Option<Brand>,
    pub phone: E164,
}

/// Asks for a slot for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub job_no: JobNo,
    pub campaign: CampaignId,
    pub account: AccountName,
    /// `None`: the agent's own default.
    pub number: Option<E164>,
    /// Set where a sticky rule chose: the claim fails if somebody else was first.
    pub sticky: Option<StickyAsk>,
    /// Set where calls to one phone are kept count of.
    pub recipient: Option<RecipientAsk>,
}

/// Who calls, as far as the callee is concerned, and how often they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientAsk {
    /// The brand; without one the campaign.
    pub caller: Scope,
    pub caps: Vec<Cap>,
}

/// At most so many calls to one phone in any window of so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cap {
    pub calls: u32,
    pub seconds: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyAsk {
    pub model: ModelId,
    pub brand: Option<Brand>,
    /// The number that the decision found and set aside as no longer eligible.
    pub gives_way: Option<E164>,
}

/// What is recorded of a call that is about to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    pub attempt: AttemptId,
    pub model: ModelId,
    pub brand: Option<Brand>,
    pub region: Option<Region>,
    pub rule: Option<String>,
    pub decision: serde_json::Value,
    /// The campaign's window closes then; a slot at or after it isn't used.
    pub window_until: Option<DateTime<Utc>>,
}

/// Why a job got no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoSlot {
    /// The decision was made under rules that no longer hold, or the kill switch is on.
    Stale,
    /// A limited thing has no row yet.
    NoLimits,
    Expired,
    AccountPaused,
    ProviderUnavailable,
    /// Another job of this callee holds another number.
    Sticky,
    NumberLimit,
    CampaignLimit,
    AccountLimit,
    /// The callee was called too lately, or another job for it goes first.
    RecipientLimit,
    /// The same, by a call that may still come to nothing: its date is none to be told.
    RecipientBusy,
}

/// What came of asking for slots.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotAnswers {
    /// What the database's clock said; `None`: others have taken all of the jobs.
    pub said: Option<DateTime<Utc>>,
    pub answers: Vec<SlotAnswer>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SlotAnswer {
    Granted(Box<Reserved>),
    /// `next_at`: when there is room, where that is known.
    None {
        job_no: JobNo,
        why: NoSlot,
        next_at: Option<DateTime<Utc>>,
    },
}

impl SlotAnswer {
    pub fn granted(&self) -> Option<&Reserved> {
        match self {
            Self::Granted(reserved) => Some(reserved),
            Self::None { .. } => None,
        }
    }
}

/// A job with a slot, and what is needed to place its call.
#[derive(Clone, PartialEq)]
pub struct Reserved {
    pub job_no: JobNo,
    pub job_id: JobId,
    /// The database's time from which the call may arrive at the provider, for the limits' slack.
    pub slot: DateTime<Utc>,
    pub phone: E164,
    pub name: String,
    pub content: Content,
    pub traceparent: Option<String>,
    /// What was said of leave; `None`: its slot isn't yet so near that it was asked for.
    pub leave: Option<Authorised>,
    pub received_at: DateTime<Utc>,
}

impl std::fmt::Debug for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserved")
            .field("job_id", &self.job_id)
            .field("slot", &self.slot)
            .field("phone", &self.phone)
            .finish_non_exhaustive()
    }
}

/// Asks leave to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Leave {
    pub job_no: JobNo,
    /// The reservation's; leave is for no other that the job may have got since.
    pub slot: DateTime<Utc>,
    pub intent: Intent,
}

/// The answer to [`Leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authorised {
    /// Committed as `submitting`: from here on only an answer, or a look-up, tells what became of it.
    Go {
        attempt_no: i16,
    },
    No(NoLeave),
}

/// Why a reserved job may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoLeave {
    /// The reservation is not ours any more.
    Gone,
    /// This worker was taken for dead.
    Fenced,
    Late,
    /// The rules have changed since the reservation.
    Stale,
    /// Something was stopped meanwhile.
    Stopped(Reason),
}

/// What became of one attempt, to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    pub attempt: AttemptId,
    pub became: Became,
    pub http_status: Option<u16>,
    /// For people: bounded, phone numbers masked.
    pub error: Option<String>,
    /// The provider's answer as it came, of anything but a plain success; bounded.
    pub answer: Option<String>,
    pub signal: Option<Signal>,
    /// The call may have arrived as late as then, which is later than its slot and the slack allow. The limits keep
    /// their distance from it.
    pub arrived_by: Option<DateTime<Utc>>,
}

impl Settlement {
    /// Of an attempt of which not a byte was sent, should it stand in the ledger.
    pub fn nothing_sent(attempt: AttemptId) -> Self {
        Self {
            attempt,
            became: Became::Unsent { reason: Reason::Queued, ready_in: None },
            http_status: None,
            error: None,
            answer: None,
            signal: None,
            arrived_by: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Became {
    Placed {
        call_id: CallId,
    },
    Unknown,
    Refused {
        reason: Reason,
    },
    /// Known not placed: the job waits again. `ready_in` from now; `None`: at once.
    Retry {
        reason: Reason,
        ready_in: Option<Duration>,
    },
    /// Authorised, but not one byte was sent: counts against no limit.
    Unsent {
        reason: Reason,
        ready_in: Option<Duration>,
    },
}

/// What a POST says of the account's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It answered.
    Ok,
    /// 429.
    Busy { retry_after: Option<Duration> },
    /// No readable answer, or unreachable.
    Unknown,
}

/// Limits of time that a reservation is made under.
#[derive(Debug, Clone, Copy)]
pub struct SlotTerms {
    /// A slot is at least this far ahead: time for leave to come.
    pub lead: Duration,
    /// Leave is given at once for slots that begin at most this much later.
    pub soon: Duration,
    /// A slot is at most this much further ahead.
    pub horizon: Duration,
    pub slack: Duration,
}

/// A job to be parked by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Park {
    pub job_no: JobNo,
    pub reason: Reason,
    pub until: ParkedUntil,
    /// The class it is decided with from now on; `None`: as before.
    pub class_no: Option<ClassNo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedUntil {
    /// Not at all: it only changes its class.
    Now,
    /// A true date, never a guess at capacity.
    Date(DateTime<Utc>),
    /// Until the rules or the job change.
    Change,
    /// The same, but it is looked at again then: no date to be told.
    Look(DateTime<Utc>),
}

/// What dispatch last said of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassStatus {
    pub class_no: ClassNo,
    pub reason: Reason,
    pub due_at: Option<DateTime<Utc>>,
}

/// What ends all jobs of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassEnd {
    Refused(Reason),
    Canceled,
}

//! What is asked of the provider and what it tells, as plain values.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};

use super::ids::{CallId, ModelId};
use super::phone::E164;

/// The custom variable that carries our attempt id to the provider and back.
pub const ATTEMPT_VARIABLE: &str = "outdial_attempt_id";

/// One call to be placed, as `POST /v2/calls` takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct PlaceCall {
    pub model_id: ModelId,
    /// The callee.
    pub phone: E164,
    /// The callee's name; the agent may speak it.
    pub name: String,
    /// The caller ID; `None` leaves the choice to the agent.
    pub from_phone_number: Option<E164>,
    /// Key and value, in the order they are sent; ours ([`ATTEMPT_VARIABLE`]) among them.
    pub custom_variables: Vec<(String, String)>,
    pub prompt: Option<String>,
    pub greeting: Option<String>,
    pub lead_email: Option<String>,
    /// An IANA time zone.
    pub lead_timezone: Option<String>,
    /// The header of that name: the trace that this call is part of.
    pub traceparent: Option<String>,
}

/// Numbers masked, everything a person could be known by left out.
impl fmt::Debug for PlaceCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlaceCall")
            .field("model_id", &self.model_id)
            .field("phone", &self.phone)
            .field("from_phone_number", &self.from_phone_number)
            .field("attempt_id", &self.variable(ATTEMPT_VARIABLE))
            .finish_non_exhaustive()
    }
}

impl PlaceCall {
    pub fn variable(&self, key: &str) -> Option<&str> {
        self.custom_variables.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// What the provider tells of a call. Everything but its id may be missing.
#[derive(Clone, PartialEq)]
pub struct CallRecord {
    pub call_id: CallId,
    pub model_id: Option<ModelId>,
    /// The provider's own word, unknown ones included. See [`super::ending::progress`].
    pub status: Option<String>,
    pub end_reason: Option<String>,
    pub error_message: Option<String>,
    /// The caller ID it was placed from, as far as the provider says so in a readable form.
    pub from: Option<E164>,
    /// The callee; `None` where the workspace redacts personal data.
    pub to: Option<E164>,
    /// Seconds.
    pub duration_s: Option<f64>,
    pub start_time: Option<DateTime<Utc>>,
    pub recording_url: Option<String>,
    /// The custom variables it was placed with: told by a look-up of one call, never by a list.
    pub prompt_variables: BTreeMap<String, String>,
}

impl fmt::Debug for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallRecord")
            .field("call_id", &self.call_id)
            .field("status", &self.status)
            .field("end_reason", &self.end_reason)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("duration_s", &self.duration_s)
            .finish_non_exhaustive()
    }
}

/// Which calls to list. The provider requires the agent and ignores, silently, whatever it doesn't know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListCalls {
    pub model_id: ModelId,
    /// Inclusive.
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub to: Option<DateTime<Utc>>,
    /// 1 to [`ListCalls::LIMIT_MAX`].
    pub limit: u32,
    pub offset: u32,
    /// Finds nothing in a workspace that redacts personal data.
    pub lead_phone_number: Option<E164>,
}

impl ListCalls {
    pub const LIMIT_MAX: u32 = 100;
}

/// A page of a list of calls; the provider promises no order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CallPage {
    pub calls: Vec<CallRecord>,
    /// Entries of the page that had no readable id.
    pub unreadable: usize,
    /// How many calls the filter matches in all, where told.
    pub total: Option<u64>,
}

/// A number attached to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolNumber {
    pub number: E164,
    /// The provider's handle of it, for detaching: the number without `+` unless the provider says otherwise.
    pub slug: String,
    /// `None` for imported numbers.
    pub sid: Option<String>,
}

/// An agent and the numbers it may call from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assistant {
    pub model_id: ModelId,
    pub name: Option<String>,
    /// `outbound`, `inbound`, … as the provider says it.
    pub kind: Option<String>,
    /// `None`: the answer didn't tell, which is not the same as none attached.
    pub pool: Option<Vec<PoolNumber>>,
    /// Entries of the pool that were not phone numbers.
    pub unreadable: usize,
}

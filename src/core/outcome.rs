//! What an answer to `POST /v2/calls` means.
//!
//! The rule behind every line: a call counts as *not placed* only where the provider's documentation says so, or
//! where the request can't have left. All else is *unknown*, and what is unknown is never dialed again by itself.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::ids::CallId;
use super::text::{mask_digits, tidy};

/// Of an answer that is kept for the record, at most this much.
pub const RAW_BYTES_MAX: usize = 2048;
/// Of a provider's error text, at most this much.
pub const ERROR_BYTES_MAX: usize = 500;
/// A longer wait than this, asked for by `Retry-After`, is cut to it: a slip there must not stop an account for days.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How far one POST got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte of the request was written.
    NotSent(NotSentCause),
    /// It may have reached the provider; no status line came back.
    Unclear(UnclearCause),
    Answered(Answer),
}

/// Why nothing was sent. The text is for people; it names no callee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSentCause {
    /// The deadline had passed before the first byte.
    TooLate,
    Dns(String),
    /// Refused, unreachable, or the TLS handshake failed.
    Connect(String),
    /// No connection within the time-out.
    ConnectTimeout,
    /// The request couldn't be built.
    Build(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnclearCause {
    Timeout,
    /// Reset, closed, or not HTTP.
    Connection(String),
}

/// A status line came back.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// As far as it could be read: it may be cut short by its bound, a reset or a time-out.
    pub body: Vec<u8>,
    pub retry_after: Option<Duration>,
}

/// Error bodies quote phone numbers: only the length is shown.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("retry_after", &self.retry_after)
            .finish()
    }
}

/// What became of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceOutcome {
    Placed {
        call_id: CallId,
    },
    NotPlaced(NotPlaced),
    /// Nobody knows: look it up, never dial again.
    Unknown,
}

/// Known not placed: what the dialer does about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotPlaced {
    /// Nothing was sent, for the slot's or the lease's end had come: a new slot. Counts against no limit.
    TooLate,
    /// Nothing was sent, for the provider can't be reached: back off and try again. Counts against no limit.
    Unreachable,
    /// 429: the account backs off. The POST counts against the limits.
    Busy { retry_after: Option<Duration> },
    /// 401, 403: a fault of the account's key or region, never of the job.
    Unauthorized,
    /// 404: the agent is held, its jobs are not refused.
    AgentUnavailable,
    /// 400 to a POST that carried our `from_phone_number`: re-read the pool. If the number is gone the job goes
    /// back, else it is refused.
    CallerIdRejected,
    /// 400 or 422 for all other reasons: the job is refused.
    Rejected,
}

/// An outcome and what is kept of the answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: PlaceOutcome,
    pub http_status: Option<u16>,
    /// For people and reports: one line of at most [`ERROR_BYTES_MAX`] bytes, phone numbers masked.
    pub provider_error: Option<String>,
    /// The answer as it came, of anything but a plain success; at most [`RAW_BYTES_MAX`] bytes, storable as text.
    pub raw: Option<String>,
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict")
            .field("outcome", &self.outcome)
            .field("http_status", &self.http_status)
            .field("provider_error", &self.provider_error)
            .finish_non_exhaustive()
    }
}

/// Judges one POST. `with_caller_id`: it carried a `from_phone_number` of ours.
pub fn judge(sent: &Sent, with_caller_id: bool) -> Verdict {
    match sent {
        Sent::NotSent(cause) => Verdict {
            outcome: PlaceOutcome::NotPlaced(match cause {
                NotSentCause::TooLate => NotPlaced::TooLate,
                NotSentCause::Build(_) => NotPlaced::Rejected,
                _ => NotPlaced::Unreachable,
            }),
            http_status: None,
            provider_error: Some(cause.text()),
            raw: None,
        },
        Sent::Unclear(cause) => Verdict {
            outcome: PlaceOutcome::Unknown,
            http_status: None,
            provider_error: Some(cause.text()),
            raw: None,
        },
        Sent::Answered(answer) => judge_answer(answer, with_caller_id),
    }
}

fn judge_answer(answer: &Answer, with_caller_id: bool) -> Verdict {
    let outcome = match answer.status {
        200..=299 => match placed_call_id(&answer.body) {
            Some(call_id) => PlaceOutcome::Placed { call_id },
            None => PlaceOutcome::Unknown,
        },
        400 if with_caller_id => PlaceOutcome::NotPlaced(NotPlaced::CallerIdRejected),
        400 | 422 => PlaceOutcome::NotPlaced(NotPlaced::Rejected),
        401 | 403 => PlaceOutcome::NotPlaced(NotPlaced::Unauthorized),
        404 => PlaceOutcome::NotPlaced(NotPlaced::AgentUnavailable),
        429 => PlaceOutcome::NotPlaced(NotPlaced::Busy {
            retry_after: answer.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX)),
        }),
        // 5xx, by the provider's word. 3xx and the other 4xx are not documented at all: a gateway may send them
        // after it has passed the request on (408, 409), so they prove nothing.
        _ => PlaceOutcome::Unknown,
    };
    let plain_success = matches!(outcome, PlaceOutcome::Placed { .. });
    let unread = || format!("status {} without a readable call_id", answer.status);
    Verdict {
        provider_error: match (plain_success, answer.status) {
            (true, _) => None,
            (false, 200..=299) => {
                Some(error_text(&answer.body).map_or_else(unread, |e| tidy(&e, ERROR_BYTES_MAX)))
            }
            (false, _) => error_text(&answer.body),
        },
        raw: (!plain_success && !answer.body.is_empty()).then(|| raw_text(&answer.body)),
        http_status: Some(answer.status),
        outcome,
    }
}

/// `response.call_id` of a 2xx; also taken from the top level, and as a number.
fn placed_call_id(body: &[u8]) -> Option<CallId> {
    let body: Value = serde_json::from_slice(body).ok()?;
    [body.get("response").and_then(|r| r.get("call_id")), body.get("call_id")].into_iter().flatten().find_map(
        |id| match id {
            Value::String(id) => CallId::parse(id).ok(),
            Value::Number(id) => CallId::parse(&id.to_string()).ok(),
            _ => None,
        },
    )
}

/// The answer as text that can be stored, bounded.
pub fn raw_text(body: &[u8]) -> String {
    let head = &body[..body.len().min(RAW_BYTES_MAX)];
    tidy(&String::from_utf8_lossy(head), RAW_BYTES_MAX)
}

/// What an error body says, from any of the shapes it comes in; one line, bounded, phone numbers masked.
/// `None`: an empty body.
pub fn error_text(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(json) => said(&json),
        Err(_) => markup_text(&String::from_utf8_lossy(&body[..body.len().min(16 * RAW_BYTES_MAX)])),
    };
    let line = one_line(&text?);
    (!line.is_empty()).then(|| tidy(&mask_digits(&line), ERROR_BYTES_MAX))
}

/// The words of a text, as far as they are told and as much again, for a number at the edge to be known as one.
fn one_line(text: &str) -> String {
    const BYTES_MAX: usize = 2 * ERROR_BYTES_MAX;
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.len() >= BYTES_MAX {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&tidy(word, BYTES_MAX));
    }
    line
}

fn said(json: &Value) -> Option<String> {
    match json {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        // 422: one entry a field.
        Value::Array(faults) => {
            Some(faults.iter().take(5).filter_map(field_fault).collect::<Vec<_>>().join("; "))
        }
        Value::Object(object) => {
            if let Some(detail) = object.get("detail").and_then(said) {
                return Some(detail);
            }
            let words = ["error", "description", "message", "msg", "error_message"];
            let found: Vec<String> =
                words.iter().filter_map(|key| object.get(*key)).filter_map(said).collect();
            (!found.is_empty()).then(|| found.join(": ")).or_else(|| Some(json.to_string()))
        }
        other => Some(other.to_string()),
    }
}

/// `{"loc": ["body", "phone"], "msg": "…"}` as `body.phone: …`.
fn field_fault(fault: &Value) -> Option<String> {
    let message = fault.get("msg").and_then(Value::as_str).map(str::to_owned).or_else(|| said(fault))?;
    let place = fault.get("loc").and_then(Value::as_array).map(|steps| {
        let steps = steps.iter().map(|s| s.as_str().map_or_else(|| s.to_string(), str::to_owned));
        steps.collect::<Vec<_>>().join(".")
    });
    Some(match place {
        Some(place) if !place.is_empty() => format!("{place}: {message}"),
        _ => message,
    })
}

/// A gateway's HTML page without its tags, or plain text as it is.
fn markup_text(page: &str) -> Option<String> {
    let mut text = String::with_capacity(page.len());
    let mut in_tag = false;
    for c in page.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                text.push(' ');
            }
            c if !in_tag => text.push(c),
            _ => {}
        }
    }
    Some(text)
}

impl NotSentCause {
    fn text(&self) -> String {
        match self {
            NotSentCause::TooLate => "not sent: its slot had ended".to_owned(),
            NotSentCause::Dns(why) => format!("not sent: the host name can't be resolved: {why}"),
            NotSentCause::Connect(why) => format!("not sent: no connection: {why}"),
            NotSentCause::ConnectTimeout => "not sent: no connection within the time-out".to_owned(),
            NotSentCause::Build(why) => format!("not sent: the request can't be written: {why}"),
        }
    }
}

impl UnclearCause {
    fn text(&self) -> String {
        match self {
            UnclearCause::Timeout => "sent, and no answer within the time-out".to_owned(),
            UnclearCause::Connection(why) => format!("sent, and the connection was lost: {why}"),
        }
    }
}

/// Why the provider didn't tell or do what it was asked, by any request other than the placing of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    #[error(
        "the provider answered {status}: the API key is wrong, or belongs to another region. Check SYNTHFLOW_API_KEY \
         and SYNTHFLOW_BASE_URL: https://api.us.synthflow.ai/v2, https://api.eu.synthflow.ai/v2 or \
         https://api.synthflow.ai/v2 (a key works in one region only){}", told(.text)
    )]
    Unauthorized { status: u16, text: Option<String> },
    #[error("the provider doesn't know it (404){}", told(.text))]
    NotFound { text: Option<String> },
    #[error("the provider refused the request ({status}){}", told(.text))]
    Rejected { status: u16, text: Option<String> },
    #[error("the provider asks to slow down (429)")]
    RateLimited { retry_after: Option<Duration> },
    /// No connection, no answer in time, or a 3xx or 5xx.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
    #[error("the provider's answer can't be read: {0}")]
    Unreadable(String),
}

fn told(text: &Option<String>) -> String {
    text.as_ref().map_or_else(String::new, |text| format!("; it says: {text}"))
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;

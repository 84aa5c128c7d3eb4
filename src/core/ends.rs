//! How the ends of calls are looked for: which of the provider's lists to read, and from when on.
//!
//! A list tells up to a hundred calls at once, but also all those that began since and have ended; a look-up tells one
//! call for certain. The plan of a round takes what costs the fewest requests: the calls that began long before the
//! others one by one, the rest by list. Lists lag, and nobody promises an order: a walk reads on until every call
//! that is sought has been seen or the list is at its end, and what it didn't show is looked up.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::call::{CallRecord, ListCalls};
use super::ending::{Progress, progress};
use super::ids::{AttemptId, CallId};
use super::phone::E164;
use super::states::{Disposition, Reason};
use super::text::{mask_digits, tidy};

/// A call may stand in the provider's list under a time this much before our own of it: clocks differ.
pub const MARGIN: TimeDelta = TimeDelta::minutes(2);
/// Of a record's error message, at most this much is kept.
const ERROR_BYTES_MAX: usize = 500;

/// A call that was placed and of whose end nothing is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCall {
    pub attempt: AttemptId,
    /// `None`: the provider took it and its id got lost; only time ends it.
    pub call_id: Option<CallId>,
    /// When it was sent, by the database's time.
    pub began: DateTime<Utc>,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    pub attempt: AttemptId,
    /// Of the call that ended; `None`: of whichever the attempt has.
    pub call_id: Option<CallId>,
    /// `None`: nobody knows.
    pub disposition: Option<Disposition>,
    pub reason: Option<Reason>,
    pub provider_status: Option<String>,
    pub end_reason: Option<String>,
    pub error: Option<String>,
    pub from_reported: Option<E164>,
    pub ended_at: Option<DateTime<Utc>>,
    pub duration_s: Option<i32>,
    pub recording_url: Option<String>,
}

impl End {
    /// The place of a call is freed though nobody knows how it ended.
    pub fn unknown(attempt: AttemptId) -> Self {
        Self {
            attempt,
            call_id: None,
            disposition: None,
            reason: Some(Reason::EndUnknown),
            provider_status: None,
            end_reason: None,
            error: None,
            from_reported: None,
            ended_at: None,
            duration_s: None,
            recording_url: None,
        }
    }

    /// Of a call that was never made.
    pub fn dry_run(attempt: AttemptId) -> Self {
        Self { reason: None, ..Self::unknown(attempt) }
    }

    /// What a record tells of the end; `None`: the call goes on. `now` bounds what the provider's clock says.
    pub fn of_record(attempt: AttemptId, record: &CallRecord, now: DateTime<Utc>) -> Option<Self> {
        let said = (record.status.as_deref(), record.end_reason.as_deref(), record.error_message.as_deref());
        let Progress::Ended(disposition) = progress(said.0, said.1, said.2) else { return None };
        let duration = record.duration_s.filter(|s| *s < f64::from(i32::MAX));
        let ended_at = record.start_time.zip(duration).and_then(|(start, s)| {
            start.checked_add_signed(TimeDelta::milliseconds((s * 1000.0) as i64)).filter(|end| *end <= now)
        });
        Some(Self {
            attempt,
            call_id: Some(record.call_id.clone()),
            disposition: Some(disposition),
            reason: None,
            provider_status: record.status.clone(),
            end_reason: record.end_reason.clone(),
            error: record.error_message.as_deref().map(|text| tidy(&mask_digits(text), ERROR_BYTES_MAX)),
            from_reported: record.from.clone(),
            ended_at,
            duration_s: duration.map(|s| s.round() as i32),
            recording_url: record.recording_url.clone(),
        })
    }
}

/// What to ask for in a round, about one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// The list is read from here on; `None`: no list is needed.
    pub list_from: Option<DateTime<Utc>>,
    /// Calls to be looked up one by one, oldest first.
    pub single: Vec<CallId>,
}

/// Splits calls, oldest first, between single look-ups and one list, for the fewest requests.
///
/// `per_second`: how many calls of this agent the provider lists for a second of time, as last seen.
pub fn plan_round(open: &[OpenCall], per_second: f64, now: DateTime<Utc>) -> Round {
    let sought: Vec<(&CallId, DateTime<Utc>)> =
        open.iter().filter_map(|call| Some((call.call_id.as_ref()?, call.began))).collect();
    debug_assert!(sought.is_sorted_by_key(|(_, began)| *began), "oldest first");
    let pages = |singles: usize| {
        let Some((_, began)) = sought.get(singles) else { return 0 };
        let window_s = (now - *began + MARGIN).as_seconds_f64().max(0.0);
        let listed = (window_s * per_second).max((sought.len() - singles) as f64);
        (listed / f64::from(ListCalls::LIMIT_MAX)).ceil() as usize
    };
    // With more singles than pages of the whole list, nothing is won.
    let most = sought.len().min(pages(0));
    let singles = (0..=most).min_by_key(|n| n + pages(*n)).unwrap_or(0);
    Round {
        list_from: sought.get(singles).map(|(_, began)| *began - MARGIN),
        single: sought[..singles].iter().map(|(id, _)| (*id).clone()).collect(),
    }
}

/// A walk through a list, page by page, over as many rounds as it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Walk {
    pub from: DateTime<Utc>,
    /// Of the page to be read next.
    pub offset: u32,
    /// Calls sought and not seen yet, with the time they began.
    pub unseen: BTreeMap<CallId, DateTime<Utc>>,
}

impl Walk {
    pub fn begin(from: DateTime<Utc>, open: &[OpenCall]) -> Self {
        let sought = open.iter().filter(|call| call.began >= from);
        Self {
            from,
            offset: 0,
            unseen: sought.filter_map(|call| Some((call.call_id.clone()?, call.began))).collect(),
        }
    }

    /// Takes note of a page; true: the walk is over. `entries` counts what couldn't be read too.
    pub fn turn<'a>(
        &mut self,
        seen: impl IntoIterator<Item = &'a CallId>,
        entries: usize,
        total: Option<u64>,
    ) -> bool {
        for call_id in seen {
            self.unseen.remove(call_id);
        }
        self.offset = self.offset.saturating_add(u32::try_from(entries).unwrap_or(u32::MAX));
        // A page may be short though more follow: then the total tells.
        let at_end = entries == 0
            || total.map_or(entries < ListCalls::LIMIT_MAX as usize, |t| u64::from(self.offset) >= t);
        at_end || self.unseen.is_empty()
    }

    /// Calls that a finished walk should have shown: they began at least `lag` before it was over.
    pub fn missed(&self, now: DateTime<Utc>, lag: Duration) -> Vec<CallId> {
        let missed =
            self.unseen.iter().filter(|(_, began)| (now - **began).to_std().unwrap_or_default() >= lag);
        missed.map(|(call_id, _)| call_id.clone()).collect()
    }
}

#[cfg(test)]
#[path = "ends_tests.rs"]
mod tests;

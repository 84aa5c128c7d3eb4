//! Looking for calls of which nobody knows whether they were placed.
//!
//! The provider's list tells when, and mostly to whom, an agent's calls were made, but not our attempt id; a look-up
//! of one call does. So a look lists the calls around the time of the POSTs, and looks up those that may be ours. It
//! is complete when every page was read and every candidate was told; only complete looks that found nothing, over
//! the whole quarantine, say that a call isn't there.
//!
//! Several requests of a look may be under way at once: look-ups and lists, but never two pages of one list, for calls
//! that are placed meanwhile push others to later pages, and what moves from a page that is read next to one that was
//! read before would be seen on neither. So a long list is read in parts of its time.
//!
//! ```text
//! unknown ──found──▶ placed
//!    │ └─ complete looks, all in vain, for the campaign's redial_unknown_after ─▶ waiting
//!    └─── complete looks, all in vain, for the quarantine (or a day without one) ─▶ review
//! ```

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::call::{ATTEMPT_VARIABLE, CallPage, CallRecord, ListCalls};
use super::ends::End;
use super::ids::{AttemptId, CallId, CampaignId, ModelId};
use super::outcome::ProviderError;
use super::phone::E164;

/// A call may stand in the list under a time this much after its POST, and as late as now: it may have queued at the
/// provider, or been held up on its way.
const REACH: TimeDelta = TimeDelta::minutes(10);
/// Attempts whose POSTs lie within this are looked for together.
const TOGETHER: TimeDelta = TimeDelta::minutes(5);
/// The first look, after the attempt became unknown; each further wait is double the last.
const FIRST: Duration = Duration::from_secs(1);
/// No two looks are further apart than this, nor than a twentieth of the quarantine.
const EVERY_MAX: Duration = Duration::from_secs(60);
/// Looks further apart than so many of the longest waits prove nothing of the time between, unless all of it was spent
/// looking.
const GAP: u32 = 5;
/// What can't be looked for, because the agent is gone or its answers can't be read, is given to a person after this,
/// or after so many quarantines if that is longer.
const IN_VAIN: Duration = Duration::from_secs(86_400);
const IN_VAIN_QUARANTINES: u32 = 10;
/// Calls are listed by the provider's clock from this long before the POST by the database's: further apart, nothing is
/// found.
const REACH_BACK: TimeDelta = TimeDelta::minutes(5);
/// A call placed this long ago is known to look-ups: what carries no id of ours then never will.
const SETTLED: TimeDelta = TimeDelta::seconds(60);
/// A list is read in parts of about so many pages, where it has twice as many or more.
const PART_PAGES: u64 = 4;
/// So many parts at most of one list: what is too long still is parted again.
const PARTS_MAX: u64 = 64;
/// A part is at least as long.
const PART_MIN: TimeDelta = TimeDelta::seconds(1);

/// An attempt of which nobody knows whether it was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    pub attempt: AttemptId,
    pub campaign: CampaignId,
    /// The callee.
    pub phone: E164,
    /// When it was sent, if it was.
    pub slot: DateTime<Utc>,
    pub since: DateTime<Utc>,
    /// Looks that have not found it.
    pub looks: u32,
    pub looked_at: Option<DateTime<Utc>>,
    /// From the first to the last of the complete looks, none far from the next, that have not found it.
    pub clear_for: Option<Duration>,
    /// An earlier attempt of its job was given up, and dialed again.
    pub redialed: bool,
}

/// How long is looked, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// `reconcile.quarantine`
    pub quarantine: Duration,
}

impl Patience {
    fn every_max(self) -> Duration {
        EVERY_MAX.min(self.quarantine / 20).max(FIRST)
    }

    /// What is sought for so long in vain is given to a person, whatever the looks were.
    pub fn in_vain(self) -> Duration {
        IN_VAIN.max(self.quarantine.saturating_mul(IN_VAIN_QUARANTINES))
    }

    /// Looks further apart than this prove nothing of the time between them, unless all of it was spent looking.
    pub fn gap(self) -> Duration {
        self.every_max() * GAP
    }

    /// Whether it is time to look for an attempt (again).
    pub fn is_due(self, unknown: &Unknown, now: DateTime<Utc>) -> bool {
        let wait = FIRST.saturating_mul(1 << unknown.looks.min(20)).min(self.every_max());
        let last = unknown.looked_at.unwrap_or(unknown.since);
        now >= last + TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX)
    }

    /// What becomes of an attempt that isn't found; `None`: it is looked for further. `redial_after`: the campaign's
    /// `redial_unknown_after`.
    pub fn verdict(
        self,
        unknown: &Unknown,
        redial_after: Option<Duration>,
        now: DateTime<Utc>,
    ) -> Option<GiveUp> {
        let clear_for = |least: Duration| unknown.clear_for.is_some_and(|clear| clear >= least);
        // Once: where looks don't show what was placed, they would let the callee be rung again and again.
        match redial_after.filter(|_| !unknown.redialed) {
            Some(after) if clear_for(after) => Some(GiveUp::Redial { clear_for: after }),
            None if clear_for(self.quarantine) => Some(GiveUp::Review { clear_for: Some(self.quarantine) }),
            _ if (now - unknown.since).to_std().is_ok_and(|sought| sought >= self.in_vain()) => {
                Some(GiveUp::Review { clear_for: None })
            }
            _ => None,
        }
    }
}

/// How the search for an attempt ends without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// A person decides. `clear_for`: how long looks must have found nothing; `None`: whatever they were.
    Review { clear_for: Option<Duration> },
    /// The campaign has given up "never twice".
    Redial { clear_for: Duration },
}

/// A call that carries an attempt id of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub attempt: AttemptId,
    pub call_id: CallId,
    /// Its end, if it is over.
    pub end: Option<End>,
}

impl Found {
    /// What a look-up tells; `None`: it carries no attempt id of ours.
    pub fn of_record(record: &CallRecord, now: DateTime<Utc>) -> Option<Self> {
        let attempt = AttemptId(record.prompt_variables.get(ATTEMPT_VARIABLE)?.trim().parse().ok()?);
        Some(Self { attempt, call_id: record.call_id.clone(), end: End::of_record(attempt, record, now) })
    }
}

/// Groups what is sought of one agent by time, oldest first, for one look each.
pub fn windows(model: &ModelId, mut sought: Vec<Unknown>, now: DateTime<Utc>) -> Vec<Look> {
    sought.sort_by_key(|unknown| unknown.slot);
    let mut looks = Vec::new();
    let mut group: Vec<Unknown> = Vec::new();
    for unknown in sought {
        if group.first().is_some_and(|first| unknown.slot - first.slot > TOGETHER) {
            looks.extend(Look::at(model, std::mem::take(&mut group), now));
        }
        group.push(unknown);
    }
    looks.extend(Look::at(model, group, now));
    looks
}

/// What to ask the provider next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    List(ListCalls),
    Get(CallId),
    /// Whether the provider knows the agent at all: of one that it doesn't, an empty list says nothing.
    Agent,
}

/// One look for attempts of about the same time: a list, page by page, and look-ups of the candidates in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    model: ModelId,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// The first POST's.
    first: DateTime<Utc>,
    /// The last POST's.
    last: DateTime<Utc>,
    /// What it sees is as old as that.
    began: DateTime<Utc>,
    /// By attempt, the callee.
    sought: BTreeMap<AttemptId, E164>,
    phones: HashSet<E164>,
    lists: VecDeque<List>,
    candidates: VecDeque<CallId>,
    /// Every page was read, and every candidate was told.
    complete: bool,
    /// The provider has shown calls of the agent, or the agent.
    agent_known: bool,
}

/// A list that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    /// Only calls to this callee; `None`: to all.
    phone: Option<E164>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    offset: u32,
}

impl List {
    fn filter(&self, model: &ModelId) -> ListCalls {
        ListCalls {
            model_id: model.clone(),
            from: Some(self.from),
            to: Some(self.to),
            limit: ListCalls::LIMIT_MAX,
            offset: self.offset,
            lead_phone_number: self.phone.clone(),
        }
    }

    /// The same calls by parts of its time, which end where the next begins. What is later than `now` is mostly empty,
    /// and belongs to the last. `None`: too short to be parted.
    fn parts(&self, total: u64, now: DateTime<Utc>) -> Option<Vec<Self>> {
        let span = self.to.min(now) - self.from;
        let longest = u64::try_from(span.num_milliseconds() / PART_MIN.num_milliseconds()).unwrap_or(0);
        let wished = total.div_ceil(PART_PAGES * u64::from(ListCalls::LIMIT_MAX));
        let count = i32::try_from(wished.min(PARTS_MAX).min(longest)).ok().filter(|count| *count > 1)?;
        let part = |n: i32| {
            let to = if n + 1 == count { self.to } else { self.from + span * (n + 1) / count };
            Self { from: self.from + span * n / count, to, ..self.clone() }
        };
        Some((0..count).map(part).collect())
    }
}

impl Look {
    fn at(model: &ModelId, sought: Vec<Unknown>, now: DateTime<Utc>) -> Option<Self> {
        let (first, last) = (sought.first()?.slot, sought.last()?.slot);
        let (from, to) = (first - REACH_BACK, now.max(last + REACH));
        Some(Self {
            model: model.clone(),
            from,
            to,
            first,
            last,
            began: now,
            phones: sought.iter().map(|unknown| unknown.phone.clone()).collect(),
            sought: sought.into_iter().map(|unknown| (unknown.attempt, unknown.phone)).collect(),
            lists: VecDeque::from([List { phone: None, from, to, offset: 0 }]),
            candidates: VecDeque::new(),
            complete: true,
            agent_known: false,
        })
    }

    pub fn window(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        (self.from, self.to)
    }

    pub fn began(&self) -> DateTime<Utc> {
        self.began
    }

    /// What may be asked now, all of it at once; up to `max`, none when the look is over. It is told again until it was
    /// answered. Candidates go first: each may end the look.
    pub fn next(&self, max: usize) -> Vec<Step> {
        if self.sought.is_empty() {
            return Vec::new();
        }
        let candidates = self.candidates.iter().cloned().map(Step::Get);
        let lists = self.lists.iter().map(|list| Step::List(list.filter(&self.model)));
        let agent = !self.agent_known && self.complete && self.candidates.is_empty() && self.lists.is_empty();
        candidates.chain(lists).chain(agent.then_some(Step::Agent)).take(max).collect()
    }

    /// This got no answer: what else there is goes before it.
    pub fn put_off(&mut self, step: &Step) {
        match step {
            Step::Get(call_id) => {
                if let Some(at) = self.candidates.iter().position(|candidate| candidate == call_id)
                    && let Some(candidate) = self.candidates.remove(at)
                {
                    self.candidates.push_back(candidate);
                }
            }
            Step::List(asked) => {
                if let Some(at) = self.position(asked)
                    && let Some(list) = self.lists.remove(at)
                {
                    self.lists.push_back(list);
                }
            }
            Step::Agent => {}
        }
    }

    /// Nothing else is sought any more: somebody has learned of the others.
    pub fn only(&mut self, unknown: &HashSet<AttemptId>) {
        self.sought.retain(|attempt, _| unknown.contains(attempt));
    }

    fn position(&self, asked: &ListCalls) -> Option<usize> {
        self.lists.iter().position(|list| list.filter(&self.model) == *asked)
    }

    /// The calls of a page that may be what is sought, by their callees.
    pub fn may_be_ours<'a>(&self, page: &'a CallPage) -> impl Iterator<Item = &'a CallId> {
        let to_one_sought =
            |record: &&CallRecord| record.to.as_ref().is_none_or(|to| self.phones.contains(to));
        page.calls.iter().filter(to_one_sought).map(|record| &record.call_id)
    }

    /// Takes note of a page that was asked for. `known`: of its calls, those that are known to be others'.
    pub fn listed(&mut self, asked: &ListCalls, page: &CallPage, known: &HashSet<CallId>) {
        let place = self.position(asked);
        let Some((place, mut list)) = place.and_then(|at| Some((at, self.lists.remove(at)?))) else { return };
        let candidates = self.may_be_ours(page).filter(|id| !known.contains(id));
        let fresh: Vec<CallId> = candidates.filter(|id| !self.candidates.contains(id)).cloned().collect();
        self.candidates.extend(fresh);
        // An entry without a readable id may be the one.
        self.complete &= page.unreadable == 0;
        self.agent_known |= !page.calls.is_empty();
        let entries = u32::try_from(page.calls.len() + page.unreadable).unwrap_or(u32::MAX);
        let first_page = list.offset == 0;
        list.offset = list.offset.saturating_add(entries);
        let at_end = entries == 0
            || page.total.map_or(entries < ListCalls::LIMIT_MAX, |total| u64::from(list.offset) >= total);
        if at_end {
            // An empty page before the end that the provider itself has told is not all of the list.
            self.complete &= page.total.is_none_or(|total| u64::from(list.offset) >= total);
            return;
        }
        // The first page tells how long the list is, and whether this workspace shows callees.
        let shorter = (first_page && list.phone.is_none()).then(|| self.shorter(&list, page)).flatten();
        match shorter {
            Some(lists) => self.lists.extend(lists),
            None => self.lists.insert(place, list),
        }
    }

    /// Several lists instead of the rest of this long one, after its first page.
    fn shorter(&self, list: &List, page: &CallPage) -> Option<Vec<List>> {
        let whole = List { offset: 0, ..list.clone() };
        let pages_left = page.total.map(|total| {
            total.saturating_sub(u64::from(list.offset)).div_ceil(u64::from(ListCalls::LIMIT_MAX))
        });
        // Where callees are shown, one for each may be fewer requests.
        let shows_callees = !page.calls.is_empty() && page.calls.iter().all(|record| record.to.is_some());
        let is_whole = (list.from, list.to) == self.window();
        if is_whole && shows_callees && pages_left.is_none_or(|left| left > self.phones.len() as u64) {
            let mut phones: Vec<E164> = self.phones.iter().cloned().collect();
            phones.sort();
            return Some(
                phones.into_iter().map(|phone| List { phone: Some(phone), ..whole.clone() }).collect(),
            );
        }
        let total = page.total.filter(|_| pages_left.is_some_and(|left| left >= 2 * PART_PAGES))?;
        let mut parts = whole.parts(total, self.began)?;
        // Those first in which they most likely stand.
        parts.sort_by_key(|part| {
            (part.to <= self.first || part.from > self.last, (part.from - self.last).abs())
        });
        Some(parts)
    }

    /// Takes note of a candidate that was looked up: what was found, and whether the call is another's for good.
    pub fn told(
        &mut self,
        call_id: &CallId,
        answer: &Result<CallRecord, ProviderError>,
        now: DateTime<Utc>,
    ) -> Told {
        let Some(at) = self.candidates.iter().position(|candidate| candidate == call_id) else {
            return Told::Nothing;
        };
        self.candidates.remove(at);
        let Ok(record) = answer else {
            // Not known to look-ups yet, or not readable: it may be the one.
            self.complete = false;
            return Told::Nothing;
        };
        if let Some(found) = Found::of_record(record, now) {
            self.sought.remove(&found.attempt);
            return Told::Found(found);
        }
        // Of a fresh call the record may not tell everything yet.
        let is_settled = record.start_time.is_some_and(|start| start + SETTLED < now);
        let may_be_to_one = match &record.to {
            Some(to) => self.phones.contains(to),
            None => !is_settled,
        };
        if record.prompt_variables.is_empty() && may_be_to_one {
            // Without a word of whose it is: it may be the one.
            self.complete = false;
            return Told::Nothing;
        }
        let says_whose = !record.prompt_variables.is_empty();
        // For good, however far the provider's clock is behind.
        let is_old = record.start_time.is_some_and(|start| start + SETTLED + REACH_BACK < now);
        if self.last + SETTLED < now && (is_old || says_whose) {
            Told::Anothers(call_id.clone())
        } else {
            Told::Nothing
        }
    }

    /// Takes note of whether the provider knows the agent.
    pub fn agent(&mut self, known: bool) {
        self.agent_known = known;
        self.complete &= known;
    }

    /// The end of a look: what it has not found, and whether it was complete.
    pub fn in_vain(&self) -> (Vec<AttemptId>, bool) {
        let over = self.lists.is_empty() && self.candidates.is_empty() && self.agent_known;
        (self.sought.keys().copied().collect(), self.complete && over)
    }
}

/// What one look-up has told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Found(Found),
    /// A call that isn't ours, and needn't be looked up again.
    Anothers(CallId),
    Nothing,
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;

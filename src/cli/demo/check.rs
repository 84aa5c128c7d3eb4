//! The check of what happened against the sandbox's ledger: the four promises, counted.
//!
//! It takes plain values and uses nothing of the worker's: the publisher's own list, the POSTs as they arrived, the dead
//! queue and the reporting views. Each function names what it found wrong, a line each; no lines, nothing wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::jobs::{Ends, Line};
use super::plan::{self, Most};

const SECOND_US: u64 = 1_000_000;
const MINUTE_US: u64 = 60 * SECOND_US;

/// A POST as the sandbox received it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Post {
    /// When its bytes arrived, in microseconds.
    pub at_us: u64,
    /// When the call that was made of it ended; none: no call was made.
    pub ended_us: Option<u64>,
    pub job_id: String,
    pub attempt_id: String,
    pub model_id: String,
    pub phone: String,
    /// Empty: none was given.
    pub from: String,
}

/// A message of the dead queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    pub reason: String,
    pub job_id: String,
    /// As the message has it.
    pub phone: String,
}

/// A job as `reporting.jobs` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub state: String,
    pub reason: String,
}

/// Everything that is looked at.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Lines of the CSV; each was published and confirmed.
    pub lines: Vec<Line>,
    /// In order of arrival.
    pub posts: Vec<Post>,
    pub dead: Vec<Dead>,
    /// By job id.
    pub records: BTreeMap<String, Record>,
}

impl Evidence {
    /// Lines by job id and callee: those that repeat another are one with it.
    fn lines_by_call(&self) -> BTreeMap<(&str, &str), &Line> {
        let asked = self.lines.iter().filter(|l| matches!(l.ends, Ends::Called | Ends::CalledOrConflict));
        asked.map(|line| ((line.job_id.as_str(), line.phone.as_str()), line)).collect()
    }

    /// Jobs with two calls, and attempts with two POSTs.
    pub fn dialed_twice(&self) -> Vec<String> {
        let mut calls: BTreeMap<&str, u32> = BTreeMap::new();
        let mut posts: BTreeMap<&str, u32> = BTreeMap::new();
        for post in &self.posts {
            *posts.entry(&post.attempt_id).or_default() += 1;
            *calls.entry(&post.job_id).or_default() += u32::from(post.ended_us.is_some());
        }
        let many = |what: &'static str, each: &'static str, found: BTreeMap<&str, u32>| {
            let found: Vec<String> = found
                .into_iter()
                .filter(|(_, times)| *times > 1)
                .map(|(id, times)| format!("{what} {id:?}: {times} {each}"))
                .collect();
            found
        };
        [many("job", "calls", calls), many("attempt", "POSTs", posts)].concat()
    }

    /// POSTs from a number that their callee must not see, with another agent than their campaign's, or that nobody
    /// asked for; and callees of a sticky rule who saw two numbers.
    pub fn wrong_caller_id(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut seen: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        let lines = self.lines_by_call();
        for post in &self.posts {
            let Some(line) = lines.get(&(post.job_id.as_str(), post.phone.as_str())) else {
                wrong.push(format!("job {:?}: nobody asked for this call", post.job_id));
                continue;
            };
            if post.model_id != line.campaign.model_id {
                wrong.push(format!("job {}: by agent {:?}", line.job_id, post.model_id));
            } else if !line.caller_ids().contains(&post.from.as_str()) {
                wrong.push(format!(
                    "job {}: from {:?}, wanted one of {:?}",
                    line.job_id,
                    post.from,
                    line.caller_ids()
                ));
            } else if line.is_sticky() {
                seen.entry((&post.model_id, &post.phone)).or_default().insert(&post.from);
            }
        }
        let unsteady = seen.into_values().filter(|numbers| numbers.len() > 1);
        wrong.extend(unsteady.map(|numbers| format!("a callee of a sticky rule saw {numbers:?}")));
        wrong
    }

    /// Lines that ended nowhere, or elsewhere than they must.
    pub fn lost(&self) -> Vec<String> {
        let made = self.posts.iter().filter(|post| post.ended_us.is_some());
        let calls: BTreeSet<(&str, &str)> =
            made.map(|post| (post.job_id.as_str(), post.phone.as_str())).collect();
        let jobs: BTreeSet<&str> = calls.iter().map(|(job_id, _)| *job_id).collect();
        let dead: BTreeMap<(&str, &str), &str> = self
            .dead
            .iter()
            .map(|dead| ((dead.job_id.as_str(), dead.phone.as_str()), dead.reason.as_str()))
            .collect();
        let ended_well = |line: &&Line| {
            let id = line.job_id.as_str();
            let called = calls.contains(&(id, line.phone.as_str()));
            let reason = dead.get(&(id, line.written.as_str())).copied();
            match line.ends {
                Ends::Called => called,
                Ends::CalledOrConflict => jobs.contains(id) && called != (reason == Some("conflict")),
                Ends::Dead(wanted) => reason == Some(wanted),
                // The line that it repeats is looked at by itself.
                Ends::Dropped => reason.is_none(),
                Ends::Recorded(state, reason) => {
                    self.records.get(id).is_some_and(|r| r.state == state && r.reason == reason)
                }
            }
        };
        self.lines.iter().filter(|line| !ended_well(line)).map(|line| self.whereabouts(line)).collect()
    }

    fn whereabouts(&self, line: &Line) -> String {
        let record = self.records.get(&line.job_id).map_or("no record".to_owned(), |record| {
            format!("recorded {} {}", record.state, record.reason).trim_end().to_owned()
        });
        let dead: Vec<&str> =
            self.dead.iter().filter(|d| d.job_id == line.job_id).map(|d| d.reason.as_str()).collect();
        let dead =
            if dead.is_empty() { String::new() } else { format!(", dead-lettered {}", dead.join(" ")) };
        format!("job {}: wanted {:?}; {record}{dead}", line.job_id, line.ends)
    }

    /// How every limited thing was used.
    pub fn usage(&self) -> Vec<Usage> {
        let all: Vec<&Post> = self.posts.iter().collect();
        let mut usage = vec![Usage::of("account default", plan::ACCOUNT, &all)];
        let lines = self.lines.iter();
        let campaign_of: BTreeMap<&str, &str> =
            lines.map(|line| (line.job_id.as_str(), line.campaign.id)).collect();
        for campaign in &plan::CAMPAIGNS {
            let is_its = |post: &&Post| campaign_of.get(post.job_id.as_str()) == Some(&campaign.id);
            let its: Vec<&Post> = self.posts.iter().filter(is_its).collect();
            usage.push(Usage::of(campaign.id, campaign.most, &its));
        }
        for number in plan::NUMBERS {
            let its: Vec<&Post> = self.posts.iter().filter(|post| post.from == number.number).collect();
            usage.push(Usage::of(number.number, number.most, &its));
        }
        usage
    }
}

/// The most that any sliding window of one thing held, beside its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub thing: String,
    pub limit: Most,
    /// Every POST counts, whatever its answer.
    pub second: u32,
    pub minute: u32,
    /// Calls that had not ended.
    pub at_once: u32,
    pub calls: u32,
}

impl Usage {
    pub fn of(thing: &str, limit: Most, posts: &[&Post]) -> Self {
        let mut arrivals: Vec<u64> = posts.iter().map(|post| post.at_us).collect();
        arrivals.sort_unstable();
        let lives: Vec<(u64, u64)> =
            posts.iter().filter_map(|post| Some((post.at_us, post.ended_us?))).collect();
        Self {
            thing: thing.to_owned(),
            limit,
            second: fullest_window(&arrivals, SECOND_US),
            minute: fullest_window(&arrivals, MINUTE_US),
            at_once: most_at_once(&lives),
            calls: u32::try_from(lives.len()).unwrap_or(u32::MAX),
        }
    }

    /// The limits that were exceeded.
    pub fn above(&self) -> Vec<String> {
        [
            ("in a second", self.second, self.limit.second),
            ("in a minute", self.minute, self.limit.minute),
            ("at once", self.at_once, self.limit.at_once),
        ]
        .into_iter()
        .filter_map(|(what, used, limit)| {
            let limit = limit.filter(|&limit| used > limit)?;
            Some(format!("{}: {used} calls {what}, {limit} are allowed", self.thing))
        })
        .collect()
    }
}

/// The most arrivals in any half-open window of that length. `arrivals` in order.
fn fullest_window(arrivals: &[u64], window_us: u64) -> u32 {
    let (mut first, mut fullest) = (0, 0);
    for (last, &at) in arrivals.iter().enumerate() {
        while arrivals[first] + window_us <= at {
            first += 1;
        }
        fullest = fullest.max(last + 1 - first);
    }
    u32::try_from(fullest).unwrap_or(u32::MAX)
}

/// The most spans that overlap; one that ends as another starts doesn't.
fn most_at_once(spans: &[(u64, u64)]) -> u32 {
    let mut ends: Vec<u64> = spans.iter().map(|(_, end)| *end).collect();
    let mut starts: Vec<u64> = spans.iter().map(|(start, _)| *start).collect();
    ends.sort_unstable();
    starts.sort_unstable();
    let (mut ended, mut most) = (0, 0);
    for (started, start) in starts.iter().enumerate() {
        while ended < ends.len() && ends[ended] <= *start {
            ended += 1;
        }
        most = most.max((started + 1).saturating_sub(ended));
    }
    u32::try_from(most).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

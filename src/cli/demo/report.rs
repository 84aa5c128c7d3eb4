//! What the demo prints at its end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::check::{Evidence, Usage};
use super::evidence::text;
use super::jobs::Ends;
use crate::cli::output::Table;

/// Faults of one kind that are told one by one.
const TOLD_MAX: usize = 10;

/// How limits were used: each thing's fullest sliding window beside what is allowed.
pub fn limits(usage: &[Usage]) -> String {
    let mut table = Table::new(&["", "calls", "a second", "limit", "a minute", "limit", "at once", "limit"]);
    let told = |limit: Option<u32>| limit.map_or("-".to_owned(), |limit| limit.to_string());
    for used in usage {
        table.row([
            used.thing.clone(),
            used.calls.to_string(),
            used.second.to_string(),
            told(used.limit.second),
            used.minute.to_string(),
            told(used.limit.minute),
            used.at_once.to_string(),
            told(used.limit.at_once),
        ]);
    }
    format!(
        "The fullest sliding second and minute, and most calls at once, as they arrived:\n{}",
        table.render()
    )
}

/// What became of the lines, beside what had to.
pub fn endings(found: &Evidence, outcomes: &[Value]) -> String {
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    let mut rivals = 0;
    for line in &found.lines {
        let key = match line.ends {
            Ends::Called => "called".to_owned(),
            Ends::Dropped => "the same job again: dropped".to_owned(),
            Ends::CalledOrConflict => {
                rivals += 1;
                if rivals % 2 == 1 { "called".to_owned() } else { dead("conflict") }
            }
            Ends::Dead(reason) => dead(reason),
            Ends::Recorded(state, reason) => recorded(state, reason),
        };
        *wanted.entry(key).or_default() += 1;
    }
    let mut ended: BTreeMap<String, usize> = BTreeMap::new();
    for message in &found.dead {
        *ended.entry(dead(&message.reason)).or_default() += 1;
    }
    let mut called = 0;
    for job in found.records.values() {
        match job.state.as_str() {
            "done" => called += 1,
            state => *ended.entry(recorded(state, &job.reason)).or_default() += 1,
        }
    }
    ended.insert("called".to_owned(), called);
    let again = found.lines.len() - ended.values().sum::<usize>().min(found.lines.len());
    ended.insert("the same job again: dropped".to_owned(), again);
    let keys: std::collections::BTreeSet<String> = wanted.keys().chain(ended.keys()).cloned().collect();
    let mut table = Table::new(&["ended", "lines", "as the CSV wants"]);
    for key in keys {
        let count = |of: &BTreeMap<String, usize>| of.get(&key).copied().unwrap_or(0).to_string();
        table.row([key.clone(), count(&ended), count(&wanted)]);
    }
    format!("What became of {} lines:\n{}\n{}", found.lines.len(), table.render(), dispositions(outcomes))
}

fn dead(reason: &str) -> String {
    format!("dead-lettered: {reason}")
}

fn recorded(state: &str, reason: &str) -> String {
    if state == reason { state.to_owned() } else { format!("{state}: {reason}") }
}

fn dispositions(outcomes: &[Value]) -> String {
    let mut table = Table::new(&["calls", "state", "disposition"]);
    for outcome in outcomes {
        let word = [text(outcome, "disposition"), text(outcome, "reason")].join(" ");
        table.row([outcome["calls"].to_string(), text(outcome, "state"), word.trim().to_owned()]);
    }
    table.render()
}

/// The four counts.
#[derive(Debug)]
pub struct Verdict {
    counts: [(&'static str, &'static str, Vec<String>); 4],
}

impl Verdict {
    pub fn of(found: &Evidence, usage: &[Usage]) -> Self {
        Self {
            counts: [
                ("dialed twice", "no job has two calls, no attempt two POSTs", found.dialed_twice()),
                (
                    "wrong caller ID",
                    "each POST was asked for, by the agent and from a number that its callee may see",
                    found.wrong_caller_id(),
                ),
                (
                    "above a limit",
                    "every sliding window of each number, campaign and account",
                    usage.iter().flat_map(Usage::above).collect(),
                ),
                (
                    "lost",
                    "each published line was called, or ended with the reason that it must",
                    found.lost(),
                ),
            ],
        }
    }

    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|(_, _, wrong)| wrong.is_empty())
    }

    /// `dialed twice 2, lost 1`
    pub fn wrong(&self) -> String {
        let wrong = self.counts.iter().filter(|(_, _, wrong)| !wrong.is_empty());
        wrong.map(|(what, _, wrong)| format!("{what} {}", wrong.len())).collect::<Vec<_>>().join(", ")
    }

    pub fn told(&self) -> String {
        let mut text = "Checked against the stand-in's own ledger of every POST:\n".to_owned();
        for (what, meaning, wrong) in &self.counts {
            let count = wrong.len();
            let _ = writeln!(text, "{:<24}{meaning}", format!("  {what} {count}"));
            for fault in wrong.iter().take(TOLD_MAX) {
                let _ = writeln!(text, "      {fault}");
            }
            if count > TOLD_MAX {
                let _ = writeln!(text, "      and {} more", count - TOLD_MAX);
            }
        }
        text
    }
}

/// What a reader may want to do now.
pub fn next(took: Duration) -> String {
    format!(
        "\nThat took {} s. What to look at next:\n  \
           config/demo-routing.toml            the rules and limits that were in use\n  \
           outdial sandbox                     the stand-in for Synthflow, to try things against\n  \
           outdial --help                      migrate, routing apply, worker, publish, job show, number list, …\n  \
           config/outdial.toml                 every setting of a worker, with its default\n",
        took.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::super::check::Post;
    use super::super::jobs;
    use super::*;

    #[test]
    fn a_count_that_is_wrong_is_named_with_its_faults() {
        let lines = jobs::lines(100);
        let line = lines.iter().find(|line| line.ends == Ends::Called).cloned();
        let Some(line) = line else { unreachable!("most are") };
        let post = Post {
            ended_us: Some(1),
            job_id: line.job_id.clone(),
            model_id: line.campaign.model_id.to_owned(),
            phone: line.phone.clone(),
            from: line.caller_ids()[0].to_owned(),
            ..Post::default()
        };
        let found = Evidence { lines: vec![line], posts: vec![post.clone()], ..Evidence::default() };
        let clean = Verdict::of(&found, &found.usage());
        assert!(clean.is_clean() && clean.told().contains("lost 0 "), "{}", clean.told());
        let found = Evidence { posts: vec![post; 101], ..found };
        let verdict = Verdict::of(&found, &found.usage());
        assert!(!verdict.is_clean());
        assert!(verdict.wrong().starts_with("dialed twice 2, above a limit "), "{}", verdict.wrong());
        assert!(verdict.told().contains("account default: 101 calls in a second, 100 are allowed"));
    }
}

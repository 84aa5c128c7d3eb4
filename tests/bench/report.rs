//! What was found, of one run or several, as a table and as JSON.

use std::fmt::{self, Write};

use serde_json::{Value, json};

use super::usage;

/// One figure.
#[derive(Debug, Clone)]
pub struct Finding {
    pub name: String,
    pub value: f64,
    pub target: Option<Target>,
}

/// What the figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

/// The figures of a run, in the order in which they were found.
#[derive(Debug, Clone, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        self.push(name.into(), value, None);
    }

    pub fn at_least(&mut self, name: impl Into<String>, value: f64, least: f64) {
        self.push(name.into(), value, Some(Target::AtLeast(least)));
    }

    pub fn at_most(&mut self, name: impl Into<String>, value: f64, most: f64) {
        self.push(name.into(), value, Some(Target::AtMost(most)));
    }

    fn push(&mut self, name: String, value: f64, target: Option<Target>) {
        let target_text = target.map(|target| format!("   ({target})")).unwrap_or_default();
        println!("  {name}: {}{target_text}", shown(value));
        self.0.push(Finding { name, value, target });
    }
}

/// With as many places as mean something.
fn shown(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

/// Median, least, most.
pub fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

/// The part of the values that is no greater, of sorted ones.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub fn table(runs: &[Findings]) -> String {
    let mut text =
        format!("{}\n{:<64}{:>10}{:>10}{:>10}  wanted\n", usage::machine(), "", "median", "least", "most");
    let Some(first) = runs.first() else { return text };
    for (at, Finding { name, target, .. }) in first.0.iter().enumerate() {
        let values = runs.iter().filter_map(|run| run.0.get(at)).map(|finding| finding.value).collect();
        let (median, least, most) = spread(values);
        let verdict = target
            .map(|target| format!("{target}: {}", if target.is_met(median) { "met" } else { "MISSED" }))
            .unwrap_or_default();
        let [median, least, most] = [median, least, most].map(shown);
        let _ = writeln!(text, "{name:<64}{median:>10}{least:>10}{most:>10}  {verdict}");
    }
    text
}

pub fn json(runs: &[Findings]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "name": finding.name,
            "value": finding.value,
            "wanted": finding.target.map(|target| target.to_string()),
            "met": finding.target.map(|target| target.is_met(finding.value)),
        })
    };
    let runs: Vec<Vec<Value>> = runs.iter().map(|run| run.0.iter().map(finding).collect()).collect();
    json!({ "machine": usage::machine(), "runs": runs })
}

//! The figures of one or several runs, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::parts::Part;
use super::subjects::{Measured, Subject};
use super::usage;

#[derive(Debug, Default)]
pub struct Run {
    pub subjects: BTreeMap<Subject, Measured>,
    pub parts: BTreeMap<Part, f64>,
}

impl Run {
    fn rate(&self, subject: Subject) -> f64 {
        self.subjects.get(&subject).map_or(0.0, |measured| measured.per_second)
    }

    fn ratio(&self, subject: Subject) -> f64 {
        self.rate(subject) / self.rate(Subject::Textbook)
    }

    /// What the parts, one after the other on the same processors, would allow.
    fn allowed(&self, subject: Subject) -> f64 {
        let counts = |part: &Part| *part != Part::Publish || subject == Subject::Outdial;
        1.0 / self.parts.iter().filter(|(part, _)| counts(part)).map(|(_, rate)| 1.0 / rate).sum::<f64>()
    }
}

/// Median, least, most.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

fn rows(runs: &[Run]) -> Vec<(String, (f64, f64, f64))> {
    let each = |name: &str, value: &dyn Fn(&Run) -> f64| (name.to_owned(), spread(runs.iter().map(value)));
    let mut rows = Vec::new();
    for &subject in Subject::ALL {
        let of = |run: &Run| run.subjects.get(&subject).cloned().unwrap_or_default();
        let name = format!("{subject:?}");
        rows.push(each(&format!("{name}: jobs/s"), &|run| run.rate(subject)));
        if subject != Subject::Textbook {
            rows.push(each(&format!("{name}: times the textbook"), &|run| run.ratio(subject)));
            rows.push(each(&format!("{name}: of what the parts allow, %"), &|run| {
                100.0 * run.rate(subject) / run.allowed(subject)
            }));
        }
        rows.push(each(&format!("{name}: CPU-µs a job"), &|run| of(run).cpu_us.all()));
        rows.push(each("  of these the program", &|run| of(run).cpu_us.program));
        rows.push(each("  PostgreSQL", &|run| of(run).cpu_us.postgres));
        rows.push(each("  RabbitMQ", &|run| of(run).cpu_us.rabbitmq));
        rows.push(each("  the provider", &|run| of(run).cpu_us.provider));
        rows.push(each(&format!("{name}: most memory, MiB"), &|run| {
            of(run).peak_memory as f64 / 1_048_576.0
        }));
    }
    for &part in Part::ALL {
        rows.push(each(&format!("{part:?} alone: jobs/s"), &|run| {
            run.parts.get(&part).copied().unwrap_or(f64::NAN)
        }));
    }
    rows
}

pub fn table(runs: &[Run]) -> String {
    let mut text = format!("{}\n{:<44}{:>12}{:>12}{:>12}\n", usage::machine(), "", "median", "least", "most");
    for (name, (median, least, most)) in rows(runs) {
        let places = usize::from(median < 100.0);
        let _ = writeln!(text, "{name:<44}{median:>12.places$}{least:>12.places$}{most:>12.places$}");
    }
    text
}

pub fn json(runs: &[Run]) -> Value {
    let runs: Vec<Value> = runs
        .iter()
        .map(|run| json!({ "subjects": keyed(&run.subjects), "parts": keyed(&run.parts) }))
        .collect();
    json!({ "machine": usage::machine(), "runs": runs })
}

fn keyed<K: std::fmt::Debug, V: serde::Serialize>(map: &BTreeMap<K, V>) -> Value {
    map.iter()
        .map(|(key, value)| (format!("{key:?}"), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

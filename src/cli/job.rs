//! `outdial job`: its whole story, and canceling it.

use std::fmt::Write;

use clap::Subcommand;
use serde_json::Value;

use super::output::{self, Output, cell};
use super::{Context, Failure};
use crate::config::Needs;
use crate::core::ids::JobId;
use crate::store::reporting::{self, JobStory};
use crate::store::stops::{self, Cancelled};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Its whole story: state, what holds it, every attempt with its decision
    Show {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        output: Output,
    },
    /// Cancel it, unless an attempt is in flight
    Cancel(One),
}

#[derive(Debug, clap::Args)]
struct One {
    #[arg(value_name = "JOB_ID", value_parser = |text: &str| JobId::parse(text))]
    job: JobId,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (config, pool) = context.ledger(Needs::DATABASE).await?;
    match args.action {
        Action::Show { one, output } => {
            let story = reporting::job_story(&pool, &one.job).await?.ok_or_else(|| unknown(&one.job))?;
            if output.json { output::print_json(&story) } else { output::print(&told(&story)) }
        }
        Action::Cancel(One { job }) => match stops::cancel_job(&pool, &job, config.events).await? {
            Cancelled::Done => output::print(&format!("{job} is canceled\n")),
            Cancelled::NoSuchJob => Err(unknown(&job)),
            Cancelled::TooLate(state) => {
                Err(Failure::new(format!("{job} can't be canceled now: it is {state}")).mend(format!(
                    "outdial job show {job} tells its story; if it comes to wait again, it can be canceled"
                )))
            }
        },
    }
}

fn unknown(job: &JobId) -> Failure {
    Failure::new(format!("there is no job {job}"))
        .mend("it may not be consumed yet, or be dead-lettered: outdial dead list")
}

/// The story for a person, in order of time.
fn told(story: &JobStory) -> String {
    let mut text = String::new();
    let job = &story.job;
    section(&mut text, &format!("job {}", cell(&job["job_id"])), job, &["job_id"]);
    if !story.waits.is_null() {
        section(&mut text, "waits", &story.waits, &[]);
    }
    for attempt in &story.attempts {
        let title = format!("attempt {}", cell(&attempt["attempt_no"]));
        // Told above, or by its title.
        let known = ["job_id", "attempt_no", "campaign_id", "phone", "region"];
        section(&mut text, &title, attempt, &known);
    }
    for event in &story.unpublished_events {
        let title = format!("event {}, not published yet", cell(&event["type"]));
        section(&mut text, &title, event, &["type"]);
    }
    text
}

/// A title and its fields, one a line; nulls are left out.
fn section(text: &mut String, title: &str, fields: &Value, without: &[&str]) {
    let _ = writeln!(text, "{title}");
    if let Value::Object(fields) = fields {
        for (name, value) in fields.iter().filter(|(name, _)| !without.contains(&name.as_str())) {
            field(text, 1, name, value);
        }
    }
}

/// `decision` and `metadata` hold fields of their own: they are indented below their name.
fn field(text: &mut String, depth: usize, name: &str, value: &Value) {
    let indent = "  ".repeat(depth);
    let _ = match value {
        Value::Null => Ok(()),
        Value::Object(fields) => {
            let done = writeln!(text, "{indent}{name}:");
            fields.iter().for_each(|(name, value)| field(text, depth + 1, name, value));
            done
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            let done = writeln!(text, "{indent}{name}:");
            items.iter().for_each(|item| {
                let _ = writeln!(text, "{indent}  - {item}");
            });
            done
        }
        value => writeln!(text, "{indent}{name}: {}", cell(value)),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_reads_from_the_job_to_its_attempts() {
        let story = JobStory {
            job: json!({ "job_id": "j-1", "state": "waiting", "reason": "number_limit", "brand": null }),
            waits: json!({ "class_due_at": "2026-11-23T14:00:00Z", "ahead": 3 }),
            attempts: vec![json!({ "attempt_no": 1, "job_id": "j-1", "rule": "acme",
                "decision": { "candidates": [{ "number": "+1628", "out": "number_limit" }] } })],
            unpublished_events: vec![],
        };
        let expected = "job j-1\n  reason: number_limit\n  state: waiting\nwaits\n  ahead: 3\n  \
            class_due_at: 2026-11-23T14:00:00Z\nattempt 1\n  decision:\n    candidates:\n      \
            - {\"number\":\"+1628\",\"out\":\"number_limit\"}\n  rule: acme\n";
        assert_eq!(told(&story), expected);
    }
}

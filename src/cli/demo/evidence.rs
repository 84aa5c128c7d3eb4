//! Where the evidence comes from: the sandbox's ledger, the dead queue, the reporting views.

use serde_json::Value;

use super::Failure;
use super::check::{Dead, Evidence, Post, Record};
use super::jobs::{Line, MARK};
use crate::broker::{DeadQueue, Target};
use crate::store::{Pool, reporting};
use crate::synthflow::sandbox::{LedgerEntry, Sandbox};

/// Everything that is known once the workers have stopped.
pub async fn gather(
    lines: Vec<Line>,
    sandbox: &Sandbox,
    target: &Target,
    pool: &Pool,
) -> Result<Evidence, Failure> {
    let ends_us = sandbox.call_ends_us();
    let ledger = sandbox.ledger();
    let posts = ledger.iter().map(|entry| {
        let ended_us = entry.call_id.as_ref().and_then(|id| ends_us.get(id)).copied();
        post(entry, ended_us)
    });
    let records = reporting::jobs(pool).await?;
    Ok(Evidence {
        dead: buried(target, lines.len()).await?,
        posts: posts.collect(),
        records: records.iter().map(|job| (text(job, "job_id"), record(job))).collect(),
        lines,
    })
}

fn post(entry: &LedgerEntry, ended_us: Option<u64>) -> Post {
    let whole = |given: &Option<String>| given.clone().unwrap_or_default();
    Post {
        at_us: entry.mono_us,
        ended_us,
        job_id: mark(&entry.body["custom_variables"]),
        attempt_id: whole(&entry.attempt_id),
        model_id: whole(&entry.model_id),
        phone: whole(&entry.phone),
        from: whole(&entry.from_phone_number),
    }
}

/// The demo's own custom variable, in either form that the vendor takes.
fn mark(variables: &Value) -> String {
    match variables {
        Value::Array(pairs) => {
            pairs.iter().find(|pair| pair["key"] == MARK).map(|pair| text(pair, "value")).unwrap_or_default()
        }
        variables => text(variables, MARK),
    }
}

fn record(job: &Value) -> Record {
    Record { state: text(job, "state"), reason: text(job, "reason") }
}

async fn buried(target: &Target, limit: usize) -> Result<Vec<Dead>, Failure> {
    let queue = DeadQueue::open(target).await?;
    let messages = queue.list(limit).await;
    queue.close().await;
    let dead = |message: crate::broker::DeadMessage| {
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        Dead {
            reason: message.why.reason.to_string(),
            job_id: text(&body, "job_id"),
            phone: text(&body, "phone"),
        }
    };
    Ok(messages?.into_iter().map(dead).collect())
}

/// A text of an object; empty where there is none.
pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_mark_is_read_in_either_form() {
        assert_eq!(
            mark(&json!([{"key": "x", "value": "1"}, {"key": MARK, "value": "demo-0001"}])),
            "demo-0001"
        );
        assert_eq!(mark(&json!({ MARK: "demo-0001" })), "demo-0001");
        assert_eq!(mark(&Value::Null), "");
    }
}

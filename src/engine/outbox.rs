//! The outbox: what happened is written with what made it happen, and published from there, at least once and in order
//! per subject. One worker at a time publishes; two for a moment do no harm.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::future::join_all;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::duty::{Duties, Duty};
use super::ports::LedgerError;
use crate::core::backoff::Backoff;

/// Rows read at once.
pub const BATCH_MAX: usize = 1000;
/// How long a publisher holds the duty without a word.
const LEASE: Duration = Duration::from_secs(10);
/// Between two looks at an empty outbox, and at a duty that another has.
const IDLE: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(2);

/// An event that is not published yet.
#[derive(Debug, Clone)]
pub struct Event {
    /// Of the outbox.
    pub id: i64,
    /// The contract's type, which is also the routing key.
    pub kind: String,
    /// Job id, number, campaign or account.
    pub subject: String,
    /// Orders the events of a subject.
    pub sequence: i64,
    pub time: DateTime<Utc>,
    /// JSON.
    pub data: Box<RawValue>,
    pub traceparent: Option<String>,
}

/// Where events wait.
pub trait EventLog: Send + Sync + 'static {
    /// The oldest `limit` events, by id. Never by a cursor: a row may be committed late.
    fn unpublished(&self, limit: usize) -> impl Future<Output = Result<Vec<Event>, LedgerError>> + Send;
    /// Strikes events off.
    fn published(&self, ids: &[i64]) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// Where events go.
pub trait EventSink: Send + Sync + 'static {
    /// Publishes, and waits for the confirm. `Err`: nobody knows whether it arrived.
    fn publish(&self, kind: &str, id: &str, body: Vec<u8>)
    -> impl Future<Output = Result<(), String>> + Send;
}

/// What one pass did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub published: usize,
    /// Left for the next pass: not confirmed, or behind one that wasn't.
    pub left: usize,
}

/// Publishes until `stop`, whenever the duty is ours.
pub async fn run<D: Duties>(log: &impl EventLog, sink: &impl EventSink, duties: D, stop: &CancellationToken) {
    let mut duty = Duty::new(duties, "outbox", LEASE);
    let mut backoff = Backoff::new(IDLE, Duration::from_secs(2));
    let mut failing = false;
    while !stop.is_cancelled() {
        let wait = if !duty.is_ours().await {
            ELSEWHERE
        } else {
            match pass(log, sink).await {
                Ok(Pass { published: 0, left: 0 }) => IDLE,
                Ok(Pass { left: 0, .. }) => {
                    backoff.succeeded();
                    failing = false;
                    Duration::ZERO
                }
                outcome => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(outcome = ?outcome, "events are not published; they wait in the outbox");
                    }
                    backoff.after_failure(rand::random())
                }
            }
        };
        let _ = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
    duty.leave().await;
}

/// Publishes the oldest events and strikes them off.
pub async fn pass(log: &impl EventLog, sink: &impl EventSink) -> Result<Pass, LedgerError> {
    let mut todo = log.unpublished(BATCH_MAX).await?;
    let mut done = Vec::with_capacity(todo.len());
    let mut failed: HashSet<String> = HashSet::new();
    let mut left = 0;
    while !todo.is_empty() {
        // In waves of one event a subject: the next is published only when the one before is confirmed, so that no
        // listener sees a later one first.
        let mut subjects = HashSet::new();
        let (wave, rest): (Vec<Event>, Vec<Event>) =
            todo.into_iter().partition(|event| subjects.insert(event.subject.clone()));
        let outcomes = join_all(wave.iter().map(|event| publish(sink, event))).await;
        for (event, outcome) in wave.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => done.push(event.id),
                Err(error) => {
                    tracing::debug!(event.id, error, "event not confirmed");
                    failed.insert(event.subject);
                    left += 1;
                }
            }
        }
        let before = rest.len();
        todo = rest.into_iter().filter(|event| !failed.contains(&event.subject)).collect();
        left += before - todo.len();
    }
    if !done.is_empty() {
        log.published(&done).await?;
    }
    Ok(Pass { published: done.len(), left })
}

async fn publish(sink: &impl EventSink, event: &Event) -> Result<(), String> {
    let id = event_id(event);
    let body = serde_json::to_vec(&Envelope::of(event, &id)).map_err(|error| error.to_string())?;
    sink.publish(&event.kind, &id, body).await
}

/// The same at each try; another in another database, whose rows count from 1 again.
fn event_id(event: &Event) -> String {
    format!("{}-{}", event.id, event.time.timestamp_micros())
}

/// CloudEvents 1.0, structured mode.
#[derive(serde::Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'static str,
    r#type: &'a str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    /// The extension `sequence`: as text, so padded that texts sort as numbers do.
    sequence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: &'a RawValue,
}

impl<'a> Envelope<'a> {
    fn of(event: &'a Event, id: &'a str) -> Self {
        Self {
            specversion: "1.0",
            id,
            source: "outdial",
            r#type: &event.kind,
            subject: &event.subject,
            time: event.time.to_rfc3339_opts(SecondsFormat::Micros, true),
            datacontenttype: "application/json",
            sequence: format!("{:019}", event.sequence),
            traceparent: event.traceparent.as_deref(),
            data: &event.data,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::HashMap;
    use std::sync::Mutex;

    use chrono::TimeZone;
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Memory(Mutex<Vec<Event>>);

    impl EventLog for Memory {
        async fn unpublished(&self, limit: usize) -> Result<Vec<Event>, LedgerError> {
            Ok(self.0.lock().unwrap().iter().take(limit).cloned().collect())
        }
        async fn published(&self, ids: &[i64]) -> Result<(), LedgerError> {
            self.0.lock().unwrap().retain(|event| !ids.contains(&event.id));
            Ok(())
        }
    }

    /// Keeps what arrives; some confirms fail, of which every other had arrived.
    struct Listener {
        seen: Mutex<Vec<serde_json::Value>>,
        failures: Mutex<Vec<bool>>,
    }

    impl EventSink for Listener {
        async fn publish(&self, _: &str, _: &str, body: Vec<u8>) -> Result<(), String> {
            tokio::task::yield_now().await;
            let fails = self.failures.lock().unwrap().pop();
            if fails != Some(false) {
                self.seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            }
            if fails.is_some() { Err("no confirm".to_owned()) } else { Ok(()) }
        }
    }

    fn event(id: i64, subject: &str, sequence: i64) -> Event {
        Event {
            id,
            kind: "job.accepted".to_owned(),
            subject: subject.to_owned(),
            sequence,
            time: Utc.with_ymd_and_hms(2026, 11, 23, 12, 0, 0).unwrap(),
            data: RawValue::from_string(r#"{"job_id":"a"}"#.to_owned()).unwrap(),
            traceparent: None,
        }
    }

    #[tokio::test]
    async fn an_event_is_a_cloud_event() {
        let log =
            Memory(Mutex::new(vec![Event { traceparent: Some("00-t".to_owned()), ..event(7, "a", 3) }]));
        let sink = Listener { seen: Mutex::default(), failures: Mutex::default() };
        assert_eq!(pass(&log, &sink).await.unwrap(), Pass { published: 1, left: 0 });
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "7-1795435200000000", "source": "outdial", "type": "job.accepted",
            "subject": "a", "time": "2026-11-23T12:00:00.000000Z", "datacontenttype": "application/json",
            "sequence": "0000000000000000003", "traceparent": "00-t", "data": {"job_id": "a"}
        });
        assert_eq!(*sink.seen.lock().unwrap(), [expected]);
        assert!(log.0.lock().unwrap().is_empty());
    }

    proptest! {
        /// Whatever confirms fail: every event arrives, and a listener that dedupes sees each subject in order.
        #[test]
        fn order_per_subject_survives_failing_confirms(
            subjects in proptest::collection::vec(0..4_u8, 1..40),
            failures in proptest::collection::vec(any::<bool>(), 0..30),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut next: HashMap<u8, i64> = HashMap::new();
            let events: Vec<Event> = subjects.iter().enumerate().map(|(id, subject)| {
                let sequence = next.entry(*subject).or_default();
                *sequence += 1;
                event(id as i64, &subject.to_string(), *sequence)
            }).collect();
            let log = Memory(Mutex::new(events));
            let sink = Listener { seen: Mutex::default(), failures: Mutex::new(failures) };
            for _ in 0..100 {
                runtime.block_on(pass(&log, &sink)).unwrap();
            }
            prop_assert!(log.0.lock().unwrap().is_empty());
            let mut heard: HashMap<String, Vec<String>> = HashMap::new();
            for seen in sink.seen.lock().unwrap().iter() {
                let text = |key: &str| seen[key].as_str().unwrap().to_owned();
                let of_subject = heard.entry(text("subject")).or_default();
                if !of_subject.contains(&text("sequence")) {
                    of_subject.push(text("sequence"));
                }
            }
            prop_assert_eq!(heard.values().map(Vec::len).sum::<usize>(), subjects.len());
            prop_assert!(heard.values().all(|sequences| sequences.is_sorted()));
        }
    }
}

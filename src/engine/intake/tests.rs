#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use proptest::prelude::*;

use super::*;
use crate::core::ids::CampaignId;
use crate::core::job::Digest16;

/// What became of messages, in order.
type Log = Arc<Mutex<Vec<(usize, &'static str)>>>;

struct Fake {
    no: usize,
    body: String,
    kind: Option<&'static str>,
    log: Log,
}

impl Message for Fake {
    fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }
    fn message_id(&self) -> Option<&str> {
        None
    }
    fn kind(&self) -> Option<&str> {
        self.kind
    }
    fn traceparent(&self) -> Option<String> {
        None
    }
    fn done(self) {
        self.log.lock().unwrap().push((self.no, "acked"));
    }
    fn bury(self, why: DeadLetter) {
        self.log.lock().unwrap().push((self.no, why.reason.as_str()));
    }
}

/// A ledger in memory. A job whose name is "poison" is refused, with its whole batch.
#[derive(Default)]
struct Memory {
    jobs: Mutex<HashMap<String, Digest16>>,
    statements: AtomicU64,
    canceled: Mutex<Vec<(String, bool)>>,
    away: AtomicBool,
    /// Commits, but the answer gets lost.
    answer_lost: AtomicBool,
    waiting: AtomicU64,
}

impl IntakeLedger for Memory {
    async fn accept(&self, batch: &[NewJob]) -> Result<Vec<Receipt>, LedgerError> {
        self.statements.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(LedgerError::Unavailable("away".to_owned()));
        }
        if batch.iter().any(|job| job.job.name.as_str() == "poison") {
            return Err(LedgerError::Refused("invalid byte sequence".to_owned()));
        }
        let mut jobs = self.jobs.lock().unwrap();
        let receipts = batch.iter().map(|new| {
            let content = new.job.content_digest();
            match jobs.insert(new.job.job_id.to_string(), content) {
                None => Receipt::New,
                Some(known) => {
                    jobs.insert(new.job.job_id.to_string(), known);
                    if known == content { Receipt::Duplicate } else { Receipt::Conflict }
                }
            }
        });
        let receipts = receipts.collect();
        match self.answer_lost.swap(false, Ordering::Relaxed) {
            true => Err(LedgerError::Unavailable("connection lost".to_owned())),
            false => Ok(receipts),
        }
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<u64, LedgerError> {
        let jobs = self.jobs.lock().unwrap();
        let known = ids.iter().map(|id| (id.to_string(), jobs.contains_key(id.as_str())));
        self.canceled.lock().unwrap().extend(known);
        Ok(ids.len() as u64)
    }

    async fn waiting(&self) -> Result<u64, LedgerError> {
        Ok(self.waiting.load(Ordering::Relaxed))
    }
}

struct Terms;

impl IntakeTerms for Terms {
    fn now(&self) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 23, 12, 0, 0).unwrap()
    }
    fn expires_after(&self, _: &CampaignId) -> TimeDelta {
        TimeDelta::days(7)
    }
}

#[derive(Debug, Default)]
struct Tally {
    taken: Mutex<Vec<Taken>>,
    batches: Mutex<Vec<usize>>,
    failed: AtomicU64,
    paused: AtomicBool,
}

impl Traces for Tally {}

impl IntakeMeter for Tally {
    fn message(&self, became: Taken) {
        self.taken.lock().unwrap().push(became);
    }
    fn batch(&self, jobs: usize) {
        self.batches.lock().unwrap().push(jobs);
    }
    fn paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
    fn statement(&self, _: &'static str, _: Duration, succeeded: bool) {
        self.failed.fetch_add((!succeeded).into(), Ordering::Relaxed);
    }
}

struct Bench {
    tally: Arc<Tally>,
    intake: Arc<Intake<Memory, Terms>>,
    gate: watch::Receiver<bool>,
    log: Log,
    stop: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let (gate, seen) = watch::channel(true);
        let tally = Arc::<Tally>::default();
        let intake = Intake {
            ledger: Arc::new(Memory::default()),
            terms: Arc::new(Terms),
            options: JobOptions::default(),
            max_waiting: 1_000_000,
            gate,
            meter: Arc::clone(&tally) as _,
        };
        Self {
            tally,
            intake: Arc::new(intake),
            gate: seen,
            log: Log::default(),
            stop: CancellationToken::new(),
        }
    }

    fn message(&self, no: usize, body: String, kind: Option<&'static str>) -> Fake {
        Fake { no, body, kind, log: Arc::clone(&self.log) }
    }

    fn job(&self, no: usize, id: &str, name: &str) -> Fake {
        let body = format!(r#"{{"job_id":"{id}","campaign_id":"c","phone":"+14155552671","name":"{name}"}}"#);
        self.message(no, body, None)
    }

    /// Puts the messages in as one batch and waits until each is settled.
    async fn settle(&self, messages: Vec<Fake>) -> Vec<(usize, &'static str)> {
        let (sender, inbox) = mpsc::channel(messages.len().max(1));
        for message in messages {
            sender.try_send(message).ok().unwrap();
        }
        drop(sender);
        self.intake.run(inbox, self.stop.clone()).await;
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Waits until the gate is so.
    async fn turned(&mut self, open: bool) {
        let turned = self.gate.wait_for(|is_open| *is_open == open);
        tokio::time::timeout(Duration::from_secs(600), turned).await.unwrap().unwrap();
    }

    fn statements(&self) -> u64 {
        self.intake.ledger.statements.swap(0, Ordering::Relaxed)
    }
}

#[tokio::test]
async fn new_jobs_and_duplicates_are_acked_and_conflicts_buried() {
    let bench = Bench::new();
    let first = bench.settle(vec![bench.job(0, "a", "Ada"), bench.job(1, "b", "Bob")]).await;
    assert_eq!(first, [(0, "acked"), (1, "acked")]);
    let again = bench.settle(vec![bench.job(0, "a", "Ada"), bench.job(1, "b", "Eve")]).await;
    assert_eq!(again, [(0, "acked"), (1, "conflict")]);
    assert_eq!(bench.statements(), 2);
    let taken = [Taken::Accepted, Taken::Accepted, Taken::Duplicate, Taken::Dead(DeadReason::Conflict)];
    assert_eq!(*bench.tally.taken.lock().unwrap(), taken);
    assert_eq!(*bench.tally.batches.lock().unwrap(), [2, 2]);
}

#[tokio::test]
async fn an_id_stands_in_a_statement_once() {
    let bench = Bench::new();
    let batch = vec![bench.job(0, "a", "Ada"), bench.job(1, "a", "Ada"), bench.job(2, "a", "Eve")];
    assert_eq!(bench.settle(batch).await, [(0, "acked"), (1, "acked"), (2, "conflict")]);
    assert_eq!(bench.statements(), 1);
}

#[tokio::test]
async fn after_a_conflict_the_next_content_is_asked_for_itself() {
    let bench = Bench::new();
    bench.settle(vec![bench.job(0, "a", "Ada")]).await;
    let batch = vec![bench.job(1, "a", "Eve"), bench.job(2, "a", "Ada"), bench.job(3, "a", "Eve")];
    let mut settled = bench.settle(batch).await;
    settled.sort();
    assert_eq!(settled, [(1, "conflict"), (2, "acked"), (3, "conflict")]);
}

#[tokio::test]
async fn a_refused_batch_is_halved_down_to_the_culprits() {
    let bench = Bench::new();
    let name = |no| if no == 123 || no == 124 { "poison" } else { "Ada" };
    let batch = (0..BATCH_MAX).map(|no| bench.job(no, &format!("j{no}"), name(no))).collect();
    let settled = bench.settle(batch).await;
    assert_eq!(settled.len(), BATCH_MAX);
    for (no, what) in settled {
        assert_eq!(what, if name(no) == "poison" { "malformed" } else { "acked" }, "{no}");
    }
    assert!(bench.statements() < 40, "halving, not one by one");
}

#[tokio::test]
async fn what_cannot_be_a_job_is_buried_and_the_rest_goes_on() {
    let bench = Bench::new();
    let batch = vec![bench.message(0, "{".to_owned(), None), bench.job(1, "a", "Ada")];
    assert_eq!(bench.settle(batch).await, [(0, "malformed"), (1, "acked")]);
}

#[tokio::test]
async fn a_cancel_message_finds_the_job_sent_before_it_and_not_the_one_after() {
    let bench = Bench::new();
    let cancel = |no, id| bench.message(no, format!(r#"{{"job_id":"{id}"}}"#), Some("cancel"));
    let batch = vec![bench.job(0, "a", "Ada"), cancel(1, "a"), cancel(2, "b"), bench.job(3, "b", "Bob")];
    assert_eq!(bench.settle(batch).await.len(), 4);
    let canceled = bench.intake.ledger.canceled.lock().unwrap().clone();
    assert_eq!(canceled, [("a".to_owned(), true), ("b".to_owned(), false)]);
    let taken = [Taken::Accepted, Taken::Cancel, Taken::Cancel, Taken::Accepted];
    assert_eq!(*bench.tally.taken.lock().unwrap(), taken);
}

#[tokio::test(start_paused = true)]
async fn while_the_database_is_away_nothing_is_settled_and_the_gate_is_shut() {
    let mut bench = Bench::new();
    bench.intake.ledger.away.store(true, Ordering::Relaxed);
    let (sender, inbox) = mpsc::channel(8);
    sender.send(bench.job(0, "a", "Ada")).await.ok().unwrap();
    let (intake, stop) = (Arc::clone(&bench.intake), bench.stop.clone());
    let running = tokio_util::task::TaskTracker::new();
    let done = running.spawn(async move { intake.run(inbox, stop).await });
    bench.turned(false).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(bench.log.lock().unwrap().is_empty());
    let tries = bench.statements();
    assert!((1_800..3_700).contains(&tries), "back-off, then every second or two: {tries}");
    assert_eq!(bench.tally.failed.load(Ordering::Relaxed), tries);
    assert!(bench.tally.paused.load(Ordering::Relaxed));
    bench.intake.ledger.away.store(false, Ordering::Relaxed);
    bench.turned(true).await;
    drop(sender);
    done.await.unwrap();
    assert_eq!(*bench.log.lock().unwrap(), [(0, "acked")]);
    assert!(!bench.tally.paused.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_got_lost_is_run_again_and_adopted() {
    let bench = Bench::new();
    bench.intake.ledger.answer_lost.store(true, Ordering::Relaxed);
    assert_eq!(bench.settle(vec![bench.job(0, "a", "Ada")]).await, [(0, "acked")]);
    assert_eq!(bench.statements(), 2);
    assert_eq!(bench.intake.ledger.jobs.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_what_is_not_committed_to_the_broker() {
    let bench = Bench::new();
    bench.intake.ledger.away.store(true, Ordering::Relaxed);
    let stop = bench.stop.clone();
    let messages = vec![bench.job(0, "a", "Ada")];
    let (settled, ()) = tokio::join!(bench.settle(messages), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
    });
    assert!(settled.is_empty());
}

#[tokio::test(start_paused = true)]
async fn above_max_waiting_no_more_is_taken() {
    let mut bench = Bench::new();
    Arc::get_mut(&mut bench.intake).unwrap().max_waiting = 100;
    bench.intake.ledger.waiting.store(97, Ordering::Relaxed);
    let (sender, inbox) = mpsc::channel(8);
    for no in 0..8 {
        sender.send(bench.job(no, &format!("j{no}"), "Ada")).await.ok().unwrap();
    }
    let (intake, stop) = (Arc::clone(&bench.intake), bench.stop.clone());
    let running = tokio_util::task::TaskTracker::new();
    let done = running.spawn(async move { intake.run(inbox, stop).await });
    // The ledger's count follows what was accepted, as a real one's does.
    tokio::time::sleep(Duration::from_millis(500)).await;
    bench.intake.ledger.waiting.store(100, Ordering::Relaxed);
    bench.turned(false).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.log.lock().unwrap().len(), 3);
    bench.intake.ledger.waiting.store(0, Ordering::Relaxed);
    drop(sender);
    done.await.unwrap();
    assert!(*bench.gate.borrow());
    assert_eq!(bench.log.lock().unwrap().len(), 8);
}

#[tokio::test]
async fn a_job_without_expiry_gets_its_campaigns() {
    let bench = Bench::new();
    let sorted = batch::sort([bench.job(0, "a", "Ada")].into_iter(), &JobOptions::default(), &Terms);
    let expires_at = sorted.runs.iter().find_map(|run| match run {
        Run::Jobs(jobs) => jobs.first().map(|job| job.job.expires_at),
        Run::Cancels(_) => None,
    });
    assert_eq!(expires_at, Some(Terms.now() + TimeDelta::days(7)));
}

proptest! {
    /// Every message is settled exactly once, and as a ledger that takes them one by one would have it.
    #[test]
    fn nothing_is_lost_settled_twice_or_judged_otherwise_than_one_by_one(
        mix in proptest::collection::vec((0..4_u8, 0..4_u8), 0..40), cuts in proptest::collection::vec(1..20_usize, 0..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let bench = Bench::new();
        let mut known: HashMap<u8, u8> = HashMap::new();
        let expected: Vec<&str> = mix.iter().map(|&(id, name)| {
            if name == 3 { return "buried"; }
            if *known.entry(id).or_insert(name) == name { "acked" } else { "conflict" }
        }).collect();
        let mut messages: Vec<Fake> = mix.iter().enumerate().map(|(no, (id, name))| {
            bench.job(no, &format!("j{id}"), ["Ada", "Bob", "Eve", "poison"][usize::from(*name)])
        }).collect();
        let mut settled = Vec::new();
        for cut in cuts {
            let rest = messages.split_off(cut.min(messages.len()));
            settled.extend(runtime.block_on(bench.settle(std::mem::replace(&mut messages, rest))));
        }
        settled.extend(runtime.block_on(bench.settle(messages)));
        settled.sort();
        // What the database would refuse may also be a conflict, where its id stands in the same batch.
        for (no, what) in &mut settled {
            if mix[*no].1 == 3 && *what != "acked" {
                *what = "buried";
            }
        }
        let expected: Vec<_> = expected.into_iter().enumerate().collect();
        prop_assert_eq!(settled, expected);
    }
}

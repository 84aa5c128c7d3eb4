//! Records lie in ranges of job numbers: ranges to come are made ahead, and those that have been kept long enough go, a
//! small step a round, so that nothing else waits for it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{CHUNK, failed};
use crate::clock;
use crate::core::ids::JobNo;
use crate::engine::ledger::LedgerError;

/// Ranges are made ahead this often; one is far larger than what comes in between.
const MAKE_EVERY: Duration = Duration::from_secs(60);
/// What is old is looked for this often,
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// or this soon, where others held the records.
const AGAIN: Duration = Duration::from_secs(60);
/// So often in a row is no coincidence any more.
const HELD_MANY: u32 = 10;
/// A range that is about to go as a whole is waited for so long before its jobs are deleted one by one: that costs far more.
const GRACE: Duration = Duration::from_secs(86_400);
/// Jobs to a step that only reads them.
const READ: u32 = 10_000;
/// Keys to a step; they lie apart.
const KEYS: u32 = 5_000;

/// How long records and keys are kept at least; `None`: for ever.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    pub records: Option<Duration>,
    pub keys: Option<Duration>,
}

/// A range of job numbers: from the first on, and without the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobRange {
    pub first: i64,
    pub end: i64,
}

/// What became of the wish to drop a range's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropping {
    Dropped(JobRange),
    /// Others use the records: to be tried again.
    Held(JobRange),
    /// No range is old enough.
    Nothing,
}

/// The ranges, as they come and go.
pub trait RetentionLedger: Send + Sync + 'static {
    /// Makes a whole range more than the next jobs need, where there is none; gives how many it made.
    fn make_partitions(&self) -> impl Future<Output = Result<u32, LedgerError>> + Send;
    /// Notes which jobs are over in ranges that are full, of up to `limit` jobs of each; true: there is more to look at.
    fn note_ended(&self, limit: u32) -> impl Future<Output = Result<bool, LedgerError>> + Send;
    /// Drops the records of one range whose jobs have all been over for so long.
    fn drop_records(&self, kept: Duration) -> impl Future<Output = Result<Dropping, LedgerError>> + Send;
    /// Forgets single jobs that have been over for so long, from job `after` on. Gives how far it came (`None`: to the end)
    /// and how many it forgot.
    fn forget_records(
        &self,
        kept: Duration,
        after: JobNo,
        limit: u32,
    ) -> impl Future<Output = Result<(Option<JobNo>, u32), LedgerError>> + Send;
    /// Ranges without records whose jobs have been over for so long.
    fn old_keys(&self, kept: Duration) -> impl Future<Output = Result<Vec<JobRange>, LedgerError>> + Send;
    /// Drops keys of those ranges, from the one after `after` on; gives how far it came (`None`: to the end).
    fn drop_keys(
        &self,
        ranges: &[JobRange],
        after: Option<Uuid>,
        limit: u32,
    ) -> impl Future<Output = Result<Option<Uuid>, LedgerError>> + Send;
}

/// What is done next: Note (again while there is more) => Drop (again while there is one) => Forget => OldKeys => DropKeys.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Note,
    Drop,
    /// From this job on.
    Forget(JobNo),
    OldKeys(Duration),
    /// Of the ranges that were old when the walk began, and no others: it hasn't met all keys of those.
    DropKeys(Vec<JobRange>, Option<Uuid>),
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Note => "note_ended",
            Self::Drop => "drop_records",
            Self::Forget(_) => "forget_records",
            Self::OldKeys(_) => "old_keys",
            Self::DropKeys(..) => "drop_keys",
        }
    }
}

/// What is remembered from round to round.
pub(super) struct Retaining {
    make_at: Instant,
    look_at: Instant,
    /// `None`: all was looked at.
    step: Option<Step>,
    /// How often in a row others held the records.
    held: u32,
    /// Jobs that this walk has forgotten.
    forgotten: u64,
}

impl Retaining {
    pub(super) fn new() -> Self {
        let now = clock::monotonic();
        Self { make_at: now, look_at: now, step: None, held: 0, forgotten: 0 }
    }

    /// Another worker has the duty, and begins anew.
    pub(super) fn leave(&mut self) {
        (self.step, self.forgotten) = (None, 0);
    }

    pub(super) async fn round(&mut self, ledger: &impl RetentionLedger, kept: Kept) {
        let now = clock::monotonic();
        if now >= self.make_at {
            self.make_at = now + MAKE_EVERY;
            match ledger.make_partitions().await {
                Ok(0) => {}
                Ok(made) => tracing::debug!(ranges = made, "records.opened"),
                Err(error) => failed("make_partitions", &error),
            }
        }
        let Some(records) = kept.records else { return };
        let step = match self.step.take() {
            Some(step) => step,
            None if now < self.look_at => return,
            None => {
                self.look_at = now + LOOK_EVERY;
                Step::Note
            }
        };
        let name = step.name();
        match self.take(step, ledger, records, kept.keys).await {
            Ok(next) => self.step = next,
            Err(error) => failed(name, &error),
        }
    }

    /// Takes a step; gives the next, if there is one.
    async fn take(
        &mut self,
        step: Step,
        ledger: &impl RetentionLedger,
        records: Duration,
        keys: Option<Duration>,
    ) -> Result<Option<Step>, LedgerError> {
        Ok(match step {
            Step::Note => Some(if ledger.note_ended(READ).await? { Step::Note } else { Step::Drop }),
            Step::Drop => Some(match ledger.drop_records(records).await? {
                Dropping::Dropped(range) => {
                    self.held = 0;
                    tracing::info!(range.first = range.first, range.end = range.end, "records.dropped");
                    Step::Drop
                }
                Dropping::Held(range) => {
                    self.held(range);
                    Step::Forget(JobNo(0))
                }
                Dropping::Nothing => {
                    self.held = 0;
                    Step::Forget(JobNo(0))
                }
            }),
            Step::Forget(after) => {
                let (upto, forgotten) = ledger.forget_records(records + GRACE, after, CHUNK).await?;
                self.forgotten += u64::from(forgotten);
                match upto {
                    Some(upto) => Some(Step::Forget(upto)),
                    None => {
                        let jobs = std::mem::take(&mut self.forgotten);
                        if jobs > 0 {
                            tracing::info!(jobs, "records.forgotten");
                        }
                        keys.map(Step::OldKeys)
                    }
                }
            }
            Step::OldKeys(kept) => {
                let ranges = ledger.old_keys(kept).await?;
                (!ranges.is_empty()).then_some(Step::DropKeys(ranges, None))
            }
            Step::DropKeys(ranges, after) => match ledger.drop_keys(&ranges, after, KEYS).await? {
                Some(upto) => Some(Step::DropKeys(ranges, Some(upto))),
                None => {
                    for range in ranges {
                        tracing::info!(range.first = range.first, range.end = range.end, "keys.dropped");
                    }
                    None
                }
            },
        })
    }

    fn held(&mut self, range: JobRange) {
        self.held += 1;
        self.look_at = clock::monotonic() + AGAIN;
        if self.held.is_multiple_of(HELD_MANY) {
            tracing::warn!(
                range.first = range.first,
                tries = self.held,
                "records.held: old ones can't be dropped, for somebody has a lock on them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const OLD: JobRange = JobRange { first: 0, end: 50 };

    /// Writes down what it is asked, and answers as it was told; else that there is nothing.
    #[derive(Debug, Default)]
    struct Script {
        asked: Mutex<Vec<String>>,
        more_to_note: Mutex<u32>,
        drops: Mutex<VecDeque<Dropping>>,
        forgets: Mutex<VecDeque<i64>>,
        old_keys: Mutex<Vec<JobRange>>,
        keys: Mutex<VecDeque<Uuid>>,
        fails: Mutex<bool>,
    }

    impl Script {
        fn note(&self, what: String) {
            self.asked.lock().unwrap().push(what);
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.asked.lock().unwrap())
        }
    }

    impl RetentionLedger for Script {
        async fn make_partitions(&self) -> Result<u32, LedgerError> {
            self.note("make".to_owned());
            Ok(0)
        }

        async fn note_ended(&self, _: u32) -> Result<bool, LedgerError> {
            self.note("note".to_owned());
            let mut more = self.more_to_note.lock().unwrap();
            let is_more = *more > 0;
            *more = more.saturating_sub(1);
            Ok(is_more)
        }

        async fn drop_records(&self, kept: Duration) -> Result<Dropping, LedgerError> {
            self.note(format!("drop after {} d", kept.as_secs() / 86_400));
            if *self.fails.lock().unwrap() {
                return Err(LedgerError::Unavailable("it is away".to_owned()));
            }
            Ok(self.drops.lock().unwrap().pop_front().unwrap_or(Dropping::Nothing))
        }

        async fn forget_records(
            &self,
            kept: Duration,
            after: JobNo,
            _: u32,
        ) -> Result<(Option<JobNo>, u32), LedgerError> {
            self.note(format!("forget after {} d from {}", kept.as_secs() / 86_400, after.0));
            Ok((self.forgets.lock().unwrap().pop_front().map(JobNo), 1))
        }

        async fn old_keys(&self, kept: Duration) -> Result<Vec<JobRange>, LedgerError> {
            self.note(format!("old keys after {} d", kept.as_secs() / 86_400));
            Ok(std::mem::take(&mut *self.old_keys.lock().unwrap()))
        }

        async fn drop_keys(
            &self,
            ranges: &[JobRange],
            after: Option<Uuid>,
            _: u32,
        ) -> Result<Option<Uuid>, LedgerError> {
            self.note(format!("keys of {} from {}", ranges.len(), after.is_some()));
            Ok(self.keys.lock().unwrap().pop_front())
        }
    }

    /// Until nothing is left to do for a while; gives what was asked, ranges ahead left out.
    async fn rounds(retaining: &mut Retaining, script: &Script, kept: Kept) -> Vec<String> {
        retaining.round(script, kept).await;
        while retaining.step.is_some() {
            retaining.round(script, kept).await;
        }
        let mut asked = script.asked();
        asked.retain(|what| what != "make");
        asked
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_for_ever_is_left_and_ranges_are_made_ahead() {
        let (mut retaining, script) = (Retaining::new(), Script::default());
        for _ in 0..3 {
            retaining.round(&script, Kept::default()).await;
        }
        assert_eq!(script.asked(), ["make"]);
        tokio::time::advance(MAKE_EVERY).await;
        retaining.round(&script, Kept::default()).await;
        assert_eq!(script.asked(), ["make"]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_look_goes_through_all_steps_one_a_round() {
        let (mut retaining, script) = (Retaining::new(), Script::default());
        let kept = Kept { records: Some(90 * DAY), keys: Some(400 * DAY) };
        *script.more_to_note.lock().unwrap() = 1;
        script.drops.lock().unwrap().push_back(Dropping::Dropped(OLD));
        script.forgets.lock().unwrap().push_back(1_000);
        script.old_keys.lock().unwrap().push(OLD);
        script.keys.lock().unwrap().push_back(Uuid::nil());
        retaining.round(&script, kept).await;
        assert_eq!(script.asked(), ["make", "note"], "one a round");
        let expected = [
            "note",
            "drop after 90 d",
            "drop after 90 d",
            "forget after 91 d from 0",
            "forget after 91 d from 1000",
            "old keys after 400 d",
            "keys of 1 from false",
            "keys of 1 from true",
        ];
        assert_eq!(rounds(&mut retaining, &script, kept).await, expected);
        assert_eq!(rounds(&mut retaining, &script, kept).await, [""; 0], "not for a while");
        tokio::time::advance(LOOK_EVERY).await;
        let kept = Kept { keys: None, ..kept };
        let expected = ["note", "drop after 90 d", "forget after 91 d from 0"];
        assert_eq!(rounds(&mut retaining, &script, kept).await, expected, "keys are kept for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn held_records_are_tried_again_soon_and_a_failure_ends_a_look() {
        let (mut retaining, script) = (Retaining::new(), Script::default());
        let kept = Kept { records: Some(2 * DAY), keys: None };
        let whole = ["note", "drop after 2 d", "forget after 3 d from 0"];
        for tries in 1..=3 {
            script.drops.lock().unwrap().push_back(Dropping::Held(OLD));
            assert_eq!(rounds(&mut retaining, &script, kept).await, whole);
            assert_eq!(retaining.held, tries);
            tokio::time::advance(AGAIN).await;
        }
        script.drops.lock().unwrap().push_back(Dropping::Dropped(OLD));
        rounds(&mut retaining, &script, kept).await;
        assert_eq!(retaining.held, 0, "in a row");
        tokio::time::advance(LOOK_EVERY).await;
        *script.fails.lock().unwrap() = true;
        assert_eq!(rounds(&mut retaining, &script, kept).await, whole[..2]);
        *script.fails.lock().unwrap() = false;
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(rounds(&mut retaining, &script, kept).await, whole);
    }
}

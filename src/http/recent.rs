//! Answers that take the database long, read once for all who ask within a moment. Every open browser asks anew every three
//! seconds, and each alone would have millions of records counted again.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::store::DatabaseError;

/// An answer is good for so many times what it took to read: the database is busy with it for a small part of the time. For so long at
/// least and at most: what takes longer than usual once isn't shown for minutes.
const GOOD_FOR_TIMES: u32 = 20;
const GOOD_FOR_MIN: Duration = Duration::from_secs(2);
const GOOD_FOR_MAX: Duration = Duration::from_secs(30);
/// For so much longer it will do while somebody reads a newer one, or where that failed.
const WILL_DO_FOR: Duration = Duration::from_secs(60);
/// What could not be read is not tried again for as long as the try took, and for this at least.
const REFRAIN_FOR: Duration = Duration::from_secs(1);
/// For the turn to read, and the reading, together.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Nobody else reads meanwhile. The database ends each statement sooner, where it is still there.
const READ_MAX: Duration = Duration::from_secs(20);
/// Answers of a kind that are kept: those that were asked for last.
const KEPT_MAX: usize = 32;

/// What had been changed by the time somebody asked: what was read before that is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edition {
    /// The ledger's.
    pub epoch: i64,
    /// By this process, of what raises no epoch.
    pub acts: u64,
}

impl Edition {
    fn covers(self, asked: Self) -> bool {
        self.epoch >= asked.epoch && self.acts >= asked.acts
    }
}

/// Of the process's own time (see [`clock::uptime`]).
#[derive(Debug, Clone, Copy)]
struct Reading {
    edition: Edition,
    began: Duration,
    ended: Duration,
}

impl Reading {
    fn took(self) -> Duration {
        self.ended.saturating_sub(self.began)
    }

    fn good_until(self) -> Duration {
        self.ended + (self.took() * GOOD_FOR_TIMES).clamp(GOOD_FOR_MIN, GOOD_FOR_MAX)
    }

    /// Of one that failed.
    fn refrain_until(self) -> Duration {
        self.ended + REFRAIN_FOR.max(self.took())
    }
}

/// What somebody does who asks.
#[derive(Debug, PartialEq, Eq)]
enum Next<A> {
    /// Takes this.
    Take(A),
    /// Takes this if another is reading, and reads if none is.
    Refresh(A),
    /// Waits for the turn to read.
    Read,
    /// Goes without: it failed a moment ago.
    Refrain,
}

fn next<A>(last: Option<(Reading, A)>, failed: Option<Reading>, asked: Edition, now: Duration) -> Next<A> {
    // What somebody has changed since is worth another try.
    let refrain = failed.is_some_and(|failed| failed.edition.covers(asked) && now < failed.refrain_until());
    match last.filter(|(reading, _)| reading.edition.covers(asked)) {
        Some((reading, answer)) if now < reading.good_until() => Next::Take(answer),
        Some((reading, answer)) if now < reading.good_until() + WILL_DO_FOR => {
            if refrain {
                Next::Take(answer)
            } else {
                Next::Refresh(answer)
            }
        }
        _ if refrain => Next::Refrain,
        _ => Next::Read,
    }
}

/// What was read, and how long ago the reading began.
#[derive(Debug)]
pub(super) struct Answer<V> {
    pub what: Arc<V>,
    pub age: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error(transparent)]
    Database(DatabaseError),
    #[error("it was not read in time")]
    Late,
    #[error("reading it failed a moment ago")]
    Lately,
    #[error("reading it broke off: {0}")]
    Broken(JoinError),
}

#[derive(Debug)]
struct Slot<V> {
    last: Option<(Reading, Arc<V>)>,
    failed: Option<Reading>,
    asked: Duration,
}

type Slots<K, V> = Mutex<HashMap<K, Slot<V>>>;

/// The last answers to questions of one kind.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    slots: Arc<Slots<K, V>>,
    /// One at a time reads, also of several kinds: the other connections are for what is read at once.
    turns: Arc<Semaphore>,
    /// Who asked may be gone before the answer is there; the next finds it.
    readings: TaskTracker,
}

impl<K, V> Recent<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Send + Sync + 'static,
{
    pub(super) fn new(turns: &Arc<Semaphore>) -> Self {
        Self { slots: Arc::default(), turns: Arc::clone(turns), readings: TaskTracker::new() }
    }

    /// The answer to `key`, no older than `asked`; by `reading`, if it has to be read.
    pub(super) async fn get(
        &self,
        key: K,
        asked: Edition,
        reading: impl Future<Output = Result<V, DatabaseError>> + Send + 'static,
    ) -> Result<Answer<V>, Unread> {
        let old = match self.look(&key, asked) {
            Next::Take(answer) => return Ok(answer),
            Next::Refresh(answer) if self.turns.available_permits() == 0 => return Ok(answer),
            Next::Refresh(answer) => Some(answer),
            Next::Read => None,
            Next::Refrain => return Err(Unread::Lately),
        };
        let read = timeout(WAIT_MAX, self.read(key, asked, reading)).await.unwrap_or(Err(Unread::Late));
        match (read, old) {
            (Err(error), Some(answer)) => {
                tracing::warn!(%error, "http.unread");
                Ok(answer)
            }
            (read, _) => read,
        }
    }

    fn look(&self, key: &K, asked: Edition) -> Next<Answer<V>> {
        let now = clock::uptime();
        let mut slots = locked(&self.slots);
        let Some(slot) = slots.get_mut(key) else { return Next::Read };
        slot.asked = now;
        let answer = |(reading, what): &(Reading, Arc<V>)| {
            (*reading, Answer { what: Arc::clone(what), age: now.saturating_sub(reading.began) })
        };
        next(slot.last.as_ref().map(answer), slot.failed, asked, now)
    }

    async fn read(
        &self,
        key: K,
        asked: Edition,
        reading: impl Future<Output = Result<V, DatabaseError>> + Send + 'static,
    ) -> Result<Answer<V>, Unread> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Unread::Late)?;
        // Somebody may have read it meanwhile.
        match self.look(&key, asked) {
            Next::Take(answer) => return Ok(answer),
            Next::Refrain => return Err(Unread::Lately),
            Next::Refresh(_) | Next::Read => {}
        }
        let slots = Arc::clone(&self.slots);
        let task = self.readings.spawn(async move {
            let began = clock::uptime();
            let read = match timeout(READ_MAX, reading).await {
                Ok(read) => read.map_err(Unread::Database),
                Err(_) => Err(Unread::Late),
            };
            let reading = Reading { edition: asked, began, ended: clock::uptime() };
            let answer = keep(&mut locked(&slots), key, reading, read);
            drop(turn);
            answer
        });
        task.await.map_err(Unread::Broken)?
    }
}

fn locked<K, V>(slots: &Slots<K, V>) -> MutexGuard<'_, HashMap<K, Slot<V>>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep<K: Clone + Eq + Hash, V>(
    slots: &mut HashMap<K, Slot<V>>,
    key: K,
    reading: Reading,
    read: Result<V, Unread>,
) -> Result<Answer<V>, Unread> {
    if slots.len() >= KEPT_MAX && !slots.contains_key(&key) {
        let longest_ago = slots.iter().min_by_key(|(_, slot)| slot.asked).map(|(key, _)| key.clone());
        if let Some(key) = longest_ago {
            slots.remove(&key);
        }
    }
    let slot = slots.entry(key).or_insert(Slot { last: None, failed: None, asked: reading.ended });
    match read {
        Ok(what) => {
            let what = Arc::new(what);
            slot.last = Some((reading, Arc::clone(&what)));
            slot.failed = None;
            Ok(Answer { what, age: reading.took() })
        }
        Err(error) => {
            slot.failed = Some(reading);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    const FIRST: Edition = Edition { epoch: 1, acts: 1 };
    const SECOND: Duration = Duration::from_secs(1);

    /// Began at 100 s.
    fn reading(took: Duration) -> Reading {
        Reading { edition: FIRST, began: 100 * SECOND, ended: 100 * SECOND + took }
    }

    #[test]
    fn what_takes_long_is_read_seldom() {
        let at = |took: Duration, since: Duration| {
            next(Some((reading(took), ())), None, FIRST, 100 * SECOND + took + since)
        };
        let short = Duration::from_millis(3);
        assert_eq!(at(short, Duration::ZERO), Next::Take(()));
        assert_eq!(at(short, 2 * SECOND - short), Next::Take(()));
        assert_eq!(at(short, 2 * SECOND), Next::Refresh(()));
        assert_eq!(at(SECOND, 19 * SECOND), Next::Take(()));
        assert_eq!(at(SECOND, 20 * SECOND), Next::Refresh(()));
        assert_eq!(at(3 * SECOND, 29 * SECOND), Next::Take(()));
        assert_eq!(at(3 * SECOND, 30 * SECOND), Next::Refresh(()));
        assert_eq!(at(short, 61 * SECOND), Next::Refresh(()));
        assert_eq!(at(short, 62 * SECOND), Next::Read, "nobody has asked for long");
        assert_eq!(next::<()>(None, None, FIRST, SECOND), Next::Read);
    }

    #[test]
    fn what_was_read_before_a_change_is_no_answer() {
        let asked =
            |epoch, acts| next(Some((reading(SECOND), ())), None, Edition { epoch, acts }, 102 * SECOND);
        assert_eq!((asked(1, 1), asked(0, 1)), (Next::Take(()), Next::Take(())));
        assert_eq!((asked(2, 1), asked(1, 2), asked(0, 2)), (Next::Read, Next::Read, Next::Read));
    }

    #[test]
    fn what_failed_is_not_tried_for_as_long_as_it_took() {
        let after = |last: Option<(Reading, ())>, took: Duration, since: Duration| {
            next(last, Some(reading(took)), FIRST, 100 * SECOND + took + since)
        };
        let nothing = None;
        assert_eq!(after(nothing, Duration::ZERO, SECOND / 2), Next::Refrain);
        assert_eq!(after(nothing, Duration::ZERO, SECOND), Next::Read);
        assert_eq!(after(nothing, 5 * SECOND, 4 * SECOND), Next::Refrain);
        assert_eq!(after(nothing, 5 * SECOND, 5 * SECOND), Next::Read);
        let changed = Edition { epoch: 2, acts: 1 };
        assert_eq!(next::<()>(None, Some(reading(SECOND)), changed, 101 * SECOND), Next::Read);
        // What was read before will do, for a while.
        let last = Some((Reading { began: 97 * SECOND, ended: 97 * SECOND, ..reading(SECOND) }, ()));
        assert_eq!(after(last, Duration::ZERO, SECOND / 2), Next::Take(()));
        assert_eq!(after(last, Duration::ZERO, SECOND), Next::Refresh(()));
    }

    type Count = Arc<AtomicU32>;

    /// Tells which reading it is.
    async fn slowly(count: Count) -> Result<u32, DatabaseError> {
        tokio::time::sleep(SECOND).await;
        Ok(count.fetch_add(1, Ordering::AcqRel) + 1)
    }

    async fn in_vain(count: Count) -> Result<u32, DatabaseError> {
        count.fetch_add(1, Ordering::AcqRel);
        Err(DatabaseError::PoolTimedOut)
    }

    fn recent() -> Recent<u32, u32> {
        Recent::new(&Arc::new(Semaphore::new(1)))
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_are_answered_by_one_reading() {
        let (recent, count) = (recent(), Count::default());
        let ask = |edition| recent.get(1, edition, slowly(Arc::clone(&count)));
        let answers = join_all((0..10).map(|_| ask(FIRST))).await;
        assert!(answers.into_iter().all(|answer| *answer.unwrap().what == 1));
        tokio::time::advance(10 * SECOND).await;
        let answer = ask(FIRST).await.unwrap();
        assert!(*answer.what == 1 && answer.age > 9 * SECOND, "{answer:?}");
        // It has become old: one reads, others take what there is.
        tokio::time::advance(20 * SECOND).await;
        let answers = join_all((0..3).map(|_| ask(FIRST))).await;
        let answers: Vec<u32> = answers.into_iter().map(|answer| *answer.unwrap().what).collect();
        assert_eq!(answers, [2, 1, 1]);
        // Somebody has changed something: nobody takes what there is.
        let answers = join_all((0..3).map(|_| ask(Edition { epoch: 2, acts: 1 }))).await;
        assert!(answers.into_iter().all(|answer| *answer.unwrap().what == 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_read_to_its_end_though_nobody_waits_for_it() {
        let (recent, count) = (recent(), Count::default());
        let left = timeout(SECOND / 2, recent.get(1, FIRST, slowly(Arc::clone(&count)))).await;
        assert!(left.is_err());
        assert_eq!(*recent.get(1, FIRST, slowly(Arc::clone(&count))).await.unwrap().what, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_everybodys_for_a_moment() {
        let (recent, count) = (recent(), Count::default());
        let answers = join_all((0..10).map(|_| recent.get(1, FIRST, in_vain(Arc::clone(&count))))).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(count.load(Ordering::Acquire), 1);
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(*recent.get(1, FIRST, slowly(Arc::clone(&count))).await.unwrap().what, 2);
        // Old as it is, it will do.
        tokio::time::advance(30 * SECOND).await;
        assert_eq!(*recent.get(1, FIRST, in_vain(Arc::clone(&count))).await.unwrap().what, 2);
        assert_eq!(count.load(Ordering::Acquire), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_without_end_and_no_more_is_kept_than_may_be() {
        let (recent, count) = (recent(), Count::default());
        let endless = recent.get(0, FIRST, std::future::pending());
        let behind = recent.get(1, FIRST, slowly(Arc::clone(&count)));
        let (endless, behind) = tokio::join!(endless, behind);
        assert!(matches!((endless, behind), (Err(Unread::Late), Err(Unread::Late))));
        tokio::time::sleep(READ_MAX).await;
        for key in 1..100 {
            recent.get(key, FIRST, slowly(Arc::clone(&count))).await.unwrap();
        }
        assert_eq!(locked(&recent.slots).len(), KEPT_MAX);
    }
}

//! By when a call has arrived.
//!
//! The slack stands for what is between a slot and the arrival of its call. When that was more, the limits must keep
//! their distance from when the call really arrived, which only its answer tells: it had arrived by then, and by as much
//! earlier as the provider takes to answer at its fastest. Where answers take 200 ms now and 600 ms then, that is far
//! too late a moment for most of them, and would cost the allowance of short windows. So it isn't asked where nothing
//! points to a delay: the provider never answers so fast that an answer could prove an arrival in time; this one took
//! no longer than usual; the request left in the first half of its slack, whose other half is for its way; and this
//! process has had all the time it asked for, before and since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::pulse::Pulse;
use super::{Posted, TRANSIT_SHARE};
use crate::core::answer_times::AnswerTimes;
use crate::core::dbtime::Reading;
use crate::core::ids::AccountName;
use crate::core::outcome::Sent;

/// A stall so long before a request left still says that the machine is too busy to be trusted.
const CALM: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Arrivals {
    times: Mutex<HashMap<AccountName, AnswerTimes>>,
    pulse: Arc<Pulse>,
}

impl Arrivals {
    pub(super) fn new(pulse: Arc<Pulse>) -> Self {
        Self { times: Mutex::default(), pulse }
    }

    /// By when a call that is over `now` had arrived, if that may be later than its slot and the slack say.
    pub(super) fn late(
        &self,
        account: &AccountName,
        posted: &Posted,
        (slot, slack): (DateTime<Utc>, Duration),
        now: Reading,
    ) -> Option<DateTime<Utc>> {
        let now_at_most = now.now + delta(now.error);
        let since_arrival = match (&posted.sent, posted.left_by) {
            (Sent::NotSent(_), _) => return None,
            // Nobody knows what became of it, nor how long it was on its way.
            (Sent::Unclear(_), _) | (Sent::Answered(_), None) => Duration::ZERO,
            (Sent::Answered(_), Some(left_by)) => {
                let took = left_by.elapsed();
                let times = self.learn(account, took);
                let early = now_at_most - delta(took) <= slot + delta(slack / 2);
                let proves_nothing = times.fastest() > slack / TRANSIT_SHARE && times.is_usual(took);
                if early && proves_nothing && self.pulse.is_calm_for(CALM + took) {
                    return None;
                }
                times.fastest()
            }
        };
        let by = now_at_most - delta(since_arrival);
        (by > slot + delta(slack)).then_some(by)
    }

    fn learn(&self, account: &AccountName, took: Duration) -> AnswerTimes {
        let mut accounts = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let times = accounts.entry(account.clone()).or_insert_with(|| AnswerTimes::new(took));
        times.learn(took);
        times.clone()
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::clock;
    use crate::core::outcome::{Answer, NotSentCause, UnclearCause};

    const SLACK: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn slot() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000).unwrap()
    }

    fn answered() -> Sent {
        Sent::Answered(Answer { status: 200, body: Vec::new(), retry_after: None })
    }

    /// Time goes by, on a machine that has enough of it.
    async fn pass(arrivals: &Arrivals, span: Duration) {
        drop(tokio::time::timeout(span, arrivals.pulse.beat()).await);
    }

    /// A POST in a slot that begins now, that leaves after `left` and is answered `took` later: by how many ms later
    /// than the slack says it may have arrived.
    async fn late(arrivals: &Arrivals, left: u64, took: u64, sent: &Sent) -> Option<i64> {
        let opens = clock::monotonic();
        pass(arrivals, ms(left)).await;
        let left_by = matches!(sent, Sent::Answered(_)).then(clock::monotonic);
        pass(arrivals, ms(took)).await;
        judge(arrivals, opens, &Posted { sent: sent.clone(), left_by })
    }

    fn judge(arrivals: &Arrivals, opens: tokio::time::Instant, posted: &Posted) -> Option<i64> {
        let now = Reading { now: slot() + delta(opens.elapsed()), error: Duration::ZERO };
        let by = arrivals.late(&AccountName::default_account(), posted, (slot(), SLACK), now);
        by.map(|by| (by - slot() - delta(SLACK)).num_milliseconds())
    }

    fn unknown() -> Arrivals {
        Arrivals::new(Arc::default())
    }

    async fn uneven() -> Arrivals {
        let arrivals = unknown();
        for n in 0..200 {
            late(&arrivals, 0, 200 + (n * 37) % 401, &answered()).await;
        }
        arrivals
    }

    #[tokio::test(start_paused = true)]
    async fn an_uneven_providers_usual_answer_says_nothing() {
        let arrivals = uneven().await;
        assert_eq!(late(&arrivals, 50, 600, &answered()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_left_late_or_took_long_had_arrived_before_its_answer() {
        let arrivals = uneven().await;
        // Less the fastest answer, which is 200 ms or, being half forgotten, a little more.
        let by = late(&arrivals, 52, 600, &answered()).await.unwrap();
        assert!((300..=352).contains(&by), "{by}");
        let by = late(&arrivals, 0, 2_000, &answered()).await.unwrap();
        assert!((1_600..=1_700).contains(&by), "{by}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_trusts_no_usual_answer() {
        let arrivals = uneven().await;
        let opens = clock::monotonic();
        let posted = Posted { sent: answered(), left_by: Some(opens) };
        pass(&arrivals, ms(100)).await;
        tokio::time::advance(ms(200)).await;
        pass(&arrivals, ms(100)).await;
        assert!(judge(&arrivals, opens, &posted).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_proves_an_arrival_in_time() {
        let arrivals = unknown();
        assert_eq!(late(&arrivals, 0, 2, &answered()).await, None);
        assert_eq!(late(&arrivals, 74, 20, &answered()).await, None);
        // A provider that could have proved it, and didn't.
        for _ in 0..5 {
            assert!(late(&arrivals, 0, 200, &answered()).await.is_some_and(|by| by >= 95));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_it_may_arrive_until_now() {
        let arrivals = uneven().await;
        let unclear = Sent::Unclear(UnclearCause::Timeout);
        let by = late(&arrivals, 0, 30_000, &unclear).await.unwrap();
        assert!((29_900..=29_901).contains(&by), "{by}");
        let unsent = Sent::NotSent(NotSentCause::TooLate);
        assert_eq!(late(&arrivals, 0, 30_000, &unsent).await, None);
    }
}

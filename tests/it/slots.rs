//! The ledger's slots: `outdial.reserve` against the reference in `core::slots`, and its logs by brute force after
//! several connections have asked, sent, given back and settled at random.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use outdial::core::slots::{SlidingWindow, next_slots};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::support::ledger::{HORIZON, Limits, SLACK, finish, ground, leave, release, reserve, settle};
use crate::support::stage::LONG;
use crate::support::{database, eventually};

const WINDOWS: [(&str, i64); 4] =
    [("per_second", 1), ("per_minute", 60), ("per_hour", 3_600), ("per_day", 86_400)];

/// SplitMix64: the same tests every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// The attempts of those that got leave; none: its slot is too early since a log was mended.
async fn authorise(db: &PgPool, jobs: &[i64]) -> Vec<Option<Uuid>> {
    // However late: what is tried here is the log.
    let verdicts = leave(db, TimeDelta::hours(1), jobs).await;
    let attempt = |(attempt, verdict): (Uuid, Option<String>)| match verdict.as_deref() {
        None => Some(attempt),
        Some("late") => None,
        Some(verdict) => panic!("{verdict}"),
    };
    verdicts.into_iter().map(attempt).collect()
}

async fn log_of(db: &PgPool, thing: i32) -> Vec<DateTime<Utc>> {
    let rows: Vec<(i64, DateTime<Utc>)> =
        sqlx::query_as("select ordinal, slot from outdial.grants where thing_no = $1 order by ordinal")
            .bind(thing)
            .fetch_all(db)
            .await
            .unwrap();
    for (at, (ordinal, _)) in rows.iter().enumerate() {
        assert_eq!(*ordinal, at as i64 + 1, "ordinals without gaps");
    }
    rows.into_iter().map(|row| row.1).collect()
}

/// One number, one connection: slot for slot what the reference says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_equal_the_reference() {
    for seed in 0..6 {
        let database = database().await;
        let db = PgPool::connect(&database.url).await.unwrap();
        let mut dice = Dice(seed);
        let mut some = |most: usize| (dice.below(3) > 0).then(|| 1 + dice.below(most) as i32);
        let windows = [some(6), some(25), some(60), some(80)];
        let unlimited: Limits = ([None; 4], None);
        ground(&db, unlimited, &[unlimited], &[(windows, None)], 400).await;
        let sliding: Vec<SlidingWindow> = windows
            .iter()
            .zip(WINDOWS)
            .filter_map(|(calls, (_, seconds))| {
                Some(SlidingWindow {
                    calls: usize::try_from((*calls)?).unwrap(),
                    length_us: seconds * 1_000_000,
                })
            })
            .collect();
        let at_once = sliding.iter().map(|window| window.calls).min().unwrap_or(usize::MAX);
        let slack = SLACK.num_microseconds().unwrap();
        let thing: i32 = sqlx::query_scalar("select thing_no from outdial.limits where kind = 3")
            .fetch_one(&db)
            .await
            .unwrap();

        let (mut next_job, mut log) = (1i64, Vec::new());
        for _ in 0..25 {
            let asked = 1 + dice.below(9);
            let asks: Vec<_> = (0..asked as i64).map(|i| (next_job + i, 0, 0)).collect();
            next_job += asked as i64;
            let answers = reserve(&db, &asks).await;
            let slots: Vec<i64> = answers.iter().filter_map(|a| Some(a.slot?.timestamp_micros())).collect();
            // The database's moment, which it doesn't tell: a slot that no window pushed later, or any moment.
            let from_now = slots.first().copied();
            let windowed = next_slots(&log, &sliding, slack, i64::MIN / 2, asked);
            let now = match from_now {
                Some(first) if windowed[0] < first => first,
                _ => windowed[0].max(log.last().copied().unwrap_or(0)),
            };
            let mut expected = next_slots(&log, &sliding, slack, now, asked.min(at_once));
            expected.truncate(slots.len());
            assert_eq!(slots, expected, "seed {seed}, {windows:?}");
            if let Some(refused) = answers.iter().find(|a| a.slot.is_none()) {
                assert_eq!(refused.refused.as_deref(), Some("number_limit"));
                // The first of those that aren't above n at once knows its date, which is beyond the horizon.
                if slots.len() < at_once {
                    let due = next_slots(&log, &sliding, slack, now, slots.len() + 1)[slots.len()];
                    assert_eq!(
                        refused.next_at.map(|at| at.timestamp_micros()),
                        Some(due),
                        "seed {seed}, {windows:?}"
                    );
                }
            }
            log.extend(slots);
            let stored: Vec<i64> = log_of(&db, thing).await.iter().map(DateTime::timestamp_micros).collect();
            assert_eq!(stored, log);
            if dice.below(3) == 0 {
                tokio::time::sleep(Duration::from_millis(dice.below(300) as u64)).await;
            }
        }
    }
}

/// What one connection does to its own jobs, at random. `late`: some answers come late.
async fn mess(db: PgPool, late: bool, seed: u64, mine: Vec<i64>, campaigns: usize, numbers: usize) {
    let mut dice = Dice(seed);
    let mut waiting = mine;
    let (mut reserved, mut submitting, mut placed) = (Vec::new(), Vec::new(), Vec::new());
    let end = outdial::clock::monotonic() + Duration::from_secs(6);
    while outdial::clock::monotonic() < end {
        let asked = (1 + dice.below(12)).min(waiting.len());
        // The same job may be asked for only once in a statement; numbers and campaigns as they come.
        let asks: Vec<_> = waiting
            .iter()
            .take(asked)
            .map(|job| (*job, dice.below(campaigns), dice.below(numbers)))
            .collect();
        let now = outdial::clock::wall();
        for answer in reserve(&db, &asks).await {
            match answer.slot {
                Some(slot) => {
                    assert!(slot < now + HORIZON + TimeDelta::seconds(30));
                    waiting.retain(|job| *job != answer.job);
                    reserved.push((answer.job, slot));
                }
                None => assert!(answer.refused.is_some_and(|why| why.ends_with("_limit"))),
            }
        }
        let take =
            |from: &mut Vec<(i64, DateTime<Utc>)>, n: usize| from.split_off(from.len() - n.min(from.len()));
        match dice.below(5) {
            0 => {
                let n = dice.below(5);
                let back: Vec<i64> = take(&mut reserved, n).into_iter().map(|r| r.0).collect();
                if !back.is_empty() {
                    release(&db, &back).await;
                    waiting.extend(back);
                }
            }
            1 | 2 => {
                let n = dice.below(8);
                let go = take(&mut reserved, n);
                let jobs: Vec<i64> = go.iter().map(|r| r.0).collect();
                if !jobs.is_empty() {
                    let attempts = authorise(&db, &jobs).await;
                    let mut back = Vec::new();
                    for (attempt, go) in attempts.into_iter().zip(go) {
                        match attempt {
                            Some(attempt) => submitting.push((attempt, go)),
                            None => back.push(go.0),
                        }
                    }
                    assert!(late || back.is_empty(), "nothing was mended");
                    if !back.is_empty() {
                        release(&db, &back).await;
                        waiting.extend(back);
                    }
                }
            }
            3 => {
                let n = dice.below(8).min(submitting.len());
                let mut settled = Vec::new();
                for (attempt, (job, slot)) in submitting.split_off(submitting.len() - n) {
                    match dice.below(4) {
                        0 => {
                            settled.push((attempt, "unsent", None));
                            waiting.push(job);
                        }
                        1 if late => {
                            // Its answer came late: it may have arrived that late.
                            let late = TimeDelta::milliseconds(dice.below(900) as i64);
                            settled.push((attempt, "placed", Some(slot + SLACK + late)));
                            placed.push(attempt);
                        }
                        _ => {
                            settled.push((attempt, "placed", None));
                            placed.push(attempt);
                        }
                    }
                }
                settle(&db, &settled).await;
            }
            _ => {
                let n = dice.below(6).min(placed.len());
                finish(&db, &placed.split_off(placed.len() - n)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_breaks_a_window_whatever_several_connections_do() {
    mess_of_four(false).await;
}

/// A call that arrived late may have broken a window; what the log says of it must be right all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_stay_whole_when_calls_arrive_late() {
    mess_of_four(true).await;
}

async fn mess_of_four(late: bool) {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    let numbers: [Limits; 4] = [
        ([Some(3), None, None, None], None),
        ([Some(2), Some(12), None, Some(500)], None),
        ([None, Some(40), Some(60), None], Some(15)),
        ([None; 4], Some(6)),
    ];
    let campaigns: [Limits; 3] =
        [([None; 4], None), ([Some(2), Some(30), None, None], None), ([Some(5), None, None, None], Some(9))];
    ground(&db, ([Some(9), None, None, None], Some(40)), &campaigns, &numbers, 4_000).await;
    let connections = (0..4u64).map(|n| {
        let mine = (1..=4_000).filter(|job| job % 4 == n as i64).collect();
        mess(db.clone(), late, n, mine, campaigns.len(), numbers.len())
    });
    futures_join(connections).await;

    let things: Vec<(i32, i16, String, Option<i32>, i32, i64)> =
        sqlx::query_as("select thing_no, kind, key, concurrent, in_use, last_ordinal from outdial.limits")
            .fetch_all(&db)
            .await
            .unwrap();
    for (thing, kind, key, concurrent, in_use, last_ordinal) in things {
        let log = log_of(&db, thing).await;
        assert_eq!(log.len() as i64, last_ordinal, "{key}");
        assert!(log.is_sorted(), "{key}: slots rise with their ordinals");
        let limits: Vec<Option<i32>> = sqlx::query(
            "select per_second, per_minute, per_hour, per_day from outdial.limits where thing_no = $1",
        )
        .bind(thing)
        .fetch_one(&db)
        .await
        .map(|row| (0..4).map(|i| row.get(i)).collect())
        .unwrap();
        // What stands in the log is what has been, or may yet be, sent: no more and no less.
        let of = ["", "account", "campaign_id", "number"][usize::try_from(kind).unwrap()];
        let attempts_of = if kind == 3 { "from_phone_number" } else { of };
        let standing = format!(
            "select (select count(*) from outdial.reservations where {of} = $1),
                    (select count(*) from outdial.live where {of} = $1),
                    (select count(*) from outdial.attempts where {attempts_of} = $1)"
        );
        let (reserved, live, tried): (i64, i64, i64) =
            sqlx::query_as(sqlx::AssertSqlSafe(standing)).bind(&key).fetch_one(&db).await.unwrap();
        assert_eq!(i64::from(in_use), reserved + live, "{key}: calls at once");
        assert!(concurrent.is_none_or(|most| in_use <= most), "{key}: {in_use} at once");
        if limits.iter().any(Option::is_some) {
            assert_eq!(last_ordinal, reserved + tried, "{key}: a grant for each that went, or may go");
        }
        for (calls, (window, seconds)) in limits.iter().zip(WINDOWS) {
            let Some(calls) = calls.map(|calls| usize::try_from(calls).unwrap()) else { continue };
            for (at, slot) in log.iter().enumerate().filter(|_| !late) {
                // Whenever within the slack each arrives, the window that begins with this one holds it and those
                // whose slot is nearer than window + slack.
                let near = log[at..]
                    .iter()
                    .take_while(|s| **s < *slot + TimeDelta::seconds(seconds) + SLACK)
                    .count();
                assert!(near <= calls, "{key}: {near} grants {window} at {slot}");
            }
        }
    }
}

async fn futures_join(tasks: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let mut set = tokio::task::JoinSet::new();
    for task in tasks {
        set.spawn(task);
    }
    while let Some(done) = set.join_next().await {
        done.unwrap();
    }
}

/// One call a second each; the first call of number 0 arrives 0.7 s late.
#[tokio::test]
async fn a_slot_too_near_to_a_call_that_came_late_gets_no_leave() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    let (one, none) = (([Some(1), None, None, None], None), ([None; 4], None));
    ground(&db, none, &[none], &[one, one], 4).await;
    let first = reserve(&db, &[(1, 0, 0), (2, 0, 1)]).await;
    let late = first[0].slot.unwrap() + TimeDelta::milliseconds(700);
    // The next slots of both, as soon as they are near enough.
    eventually(LONG, async || reserve(&db, &[(3, 0, 0)]).await[0].slot).await;
    eventually(LONG, async || reserve(&db, &[(4, 0, 1)]).await[0].slot).await;
    let attempt = leave(&db, TimeDelta::minutes(10), &[1]).await[0].0;
    settle(&db, &[(attempt, "placed", Some(late))]).await;
    let verdicts: Vec<_> = leave(&db, SLACK, &[3, 4]).await.into_iter().map(|leave| leave.1).collect();
    assert_eq!(verdicts, [Some("late".to_owned()), None], "the other number's log is as it was");
}

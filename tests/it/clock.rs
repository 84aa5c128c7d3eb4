//! Steps of the database's clock, which dates every slot: no window holds too much over one, and none is shut for long.

use chrono::{DateTime, TimeDelta, Utc};
use outdial::local::PostgresSetup;
use sqlx::PgPool;

use crate::support::ledger::{SLACK, ground, leave, reserve};
use crate::support::machine::FakeClock;
use crate::support::stage::{ANY_NUMBER, LONG, Stage, jobs, numbers, sandbox_config};
use crate::support::{Outdial, database, database_on, eventually, own_postgres_with, vhost};

const ONE_A_SECOND: ([Option<i32>; 4], Option<i32>) = ([Some(1), None, None, None], None);
const UNLIMITED: ([Option<i32>; 4], Option<i32>) = ([None; 4], None);

/// A number of one call a second, and the slot of its last.
async fn used(db: &PgPool) -> DateTime<Utc> {
    ground(db, UNLIMITED, &[UNLIMITED], &[ONE_A_SECOND], 3).await;
    reserve(db, &[(1, 0, 0)]).await[0].slot.unwrap()
}

#[tokio::test]
async fn a_step_ahead_makes_windows_wider_by_as_much() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    let slot = used(&db).await;
    // Three workers prove the same step, one of them also a second one.
    for (witness, seconds) in [(7, 5), (8, 5), (9, 5), (8, 2)] {
        let note = format!("select outdial.note_step({witness}, '{seconds} seconds')");
        sqlx::query(sqlx::AssertSqlSafe(note)).execute(&db).await.unwrap();
    }
    let refused = reserve(&db, &[(2, 0, 0)]).await;
    assert_eq!(refused[0].refused.as_deref(), Some("number_limit"), "nothing is granted for a second");
    assert_eq!(refused[0].next_at.unwrap(), slot + TimeDelta::seconds(1 + 7) + SLACK);
    // What was noted long before a grant is none of its business.
    sqlx::query("update outdial.clock_steps set noted_at = noted_at - interval '10 seconds'")
        .execute(&db)
        .await
        .unwrap();
    let granted = reserve(&db, &[(2, 0, 0)]).await;
    // At the window's end, or at once where that has passed meanwhile: seven seconds before what the steps would ask for.
    let next = granted[0].next_at.or(granted[0].slot).unwrap();
    assert!(next >= slot + TimeDelta::seconds(1) + SLACK, "{next}");
    assert!(next < slot + TimeDelta::seconds(1 + 7), "{next}");
}

#[tokio::test]
async fn after_a_step_back_nothing_is_shut_for_as_long_as_it_was() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    used(&db).await;
    // As if the clock had been an hour ahead until now.
    for table in
        ["grants set slot = slot", "reservations set slot = slot", "limits set last_slot = last_slot"]
    {
        let ahead = format!("update outdial.{table} + interval '1 hour'");
        sqlx::query(sqlx::AssertSqlSafe(ahead)).execute(&db).await.unwrap();
    }
    let refused = reserve(&db, &[(2, 0, 0)]).await;
    assert!(
        refused[0].next_at.unwrap() > outdial::clock::wall() + TimeDelta::minutes(50),
        "shut for an hour"
    );
    let mended: i32 =
        sqlx::query_scalar("select outdial.mend_future('10 seconds', 100)").fetch_one(&db).await.unwrap();
    assert_eq!(mended, 1);
    let left: i64 =
        sqlx::query_scalar("select count(*) from outdial.reservations").fetch_one(&db).await.unwrap();
    assert_eq!(left, 0, "it would be sent in an hour");
    let answer = reserve(&db, &[(2, 0, 0)]).await;
    let next = answer[0].slot.or(answer[0].next_at).unwrap();
    assert!(next < outdial::clock::wall() + TimeDelta::seconds(3), "{next}");
}

/// A log that a clock an hour ahead has left lets nobody have a slot in an hour; a slot of that time that was made all the same is
/// given back, and gets no leave once its grant stands elsewhere.
#[tokio::test]
async fn no_slot_of_a_clock_that_went_back_is_called_at() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    let many = ([Some(50), None, None, None], None);
    ground(&db, UNLIMITED, &[UNLIMITED], &[many], 5).await;
    let run = async |statement: &str| {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&db).await.unwrap();
    };
    let count = async |query: &str| {
        sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(query.to_owned())).fetch_one(&db).await.unwrap()
    };
    assert!(reserve(&db, &[(1, 0, 0)]).await[0].slot.is_some());
    for table in ["grants set slot = slot", "limits set last_slot = last_slot"] {
        run(&format!("update outdial.{table} + interval '1 hour'")).await;
    }
    let refused = reserve(&db, &[(2, 0, 0)]).await.remove(0);
    assert_eq!((refused.slot, refused.refused.as_deref()), (None, Some("number_limit")));
    let look = "select released from outdial.take_over('1 millisecond', null)";
    run(look).await;
    assert_eq!(
        count("select count(*) from outdial.limits where last_slot > now() + interval '1 minute'").await,
        1
    );
    // It is looked for where the clock was later once.
    run("update outdial.clock set seen = clock_timestamp() + interval '1 hour'").await;
    run(look).await;
    // Its grant was moved, and nothing is kept free for it.
    let (_, verdict) = leave(&db, TimeDelta::minutes(10), &[1]).await.swap_remove(0);
    assert_eq!(verdict.as_deref(), Some("late"));
    // One that was committed while the log was waited for: no log is ahead any more.
    run("update outdial.reservations set slot = slot + interval '1 hour'").await;
    run(look).await;
    assert_eq!(count("select count(*) from outdial.reservations").await, 0);
    assert_eq!(count("select count(*) from outdial.work where job_no = 1").await, 1);
}

/// What the first of two has put to now, and what was granted since, is not put back by the other, who began before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_mended_once_however_many_begin_to() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    used(&db).await;
    for table in ["grants set slot = slot", "limits set last_slot = last_slot"] {
        let ahead = format!("update outdial.{table} + interval '1 hour'");
        sqlx::query(sqlx::AssertSqlSafe(ahead)).execute(&db).await.unwrap();
    }
    let log = "select string_agg(slot::text, ' ' order by ordinal) from outdial.grants";
    let mend = "select outdial.mend_future('10 seconds', 100)";
    let mut first = db.begin().await.unwrap();
    sqlx::query(mend).execute(&mut *first).await.unwrap();
    let (second, mended) = tokio::join!(sqlx::query(mend).execute(&db), async {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                       and query like '%outdial.mend_future(%'";
        let waits = async || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&db).await.unwrap();
        eventually(LONG, async || (waits().await == 1).then_some(())).await;
        // As if it had been granted since: as far ahead as a slot can be.
        let granted = "with head as (update outdial.limits set last_ordinal = last_ordinal + 1, last_slot = clock_timestamp() + interval '1.9 seconds'
                                     where kind = 3 returning *)
                       insert into outdial.grants (thing_no, ordinal, slot) select thing_no, last_ordinal, last_slot from head";
        sqlx::query(granted).execute(&mut *first).await.unwrap();
        let mended: String = sqlx::query_scalar(log).fetch_one(&mut *first).await.unwrap();
        first.commit().await.unwrap();
        mended
    });
    second.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>(log).fetch_one(&db).await.unwrap(), mended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_while_the_clock_steps_back_and_forth() {
    let Some(clock) = FakeClock::find() else {
        return eprintln!("skipped: libfaketime is not installed");
    };
    let setup = PostgresSetup { env: clock.env(), ..PostgresSetup::default() };
    let postgres = own_postgres_with(std::env::temp_dir(), setup).await;
    clock.is_of(postgres.pid());
    let stage = Stage::on(sandbox_config(&numbers(4)), database_on(&postgres).await, vhost().await).await;
    stage.route("per_second = 4, per_minute = 30", ANY_NUMBER).await;
    let (one, two) = (stage.worker(&[]).await, stage.worker(&[]).await);
    // The first minute has room for 120. For the others that minute has to pass in truth, of which the clock leaves out some.
    let many = jobs("many", 150);
    stage.publish(&many).await;
    let steps = [5, -5, 1, 5];
    let mut sent = 15;
    for (nth, step) in steps.into_iter().enumerate() {
        stage.posted(sent, LONG).await;
        clock.step(step);
        // One that learns of two at once learns of what is left of them.
        let told = |worker: &Outdial| worker.output().matches("database.clock.stepped").count() > nth;
        eventually(LONG, async || (told(&one) && told(&two)).then_some(())).await;
        sent = stage.posts().len() + 5;
    }
    stage.each_done_once(&many, LONG * 2).await;
    stage.prove(&many, &[(1, 4), (60, 30)]).await;
    stage.stopped(one).await;
    stage.stopped(two).await;
    drop(stage);
}

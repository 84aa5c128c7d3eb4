//! Ranges of records: made before they are needed, and dropped when they have been kept long enough. Time is moved by moving
//! the dates of what there is: the database's clock may not go ahead without windows becoming wider.

use std::time::Duration;

use chrono::TimeDelta;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::ledger::{Limits, finish, ground, leave, release, reserve, settle};
use crate::support::stage::{ANY_NUMBER, LONG, Stage, callees, job, jobs, numbers, sandbox_config};
use crate::support::{Outdial, database};

const UNLIMITED: Limits = ([None; 4], None);
/// Far more than a wait of 200 ms takes, and than a machine stalls.
const BRIEFLY: std::time::Duration = std::time::Duration::from_secs(10);

async fn run(db: &PgPool, statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(db).await.unwrap();
}

async fn count(db: &PgPool, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(db).await.unwrap()
}

/// Ranges of so many numbers from the first one on, in place of those that the migration made.
async fn small_ranges(db: &PgPool, size: u32) {
    run(
        db,
        "do $$ declare r record; begin
             for r in select first_no from outdial.partitions loop
                 execute format('drop table %s, %s', outdial.partition_of('jobs', r.first_no), outdial.partition_of('attempts', r.first_no));
             end loop;
         end $$",
    )
    .await;
    run(db, "delete from outdial.partitions").await;
    run(db, &format!("update outdial.control set partition_size = {size}")).await;
    run(db, "select outdial.make_room(0)").await;
}

/// All that the records tell was so much earlier.
async fn age(db: &PgPool, by: &str) {
    let dates: [(&str, &[&str]); 3] = [
        ("jobs", &["received_at", "finished_at"]),
        ("attempts", &["slot", "submitted_at", "placed_at", "ended_at"]),
        ("partitions", &["opened_at", "filled_at", "last_end", "records_gone_at"]),
    ];
    for (table, columns) in dates {
        let earlier: Vec<String> =
            columns.iter().map(|column| format!("{column} = {column} - interval '{by}'")).collect();
        run(db, &format!("update outdial.{table} set {}", earlier.join(", "))).await;
    }
}

/// Jobs from 1 on that were over three days ago, as upkeep has noted of the ranges that are full.
async fn ended(db: &PgPool, jobs: i64) {
    run(
        db,
        &format!(
            "insert into outdial.jobs (job_no, job_id, campaign_id, class_no, priority, expires_at, received_at, state, finished_at)
             select n, 'j' || n, 'c0', 1, 4, now(), now() - interval '4 days', 'done', now() - interval '3 days'
             from generate_series(1, {jobs}) n"
        ),
    )
    .await;
    run(db, &format!("select setval('outdial.job_no', {jobs})")).await;
    run(db, "select outdial.make_room(0)").await;
    run(db, "update outdial.partitions set filled_at = filled_at - interval '1 hour'").await;
    run(db, "select outdial.note_ended(10000)").await;
}

/// What became of the oldest range whose jobs were over for two days: (outcome, first number).
async fn drop_one(db: &PgPool) -> Option<(String, i64)> {
    sqlx::query_as("select outcome, first_no from outdial.drop_records(outdial.kept_since('2 days'))")
        .fetch_optional(db)
        .await
        .unwrap()
}

/// Walks over the records; gives how many jobs that were over for two days it forgot.
async fn forget(db: &PgPool) -> i32 {
    let (mut after, mut all) = (0_i64, 0);
    loop {
        let query =
            "select upto, forgotten from outdial.forget_records(outdial.kept_since('2 days'), $1, 20)";
        let (upto, forgotten): (Option<i64>, i32) =
            sqlx::query_as(query).bind(after).fetch_one(db).await.unwrap();
        all += forgotten;
        match upto {
            Some(upto) => after = upto,
            None => return all,
        }
    }
}

const GONE: &str = "select (to_regclass('outdial.jobs_000000000000') is null)::int::bigint
                         + (to_regclass('outdial.attempts_000000000000') is null)::int";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_go_by_ranges_and_keys_outlive_them() {
    let kept = [("OUTDIAL__RETENTION__RECORDS", "2d"), ("OUTDIAL__RETENTION__KEYS", "4d")];
    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    small_ranges(&stage.db, 20).await;
    stage.route("per_second = 50", ANY_NUMBER).await;
    let worker = stage.worker(&kept).await;
    let old = jobs("old", 25);
    stage.publish(&old).await;
    stage.each_done_once(&old, LONG).await;
    stage.stopped(worker).await;
    let first: String = sqlx::query_scalar("select job_id from outdial.jobs order by job_no limit 1")
        .fetch_one(&stage.db)
        .await
        .unwrap();
    let first = old.iter().find(|job| job["job_id"] == *first).unwrap();
    let (id, phone) = (first["job_id"].as_str().unwrap(), first["phone"].as_str().unwrap());
    let later = count(&stage.db, "select count(*) from outdial.jobs where job_no >= 20").await;
    assert!((1..25).contains(&later), "{later} jobs in later ranges");
    run(&stage.db, "select outdial.make_room(0)").await;

    // A range of jobs that have been over for two days and a half; those of the next, which isn't full, are left for a day more.
    age(&stage.db, "60 hours").await;
    assert_eq!(count(&stage.db, GONE).await, 0);
    let worker = stage.worker(&kept).await;
    worker.line(LONG, "records.dropped").await;
    assert_eq!(count(&stage.db, GONE).await, 2);
    for view in ["jobs", "calls"] {
        assert_eq!(stage.count(&format!("select count(*) from reporting.{view}")).await, later, "{view}");
        let of_first = format!("select count(*) from reporting.{view} where job_id = '{id}'");
        assert_eq!(stage.count(&of_first).await, 0, "{view}");
    }
    // Its key stands: what comes behind it is dialed, it isn't.
    let fresh = job("fresh", "old", &callees(26).last().unwrap());
    stage.publish(&[first.clone(), fresh]).await;
    stage.stands("fresh", "done", None).await;
    assert_eq!(stage.count(&format!("select count(*) from reporting.jobs where job_id = '{id}'")).await, 0);
    assert_eq!(stage.called(phone).await.phone.as_deref(), Some(phone));
    assert_eq!(stage.posts().len(), 26);
    let printed = stage.stopped(worker).await;
    assert!(!printed.contains("records.forgotten") && !printed.contains("keys.dropped"), "{printed}");

    // Five days: single jobs of the range that isn't full go, and keys of the one that has gone.
    age(&stage.db, "60 hours").await;
    let worker = stage.worker(&kept).await;
    worker.line(LONG, "records.forgotten").await;
    worker.line(LONG, "keys.dropped").await;
    assert_eq!(stage.count("select count(*) from reporting.jobs").await, 1, "the fresh one is young");
    assert_eq!(stage.count("select count(*) from reporting.calls").await, 1);
    let keys = "select count(*) from outdial.job_keys";
    assert_eq!(stage.count(keys).await, later + 1, "of forgotten jobs they stay with their range");
    stage.publish(std::slice::from_ref(first)).await;
    stage.called_times(phone, 2).await;
    stage.stands(id, "done", None).await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_job_that_waits_keeps_its_range_and_the_others_are_forgotten() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    small_ranges(&db, 50).await;
    ground(&db, UNLIMITED, &[UNLIMITED], &[UNLIMITED], 60).await;
    // 1 was called, 7 waits, and the others are over without a call.
    assert!(reserve(&db, &[(1, 0, 0)]).await[0].slot.is_some());
    let (attempt, verdict) = leave(&db, TimeDelta::minutes(10), &[1]).await.swap_remove(0);
    assert_eq!(verdict, None);
    settle(&db, &[(attempt, "placed", None)]).await;
    finish(&db, &[attempt]).await;
    let end = async |jobs: &str| {
        run(&db, &format!("select outdial.end_waiting(array({jobs}), 'expired', 'expired', null)")).await;
    };
    end("select n::bigint from generate_series(2, 60) n where n <> 7").await;
    run(&db, "select setval('outdial.job_no', 60)").await;
    run(&db, "select outdial.make_room(0)").await;
    let left = async || {
        let query = "select coalesce(string_agg(job_no::text, ' ' order by job_no), '') from outdial.jobs";
        sqlx::query_scalar::<_, String>(query).fetch_one(&db).await.unwrap()
    };
    assert_eq!(forget(&db).await, 0, "all are young");
    age(&db, "3 days").await;
    run(&db, "select outdial.note_ended(10000)").await;
    assert_eq!(drop_one(&db).await, None);

    // What else speaks of a job keeps it.
    run(&db, "insert into outdial.mismatches (attempt_id, number) select attempt_id, '+16286661000' from outdial.attempts").await;
    assert_eq!(forget(&db).await, 58);
    assert_eq!(left().await, "1 7");
    run(&db, "delete from outdial.mismatches").await;
    run(
        &db,
        "insert into outdial.live (attempt_id, job_no, attempt_no, worker_no, state, account, model_id, class_no, rank, expires_at,
                                   campaign_id, campaign_thing, account_thing, slot, since)
         select attempt_id, job_no, 1, 1, 'placed', 'default', 'agent', 1, 5, now(), 'c0', 2, 1, now(), now() from outdial.attempts",
    )
    .await;
    assert_eq!((forget(&db).await, left().await.as_str()), (0, "1 7"));
    run(&db, "delete from outdial.live").await;
    // Whoever holds it is not waited for.
    let mut holder = db.begin().await.unwrap();
    sqlx::query("select 1 from outdial.attempts for update").fetch_all(&mut *holder).await.unwrap();
    assert_eq!((forget(&db).await, left().await.as_str()), (0, "1 7"));
    holder.rollback().await.unwrap();
    assert_eq!((forget(&db).await, left().await.as_str()), (1, "7"));
    assert_eq!(count(&db, "select count(*) from outdial.attempts").await, 0);

    // The one that waited goes on as if nothing had been.
    assert!(reserve(&db, &[(7, 0, 0)]).await[0].slot.is_some());
    run(&db, "select outdial.note_ended(10000)").await;
    assert_eq!(drop_one(&db).await, None);
    release(&db, &[7]).await;
    end("select 7::bigint").await;
    run(&db, "select outdial.note_ended(10000)").await;
    assert_eq!(drop_one(&db).await, None, "it is over for a moment only");
    age(&db, "3 days").await;
    assert_eq!(drop_one(&db).await, Some(("dropped".to_owned(), 0)));
    assert_eq!(count(&db, GONE).await, 2);
    assert_eq!(drop_one(&db).await, None);
    let next = "insert into outdial.jobs (job_no, job_id, campaign_id, class_no, priority, expires_at, received_at, state)
                values (61, 'j61', 'c0', 1, 4, now(), now(), 'waiting')";
    run(&db, next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_kept_waiting_behind_a_range_that_is_to_be_dropped() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    small_ranges(&db, 50).await;
    ended(&db, 60).await;
    let write = async || {
        let write = "update outdial.jobs set reason = 'x' where job_no = 55";
        let written = tokio::time::timeout(BRIEFLY, sqlx::query(write).execute(&db)).await;
        written.expect("nobody is waited for").unwrap();
    };
    for table in ["jobs", "attempts"] {
        let mut reader = db.begin().await.unwrap();
        let read = format!("select count(*) from outdial.{table}");
        sqlx::query(AssertSqlSafe(read)).fetch_all(&mut *reader).await.unwrap();
        // The reader ends only when all this is over.
        let outcome = tokio::time::timeout(BRIEFLY, drop_one(&db));
        let (outcome, ()) = tokio::join!(outcome, async {
            // In the midst of its wait.
            tokio::time::sleep(Duration::from_millis(50)).await;
            write().await;
        });
        assert_eq!(outcome.expect("the reader is not waited for"), Some(("later".to_owned(), 0)), "{table}");
        write().await;
        assert_eq!(count(&db, GONE).await, 0);
        reader.rollback().await.unwrap();
    }
    // A clock that went ahead hasn't kept anything: what it tells is too old may be of today.
    run(&db, "select outdial.note_step(1, '30 days')").await;
    assert_eq!(drop_one(&db).await, None);
    assert_eq!(forget(&db).await, 0);
    run(&db, "delete from outdial.clock_steps").await;
    let young = "select count(*) from outdial.drop_records(now() - interval '25 hours')";
    let refused = sqlx::query(young).execute(&db).await.unwrap_err().to_string();
    assert!(refused.contains("are needed"), "{refused}");
    assert_eq!(drop_one(&db).await, Some(("dropped".to_owned(), 0)));
    write().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_made_before_jobs_need_them() {
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    small_ranges(&stage.db, 50).await;
    stage.route("per_second = 100", ANY_NUMBER).await;
    run(&stage.db, "select setval('outdial.job_no', 75)").await;
    let end = "select max(end_no) from outdial.partitions";
    assert_eq!(stage.count(end).await, 100);
    let worker = stage.worker(&[]).await;
    assert_eq!(stage.count(end).await, 150, "a whole range beyond the last number, from the start on");
    let many = jobs("many", 500);
    stage.publish(&many).await;
    stage.each_done_once(&many, LONG).await;
    assert!(stage.count("select count(distinct tableoid) from outdial.jobs").await >= 10);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn several_make_the_same_ranges_once_each_like_the_first() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    small_ranges(&db, 50).await;
    let make = || sqlx::query_scalar::<_, i32>("select outdial.make_partitions(1000)").fetch_one(&db);
    let (a, b, c, d) = tokio::join!(make(), make(), make(), make());
    let made: i32 = [a, b, c, d].into_iter().map(Result::unwrap).sum();
    assert_eq!(made, 19, "up to the one that holds it, beside the two that there were");
    // Those of another size begin where the last one ended.
    run(&db, "update outdial.control set partition_size = 70").await;
    run(&db, "select outdial.make_partitions(1100)").await;
    assert_eq!(count(&db, "select max(end_no) from outdial.partitions").await, 1120);
    let gaps = "select count(*) from (select first_no, lag(end_no, 1, 0::bigint) over (order by first_no) as was from outdial.partitions) p
                where was <> first_no";
    assert_eq!(count(&db, gaps).await, 0);
    run(
        &db,
        "insert into outdial.jobs (job_no, job_id, campaign_id, class_no, priority, expires_at, received_at, state)
         select n, 'j' || n, 'c0', 1, 4, now(), now(), 'waiting' from generate_series(0, 1119) n",
    )
    .await;
    let in_last = "select count(*) from outdial.jobs where tableoid = 'outdial.jobs_000000001050'::regclass";
    assert_eq!(count(&db, in_last).await, 70);
    let unlike = "select count(*) from pg_class c join pg_inherits i on i.inhrelid = c.oid
                  where i.inhparent in ('outdial.jobs'::regclass, 'outdial.attempts'::regclass)
                    and (c.reloptions is distinct from '{fillfactor=45}'
                         or (select count(*) from pg_index x where x.indrelid = c.oid)
                             <> (select count(*) from pg_index x where x.indrelid = i.inhparent))";
    assert_eq!(count(&db, unlike).await, 0, "room for updates, and the indexes of the whole");
    let tables = "select count(*) from pg_inherits where inhparent in ('outdial.jobs'::regclass, 'outdial.attempts'::regclass)";
    assert_eq!(count(&db, tables).await, 2 * 22);
}

#[tokio::test]
async fn a_worker_does_not_start_where_keys_would_go_before_records() {
    let refused = [
        (["90d", "30d"], "retention.keys: is shorter than retention.records"),
        (["1d", "forever"], "retention.records: \"1d\" is out of range"),
        (["forever", "90d"], "retention.keys: is a length of time, but records are kept for ever"),
    ];
    for ([records, keys], told) in refused {
        let env = [("OUTDIAL__RETENTION__RECORDS", records), ("OUTDIAL__RETENTION__KEYS", keys)];
        let (status, output) = Outdial::start(&["worker"], &env).wait(LONG).await;
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(output.contains(told), "{output}");
    }
}

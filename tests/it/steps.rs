//! The ledger's steps where something comes between them: a worker dies, rules change, a job is canceled.

use std::time::Duration;

use chrono::TimeDelta;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use crate::support::ledger::{Limits, finish, ground, leave, number, release, reserve, settle};
use crate::support::{Database, database, eventually};

const UNLIMITED: Limits = ([None; 4], None);
/// Far more than a slot, so that nothing here is late by a slow machine.
const PATIENT: TimeDelta = TimeDelta::minutes(10);

struct Ledger {
    db: PgPool,
    _database: Database,
}

impl Ledger {
    /// One campaign, and one number that makes five calls in a second and at once.
    async fn new() -> Self {
        let database = database().await;
        let db = PgPool::connect(&database.url).await.unwrap();
        ground(&db, UNLIMITED, &[UNLIMITED], &[([Some(5), None, None, None], Some(5))], 10).await;
        Self { db, _database: database }
    }

    async fn run(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&self.db).await.unwrap();
    }

    async fn text(&self, query: &str) -> Option<String> {
        sqlx::query_scalar(AssertSqlSafe(format!("select ({query})::text")))
            .fetch_one(&self.db)
            .await
            .unwrap()
    }

    async fn reserve(&self, jobs: &[i64]) {
        let asks: Vec<_> = jobs.iter().map(|job| (*job, 0, 0)).collect();
        assert!(reserve(&self.db, &asks).await.iter().all(|answer| answer.slot.is_some()));
    }

    /// The attempt of a job that gets leave.
    async fn authorise(&self, job: i64) -> Uuid {
        let (attempt, verdict) = leave(&self.db, PATIENT, &[job]).await.swap_remove(0);
        assert_eq!(verdict, None);
        attempt
    }

    async fn verdict(&self, job: i64) -> Option<String> {
        leave(&self.db, PATIENT, &[job]).await.swap_remove(0).1
    }

    async fn take_over(&self) -> (i32, i32) {
        sqlx::query_as("select released, unknown from outdial.take_over(interval '1 millisecond', null)")
            .fetch_one(&self.db)
            .await
            .unwrap()
    }

    /// Where a job stands: its record's state and reason, and the tables that hold it.
    async fn stands(&self, job: i64) -> String {
        let query = format!(
            "select concat_ws(' ', state, reason,
                (select 'in work' from outdial.work w where w.job_no = j.job_no),
                (select 'reserved' from outdial.reservations r where r.job_no = j.job_no),
                (select 'live as ' || l.state from outdial.live l where l.job_no = j.job_no),
                (select string_agg('tried: ' || a.state, ' ') from outdial.attempts a where a.job_no = j.job_no))
             from outdial.jobs j where job_no = {job}"
        );
        self.text(&query).await.unwrap()
    }

    /// The number's calls at once, and its grants: by the head and by the log.
    async fn held(&self) -> (i32, i64, i64) {
        sqlx::query_as(
            "select in_use, last_ordinal, (select count(*) from outdial.grants g where g.thing_no = l.thing_no)
             from outdial.limits l where kind = 3",
        )
        .fetch_one(&self.db)
        .await
        .unwrap()
    }

    async fn die(&self) {
        self.run("update outdial.workers set lease_until = clock_timestamp() - interval '1 second'").await;
    }
}

/// Ends a job as a person does; gives which were ended.
async fn cancel(db: impl sqlx::PgExecutor<'_>, job: i64) -> Vec<String> {
    let query = "select job_id from outdial.cancel(array[$1], null)";
    sqlx::query_scalar(query).bind(format!("j{job}")).fetch_all(db).await.unwrap()
}

#[tokio::test]
async fn a_dead_workers_reservations_are_released_and_its_posts_unknown() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1, 2, 3]).await;
    ledger.authorise(1).await;
    let placed = ledger.authorise(2).await;
    settle(&ledger.db, &[(placed, "placed", None)]).await;
    assert_eq!(ledger.take_over().await, (0, 0), "the living are left alone");

    ledger.die().await;
    assert_eq!(ledger.take_over().await, (1, 1));
    assert_eq!(ledger.stands(1).await, "dialing unconfirmed live as unknown tried: unknown");
    assert_eq!(ledger.stands(2).await, "placed live as placed tried: placed");
    assert_eq!(ledger.stands(3).await, "waiting in work");
    // What may be ringing holds its place and its grant; what was never sent gives both back.
    assert_eq!(ledger.held().await, (2, 2, 2));
    assert_eq!(ledger.take_over().await, (0, 0), "once");

    // The answer comes after all: evidence counts, whoever brings it.
    let attempt: Uuid = sqlx::query_scalar("select attempt_id from outdial.live where job_no = 1")
        .fetch_one(&ledger.db)
        .await
        .unwrap();
    settle(&ledger.db, &[(attempt, "placed", None)]).await;
    assert_eq!(ledger.stands(1).await, "placed live as placed tried: placed");
    assert_eq!(ledger.held().await, (2, 2, 2));
}

/// A living worker may have lost them too: the answer to a reservation got lost, or what it wrote.
#[tokio::test]
async fn what_nobody_looks_after_any_more_is_taken_over_from_the_living() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1, 2, 3, 4]).await;
    ledger.authorise(3).await;
    ledger.authorise(4).await;
    for (job, table, since, seconds) in [
        (1, "reservations", "slot", 5),
        (2, "reservations", "slot", 11),
        (3, "live", "since", 60),
        (4, "live", "since", 121),
    ] {
        let aged = format!("{since} = clock_timestamp() - interval '{seconds} seconds'");
        ledger.run(&format!("update outdial.{table} set {aged} where job_no = {job}")).await;
    }
    assert_eq!(ledger.take_over().await, (1, 1));
    assert_eq!(ledger.stands(1).await, "waiting reserved");
    assert_eq!(ledger.stands(2).await, "waiting in work");
    assert_eq!(ledger.stands(3).await, "dialing live as submitting tried: submitting");
    assert_eq!(ledger.stands(4).await, "dialing unconfirmed live as unknown tried: unknown");
    assert_eq!(ledger.held().await.0, 3, "calls at once");
}

#[tokio::test]
async fn nothing_is_authorised_under_rules_that_were_replaced() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1]).await;
    ledger.run("update outdial.control set routing_version = 2").await;
    assert_eq!(ledger.verdict(1).await.as_deref(), Some("stale"));
    assert_eq!(ledger.stands(1).await, "waiting reserved", "until it is handed back");
    release(&ledger.db, &[1]).await;
    assert_eq!(ledger.stands(1).await, "waiting in work");
    assert_eq!(ledger.held().await, (0, 0, 0));
    let asked = reserve(&ledger.db, &[(1, 0, 0)]).await;
    assert_eq!(asked[0].refused.as_deref(), Some("stale"), "asked for under the old rules again");
}

#[tokio::test]
async fn what_was_stopped_since_its_slot_gets_no_leave() {
    let ledger = Ledger::new().await;
    ledger.run("insert into outdial.agents (model_id, account) values ('agent', 'default')").await;
    ledger.run("insert into outdial.numbers (number) select key from outdial.limits where kind = 3").await;
    ledger.reserve(&[1]).await;
    for (table, stopped, going, verdict) in [
        ("control", "kill_switch = true", "kill_switch = false", "kill_switch"),
        ("campaigns", "state = 'paused'", "state = 'active'", "campaign_paused"),
        ("campaigns", "state = 'canceled'", "state = 'active'", "canceled"),
        ("accounts", "state = 'paused'", "state = 'active'", "account_paused"),
        ("agents", "state = 'unavailable'", "state = 'active'", "agent_unavailable"),
        ("pool", "attached = false", "attached = true", "no_eligible_number"),
        ("numbers", "state = 'resting'", "state = 'active'", "no_eligible_number"),
        ("numbers", "state = 'quarantined'", "state = 'active'", "no_eligible_number"),
        ("numbers", "state = 'retired'", "state = 'warming'", "no_eligible_number"),
        ("reservations", "expires_at = now()", "expires_at = now() + interval '1 hour'", "expired"),
    ] {
        ledger.run(&format!("update outdial.{table} set {stopped}")).await;
        assert_eq!(ledger.verdict(1).await.as_deref(), Some(verdict), "{table}: {stopped}");
        ledger.run(&format!("update outdial.{table} set {going}")).await;
    }
    ledger.authorise(1).await;
}

#[tokio::test]
async fn a_worker_whose_lease_ran_out_gets_no_leave_and_no_slot() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1]).await;
    ledger.die().await;
    assert_eq!(ledger.verdict(1).await.as_deref(), Some("fenced"));
    assert_eq!(ledger.stands(1).await, "waiting reserved");
    assert_eq!(reserve(&ledger.db, &[(2, 0, 0)]).await[0].refused.as_deref(), Some("stale"));
    assert_eq!(ledger.take_over().await, (1, 0));
    assert_eq!(ledger.verdict(1).await.as_deref(), Some("gone"), "taken over meanwhile");
    assert_eq!(ledger.held().await, (0, 0, 0));
}

#[tokio::test]
async fn a_job_that_was_canceled_is_not_dialed_and_one_in_flight_not_canceled() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1, 2, 3]).await;
    assert_eq!(cancel(&ledger.db, 1).await, ["j1"], "a reservation is no hindrance");
    assert_eq!(ledger.verdict(1).await.as_deref(), Some("gone"));
    assert_eq!(ledger.stands(1).await, "canceled canceled");
    assert_eq!(ledger.held().await, (2, 2, 2));

    let (sent, unsent) = (ledger.authorise(2).await, ledger.authorise(3).await);
    assert!(cancel(&ledger.db, 2).await.is_empty(), "it may be ringing");
    settle(&ledger.db, &[(sent, "unknown", None), (unsent, "unsent", None)]).await;
    assert!(cancel(&ledger.db, 2).await.is_empty(), "nobody knows whether it rang");
    assert_eq!(ledger.stands(2).await, "dialing unconfirmed live as unknown tried: unknown");
    assert_eq!(cancel(&ledger.db, 3).await, ["j3"], "it was never sent");
    assert_eq!(ledger.stands(3).await, "canceled canceled");
    assert_eq!(ledger.held().await, (1, 1, 1));
}

/// Both at the same moment: whichever commits first, the other sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_and_leave_wait_for_each_other() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1, 2]).await;

    let mut first = ledger.db.begin().await.unwrap();
    assert_eq!(cancel(&mut *first, 1).await, ["j1"]);
    let (verdict, ()) = tokio::join!(ledger.verdict(1), async {
        waits(&ledger.db, "authorise").await;
        first.commit().await.unwrap();
    });
    assert_eq!(verdict.as_deref(), Some("gone"));

    let mut first = ledger.db.begin().await.unwrap();
    let connection: &mut PgConnection = &mut first;
    assert_eq!(leave(connection, PATIENT, &[2]).await[0].1, None);
    let (canceled, ()) = tokio::join!(cancel(&ledger.db, 2), async {
        waits(&ledger.db, "cancel").await;
        first.commit().await.unwrap();
    });
    assert!(canceled.is_empty());
    assert_eq!(ledger.stands(2).await, "dialing live as submitting tried: submitting");
    assert_eq!(ledger.held().await, (1, 1, 1));
}

/// Its place is counted by what the call is when its row is locked, not by what it was when the step began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_changes_while_a_step_waits_is_counted_as_it_is_then() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1, 2, 3]).await;
    let (one, two, three) = (ledger.authorise(1).await, ledger.authorise(2).await, ledger.authorise(3).await);
    settle(&ledger.db, &[(one, "unknown", None), (two, "placed", None), (three, "unknown", None)]).await;

    let mut first = ledger.db.begin().await.unwrap();
    let give_up = "select outdial.give_up(array[$1], array[$2], array[null::interval], null)";
    sqlx::query(give_up).bind(one).bind("review").execute(&mut *first).await.unwrap();
    let placed = [(one, "placed", None)];
    tokio::join!(settle(&ledger.db, &placed), async {
        waits(&ledger.db, "settle").await;
        first.commit().await.unwrap();
    });
    assert_eq!(ledger.stands(1).await, "placed live as placed tried: placed");
    let drift = "select count(*) from outdial.drifted()";
    assert_eq!(ledger.text(drift).await.as_deref(), Some("0"), "a call out of review");

    sqlx::query(give_up).bind(three).bind("redial").execute(&ledger.db).await.unwrap();
    let mut first = ledger.db.begin().await.unwrap();
    let found = "select * from outdial.found('default', array[$1], array['late'], null)";
    sqlx::query(found).bind(three).execute(&mut *first).await.unwrap();
    let both = [two, three];
    tokio::join!(finish(&ledger.db, &both), async {
        waits(&ledger.db, "finish").await;
        first.commit().await.unwrap();
    });
    assert_eq!(ledger.text(drift).await.as_deref(), Some("0"), "a call that was placed after all");
}

/// A statement whose client has gone is done all the same, and done again by who sends it anew: what waited for it has another slot
/// by then, of a number whose log it doesn't hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_given_while_a_release_waits_stays() {
    let database = database().await;
    let db = PgPool::connect(&database.url).await.unwrap();
    let five = ([Some(5), None, None, None], Some(5));
    ground(&db, UNLIMITED, &[UNLIMITED], &[five, five], 10).await;
    let ledger = Ledger { db, _database: database };
    ledger.reserve(&[1]).await;
    let released = "select outdial.release(1, array[1])";
    let mut first = ledger.db.begin().await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i32>(released).fetch_one(&mut *first).await.unwrap(), 1);
    let (again, ()) = tokio::join!(sqlx::query_scalar::<_, i32>(released).fetch_one(&ledger.db), async {
        waits(&ledger.db, "release").await;
        let connection: &mut PgConnection = &mut first;
        assert!(reserve(connection, &[(1, 0, 1)]).await[0].slot.is_some());
        first.commit().await.unwrap();
    });
    assert_eq!(again.unwrap(), 0);
    assert_eq!(ledger.stands(1).await, "waiting reserved");
    let logs = "select string_agg(concat_ws(' ', l.in_use, l.last_ordinal, (select count(*) from outdial.grants g where g.thing_no = l.thing_no)),
                                  ', ' order by key) from outdial.limits l where kind = 3";
    assert_eq!(ledger.text(logs).await.as_deref(), Some("0 0 0, 1 1 1"));
}

/// A leave that is heard only after its job was given back takes nothing of the slot that the job has by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leave_is_for_the_slot_it_was_asked_for() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1]).await;
    let slot = ledger.text("select slot from outdial.reservations").await.unwrap();
    release(&ledger.db, &[1]).await;
    ledger.reserve(&[1]).await;
    let leave = format!(
        "select verdict from outdial.authorise(1, '1 minute', array[1::bigint], array['{slot}'::timestamptz],
             array['{}'::uuid], array['agent'], array[null], array[null], array[null], array['{{}}'::jsonb], array[null::timestamptz], false)",
        Uuid::now_v7()
    );
    assert_eq!(ledger.text(&leave).await.as_deref(), Some("gone"));
    assert_eq!(ledger.stands(1).await, "waiting reserved");
    ledger.authorise(1).await;
}

/// An asking for slots whose answer got lost may still be under way, or come late: called off, it comes to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asking_that_was_called_off_comes_to_nothing() {
    let ledger = Ledger::new().await;
    let (lost, late, next) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let ask = |asking: i64, attempt: Uuid| {
        format!(
            "select coalesce(refused, verdict, 'leave ' || attempt_no) from outdial.dispatch(1, {asking}, 1, '0', '1 s', '10 minutes', '20 ms',
                 array[1::bigint], array['c0'], array['default'], array['{}'], array[null], array[null], array[null], array[null],
                 '{{}}', '{{}}', '{{}}', array['{attempt}'::uuid], array['agent'], array[null], array[null], array[null],
                 array['{{}}'::jsonb], array[null::timestamptz], false)",
            number(0)
        )
    };
    let mut first = ledger.db.begin().await.unwrap();
    let given: String = sqlx::query_scalar(AssertSqlSafe(ask(1, lost))).fetch_one(&mut *first).await.unwrap();
    assert_eq!(given, "leave 1");
    let call_off = ledger.run("select outdial.call_off(1, 1)");
    tokio::join!(call_off, async {
        waits(&ledger.db, "call_off").await;
        first.commit().await.unwrap();
    });
    settle(&ledger.db, &[(lost, "unsent", None)]).await;
    assert_eq!(ledger.stands(1).await, "waiting in work");
    assert_eq!(ledger.text(&ask(1, late)).await.as_deref(), Some("stale"));
    assert_eq!(ledger.text(&ask(2, next)).await.as_deref(), Some("leave 1"));
}

/// A call that was found while a person said that it was placed, and knew no id: its end can be learned of, and is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_found_while_a_person_calls_it_placed_goes_on() {
    let ledger = Ledger::new().await;
    ledger.reserve(&[1]).await;
    let attempt = ledger.authorise(1).await;
    settle(&ledger.db, &[(attempt, "unknown", None)]).await;
    ledger
        .run(&format!(
            "select outdial.give_up(array['{attempt}'::uuid], array['review'], array[null::interval], null)"
        ))
        .await;
    assert_eq!(ledger.stands(1).await, "review unconfirmed live as review tried: unknown");

    let mut search = ledger.db.begin().await.unwrap();
    let found =
        format!("select news from outdial.found('default', array['{attempt}'::uuid], array['call-1'], null)");
    assert_eq!(sqlx::query_scalar::<_, i32>(AssertSqlSafe(found)).fetch_one(&mut *search).await.unwrap(), 1);
    let resolve =
        format!("select count(*) from outdial.resolve(array['{attempt}'::uuid], 'placed', null, null)");
    let (resolved, ()) = tokio::join!(ledger.text(&resolve), async {
        waits(&ledger.db, "resolve").await;
        search.commit().await.unwrap();
    });
    assert_eq!(resolved.as_deref(), Some("1"));
    assert_eq!(ledger.stands(1).await, "placed live as placed tried: placed");
}

/// Until a step waits for a lock of another.
async fn waits(db: &PgPool, step: &str) {
    let query = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock' and query like '%outdial.' || $1 || '(%'";
    eventually(Duration::from_secs(30), async || {
        let waiting: i64 = sqlx::query_scalar(query).bind(step).fetch_one(db).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
}

/// All steps of jobs, the first of which is `from`.
async fn dial(db: &PgPool, from: i64, jobs: i64) {
    let candidates = "select count(*) from outdial.candidates(array[1], array[$1::bigint], 0, 1)";
    let read: i64 = sqlx::query_scalar(candidates).bind(jobs).fetch_one(db).await.unwrap();
    assert_eq!(read, jobs);
    let jobs: Vec<i64> = (from..from + jobs).collect();
    let slots: i64 = sqlx::query_scalar(
        "select count(slot) from outdial.reserve(1, 1, '5 ms', '1 s', '100 ms', $1, array_fill('c0'::text, array[$3]),
             array_fill('default'::text, array[$3]), $2, array_fill('agent'::text, array[$3]), array_fill(''::text, array[$3]),
             array_fill(null::text, array[$3]))",
    )
    .bind(&jobs)
    .bind(jobs.iter().map(|job| number(*job as usize % 50)).collect::<Vec<_>>())
    .bind(jobs.len() as i32)
    .fetch_one(db)
    .await
    .unwrap();
    assert_eq!(slots as usize, jobs.len());
    let attempts: Vec<Uuid> =
        leave(db, PATIENT, &jobs).await.into_iter().map(|(attempt, _)| attempt).collect();
    settle(db, &attempts.iter().map(|attempt| (*attempt, "placed", None)).collect::<Vec<_>>()).await;
    finish(db, &attempts).await;
}

/// Rows of outdial's tables and entries of their indexes that were read so far.
async fn read(db: &PgPool) -> i64 {
    sqlx::query("select pg_stat_force_next_flush()").execute(db).await.unwrap();
    sqlx::query_scalar(
        "select ((select sum(idx_tup_read) from pg_stat_user_indexes where schemaname = 'outdial')
               + (select sum(seq_tup_read) from pg_stat_user_tables where schemaname = 'outdial'))::bigint",
    )
    .fetch_one(db)
    .await
    .unwrap()
}

/// Plans are made when a worker comes to an empty ledger, and used when a campaign has dropped its jobs.
#[tokio::test]
async fn what_a_job_costs_does_not_grow_with_the_ledger() {
    const BATCH: i64 = 64;
    let database = database().await;
    // One connection, so that what it has planned stays.
    let db = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&database.url).await.unwrap();
    let number = ([Some(100), Some(1_000), None, Some(10_000)], Some(100));
    ground(&db, UNLIMITED, &[UNLIMITED], &vec![number; 50], 8 * BATCH).await;
    dial(&db, 1, 1).await;
    let before = read(&db).await;
    dial(&db, 2, BATCH).await;
    let small = read(&db).await - before;
    for statement in [
        "insert into outdial.jobs (job_no, job_id, campaign_id, class_no, phone, name, priority, expires_at, received_at, state)
         select n, 'm' || n, 'c0', 1, '+1416' || (5550000 + n), 'Ada', 4, now() + interval '1 hour', now(), 'waiting'
         from generate_series(100001, 140000) n",
        "insert into outdial.work (job_no, class_no, rank, expires_at) select job_no, class_no, 5, expires_at from outdial.jobs
         where job_no > 100000",
        "insert into outdial.attempts (job_no, attempt_no, attempt_id, worker_no, campaign_id, account, model_id, phone, routing_version,
                                       decision, state, slot, submitted_at)
         select job_no, 1, gen_random_uuid(), 1, campaign_id, 'default', 'agent', phone, 1, '{}', 'placed', now(), now()
         from outdial.jobs where job_no > 120000",
        "insert into outdial.live (attempt_id, job_no, attempt_no, worker_no, state, account, model_id, class_no, rank, expires_at,
                                   campaign_id, campaign_thing, account_thing, slot, since)
         select a.attempt_id, a.job_no, 1, 1, 'placed', 'default', 'agent', 1, 5, now() + interval '1 hour', 'c0', 2, 1, now(), now()
         from outdial.attempts a where a.job_no > 120000",
        "insert into outdial.limits (kind, key, per_second) select 3, '+1700555' || n, 1 from generate_series(1000, 4000) n",
        // A busy account's log.
        "insert into outdial.grants (thing_no, ordinal, slot) select 1, n, clock_timestamp() - interval '2 minutes' from generate_series(1, 40000) n",
        "update outdial.limits set per_second = 10000, last_ordinal = 40000, last_slot = clock_timestamp() - interval '2 minutes' where thing_no = 1",
        "insert into outdial.pool (model_id, number) select 'agent', key from outdial.limits where key like '+1700%'",
        "insert into outdial.numbers (number) select key from outdial.limits where kind = 3",
        "insert into outdial.sticky (model_id, brand, phone, number, until, job_no)
         select 'agent', '', phone, '+16286661000', now() + interval '90 days', job_no from outdial.jobs where job_no > 100000",
        "insert into outdial.reservations (job_no, worker_no, class_no, rank, expires_at, campaign_id, account, campaign_thing,
                                           account_thing, slot, routing_version)
         select job_no, 1, 1, 5, now() + interval '1 hour', 'c0', 'default', 2, 1, now(), 1 from outdial.jobs where job_no > 130000",
        "insert into outdial.suppressions (phone, scope, source_no) select 14175550000 + n, '', outdial.source_no('test')
         from generate_series(1, 20000) n",
    ] {
        sqlx::query(statement).execute(&db).await.unwrap();
    }
    let before = read(&db).await;
    dial(&db, 100, BATCH).await;
    let large = read(&db).await - before;
    assert!(small > 10 * BATCH, "{small} reads are too few to be true");
    assert!(
        large < small + small / 2,
        "{BATCH} jobs read {large} rows and entries, and {small} while there were few"
    );
    // Nor after a call that came late, when leave looks for each slot in the logs once more.
    sqlx::query("update outdial.limits set mended_at = clock_timestamp()").execute(&db).await.unwrap();
    let before = read(&db).await;
    dial(&db, 200, BATCH).await;
    let mended = read(&db).await - before;
    assert!(
        mended < 2 * large,
        "{BATCH} jobs read {mended} rows and entries after a log was mended, and {large} before"
    );
}

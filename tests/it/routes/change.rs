//! New rules while a hundred thousand jobs wait.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use outdial::clock::{monotonic, wall};
use outdial::synthflow::sandbox::LedgerEntry;

use super::rule_for;
use crate::support::Outdial;
use crate::support::eventually;
use crate::support::stage::{AGENT, LONG, Stage, numbers, sandbox_config};

const WAITING: i64 = 100_000;
/// More than the worker judges anew in one round.
const PARKED: i64 = 40_000;
/// Codes of California: as many classes.
const AREAS: [&str; 20] = [
    "209", "213", "310", "323", "408", "415", "424", "442", "510", "530", "559", "562", "619", "626", "650",
    "661", "707", "714", "760", "805",
];
/// The promise is one second; a machine that does much else gets more.
const IN_USE_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Jobs that wait, by the ledger's own step; publishing isn't what is tried here.
async fn fill(stage: &Stage, campaign: &str, jobs: i64) {
    let each = jobs / AREAS.len() as i64;
    sqlx::query("select outdial.see_campaigns(array[$1])").bind(campaign).execute(&stage.db).await.unwrap();
    for area in AREAS {
        let accepted: i64 = sqlx::query_scalar(
            "with class as (
                select outdial.class_numbers(array[$1], array[$2], array[null], array['US-CA'], array['US'], array['+1' || $3],
                                             array[null], array[null]) as class_no
             ), job as (
                select i, $1 || '-' || $3 || '-' || i as id, '+1' || $3 || (2000000 + i) as phone, class_no
                from class, generate_series(1, $4) i
             ), accepted as (
                select outdial.accept(
                    array_agg(md5('id' || id)::uuid order by i), array_agg(md5('content' || id)::uuid order by i),
                    array_agg(id order by i), array_agg($1), array_agg(class_no), array_agg(phone order by i),
                    array_agg('Ada'::text), array_agg('US-CA'::text), array_agg(null::text), array_agg($2),
                    array_agg(null::text), array_agg('{}'::jsonb), array_agg(null::jsonb), array_agg(4::smallint),
                    array_agg(null::timestamptz), array_agg(now() + interval '7 days'), array_agg(now()),
                    array_agg(null::text), '{}') as receipt
                from job
             ) select count(*) from accepted where receipt = 'new'",
        )
        .bind(campaign)
        .bind(AGENT)
        .bind(area)
        .bind(each)
        .fetch_one(&stage.db)
        .await
        .unwrap();
        assert_eq!(accepted, each);
    }
}

/// Waits until that many jobs wait for a reason, as readers are told.
async fn all_wait(stage: &Stage, reason: &str, jobs: i64) {
    let query =
        format!("select coalesce(sum(jobs), 0)::bigint from reporting.waiting where reason = '{reason}'");
    eventually(LONG, async || (stage.count(&query).await == jobs).then_some(())).await;
}

/// When the rules in use were committed.
async fn committed(stage: &Stage) -> DateTime<Utc> {
    sqlx::query_scalar("select changed_at from outdial.control").fetch_one(&stage.db).await.unwrap()
}

/// The calls from some numbers, with when they arrived.
fn from<'a>(posts: &'a [LedgerEntry], pool: &[String]) -> Vec<(&'a str, DateTime<Utc>)> {
    posts
        .iter()
        .filter_map(|post| Some((post.from_phone_number.as_deref()?, post.at_us)))
        .filter(|(number, _)| pool.iter().any(|n| n == number))
        .map(|(number, at_us)| (number, DateTime::from_timestamp_micros(at_us).unwrap()))
        .collect()
}

/// Processor time that a worker takes while nothing can go, in hundredths of a second a second, and what its database does.
async fn idle_cost(stage: &Stage, worker: &Outdial) -> String {
    let busy = async || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        let database: f64 =
            sqlx::query_scalar("select active_time from pg_stat_database where datname = current_database()")
                .fetch_one(&stage.db)
                .await
                .unwrap();
        (ticks(11) + ticks(12), database / 10.0)
    };
    let (began, (worker_was, database_was)) = (monotonic(), busy().await);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let (took, (worker_is, database_is)) = (began.elapsed().as_secs_f64(), busy().await);
    let (worker_cost, database_cost) = ((worker_is - worker_was) / took, (database_is - database_was) / took);
    format!("worker {worker_cost:.1} %, its statements {database_cost:.1} %")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_rules_hold_for_a_hundred_thousand_waiting_jobs_at_once() {
    let pool = numbers(30);
    let (old, new, scarce) = (&pool[..10], &pool[10..20], &pool[20..]);
    let rule = |numbers: &[String]| {
        rule_for("big", &numbers.iter().map(String::as_str).collect::<Vec<_>>(), "strategy = \"least_used\"")
    };
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("per_second = 5", &rule(old).replace("[\"big\"]", "[\"small\"]")).await;
    let worker = stage.worker(&[]).await;
    let began = monotonic();
    fill(&stage, "big", WAITING).await;
    println!("{WAITING} jobs accepted in {:?}", began.elapsed());
    all_wait(&stage, "no_route", WAITING).await;
    println!("waiting for a route: {}", idle_cost(&stage, &worker).await);
    assert_eq!(stage.posts().len(), 0);

    stage.route("per_second = 5", &rule(old)).await;
    let change = committed(&stage).await;
    let posts = stage.posted(100, LONG).await;
    let calls = from(&posts, old);
    assert_eq!(calls.len(), posts.len());
    let first = calls.iter().map(|(_, at)| *at).min().unwrap() - change;
    println!("first call {} ms after the commit of rules", first.num_milliseconds());
    assert!(first.to_std().unwrap() < IN_USE_MAX);

    stage.route("per_second = 5", &rule(new)).await;
    let change = committed(&stage).await;
    let posts =
        eventually(LONG, async || Some(stage.posts()).filter(|posts| from(posts, new).len() >= 100)).await;
    let first = from(&posts, new).iter().map(|(_, at)| *at).min().unwrap() - change;
    let last = from(&posts, old).iter().map(|(_, at)| *at).max().unwrap() - change;
    println!(
        "first call by new rules {} ms after their commit, last by old ones {} ms",
        first.num_milliseconds(),
        last.num_milliseconds()
    );
    assert!(first.to_std().unwrap() < IN_USE_MAX);
    // What was authorised before the commit may be on its way; nothing is authorised after it.
    assert!(last < chrono::TimeDelta::seconds(1));
    let late: i64 = sqlx::query_scalar(
        "select count(*) from outdial.attempts
         where submitted_at > $1 and routing_version <> (select routing_version from outdial.control)",
    )
    .bind(change)
    .fetch_one(&stage.db)
    .await
    .unwrap();
    assert_eq!(late, 0);

    stage.route("per_day = 2", &rule(scarce)).await;
    let spent = eventually(LONG, async || Some(stage.posts()).filter(|p| from(p, scarce).len() >= 20)).await;
    let made = stage.count("select count(*) from outdial.attempts").await;
    all_wait(&stage, "number_limit", WAITING - made).await;
    println!("waiting for a number: {}", idle_cost(&stage, &worker).await);
    let used: BTreeSet<&str> = from(&spent, scarce).into_iter().map(|(number, _)| number).collect();
    assert_eq!(used.len(), 10);
    assert_eq!(from(&stage.posts(), scarce).len(), 20);
    assert!(wall() - committed(&stage).await < chrono::TimeDelta::minutes(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_parked_for_a_window_are_judged_anew_however_many() {
    let stage = Stage::new(sandbox_config(&numbers(20))).await;
    let window = |from: i64, to: i64| {
        let clock = |hours: i64| {
            let there =
                (wall() + chrono::TimeDelta::hours(hours)).with_timezone(&chrono_tz::America::Los_Angeles);
            there.format("%H:%M").to_string()
        };
        format!(
            "[[campaign]]\nid = \"big\"\nwindow = {{ days = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"], \
             from = {:?}, to = {:?} }}\n[[rule]]\nname = \"any\"\n",
            clock(from),
            clock(to)
        )
    };
    stage.route("", &window(3, 5)).await;
    let _worker = stage.worker(&[]).await;
    fill(&stage, "big", PARKED).await;
    let parked = "select count(*) from outdial.work where ready_at is not null";
    eventually(LONG * 2, async || (stage.count(parked).await == PARKED).then_some(())).await;
    // A later window: every date is another.
    stage.route("", &window(6, 8)).await;
    let dates = "select count(*) from outdial.work where ready_at > now() + interval '5 hours'";
    let began = monotonic();
    eventually(LONG * 2, async || (stage.count(dates).await == PARKED).then_some(())).await;
    println!("{PARKED} jobs judged anew in {:?}", began.elapsed());
    assert_eq!(stage.posts().len(), 0);
}

//! The ledger's steps, called straight: a ground to stand on, and each step with the fewest words.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgExecutor, PgPool, Row};
use uuid::Uuid;

pub const LEAD: TimeDelta = TimeDelta::milliseconds(5);
pub const HORIZON: TimeDelta = TimeDelta::milliseconds(1_000);
pub const SLACK: TimeDelta = TimeDelta::milliseconds(100);

pub fn number(n: usize) -> String {
    format!("+1628666{:04}", 1000 + n)
}

pub fn interval(span: TimeDelta) -> sqlx::postgres::types::PgInterval {
    sqlx::postgres::types::PgInterval { months: 0, days: 0, microseconds: span.num_microseconds().unwrap() }
}

/// Calls in each of the windows, and calls at once.
pub type Limits = ([Option<i32>; 4], Option<i32>);

/// A ledger with an account, campaigns, numbers, and jobs that wait.
pub async fn ground(db: &PgPool, account: Limits, campaigns: &[Limits], numbers: &[Limits], jobs: i64) {
    let limit = async |kind: i16, key: String, (windows, concurrent): Limits| {
        sqlx::query(
            "insert into outdial.limits (kind, key, per_second, per_minute, per_hour, per_day, concurrent)
             values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(kind)
        .bind(key)
        .bind(windows[0])
        .bind(windows[1])
        .bind(windows[2])
        .bind(windows[3])
        .bind(concurrent)
        .execute(db)
        .await
        .unwrap();
    };
    limit(1, "default".to_owned(), account).await;
    for (n, limits) in campaigns.iter().enumerate() {
        limit(2, format!("c{n}"), *limits).await;
    }
    for (n, limits) in numbers.iter().enumerate() {
        limit(3, number(n), *limits).await;
    }
    for statement in [
        "update outdial.control set routing_version = 1",
        "insert into outdial.accounts (name) values ('default')",
        "insert into outdial.workers (host, pid, version, lease_until) values ('t', 1, 't', now() + interval '1 hour')",
        "insert into outdial.campaigns (campaign_id) select key from outdial.limits where kind = 2",
        "insert into outdial.pool (model_id, number) select 'agent', key from outdial.limits where kind = 3",
    ] {
        sqlx::query(statement).execute(db).await.unwrap();
    }
    sqlx::query(
        "with n as (select generate_series(1, $1) n), listed as (
            insert into outdial.work (job_no, class_no, rank, expires_at)
            select n, 1, 5, now() + interval '1 hour' from n)
         insert into outdial.jobs (job_no, job_id, campaign_id, class_no, phone, name, priority, expires_at, received_at, state)
         select n, 'j' || n, 'c0', 1, '+1415' || (5550000 + n), 'Ada', 4, now() + interval '1 hour', now(), 'waiting' from n",
    )
    .bind(jobs)
    .execute(db)
    .await
    .unwrap();
}

pub struct Answer {
    pub job: i64,
    pub slot: Option<DateTime<Utc>>,
    pub refused: Option<String>,
    pub next_at: Option<DateTime<Utc>>,
}

/// Asks for slots for (job, campaign, number).
pub async fn reserve(db: impl PgExecutor<'_>, asks: &[(i64, usize, usize)]) -> Vec<Answer> {
    let none: Vec<Option<String>> = vec![None; asks.len()];
    let rows = sqlx::query(
        "select job_no, slot, refused, next_at from outdial.reserve(1, 1, $1, $2, $3, $4, $5, $6, $7, $8, $8, $8)",
    )
    .bind(interval(LEAD))
    .bind(interval(HORIZON))
    .bind(interval(SLACK))
    .bind(asks.iter().map(|ask| ask.0).collect::<Vec<_>>())
    .bind(asks.iter().map(|ask| format!("c{}", ask.1)).collect::<Vec<_>>())
    .bind(vec!["default"; asks.len()])
    .bind(asks.iter().map(|ask| number(ask.2)).collect::<Vec<_>>())
    .bind(none)
    .fetch_all(db)
    .await
    .unwrap();
    rows.iter()
        .map(|row| Answer { job: row.get(0), slot: row.get(1), refused: row.get(2), next_at: row.get(3) })
        .collect()
}

pub async fn release(db: &PgPool, jobs: &[i64]) {
    let released: i32 =
        sqlx::query_scalar("select outdial.release(1, $1)").bind(jobs).fetch_one(db).await.unwrap();
    assert_eq!(usize::try_from(released).unwrap(), jobs.len());
}

/// Asks leave for jobs: the attempt of each, and why it got none.
pub async fn leave(db: impl PgExecutor<'_>, slack: TimeDelta, jobs: &[i64]) -> Vec<(Uuid, Option<String>)> {
    let attempts: Vec<Uuid> = jobs.iter().map(|_| Uuid::now_v7()).collect();
    let none: Vec<Option<String>> = vec![None; jobs.len()];
    let rows = sqlx::query(
        "select job_no, verdict from outdial.authorise(1, $1, $2,
             array(select (select r.slot from outdial.reservations r where r.job_no = u.job) from unnest($2) with ordinality u(job, ord) order by ord),
             $3, $4, $5, $5, $5, $6, $7, false)",
    )
    .bind(interval(slack))
    .bind(jobs)
    .bind(&attempts)
    .bind(vec!["agent"; jobs.len()])
    .bind(none)
    .bind(vec![serde_json::json!({}); jobs.len()])
    .bind(vec![None::<DateTime<Utc>>; jobs.len()])
    .fetch_all(db)
    .await
    .unwrap();
    let mut verdicts: HashMap<i64, Option<String>> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    jobs.iter().zip(attempts).map(|(job, attempt)| (attempt, verdicts.remove(job).unwrap())).collect()
}

/// (attempt, outcome, by when it arrived)
pub async fn settle(db: &PgPool, settled: &[(Uuid, &str, Option<DateTime<Utc>>)]) {
    let none: Vec<Option<String>> = vec![None; settled.len()];
    sqlx::query("select count(*) from outdial.settle($1, $2, $3, $4, $3, $3, $5, $3, $6, $7, $8, null)")
        .bind(settled.iter().map(|s| s.0).collect::<Vec<_>>())
        .bind(settled.iter().map(|s| s.1).collect::<Vec<_>>())
        .bind(none)
        .bind(vec![None::<i16>; settled.len()])
        .bind(vec![None::<DateTime<Utc>>; settled.len()])
        .bind(vec![None::<i32>; settled.len()])
        .bind(settled.iter().map(|s| s.2).collect::<Vec<_>>())
        .bind(interval(SLACK))
        .execute(db)
        .await
        .unwrap();
}

pub async fn finish(db: &PgPool, attempts: &[Uuid]) {
    let none: Vec<Option<String>> = vec![None; attempts.len()];
    sqlx::query("select outdial.finish($1, $3, $2, $3, $3, $3, $3, $3, $4, $5, $3, null)")
        .bind(attempts)
        .bind(vec!["answered"; attempts.len()])
        .bind(none)
        .bind(vec![None::<DateTime<Utc>>; attempts.len()])
        .bind(vec![None::<i32>; attempts.len()])
        .execute(db)
        .await
        .unwrap();
}

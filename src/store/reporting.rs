//! The reading side: rows of the `reporting` views as JSON, so that a program sees the contract's columns and a
//! command picks those that it shows. Phones come as the database shows them to this user.

use serde::Serialize;
use serde_json::Value;
use sqlx::{PgPool, Row};

use crate::core::ids::{CampaignId, JobId};
use crate::core::phone::E164;

type Answer<T> = Result<T, sqlx::Error>;

/// # Errors
/// The database's.
pub async fn campaigns(pool: &PgPool) -> Answer<Vec<Value>> {
    rows(pool, "select to_jsonb(v) from reporting.campaigns v order by campaign_id").await
}

/// # Errors
/// The database's.
pub async fn numbers(pool: &PgPool) -> Answer<Vec<Value>> {
    rows(pool, "select to_jsonb(v) from reporting.numbers v order by number").await
}

/// # Errors
/// The database's.
pub async fn campaign(pool: &PgPool, campaign: &CampaignId) -> Answer<Option<Value>> {
    sqlx::query_scalar("select to_jsonb(v) from reporting.campaigns v where campaign_id = $1")
        .bind(campaign.as_str())
        .fetch_optional(pool)
        .await
}

/// # Errors
/// The database's.
pub async fn number(pool: &PgPool, number: &E164) -> Answer<Option<Value>> {
    sqlx::query_scalar("select to_jsonb(v) from reporting.numbers v where number = $1")
        .bind(number.as_str())
        .fetch_optional(pool)
        .await
}

/// Why jobs wait; of one campaign, or of all.
///
/// # Errors
/// The database's.
pub async fn waiting(pool: &PgPool, campaign: Option<&CampaignId>) -> Answer<Vec<Value>> {
    let rows = sqlx::query(
        "select to_jsonb(v) from reporting.waiting v where $1::text is null or campaign_id = $1
         order by campaign_id, jobs desc, reason",
    )
    .bind(campaign.map(CampaignId::as_str))
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Why jobs wait, of all campaigns together: the most first.
///
/// # Errors
/// The database's.
pub async fn waiting_by_reason(pool: &PgPool) -> Answer<Vec<Value>> {
    rows(
        pool,
        "select jsonb_build_object('reason', reason, 'jobs', jobs)
         from (select coalesce(reason, 'queued') as reason, sum(jobs)::bigint as jobs from reporting.waiting group by 1) w
         order by jobs desc, reason",
    )
    .await
}

/// Of so many jobs, those received last, [`uncalled`] tells. They lie side by side, and no index has what has ended.
pub const LAST_JOBS: u32 = 50_000;
/// Those of one campaign lie apart.
pub const LAST_JOBS_OF_ONE: u32 = 10_000;

/// Why jobs are over that were not called, by state and reason, the most first: of the last of one campaign, or of all.
///
/// # Errors
/// The database's.
pub async fn uncalled(pool: &PgPool, campaign: Option<&CampaignId>) -> Answer<Vec<Value>> {
    // As in `pages::jobs`: each by the index that has them in order.
    let (last, limit) = match campaign {
        Some(_) => (
            "(campaign_id, job_no) < ($1, $2) and campaign_id >= $1 order by campaign_id desc, job_no desc",
            LAST_JOBS_OF_ONE,
        ),
        None => ("$1::text is null and job_no < $2 order by job_no desc", LAST_JOBS),
    };
    let query = format!(
        "with last as materialized (select state, reason, placed from outdial.jobs where {last} limit {limit})
         select jsonb_build_object('state', state, 'reason', reason, 'jobs', count(*)) from last
         where state in ('refused', 'expired', 'canceled') and placed = 0 group by state, reason order by count(*) desc, state, reason"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(campaign.map(CampaignId::as_str))
        .bind(i64::MAX)
        .fetch_all(pool)
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Accounts that a worker or a command has seen, with what the ledger knows of them.
///
/// # Errors
/// The database's.
pub async fn accounts(pool: &PgPool) -> Answer<Vec<Value>> {
    rows(
        pool,
        "select jsonb_build_object('account', a.name, 'state', a.state, 'reason', a.state_reason, 'since', a.state_since,
             'backoff_until', case when a.backoff_until > now() then a.backoff_until end,
             'breaker_until', case when a.unknown_in_a_row >= 5 then a.breaker_until end,
             'calls_per_second', l.per_second, 'concurrent_calls', l.concurrent, 'in_use', coalesce(l.in_use, 0),
             'agents', coalesce((select jsonb_agg(g.model_id order by g.model_id) from outdial.agents g where g.account = a.name), '[]'))
         from outdial.accounts a left join outdial.limits l on l.kind = 1 and l.key = a.name
         order by a.name",
    )
    .await
}

/// Rises with each change of a state, a pool or the rules, whoever makes it.
///
/// # Errors
/// The database's.
pub async fn epoch(pool: &PgPool) -> Answer<i64> {
    sqlx::query_scalar("select epoch from outdial.control").fetch_one(pool).await
}

/// Whether everything is stopped, which rules are in use, how many workers live, and how many attempts nobody knows of.
///
/// # Errors
/// The database's.
pub async fn standing(pool: &PgPool) -> Answer<Value> {
    sqlx::query_scalar(
        "select jsonb_build_object('kill_switch', c.kill_switch, 'routing_version', c.routing_version,
             'epoch', c.epoch,
             'workers', (select count(*) from outdial.workers where ended_at is null and lease_until > clock_timestamp()),
             'unknown', (select count(*) from outdial.live where state = 'unknown'),
             'review', (select count(*) from outdial.live where state = 'review'),
             'now', clock_timestamp())
         from outdial.control c",
    )
    .fetch_one(pool)
    .await
}

async fn rows(pool: &PgPool, query: &'static str) -> Answer<Vec<Value>> {
    sqlx::query(query).fetch_all(pool).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Every job: for a database as small as a demo's.
///
/// # Errors
/// The database's.
pub async fn jobs(pool: &PgPool) -> Answer<Vec<Value>> {
    rows(pool, "select to_jsonb(v) from reporting.jobs v order by job_id").await
}

/// How attempts stand, and how many.
///
/// # Errors
/// The database's.
pub async fn outcomes(pool: &PgPool) -> Answer<Vec<Value>> {
    rows(
        pool,
        "select jsonb_build_object('state', state, 'disposition', disposition, 'reason', reason, 'calls', count(*))
         from reporting.calls group by state, disposition, reason order by count(*) desc",
    )
    .await
}

/// Everything that is known of a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobStory {
    /// As `reporting.jobs` has it.
    pub job: Value,
    /// What holds it while it waits; null when it doesn't.
    pub waits: Value,
    /// As `reporting.calls` has them, oldest first.
    pub attempts: Vec<Value>,
    /// Events that the broker hasn't confirmed yet, as far as they are among the last ten thousand; confirmed ones are the broker's.
    pub unpublished_events: Vec<Value>,
}

/// # Errors
/// The database's.
pub async fn job_story(pool: &PgPool, job: &JobId) -> Answer<Option<JobStory>> {
    let id = job.as_str();
    let found = sqlx::query(
        "select to_jsonb(v) from reporting.jobs v where job_id = $1 order by received_at desc limit 1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let waits = sqlx::query(
        "select jsonb_build_object(
             'not_before', j.not_before, 'expires_at', j.expires_at, 'ready_at', w.ready_at, 'slot', r.slot,
             'slot_number', r.number, 'class_reason', k.reason, 'class_due_at', k.due_at, 'class_decided_at', k.decided_at,
             'ahead', case when w.job_no is not null and w.ready_at is null then
                 (select count(*) from (select 1 from outdial.work o where o.class_no = w.class_no and o.ready_at is null
                     and (o.rank, o.job_no) < (w.rank, w.job_no) limit 100000) q) end)
         from outdial.jobs j
         left join outdial.work w using (job_no) left join outdial.reservations r using (job_no)
         left join outdial.classes k on k.class_no = coalesce(w.class_no, r.class_no)
         where j.job_id = $1 and j.state = 'waiting'",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    let attempts =
        all(pool, "select to_jsonb(v) from reporting.calls v where job_id = $1 order by attempt_no", id)
            .await?;
    let unpublished_events = all(
        pool,
        "select jsonb_build_object('time', time, 'type', type, 'sequence', sequence, 'data', data)
         from (select * from outdial.outbox order by id desc limit 10000) recent
         where subject = $1 and type not like 'campaign.%' and type not like 'account.%'
           and type not like 'number.%' order by sequence limit 100",
        id,
    )
    .await?;
    let waits = waits.map_or(Ok(Value::Null), |row| row.try_get(0))?;
    Ok(Some(JobStory { job: found.try_get(0)?, waits, attempts, unpublished_events }))
}

async fn all(pool: &PgPool, query: &'static str, id: &str) -> Answer<Vec<Value>> {
    sqlx::query(query).bind(id).fetch_all(pool).await?.iter().map(|row| row.try_get(0)).collect()
}

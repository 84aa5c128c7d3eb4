//! Lists that may be long, a page at a time, by a key: what changes meanwhile shifts no page. Rows are those of the
//! `reporting` views, as JSON.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::core::ids::{CampaignId, JobId, ModelId};
use crate::core::phone::E164;
use crate::core::states::Reason;

type Answer<T> = Result<T, sqlx::Error>;

/// Where a filter has no index, so many records are looked at for one page; it may come out short, or empty, and still
/// have a next one.
pub const SCANNED_MAX: i64 = 10_000;

/// Some rows, and where the next page begins.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Page<K> {
    pub rows: Vec<Value>,
    /// None: this was the last page.
    pub next: Option<K>,
}

impl<K> Page<K> {
    /// Of one row more than was asked for.
    fn cut(mut rows: Vec<(K, Value)>, limit: u32) -> Self {
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let (mut keys, rows): (Vec<K>, Vec<Value>) = rows.into_iter().unzip();
        Self { rows, next: keys.pop().filter(|_| more) }
    }
}

/// A page asked for: what comes after the key, so many rows at most.
#[derive(Debug, Clone)]
pub struct From<K> {
    pub after: Option<K>,
    pub limit: u32,
    /// [`SCANNED_MAX`]
    pub scanned_max: i64,
}

/// Which jobs; nothing given: all.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobsWanted<'a> {
    pub campaign: Option<&'a CampaignId>,
    pub state: Option<&'a str>,
}

/// Jobs, the last received first.
///
/// # Errors
/// The database's.
pub async fn jobs(pool: &PgPool, wanted: JobsWanted<'_>, from: From<i64>) -> Answer<Page<i64>> {
    // Two statements, so that each has the plan of its index. An equality would let the planner walk all jobs by their number, in
    // search of those of one campaign.
    let scanned = match wanted.campaign {
        Some(_) => {
            "(campaign_id, job_no) < ($1, $2) and campaign_id >= $1 order by campaign_id desc, job_no desc"
        }
        None => "$1::text is null and job_no < $2 order by job_no desc",
    };
    let query = format!(
        "with scanned as materialized (select job_no, job_id, state from outdial.jobs where {scanned} limit $3),
         found as (
             select job_no, job_id from scanned where $4::text is null or state = $4 order by job_no desc limit $5)
         select (select coalesce(jsonb_agg(to_jsonb(v) order by f.job_no desc), '[]')
                 from found f cross join lateral (select * from reporting.jobs j where j.job_id = f.job_id limit 1) v),
                (select min(job_no) from found), (select count(*) from scanned), (select min(job_no) from scanned)"
    );
    let scan = if wanted.state.is_some() { from.scanned_max } else { i64::from(from.limit) };
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(wanted.campaign.map(CampaignId::as_str))
        .bind(from.after.unwrap_or(i64::MAX))
        .bind(scan)
        .bind(wanted.state)
        .bind(i64::from(from.limit))
        .fetch_one(pool)
        .await?;
    let Json(rows) = row.try_get::<Json<Vec<Value>>, _>(0)?;
    let next = next_of(rows.len(), from.limit, row.try_get(1)?, [(row.try_get(2)?, scan, row.try_get(3)?)]);
    Ok(Page { rows, next })
}

/// Where the next page begins: behind the last that was found, or, where fewer were found than asked for, behind the last that was
/// looked at, of whatever was looked at as far as allowed.
fn next_of<K, const N: usize>(
    found: usize,
    limit: u32,
    last_found: Option<K>,
    looked: [(i64, i64, Option<K>); N],
) -> Option<K> {
    if found == limit as usize {
        return last_found;
    }
    looked.into_iter().find(|(count, most, _)| count == most).and_then(|(_, _, last)| last)
}

/// Which attempts; nothing given: all.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallsWanted<'a> {
    pub job: Option<&'a JobId>,
    pub campaign: Option<&'a CampaignId>,
    pub state: Option<&'a str>,
    pub disposition: Option<&'a str>,
    pub number: Option<&'a E164>,
}

/// Attempts, those of the last received jobs first.
///
/// # Errors
/// The database's.
pub async fn calls(
    pool: &PgPool,
    wanted: CallsWanted<'_>,
    from: From<(i64, i16)>,
) -> Answer<Page<(i64, i16)>> {
    // Attempts have no index of campaigns: they are found by their jobs, of which many may have none.
    let (jobs, of) = match (wanted.job, wanted.campaign) {
        (Some(_), _) => (
            "select job_no from outdial.jobs where job_id = $1 and ($2::text is null or campaign_id = $2) and $10 > 0",
            "jobs join outdial.attempts using (job_no)",
        ),
        (None, Some(_)) => (
            "select job_no from outdial.jobs where (campaign_id, job_no) <= ($2, $3) and campaign_id >= $2 and $1::text is null
             order by campaign_id desc, job_no desc limit $10",
            "jobs join outdial.attempts using (job_no)",
        ),
        (None, None) => (
            "select null::bigint as job_no where $1::text is not null or $2::text is not null or $10 < 0",
            "outdial.attempts",
        ),
    };
    let query = format!(
        "with jobs as materialized ({jobs}),
         scanned as materialized (
             select job_no, attempt_no, attempt_id, state, disposition, from_phone_number from {of}
             where (job_no, attempt_no) < ($3, $4) order by job_no desc, attempt_no desc limit $5),
         found as (
             select job_no, attempt_no, attempt_id from scanned
             where ($6::text is null or state = $6) and ($7::text is null or disposition = $7)
               and ($8::text is null or from_phone_number = $8)
             order by job_no desc, attempt_no desc limit $9),
         last_found as (select job_no, attempt_no from found order by job_no, attempt_no limit 1),
         last_scanned as (select job_no, attempt_no from scanned order by job_no, attempt_no limit 1)
         select (select coalesce(jsonb_agg(to_jsonb(v) order by f.job_no desc, f.attempt_no desc), '[]')
                 from found f cross join lateral (select * from reporting.calls c where c.attempt_id = f.attempt_id limit 1) v),
                f.job_no, f.attempt_no, (select count(*) from scanned), s.job_no, s.attempt_no,
                (select count(*) from jobs), (select min(job_no) from jobs)
         from (select 1) one left join last_found f on true left join last_scanned s on true"
    );
    let filtered = wanted.state.is_some() || wanted.disposition.is_some() || wanted.number.is_some();
    let scan = if filtered { from.scanned_max } else { i64::from(from.limit) };
    let (after_job, after_attempt) = from.after.unwrap_or((i64::MAX, i16::MAX));
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(wanted.job.map(JobId::as_str))
        .bind(wanted.campaign.map(CampaignId::as_str))
        .bind(after_job)
        .bind(after_attempt)
        .bind(scan)
        .bind(wanted.state)
        .bind(wanted.disposition)
        .bind(wanted.number.map(E164::as_str))
        .bind(i64::from(from.limit))
        .bind(from.scanned_max)
        .fetch_one(pool)
        .await?;
    let key = |at: usize| -> Answer<Option<(i64, i16)>> {
        let (job, attempt): (Option<i64>, Option<i16>) = (row.try_get(at)?, row.try_get(at + 1)?);
        Ok(job.zip(attempt))
    };
    let Json(rows) = row.try_get::<Json<Vec<Value>>, _>(0)?;
    // Of a job that was looked at all attempts were.
    let last_job: Option<i64> = row.try_get(7)?;
    let looked =
        [(row.try_get(3)?, scan, key(4)?), (row.try_get(6)?, from.scanned_max, last_job.map(|job| (job, 0)))];
    let next = next_of(rows.len(), from.limit, key(1)?, looked);
    Ok(Page { rows, next })
}

/// Campaigns in the order of their ids.
///
/// # Errors
/// The database's.
pub async fn campaigns(pool: &PgPool, state: Option<&str>, from: From<CampaignId>) -> Answer<Page<String>> {
    let rows = sqlx::query(
        "select campaign_id, to_jsonb(v) from reporting.campaigns v
         where campaign_id > $1 and ($2::text is null or state = $2) order by campaign_id limit $3",
    )
    .bind(from.after.as_ref().map_or("", CampaignId::as_str))
    .bind(state)
    .bind(i64::from(from.limit) + 1)
    .fetch_all(pool)
    .await?;
    keyed_by_text(&rows, from.limit)
}

/// Numbers in their own order; of one agent, or all.
///
/// # Errors
/// The database's.
pub async fn numbers(
    pool: &PgPool,
    state: Option<&str>,
    model: Option<&ModelId>,
    from: From<E164>,
) -> Answer<Page<String>> {
    let rows = sqlx::query(
        "select number, to_jsonb(v) from reporting.numbers v
         where number > $1 and ($2::text is null or state = $2) and ($4::text is null or $4 = any(agents)) order by number limit $3",
    )
    .bind(from.after.as_ref().map_or("", E164::as_str))
    .bind(state)
    .bind(i64::from(from.limit) + 1)
    .bind(model.map(ModelId::as_str))
    .fetch_all(pool)
    .await?;
    keyed_by_text(&rows, from.limit)
}

fn keyed_by_text(rows: &[PgRow], limit: u32) -> Answer<Page<String>> {
    let rows: Answer<Vec<_>> = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
    Ok(Page::cut(rows?, limit))
}

/// Why jobs wait, by campaign and reason.
///
/// # Errors
/// The database's.
pub async fn waiting(
    pool: &PgPool,
    campaign: Option<&CampaignId>,
    from: From<(CampaignId, Option<Reason>)>,
) -> Answer<Page<(String, Option<Reason>)>> {
    let (after_campaign, after_reason) = match &from.after {
        Some((campaign, reason)) => (campaign.as_str(), reason.map_or("", Reason::as_str)),
        None => ("", ""),
    };
    let rows = sqlx::query(
        "select campaign_id, coalesce(reason, ''), to_jsonb(v) from reporting.waiting v
         where (campaign_id, coalesce(reason, '')) > ($1, $2) and ($3::text is null or campaign_id = $3)
         order by campaign_id, coalesce(reason, '') limit $4",
    )
    .bind(after_campaign)
    .bind(after_reason)
    .bind(campaign.map(CampaignId::as_str))
    .bind(i64::from(from.limit) + 1)
    .fetch_all(pool)
    .await?;
    let row = |row: &PgRow| {
        let reason: String = row.try_get(1)?;
        Ok(((row.try_get(0)?, Reason::parse(&reason)), row.try_get(2)?))
    };
    let rows: Answer<Vec<_>> = rows.iter().map(row).collect();
    Ok(Page::cut(rows?, from.limit))
}

/// Attempts in review, oldest first, with the evidence there is.
///
/// # Errors
/// The database's.
pub async fn review(
    pool: &PgPool,
    campaign: Option<&CampaignId>,
    from: From<(DateTime<Utc>, Uuid)>,
) -> Answer<Page<(DateTime<Utc>, Uuid)>> {
    let limit = from.limit;
    let (after_slot, after_id) = from.after.unwrap_or((DateTime::UNIX_EPOCH, Uuid::nil()));
    let rows = sqlx::query(
        "select l.slot, l.attempt_id,
             jsonb_build_object('attempt_id', l.attempt_id, 'job_id', j.job_id, 'campaign_id', l.campaign_id, 'attempt_no', l.attempt_no,
             'account', l.account, 'model_id', l.model_id, 'phone', reporting.shown(a.phone, (select reporting.sees_phones())),
             'from_phone_number', a.from_phone_number, 'submitted_at', a.submitted_at, 'http_status', a.http_status,
             'provider_error', a.provider_error, 'looks', l.looks, 'looked_at', l.looked_at,
             'not_found_from', l.clear_since, 'not_found_until', l.clear_until, 'in_review_since', l.since)
         from outdial.live l join outdial.attempts a using (job_no, attempt_no) join outdial.jobs j using (job_no)
         where l.state = 'review' and ($1::text is null or l.campaign_id = $1) and (l.slot, l.attempt_id) > ($2, $3)
         order by l.slot, l.attempt_id limit $4",
    )
    .bind(campaign.map(CampaignId::as_str))
    .bind(after_slot)
    .bind(after_id)
    .bind(i64::from(limit) + 1)
    .fetch_all(pool)
    .await?;
    let rows: Answer<Vec<_>> =
        rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect();
    Ok(Page::cut(rows?, limit))
}

/// Versions of the routing rules, newest first.
///
/// # Errors
/// The database's.
pub async fn versions(pool: &PgPool, from: From<i64>) -> Answer<Page<i64>> {
    let limit = from.limit;
    let rows = sqlx::query(
        "select v.version, jsonb_build_object('version', v.version, 'applied_at', v.applied_at, 'applied_by', v.applied_by,
                    'digest', v.digest, 'in_use', v.version = c.routing_version)
         from outdial.routing_versions v, outdial.control c where v.version < $1 order by v.version desc limit $2",
    )
    .bind(from.after.unwrap_or(i64::MAX))
    .bind(i64::from(limit) + 1)
    .fetch_all(pool)
    .await?;
    let rows: Answer<Vec<_>> = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
    Ok(Page::cut(rows?, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_one_more_was_found() {
        let rows = |n: i64| (0..n).map(|n| (n, Value::from(n))).collect::<Vec<_>>();
        let page = Page::cut(rows(3), 2);
        assert_eq!(page, Page { rows: vec![Value::from(0), Value::from(1)], next: Some(1) });
        assert_eq!(Page::cut(rows(2), 2), Page { rows: vec![Value::from(0), Value::from(1)], next: None });
        assert_eq!(Page::<i64>::cut(Vec::new(), 2), Page { rows: vec![], next: None });
    }

    #[test]
    fn a_page_that_came_out_short_goes_on_behind_what_was_looked_at() {
        assert_eq!(next_of(2, 2, Some(5), [(10, 10, Some(1))]), Some(5));
        assert_eq!(next_of(1, 2, Some(5), [(10, 10, Some(1))]), Some(1));
        assert_eq!(next_of(0, 2, None, [(10, 10, Some(1))]), Some(1));
        assert_eq!(next_of(1, 2, Some(5), [(9, 10, Some(1))]), None);
        assert_eq!(next_of(1, 2, Some(5), [(9, 10, Some(3)), (7, 7, Some(1))]), Some(1));
    }
}

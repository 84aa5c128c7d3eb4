//! Routing versions: putting a document into use, and reading back what was.
//!
//! `apply` is one transaction under the stop lock: once it has committed, nothing is authorised under the old rules.
//! Locks are taken in the order that migration 0001 writes down.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, Row};

use crate::core::ids::{AccountName, CampaignId, RoutingVersion};
use crate::core::phone::{E164, place_of};
use crate::core::rules::{Compiled, Limits, OnMismatch, Retry, Settings};

type Answer<T> = Result<T, sqlx::Error>;

/// Kinds of limited things, as migration 0001 numbers them.
const CAMPAIGN: i16 = 2;
const NUMBER: i16 = 3;

/// What `apply` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    New(RoutingVersion),
    /// The document in use is this one, byte for byte.
    Unchanged(RoutingVersion),
}

/// One version, as `routing versions` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    pub version: RoutingVersion,
    pub applied_at: DateTime<Utc>,
    pub applied_by: String,
    /// SHA-256 of the document.
    pub digest: String,
    pub in_use: bool,
}

/// Puts a document into use as a new version: rules, agents, numbers, campaigns and every limit. What was there
/// before and isn't in it goes back to its defaults; states, counters and the existence of campaigns stay.
///
/// `settings` is what was understood of `source`.
///
/// # Errors
/// The database's; then nothing has changed.
pub async fn apply(pool: &PgPool, source: &str, settings: Settings, by: &str) -> Answer<Applied> {
    let digest = digest_of(source);
    let rules = Compiled::new(settings);
    let mut transaction = pool.begin().await?;
    sqlx::query("select outdial.stop_lock()").execute(&mut *transaction).await?;
    let in_use = sqlx::query(
        "select c.routing_version, v.digest from outdial.control c
         left join outdial.routing_versions v on v.version = c.routing_version",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if in_use.get::<Option<String>, _>(1).as_ref() == Some(&digest) {
        return Ok(Applied::Unchanged(RoutingVersion(in_use.get(0))));
    }
    write_limits(&mut transaction, &rules).await?;
    let renamed = write_campaigns(&mut transaction, &rules).await?;
    write_agents(&mut transaction, &rules).await?;
    write_numbers(&mut transaction, &rules).await?;
    sqlx::query("select outdial.keep_recipients($1)")
        .bind(rules.keeps_recipients())
        .execute(&mut *transaction)
        .await?;
    if rules.keeps_recipients() && !renamed.is_empty() {
        sqlx::query("select outdial.rename_callers($1)").bind(renamed).execute(&mut *transaction).await?;
    }
    let version = RoutingVersion(in_use.get::<i64, _>(0) + 1);
    sqlx::query(
        "insert into outdial.routing_versions (version, applied_by, digest, source, settings)
         values ($1, $2, $3, $4, $5)",
    )
    .bind(version.0)
    .bind(by)
    .bind(digest)
    .bind(source)
    .bind(Json(rules.settings()))
    .execute(&mut *transaction)
    .await?;
    let on_mismatch = rules.settings().defaults.caller_id_mismatch;
    sqlx::query("update outdial.control set routing_version = $1, quarantines_mismatched = $2")
        .bind(version.0)
        .bind(on_mismatch == OnMismatch::Quarantine)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("select outdial.raise_epoch()").execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Applied::New(version))
}

#[derive(Debug, Serialize)]
struct LimitsRow {
    kind: i16,
    key: String,
    #[serde(flatten)]
    limits: Limits,
}

/// Merged limits of every number and campaign, of those that the document doesn't mention too.
async fn write_limits(on: &mut PgConnection, rules: &Compiled) -> Answer<()> {
    let rows = sqlx::query(
        "select thing_no, kind, key, per_second, per_minute, per_hour, per_day, concurrent
         from outdial.limits where kind in (2, 3) order by thing_no for update",
    )
    .fetch_all(&mut *on)
    .await?;
    let mut wanted: HashMap<(i16, String), Limits> = HashMap::new();
    for entry in &rules.settings().numbers {
        wanted.insert((NUMBER, entry.number.as_str().to_owned()), rules.number_limits(&entry.number));
    }
    for campaign in &rules.settings().campaigns {
        wanted.insert((CAMPAIGN, campaign.id.to_string()), campaign.limits);
    }
    let (mut changed, mut to_fill) = (Vec::new(), Vec::new());
    for row in &rows {
        let (kind, key): (i16, String) = (row.get(1), row.get(2));
        let limit = |column| row.get::<Option<i32>, _>(column).and_then(|n| u32::try_from(n).ok());
        let was = Limits {
            per_second: limit(3),
            per_minute: limit(4),
            per_hour: limit(5),
            per_day: limit(6),
            concurrent: limit(7),
        };
        let named = wanted.remove(&(kind, key.clone()));
        let limits = named.unwrap_or_else(|| unnamed_limits(rules, kind, &key));
        if limits != was {
            if log_is_short(kind, &was, &limits) {
                to_fill.push(row.get::<i32, _>(0));
            }
            changed.push(LimitsRow { kind, key, limits });
        }
    }
    changed.extend(wanted.into_iter().map(|((kind, key), limits)| LimitsRow { kind, key, limits }));
    changed.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
    sqlx::query(
        "insert into outdial.limits (kind, key, per_second, per_minute, per_hour, per_day, concurrent)
         select kind, key, per_second, per_minute, per_hour, per_day, concurrent
         from jsonb_to_recordset($1) r(kind smallint, key text, per_second int, per_minute int, per_hour int,
                                       per_day int, concurrent int)
         on conflict (kind, key) do update
         set per_second = excluded.per_second, per_minute = excluded.per_minute, per_hour = excluded.per_hour,
             per_day = excluded.per_day, concurrent = excluded.concurrent",
    )
    .bind(Json(&changed))
    .execute(&mut *on)
    .await?;
    fill_logs(on, &to_fill).await
}

/// Of a thing that the document doesn't mention.
fn unnamed_limits(rules: &Compiled, kind: i16, key: &str) -> Limits {
    match E164::from_canonical(key) {
        Some(number) if kind == NUMBER => rules.number_limits(&number),
        _ => Limits::UNLIMITED,
    }
}

/// Whether the thing's log doesn't reach back over its new windows: nothing is logged of what has no window, and a
/// campaign's log is pruned past its longest.
fn log_is_short(kind: i16, was: &Limits, now: &Limits) -> bool {
    let longest = |limits: &Limits| limits.windows().last().map_or(0, |(_, seconds)| seconds);
    match kind {
        NUMBER => longest(was) == 0 && longest(now) > 0,
        _ => longest(was) < longest(now),
    }
}

/// Rebuilds logs from the records of the last day, in one reading of them. Whatever became of an attempt, it was sent or may
/// have been: what surely wasn't has no record.
async fn fill_logs(on: &mut PgConnection, things: &[i32]) -> Answer<()> {
    if things.is_empty() {
        return Ok(());
    }
    sqlx::query("delete from outdial.grants where thing_no = any ($1)")
        .bind(things)
        .execute(&mut *on)
        .await?;
    sqlx::query(
        "with thing as materialized (
            select thing_no, kind, key from outdial.limits where thing_no = any ($1)
         ), sent as (
            select campaign_id, from_phone_number as number, slot from outdial.attempts
            where submitted_at > clock_timestamp() - interval '25 hours'
            union all
            select campaign_id, number, slot from outdial.reservations
         ), used as (
            select t.thing_no, s.slot from sent s join thing t on t.kind = 3 and t.key = s.number
            union all
            select t.thing_no, s.slot from sent s join thing t on t.kind = 2 and t.key = s.campaign_id
         )
         insert into outdial.grants (thing_no, ordinal, slot)
         select thing_no, row_number() over (partition by thing_no order by slot), slot from used",
    )
    .bind(things)
    .execute(&mut *on)
    .await?;
    sqlx::query(
        "update outdial.limits l set last_ordinal = coalesce(g.last_ordinal, 0), last_slot = g.last_slot
         from unnest($1) t(thing_no) left join (
            select thing_no, max(ordinal) as last_ordinal, max(slot) as last_slot
            from outdial.grants where thing_no = any ($1) group by thing_no) g using (thing_no)
         where l.thing_no = t.thing_no",
    )
    .bind(things)
    .execute(on)
    .await
    .map(drop)
}

/// Campaigns of the document exist from now on; what is shown of the others goes back to nothing. Gives those that call in
/// another brand's name than before.
async fn write_campaigns(on: &mut PgConnection, rules: &Compiled) -> Answer<Vec<String>> {
    #[derive(Serialize)]
    struct Row<'a> {
        campaign_id: &'a CampaignId,
        brand: Option<&'a str>,
        model_id: Option<&'a str>,
        retry: Option<&'a Retry>,
    }
    let campaigns = &rules.settings().campaigns;
    let mut rows: Vec<Row> = campaigns
        .iter()
        .map(|c| Row {
            campaign_id: &c.id,
            brand: c.brand.as_ref().map(|b| b.as_str()),
            model_id: c.model_id.as_ref().map(|m| m.as_str()),
            retry: c.retry.as_ref(),
        })
        .collect();
    rows.sort_by_key(|row| row.campaign_id);
    let renamed = sqlx::query_scalar(
        "select c.campaign_id from outdial.campaigns c
         left join jsonb_to_recordset($1) n(campaign_id text, brand text) using (campaign_id)
         where c.brand is distinct from n.brand order by c.campaign_id",
    )
    .bind(Json(&rows))
    .fetch_all(&mut *on)
    .await?;
    sqlx::query(
        "with named as (
            select * from jsonb_to_recordset($1) r(campaign_id text, brand text, model_id text, retry jsonb)
         ), others as (
            update outdial.campaigns c set brand = null, model_id = null, retry = null
            where (brand is not null or model_id is not null or retry is not null)
              and not exists (select 1 from named n where n.campaign_id = c.campaign_id)
         )
         insert into outdial.campaigns (campaign_id, brand, model_id, retry)
         select campaign_id, brand, model_id, retry from named order by campaign_id
         on conflict (campaign_id) do update set brand = excluded.brand, model_id = excluded.model_id, retry = excluded.retry
         where (campaigns.brand, campaigns.model_id, campaigns.retry)
               is distinct from (excluded.brand, excluded.model_id, excluded.retry)",
    )
    .bind(Json(rows))
    .execute(on)
    .await?;
    Ok(renamed)
}

/// Agents of the document, their pools to be read if they are new or moved to another account.
async fn write_agents(on: &mut PgConnection, rules: &Compiled) -> Answer<()> {
    sqlx::query(
        "with named as (
            select * from jsonb_to_recordset($1) r(model_id text, account text, name text)
         ), others as (
            update outdial.agents a set account = $2, name = null, sync_wanted = sync_wanted or account <> $2
            where (account <> $2 or name is not null)
              and not exists (select 1 from named n where n.model_id = a.model_id)
         )
         insert into outdial.agents (model_id, account, name) select model_id, account, name from named order by model_id
         on conflict (model_id) do update
         set account = excluded.account, name = excluded.name,
             sync_wanted = agents.sync_wanted or agents.account <> excluded.account
         where (agents.account, agents.name) is distinct from (excluded.account, excluded.name)",
    )
    .bind(Json(&rules.settings().agents))
    .bind(AccountName::default_account().as_str())
    .execute(on)
    .await
    .map(drop)
}

/// Brand, region and tags of every number known, for those who read.
async fn write_numbers(on: &mut PgConnection, rules: &Compiled) -> Answer<()> {
    #[derive(Serialize)]
    struct Row {
        number: String,
        brand: Option<String>,
        region: Option<String>,
        tags: Vec<String>,
    }
    let known: Vec<String> =
        sqlx::query_scalar("select number from outdial.numbers order by number for update")
            .fetch_all(&mut *on)
            .await?;
    let mut numbers: Vec<E164> = known.iter().filter_map(|text| E164::from_canonical(text)).collect();
    numbers.extend(rules.settings().numbers.iter().map(|entry| entry.number.clone()));
    numbers.sort();
    numbers.dedup();
    let rows: Vec<Row> = numbers
        .iter()
        .map(|number| {
            let entry = rules.number(number);
            let region = entry.and_then(|e| e.region).or_else(|| place_of(number).region);
            Row {
                number: number.as_str().to_owned(),
                brand: entry.and_then(|e| e.brand.as_ref()).map(|brand| brand.to_string()),
                region: region.map(|region| region.to_string()),
                tags: entry.map(|e| e.tags.clone()).unwrap_or_default(),
            }
        })
        .collect();
    sqlx::query(
        "insert into outdial.numbers (number, brand, region, tags)
         select number, brand, region, tags
         from jsonb_to_recordset($1) r(number text, brand text, region text, tags text[]) order by number
         on conflict (number) do update set brand = excluded.brand, region = excluded.region, tags = excluded.tags
         where (numbers.brand, numbers.region, numbers.tags)
               is distinct from (excluded.brand, excluded.region, excluded.tags)",
    )
    .bind(Json(rows))
    .execute(on)
    .await
    .map(drop)
}

/// The document of a version; `None`: of the one in use. No row: there is no such version, or none yet.
///
/// # Errors
/// The database's.
pub async fn source(
    pool: &PgPool,
    version: Option<RoutingVersion>,
) -> Answer<Option<(RoutingVersion, String)>> {
    let row = sqlx::query(
        "select version, source from outdial.routing_versions
         where version = coalesce($1, (select routing_version from outdial.control))",
    )
    .bind(version.map(|version| version.0))
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| (RoutingVersion(row.get(0)), row.get(1))))
}

/// The latest versions, newest first.
///
/// # Errors
/// The database's.
pub async fn versions(pool: &PgPool, limit: u32) -> Answer<Vec<Version>> {
    let rows = sqlx::query(
        "select v.version, v.applied_at, v.applied_by, v.digest, v.version = c.routing_version
         from outdial.routing_versions v, outdial.control c order by v.version desc limit $1",
    )
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    Ok(rows
        .iter()
        .map(|row| Version {
            version: RoutingVersion(row.get(0)),
            applied_at: row.get(1),
            applied_by: row.get(2),
            digest: row.get(3),
            in_use: row.get(4),
        })
        .collect())
}

fn digest_of(source: &str) -> String {
    hex::encode(Sha256::digest(source.as_bytes()))
}

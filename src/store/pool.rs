//! Agents and their pools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{PgPool, Row};

use super::ledger::{interval, ledger_error, unreadable};
use crate::core::events::EventTypes;
use crate::core::ids::{AccountName, ModelId, RoutingVersion};
use crate::core::phone::E164;
use crate::core::pool::{Change, Handles, Known, Listed};
use crate::core::rules::{Compiled, Settings};
use crate::engine::pool::{Begun, PoolLedger, UNCHANGED, Written};
use crate::engine::ports::LedgerError;

/// Asks for an agent's pool to be read soon; makes the agent's row where there is none.
pub async fn want_agent(db: &PgPool, model: &ModelId, account: &AccountName) -> Result<(), LedgerError> {
    sqlx::query("select outdial.want_agent($1, $2)")
        .bind(model.as_str())
        .bind(account.as_str())
        .execute(db)
        .await
        .map(drop)
        .map_err(ledger_error)
}

/// Holds an agent that the provider doesn't know, until a reading of its pool succeeds.
pub async fn agent_unavailable(
    db: &PgPool,
    account: &AccountName,
    model: &ModelId,
    why: &str,
) -> Result<(), LedgerError> {
    sqlx::query("select outdial.agent_unavailable($1, $2, $3)")
        .bind(model.as_str())
        .bind(account.as_str())
        .bind(why)
        .execute(db)
        .await
        .map(drop)
        .map_err(ledger_error)
}

/// Where pools are written down: that needs no worker.
#[derive(Debug, Clone)]
pub struct Pools {
    pub(super) db: PgPool,
    /// Which events are written; `None`: all.
    pub(super) events: Option<Arc<[&'static str]>>,
}

impl Pools {
    pub fn new(db: PgPool, events: EventTypes) -> Self {
        Self { db, events: events.names().map(Into::into) }
    }
}

impl PoolLedger for Pools {
    async fn expect(&self, account: &AccountName, agents: &[ModelId]) -> Result<(), LedgerError> {
        let agents: Vec<&str> = agents.iter().map(ModelId::as_str).collect();
        sqlx::query(
            "insert into outdial.agents as a (model_id, account) select m, $2 from unnest($1::text[]) m order by m
             on conflict (model_id) do update set account = excluded.account, sync_wanted = true
             where a.account <> excluded.account",
        )
        .bind(agents)
        .bind(account.as_str())
        .execute(&self.db)
        .await
        .map(drop)
        .map_err(ledger_error)
    }

    async fn due(&self, account: &AccountName, refresh: Duration) -> Result<Vec<ModelId>, LedgerError> {
        let models: Vec<String> = sqlx::query_scalar(
            "select model_id from outdial.agents
             where account = $1
               and (sync_wanted or pool_read_at is null or pool_read_at < clock_timestamp() - $2
                    or (state = 'unavailable' and pool_tried_at < clock_timestamp() - interval '30 seconds'))
               and not (state = 'unavailable' and pool_tried_at > clock_timestamp() - interval '30 seconds' and not sync_wanted)
             order by pool_tried_at nulls first limit 100",
        )
        .bind(account.as_str())
        .bind(interval(refresh))
        .fetch_all(&self.db)
        .await
        .map_err(ledger_error)?;
        models.iter().map(|model| ModelId::parse(model).map_err(|_| unreadable("an agent's id"))).collect()
    }

    async fn begin_reading(&self, account: &AccountName, model: &ModelId) -> Result<Begun, LedgerError> {
        let row = sqlx::query(
            "insert into outdial.agents as a (model_id, account, sync_wanted) values ($1, $2, false)
             on conflict (model_id) do update set account = excluded.account, sync_wanted = false
             returning pool_tried_at, pool_shrunk",
        )
        .bind(model.as_str())
        .bind(account.as_str())
        .fetch_one(&self.db)
        .await
        .map_err(ledger_error)?;
        let doubted: Option<Json<Vec<String>>> = row.get(1);
        let doubted = doubted.map(|Json(numbers)| numbers).unwrap_or_default();
        // Read after the token: what somebody writes meanwhile makes the reading overtaken, never overlooked.
        let numbers =
            sqlx::query("select number, slug, sid from outdial.pool where model_id = $1 and attached")
                .bind(model.as_str())
                .fetch_all(&self.db)
                .await
                .map_err(ledger_error)?;
        let mut attached = BTreeMap::new();
        for row in numbers {
            let number = E164::from_canonical(row.get(0)).ok_or_else(|| unreadable("a number"))?;
            attached.insert(number, Handles { slug: row.get(1), sid: row.get(2) });
        }
        let doubted = doubted.iter().filter_map(|number| E164::from_canonical(number)).collect();
        Ok(Begun { known: Known { attached, doubted }, seen: row.get(0) })
    }

    async fn adopt(
        &self,
        model: &ModelId,
        seen: Option<DateTime<Utc>>,
        version: RoutingVersion,
        change: &Change,
        attach: &[Listed],
    ) -> Result<Written, LedgerError> {
        let row = sqlx::query(
            "select outcome, attached, detached from outdial.adopt_pool($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(model.as_str())
        .bind(seen)
        .bind(version.0)
        .bind(Json(attach))
        .bind(change.detach.iter().map(E164::as_str).collect::<Vec<_>>())
        .bind(change.name.as_deref())
        .bind(change.note.as_deref())
        .bind(self.events.as_deref())
        .fetch_one(&self.db)
        .await
        .map_err(ledger_error)?;
        let count = |at: usize| usize::try_from(row.get::<i32, _>(at)).unwrap_or(0);
        match row.get::<&str, _>(0) {
            "written" => Ok(Written::Yes { attached: count(1), detached: count(2) }),
            "overtaken" => Ok(Written::Overtaken),
            "rules" => Ok(Written::OtherRules),
            _ => Err(unreadable("an answer to a reading")),
        }
    }

    async fn hold_back(
        &self,
        model: &ModelId,
        seen: Option<DateTime<Utc>>,
        doubted: &BTreeSet<E164>,
    ) -> Result<Written, LedgerError> {
        let numbers: Vec<&str> = doubted.iter().map(E164::as_str).collect();
        let why = format!(
            "the last reading would drop {} numbers, more than half of the pool: it counts when a second one agrees",
            numbers.len()
        );
        let done = sqlx::query(
            "update outdial.agents set pool_tried_at = clock_timestamp(), pool_shrunk = $3, pool_error = $4
             where model_id = $1 and pool_tried_at is not distinct from $2",
        )
        .bind(model.as_str())
        .bind(seen)
        .bind(Json(numbers))
        .bind(why)
        .execute(&self.db)
        .await
        .map_err(ledger_error)?;
        Ok(if done.rows_affected() == 1 { UNCHANGED } else { Written::Overtaken })
    }

    async fn keep(&self, model: &ModelId, error: &str) -> Result<(), LedgerError> {
        sqlx::query("update outdial.agents set pool_tried_at = clock_timestamp(), pool_error = $2 where model_id = $1")
            .bind(model.as_str())
            .bind(error)
            .execute(&self.db)
            .await
            .map(drop)
            .map_err(ledger_error)
    }

    async fn is_attached(&self, model: &ModelId, number: &E164) -> Result<bool, LedgerError> {
        sqlx::query_scalar(
            "select exists (select from outdial.pool where model_id = $1 and number = $2 and attached)",
        )
        .bind(model.as_str())
        .bind(number.as_str())
        .fetch_one(&self.db)
        .await
        .map_err(ledger_error)
    }

    async fn unavailable(
        &self,
        account: &AccountName,
        model: &ModelId,
        why: &str,
    ) -> Result<(), LedgerError> {
        agent_unavailable(&self.db, account, model, why).await
    }
}

/// The rules that are applied; version 0 and none before the first time.
pub async fn rules_in_use(db: &PgPool) -> Result<(RoutingVersion, Compiled), LedgerError> {
    let row = sqlx::query(
        "select c.routing_version, v.settings from outdial.control c
         left join outdial.routing_versions v on v.version = c.routing_version",
    )
    .fetch_one(db)
    .await
    .map_err(ledger_error)?;
    let settings: Option<Json<Settings>> = row.try_get(1).map_err(ledger_error)?;
    let rules = settings.map_or_else(Compiled::default, |Json(settings)| Compiled::new(settings));
    Ok((RoutingVersion(row.get(0)), rules))
}

/// An agent's row, for people.
#[derive(Debug, Clone, Serialize)]
pub struct AgentRow {
    pub model_id: String,
    pub account: String,
    pub name: Option<String>,
    pub state: String,
    pub state_reason: Option<String>,
    pub read_at: Option<DateTime<Utc>>,
    pub tried_at: Option<DateTime<Utc>>,
    /// What the last try said, if it wasn't all well.
    pub error: Option<String>,
    pub numbers: Vec<NumberRow>,
}

/// A number that is, or was, attached to an agent.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct NumberRow {
    pub number: String,
    pub slug: Option<String>,
    pub sid: Option<String>,
    pub attached: bool,
    pub state: String,
    pub per_second: Option<i32>,
    pub per_minute: Option<i32>,
    pub per_hour: Option<i32>,
    pub per_day: Option<i32>,
    pub concurrent: Option<i32>,
}

/// An agent and its numbers, attached ones first; `None`: nobody has heard of it.
pub async fn agent(db: &PgPool, model: &ModelId) -> Result<Option<AgentRow>, LedgerError> {
    let row = sqlx::query(
        "select account, name, state, state_reason, pool_read_at, pool_tried_at, pool_error from outdial.agents where model_id = $1",
    )
    .bind(model.as_str())
    .fetch_optional(db)
    .await
    .map_err(ledger_error)?;
    let Some(row) = row else { return Ok(None) };
    let numbers = sqlx::query_as(
        "select p.number, p.slug, p.sid, p.attached, coalesce(n.state, 'active') as state,
                l.per_second, l.per_minute, l.per_hour, l.per_day, l.concurrent
         from outdial.pool p
         left join outdial.numbers n using (number)
         left join outdial.limits l on l.kind = 3 and l.key = p.number
         where p.model_id = $1 order by not p.attached, p.number",
    )
    .bind(model.as_str())
    .fetch_all(db)
    .await
    .map_err(ledger_error)?;
    Ok(Some(AgentRow {
        model_id: model.as_str().to_owned(),
        account: row.get(0),
        name: row.get(1),
        state: row.get(2),
        state_reason: row.get(3),
        read_at: row.get(4),
        tried_at: row.get(5),
        error: row.get(6),
        numbers,
    }))
}

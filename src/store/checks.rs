//! What `outdial check` asks of the database beside its schema. Nothing here writes.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Row};

use crate::core::ids::{AccountName, ModelId};
use crate::core::phone::E164;

/// The newest step of the schema that this program knows.
const NEWEST_STEP: i64 = 9;

/// How the server stands to the promises that rest on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Such as `16.3`.
    pub version: String,
    /// `server_version_num`, such as 160003.
    pub version_num: i32,
    /// It replays another server, and takes no writes.
    pub is_standby: bool,
    /// Settings without which a crash of the machine may tear or forget what was written, as `name = value`.
    pub unsafe_settings: Vec<String>,
    /// `synchronous_commit`, as it holds for this user.
    pub synchronous_commit: String,
    /// `synchronous_standby_names` names some.
    pub names_standbys: bool,
    /// Standbys, and others who are sent the log.
    pub standbys: i64,
}

/// # Errors
/// The database's.
pub async fn server_facts(pool: &PgPool) -> Result<ServerFacts, sqlx::Error> {
    let row = sqlx::query(
        "select current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
                current_setting('fsync'), current_setting('full_page_writes'),
                current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
                (select count(*) from pg_stat_replication)",
    )
    .fetch_one(pool)
    .await?;
    let mut unsafe_settings = Vec::new();
    for (place, name) in [(3, "fsync"), (4, "full_page_writes")] {
        if row.try_get::<String, _>(place)? == "off" {
            unsafe_settings.push(format!("{name} = off"));
        }
    }
    Ok(ServerFacts {
        version: row.try_get(0)?,
        version_num: row.try_get(1)?,
        is_standby: row.try_get(2)?,
        unsafe_settings,
        synchronous_commit: row.try_get(5)?,
        names_standbys: !row.try_get::<String, _>(6)?.trim().is_empty(),
        standbys: row.try_get(7)?,
    })
}

/// Which of the limits that a worker's connection asks for don't hold on this one, as `name = value`: a pooler on the way may
/// drop what is asked for.
///
/// # Errors
/// The database's.
pub async fn limits_lost(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    // As `connect` asks for them, in milliseconds; 0: none.
    sqlx::query_scalar(
        "select name || ' = ' || current_setting(name) from pg_settings
         where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
           and setting::int not between 1 and 2000 order by name",
    )
    .fetch_all(pool)
    .await
}

/// The database's clock.
///
/// # Errors
/// The database's.
pub async fn read_clock(pool: &PgPool) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await
}

/// Steps of the schema that a newer program has applied. The schema must be there.
///
/// # Errors
/// The database's.
pub async fn newer_steps(pool: &PgPool) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "select version from outdial.schema_steps where success and version > $1 order by version",
    )
    .bind(NEWEST_STEP)
    .fetch_all(pool)
    .await
}

/// What holds calls up, or lets too many go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub kill_switch: bool,
    /// Version of the routing in use; 0: none.
    pub routing_version: i64,
    pub paused: Vec<PausedAccount>,
    /// Numbers that some agent may call from.
    pub numbers: i64,
    /// Of those, the ones without any limit.
    pub unlimited: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PausedAccount {
    pub name: String,
    pub reason: Option<String>,
}

/// # Errors
/// The database's.
pub async fn standing(pool: &PgPool) -> Result<Standing, sqlx::Error> {
    let row = sqlx::query(
        "select c.kill_switch, c.routing_version, n.numbers, n.unlimited
         from outdial.control c cross join (
             select count(distinct p.number) as numbers,
                    count(distinct p.number) filter (
                        where coalesce(l.per_second, l.per_minute, l.per_hour, l.per_day, l.concurrent) is null
                    ) as unlimited
             from outdial.pool p left join outdial.limits l on l.kind = 3 and l.key = p.number
             where p.attached
         ) n",
    )
    .fetch_one(pool)
    .await?;
    let paused =
        sqlx::query("select name, state_reason from outdial.accounts where state = 'paused' order by name")
            .fetch_all(pool)
            .await?;
    let paused = paused
        .iter()
        .map(|row| Ok::<_, sqlx::Error>(PausedAccount { name: row.try_get(0)?, reason: row.try_get(1)? }));
    Ok(Standing {
        kill_switch: row.try_get(0)?,
        routing_version: row.try_get(1)?,
        paused: paused.collect::<Result<_, _>>()?,
        numbers: row.try_get(2)?,
        unlimited: row.try_get(3)?,
    })
}

/// An agent and the numbers that it may call from, as the database has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentNumbers {
    pub model: ModelId,
    pub account: AccountName,
    pub attached: BTreeSet<E164>,
}

/// How many agents there are, and those whose pools were looked at last, `most` at the most.
///
/// # Errors
/// The database's.
pub async fn agents(pool: &PgPool, most: u32) -> Result<(i64, Vec<AgentNumbers>), sqlx::Error> {
    let rows = sqlx::query(
        "select a.model_id, a.account,
                array(select p.number from outdial.pool p where p.model_id = a.model_id and p.attached),
                count(*) over ()
         from outdial.agents a
         order by greatest(a.pool_read_at, a.pool_tried_at) desc nulls last, a.model_id limit $1",
    )
    .bind(i64::from(most))
    .fetch_all(pool)
    .await?;
    let mut all = 0;
    let mut agents = Vec::with_capacity(rows.len());
    for row in &rows {
        all = row.try_get(3)?;
        let (model, account): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let numbers: Vec<String> = row.try_get(2)?;
        // What is no id was not written by this program.
        if let (Ok(model), Ok(account)) = (ModelId::parse(&model), AccountName::parse(&account)) {
            let attached = numbers.iter().filter_map(|number| E164::from_canonical(number)).collect();
            agents.push(AgentNumbers { model, account, attached });
        }
    }
    Ok((all, agents))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn the_newest_step_is_the_last_of_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let names =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let newest = names.filter_map(|name| name.split_once('_')?.0.parse::<i64>().ok()).max();
        assert_eq!(newest, Some(NEWEST_STEP), "a step was added: write its number here");
    }
}

//! What decisions are made from: the rules in use, pools, and the states of numbers, campaigns and accounts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;

use super::dispatch::number;
use super::ledger::{Ledger, interval, ledger_error, unreadable};
use crate::core::decide::{AccountState, CampaignState, Pool, PoolState, World};
use crate::core::ids::{AccountName, CampaignId, ModelId, RoutingVersion};
use crate::core::ledger::Control;
use crate::core::phone::E164;
use crate::core::rules::{Compiled, Settings};
use crate::core::states::NumberState;
use crate::engine::ledger::{LedgerError, WorldLedger};

type Answer<T> = Result<T, LedgerError>;

impl WorldLedger for Ledger {
    async fn rules(&self, version: RoutingVersion) -> Answer<Arc<Compiled>> {
        if version.0 == 0 {
            return Ok(Arc::default());
        }
        let settings: sqlx::types::Json<Settings> =
            sqlx::query_scalar("select settings from outdial.routing_versions where version = $1")
                .bind(version.0)
                .fetch_one(&self.on.rest)
                .await
                .map_err(ledger_error)?;
        // Rules that a newer version has applied may name what this one doesn't know: then it dials nothing.
        Compiled::of_stored(settings.0).map(Arc::new).map_err(|error| {
            LedgerError::Refused(format!("the routing rules in use can't be followed: {error}"))
        })
    }

    async fn world(
        &self,
        control: Control,
        rules: Arc<Compiled>,
        accounts: &[AccountName],
        pool_max_age: Duration,
    ) -> Answer<World> {
        Ok(World {
            version: control.version,
            rules,
            pools: self.pools(pool_max_age).await?,
            numbers: self.number_states().await?,
            campaigns: self.campaign_states().await?,
            accounts: self.account_states(accounts).await?,
            kill_switch: control.kill_switch,
        })
    }
}

impl Ledger {
    async fn pools(&self, max_age: Duration) -> Answer<HashMap<ModelId, Arc<Pool>>> {
        let rows = sqlx::query(
            "select a.model_id, a.state = 'unavailable', a.pool_read_at is null,
                    a.pool_read_at < clock_timestamp() - $1,
                    array(select p.number from outdial.pool p where p.model_id = a.model_id and p.attached)
             from outdial.agents a",
        )
        .bind(interval(max_age))
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        rows.iter()
            .map(|row| {
                let state = match (row.get(1), row.get(2), row.get::<Option<bool>, _>(3)) {
                    (true, _, _) => PoolState::AgentUnavailable,
                    (_, true, _) => PoolState::NeverRead,
                    (_, _, Some(true)) => PoolState::Stale,
                    _ => PoolState::Current,
                };
                let numbers = row.get::<Vec<String>, _>(4);
                let numbers = numbers.iter().map(|text| number(text));
                let model = ModelId::parse(row.get(0)).map_err(|_| unreadable("an agent"))?;
                Ok((model, Arc::new(Pool::new(state, numbers.collect::<Answer<Vec<_>>>()?))))
            })
            .collect()
    }

    async fn number_states(&self) -> Answer<HashMap<E164, NumberState>> {
        let rows = sqlx::query("select number, state from outdial.numbers where state <> 'active'")
            .fetch_all(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        rows.iter()
            .map(|row| {
                let state = NumberState::parse(row.get(1)).ok_or_else(|| unreadable("a number's state"))?;
                Ok((number(row.get(0))?, state))
            })
            .collect()
    }

    async fn campaign_states(&self) -> Answer<HashMap<CampaignId, CampaignState>> {
        let rows = sqlx::query("select campaign_id, state from outdial.campaigns where state <> 'active'")
            .fetch_all(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        rows.iter()
            .map(|row| {
                let bad = || unreadable("a campaign");
                let state = CampaignState::parse(row.get(1)).ok_or_else(bad)?;
                Ok((CampaignId::parse(row.get(0)).map_err(|_| bad())?, state))
            })
            .collect()
    }

    async fn account_states(&self, accounts: &[AccountName]) -> Answer<HashMap<AccountName, AccountState>> {
        let rows = sqlx::query("select name, state from outdial.accounts where name = any ($1)")
            .bind(accounts.iter().map(AccountName::as_str).collect::<Vec<_>>())
            .fetch_all(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        rows.iter()
            .map(|row| {
                let bad = || unreadable("an account");
                let state = AccountState::parse(row.get(1)).ok_or_else(bad)?;
                Ok((AccountName::parse(row.get(0)).map_err(|_| bad())?, state))
            })
            .collect()
    }
}

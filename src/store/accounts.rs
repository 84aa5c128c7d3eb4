//! Accounts and whose keys of them work.

use sqlx::{Executor, PgPool};

use super::ledger::{Ledger, ledger_error};
use crate::core::ids::AccountName;
use crate::engine::accounts::KeyLedger;
use crate::engine::ports::LedgerError;

/// An account as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredAccount {
    pub name: AccountName,
    /// None: unlimited, as below.
    pub calls_per_second: Option<u32>,
    pub concurrent_calls: Option<u32>,
}

/// Makes rows for accounts that have none, and gives all of them their limits: at a worker's start.
pub async fn ensure_accounts(db: &PgPool, accounts: &[ConfiguredAccount]) -> Result<(), LedgerError> {
    for account in accounts {
        let mut tx = db.begin().await.map_err(ledger_error)?;
        // A limit that is new is filled from the records of a day, which may take longer than a step of a worker.
        tx.execute("set local statement_timeout = '60s'").await.map_err(ledger_error)?;
        let limit = |n: Option<u32>| n.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        sqlx::query("select outdial.ensure_account($1, $2, $3)")
            .bind(account.name.as_str())
            .bind(limit(account.calls_per_second))
            .bind(limit(account.concurrent_calls))
            .execute(&mut *tx)
            .await
            .map_err(ledger_error)?;
        tx.commit().await.map_err(ledger_error)?;
    }
    Ok(())
}

impl KeyLedger for Ledger {
    async fn key_result(&self, account: &AccountName, works: bool) -> Result<(), LedgerError> {
        sqlx::query("select outdial.key_result($1, $2, $3, $4)")
            .bind(self.worker_no())
            .bind(account.as_str())
            .bind(works)
            .bind(self.events())
            .execute(&self.on.rest)
            .await
            .map(drop)
            .map_err(ledger_error)
    }
}

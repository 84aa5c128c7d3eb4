//! Work that one worker does for all.

use std::time::Duration;

use super::ledger::{Ledger, interval, ledger_error};
use crate::engine::duty::Duties;
use crate::engine::ports::LedgerError;

impl Duties for Ledger {
    async fn hold(&self, name: &str, lease: Duration) -> Result<bool, LedgerError> {
        sqlx::query_scalar("select outdial.hold_duty($1, $2, $3)")
            .bind(name)
            .bind(self.worker_no())
            .bind(interval(lease))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)
    }

    async fn leave(&self, name: &str) -> Result<(), LedgerError> {
        sqlx::query("delete from outdial.duties where name = $1 and worker_no = $2")
            .bind(name)
            .bind(self.worker_no())
            .execute(&self.on.rest)
            .await
            .map(drop)
            .map_err(ledger_error)
    }
}

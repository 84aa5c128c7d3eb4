//! What the stages count, in the process's metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::core::ids::AccountName;
use crate::core::ledger::Became;
use crate::engine::place::PlaceMeter;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::ByOutcome;

#[derive(Debug)]
pub(super) struct Meter(pub Arc<Metrics>);

impl PlaceMeter for Meter {
    fn answered(&self, account: &AccountName, status: Option<u16>, took: Duration) {
        self.0.answer(account.as_str(), status, took);
    }

    fn settled(&self, _account: &AccountName, became: &Became) {
        let outcome = match became {
            Became::Placed { .. } => {
                self.0.calls_placed.inc();
                "placed"
            }
            Became::Unknown => "unknown",
            Became::Refused { .. } => "refused",
            Became::Retry { .. } => "not_placed",
            Became::Unsent { .. } => "unsent",
        };
        self.0.attempts.get_or_create(&ByOutcome { outcome }).inc();
    }

    fn unused(&self, _why: &'static str) {
        self.0.slots_lapsed.inc();
    }

    fn violation(&self) {
        self.0.governor_trips.inc();
        self.0.limit_violations.inc();
    }

    fn statement(&self, name: &'static str, _items: usize, took: Duration, succeeded: bool) {
        self.0.statement(name, took, succeeded);
    }
}

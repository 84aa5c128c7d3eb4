//! What the stages count, in the process's metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::core::ids::AccountName;
use crate::core::ledger::Became;
#[cfg(feature = "otlp")]
use crate::core::trace::Span;
use crate::engine::dispatch::DispatchMeter;
use crate::engine::intake::{IntakeMeter, Taken};
use crate::engine::place::PlaceMeter;
use crate::engine::ports::Traces;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{ByOutcome, ByReason, ByResult, ByWhy};
#[cfg(feature = "otlp")]
use crate::telemetry::otlp::Spans;

#[derive(Debug, Default)]
pub(super) struct Meter {
    pub metrics: Arc<Metrics>,
    /// Nobody is called: what would count a call counts none.
    pub dry_run: bool,
    /// The collector of traces, where there is one.
    #[cfg(feature = "otlp")]
    pub spans: Option<Spans>,
}

#[cfg(feature = "otlp")]
impl Traces for Meter {
    fn traced(&self) -> bool {
        self.spans.is_some()
    }

    fn span(&self, span: Span) {
        if let Some(spans) = &self.spans {
            spans.take(span);
        }
    }
}

#[cfg(not(feature = "otlp"))]
impl Traces for Meter {}

impl DispatchMeter for Meter {
    fn reserved(&self, ahead: Duration) {
        self.metrics.reserved_slots.inc();
        self.metrics.slot_wait_seconds.observe(ahead.as_secs_f64());
    }

    fn statement(&self, name: &'static str, took: Duration, succeeded: bool) {
        self.metrics.statement(name, took, succeeded);
    }
}

impl IntakeMeter for Meter {
    fn message(&self, became: Taken) {
        let result = match became {
            Taken::Accepted => "accepted",
            Taken::Duplicate => "duplicate",
            Taken::Cancel => "cancel",
            Taken::Dead(reason) => {
                self.metrics.dead_letters.get_or_create(&ByReason { reason: reason.as_str() }).inc();
                "dead"
            }
        };
        self.metrics.intake_messages.get_or_create(&ByResult { result }).inc();
    }

    fn batch(&self, jobs: usize) {
        self.metrics.intake_batch_jobs.observe(jobs as f64);
    }

    fn paused(&self, paused: bool) {
        self.metrics.intake_paused.set(paused.into());
    }

    fn statement(&self, name: &'static str, took: Duration, succeeded: bool) {
        self.metrics.statement(name, took, succeeded);
    }
}

impl PlaceMeter for Meter {
    fn first_post(&self, waited: Duration) {
        if !self.dry_run {
            self.metrics.job_wait_seconds.observe(waited.as_secs_f64());
        }
    }

    fn settled(&self, _account: &AccountName, became: &Became) {
        let outcome = match became {
            Became::Placed { .. } if self.dry_run => "dry_run",
            Became::Placed { .. } => {
                self.metrics.calls_placed.inc();
                "placed"
            }
            Became::Unknown => "unknown",
            Became::Refused { .. } => "refused",
            Became::Retry { .. } => "not_placed",
            Became::Unsent { .. } => "unsent",
        };
        self.metrics.attempts.get_or_create(&ByOutcome { outcome }).inc();
    }

    fn unused(&self, why: &'static str) {
        self.metrics.unused_slots.get_or_create(&ByWhy { why }).inc();
    }

    fn unwritten(&self, more: bool) {
        self.metrics.unwritten_results.inc_by(if more { 1 } else { -1 });
    }

    fn late_send(&self) {
        self.metrics.late_sends.inc();
    }

    fn violation(&self) {
        self.metrics.limit_violations.inc();
    }

    fn statement(&self, name: &'static str, _items: usize, took: Duration, succeeded: bool) {
        self.metrics.statement(name, took, succeeded);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::core::ids::CallId;

    /// What no test of a whole worker brings about at will.
    #[test]
    fn trouble_is_counted() {
        let meter = Meter::default();
        meter.violation();
        meter.unused("late");
        let metrics = &meter.metrics;
        assert_eq!(metrics.limit_violations.get(), 1);
        assert_eq!(metrics.unused_slots.get_or_create(&ByWhy { why: "late" }).get(), 1);
    }

    #[test]
    fn a_dry_run_counts_no_call() {
        let meter = Meter { dry_run: true, ..Meter::default() };
        let call_id = CallId::parse("dry-run-1").unwrap();
        meter.settled(&AccountName::default_account(), &Became::Placed { call_id });
        assert_eq!(meter.metrics.calls_placed.get(), 0);
        assert_eq!(meter.metrics.attempts.get_or_create(&ByOutcome { outcome: "dry_run" }).get(), 1);
    }
}

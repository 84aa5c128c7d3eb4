//! What a worker measures, each figure with its type, name and help in one place: [`Metrics`].
//!
//! Labels are words of the code or of the contract, or accounts of the configuration, so that their number is
//! bounded. No phone number, name or job id is ever a label.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::core::states::Reason;

/// A number that may have a fraction.
pub type Fraction = Gauge<f64, std::sync::atomic::AtomicU64>;
/// Seconds, from half a millisecond to 65 s.
pub type SecondsBy<L> = Family<L, Histogram, SecondsBuckets>;

macro_rules! labels {
    ($($name:ident { $($label:ident),+ })+) => {
        $(
            #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
            pub struct $name {
                $(pub $label: &'static str),+
            }
        )+

        #[cfg(test)]
        const LABELS: &[(&str, &[&str])] = &[$((stringify!($name), &[$(stringify!($label)),+])),+];
    };
}

labels! {
    ByReason { reason }
    ByResult { result }
    ByChange { change }
    ByStatement { statement }
    ByOutcome { outcome }
    ByDisposition { disposition }
    ByType { r#type }
    ByWindow { kind, window }
    ByVersion { version }
    ByWhy { why }
    ByPoll { request, result }
}

/// An account of the configuration, and what the provider answered: `2xx`, `429`, `none`, …
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByAnswer {
    pub account: String,
    pub answer: &'static str,
}

/// Declares the figures: field, type, name (without the unit's or counter's suffix) and help.
macro_rules! metrics {
    ($($field:ident: $kind:ty = $name:literal, $help:literal, $make:expr;)+) => {
        /// Every figure of a worker. One is made at start and given to the stages.
        pub struct Metrics {
            registry: Registry,
            $(#[doc = concat!("`outdial_", $name, "`: ", $help)] pub $field: $kind,)+
        }

        impl Metrics {
            /// What every figure is called: without the prefix `outdial_`, a unit's or a counter's suffix.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Name, kind and help of each.
            #[cfg(test)]
            const DESCRIBED: &[(&str, &str, &str)] = &[$(($name, stringify!($kind), $help)),+];
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("outdial");
                $(
                    let $field: $kind = $make;
                    registry.register($name, $help, $field.clone());
                )+
                Self { registry, $($field),+ }
            }
        }
    };
}

metrics! {
    // The contract's: other systems rely on them.
    dialable_jobs: Gauge = "dialable_jobs",
        "Jobs that could be dialed now but for workers; scale on it", Gauge::default();
    waiting_jobs: Family<ByReason, Gauge> = "waiting_jobs",
        "Waiting jobs by reason", Family::default();
    calls_placed: Counter = "calls_placed",
        "Calls that the provider accepted from this process", Counter::default();
    limit_violations: Counter = "limit_violations",
        "Calls that would have broken a limit, held back by the second fence; anything but 0 is a fault of outdial",
        Counter::default();
    unknown_attempts: Gauge = "unknown_attempts",
        "Attempts of which nobody knows whether they were placed", Gauge::default();

    // Queue and intake.
    intake_messages: Family<ByResult, Counter> = "intake_messages",
        "Messages of the queue that were dealt with: accepted, duplicate, cancel or dead", Family::default();
    dead_letters: Family<ByReason, Counter> = "dead_letters",
        "Messages sent to outdial.dead, by the contract's reason", Family::default();
    intake_batch_jobs: Histogram = "intake_batch_jobs",
        "Jobs in one statement of intake", Histogram::new(exponential_buckets(1.0, 2.0, 10));
    intake_paused: Gauge = "intake_paused",
        "1 while nothing is consumed (too many jobs wait, or the database is away)", Gauge::default();
    acks_void: Counter = "acks_void",
        "Acks that could not be sent any more, their channel being closed; the messages are delivered again",
        Counter::default();
    broker_connected: Gauge = "broker_connected",
        "1 while both links to RabbitMQ, for jobs and for events, are up and not blocked", Gauge::default();

    // Ledger.
    statement_seconds: SecondsBy<ByStatement> = "statement_seconds",
        "Time of one statement of the ledger on a job's way, commit included, by name", SecondsBy::new_with_constructor(SecondsBuckets);
    statement_failures: Family<ByStatement, Counter> = "statement_failures",
        "Of those, the statements that failed, by name", Family::default();
    database_connected: Gauge = "database_connected", "1 while the database answers", Gauge::default();
    clock_offset_seconds: Fraction = "clock_offset_seconds",
        "The database's clock less this machine's", Fraction::default();
    clock_error_seconds: Fraction = "clock_error_seconds",
        "How far the worker's idea of the database's time may be wrong", Fraction::default();

    // Limits.
    reserved_slots: Counter = "reserved_slots", "Slots reserved by this process", Counter::default();
    unused_slots: Family<ByWhy, Counter> = "unused_slots",
        "Reserved slots given up without leave to send, by why; the job gets another", Family::default();
    slot_wait_seconds: Histogram = "slot_wait_seconds",
        "From getting a slot to its time", SecondsBuckets.new_metric();

    // Placing.
    attempts: Family<ByOutcome, Counter> = "attempts",
        "Attempts that had leave to send, by what came of them; unsent: no byte left in time", Family::default();
    answers: Family<ByAnswer, Counter> = "answers",
        "Answers of the provider to POSTs, by account; none: no answer came", Family::default();
    post_seconds: Histogram = "post_seconds",
        "From handing over a POST, connecting included, to its answer or the end of waiting for one",
        SecondsBuckets.new_metric();
    posts_in_flight: Gauge = "posts_in_flight", "POSTs under way", Gauge::default();
    late_sends: Counter = "late_sends",
        "POSTs whose last byte left after the last check's deadline, by whatever stopped the process in between", Counter::default();
    job_wait_seconds: Histogram = "job_wait_seconds",
        "From a job's receipt to the POST of its first attempt", Histogram::new(exponential_buckets(0.005, 4.0, 12));

    // After the call.
    calls_ended: Family<ByDisposition, Counter> = "calls_ended",
        "Ends of calls learned, by disposition; unknown: nobody knows how", Family::default();
    caller_id_mismatches: Counter = "caller_id_mismatches",
        "Calls that the provider has placed from another number than was chosen", Counter::default();
    polls: Family<ByPoll, Counter> = "polls",
        "Looks for the ends of calls, by request (list: a page of the provider's list; call: one call) and result",
        Family::default();
    reconciled: Family<ByResult, Counter> = "reconciled",
        "Unknown attempts whose search ended: found at the provider, or given_up (in review, or dialed again)", Family::default();
    webhooks: Family<ByResult, Counter> = "webhooks",
        "Webhooks of the provider, by what they were answered", Family::default();
    places_drift: Counter = "places_drift",
        "Places under concurrency limits that were miscounted and put right; anything but 0 is a fault of outdial", Counter::default();
    pool_syncs: Family<ByResult, Counter> = "pool_syncs",
        "Reads of an agent's attached numbers at the provider, by result", Family::default();
    pool_changes: Family<ByChange, Counter> = "pool_changes",
        "Numbers that reads of an agent's pool found attached or detached since the one before, the first read included", Family::default();
    events_published: Family<ByType, Counter> = "events_published",
        "Events confirmed by the broker, by type", Family::default();
    outbox_rows: Gauge = "outbox_rows", "Events not yet confirmed by the broker", Gauge::default();
    unwritten_results: Gauge = "unwritten_results",
        "Results of attempts that the database has not taken yet", Gauge::default();

    // The process.
    spans_lost: Counter = "spans_lost",
        "Spans that the collector of traces didn't take, or that were too many to be kept for it", Counter::default();
    routing_version: Gauge = "routing_version", "Version of the routing rules in use; 0: none", Gauge::default();
    draining: Gauge = "draining", "1 while stopping", Gauge::default();
    build: Family<ByVersion, Gauge> = "build_info", "The running version; always 1", Family::default();
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub fn new() -> Self {
        let metrics = Self::default();
        metrics.build.get_or_create(&ByVersion { version: env!("CARGO_PKG_VERSION") }).set(1);
        // What somebody alerts on starts at 0 instead of being absent.
        for &reason in Reason::ALL {
            metrics.waiting_jobs.get_or_create(&ByReason { reason: reason.as_str() }).set(0);
        }
        metrics
    }

    /// Replaces the figures of waiting jobs: a reason not named has none.
    pub fn set_waiting(&self, jobs: &[(Reason, i64)]) {
        for &reason in Reason::ALL {
            let count = jobs.iter().find(|(named, _)| *named == reason).map_or(0, |(_, count)| *count);
            self.waiting_jobs.get_or_create(&ByReason { reason: reason.as_str() }).set(count);
        }
    }

    /// Notes one statement of the ledger.
    pub fn statement(&self, statement: &'static str, took: Duration, succeeded: bool) {
        self.statement_seconds.get_or_create(&ByStatement { statement }).observe(took.as_secs_f64());
        if !succeeded {
            self.statement_failures.get_or_create(&ByStatement { statement }).inc();
        }
    }

    /// One answer to a POST; `status` is `None` where none came.
    pub fn answer(&self, account: &str, status: Option<u16>, took: Duration) {
        let answer = match status {
            None => "none",
            Some(429) => "429",
            Some(200..=299) => "2xx",
            Some(300..=399) => "3xx",
            Some(400..=499) => "4xx",
            Some(500..=599) => "5xx",
            Some(_) => "other",
        };
        self.answers.get_or_create(&ByAnswer { account: account.to_owned(), answer }).inc();
        self.post_seconds.observe(took.as_secs_f64());
    }

    /// All figures in the OpenMetrics text format.
    ///
    /// # Errors
    /// None in practice: writing to a string.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::with_capacity(32 << 10);
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// 0.5 ms to 65 s, twice as much each.
#[derive(Debug, Clone, Copy)]
pub struct SecondsBuckets;

impl MetricConstructor<Histogram> for SecondsBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.0005, 2.0, 18))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn the_contracts_names_stand_on_the_page_from_the_start() {
        let page = Metrics::new().encode().unwrap();
        for line in [
            "outdial_dialable_jobs 0",
            "outdial_waiting_jobs{reason=\"number_limit\"} 0",
            "outdial_calls_placed_total 0",
            "outdial_limit_violations_total 0",
            "outdial_unknown_attempts 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} not in\n{page}");
        }
    }

    #[test]
    fn every_figure_has_a_help() {
        let page = Metrics::new().encode().unwrap();
        let types = page.lines().filter(|line| line.starts_with("# TYPE")).count();
        let helps =
            page.lines().filter(|line| line.starts_with("# HELP") && line.split(' ').count() > 4).count();
        assert!(types > 20, "{types}");
        assert_eq!(types, helps);
    }

    #[test]
    fn the_readme_names_figures_that_are() {
        let rows =
            include_str!("../../README.md").lines().filter_map(|line| line.strip_prefix("| `outdial_"));
        let named: Vec<&str> = rows.filter_map(|row| row.split(['`', '{']).next()).collect();
        assert!(named.len() > 5, "{named:?}");
        for name in named {
            assert!(is_figure(name), "{name}");
        }
    }

    fn is_figure(name: &str) -> bool {
        let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
        suffixes
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|name| Metrics::NAMES.contains(&name))
    }

    #[test]
    fn alerts_dashboards_and_scaling_ask_for_figures_that_are_and_each_alert_is_explained() {
        let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
        let runbook = include_str!("../../deploy/docs/runbook.md");
        for (file, text) in [
            ("alerts", alerts),
            ("workers", include_str!("../../deploy/grafana/dashboards/workers.json")),
            ("scaledobject", include_str!("../../deploy/kubernetes/scaledobject.yaml")),
            ("runbook", runbook),
        ] {
            let names = text.split("outdial_").skip(1);
            let names: Vec<&str> = names
                .filter_map(|rest| rest.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).next())
                .collect();
            assert!(!names.is_empty(), "{file}");
            for name in names {
                assert!(is_figure(name), "{file} asks for outdial_{name}");
            }
        }
        let named: Vec<&str> =
            alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        let explained: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        assert!(named.len() > 15, "{named:?}");
        assert_eq!(named, explained, "alerts and their order in the runbook");
        for name in named {
            assert!(alerts.contains(&format!("runbook.md#{}", name.to_lowercase())), "{name}");
        }
    }

    /// The list of figures in the documents is this; `OUTDIAL_WRITE_DOCS=1` writes it.
    #[test]
    fn the_page_of_figures_is_current() {
        let mut page = "# Metrics\n\n`GET /metrics`, OpenMetrics text. Written by a test of `src/telemetry/metrics.rs`, from the code. \
            A label's values are words of the code or of the contract, or accounts of the configuration: their number is bounded. No phone \
            number, name or job id is ever a label.\n\n| name | type | labels | meaning |\n|---|---|---|---|\n"
            .to_owned();
        for (name, kind, help) in Metrics::DESCRIBED {
            let (sort, suffix) = match kind {
                kind if kind.contains("Counter") => ("counter", "_total"),
                kind if kind.contains("Histogram") || kind.contains("SecondsBy") => ("histogram", ""),
                _ => ("gauge", ""),
            };
            let own = LABELS.iter().find(|(family, _)| {
                kind.contains(&format!("{family},")) || kind.contains(&format!("{family}>"))
            });
            let labels = match own {
                Some((_, labels)) => labels.join(", ").replace("r#", ""),
                None if kind.contains("ByAnswer") => "account, answer".to_owned(),
                None => String::new(),
            };
            page.push_str(&format!("| `outdial_{name}{suffix}` | {sort} | {labels} | {help} |\n"));
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/docs/metrics.md");
        if std::env::var_os("OUTDIAL_WRITE_DOCS").is_some() {
            std::fs::write(file, &page).unwrap();
        }
        let written = std::fs::read_to_string(file).unwrap_or_default();
        assert!(written == page, "OUTDIAL_WRITE_DOCS=1 cargo test --lib the_page_of_figures writes it anew");
    }

    #[test]
    fn a_reason_that_is_not_named_any_more_has_no_jobs() {
        let metrics = Metrics::new();
        metrics.set_waiting(&[(Reason::NumberLimit, 7), (Reason::NoRoute, 2)]);
        metrics.set_waiting(&[(Reason::NoRoute, 3)]);
        let page = metrics.encode().unwrap();
        assert!(page.contains("outdial_waiting_jobs{reason=\"number_limit\"} 0"));
        assert!(page.contains("outdial_waiting_jobs{reason=\"no_route\"} 3"));
    }

    #[test]
    fn answers_are_told_apart_by_what_they_mean() {
        let metrics = Metrics::new();
        for status in [Some(200), Some(429), Some(404), None] {
            metrics.answer("default", status, Duration::from_millis(20));
        }
        let page = metrics.encode().unwrap();
        for answer in ["2xx", "429", "4xx", "none"] {
            let line = format!("outdial_answers_total{{account=\"default\",answer=\"{answer}\"}} 1");
            assert!(page.contains(&line), "{line} not in\n{page}");
        }
    }
}

//! Spans on their way to an OpenTelemetry collector, by OTLP over HTTP. Headers, as for a hosted collector's key, are read from
//! `OTEL_EXPORTER_OTLP_HEADERS`, as by every exporter.

use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::trace::{Attribute, Kind, Span};

/// So many wait at most. What comes beyond is dropped, and counted: a collector that is away holds up no call.
const WAITING_MAX: usize = 4096;
/// The most to a request.
const BATCH_MAX: usize = 512;
/// The first of a batch waits so long for others.
const GATHER: Duration = Duration::from_millis(250);
/// A request that isn't answered by then has failed.
pub const EXPORT_MAX: Duration = Duration::from_secs(2);

/// Takes spans for the collector.
#[derive(Debug, Clone)]
pub struct Spans {
    queue: mpsc::Sender<Span>,
    lost: Counter,
}

impl Spans {
    /// Sends to `endpoint` (its base; `/v1/traces` is added), in the name of the worker with that number, until `stop`;
    /// what waits then is still sent, for [`EXPORT_MAX`] at most. `lost` counts what doesn't get there.
    ///
    /// # Errors
    /// The endpoint is none.
    pub fn start(
        http: impl HttpClient + 'static,
        endpoint: &str,
        worker_no: i64,
        lost: Counter,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, String> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(http)
            // What waits meanwhile is bounded anyway, and a request more would outlast the time that a stop has.
            .with_retry_policy(RetryPolicy::disabled())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_MAX)
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(
            &Resource::builder()
                .with_service_name("outdial")
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .with_attribute(KeyValue::new("service.instance.id", worker_no.to_string()))
                .build(),
        );
        let (queue, inbox) = mpsc::channel(WAITING_MAX);
        let export = Export { exporter, lost: lost.clone(), failing: false };
        tasks.spawn(export.run(inbox, stop));
        Ok(Self { queue, lost })
    }

    /// Returns at once.
    pub fn take(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.lost.inc();
        }
    }
}

struct Export {
    exporter: SpanExporter,
    lost: Counter,
    failing: bool,
}

impl Export {
    async fn run(mut self, mut inbox: mpsc::Receiver<Span>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                received = inbox.recv_many(&mut batch, BATCH_MAX) => if received == 0 { return },
            }
            if batch.len() < BATCH_MAX {
                let _ = stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
            }
            while batch.len() < BATCH_MAX
                && let Ok(span) = inbox.try_recv()
            {
                batch.push(span);
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        inbox.close();
        let rest = async {
            while inbox.recv_many(&mut batch, BATCH_MAX).await > 0 {
                self.send(std::mem::take(&mut batch)).await;
            }
        };
        if tokio::time::timeout(EXPORT_MAX, rest).await.is_err() {
            tracing::warn!("spans.dropped");
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let spans = batch.len() as u64;
        let answer = self.exporter.export(batch.into_iter().map(data).collect()).await;
        // Told once: a collector can be away for long.
        match &answer {
            Ok(()) if self.failing => tracing::info!("spans.delivered"),
            Err(error) if !self.failing => tracing::warn!(error = %error, "spans.undelivered"),
            _ => {}
        }
        self.failing = answer.is_err();
        if self.failing {
            self.lost.inc_by(spans);
        }
    }
}

fn data(span: Span) -> SpanData {
    let context = span.context;
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(context.trace),
            SpanId::from(context.span),
            TraceFlags::new(context.flags()),
            false,
            TraceState::NONE,
        ),
        parent_span_id: SpanId::from(span.parent),
        parent_span_is_remote: span.kind != Kind::Client,
        span_kind: match span.kind {
            Kind::Consumer => SpanKind::Consumer,
            Kind::Internal => SpanKind::Internal,
            Kind::Client => SpanKind::Client,
        },
        name: span.name.into(),
        start_time: span.took.began.into(),
        end_time: span.took.ended.into(),
        attributes: span
            .attributes
            .into_iter()
            .map(|(key, value)| {
                let value: Value = match value {
                    Attribute::Text(text) => text.into(),
                    Attribute::Number(number) => number.into(),
                };
                KeyValue::new(key, value)
            })
            .collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.failed.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("outdial").build(),
    }
}

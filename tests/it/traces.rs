//! The publisher's trace, followed through a worker to the provider, as a collector of traces sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::support::stage::{ANY_NUMBER, LONG, NAME, Stage, job, numbers, sandbox_config};
use crate::support::{Figures, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PUBLISHER: &str = "00f067aa0ba902b7";
const PHONE: &str = "+14152000001";

/// Keeps what is sent to it.
struct Collector {
    at: SocketAddr,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    _task: AbortOnDropHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let kept = Arc::clone(&bodies);
        let take = post(async move |body: Bytes| {
            kept.lock().unwrap().push(body);
            StatusCode::OK
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serve =
            async move { axum::serve(listener, Router::new().route("/v1/traces", take)).await.unwrap() };
        Self { at, bodies, _task: AbortOnDropHandle::new(TaskTracker::new().spawn(serve)) }
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.bodies.lock().unwrap();
        let requests = bodies.iter().map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap());
        let of_resources = requests.flat_map(|request| request.resource_spans);
        of_resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

fn hex_of(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_one_trace_from_its_publisher_to_the_post() {
    let pool = numbers(1);
    let stage = Stage::new(sandbox_config(&pool)).await;
    stage.route("per_second = 5", ANY_NUMBER).await;
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.at);
    let worker = stage.worker(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;

    let traced = |flags: &str| {
        let mut headers = FieldTable::default();
        let context = format!("00-{TRACE}-{PUBLISHER}-{flags}");
        headers.insert("traceparent".into(), AMQPValue::LongString(context.into()));
        headers
    };
    let body = |id: &str, phone: &str| job(id, "c", phone).to_string().into_bytes();
    stage.publish_with(traced("01"), [body("followed", PHONE)]).await;
    let post = stage.called(PHONE).await;
    stage.publish_with(traced("00"), [body("unsampled", "+14152000002")]).await;
    let unsampled = stage.called("+14152000002").await;
    stage.publish(&[job("untraced", "c", "+14152000003")]).await;
    let untraced = stage.called("+14152000003").await;
    stage.jobs("done", None, 3, LONG).await;
    let (_, log) = worker.stop(LONG).await;

    let spans = eventually(LONG, async || Some(collector.spans()).filter(|spans| spans.len() >= 4)).await;
    let by_name: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.name.as_str(), span)).collect();
    assert_eq!(by_name.keys().copied().collect::<Vec<_>>(), ["POST /v2/calls", "decide", "dial", "receive"]);
    // Where the machine was too busy for the slot there is another one.
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!(
        (count("receive"), count("POST /v2/calls")),
        (1, 1),
        "nothing of jobs whose publisher records no trace"
    );
    assert_eq!(count("decide"), count("dial"));
    for span in &spans {
        assert_eq!(hex_of(&span.trace_id), TRACE, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
    }
    for name in ["receive", "decide", "dial"] {
        assert_eq!(hex_of(&by_name[name].parent_span_id), PUBLISHER, "{name}");
    }
    let sent = by_name["POST /v2/calls"];
    assert!(spans.iter().any(|span| span.name == "dial" && span.span_id == sent.parent_span_id));
    assert_eq!(post.traceparent, Some(format!("00-{TRACE}-{}-01", hex_of(&sent.span_id))));
    assert_eq!(unsampled.traceparent, Some(format!("00-{TRACE}-{PUBLISHER}-00")), "handed on as it came");
    assert_eq!(untraced.traceparent, None);
    let said: Vec<&str> = sent.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert!(said.contains(&"http.response.status_code") && said.contains(&"outdial.attempt.id"), "{said:?}");
    let said: Vec<&str> =
        by_name["decide"].attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert!(said.contains(&"outdial.rule") && said.contains(&"outdial.caller_id"), "{said:?}");

    let raw: Vec<u8> = collector.bodies.lock().unwrap().concat();
    let raw = String::from_utf8_lossy(&raw);
    for canary in [PHONE, &PHONE[1..], NAME, &pool[0], &pool[0][1..]] {
        assert!(!raw.contains(canary), "a span tells {canary}");
    }
    assert!(!log.contains("spans.undelivered"), "{log}");
}

/// A collector that is away costs spans, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_up_no_call() {
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    stage.route("per_second = 5", ANY_NUMBER).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoint = format!("http://{nobody}");
    let worker = stage.worker(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    let mut headers = FieldTable::default();
    let context = format!("00-{TRACE}-{PUBLISHER}-01");
    headers.insert("traceparent".into(), AMQPValue::LongString(context.into()));
    stage.publish_with(headers, [job("followed", "c", PHONE).to_string().into_bytes()]).await;
    stage.called(PHONE).await;
    worker.line(LONG, "spans.undelivered").await;
    let counted = async || (Figures::of(&worker).await.get("spans_lost_total") >= 1.0).then_some(());
    eventually(LONG, counted).await;
    stage.jobs("done", None, 1, LONG).await;
}

//! Logs and metrics.
//!
//! A log line is written once, where an event ends, with dotted fields that carry their unit
//! (`batch.jobs`, `post.took_ms`). Phone numbers and names are kept out by types: `E164` shows itself masked, and
//! whatever holds a name leaves it out of its `Debug`. A test with canaries watches over it.

#[cfg(test)]
mod lines;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use metrics::Metrics;

use crate::config::{Log, LogFormat};

/// Sends log lines to standard error from here on, as `log` says. A second call changes nothing.
pub fn init(log: &Log) {
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let colour = !json && std::io::stderr().is_terminal();
    // Fails only where a subscriber is set already (tests).
    let _ = subscriber(&log.filter, json, colour, std::io::stderr).try_init();
}

type Dispatched = Box<dyn tracing::Subscriber + Send + Sync>;

fn subscriber<W>(filter: &str, json: bool, colour: bool, writer: W) -> Dispatched
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The configuration has checked it.
    let filter = EnvFilter::builder().parse_lossy(filter);
    let format = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if json {
        format.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        format.compact().with_ansi(colour).boxed()
    };
    let lines = lines.with_filter(filter_fn(|line| {
        // At `trace` the libraries write whole frames: bodies with phone numbers and names. So does this one, at any
        // level, of a message that the broker sends back.
        let quotes_bodies = line.target() == "lapin::returned_messages" || *line.level() > Level::DEBUG;
        // And it takes closing a connection whose channels are closed already for an error, and an answer that was asked for:
        // that the broker has no such queue. Who asked says what it means.
        let cries_wolf = matches!(line.target(), "lapin::channels" | "lapin::channel");
        line.target().starts_with("outdial") || !(quotes_bodies || cries_wolf)
    }));
    Box::new(tracing_subscriber::registry().with(lines.boxed()).with(filter))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::core::call::PlaceCall;
    use crate::core::ids::ModelId;
    use crate::core::phone::E164;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(json: bool, write: impl FnOnce()) -> String {
        let page = Page::default();
        let shared = page.clone();
        let subscriber = subscriber("trace", json, false, move || shared.clone());
        tracing::subscriber::with_default(subscriber, write);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object_with_dotted_fields() {
        let text = written(true, || tracing::info!(batch.jobs = 12, batch.took_ms = 3, "batch accepted"));
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["batch.jobs"], 12);
        assert_eq!(line["message"], "batch accepted");
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn neither_numbers_nor_names_get_into_a_line() {
        let phone = E164::from_canonical("+14155550123").unwrap();
        let call = PlaceCall {
            model_id: ModelId::parse("agent-1").unwrap(),
            phone: phone.clone(),
            name: "Canary Birdsong".to_owned(),
            from_phone_number: E164::from_canonical("+16286660177"),
            custom_variables: vec![("pet".to_owned(), "Canary variable".to_owned())],
            prompt: Some("Canary prompt".to_owned()),
            greeting: Some("Canary greeting".to_owned()),
            lead_email: Some("canary@example.org".to_owned()),
            lead_timezone: None,
            traceparent: None,
        };
        for json in [true, false] {
            let text = written(json, || {
                tracing::info!(job.phone = ?phone, ?call, "placing");
                tracing::error!(error = %anyhow::anyhow!("no answer to {call:?}"), "failed");
            });
            assert!(text.contains("placing") && text.contains("*23"), "{text}");
            for canary in ["4155550123", "6286660177", "anary"] {
                assert!(!text.contains(canary), "{canary} in {text}");
            }
        }
    }

    #[test]
    fn libraries_do_not_write_their_frames() {
        let text = written(true, || {
            tracing::trace!(target: "lapin::io_loop", "frame with a body");
            tracing::warn!(target: "lapin::returned_messages", "returned, with a body");
            tracing::debug!(target: "lapin::io_loop", "connected");
            tracing::trace!(target: "outdial::engine", "ours");
        });
        assert!(!text.contains("with a body"), "{text}");
        assert!(text.contains("connected") && text.contains("ours"), "{text}");
    }
}

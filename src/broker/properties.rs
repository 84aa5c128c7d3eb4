//! Properties and headers of messages, sent and received.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::topology::{DEAD, EVENTS, JOBS};
use crate::core::job::{DeadLetter, DeadReason};
use crate::core::trace::Context;

const REASON: &str = "x-outdial-reason";
const DETAIL: &str = "x-outdial-detail";
const PERSISTENT: u8 = 2;
/// A detail is for people; the frame that carries the headers is bounded.
const DETAIL_BYTES_MAX: usize = 2000;

/// A message to be published, persistent.
#[derive(Clone)]
pub struct Outgoing {
    pub(super) exchange: &'static str,
    pub(super) routing_key: ShortString,
    pub(super) body: Vec<u8>,
    pub(super) properties: BasicProperties,
    /// Nobody bound to the exchange is an error; not so for events, which nobody need listen to.
    pub(super) mandatory: bool,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({} bytes to {})", self.body.len(), self.exchange)
    }
}

impl Outgoing {
    /// A call job. `message_id` becomes the job's id where the body has none.
    pub fn job(body: Vec<u8>, routing_key: &str, message_id: Option<&str>) -> Self {
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(ShortString::from("application/json"));
        if let Some(id) = message_id.and_then(|id| ShortString::try_new(id).ok()) {
            properties = properties.with_message_id(id);
        }
        Self { exchange: JOBS, routing_key: short(routing_key), body, properties, mandatory: true }
    }

    /// A control message that cancels a job.
    pub fn cancel(body: Vec<u8>) -> Self {
        let mut message = Self::job(body, "cancel", None);
        message.properties = message.properties.with_type(ShortString::from("cancel"));
        message
    }

    /// An event, as CloudEvents has it in structured mode; its type is the routing key.
    pub fn event(body: Vec<u8>, kind: &str, id: &str) -> Self {
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(ShortString::from("application/cloudevents+json"))
            .with_message_id(short(id));
        Self { exchange: EVENTS, routing_key: short(kind), body, properties, mandatory: false }
    }

    /// What can't be a job: the original, and why.
    pub(super) fn dead(
        body: Vec<u8>,
        routing_key: ShortString,
        original: BasicProperties,
        why: &DeadLetter,
    ) -> Self {
        let mut headers = original.headers().clone().unwrap_or_default();
        let detail = crate::core::text::tidy(&why.detail, DETAIL_BYTES_MAX);
        headers.insert(REASON.into(), AMQPValue::LongString(why.reason.as_str().into()));
        headers.insert(DETAIL.into(), AMQPValue::LongString(detail.into()));
        let properties = original.with_headers(headers).with_delivery_mode(PERSISTENT);
        Self { exchange: DEAD, routing_key, body, properties, mandatory: true }
    }

    /// A dead message once more as it was sent first; or, with `exchange` the dead one, as it lies there.
    pub(super) fn again(
        exchange: &'static str,
        body: Vec<u8>,
        routing_key: ShortString,
        original: BasicProperties,
    ) -> Self {
        let mut kept = FieldTable::default();
        for (key, value) in original.headers().iter().flat_map(|headers| headers.inner()) {
            // The broker's own headers tell of deliveries that are over.
            let is_mark = key.as_str().starts_with("x-outdial-") && exchange == JOBS;
            if !is_mark && key.as_str() != "x-delivery-count" && !(is_death(key.as_str()) && exchange == JOBS)
            {
                kept.insert(key.clone(), value.clone());
            }
        }
        let properties = original.with_headers(kept).with_delivery_mode(PERSISTENT);
        Self { exchange, routing_key, body, properties, mandatory: true }
    }
}

fn is_death(key: &str) -> bool {
    key == "x-death" || key.starts_with("x-first-death-") || key.starts_with("x-last-death-")
}

/// At most 255 bytes, which is what AMQP has room for.
fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::from(&text[..end])
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn text_header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// Why it lies there. What we did not bury ourselves the broker did, at the delivery limit.
pub(super) fn death(properties: &BasicProperties) -> DeadLetter {
    match text_header(properties, REASON).and_then(DeadReason::parse) {
        Some(reason) => DeadLetter::new(reason, text_header(properties, DETAIL).unwrap_or_default()),
        None => DeadLetter::new(
            DeadReason::DeliveryLimit,
            "dead-lettered by the broker: delivered too often without an answer",
        ),
    }
}

/// How often a message came back undone.
pub(super) fn delivery_count(properties: &BasicProperties) -> u64 {
    header(properties, "x-delivery-count")
        .and_then(|value| match value {
            AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
            AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
            AMQPValue::LongUInt(n) => Some(u64::from(*n)),
            AMQPValue::ShortShortUInt(n) => Some(u64::from(*n)),
            AMQPValue::ShortShortInt(n) => u64::try_from(*n).ok(),
            AMQPValue::ShortInt(n) => u64::try_from(*n).ok(),
            AMQPValue::ShortUInt(n) => Some(u64::from(*n)),
            _ => None,
        })
        .unwrap_or(0)
}

/// The publisher's trace, only if it is well-formed by W3C Trace Context: what is kept is handed on.
pub(super) fn traceparent(properties: &BasicProperties) -> Option<String> {
    let text = text_header(properties, "traceparent")?;
    Context::parse(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[(&str, &str)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (key, value) in headers {
            table.insert((*key).into(), AMQPValue::LongString((*value).into()));
        }
        BasicProperties::default().with_headers(table).with_message_id("m".into())
    }

    #[test]
    fn a_trace_is_kept_only_if_well_formed() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&with(&[("traceparent", good)])).as_deref(), Some(good));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(traceparent(&with(&[("traceparent", bad)])), None, "{bad}");
        }
    }

    #[test]
    fn burying_and_replaying_gives_the_original_back() {
        let why = DeadLetter::new(DeadReason::MissingField, "required, but absent: name");
        let dead = Outgoing::dead(b"{}".to_vec(), "key".into(), with(&[("traceparent", "t")]), &why);
        assert_eq!(dead.exchange, DEAD);
        assert_eq!(death(&dead.properties), why);
        let again = Outgoing::again(JOBS, dead.body, dead.routing_key, dead.properties);
        assert_eq!(again.properties, with(&[("traceparent", "t")]).with_delivery_mode(PERSISTENT));
    }

    #[test]
    fn what_the_broker_buried_is_listed_as_delivery_limit() {
        assert_eq!(
            death(&with(&[("x-first-death-reason", "delivery_limit")])).reason,
            DeadReason::DeliveryLimit
        );
    }
}

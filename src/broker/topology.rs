//! Exchanges and queues, as the contract has them.

use std::fmt;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};

use super::connect::BrokerError;

/// Exchange and queue of jobs.
pub const JOBS: &str = "outdial.jobs";
/// Exchange and queue of what can't be a job.
pub const DEAD: &str = "outdial.dead";
/// Exchange of events.
pub const EVENTS: &str = "outdial.events";

/// Deliveries without an answer after which the broker dead-letters a message.
const DELIVERY_LIMIT: i32 = 50;

#[derive(Debug, Clone, Copy)]
enum Item {
    Exchange(&'static str),
    Queue(&'static str),
    /// A queue to the exchange of its own name, with `#`.
    Binding(&'static str),
}

const ITEMS: [Item; 7] = [
    Item::Exchange(JOBS),
    Item::Exchange(DEAD),
    Item::Exchange(EVENTS),
    Item::Queue(DEAD),
    Item::Queue(JOBS),
    Item::Binding(DEAD),
    Item::Binding(JOBS),
];

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Exchange(name) => write!(f, "exchange {name}"),
            Item::Queue(name) => write!(f, "queue {name}"),
            Item::Binding(name) => write!(f, "binding of queue {name} to exchange {name} with #"),
        }
    }
}

/// Declares what is missing, or with `declare` false only checks that it is there. Does no harm if done again.
///
/// # Errors
/// [`BrokerError::Topology`] with every item that is otherwise, in the broker's words.
pub async fn establish(connection: &Connection, declare: bool) -> Result<(), BrokerError> {
    let mut faults = Vec::new();
    for item in ITEMS {
        // A refused declaration closes its channel, so each has its own.
        let channel = connection.create_channel().await?;
        match item.establish(&channel, declare).await {
            Ok(()) => {
                let _ = channel.close(200, "done".into()).await;
            }
            Err(error) => faults.push(item.fault(&error).ok_or(error)?),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(BrokerError::Topology(faults)) }
}

impl Item {
    async fn establish(self, channel: &Channel, declare: bool) -> lapin::Result<()> {
        let passive = !declare;
        match self {
            Item::Exchange(name) => {
                let options = ExchangeDeclareOptions { passive, durable: true, ..Default::default() };
                channel
                    .exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default())
                    .await
            }
            Item::Queue(name) => {
                let options = QueueDeclareOptions { passive, durable: true, ..Default::default() };
                channel.queue_declare(name.into(), options, arguments(name)).await.map(drop)
            }
            // A binding can't be looked at, only made.
            Item::Binding(_) if passive => Ok(()),
            Item::Binding(name) => {
                let (options, none) = (QueueBindOptions::default(), FieldTable::default());
                channel.queue_bind(name.into(), name.into(), "#".into(), options, none).await
            }
        }
    }

    /// What is wrong with it, and the mend; none where the error says nothing of the item.
    fn fault(self, error: &lapin::Error) -> Option<String> {
        let ErrorKind::ProtocolError(told) = error.kind() else { return None };
        let mend = match told.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                "delete it once it is empty, and outdial declares it; or declare it with the value received here"
            }
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => {
                "declare it, or let outdial do so with amqp.declare = true"
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                "give the user that right, or declare it yourself and set amqp.declare = false"
            }
            _ => return None,
        };
        Some(format!("{self}: {}; {mend}", told.get_message()))
    }
}

fn arguments(queue: &str) -> FieldTable {
    let text = |value: &str| AMQPValue::LongString(value.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    if queue == JOBS {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        arguments.insert("x-dead-letter-exchange".into(), text(DEAD));
        // At least once: a crash loop must not drop innocent messages on their way to the dead queue.
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
    }
    arguments
}

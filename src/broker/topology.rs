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
/// An argument of streams: a broker compares it with no quorum queue, and makes no quorum queue that has it.
const STREAMS_ONLY: &str = "x-max-age";

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

/// How an exchange or a queue was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It is there, and its arguments are as they must be.
    Right,
    /// It is there; what it is like was not compared.
    There,
    Missing,
    /// It is there and otherwise than it must be, in the broker's words.
    Wrong(String),
    /// The broker doesn't let this user look, or compare; in its words.
    Refused(String),
}

/// One look at an exchange or a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Such as `queue outdial.jobs`.
    pub item: String,
    pub seen: Seen,
}

/// Looks at every exchange and queue, and changes nothing. With `compare` the arguments of queues are looked at, too,
/// for which the user needs the right to declare them.
///
/// # Errors
/// The connection's.
pub async fn look(connection: &Connection, compare: bool) -> Result<Vec<Sighting>, BrokerError> {
    let mut sightings = Vec::new();
    for item in ITEMS {
        // A binding can't be looked at, only made.
        if !matches!(item, Item::Binding(_)) {
            let seen = item.look(connection, compare).await?;
            sightings.push(Sighting { item: item.to_string(), seen });
        }
    }
    Ok(sightings)
}

impl Item {
    async fn look(self, connection: &Connection, compare: bool) -> Result<Seen, BrokerError> {
        // A look that finds nothing closes its channel, so each has its own.
        let channel = connection.create_channel().await?;
        let looked = match self.establish(&channel, false).await {
            Ok(()) => match self {
                Item::Queue(name) if compare => compared(&channel, name).await.map(|()| Seen::Right),
                _ => Ok(Seen::There),
            },
            Err(error) => Err(error),
        };
        match looked {
            Ok(seen) => {
                let _ = channel.close(200, "done".into()).await;
                Ok(seen)
            }
            Err(error) => seen_by(&error).ok_or_else(|| BrokerError::from(error)),
        }
    }

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

/// Holds a queue against what it must be. Looking alone tells nothing of arguments; a declaration does, and this one
/// makes no queue even where that one has gone meanwhile.
async fn compared(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let mut arguments = arguments(queue);
    arguments.insert(STREAMS_ONLY.into(), AMQPValue::LongString("1h".into()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, arguments).await.map(drop)
}

/// What a refusal tells of the item; none where it says nothing of it.
fn seen_by(error: &lapin::Error) -> Option<Seen> {
    let ErrorKind::ProtocolError(told) = error.kind() else { return None };
    let words = told.get_message().to_string();
    match told.kind() {
        // A queue that is there, and whose node isn't, is told alike.
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
            if words.contains("no queue") || words.contains("no exchange") =>
        {
            Some(Seen::Missing)
        }
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Some(Seen::Wrong(words)),
        // It would have had to be made.
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
            if words.contains(&format!("invalid arg '{STREAMS_ONLY}'")) =>
        {
            Some(Seen::Missing)
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::RESOURCELOCKED) => {
            Some(Seen::Wrong(words))
        }
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Some(Seen::Refused(words)),
        _ => None,
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

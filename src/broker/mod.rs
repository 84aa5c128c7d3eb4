//! The only room that speaks AMQP.
//!
//! Connections are supervised here, by one path for the first connect and every later one; the client library's own
//! recovery stays off. Consuming and publishing have a connection each: a blocked publisher must not stop acks.

mod acks;
mod connect;
mod consumer;
mod dead;
mod properties;
mod publisher;
mod session;
mod throwaway;
mod topology;

pub use connect::{BrokerError, Target, look, prepare};
pub use consumer::{Consumer, Delivered};
pub use dead::{DeadMessage, DeadQueue, Replayed};
pub use properties::Outgoing;
pub use publisher::{PublishError, Publisher};
pub use session::{LinkState, Links};
pub use throwaway::{present, remove};
pub use topology::{DEAD, EVENTS, JOBS, Seen, Sighting};

/// Where the broker is, and what may be done to it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub target: Target,
    /// `amqp.declare`; false: the topology is only checked.
    pub declare: bool,
    /// `amqp.prefetch`: messages delivered and not yet acked.
    pub prefetch: u16,
}

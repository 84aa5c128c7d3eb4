//! The dead queue, for people: looked through without taking anything out, and replayed.

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use super::connect::{BrokerError, Target, close, connect};
use super::properties::{self, Outgoing};
use super::{DEAD, JOBS};
use crate::core::job::{DeadLetter, DeadReason};

/// Brokers from 4.0 on drop a message of a quorum queue that came back 20 times. Each look makes it come back once, so
/// one that came back as often as this is published afresh instead.
const COME_BACK_MAX: u64 = 10;

/// One message of the dead queue.
pub struct DeadMessage {
    pub why: DeadLetter,
    /// AMQP `message_id`.
    pub message_id: Option<String>,
    pub routing_key: String,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for DeadMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeadMessage({}, {} bytes)", self.why.reason, self.body.len())
    }
}

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    pub replayed: usize,
    /// Left where they are: another reason.
    pub left: usize,
}

/// A connection for looking at the dead queue.
pub struct DeadQueue {
    connection: Connection,
    channel: Channel,
}

impl std::fmt::Debug for DeadQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeadQueue")
    }
}

struct Got {
    tag: u64,
    routing_key: lapin::types::ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl DeadQueue {
    pub async fn open(target: &Target) -> Result<Self, BrokerError> {
        let connection = connect(target, "dead").await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// The oldest `limit` messages; they stay in the queue, in their order.
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadMessage>, BrokerError> {
        // What is published afresh meanwhile comes last, and is not to be seen twice.
        let limit = limit.min(usize::try_from(self.count().await?).unwrap_or(limit));
        let mut messages = Vec::new();
        while messages.len() < limit
            && let Some(got) = self.get().await?
        {
            messages.push(DeadMessage {
                why: properties::death(&got.properties),
                message_id: got.properties.message_id().as_ref().map(ToString::to_string),
                routing_key: got.routing_key.to_string(),
                body: got.body.clone(),
            });
            self.renew(got).await?;
        }
        self.give_back().await?;
        Ok(messages)
    }

    /// Publishes messages to the jobs' exchange as they were sent first, the oldest first; each leaves the dead queue when
    /// the broker has confirmed it. At most `limit`, and only those with `reason`, where given. Looks at each message
    /// once, so what is buried again meanwhile is not replayed again.
    pub async fn replay(
        &self,
        reason: Option<DeadReason>,
        limit: usize,
        mut progress: impl FnMut(Replayed),
    ) -> Result<Replayed, BrokerError> {
        let mut so_far = Replayed::default();
        let mut to_see = self.count().await?;
        while to_see > 0
            && so_far.replayed < limit
            && let Some(got) = self.get().await?
        {
            to_see -= 1;
            if reason.is_some_and(|reason| reason != properties::death(&got.properties).reason) {
                so_far.left += 1;
                self.renew(got).await?;
            } else {
                let again = Outgoing::again(JOBS, got.body, got.routing_key, got.properties);
                self.publish(&again).await?;
                self.ack(got.tag).await?;
                so_far.replayed += 1;
            }
            progress(so_far);
        }
        self.give_back().await?;
        Ok(so_far)
    }

    /// Makes sure that everything has arrived.
    pub async fn close(self) {
        let _ = self.channel.close(200, "done".into()).await;
        close(&self.connection).await;
    }

    async fn count(&self) -> Result<u32, BrokerError> {
        let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        Ok(self.channel.queue_declare(DEAD.into(), passive, Default::default()).await?.message_count())
    }

    async fn get(&self) -> Result<Option<Got>, BrokerError> {
        let message = self.channel.basic_get(DEAD.into(), BasicGetOptions::default()).await?;
        Ok(message.map(|message| {
            let delivery = message.delivery;
            Got {
                tag: delivery.delivery_tag,
                routing_key: delivery.routing_key,
                properties: delivery.properties,
                body: delivery.data,
            }
        }))
    }

    async fn renew(&self, got: Got) -> Result<(), BrokerError> {
        if properties::delivery_count(&got.properties) < COME_BACK_MAX {
            return Ok(());
        }
        let afresh = Outgoing::again(DEAD, got.body, got.routing_key, got.properties);
        self.publish(&afresh).await?;
        self.ack(got.tag).await
    }

    async fn ack(&self, tag: u64) -> Result<(), BrokerError> {
        Ok(self.channel.basic_ack(tag, BasicAckOptions::default()).await?)
    }

    /// Everything taken and not acked goes back to its place.
    async fn give_back(&self) -> Result<(), BrokerError> {
        let all = BasicNackOptions { multiple: true, requeue: true };
        Ok(self.channel.basic_nack(0, all).await?)
    }

    /// One at a time, so that a return is this message's.
    async fn publish(&self, message: &Outgoing) -> Result<(), BrokerError> {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (exchange, key) = (message.exchange.into(), message.routing_key.clone());
        let sending =
            self.channel.basic_publish(exchange, key, options, &message.body, message.properties.clone());
        match sending.await?.await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                Err(BrokerError::Lost(format!("no queue is bound to exchange {}", message.exchange)))
            }
            _ => Err(BrokerError::Lost(format!("exchange {} refused the message", message.exchange))),
        }
    }
}

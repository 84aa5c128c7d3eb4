//! Somebody who listens to `outdial.events`.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;

use super::eventually;

/// Hears every event from its making on.
pub struct Listener {
    _connection: Connection,
    channel: Channel,
    queue: String,
    heard: Vec<Value>,
}

impl Listener {
    /// The exchange has to be there: a worker declares it.
    pub async fn new(amqp_url: &str) -> Self {
        let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
        let queue = queue.name().as_str().to_owned();
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(queue.as_str().into(), "outdial.events".into(), "#".into(), bind, none)
            .await
            .unwrap();
        Self { _connection: connection, channel, queue, heard: Vec::new() }
    }

    /// Waits for `n` events of a type, and gives their data in order.
    pub async fn of(&mut self, kind: &str, n: usize, limit: Duration) -> Vec<Value> {
        eventually(limit, async || {
            self.listen().await;
            let of_kind = self.heard.iter().filter(|event| event["type"] == kind);
            let data: Vec<Value> = of_kind.map(|event| event["data"].clone()).collect();
            (data.len() >= n).then_some(data)
        })
        .await
    }

    /// Listens until it has heard enough; gives all events so far, in order.
    pub async fn until(&mut self, limit: Duration, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(limit, async || {
            self.listen().await;
            enough(&self.heard).then(|| self.heard.clone())
        })
        .await
    }

    async fn listen(&mut self) {
        while let Some(message) =
            self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default()).await.unwrap()
        {
            message.acker.ack(BasicAckOptions::default()).await.unwrap();
            let content_type = message.delivery.properties.content_type().as_ref().unwrap().as_str();
            assert_eq!(content_type, "application/cloudevents+json");
            let event: Value = serde_json::from_slice(&message.delivery.data).unwrap();
            assert_eq!(Some(message.delivery.routing_key.as_str()), event["type"].as_str());
            self.heard.push(event);
        }
    }
}

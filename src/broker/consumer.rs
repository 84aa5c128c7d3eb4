//! Consuming: deliveries go in, settlements come back, apart from each other, so that nobody waits for an ack.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acks::Acks;
use super::connect::BrokerError;
use super::properties::{self, Outgoing};
use super::publisher::Publisher;
use super::session::{LinkState, Telling, Work, supervise};
use super::{JOBS, Settings};
use crate::core::backoff::Backoff;
use crate::core::job::DeadLetter;
use crate::engine::ports::Message;
use crate::failpoint::{self, Point};

/// How long messages may remain unsettled after a stop.
const FLUSH_MAX: Duration = Duration::from_secs(10);

/// A message of the jobs' queue, not yet acked.
pub struct Delivered {
    tag: u64,
    routing_key: lapin::types::ShortString,
    body: Vec<u8>,
    properties: BasicProperties,
    settle: mpsc::Sender<Settled>,
    void: Counter,
}

/// What is to be done with one delivery.
struct Settled {
    tag: u64,
    /// To be published before the ack.
    bury: Option<Outgoing>,
    owed: Owed,
}

/// An ack that is to be sent. Dropped before, it is counted as void: the message comes again.
struct Owed(Option<Counter>);

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(void) = &self.0 {
            void.inc();
        }
    }
}

impl Settled {
    fn acked(mut self) {
        self.owed.0 = None;
    }
}

impl std::fmt::Debug for Delivered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Delivered({}, {} bytes)", self.tag, self.body.len())
    }
}

impl Message for Delivered {
    fn body(&self) -> &[u8] {
        &self.body
    }

    fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(|id| id.as_str())
    }

    fn kind(&self) -> Option<&str> {
        self.properties.kind().as_ref().map(|kind| kind.as_str())
    }

    fn traceparent(&self) -> Option<String> {
        properties::traceparent(&self.properties)
    }

    fn done(self) {
        let owed = Owed(Some(self.void));
        settle(&self.settle, Settled { tag: self.tag, bury: None, owed });
    }

    fn bury(self, why: DeadLetter) {
        let dead = Outgoing::dead(self.body, self.routing_key, self.properties, &why);
        let owed = Owed(Some(self.void));
        settle(&self.settle, Settled { tag: self.tag, bury: Some(dead), owed });
    }
}

/// There is room for every message that may be unacked. If the session is over it is void: the message comes again.
fn settle(to: &mpsc::Sender<Settled>, settled: Settled) {
    if let Err(mpsc::error::TrySendError::Full(settled)) = to.try_send(settled) {
        tracing::error!(tag = settled.tag, "more settlements than deliveries; the message will come again");
    }
}

/// The consuming side of a process.
#[derive(Debug)]
pub struct Consumer {
    settings: Settings,
    /// Whether messages are wanted.
    gate: watch::Receiver<bool>,
    inbox: mpsc::Sender<Delivered>,
    burier: Publisher,
    state: Telling,
    /// Acks that came too late.
    void: Counter,
    stop: CancellationToken,
}

impl Consumer {
    /// Consumes in the background until `stop`, then acks what is settled within 10 s; the rest comes again. Messages are
    /// delivered only while `gate` is true. `void` counts acks that could not be sent any more.
    pub fn start(
        settings: Settings,
        gate: watch::Receiver<bool>,
        void: Counter,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> (mpsc::Receiver<Delivered>, watch::Receiver<LinkState>) {
        let (inbox, messages) = mpsc::channel(usize::from(settings.prefetch).max(1));
        let (state, seen) = watch::channel(LinkState::Connecting);
        // A publisher of its own, which outlives the last delivery: what it is asked to bury must not be confused with
        // what others publish.
        let stop_burying = CancellationToken::new();
        let burier = Publisher::start(settings.clone(), "dead letters", tasks, stop_burying.clone());
        let consumer = Self { settings, gate, inbox, burier, state, void, stop };
        tasks.spawn(async move {
            supervise(&consumer.settings, "jobs", &consumer.state, &consumer.stop, &consumer).await;
            stop_burying.cancel();
        });
        (messages, seen)
    }
}

/// Why a subscription ended in good order.
enum Next {
    Pause,
    End,
}

/// Waits until the gate is so; whether nobody turns it any more.
async fn turned(gate: &mut watch::Receiver<bool>, open: bool) -> bool {
    gate.wait_for(|is_open| *is_open == open).await.is_err()
}

impl Work for Consumer {
    async fn session(&self, connection: &Connection) -> Result<(), BrokerError> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(self.settings.prefetch, BasicQosOptions::default()).await?;
        let (settle, settled) = mpsc::channel(usize::from(self.settings.prefetch).max(1) * 2);
        let overdue = async {
            self.stop.cancelled().await;
            tokio::time::sleep(FLUSH_MAX).await;
            BrokerError::Lost("messages were not settled in time".to_owned())
        };
        tokio::select! {
            ended = async {
                tokio::try_join!(self.feed(&channel, settle), self.settlement(&channel, settled))
            } => ended?,
            error = overdue => return Err(error),
        };
        // Acks are sent without an answer: closing the channel makes sure that they have arrived.
        channel.close(200, "done".into()).await?;
        Ok(())
    }
}

impl Consumer {
    /// Hands deliveries on until the stop, subscribed only while the gate is open.
    async fn feed(&self, channel: &Channel, settle: mpsc::Sender<Settled>) -> Result<(), BrokerError> {
        let mut gate = self.gate.clone();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                gone = turned(&mut gate, true) => if gone { return Ok(()) },
            }
            let options = BasicConsumeOptions::default();
            let deliveries =
                channel.basic_consume(JOBS.into(), "".into(), options, FieldTable::default()).await?;
            self.state.send_replace(LinkState::Up);
            match self.subscribed(channel, deliveries, &mut gate, &settle).await? {
                Next::Pause => self.state.send_replace(LinkState::Paused),
                Next::End => return Ok(()),
            };
        }
    }

    async fn subscribed(
        &self,
        channel: &Channel,
        mut deliveries: lapin::Consumer,
        gate: &mut watch::Receiver<bool>,
        settle: &mpsc::Sender<Settled>,
    ) -> Result<Next, BrokerError> {
        let mut subscribed = true;
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()).await?;
                    return Ok(Next::End);
                }
                _ = turned(gate, false), if subscribed => {
                    // What was delivered before is still to be read; then the stream ends.
                    channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()).await?;
                    subscribed = false;
                    continue;
                }
                delivery = deliveries.next() => delivery,
            };
            let delivery = match delivery {
                Some(delivery) => delivery?,
                None if !subscribed => return Ok(Next::Pause),
                None => return Err(BrokerError::Lost("the broker cancelled the consumer".to_owned())),
            };
            let delivered = Delivered {
                tag: delivery.delivery_tag,
                routing_key: delivery.routing_key,
                body: delivery.data,
                properties: delivery.properties,
                settle: settle.clone(),
                void: self.void.clone(),
            };
            tokio::select! {
                () = self.stop.cancelled() => return Ok(Next::End),
                sent = self.inbox.send(delivered) => if sent.is_err() { return Ok(Next::End) },
            }
        }
    }

    /// Acks what is done and buries what is dead, until every delivery is settled or dropped.
    async fn settlement(
        &self,
        channel: &Channel,
        mut settled: mpsc::Receiver<Settled>,
    ) -> Result<(), BrokerError> {
        let most = usize::from(self.settings.prefetch).max(1);
        let mut acks = Acks::default();
        let mut batch = Vec::with_capacity(most);
        let mut burials = FuturesUnordered::new();
        let mut open = true;
        while open || !burials.is_empty() {
            let done: Vec<Settled> = tokio::select! {
                received = settled.recv_many(&mut batch, most), if open => {
                    open = received > 0;
                    let (dead, done): (Vec<_>, Vec<_>) = batch.drain(..).partition(|s| s.bury.is_some());
                    if !dead.is_empty() {
                        burials.push(self.bury(dead));
                    }
                    done
                }
                Some(buried) = burials.next(), if !burials.is_empty() => buried,
            };
            for ack in acks.settled(done.iter().map(|settled| settled.tag)) {
                failpoint::at(Point::BeforeAck).await?;
                channel.basic_ack(ack.tag, BasicAckOptions { multiple: ack.multiple }).await?;
            }
            done.into_iter().for_each(Settled::acked);
        }
        Ok(())
    }

    /// Publishes the dead, insisting; gives those that may be acked. All of a batch or none: of messages under way together
    /// the broker's return may be put down to the wrong one.
    async fn bury(&self, dead: Vec<Settled>) -> Vec<Settled> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        loop {
            let publishing = dead.iter().filter_map(|s| s.bury.as_ref()).map(|m| self.burier.publish(m));
            let failed = join_all(publishing).await.into_iter().find_map(Result::err);
            let Some(error) = failed else { return dead };
            tracing::warn!(messages = dead.len(), error = %error, "dead letters not published yet");
            if self.stop.is_cancelled() {
                return Vec::new();
            }
            tokio::time::sleep(backoff.after_failure(rand::random())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn delivered(settle: &mpsc::Sender<Settled>, void: &Counter) -> Delivered {
        Delivered {
            tag: 1,
            routing_key: "jobs".into(),
            body: Vec::new(),
            properties: BasicProperties::default(),
            settle: settle.clone(),
            void: void.clone(),
        }
    }

    #[test]
    fn an_ack_that_is_never_sent_is_counted_once() {
        let (void, (settle, mut settled)) = (Counter::default(), mpsc::channel(8));
        delivered(&settle, &void).done();
        settled.try_recv().unwrap().acked();
        assert_eq!(void.get(), 0, "it was sent");
        drop(delivered(&settle, &void));
        assert_eq!(void.get(), 0, "none was to be sent");
        delivered(&settle, &void).done();
        drop(settled);
        assert_eq!(void.get(), 1, "the session ended before");
        delivered(&settle, &void).done();
        assert_eq!(void.get(), 2, "the session is over");
    }
}

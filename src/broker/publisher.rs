//! Publishing with confirms, over a link that is supervised.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Settings;
use super::connect::BrokerError;
use super::properties::Outgoing;
use super::session::{LinkState, Telling, Work, supervise};
use crate::engine::outbox::EventSink;

/// Messages published and not yet confirmed, at most.
const OUTSTANDING_MAX: usize = 1000;
/// A publish waits so long for a link, and then for its confirm.
const LINK_MAX: Duration = Duration::from_secs(5);
const CONFIRM_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nobody knows whether the broker has it; publish it again.
    #[error("not confirmed by the broker: {0}")]
    Unconfirmed(String),
    /// It came back: no queue is bound for it.
    #[error("returned by the broker, no queue is bound for it: {0}")]
    Unroutable(String),
    #[error("refused by the broker, which is full or short of a majority")]
    Refused,
}

/// A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    channel: watch::Receiver<Option<Channel>>,
    broken: Arc<Notify>,
    outstanding: Arc<Semaphore>,
    state: watch::Receiver<LinkState>,
}

impl Publisher {
    /// Connects in the background and keeps the link until `stop`, then waits for what is outstanding. `purpose` is shown
    /// in the broker's list of connections.
    pub fn start(
        settings: Settings,
        purpose: &'static str,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (telling, state) = watch::channel(LinkState::Connecting);
        let (offer, channel) = watch::channel(None);
        let publisher = Self {
            channel,
            broken: Arc::new(Notify::new()),
            outstanding: Arc::new(Semaphore::new(OUTSTANDING_MAX)),
            state,
        };
        let link = Link { offer, telling, publisher: publisher.clone(), stop };
        tasks.spawn(async move { supervise(&settings, purpose, &link.telling, &link.stop, &link).await });
        publisher
    }

    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Publishes, and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// [`PublishError`], after at most 35 s. Of several mandatory messages under way that one comes back for, another may
    /// get the error: after `Unroutable` none that was under way with it is known to have been routed.
    pub async fn publish(&self, message: &Outgoing) -> Result<(), PublishError> {
        let unconfirmed = |why: &str| PublishError::Unconfirmed(why.to_owned());
        let _permit = self.outstanding.acquire().await.map_err(|_| unconfirmed("stopped"))?;
        let mut offered = self.channel.clone();
        let channel = match tokio::time::timeout(LINK_MAX, offered.wait_for(Option::is_some)).await {
            Ok(Ok(channel)) => channel.clone().ok_or_else(|| unconfirmed("no link"))?,
            Ok(Err(_)) => return Err(unconfirmed("stopped")),
            Err(_) => return Err(unconfirmed("no link to the broker")),
        };
        let confirmation = match tokio::time::timeout(CONFIRM_MAX, send(&channel, message)).await {
            Ok(Ok(confirmation)) => confirmation,
            Ok(Err(error)) => {
                self.broken.notify_one();
                return Err(unconfirmed(&error.to_string()));
            }
            Err(_) => return Err(unconfirmed("no confirm in time")),
        };
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                // The binding is gone; a new session makes it again.
                self.broken.notify_one();
                Err(PublishError::Unroutable(returned.reply_text.to_string()))
            }
            Confirmation::Nack(None) => Err(PublishError::Refused),
            Confirmation::NotRequested => Err(unconfirmed("the channel gives no confirms")),
        }
    }
}

impl EventSink for Publisher {
    async fn publish(&self, kind: &str, id: &str, body: Vec<u8>) -> Result<(), String> {
        self.publish(&Outgoing::event(body, kind, id)).await.map_err(|error| error.to_string())
    }
}

async fn send(channel: &Channel, message: &Outgoing) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: message.mandatory, ..Default::default() };
    let (exchange, key) = (message.exchange.into(), message.routing_key.clone());
    channel.basic_publish(exchange, key, options, &message.body, message.properties.clone()).await?.await
}

/// The other end of a [`Publisher`].
struct Link {
    offer: watch::Sender<Option<Channel>>,
    telling: Telling,
    publisher: Publisher,
    stop: CancellationToken,
}

impl Work for Link {
    /// Offers a channel with confirms until it breaks, or until the stop and then what is outstanding.
    async fn session(&self, connection: &Connection) -> Result<(), BrokerError> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        self.offer.send_replace(Some(channel));
        self.telling.send_replace(LinkState::Up);
        let ended = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            () = self.publisher.broken.notified() => {
                Err(BrokerError::Lost("the channel for publishing broke".to_owned()))
            }
        };
        if ended.is_ok() {
            self.publisher.flush().await;
        }
        self.offer.send_replace(None);
        ended
    }
}

impl Publisher {
    /// Waits until nothing is outstanding, and lets nothing more begin.
    async fn flush(&self) {
        let all = u32::try_from(OUTSTANDING_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(LINK_MAX, self.outstanding.acquire_many(all)).await;
        self.outstanding.close();
    }
}

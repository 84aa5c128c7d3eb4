//! Supervision: a link to the broker that is worked over, lost, and made again, until it is stopped.
//!
//! ```text
//! Connecting ─▶ Up ◀─▶ Paused (the gate is shut)      any ─▶ Down ─▶ Connecting
//!               Up ◀─▶ Blocked (the broker is short of memory or disk)
//! ```

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{Connection, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connect::{BrokerError, close, connect};
use super::{Settings, topology};
use crate::clock;
use crate::core::backoff::Backoff;
use crate::engine::health::{Health, Link};

/// A session that lasted so long counts as a success for the back-off.
const STABLE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    Up,
    /// Connected, but no messages are wanted.
    Paused,
    /// The broker takes nothing more for now; in its words.
    Blocked(String),
    Down(String),
}

/// How a process stands with the broker, for `/readyz` and metrics.
#[derive(Debug, Clone)]
pub struct Links {
    pub consuming: watch::Receiver<LinkState>,
    pub publishing: watch::Receiver<LinkState>,
}

impl Links {
    /// # Errors
    /// What is amiss, for people.
    pub fn ready(&self) -> Result<(), String> {
        for (what, link) in [("consuming", &self.consuming), ("publishing", &self.publishing)] {
            match &*link.borrow() {
                LinkState::Up | LinkState::Paused => {}
                LinkState::Connecting => return Err(format!("{what}: connecting to the broker")),
                LinkState::Blocked(why) => {
                    return Err(format!("{what}: the broker blocks the connection: {why}"));
                }
                LinkState::Down(why) => return Err(format!("{what}: {why}")),
            }
        }
        Ok(())
    }

    /// Keeps the process's health informed until nobody tells any more.
    pub async fn inform(mut self, health: Health) {
        loop {
            health.broker(match self.ready() {
                Ok(()) => Link::Up,
                Err(why) => Link::Down(why),
            });
            let changed = tokio::select! {
                changed = self.consuming.changed() => changed,
                changed = self.publishing.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

/// Where a link's state is told.
pub type Telling = watch::Sender<LinkState>;

/// What is done over a connection, one session of it.
pub trait Work: Sync {
    /// Works until the session breaks, or until it is stopped and has flushed what it has.
    fn session(&self, connection: &Connection) -> impl Future<Output = Result<(), BrokerError>> + Send;
}

/// Runs sessions one after another until `stop`. A session that has begun ends by itself on `stop`, so that it can
/// flush what it has.
pub async fn supervise(
    settings: &Settings,
    purpose: &'static str,
    state: &Telling,
    stop: &CancellationToken,
    work: &impl Work,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut told = String::new();
    while !stop.is_cancelled() {
        state.send_replace(LinkState::Connecting);
        let started = clock::monotonic();
        let Err(error) = session(settings, purpose, state, stop, work).await else { return };
        if stop.is_cancelled() {
            return;
        }
        if started.elapsed() > STABLE {
            backoff.succeeded();
            told.clear();
        }
        let error = error.to_string();
        // Told once, not at every try: a broker may be away for hours.
        if error != told {
            tracing::warn!(link = purpose, error, "link to the broker lost; connecting again");
            told.clone_from(&error);
        }
        state.send_replace(LinkState::Down(error));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.after_failure(rand::random())) => {}
        }
    }
}

async fn session(
    settings: &Settings,
    purpose: &'static str,
    state: &Telling,
    stop: &CancellationToken,
    work: &impl Work,
) -> Result<(), BrokerError> {
    let connection = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        connection = connect(&settings.target, purpose) => connection?,
    };
    let ended = over(&connection, settings, state, work).await;
    close(&connection).await;
    ended
}

async fn over(
    connection: &Connection,
    settings: &Settings,
    state: &Telling,
    work: &impl Work,
) -> Result<(), BrokerError> {
    topology::establish(connection, settings.declare).await?;
    // A channel's end is told here too, such as by the broker's consumer time-out.
    let events = connection.events_listener();
    tokio::select! {
        ended = watch_connection(events, state) => Err(ended),
        ended = work.session(connection) => ended,
    }
}

/// Ends when the connection does, or one of its channels by an error; tells when it is blocked.
async fn watch_connection(events: impl futures_util::Stream<Item = Event>, state: &Telling) -> BrokerError {
    let mut events = std::pin::pin!(events);
    let mut before = LinkState::Up;
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(why) => {
                tracing::warn!(why, "the broker blocks the connection");
                let was = state.send_replace(LinkState::Blocked(why));
                if !matches!(was, LinkState::Blocked(_)) {
                    before = was;
                }
            }
            Event::ConnectionUnblocked => {
                tracing::info!("the broker takes messages again");
                state.send_replace(before.clone());
            }
            Event::Error(error) => return error.into(),
            _ => {}
        }
    }
    BrokerError::Lost("the connection ended".to_owned())
}

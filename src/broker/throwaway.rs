//! Exchanges and queues that live for minutes: the demo's, on a broker that belongs to somebody else.

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ExchangeKind};

use super::connect::{BrokerError, Target, close, connect};
use super::{DEAD, EVENTS, JOBS};

const QUEUES: [&str; 2] = [JOBS, DEAD];
const EXCHANGES: [&str; 3] = [JOBS, DEAD, EVENTS];

/// What of the contract's exchanges and queues exists in this virtual host. Changes nothing.
///
/// # Errors
/// No connection.
pub async fn present(target: &Target) -> Result<Vec<String>, BrokerError> {
    let connection = connect(target, "looking").await?;
    let found = look(&connection).await;
    close(&connection).await;
    found
}

async fn look(connection: &Connection) -> Result<Vec<String>, BrokerError> {
    let mut found = Vec::new();
    for name in QUEUES {
        // A look that finds nothing closes its channel.
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        if channel.queue_declare(name.into(), options, FieldTable::default()).await.is_ok() {
            found.push(format!("queue {name}"));
        }
    }
    for name in EXCHANGES {
        let channel = connection.create_channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let kind = ExchangeKind::Topic;
        if channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.is_ok() {
            found.push(format!("exchange {name}"));
        }
    }
    Ok(found)
}

/// Deletes the contract's exchanges and queues with all messages in them.
///
/// # Errors
/// No connection, or the user may not delete them.
pub async fn remove(target: &Target) -> Result<(), BrokerError> {
    let connection = connect(target, "removing").await?;
    let removed = delete(&connection).await;
    close(&connection).await;
    removed
}

async fn delete(connection: &Connection) -> Result<(), BrokerError> {
    let channel = connection.create_channel().await?;
    for name in QUEUES {
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
    }
    for name in EXCHANGES {
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await?;
    }
    Ok(())
}

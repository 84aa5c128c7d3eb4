//! One connection: where to, with what patience, and why not.

use std::fmt;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, ErrorKind};
use secrecy::{ExposeSecret, SecretString};

use super::topology;
use crate::clock;
use crate::core::backoff::Backoff;

/// A connection that isn't there by then won't be.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Seconds; a broker that is silent for twice as long is gone. The URL may say otherwise.
const HEARTBEAT_S: u16 = 10;
const OK: u16 = 200;

/// A broker's address. Shown without user and password.
#[derive(Clone)]
pub struct Target(AMQPUri);

impl Target {
    /// # Errors
    /// Where the URL is none of AMQP; the URL is not repeated.
    pub fn parse(url: &SecretString) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = url.expose_secret().parse().map_err(|_| BrokerError::Address)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        Ok(Self(uri))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(uri) = self;
        let (at, vhost) = (&uri.authority, &uri.vhost);
        write!(f, "{}:{}, virtual host {vhost:?} (user {:?})", at.host, at.port, at.userinfo.username)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error(
        "the broker's address can't be read: write amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps:// for TLS"
    )]
    Address,
    #[error("no connection to the broker {target}: {cause}")]
    Unreachable { target: String, cause: String },
    #[error("the broker {target} refuses the connection: {cause}")]
    Refused { target: String, cause: String },
    #[error("the broker's exchanges and queues are not as they must be:\n  {}", .0.join("\n  "))]
    Topology(Vec<String>),
    /// A connection or channel that worked and ended.
    #[error("{0}")]
    Lost(String),
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<crate::failpoint::Lost> for BrokerError {
    fn from(lost: crate::failpoint::Lost) -> Self {
        Self::Lost(lost.to_string())
    }
}

/// One try. `purpose` is shown in the broker's list of connections.
pub async fn connect(target: &Target, purpose: &str) -> Result<Connection, BrokerError> {
    let properties =
        ConnectionProperties::default().with_connection_name(format!("outdial {purpose}").into());
    let cause = match tokio::time::timeout(CONNECT_MAX, Connection::connect_uri(target.0.clone(), properties))
        .await
    {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) if is_refusal(&error) => {
            return Err(BrokerError::Refused { target: target.to_string(), cause: error.to_string() });
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CONNECT_MAX.as_secs()),
    };
    Err(BrokerError::Unreachable { target: target.to_string(), cause })
}

/// Whether trying again can't help until a person has mended something: credentials, virtual host.
fn is_refusal(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    matches!(
        error.kind(),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
    )
}

pub async fn close(connection: &Connection) {
    // A connection that is broken already can't be closed, and need not be.
    let _ = tokio::time::timeout(CONNECT_MAX, connection.close(OK, "done".into())).await;
}

/// Waits for the broker for `patience` and brings the topology about (or checks it), once, at start.
///
/// # Errors
/// After `patience`; at once where waiting can't help: refused credentials, a topology that differs.
pub async fn prepare(target: &Target, declare: bool, patience: Duration) -> Result<(), BrokerError> {
    let started = clock::monotonic();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let mut told = false;
    loop {
        let error = match attempt(target, declare).await {
            Ok(()) => return Ok(()),
            Err(error @ (BrokerError::Unreachable { .. } | BrokerError::Lost(_))) => error,
            Err(error) => return Err(error),
        };
        let wait = backoff.after_failure(rand::random());
        if started.elapsed() + wait > patience {
            return Err(error);
        }
        if !told {
            tracing::warn!(error = %error, "waiting for the broker");
            told = true;
        }
        tokio::time::sleep(wait).await;
    }
}

/// One look at the exchanges and queues, which changes nothing. With `compare` at the arguments of queues, too: the
/// user needs the right to declare them.
///
/// # Errors
/// No connection, or no answer within `limit`.
pub async fn look(
    target: &Target,
    compare: bool,
    limit: Duration,
) -> Result<Vec<topology::Sighting>, BrokerError> {
    let connection = connect(target, "check").await?;
    let looked = tokio::time::timeout(limit, topology::look(&connection, compare)).await;
    close(&connection).await;
    looked.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(BrokerError::Lost(format!("the broker {target} tells nothing of its queues within {limit}")))
    })
}

async fn attempt(target: &Target, declare: bool) -> Result<(), BrokerError> {
    let connection = connect(target, "start").await?;
    let outcome = topology::establish(&connection, declare).await;
    close(&connection).await;
    outcome
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_target_is_shown_without_its_password() {
        let url = SecretString::from("amqps://dialer:hunter2@mq.example.com/calls".to_owned());
        let target = Target::parse(&url).unwrap();
        let shown = format!("{target} {target:?}");
        assert!(shown.contains(r#"mq.example.com:5671, virtual host "calls" (user "dialer")"#), "{shown}");
        assert!(!shown.contains("hunter2"));
    }

    #[test]
    fn an_address_that_is_none_is_not_repeated() {
        let url = SecretString::from("http://dialer:hunter2@mq".to_owned());
        assert!(!Target::parse(&url).unwrap_err().to_string().contains("hunter2"));
    }

    #[tokio::test]
    async fn an_absent_broker_is_named() {
        let target = Target::parse(&SecretString::from("amqp://a:b@127.0.0.1:1".to_owned())).unwrap();
        let error = prepare(&target, true, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("no connection to the broker 127.0.0.1:1"), "{error}");
    }
}

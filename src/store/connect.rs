//! Connections to Postgres: how they are set up, and waiting for the database at start.

use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool};

use crate::clock;

/// How long a worker waits for the database at start.
pub const PATIENCE_AT_START: Duration = Duration::from_secs(60);
/// How long a person at a terminal does.
pub const PATIENCE_OF_COMMANDS: Duration = Duration::from_secs(5);

const TRY_MAX: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// What connections are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The steps of a worker: short statements. One that takes 2 s is in somebody's way.
    Steps,
    /// Commands: reading, migrating, applying rules.
    Command,
    /// What programs and people read over HTTP: it may take a moment, and nobody waits behind it but others who read.
    Reads,
}

/// Why there is no connection. Names the host, the database and the user, never the password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the database's address can't be read: {0}")]
    Address(String),
    #[error("no connection to the database {target} within {}: {cause}", humantime::format_duration(*.waited))]
    Unreachable { target: String, waited: Duration, cause: String },
    #[error("the database {target} refuses the connection: {cause}")]
    Refused { target: String, cause: String },
}

/// A pool of connections, of which one was seen to work. Tries for `patience`; a wrong password or database name
/// is told at once.
///
/// # Errors
/// [`ConnectError`], after `patience` at most (and the time of the last try, 5 s).
pub async fn connect(
    url: &SecretString,
    purpose: Purpose,
    connections_max: u32,
    patience: Duration,
) -> Result<PgPool, ConnectError> {
    let options = options(url, purpose)?;
    wait_for(&options, patience).await?;
    Ok(pool_of(&options, connections_max))
}

fn pool_of(options: &PgConnectOptions, connections_max: u32) -> PgPool {
    let pool = PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(TRY_MAX)
        // A round trip per statement saved: a dead connection shows in the statement itself.
        .test_before_acquire(false);
    pool.connect_lazy_with(options.clone())
}

/// A worker's connections, by the steps that run on them. The steps of each job are large statements: a connection takes
/// tens of milliseconds to plan all of them, and does so again after each vacuum of a table of theirs. So those that run one
/// after the other at any rate keep to connections of their own.
#[derive(Debug, Clone)]
pub struct Connections {
    pub(super) intake: PgPool,
    pub(super) dispatch: PgPool,
    pub(super) place: PgPool,
    /// Everything else.
    pub(super) rest: PgPool,
}

/// With fewer connections all share them.
const APART_FROM: u32 = 12;

impl Connections {
    /// So many in all, opened when they are needed; see [`connect`].
    ///
    /// # Errors
    /// [`ConnectError`], as [`connect`].
    pub async fn open(
        url: &SecretString,
        connections_max: u32,
        patience: Duration,
    ) -> Result<Self, ConnectError> {
        let options = options(url, Purpose::Steps)?;
        wait_for(&options, patience).await?;
        if connections_max < APART_FROM {
            return Ok(pool_of(&options, connections_max).into());
        }
        // Two of each: one is asked whether it lives while the other has the next statement already, and a flow that a network has
        // lost without a word stops no step.
        let (intake, dispatch, place) = (2, 2, 2);
        let rest = connections_max - intake - dispatch - place;
        let of = |most| pool_of(&options, most);
        Ok(Self { intake: of(intake), dispatch: of(dispatch), place: of(place), rest: of(rest) })
    }

    /// Those for everything but the steps of each job.
    pub fn rest(&self) -> &PgPool {
        &self.rest
    }
}

impl From<PgPool> for Connections {
    fn from(pool: PgPool) -> Self {
        Self { intake: pool.clone(), dispatch: pool.clone(), place: pool.clone(), rest: pool }
    }
}

fn options(url: &SecretString, purpose: Purpose) -> Result<PgConnectOptions, ConnectError> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|error| match error {
        // The parser's own words; they don't repeat the address.
        sqlx::Error::Configuration(why) => ConnectError::Address(why.to_string()),
        _ => ConnectError::Address("it is no address of a Postgres database".to_owned()),
    })?;
    // What it skips because it is there already is no news.
    let options = options.options([("client_min_messages", "warning")]);
    // Statements carry bound values, never literals, and stay out of the log at any rate.
    let options = options.disable_statement_logging().application_name(match purpose {
        Purpose::Steps => "outdial worker",
        Purpose::Command => "outdial",
        Purpose::Reads => "outdial http",
    });
    Ok(match purpose {
        // Compiling a plan costs more than running it: 47 ms instead of 10 for a batch.
        Purpose::Steps => options.options([
            ("jit", "off"),
            // A scan of a long work list in several processes takes the processors from the steps of each job.
            ("max_parallel_workers_per_gather", "0"),
            ("lock_timeout", "2s"),
            ("statement_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "2s"),
        ]),
        Purpose::Reads => options.options([
            ("jit", "off"),
            ("statement_timeout", "5s"),
            ("default_transaction_read_only", "on"),
            ("idle_in_transaction_session_timeout", "5s"),
        ]),
        Purpose::Command => options.options([("jit", "off"), ("idle_in_transaction_session_timeout", "60s")]),
    })
}

async fn wait_for(options: &PgConnectOptions, patience: Duration) -> Result<(), ConnectError> {
    let started = clock::monotonic();
    let mut told = false;
    loop {
        let cause = match tokio::time::timeout(TRY_MAX, PgConnection::connect_with(options)).await {
            Ok(Ok(connection)) => {
                let _ = connection.close().await;
                return Ok(());
            }
            Ok(Err(error)) if waiting_may_help(&error) => error_text(&error),
            Ok(Err(error)) => {
                return Err(ConnectError::Refused { target: target(options), cause: error_text(&error) });
            }
            Err(_) => format!("no answer within {}", humantime::format_duration(TRY_MAX)),
        };
        if started.elapsed() + BETWEEN_TRIES > patience {
            return Err(ConnectError::Unreachable { target: target(options), waited: patience, cause });
        }
        if !told {
            tracing::warn!(db.target = target(options), error = cause, "waiting for the database");
            told = true;
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// The server's own words where it spoke, without the driver's.
pub fn error_text(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |told| told.message().to_owned())
}

/// Whether the database may be about to come: not there yet, starting, or full. A balancer takes the connection and ends
/// it while the server behind it is away, which the driver reads as a broken protocol.
fn waiting_may_help(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["08", "53", "57P"].iter().any(|of| code.starts_with(of)))
        }
        _ => false,
    }
}

fn target(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    format!("{database} at {place} (user {})", options.get_username())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[tokio::test]
    async fn an_absent_database_is_named_without_its_password() {
        // Port 1 of loopback: nothing listens there.
        let url = SecretString::from("postgres://dialer:hunter2@127.0.0.1:1/calls".to_owned());
        let error = connect(&url, Purpose::Command, 1, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("calls at 127.0.0.1:1 (user dialer)"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_balancer_without_a_server_behind_it_is_waited_for() {
        let balancer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = balancer.local_addr().unwrap().port();
        let url = SecretString::from(format!("postgres://dialer:hunter2@127.0.0.1:{port}/calls"));
        let waiting = connect(&url, Purpose::Steps, 1, Duration::from_secs(1));
        let ending = async {
            loop {
                drop(balancer.accept().await);
            }
        };
        let error = tokio::select! {
            connected = waiting => connected.unwrap_err(),
            () = ending => unreachable!("it goes on for ever"),
        };
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_unreadable_address_is_not_repeated() {
        let url = SecretString::from("postgres://dialer:hunter2@127.0.0.1:port/calls".to_owned());
        let error = connect(&url, Purpose::Command, 1, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("can't be read") && !error.contains("hunter2"), "{error}");
    }
}

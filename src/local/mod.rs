//! Private throw-away servers: a PostgreSQL and a RabbitMQ of one's own, for the demo and the tests.
//!
//! Why not containers: they can't run everywhere. Why not the servers that may already run here: nothing of the user's is
//! to be disturbed. So the distribution's programs (`deploy/local/install.sh` installs them) are run on free ports of
//! 127.0.0.1, with their data in a temporary folder, and nothing stays behind: no process, no port, no folder. That holds
//! for a panic, Ctrl-C, SIGTERM and SIGKILL of this process too, see [`process`].
//!
//! Everything here blocks its thread (a start takes seconds); async code calls it through `spawn_blocking`. It speaks just
//! enough of either protocol to see that a server is ready, so the rooms that own the client libraries stay the only ones.
//!
//! Needs Linux (`/proc`). A server refuses to run as root, so root's servers run as `postgres`, `rabbitmq` or `nobody`.

mod port;
mod postgres;
mod process;
mod rabbitmq;
mod servers;
mod user;

pub use postgres::{Postgres, PostgresSetup};
pub use rabbitmq::Rabbit;
pub use servers::{Given, Servers};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(
        "{what} is not installed here: run deploy/local/install.sh, or install the package {package} (Debian, Ubuntu), or set {variable} to a server of your own"
    )]
    NotInstalled { what: &'static str, package: &'static str, variable: &'static str },
    #[error("servers don't run as root, and of the users {0} none exists to run them as")]
    NoUser(&'static str),
    #[error("{variable} is no URL of the form {form}")]
    Url { variable: &'static str, form: &'static str },
    #[error("cannot prepare {path}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("cannot run {program}")]
    Run { program: String, source: std::io::Error },
    #[error("{program} failed ({status}); the end of what it printed:\n{log}")]
    Failed { program: String, status: String, log: String },
    #[error("{program} was not ready after {waited_s} s; the end of what it printed:\n{log}")]
    NotReady { program: String, waited_s: u64, log: String },
    #[error("no free port found on 127.0.0.1 between {0} and {1}")]
    NoPort(u16, u16),
}

pub type Result<T> = std::result::Result<T, LocalError>;

/// 24 hexadecimal digits, for passwords and node names of servers that live for minutes.
fn secret() -> String {
    format!("{:024x}", rand::random::<u128>() >> 32)
}

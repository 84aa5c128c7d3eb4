//! How a command fails: what, where, and the mend; exit 1, or 2 where it was called wrongly.

use std::fmt;

use crate::broker::BrokerError;
use crate::config::Faults;
use crate::http::HttpError;
use crate::store::{self, ConnectError, DatabaseError};

/// Why a command didn't do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    what: String,
    place: Option<String>,
    mend: Option<String>,
    usage: bool,
}

impl Failure {
    /// It was called rightly and failed: exit 1.
    pub fn new(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), place: None, mend: None, usage: false }
    }

    /// It was called wrongly: exit 2.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self { usage: true, ..Self::new(what) }
    }

    /// The contract names it; this version can't do it yet: exit 2.
    pub fn not_supported(what: impl fmt::Display) -> Self {
        Self::usage(format!("{what}: not_supported, this version can't do it yet"))
    }

    /// The file and line, the host, the variable, the job: wherever the fault is.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { place: Some(place.to_string()), ..self }
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(self, mend: impl fmt::Display) -> Self {
        Self { mend: Some(mend.to_string()), ..self }
    }

    /// Without place and mend.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The mend, where one is known.
    pub fn mend_or<'a>(&'a self, otherwise: &'a str) -> &'a str {
        self.mend.as_deref().unwrap_or(otherwise)
    }

    pub fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outdial: {}", self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n  where: {place}")?;
        }
        if let Some(mend) = &self.mend {
            write!(f, "\n  mend:  {mend}")?;
        }
        Ok(())
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::new(faults)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let mend = match error {
            ConnectError::Address(_) => "write DATABASE_URL as postgres://USER:PASSWORD@HOST:5432/NAME",
            ConnectError::Unreachable { .. } => "start the database, or correct DATABASE_URL",
            ConnectError::Refused { .. } => "correct the user, password or name in DATABASE_URL",
        };
        Self::new(error).mend(mend)
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        let mend = match error {
            // What is wrong says the mend already.
            BrokerError::Address | BrokerError::Topology(_) => return Self::new(error),
            BrokerError::Unreachable { .. } | BrokerError::Lost(_) => "start RabbitMQ, or correct AMQP_URL",
            BrokerError::Refused { .. } => "correct the user, password or virtual host in AMQP_URL",
        };
        Self::new(error).mend(mend)
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        let mend = match error {
            HttpError::NoToken(_) => "set OUTDIAL_API_TOKEN, or listen on 127.0.0.1",
            HttpError::Listen { .. } => "give http.listen a free port (port 0 takes any)",
            HttpError::Serve(_) => "look at the log",
        };
        Self::new(error).mend(mend)
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        Self::new(format!("the database: {}", store::error_text(&error)))
    }
}

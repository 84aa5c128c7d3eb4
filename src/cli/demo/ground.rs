//! What the demo stands on: a database and a broker that are its own, private or within servers that were given.
//!
//! On a given database server it makes a database and drops it; in a given virtual host it wants to be alone, and deletes
//! what it declared. Nothing that was there before is touched.

use secrecy::SecretString;

use super::Failure;
use crate::broker::{self, Target};
use crate::local::{Given, LocalError, PostgresSetup, Servers};
use crate::store::throwaway::{self, ThrowawayError};

#[derive(Debug)]
pub struct Ground {
    servers: Servers,
    pub database_url: String,
    pub amqp_url: String,
    given: Lent,
}

/// What is within servers of the user's, and has to be removed from them.
#[derive(Debug, Default)]
struct Lent {
    /// The admin's URL, and the database's name.
    database: Option<(SecretString, String)>,
    broker: Option<Target>,
}

impl Ground {
    /// Starts what isn't given; takes some seconds.
    pub async fn start() -> Result<Self, Failure> {
        let given = Given::from_env();
        let lent_broker = match &given.amqp_url {
            Some(url) => Some(empty_vhost(url).await?),
            None => None,
        };
        let lends_database = given.database_url.is_some();
        let start = move || Servers::start(given, &std::env::temp_dir(), PostgresSetup::default(), 0);
        let servers = tokio::task::spawn_blocking(start).await.map_err(Failure::new)?.map_err(refused)?;
        let name = match lends_database {
            true => format!("outdial_demo_{:016x}", rand::random::<u64>()),
            false => "outdial".to_owned(),
        };
        let admin = SecretString::from(servers.admin_url());
        throwaway::create(&admin, &name).await.map_err(|error| match error {
            ThrowawayError::Connect(error) => Failure::from(error),
            error => Failure::new(error).at(format!("create database {name}")).mend(
                "give a DATABASE_URL whose user may create databases, or unset it for a private server",
            ),
        })?;
        Ok(Self {
            database_url: servers.database_url(&name),
            amqp_url: servers.amqp_url(),
            given: Lent { database: lends_database.then_some((admin, name)), broker: lent_broker },
            servers,
        })
    }

    /// Whose servers they are, for people.
    pub fn told(&self) -> &'static str {
        match (&self.given.database, &self.given.broker) {
            (None, None) => "a PostgreSQL and a RabbitMQ of our own, on free ports",
            (Some(_), None) => "a new database at DATABASE_URL, a RabbitMQ of our own",
            (None, Some(_)) => "a PostgreSQL of our own, the virtual host of AMQP_URL",
            (Some(_), Some(_)) => "a new database at DATABASE_URL, the virtual host of AMQP_URL",
        }
    }

    /// Stops and removes everything. What can't be removed is told, with the statement that would.
    pub async fn end(self) {
        if let Some((admin, name)) = &self.given.database
            && let Err(error) = throwaway::drop(admin, name).await
        {
            eprintln!("outdial: database {name} is left on the server of DATABASE_URL: {error}");
            eprintln!("  mend:  DROP DATABASE {name}");
        }
        if let Some(target) = &self.given.broker
            && let Err(error) = broker::remove(target).await
        {
            eprintln!("outdial: the demo's queues are left on {target}: {error}");
            eprintln!("  mend:  delete the queues and exchanges outdial.* there");
        }
        let servers = self.servers;
        // Stopping blocks its thread for a second or two.
        let _ = tokio::task::spawn_blocking(move || drop(servers)).await;
    }
}

/// A given virtual host that outdial doesn't use yet.
async fn empty_vhost(url: &str) -> Result<Target, Failure> {
    let target = Target::parse(&SecretString::from(url.to_owned()))?;
    let present = broker::present(&target).await?;
    if present.is_empty() {
        return Ok(target);
    }
    Err(Failure::new(format!("outdial is in use there already: {}", present.join(", ")))
        .at(format!("AMQP_URL, {target}"))
        .mend("name a virtual host without them (rabbitmqctl add_vhost demo), or unset AMQP_URL for a private broker"))
}

fn refused(error: LocalError) -> Failure {
    match error {
        // It says the mend already.
        LocalError::NotInstalled { .. } => Failure::new(error),
        LocalError::Url { .. } => Failure::usage(error),
        error => Failure::new(error).mend("set DATABASE_URL and AMQP_URL to servers of your own"),
    }
}

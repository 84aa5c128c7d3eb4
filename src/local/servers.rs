//! Both servers, or the ones the user named.

use std::path::Path;

use super::{LocalError, Postgres, PostgresSetup, Rabbit, Result};

/// Servers of the user's own: nothing is started for these.
#[derive(Clone, Default)]
pub struct Given {
    pub database_url: Option<String>,
    pub amqp_url: Option<String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |url: &Option<String>| url.as_ref().map(|_| "given"); // they hold passwords
        let (database, amqp) = (told(&self.database_url), told(&self.amqp_url));
        f.debug_struct("Given").field("database_url", &database).field("amqp_url", &amqp).finish()
    }
}

impl Given {
    /// `DATABASE_URL` and `AMQP_URL`; an empty one counts as not set.
    pub fn from_env() -> Self {
        let read = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
        Self { database_url: read("DATABASE_URL"), amqp_url: read("AMQP_URL") }
    }
}

#[derive(Debug)]
pub struct Servers {
    pub postgres: Option<Postgres>,
    pub rabbit: Option<Rabbit>,
    given: Given,
}

impl Servers {
    /// Starts what isn't given, both at once, in folders inside `parent`; `vhosts` as for [`Rabbit::start_with`].
    pub fn start(given: Given, parent: &Path, setup: PostgresSetup, vhosts: u32) -> Result<Self> {
        let valid = |url: &Option<String>, schemes: &[&str]| {
            url.as_ref().is_none_or(|url| schemes.iter().any(|scheme| url.starts_with(scheme)))
        };
        if !valid(&given.database_url, &["postgres://", "postgresql://"]) {
            return Err(LocalError::Url {
                variable: "DATABASE_URL",
                form: "postgres://user@host:port/database",
            });
        }
        if !valid(&given.amqp_url, &["amqp://", "amqps://"]) {
            return Err(LocalError::Url { variable: "AMQP_URL", form: "amqp://user@host:port/vhost" });
        }
        let (postgres, rabbit) = std::thread::scope(|scope| {
            let postgres =
                given.database_url.is_none().then(|| scope.spawn(|| Postgres::start_with(parent, setup)));
            let rabbit = given.amqp_url.is_none().then(|| Rabbit::start_with(parent, vhosts));
            (
                postgres.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
                rabbit,
            )
        });
        Ok(Self { postgres: postgres.transpose()?, rabbit: rabbit.transpose()?, given })
    }

    /// The URL of `database` on the private server or the given one.
    pub fn database_url(&self, database: &str) -> String {
        match (&self.postgres, &self.given.database_url) {
            (Some(server), _) => server.url(database),
            (None, given) => with_path(given.as_deref().unwrap_or_default(), database),
        }
    }

    /// The database that a new one can be made from: `postgres`, or the given URL's own.
    pub fn admin_url(&self) -> String {
        let given = self.given.database_url.clone().unwrap_or_default();
        self.postgres.as_ref().map_or(given, |server| server.url("postgres"))
    }

    /// The virtual host `/` of the private broker, or the given URL's own.
    pub fn amqp_url(&self) -> String {
        let given = self.given.amqp_url.clone().unwrap_or_default();
        self.rabbit.as_ref().map_or(given, Rabbit::amqp_url)
    }
}

/// `url` with another path, its query kept.
fn with_path(url: &str, path: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..].find('/').map_or(base.len(), |at| authority + at);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{path}{query}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_of_a_given_server() {
        assert_eq!(
            with_path("postgres://u:p@h:5/old?sslmode=require", "new"),
            "postgres://u:p@h:5/new?sslmode=require"
        );
        assert_eq!(with_path("postgres://u@h", "new"), "postgres://u@h/new");
        assert_eq!(with_path("postgres:///old?host=/run/x", "new"), "postgres:///new?host=/run/x");
    }

    #[test]
    fn given_urls_are_not_printed_and_bad_ones_refused() {
        let given = Given { database_url: Some("mysql://u:geheim@h/d".into()), amqp_url: None };
        assert!(!format!("{given:?}").contains("geheim"));
        let error = Servers::start(given, Path::new("/tmp"), PostgresSetup::default(), 0)
            .map(|_| ())
            .map_err(|e| e.to_string());
        assert_eq!(
            error,
            Err("DATABASE_URL is no URL of the form postgres://user@host:port/database".into())
        );
    }
}

//! What `outdial check` asks of the database beside its schema.

use sqlx::{PgPool, Row};

/// How the server stands to the promises that rest on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Such as `16.3`.
    pub version: String,
    /// `server_version_num`, such as 160003.
    pub version_num: i32,
    /// A commit waits for a standby: a failover forgets nothing that was committed.
    pub synchronous_replication: bool,
    /// Settings under which a commit may be lost in a crash, as `name = value`.
    pub careless: Vec<String>,
    /// Version of the routing in use; 0: none.
    pub routing_version: i64,
}

/// # Errors
/// The database's.
pub async fn server_facts(pool: &PgPool) -> Result<ServerFacts, sqlx::Error> {
    let row = sqlx::query(
        "select current_setting('server_version'), current_setting('server_version_num')::int,
                current_setting('synchronous_standby_names'), current_setting('synchronous_commit'),
                current_setting('fsync'), current_setting('full_page_writes'),
                (select routing_version from outdial.control)",
    )
    .fetch_one(pool)
    .await?;
    let (standbys, commit): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    let mut careless = Vec::new();
    if commit == "off" {
        careless.push("synchronous_commit = off".to_owned());
    }
    for (place, name) in [(4, "fsync"), (5, "full_page_writes")] {
        if row.try_get::<String, _>(place)? == "off" {
            careless.push(format!("{name} = off"));
        }
    }
    Ok(ServerFacts {
        version: row.try_get(0)?,
        version_num: row.try_get(1)?,
        synchronous_replication: !standbys.is_empty() && !matches!(commit.as_str(), "off" | "local"),
        careless,
        routing_version: row.try_get(6)?,
    })
}

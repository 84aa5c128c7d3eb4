//! Erasing what is kept of a callee. Suppressions stay: they keep the callee from being called again.

use sqlx::{PgPool, Row};

use crate::core::events::EventTypes;
use crate::core::ids::JobId;
use crate::core::phone::E164;

type Answer<T> = Result<T, sqlx::Error>;

/// Jobs erased by one statement.
const BATCH: usize = 500;

/// What was found of a callee, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Jobs that waited: nobody can dial what is erased.
    pub canceled: usize,
    /// Records erased, those among them.
    pub erased: usize,
    /// With an attempt that hasn't ended, or that nobody knows of: their records stand as they were.
    pub left: Vec<JobId>,
}

/// Cancels a callee's jobs that wait, and erases the records of those that are over, the number it knows and when it was
/// called. Reads all jobs: seconds for millions. Run again, it goes on where it was.
///
/// # Errors
/// The database's.
pub async fn forget(pool: &PgPool, phone: &E164, events: EventTypes) -> Answer<Forgotten> {
    let canceled = sqlx::query(
        "select job_id from outdial.cancel(array(select job_id from outdial.jobs where phone = $1 and state = 'waiting'), $2)",
    )
    .bind(phone.as_str())
    .bind(events.names())
    .fetch_all(pool)
    .await?
    .len();
    let jobs: Vec<i64> =
        sqlx::query_scalar("select job_no from outdial.jobs where phone = $1 order by job_no")
            .bind(phone.as_str())
            .fetch_all(pool)
            .await?;
    let mut erased = 0;
    for some in jobs.chunks(BATCH) {
        let n: i32 = sqlx::query_scalar("select outdial.erase($1)").bind(some).fetch_one(pool).await?;
        erased += usize::try_from(n).unwrap_or(0);
    }
    sqlx::query("delete from outdial.sticky where phone = $1").bind(phone.as_str()).execute(pool).await?;
    let rows = sqlx::query("select job_id from outdial.jobs where phone = $1 order by job_no")
        .bind(phone.as_str())
        .fetch_all(pool)
        .await?;
    if rows.is_empty() {
        sqlx::query("delete from outdial.recipients where phone = $1")
            .bind(phone.as_number())
            .execute(pool)
            .await?;
    }
    let left = rows.iter().filter_map(|row| JobId::parse(row.get(0)).ok()).collect();
    Ok(Forgotten { canceled, erased, left })
}

//! Where PostgreSQL's time goes, statement by statement, those within functions too: for `--profile`, whose rates mean
//! nothing, for it costs a tenth.

use anyhow::Result;
use sqlx::{Connection, Executor, PgConnection, Row};

/// What the server is started with.
pub const SETTINGS: [&str; 3] = [
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track=all",
    "pg_stat_statements.track_planning=on",
];
/// Lines of the table.
const SHOWN: i64 = 40;

/// Counts from now on.
pub async fn begin(database: &str) -> Result<()> {
    let mut db = PgConnection::connect(database).await?;
    db.execute("create extension if not exists pg_stat_statements").await?;
    db.execute("select pg_stat_statements_reset()").await?;
    Ok(())
}

/// The dearest statements since, for one of so many jobs.
pub async fn tell(database: &str, jobs: usize) -> Result<()> {
    let mut db = PgConnection::connect(database).await?;
    let rows = sqlx::query(
        "select total_exec_time * 1000 / $1, calls, rows, wal_bytes::float8 / $1, toplevel,
                total_plan_time * 1000 / $1, plans,
                regexp_replace(left(query, 600), '\\s+', ' ', 'g')
         from pg_stat_statements where dbid = (select oid from pg_database where datname = current_database())
         order by total_exec_time desc limit $2",
    )
    .bind(jobs as f64)
    .bind(SHOWN)
    .fetch_all(&mut db)
    .await?;
    println!(
        "  µs a job   calls  rows/call  WAL bytes a job  planning, µs a job   times  statement (inner ones indented)"
    );
    for row in rows {
        let (us, calls, of): (f64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let (wal, outer, text): (f64, bool, String) = (row.get(3), row.get(4), row.get(7));
        let (planning, plans): (f64, i64) = (row.get(5), row.get(6));
        let text: String = text.chars().take(if outer { 100 } else { 160 }).collect();
        let indent = if outer { "" } else { "    " };
        println!(
            "  {us:8.1} {calls:7} {:10.1} {wal:16.0} {planning:19.1} {plans:7}  {indent}{text}",
            of as f64 / calls.max(1) as f64
        );
    }
    let all = "select sum(total_plan_time) * 1000 / $1, sum(plans)::int8 from pg_stat_statements";
    let (planning, plans): (f64, i64) = sqlx::query_as(all).bind(jobs as f64).fetch_one(&mut db).await?;
    println!("  planning, of all statements: {planning:.1} µs a job, {plans} times");
    Ok(())
}

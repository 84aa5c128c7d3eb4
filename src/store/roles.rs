//! The readers' roles, which the migrations make where they may; where not, somebody with the right runs
//! [`missing_grants`].

use sqlx::PgPool;

/// The statements that are still to be run for the readers' roles; empty: they are there and may read.
///
/// # Errors
/// The database's.
pub async fn missing_grants(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let mut statements = Vec::new();
    for role in ["outdial_reader", "outdial_reader_pii"] {
        let (exists, reads): (bool, bool) = sqlx::query_as(
            "select r.oid is not null,
                    coalesce(has_schema_privilege(r.oid, 'reporting', 'usage')
                             and has_table_privilege(r.oid, 'reporting.jobs', 'select'), false)
             from (select 1) one left join pg_roles r on r.rolname = $1",
        )
        .bind(role)
        .fetch_one(pool)
        .await?;
        if !exists {
            statements.push(format!("create role {role} nologin;"));
        }
        if !reads {
            statements.push(format!("grant usage on schema reporting to {role};"));
            statements.push(format!("grant select on all tables in schema reporting to {role};"));
        }
    }
    Ok(statements)
}

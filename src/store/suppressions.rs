//! Who must not be called. Once such a function has returned, nothing is authorised that it forbids.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgPool, Row};

use super::ledger::{Ledger, interval, ledger_error};
use crate::core::ledger::RecipientAsk;
use crate::core::phone::E164;
use crate::core::suppression::{Scope, Suppressed};
use crate::engine::ledger::{ExplainLedger, LedgerError};

type Answer<T> = Result<T, sqlx::Error>;

/// Adds phones; gives how many are new.
///
/// # Errors
/// The database's.
pub async fn add_phones(pool: &PgPool, phones: &[(E164, Scope)], source: &str) -> Answer<usize> {
    let (numbers, scopes): (Vec<i64>, Vec<_>) =
        phones.iter().map(|(phone, scope)| (phone.as_number(), scope.as_text())).unzip();
    let added: i32 = sqlx::query_scalar("select outdial.suppress($1, $2, $3)")
        .bind(numbers)
        .bind(scopes.iter().map(AsRef::as_ref).collect::<Vec<&str>>())
        .bind(source)
        .fetch_one(pool)
        .await?;
    Ok(usize::try_from(added).unwrap_or(0))
}

/// Adds one phone or range; false: it stood there already.
///
/// # Errors
/// The database's.
pub async fn add(pool: &PgPool, what: &Suppressed, scope: &Scope, source: &str) -> Answer<bool> {
    match what {
        Suppressed::Phone(phone) => {
            let one = [(phone.clone(), scope.clone())];
            Ok(add_phones(pool, &one, source).await? > 0)
        }
        Suppressed::Prefix(prefix) => {
            let added: i32 = sqlx::query_scalar("select outdial.suppress_prefixes(array[$1], array[$2], $3)")
                .bind(prefix.as_str())
                .bind(scope.as_text().as_ref())
                .bind(source)
                .fetch_one(pool)
                .await?;
            Ok(added > 0)
        }
    }
}

/// Takes one phone or range off the list; false: it didn't stand there.
///
/// # Errors
/// The database's.
pub async fn remove(pool: &PgPool, what: &Suppressed, scope: &Scope) -> Answer<bool> {
    let scope = scope.as_text();
    let done = match what {
        Suppressed::Phone(phone) => {
            sqlx::query("delete from outdial.suppressions where phone = $1 and scope = $2")
                .bind(phone.as_number())
                .bind(scope.as_ref())
                .execute(pool)
                .await?
        }
        Suppressed::Prefix(prefix) => {
            sqlx::query("delete from outdial.suppressed_prefixes where prefix = $1 and scope = $2")
                .bind(prefix.as_str())
                .bind(scope.as_ref())
                .execute(pool)
                .await?
        }
    };
    Ok(done.rows_affected() > 0)
}

/// What stands on the list, ranges first, then phones in their order, from after `after` on. `phone`: only what keeps that one from
/// being called.
///
/// # Errors
/// The database's.
pub async fn list(
    pool: &PgPool,
    phone: Option<&E164>,
    after: Option<&E164>,
    limit: u32,
) -> Answer<Vec<Value>> {
    let rows = sqlx::query(
        "select to_jsonb(s) from (
            (select p.prefix, null as phone, p.scope, p.added_at, o.source
             from outdial.suppressed_prefixes p left join outdial.suppression_sources o using (source_no)
             where $2::bigint is null and ($1::text is null or p.prefix = any (outdial.beginnings($1))) order by p.prefix, p.scope limit $3)
            union all
            (select null, '+' || s.phone, s.scope, s.added_at, o.source
             from outdial.suppressions s left join outdial.suppression_sources o using (source_no)
             where ($1::text is null or s.phone = substr($1, 2)::bigint) and ($2::bigint is null or s.phone > $2)
             order by s.phone, s.scope limit $3)
         ) s limit $3",
    )
    .bind(phone.map(E164::as_str))
    .bind(after.map(E164::as_number))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

impl ExplainLedger for Ledger {
    async fn suppressed_for(&self, phone: &E164) -> Result<Vec<Scope>, LedgerError> {
        let scopes: Vec<String> = sqlx::query_scalar(
            "select s.scope from outdial.suppressions s where s.phone = $2
             union select s.scope from outdial.suppressed_prefixes s where s.prefix = any (outdial.beginnings($1))",
        )
        .bind(phone.as_str())
        .bind(phone.as_number())
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        Ok(scopes.iter().filter_map(|text| Scope::parse(text)).collect())
    }

    async fn called_again_at(
        &self,
        phone: &E164,
        asked: &RecipientAsk,
        slack: Duration,
    ) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        sqlx::query_scalar("select outdial.called_again_at($1, $2, $3, $4, $5)")
            .bind(phone.as_str())
            .bind(asked.caller.as_text().as_ref())
            .bind(asked.caps.iter().map(|cap| number(cap.calls)).collect::<Vec<i32>>())
            .bind(asked.caps.iter().map(|cap| number(cap.seconds)).collect::<Vec<i32>>())
            .bind(interval(slack))
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)
    }
}

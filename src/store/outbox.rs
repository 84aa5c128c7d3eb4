//! Events that wait to be published.

use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::ledger::{Ledger, ledger_error};
use crate::engine::ledger::LedgerError;
use crate::engine::outbox::{Event, EventLog};
use crate::failpoint::{self, Point};

impl EventLog for Ledger {
    async fn unpublished(&self, limit: usize) -> Result<Vec<Event>, LedgerError> {
        let rows = sqlx::query(
            "select id, type, subject, sequence, time, data::text, traceparent from outdial.outbox order by id limit $1",
        )
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        rows.iter().map(event).collect::<Result<_, _>>().map_err(ledger_error)
    }

    async fn published(&self, ids: &[i64]) -> Result<(), LedgerError> {
        failpoint::at(Point::AfterPublish).await?;
        sqlx::query("delete from outdial.outbox where id = any ($1)")
            .bind(ids)
            .execute(&self.on.rest)
            .await
            .map(drop)
            .map_err(ledger_error)
    }
}

fn event(row: &PgRow) -> Result<Event, sqlx::Error> {
    let data: String = row.try_get("data")?;
    Ok(Event {
        id: row.try_get("id")?,
        kind: row.try_get("type")?,
        subject: row.try_get("subject")?,
        sequence: row.try_get("sequence")?,
        time: row.try_get("time")?,
        data: RawValue::from_string(data).map_err(|error| sqlx::Error::Decode(error.into()))?,
        traceparent: row.try_get("traceparent")?,
    })
}

//! Ends of calls.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use super::ledger::{Ledger, interval, ledger_error, unreadable};
use crate::core::ends::{End, OpenCall};
use crate::core::ids::{AccountName, AttemptId, CallId, ModelId};
use crate::core::phone::E164;
use crate::core::states::{Disposition, Reason};
use crate::engine::ends::{EndsLedger, Open};
use crate::engine::ports::LedgerError;
use crate::failpoint::{self, Point};

impl EndsLedger for Ledger {
    async fn open(&self, account: &AccountName, max: usize) -> Result<Open, LedgerError> {
        let rows = sqlx::query(
            "select model_id, attempt_id, call_id, slot, clock_timestamp() from outdial.live
             where account = $1 and state = 'placed' order by slot limit $2",
        )
        .bind(account.as_str())
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        let mut open = Open::default();
        for row in rows {
            let model = ModelId::parse(row.get(0)).map_err(|_| unreadable("an agent's id"))?;
            let call_id: Option<&str> = row.get(2);
            let call = OpenCall {
                attempt: AttemptId(row.get(1)),
                call_id: call_id.and_then(|id| CallId::parse(id).ok()),
                began: row.get(3),
            };
            open.now = row.get(4);
            open.by_agent.entry(model).or_default().push(call);
        }
        Ok(open)
    }

    async fn overdue(&self, live_max: Duration, max: usize) -> Result<Vec<AttemptId>, LedgerError> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "select attempt_id from outdial.live where state = 'placed' and since < clock_timestamp() - $1
             order by since limit $2",
        )
        .bind(interval(live_max))
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        Ok(ids.into_iter().map(AttemptId).collect())
    }

    async fn finish(&self, ends: &[End]) -> Result<Vec<AttemptId>, LedgerError> {
        fn each<'a, T>(ends: &'a [End], field: impl Fn(&'a End) -> T) -> Vec<T> {
            ends.iter().map(field).collect()
        }
        failpoint::at(Point::BeforeFinish).await?;
        let news: Vec<Uuid> =
            sqlx::query_scalar("select outdial.finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)")
                .bind(each(ends, |end| end.attempt.0))
                .bind(each(ends, |end| end.call_id.as_ref().map(CallId::as_str)))
                .bind(each(ends, |end| end.disposition.map(Disposition::as_str)))
                .bind(each(ends, |end| end.reason.map(Reason::as_str)))
                .bind(each(ends, |end| end.provider_status.as_deref()))
                .bind(each(ends, |end| end.end_reason.as_deref()))
                .bind(each(ends, |end| end.error.as_deref()))
                .bind(each(ends, |end| end.from_reported.as_ref().map(E164::as_str)))
                .bind(each(ends, |end| end.ended_at))
                .bind(each(ends, |end| end.duration_s))
                .bind(each(ends, |end| end.recording_url.as_deref()))
                .bind(self.events())
                .fetch_one(&self.on.rest)
                .await
                .map_err(ledger_error)?;
        failpoint::at(Point::AfterFinish).await?;
        Ok(news.into_iter().map(AttemptId).collect())
    }

    async fn mismatched(&self) -> Result<usize, LedgerError> {
        let rows = sqlx::query("select number, calls, quarantined from outdial.mismatched($1)")
            .bind(self.events())
            .fetch_all(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        let mut all = 0;
        for row in &rows {
            let number = super::dispatch::number(row.get(0))?;
            let (calls, quarantined): (i32, bool) = (row.get(1), row.get(2));
            tracing::error!(number.masked = %number.masked(), calls, number.quarantined = quarantined, "call.caller_id_mismatch");
            all += usize::try_from(calls).unwrap_or(0);
        }
        Ok(all)
    }
}

//! Leave to send, and what became of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::types::Json;
use uuid::Uuid;

use super::ledger::{Ledger, interval, ledger_error, unreadable};
use crate::core::ends::End;
use crate::core::ids::{CampaignId, JobNo};
use crate::core::ledger::{Authorised, Became, Leave, NoLeave, Settlement, Signal};
use crate::core::states::Reason;
use crate::engine::ends::EndsLedger;
use crate::engine::ledger::{LedgerError, PlaceLedger};
use crate::failpoint::{self, Point};

/// So many refusals by the provider in a row pause a campaign.
const REFUSALS_MAX: i32 = 5;

impl PlaceLedger for Ledger {
    async fn authorise(
        &self,
        slack: Duration,
        leaves: &[Leave],
    ) -> Result<Vec<(JobNo, Authorised)>, LedgerError> {
        failpoint::at(Point::BeforeAuthorise).await?;
        let jobs: Vec<i64> = leaves.iter().map(|l| l.job_no.0).collect();
        let slots: Vec<DateTime<Utc>> = leaves.iter().map(|l| l.slot).collect();
        let intents = || leaves.iter().map(|l| &l.intent);
        let attempts: Vec<Uuid> = intents().map(|i| i.attempt.0).collect();
        let models: Vec<&str> = intents().map(|i| i.model.as_str()).collect();
        let brands: Vec<Option<&str>> = intents().map(|i| i.brand.as_ref().map(|b| b.as_str())).collect();
        let regions: Vec<Option<&str>> = intents().map(|i| i.region.as_ref().map(|r| r.as_str())).collect();
        let rules: Vec<Option<&str>> = intents().map(|i| i.rule.as_deref()).collect();
        let decisions: Vec<Json<&serde_json::Value>> = intents().map(|i| Json(&i.decision)).collect();
        let windows: Vec<Option<DateTime<Utc>>> = intents().map(|i| i.window_until).collect();
        let rows = sqlx::query(
            "select job_no, attempt_no, verdict from outdial.authorise($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(self.worker_no())
        .bind(interval(slack))
        .bind(jobs)
        .bind(slots)
        .bind(attempts)
        .bind(models)
        .bind(brands)
        .bind(regions)
        .bind(rules)
        .bind(decisions)
        .bind(windows)
        .bind(self.dry_run)
        .fetch_all(&self.on.place)
        .await
        .map_err(ledger_error)?;
        failpoint::at(Point::AfterAuthorise).await?;
        rows.iter()
            .map(|row| {
                let answer = match row.get::<Option<&str>, _>(2) {
                    None => Authorised::Go {
                        attempt_no: row.get::<Option<i16>, _>(1).ok_or_else(|| unreadable("an attempt"))?,
                    },
                    Some(word) => Authorised::No(no_leave(word)?),
                };
                Ok((JobNo(row.get(0)), answer))
            })
            .collect()
    }

    async fn release(&self, jobs: &[JobNo]) -> Result<(), LedgerError> {
        let jobs: Vec<i64> = jobs.iter().map(|j| j.0).collect();
        sqlx::query("select outdial.release($1, $2)")
            .bind(self.worker_no())
            .bind(jobs)
            .execute(&self.on.place)
            .await
            .map(drop)
            .map_err(ledger_error)
    }

    async fn settle(
        &self,
        slack: Duration,
        settlements: &[Settlement],
    ) -> Result<Vec<CampaignId>, LedgerError> {
        failpoint::at(Point::BeforeSettle).await?;
        let arrived: Vec<Option<DateTime<Utc>>> = settlements.iter().map(|s| s.arrived_by).collect();
        let attempts: Vec<Uuid> = settlements.iter().map(|s| s.attempt.0).collect();
        let outcomes: Vec<&str> = settlements.iter().map(|s| outcome(&s.became)).collect();
        let calls: Vec<Option<&str>> = settlements
            .iter()
            .map(|s| match &s.became {
                Became::Placed { call_id } => Some(call_id.as_str()),
                _ => None,
            })
            .collect();
        let statuses: Vec<Option<i16>> =
            settlements.iter().map(|s| s.http_status.and_then(|n| i16::try_from(n).ok())).collect();
        let errors: Vec<Option<&str>> = settlements.iter().map(|s| s.error.as_deref()).collect();
        let answers: Vec<Option<&str>> = settlements.iter().map(|s| s.answer.as_deref()).collect();
        let reasons: Vec<Option<&str>> =
            settlements.iter().map(|s| reason(&s.became).map(Reason::as_str)).collect();
        let waits: Vec<Option<i64>> = settlements.iter().map(|s| ready_in_ms(&s.became)).collect();
        let signals: Vec<Option<&str>> = settlements.iter().map(|s| s.signal.map(signal_word)).collect();
        let backoffs: Vec<Option<i32>> = settlements.iter().map(|s| s.signal.and_then(backoff_ms)).collect();
        let rows = sqlx::query(
            "select campaign_id from outdial.settle($1, $2, $3, $4, $5, $6,
                array(select clock_timestamp() + w * interval '1 millisecond'
                      from unnest($7::bigint[]) with ordinality x(w, o) order by o),
                $8, $9, $10, $11, $12, $13)
             where refused_in_a_row >= $14",
        )
        .bind(attempts)
        .bind(outcomes)
        .bind(calls)
        .bind(statuses)
        .bind(errors)
        .bind(reasons)
        .bind(waits)
        .bind(signals)
        .bind(backoffs)
        .bind(arrived)
        .bind(interval(slack))
        .bind(self.events())
        .bind(answers)
        .bind(REFUSALS_MAX)
        .fetch_all(&self.on.place)
        .await
        .map_err(ledger_error)?;
        if self.dry_run {
            self.end_dry_run(settlements).await?;
        }
        failpoint::at(Point::AfterSettle).await?;
        rows.iter()
            .map(|row| CampaignId::parse(row.get(0)).map_err(|_| unreadable("a campaign id")))
            .collect()
    }
}

impl Ledger {
    /// Nobody was called, so nobody will tell of an end. Running it again changes nothing.
    async fn end_dry_run(&self, settlements: &[Settlement]) -> Result<(), LedgerError> {
        let placed = settlements.iter().filter(|s| matches!(s.became, Became::Placed { .. }));
        let ends: Vec<End> = placed.map(|s| End::dry_run(s.attempt)).collect();
        self.finish(&ends).await.map(drop)
    }
}

pub(super) fn no_leave(word: &str) -> Result<NoLeave, LedgerError> {
    Ok(match word {
        "gone" => NoLeave::Gone,
        "fenced" => NoLeave::Fenced,
        "late" => NoLeave::Late,
        "stale" => NoLeave::Stale,
        word => NoLeave::Stopped(Reason::parse(word).ok_or_else(|| unreadable("a verdict"))?),
    })
}

fn outcome(became: &Became) -> &'static str {
    match became {
        Became::Placed { .. } => "placed",
        Became::Unknown => "unknown",
        Became::Refused { .. } => "refused",
        Became::Retry { .. } => "retry",
        Became::Unsent { .. } => "unsent",
    }
}

fn reason(became: &Became) -> Option<Reason> {
    match became {
        Became::Placed { .. } => None,
        Became::Unknown => Some(Reason::Unconfirmed),
        Became::Refused { reason } | Became::Retry { reason, .. } | Became::Unsent { reason, .. } => {
            Some(*reason)
        }
    }
}

fn ready_in_ms(became: &Became) -> Option<i64> {
    match became {
        Became::Retry { ready_in, .. } | Became::Unsent { ready_in, .. } => {
            ready_in.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
        }
        Became::Placed { .. } | Became::Unknown | Became::Refused { .. } => None,
    }
}

fn signal_word(signal: Signal) -> &'static str {
    match signal {
        Signal::Ok => "ok",
        Signal::Busy { .. } => "busy",
        Signal::Unknown => "unknown",
    }
}

fn backoff_ms(signal: Signal) -> Option<i32> {
    match signal {
        Signal::Busy { retry_after: Some(wait) } => Some(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)),
        Signal::Busy { retry_after: None } | Signal::Ok | Signal::Unknown => None,
    }
}

//! Evidence: what was learned of attempts that nobody knew of, and a person's word on them.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::ledger::{Ledger, interval, ledger_error, unreadable};
use crate::core::events::EventTypes;
use crate::core::ids::{AccountName, AttemptId, CallId, CampaignId, ModelId};
use crate::core::phone::E164;
use crate::core::reconcile::{GiveUp, Unknown};
use crate::engine::ports::LedgerError;
use crate::engine::reconcile::{EvidenceLedger, Heard, Sought};
use crate::failpoint::{self, Point};

/// Attempts in one statement.
const BATCH_MAX: usize = 500;

impl EvidenceLedger for Ledger {
    async fn unknown(&self, account: &AccountName, max: usize) -> Result<Sought, LedgerError> {
        let rows = sqlx::query(
            "select l.model_id, l.attempt_id, l.campaign_id, a.phone, l.slot, l.since, l.looks, l.looked_at,
                    extract(epoch from l.clear_until - l.clear_since - outdial.stepped(l.clear_since))::float8, clock_timestamp(),
                    l.attempt_no > 1 and exists (select 1 from outdial.attempts b where b.job_no = l.job_no and b.attempt_no < l.attempt_no
                                                 and b.state = 'not_placed' and b.reason = 'unconfirmed')
             from outdial.live l join outdial.attempts a using (job_no, attempt_no)
             where l.account = $1 and l.state = 'unknown' order by l.slot limit $2",
        )
        .bind(account.as_str())
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        let mut sought = Sought::default();
        for row in rows {
            let model = ModelId::parse(row.get(0)).map_err(|_| unreadable("an agent's id"))?;
            let unknown = Unknown {
                attempt: AttemptId(row.get(1)),
                campaign: CampaignId::parse(row.get(2)).map_err(|_| unreadable("a campaign id"))?,
                phone: E164::from_canonical(row.get(3)).ok_or_else(|| unreadable("a phone number"))?,
                slot: row.get(4),
                since: row.get(5),
                looks: row.get::<i32, _>(6).unsigned_abs(),
                looked_at: row.get(7),
                clear_for: row.get::<Option<f64>, _>(8).and_then(|s| Duration::try_from_secs_f64(s).ok()),
                redialed: row.get(10),
            };
            sought.now = row.get(9);
            sought.by_agent.entry(model).or_default().push(unknown);
        }
        Ok(sought)
    }

    async fn known_calls(
        &self,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        calls: &[CallId],
    ) -> Result<HashSet<CallId>, LedgerError> {
        let calls: Vec<&str> = calls.iter().map(CallId::as_str).collect();
        // By time, which has an index; call ids have none.
        let known: Vec<String> = sqlx::query_scalar(
            "select call_id from outdial.attempts
             where state not in ('not_placed', 'closed') and submitted_at between $1 - interval '10 minutes' and $2 and call_id = any ($3)",
        )
        .bind(from)
        .bind(to)
        .bind(calls)
        .fetch_all(&self.on.rest)
        .await
        .map_err(ledger_error)?;
        Ok(known.iter().filter_map(|id| CallId::parse(id).ok()).collect())
    }

    async fn found(
        &self,
        account: &AccountName,
        calls: &[(AttemptId, CallId)],
    ) -> Result<Heard, LedgerError> {
        failpoint::at(Point::BeforeFound).await?;
        let attempts: Vec<Uuid> = calls.iter().map(|(attempt, _)| attempt.0).collect();
        let ids: Vec<&str> = calls.iter().map(|(_, call_id)| call_id.as_str()).collect();
        let (news, twice): (i32, i32) =
            sqlx::query_as("select news, twice from outdial.found($1, $2, $3, $4)")
                .bind(account.as_str())
                .bind(attempts)
                .bind(ids)
                .bind(self.events())
                .fetch_one(&self.on.rest)
                .await
                .map_err(ledger_error)?;
        failpoint::at(Point::AfterFound).await?;
        let count = |n: i32| usize::try_from(n).unwrap_or(0);
        Ok(Heard { news: count(news), twice: count(twice) })
    }

    async fn looked(
        &self,
        attempts: &[AttemptId],
        complete: bool,
        began: DateTime<Utc>,
        gap: Duration,
    ) -> Result<(), LedgerError> {
        for batch in attempts.chunks(BATCH_MAX) {
            let batch: Vec<Uuid> = batch.iter().map(|attempt| attempt.0).collect();
            sqlx::query("select outdial.looked($1, $2, $3, $4)")
                .bind(batch)
                .bind(complete)
                .bind(began)
                .bind(interval(gap))
                .execute(&self.on.rest)
                .await
                .map_err(ledger_error)?;
        }
        Ok(())
    }

    async fn give_up(&self, attempts: &[(AttemptId, GiveUp)]) -> Result<usize, LedgerError> {
        failpoint::at(Point::BeforeGiveUp).await?;
        let mut over = 0;
        for batch in attempts.chunks(BATCH_MAX) {
            let ids: Vec<Uuid> = batch.iter().map(|(attempt, _)| attempt.0).collect();
            let (to, clear_for): (Vec<&str>, Vec<Option<i64>>) =
                batch.iter().map(|(_, verdict)| given_up(verdict)).unzip();
            let some: i32 = sqlx::query_scalar(
                "select outdial.give_up($1, $2, array(select c * interval '1 millisecond'
                     from unnest($3::bigint[]) with ordinality x(c, o) order by o), $4)",
            )
            .bind(ids)
            .bind(to)
            .bind(clear_for)
            .bind(self.events())
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
            over += usize::try_from(some).unwrap_or(0);
        }
        failpoint::at(Point::AfterGiveUp).await?;
        Ok(over)
    }
}

fn given_up(verdict: &GiveUp) -> (&'static str, Option<i64>) {
    let ms = |length: Duration| i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    match verdict {
        GiveUp::Review { clear_for } => ("review", clear_for.map(ms)),
        GiveUp::Redial { clear_for } => ("redial", Some(ms(*clear_for))),
    }
}

impl Ledger {
    /// Recounts what holds places under limits; gives by how many the counters were wrong. 0, unless something is.
    ///
    /// # Errors
    /// The database's.
    pub async fn audit_places(&self) -> Result<u64, LedgerError> {
        let drift: i64 = sqlx::query_scalar("select outdial.audit_places()")
            .fetch_one(&self.on.rest)
            .await
            .map_err(ledger_error)?;
        Ok(drift.unsigned_abs())
    }
}

/// What a person says of attempts in review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The call was placed; with its id the end is polled for.
    Placed { call_id: Option<CallId> },
    /// It was not: the jobs wait to be dialed again.
    NotPlaced,
    /// Nobody will know: the jobs are done.
    Closed,
}

/// Which attempts in review are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reviewed {
    Attempt(AttemptId),
    /// All of a campaign.
    Campaign(CampaignId),
}

/// The database's time.
///
/// # Errors
/// The database's.
pub async fn now(pool: &PgPool) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await
}

/// Says what became of attempts that were in review by then, some hundreds at most; gives how many. 0: none of these is in review (any
/// more).
///
/// # Errors
/// The database's.
pub async fn resolve_some(
    pool: &PgPool,
    which: &Reviewed,
    resolution: &Resolution,
    until: DateTime<Utc>,
    events: EventTypes,
) -> Result<usize, sqlx::Error> {
    let (attempt, campaign) = match which {
        Reviewed::Attempt(attempt) => (Some(attempt.0), None),
        Reviewed::Campaign(campaign) => (None, Some(campaign.as_str())),
    };
    let (outcome, call_id) = match resolution {
        Resolution::Placed { call_id } => ("placed", call_id.as_ref().map(CallId::as_str)),
        Resolution::NotPlaced => ("not_placed", None),
        Resolution::Closed => ("closed", None),
    };
    let resolved = sqlx::query(
        "select outdial.resolve(array(
             select attempt_id from outdial.live where state = 'review' and (attempt_id = $1 or campaign_id = $2) and since <= $7 limit $3),
             $4, $5, $6)",
    )
    .bind(attempt)
    .bind(campaign)
    .bind(i64::try_from(BATCH_MAX).unwrap_or(i64::MAX))
    .bind(outcome)
    .bind(call_id)
    .bind(events.names())
    .bind(until)
    .fetch_all(pool)
    .await?;
    Ok(resolved.len())
}

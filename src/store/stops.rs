//! Stopping and letting go on: campaigns, accounts, single jobs. Once such a function has returned, nothing is
//! authorised that it forbids.

use sqlx::{PgPool, Row};

use crate::core::events::EventTypes;
use crate::core::ids::{AccountName, CampaignId, JobId, JobNo};
use crate::core::phone::E164;

type Answer<T> = Result<T, sqlx::Error>;

/// Jobs canceled by one statement.
const CANCEL_BATCH: i64 = 500;
/// A job that came to wait again between being asked to be canceled and being looked at is asked again.
const CANCEL_TRIES: usize = 3;

/// What a campaign may be told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CampaignTo {
    Active,
    Paused,
    Canceled,
}

/// What an account may be told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountTo {
    Active,
    Paused,
}

/// What a number may be told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberTo {
    Active,
    Resting,
}

impl NumberTo {
    pub const fn as_str(self) -> &'static str {
        match self {
            NumberTo::Active => "active",
            NumberTo::Resting => "resting",
        }
    }
}

impl CampaignTo {
    pub const fn as_str(self) -> &'static str {
        match self {
            CampaignTo::Active => "active",
            CampaignTo::Paused => "paused",
            CampaignTo::Canceled => "canceled",
        }
    }
}

impl AccountTo {
    pub const fn as_str(self) -> &'static str {
        match self {
            AccountTo::Active => "active",
            AccountTo::Paused => "paused",
        }
    }
}

/// Sets a campaign's state; gives what it was, `None` where there is no such campaign. One that was canceled stays so.
///
/// # Errors
/// The database's.
pub async fn set_campaign(
    pool: &PgPool,
    campaign: &CampaignId,
    to: CampaignTo,
    reason: Option<&str>,
    events: EventTypes,
) -> Answer<Option<String>> {
    sqlx::query_scalar("select outdial.set_campaign($1, $2, $3, $4)")
        .bind(campaign.as_str())
        .bind(to.as_str())
        .bind(reason)
        .bind(events.names())
        .fetch_one(pool)
        .await
}

/// Whether a worker or a command has seen the account.
///
/// # Errors
/// The database's.
pub async fn knows_account(pool: &PgPool, account: &AccountName) -> Answer<bool> {
    sqlx::query_scalar("select exists (select from outdial.accounts where name = $1)")
        .bind(account.as_str())
        .fetch_one(pool)
        .await
}

/// Sets an account's state; gives what it was.
///
/// # Errors
/// The database's.
pub async fn set_account(
    pool: &PgPool,
    account: &AccountName,
    to: AccountTo,
    reason: Option<&str>,
    events: EventTypes,
) -> Answer<String> {
    sqlx::query_scalar("select outdial.set_account($1, $2, $3, $4)")
        .bind(account.as_str())
        .bind(to.as_str())
        .bind(reason)
        .bind(events.names())
        .fetch_one(pool)
        .await
}

/// Sets a number's state; gives what it was, `None` where neither rules nor pools know it.
///
/// # Errors
/// The database's.
pub async fn set_number(
    pool: &PgPool,
    number: &E164,
    to: NumberTo,
    reason: Option<&str>,
    events: EventTypes,
) -> Answer<Option<String>> {
    sqlx::query_scalar("select outdial.set_number($1, $2, $3, $4)")
        .bind(number.as_str())
        .bind(to.as_str())
        .bind(reason)
        .bind(events.names())
        .fetch_one(pool)
        .await
}

/// Stops all calls of all accounts, or lets them go on; gives how it was.
///
/// # Errors
/// The database's.
pub async fn set_kill_switch(pool: &PgPool, on: bool) -> Answer<bool> {
    sqlx::query_scalar("select outdial.set_kill_switch($1)").bind(on).fetch_one(pool).await
}

/// Cancels some of the waiting jobs of a campaign, 500 at most: of those received after `after`, the oldest. Gives how many,
/// and the last that was looked at; `None`: there is no other.
///
/// # Errors
/// The database's.
pub async fn cancel_some_of(
    pool: &PgPool,
    campaign: &CampaignId,
    after: JobNo,
    events: EventTypes,
) -> Answer<(usize, Option<JobNo>)> {
    let row = sqlx::query(
        "with next as materialized (
             select job_no, job_id from outdial.jobs
             where campaign_id = $1 and job_no > $2 and state = 'waiting' order by job_no limit $3)
         select (select count(*) from outdial.cancel(array(select job_id from next), $4)), (select max(job_no) from next)",
    )
    .bind(campaign.as_str())
    .bind(after.0)
    .bind(CANCEL_BATCH)
    .bind(events.names())
    .fetch_one(pool)
    .await?;
    let (canceled, last): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok((usize::try_from(canceled).unwrap_or(0), last.map(JobNo)))
}

/// What became of the wish to cancel a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    Done,
    /// It doesn't wait now: its state. In flight, it may wait again later.
    TooLate(String),
    NoSuchJob,
}

/// Cancels a job that has no attempt in flight.
///
/// # Errors
/// The database's.
pub async fn cancel_job(pool: &PgPool, job: &JobId, events: EventTypes) -> Answer<Cancelled> {
    let mut state = None;
    // Between the two statements it may have come to wait again.
    for _ in 0..CANCEL_TRIES {
        let canceled = sqlx::query("select job_id from outdial.cancel(array[$1], $2)")
            .bind(job.as_str())
            .bind(events.names())
            .fetch_optional(pool)
            .await?;
        if canceled.is_some() {
            return Ok(Cancelled::Done);
        }
        state = sqlx::query_scalar::<_, String>("select state from outdial.jobs where job_id = $1")
            .bind(job.as_str())
            .fetch_optional(pool)
            .await?;
        if state.as_deref() != Some("waiting") {
            break;
        }
    }
    Ok(state.map_or(Cancelled::NoSuchJob, Cancelled::TooLate))
}

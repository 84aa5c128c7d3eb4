//! What may be read.

use std::collections::HashMap;

use axum::Json;
use axum::http::{HeaderName, header};
use chrono::{DateTime, Datelike};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::access::{Asked, Body, Named, Reads};
use super::page::{self, Listed};
use super::problem::{Document, Problem};
use super::rows::{Call, Campaign, InReview, Job, Number, Story, Version, Waiting};
use crate::core::decide::CampaignState;
use crate::core::ids::{CampaignId, JobId, ModelId};
use crate::core::phone::E164;
use crate::core::states::{AttemptState, Disposition, JobState, NumberState};
use crate::engine::explained::ExplainError;
use crate::engine::ledger::LedgerError;
use crate::http::recent;
use crate::store::pages::{self, CallsWanted, From, JobsWanted, Page};
use crate::store::{Ledger, reporting};

type Answer<T> = Result<Json<T>, Problem>;
/// The same with its age: it may have been read for somebody who asked before.
type Aged<T> = Result<([(HeaderName, String); 1], Json<T>), Problem>;

fn aged<K, T>(list: &str, page: recent::Answer<Page<K>>) -> Aged<Listed<T>>
where
    K: Clone + Serialize,
    T: DeserializeOwned,
{
    let listed = Listed::of(list, Page::clone(&page.what))?;
    Ok(([(header::AGE, page.age.as_secs().to_string())], Json(listed)))
}

/// A number of ours, as lists show it; a `+` that wasn't encoded arrives as a space.
pub(super) fn e164(text: &str) -> Option<E164> {
    E164::from_canonical(
        &text.strip_prefix(' ').map_or_else(|| text.to_owned(), |digits| format!("+{digits}")),
    )
}

/// The fields of every query of a list, after its own.
macro_rules! query {
    ($name:ident { $($(#[$meta:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $name {
            $($(#[$meta])* $field: Option<$type>,)*
            /// At most so many rows.
            #[param(minimum = 1, maximum = 200, default = 50)]
            limit: Option<u32>,
            /// The `next_cursor` of the page before.
            cursor: Option<String>,
        }
    };
}

query!(JobsAsked {
    /// Only of this campaign.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    campaign_id: CampaignId,
    state: JobState,
});
query!(CallsAsked {
    /// Only of this job.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    job_id: JobId,
    /// Only of this campaign.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    campaign_id: CampaignId,
    state: AttemptState,
    disposition: Disposition,
    /// Only from this number.
    #[param(pattern = "^\\+[1-9][0-9]{6,14}$")]
    from_phone_number: String,
});
query!(CampaignsAsked { state: CampaignState });
query!(NumbersAsked {
    state: NumberState,
    /// Only of this agent.
    #[param(value_type = Option<String>, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,128}$")]
    model_id: ModelId,
});
query!(WaitingAsked {
    /// Only of this campaign.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    campaign_id: CampaignId,
});
query!(ReviewAsked {
    /// Only of this campaign.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    campaign_id: CampaignId,
});
query!(VersionsAsked {});

/// Jobs, the last received first
#[utoipa::path(get, path = "/api/v1/jobs", tag = "read", params(JobsAsked), responses(
    (status = 200, body = Listed<Job>), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn jobs(reads: Reads, Asked(asked): Asked<JobsAsked>) -> Answer<Listed<Job>> {
    let wanted =
        JobsWanted { campaign: asked.campaign_id.as_ref(), state: asked.state.map(JobState::as_str) };
    let from = page::from("jobs", asked.limit, asked.cursor.as_deref())?;
    let page = pages::jobs(&reads.ledger.reads, wanted, from).await.map_err(Problem::of_database)?;
    let listed = Listed::of("jobs", page)?;
    Ok(Json(if reads.sees_phones { listed } else { listed.each(Job::mask) }))
}

/// A job's whole story: state, what holds it, every attempt with its decision
#[utoipa::path(get, path = "/api/v1/jobs/{job_id}", tag = "read", params(("job_id" = String, Path, pattern = "^~?[A-Za-z0-9._:-]{1,128}$")), responses(
    (status = 200, body = Story), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn job(reads: Reads, name: Named) -> Answer<Story> {
    let job = name.parse("the job id", JobId::parse)?;
    let story = reporting::job_story(&reads.ledger.reads, &job).await.map_err(Problem::of_database)?;
    let story = story.ok_or_else(|| {
        Problem::missing("there is no such job; it may not be consumed yet, or be dead-lettered")
    })?;
    let story = serde_json::to_value(story).and_then(serde_json::from_value);
    let mut story: Story = story.map_err(|error| Problem::of_rows("jobs", &error))?;
    if !reads.sees_phones {
        story.mask();
    }
    Ok(Json(story))
}

/// Attempts, those of the last received jobs first
#[utoipa::path(get, path = "/api/v1/calls", tag = "read", params(CallsAsked), responses(
    (status = 200, body = Listed<Call>), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn calls(reads: Reads, Asked(asked): Asked<CallsAsked>) -> Answer<Listed<Call>> {
    let number =
        asked.from_phone_number.as_deref().map(|text| e164(text).ok_or("from_phone_number is not E.164"));
    let number = number.transpose().map_err(Problem::bad)?;
    let wanted = CallsWanted {
        job: asked.job_id.as_ref(),
        campaign: asked.campaign_id.as_ref(),
        state: asked.state.map(AttemptState::as_str),
        disposition: asked.disposition.map(Disposition::as_str),
        number: number.as_ref(),
    };
    let from = page::from("calls", asked.limit, asked.cursor.as_deref())?;
    let page = pages::calls(&reads.ledger.reads, wanted, from).await.map_err(Problem::of_database)?;
    let listed = Listed::of("calls", page)?;
    Ok(Json(if reads.sees_phones { listed } else { listed.each(Call::mask) }))
}

/// Campaigns: jobs by state, pace, expected finish
#[utoipa::path(get, path = "/api/v1/campaigns", tag = "read", params(CampaignsAsked), responses(
    (status = 200, body = Listed<Campaign>, headers(("Age" = u64, description = "How many seconds ago it was read"))), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn campaigns(reads: Reads, Asked(asked): Asked<CampaignsAsked>) -> Aged<Listed<Campaign>> {
    let from = page::from("campaigns", asked.limit, asked.cursor.as_deref())?;
    let (reports, epoch) = reads.reports().await?;
    let page = reports.campaigns(epoch, asked.state, from).await;
    aged("campaigns", page.map_err(Problem::of_database)?)
}

/// Numbers: state, and what is used of each limit
#[utoipa::path(get, path = "/api/v1/numbers", tag = "read", params(NumbersAsked), responses(
    (status = 200, body = Listed<Number>, headers(("Age" = u64, description = "How many seconds ago it was read"))), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn numbers(reads: Reads, Asked(asked): Asked<NumbersAsked>) -> Aged<Listed<Number>> {
    let from: From<String> = page::from("numbers", asked.limit, asked.cursor.as_deref())?;
    let after =
        from.after.map(|text| E164::from_canonical(&text).ok_or_else(page::not_a_cursor)).transpose()?;
    let from = From { after, limit: from.limit, scanned_max: from.scanned_max };
    let (reports, epoch) = reads.reports().await?;
    let page = reports.numbers(epoch, asked.state, asked.model_id, from).await;
    aged("numbers", page.map_err(Problem::of_database)?)
}

/// Why jobs wait
#[utoipa::path(get, path = "/api/v1/waiting", tag = "read", params(WaitingAsked), responses(
    (status = 200, body = Listed<Waiting>, headers(("Age" = u64, description = "How many seconds ago it was read"))), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn waiting(reads: Reads, Asked(asked): Asked<WaitingAsked>) -> Aged<Listed<Waiting>> {
    let from = page::from("waiting", asked.limit, asked.cursor.as_deref())?;
    let (reports, epoch) = reads.reports().await?;
    let page = reports.waiting(epoch, asked.campaign_id, from).await;
    aged("waiting", page.map_err(Problem::of_database)?)
}

/// Attempts of which nobody knows whether they were placed, oldest first
#[utoipa::path(get, path = "/api/v1/review", tag = "read", params(ReviewAsked), responses(
    (status = 200, body = Listed<InReview>), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn review(reads: Reads, Asked(asked): Asked<ReviewAsked>) -> Answer<Listed<InReview>> {
    let from: From<(i64, Uuid)> = page::from("review", asked.limit, asked.cursor.as_deref())?;
    let date = |(us, attempt)| {
        let slot = DateTime::from_timestamp_micros(us).filter(|slot| (2000..10_000).contains(&slot.year()));
        slot.map(|slot| (slot, attempt)).ok_or_else(page::not_a_cursor)
    };
    let (limit, scanned_max) = (from.limit, from.scanned_max);
    let from = From { after: from.after.map(date).transpose()?, limit, scanned_max };
    let page = pages::review(&reads.ledger.reads, asked.campaign_id.as_ref(), from).await;
    let page = page.map_err(Problem::of_database)?;
    let next = page.next.map(|(slot, attempt)| (slot.timestamp_micros(), attempt));
    let listed = Listed::of("review", Page { rows: page.rows, next })?;
    Ok(Json(if reads.sees_phones { listed } else { listed.each(InReview::mask) }))
}

/// Versions of the routing rules, newest first
#[utoipa::path(get, path = "/api/v1/routing/versions", tag = "read", params(VersionsAsked), responses(
    (status = 200, body = Listed<Version>), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn versions(reads: Reads, Asked(asked): Asked<VersionsAsked>) -> Answer<Listed<Version>> {
    let from = page::from("versions", asked.limit, asked.cursor.as_deref())?;
    let page = pages::versions(&reads.ledger.reads, from).await.map_err(Problem::of_database)?;
    Ok(Json(Listed::of("versions", page)?))
}

/// What would become of a job now: the rule, every candidate, each exclusion. Nothing is written
///
/// What can't be a job would be dead-lettered: `outcome` is `dead_letter` then, with `reason` and `detail`.
#[utoipa::path(post, path = "/api/v1/routing/explain", tag = "read",
    request_body(content = HashMap<String, Value>, description = "A job as it would be published (`outdial schema job`); `job_id` may be absent"),
    responses((status = 200, body = Explained), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn explain(reads: Reads, body: Body) -> Answer<Value> {
    // That it is an object, before it is looked at as a job.
    let _: HashMap<String, IgnoredAny> = body.json()?;
    let ledger = Ledger::onlooker(reads.ledger.reads.clone());
    match reads.ledger.explainer.explain(&ledger, &body.0, rand::random()).await {
        Ok(explanation) => {
            serde_json::to_value(explanation).map(Json).map_err(|error| Problem::of_rows("explain", &error))
        }
        Err(ExplainError::NoJob(letter)) => Ok(Json(
            json!({ "outcome": "dead_letter", "reason": letter.reason.as_str(), "detail": letter.detail }),
        )),
        Err(ExplainError::Ledger(error @ LedgerError::Refused(_))) => {
            Err(Problem::conflict(error.to_string()))
        }
        Err(ExplainError::Ledger(error)) => Err(Problem::of_database(error)),
    }
}

/// As `outdial routing explain --json` prints it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes what others write")]
struct Explained {
    /// dial, wait, refuse, dead_letter
    outcome: String,
    /// Why not now, or not at all.
    reason: Option<String>,
    /// More of what it is made of: rule, candidates, exclusions, dates.
    #[serde(flatten)]
    more: HashMap<String, Value>,
}

//! What may be told: each answer of success says how things stand once it is given.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::access::{Body, Controls, Named};
use super::lists::e164;
use super::problem::{Document, Problem};
use crate::core::ids::{AccountName, AttemptId, Brand, CallId, CampaignId, JobId};
use crate::core::suppression::{Prefix, Scope, Suppressed, listed_phone};
use crate::store::reconcile::{self, Resolution, Reviewed};
use crate::store::stops::{self, AccountTo, CampaignTo, Cancelled, NumberTo};
use crate::store::suppressions;

const SOURCE_CHARS_MAX: usize = 200;
const REASON_CHARS_MAX: usize = 500;

/// Why something is stopped or goes on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// Shown in lists and events; up to 500 characters.
    #[schema(min_length = 1, max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$")]
    reason: Option<String>,
}

impl Why {
    fn of(body: &Body) -> Result<Self, Problem> {
        let why: Self = body.json_or_nothing()?;
        match &why.reason {
            Some(reason) => words("reason", reason, REASON_CHARS_MAX).map(|()| why),
            None => Ok(why),
        }
    }
}

fn words(name: &str, text: &str, chars_max: usize) -> Result<(), Problem> {
    let chars = text.chars().count();
    if chars == 0 || chars > chars_max || text.chars().any(char::is_control) {
        return Err(Problem::bad(format!(
            "{name} must be 1 to {chars_max} characters, none of them a control character"
        )));
    }
    Ok(())
}

/// How something stands now, and how it stood before.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stands {
    state: &'static str,
    was: String,
}

/// Cancel a job, unless an attempt is in flight
///
/// 409 where it doesn't wait: in flight, it may wait again, and can be canceled then.
#[utoipa::path(post, path = "/api/v1/jobs/{job_id}/cancel", tag = "control", params(("job_id" = String, Path, pattern = "^~?[A-Za-z0-9._:-]{1,128}$")), responses(
    (status = 200, body = CanceledJob), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn cancel_job(
    controls: Controls,
    name: Named,
    _: Body,
) -> Result<Json<CanceledJob>, Problem> {
    let job = name.parse("the job id", JobId::parse)?;
    let (_turn, ledger) = controls.turn().await?;
    let canceled = stops::cancel_job(&ledger.pool, &job, ledger.events).await;
    // Also where the answer was lost on its way.
    ledger.reports.changed();
    match canceled.map_err(Problem::of_database)? {
        Cancelled::TooLate(state) if state != "canceled" => Err(Problem::conflict(format!(
            "it can't be canceled now: it is {state}; if it comes to wait again, it can"
        ))),
        Cancelled::Done | Cancelled::TooLate(_) => {
            Ok(Json(CanceledJob { job_id: job.as_str().to_owned(), state: "canceled" }))
        }
        Cancelled::NoSuchJob => {
            Err(Problem::missing("there is no such job; it may not be consumed yet, or be dead-lettered"))
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CanceledJob {
    job_id: String,
    state: &'static str,
}

/// Stop placing a campaign's calls; its jobs wait
#[utoipa::path(post, path = "/api/v1/campaigns/{campaign_id}/pause", tag = "control", params(("campaign_id" = String, Path, pattern = "^~?[A-Za-z0-9._:-]{1,128}$")), request_body = Option<Why>, responses(
    (status = 200, body = Stands), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn pause_campaign(
    controls: Controls,
    name: Named,
    body: Body,
) -> Result<Json<Stands>, Problem> {
    set_campaign(&controls, &name, &body, CampaignTo::Paused).await
}

/// Go on with a paused campaign
#[utoipa::path(post, path = "/api/v1/campaigns/{campaign_id}/resume", tag = "control", params(("campaign_id" = String, Path, pattern = "^~?[A-Za-z0-9._:-]{1,128}$")), request_body = Option<Why>, responses(
    (status = 200, body = Stands), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn resume_campaign(
    controls: Controls,
    name: Named,
    body: Body,
) -> Result<Json<Stands>, Problem> {
    set_campaign(&controls, &name, &body, CampaignTo::Active).await
}

/// Cancel a campaign for good: its waiting jobs, and those that are still to come
///
/// Workers cancel the waiting jobs after this is answered; none of them is dialed any more. Calls under way go on.
#[utoipa::path(post, path = "/api/v1/campaigns/{campaign_id}/cancel", tag = "control", params(("campaign_id" = String, Path, pattern = "^~?[A-Za-z0-9._:-]{1,128}$")), request_body = Option<Why>, responses(
    (status = 200, body = Stands), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn cancel_campaign(
    controls: Controls,
    name: Named,
    body: Body,
) -> Result<Json<Stands>, Problem> {
    set_campaign(&controls, &name, &body, CampaignTo::Canceled).await
}

async fn set_campaign(
    controls: &Controls,
    name: &Named,
    body: &Body,
    to: CampaignTo,
) -> Result<Json<Stands>, Problem> {
    let campaign = name.parse("the campaign id", CampaignId::parse)?;
    let why = Why::of(body)?;
    let (_turn, ledger) = controls.turn().await?;
    let was = stops::set_campaign(&ledger.pool, &campaign, to, why.reason.as_deref(), ledger.events)
        .await
        .map_err(Problem::of_database)?;
    match was {
        None => Err(Problem::missing(
            "there is no such campaign: it is there from its first job or routing entry on",
        )),
        // Its waiting jobs are over: going on would only look as if they were back.
        Some(was) if was == CampaignTo::Canceled.as_str() && to != CampaignTo::Canceled => {
            Err(Problem::conflict("it is canceled, and stays so: its waiting jobs were canceled with it"))
        }
        Some(was) => Ok(Json(Stands { state: to.as_str(), was })),
    }
}

/// Stop placing an account's calls; its jobs wait
#[utoipa::path(post, path = "/api/v1/accounts/{name}/pause", tag = "control", params(("name" = String, Path, pattern = "^~?[A-Za-z0-9._:-]{1,128}$")), request_body = Option<Why>, responses(
    (status = 200, body = Stands), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn pause_account(
    controls: Controls,
    name: Named,
    body: Body,
) -> Result<Json<Stands>, Problem> {
    set_account(&controls, &name, &body, AccountTo::Paused).await
}

/// Go on with a paused account
#[utoipa::path(post, path = "/api/v1/accounts/{name}/resume", tag = "control", params(("name" = String, Path, pattern = "^~?[A-Za-z0-9._:-]{1,128}$")), request_body = Option<Why>, responses(
    (status = 200, body = Stands), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn resume_account(
    controls: Controls,
    name: Named,
    body: Body,
) -> Result<Json<Stands>, Problem> {
    set_account(&controls, &name, &body, AccountTo::Active).await
}

async fn set_account(
    controls: &Controls,
    name: &Named,
    body: &Body,
    to: AccountTo,
) -> Result<Json<Stands>, Problem> {
    let account = name.parse("the account's name", AccountName::parse)?;
    let why = Why::of(body)?;
    let (_turn, ledger) = controls.turn().await?;
    // One that no worker has registered would come to be by being stopped: a name mistyped stops nobody.
    let known = ledger.explainer.accounts.contains(&account)
        || stops::knows_account(&ledger.pool, &account).await.map_err(Problem::of_database)?;
    if !known {
        return Err(Problem::missing(
            "neither this worker's configuration nor the ledger has such an account",
        ));
    }
    let was = stops::set_account(&ledger.pool, &account, to, why.reason.as_deref(), ledger.events)
        .await
        .map_err(Problem::of_database)?;
    Ok(Json(Stands { state: to.as_str(), was }))
}

/// Call from a number no more; its jobs take others, or wait
#[utoipa::path(post, path = "/api/v1/numbers/{number}/rest", tag = "control", params(("number" = String, Path, pattern = "^\\+[1-9][0-9]{6,14}$")), request_body = Option<Why>, responses(
    (status = 200, body = Stands), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn rest_number(
    controls: Controls,
    name: Named,
    body: Body,
) -> Result<Json<Stands>, Problem> {
    set_number(&controls, &name, &body, NumberTo::Resting).await
}

/// Call from a number again, whatever state it was in
#[utoipa::path(post, path = "/api/v1/numbers/{number}/activate", tag = "control", params(("number" = String, Path, pattern = "^\\+[1-9][0-9]{6,14}$")), request_body = Option<Why>, responses(
    (status = 200, body = Stands), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn activate_number(
    controls: Controls,
    name: Named,
    body: Body,
) -> Result<Json<Stands>, Problem> {
    set_number(&controls, &name, &body, NumberTo::Active).await
}

async fn set_number(
    controls: &Controls,
    name: &Named,
    body: &Body,
    to: NumberTo,
) -> Result<Json<Stands>, Problem> {
    let number = e164(&name.0).ok_or_else(|| Problem::bad("the number is not E.164"))?;
    let why = Why::of(body)?;
    let (_turn, ledger) = controls.turn().await?;
    let was = stops::set_number(&ledger.pool, &number, to, why.reason.as_deref(), ledger.events)
        .await
        .map_err(Problem::of_database)?;
    let missing = || {
        Problem::missing("nobody knows this number: it has to be in an agent's pool, or in the routing file")
    };
    Ok(Json(Stands { state: to.as_str(), was: was.ok_or_else(missing)? }))
}

/// Whether all calls of all accounts are stopped.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    on: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Switched {
    on: bool,
    was: bool,
}

/// Stop all calls of all accounts, or let them go on
#[utoipa::path(post, path = "/api/v1/kill-switch", tag = "control", request_body = Switch, responses(
    (status = 200, body = Switched), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn kill_switch(controls: Controls, body: Body) -> Result<Json<Switched>, Problem> {
    let Switch { on } = body.json()?;
    let (_turn, ledger) = controls.turn().await?;
    let was = stops::set_kill_switch(&ledger.pool, on).await.map_err(Problem::of_database)?;
    Ok(Json(Switched { on, was }))
}

/// A phone, or all that begin so, never to be called: by anybody, or for one brand or campaign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Suppress {
    /// As people write it, with its country: +1 415 555 0123.
    phone: Option<String>,
    prefix: Option<String>,
    brand: Option<String>,
    campaign_id: Option<String>,
    /// Where it comes from; `api` where it isn't told.
    source: Option<String>,
}

impl ToSchema for Suppress {}

impl PartialSchema for Suppress {
    fn schema() -> RefOr<Schema> {
        let text =
            |pattern: &str, says: &str| json!({ "type": "string", "pattern": pattern, "description": says });
        let phone = text(
            "^\\+[1-9][0-9]{6,14}$",
            "With its country, as people write it or in E.164; one that can't be dialed is refused",
        );
        let prefix = text("^\\+[1-9][0-9]{0,14}$", "All numbers that begin so");
        let one_of = |what: (&str, &Value), scope: Option<(&str, Value)>| {
            let source = json!({ "type": ["string", "null"], "minLength": 1, "maxLength": 200, "pattern": NO_CONTROLS, "description": "Where it comes from" });
            // What isn't said may be left out, or be null.
            let nothing = json!({ "type": "null" });
            let mut properties = json!({
                "phone": nothing, "prefix": nothing, "brand": nothing, "campaign_id": nothing, "source": source
            });
            properties[what.0] = what.1.clone();
            let mut required = vec![what.0];
            if let Some((name, pattern)) = scope {
                properties[name] = pattern;
                required.push(name);
            }
            json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
        };
        let mut all = Vec::new();
        for what in [("phone", &phone), ("prefix", &prefix)] {
            all.push(one_of(what, None));
            all.push(one_of(what, Some(("brand", text(OPAQUE, "By calls in its name alone")))));
            all.push(one_of(what, Some(("campaign_id", text(KEY, "By this campaign alone")))));
        }
        described(
            json!({ "oneOf": all, "description": "A phone, or a prefix; for everybody, one brand, or one campaign" }),
        )
    }
}

const NO_CONTROLS: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$";
const OPAQUE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,128}$";
const KEY: &str = "^[A-Za-z0-9._:-]{1,128}$";

/// Where what goes with what is more than a derive can say.
fn described(schema: Value) -> RefOr<Schema> {
    // A test holds every answer and the description against each other: one that can't be read stands out.
    RefOr::T(serde_json::from_value(schema).unwrap_or_default())
}

impl Suppress {
    fn meant(self) -> Result<(Suppressed, Scope, String), Problem> {
        let what = match (&self.phone, &self.prefix) {
            (Some(phone), None) => {
                listed_phone(phone, None).map(Suppressed::Phone).map_err(|why| format!("phone {why}"))
            }
            (None, Some(prefix)) => {
                Prefix::parse(prefix).map(Suppressed::Prefix).map_err(|why| format!("prefix {why}"))
            }
            _ => Err("must have either phone or prefix".to_owned()),
        };
        let scope = match (&self.brand, &self.campaign_id) {
            (None, None) => Ok(Scope::Everywhere),
            (Some(brand), None) => {
                Brand::parse(brand).map(Scope::Brand).map_err(|why| format!("brand {why}"))
            }
            (None, Some(id)) => {
                CampaignId::parse(id).map(Scope::Campaign).map_err(|why| format!("campaign_id {why}"))
            }
            (Some(_), Some(_)) => Err("may have brand or campaign_id, not both".to_owned()),
        };
        let source = self.source.unwrap_or_else(|| "api".to_owned());
        words("source", &source, SOURCE_CHARS_MAX)?;
        Ok((what.map_err(Problem::bad)?, scope.map_err(Problem::bad)?, source))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Added {
    /// False: it stood there already.
    added: bool,
}

/// Never call a phone again
///
/// 201 where it is new, 200 where it stood there already; either way it holds once this is answered.
#[utoipa::path(post, path = "/api/v1/suppressions", tag = "control", request_body = Suppress, responses(
    (status = 201, body = Added), (status = 200, body = Added), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn suppress(controls: Controls, body: Body) -> Result<(StatusCode, Json<Added>), Problem> {
    let (what, scope, source) = body.json::<Suppress>()?.meant()?;
    let (_turn, ledger) = controls.turn().await?;
    let added = suppressions::add(&ledger.pool, &what, &scope, &source).await;
    let added = added.map_err(Problem::of_database)?;
    Ok((if added { StatusCode::CREATED } else { StatusCode::OK }, Json(Added { added })))
}

/// What a person says became of an attempt in review.
#[derive(Debug, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Resolve {
    /// It was placed; by which call, where that is known: its end is then learned.
    Placed { call_id: Option<String> },
    /// It was not: the job is dialed again.
    NotPlaced {},
    /// Nobody will know: the job is done.
    Closed {},
}

impl ToSchema for Resolve {}

impl PartialSchema for Resolve {
    fn schema() -> RefOr<Schema> {
        let one = |outcome: &str, says: &str, mut properties: Value| {
            properties["outcome"] = json!({ "type": "string", "enum": [outcome] });
            json!({ "type": "object", "description": says, "required": ["outcome"], "properties": properties, "additionalProperties": false })
        };
        let call = json!({ "call_id": { "type": ["string", "null"], "pattern": OPAQUE, "description": "The provider's id of the call: its end is then learned" } });
        described(json!({ "oneOf": [
            one("placed", "It was placed", call),
            one("not_placed", "It was not: the job is dialed again", json!({})),
            one("closed", "Nobody will know: the job is done", json!({})),
        ] }))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Resolved {
    attempt_id: Uuid,
    resolved: bool,
}

/// Say what became of an attempt in review
#[utoipa::path(post, path = "/api/v1/review/{attempt_id}/resolve", tag = "control", params(("attempt_id" = Uuid, Path)), request_body = Resolve, responses(
    (status = 200, body = Resolved), (status = "4XX", body = Document, content_type = "application/problem+json"), (status = "5XX", body = Document, content_type = "application/problem+json")))]
pub(super) async fn resolve(controls: Controls, name: Named, body: Body) -> Result<Json<Resolved>, Problem> {
    let attempt_id = name.parse("the attempt id is a UUID:", Uuid::parse_str)?;
    let resolution = match body.json()? {
        Resolve::Placed { call_id } => {
            let call_id = call_id.as_deref().map(CallId::parse).transpose();
            Resolution::Placed { call_id: call_id.map_err(|why| Problem::bad(format!("call_id {why}")))? }
        }
        Resolve::NotPlaced {} => Resolution::NotPlaced,
        Resolve::Closed {} => Resolution::Closed,
    };
    let (_turn, ledger) = controls.turn().await?;
    let until = reconcile::now(&ledger.pool).await.map_err(Problem::of_database)?;
    let which = Reviewed::Attempt(AttemptId(attempt_id));
    let resolved = reconcile::resolve_some(&ledger.pool, &which, &resolution, until, ledger.events).await;
    ledger.reports.changed();
    match resolved.map_err(Problem::of_database)? {
        0 => Err(Problem::missing("it is not in review (any more)")),
        _ => Ok(Json(Resolved { attempt_id, resolved: true })),
    }
}

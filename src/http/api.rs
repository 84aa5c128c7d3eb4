//! `/api/v1`: what programs may ask and tell. Each answer that is no success is a problem document (RFC 9457).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::core::events::EventTypes;
use crate::core::ids::{Brand, CampaignId, JobId};
use crate::core::suppression::{Prefix, Scope, Suppressed, listed_phone};
use crate::store::stops::{self, Cancelled};
use crate::store::{Pool, suppressions};

const BODY_BYTES_MAX: usize = 16 << 10;
/// From the head of a request to the end of its body, waiting for its turn included.
const READ_MAX: Duration = Duration::from_secs(10);
/// Requests that are worked on at a time: each may hold a connection to the database, and the worker needs some.
const AT_ONCE: usize = 4;
const SOURCE_CHARS_MAX: usize = 200;

/// The API, once the worker has its database.
#[derive(Debug, Clone, Default)]
pub struct Api(Arc<OnceLock<Ledger>>);

#[derive(Debug, Clone)]
struct Ledger {
    pool: Pool,
    events: EventTypes,
}

impl Api {
    /// From here on it answers; once.
    pub fn open(&self, pool: Pool, events: EventTypes) {
        drop(self.0.set(Ledger { pool, events }));
    }
}

#[derive(Debug, Clone)]
struct Parts {
    api: Api,
    /// `OUTDIAL_API_TOKEN`
    token: Option<SecretString>,
    turns: Arc<Semaphore>,
}

pub(super) fn router(api: Api, token: Option<SecretString>) -> Router {
    Router::new()
        .route("/api/v1/suppressions", post(suppress))
        .route("/api/v1/jobs/{job_id}/cancel", post(cancel))
        .with_state(Parts { api, token, turns: Arc::new(Semaphore::new(AT_ONCE)) })
}

/// Why a request was not done.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("refused");
        let body = json!({ "title": title, "status": self.status.as_u16(), "detail": self.detail });
        let mut response = (self.status, body.to_string()).into_response();
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whoever has no token may do nothing, also where none is set.
fn admit(parts: &Parts, headers: &HeaderMap) -> Result<Ledger, Problem> {
    let Some(token) = &parts.token else {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "no token is set: start the worker with OUTDIAL_API_TOKEN",
        ));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    let given =
        given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    // Digests, so that how long a comparison takes says nothing of the token.
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    if given.is_none_or(|given| digest(given) != digest(token.expose_secret())) {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "the bearer token must be the one of OUTDIAL_API_TOKEN",
        ));
    }
    parts
        .api
        .0
        .get()
        .cloned()
        .ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the worker is starting"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suppress {
    phone: Option<String>,
    prefix: Option<String>,
    brand: Option<String>,
    campaign_id: Option<String>,
    source: Option<String>,
}

impl Suppress {
    fn meant(self) -> Result<(Suppressed, Scope, String), String> {
        let what = match (&self.phone, &self.prefix) {
            (Some(phone), None) => {
                listed_phone(phone, None).map(Suppressed::Phone).map_err(|why| format!("phone {why}"))?
            }
            (None, Some(prefix)) => {
                Prefix::parse(prefix).map(Suppressed::Prefix).map_err(|why| format!("prefix {why}"))?
            }
            _ => return Err("must have either phone or prefix".to_owned()),
        };
        let scope = match (&self.brand, &self.campaign_id) {
            (None, None) => Scope::Everywhere,
            (Some(brand), None) => Scope::Brand(Brand::parse(brand).map_err(|why| format!("brand {why}"))?),
            (None, Some(id)) => {
                Scope::Campaign(CampaignId::parse(id).map_err(|why| format!("campaign_id {why}"))?)
            }
            (Some(_), Some(_)) => return Err("may have brand or campaign_id, not both".to_owned()),
        };
        let source = self.source.unwrap_or_else(|| "api".to_owned());
        if source.is_empty()
            || source.chars().count() > SOURCE_CHARS_MAX
            || source.chars().any(char::is_control)
        {
            return Err(format!(
                "source must be 1 to {SOURCE_CHARS_MAX} characters, none of them a control character"
            ));
        }
        Ok((what, scope, source))
    }
}

/// The body of a request whose turn it is. Nothing is read for whoever wasn't admitted.
async fn read(parts: &Parts, request: Request) -> Result<(SemaphorePermit<'_>, Bytes), Problem> {
    let reading = async {
        let turn = parts.turns.acquire().await.map_err(|_| busy())?;
        let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
            let why = format!("the body could not be read, or is longer than {BODY_BYTES_MAX} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why)
        })?;
        Ok((turn, body))
    };
    tokio::time::timeout(READ_MAX, reading).await.unwrap_or_else(|_| Err(busy()))
}

fn busy() -> Problem {
    let why = format!("nothing was done within {} s; try again", READ_MAX.as_secs());
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// What is wrong with a body, without its words: they may be somebody's number.
fn fault_of(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Syntax => "is not JSON",
        Category::Eof | Category::Io => "ends too soon",
        Category::Data => "has an unknown field, or one of another type than text",
    };
    format!("the body {what}, at line {} column {}", error.line(), error.column())
}

/// 201 where it is new, 200 where it stood there already; either way it holds once this is answered.
async fn suppress(State(parts): State<Parts>, request: Request) -> Result<Response, Problem> {
    let Ledger { pool, .. } = admit(&parts, request.headers())?;
    let (_turn, body) = read(&parts, request).await?;
    let bad = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let asked: Suppress = serde_json::from_slice(&body).map_err(|error| bad(fault_of(&error)))?;
    let (what, scope, source) = asked.meant().map_err(bad)?;
    let added = suppressions::add(&pool, &what, &scope, &source).await.map_err(|error| {
        tracing::warn!(%error, "api.suppressions.failed");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database did not take it; try again")
    })?;
    let status = if added { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({ "added": added }))).into_response())
}

/// 200 once it is canceled, also where it was before; 409 where it doesn't wait, with its state: in flight, it may wait again.
async fn cancel(
    State(parts): State<Parts>,
    job: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Ledger { pool, events } = admit(&parts, request.headers())?;
    let _turn = read(&parts, request).await?;
    let bad = |why: String| Problem::new(StatusCode::BAD_REQUEST, format!("the job id {why}"));
    let Path(job) = job.map_err(|_| bad("is not readable".to_owned()))?;
    let job = JobId::parse(&job).map_err(|why| bad(why.to_string()))?;
    let canceled = stops::cancel_job(&pool, &job, events).await.map_err(|error| {
        tracing::warn!(%error, "api.cancel.failed");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database did not take it; try again")
    })?;
    match canceled {
        Cancelled::TooLate(state) if state != "canceled" => {
            let why = format!("it can't be canceled now: it is {state}; if it comes to wait again, it can");
            Err(Problem::new(StatusCode::CONFLICT, why))
        }
        Cancelled::Done | Cancelled::TooLate(_) => {
            Ok(Json(json!({ "job_id": job.as_str(), "state": "canceled" })).into_response())
        }
        Cancelled::NoSuchJob => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "there is no such job; it may not be consumed yet, or be dead-lettered",
        )),
    }
}

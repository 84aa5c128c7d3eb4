//! `POST /webhooks/synthflow/{account}`: the provider says that a call has ended. It is believed in nothing but that the
//! call is to be looked up.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::core::ids::AccountName;
use crate::core::webhook::{SIGNATURE_HEADERS, call_id_of, is_signed, may_be_signature};
use crate::engine::hints::{Inbox, Offered};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::ByResult;

/// A transcript of a long call is some hundred kilobytes.
const BODY_BYTES_MAX: usize = 2 << 20;
/// Bodies that are read at the same time, of all accounts.
const READING_MAX: usize = 32;
/// For the whole body to come.
const READ_MAX: Duration = Duration::from_secs(10);

/// What is needed to believe an account's webhooks, and where they go.
pub struct Door {
    pub secret: SecretString,
    pub inbox: Inbox,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("inbox", &self.inbox).finish_non_exhaustive()
    }
}

/// The accounts' doors, once the worker has its accounts.
#[derive(Debug, Clone, Default)]
pub struct Webhooks(Arc<OnceLock<HashMap<AccountName, Door>>>);

impl Webhooks {
    /// From here on webhooks are taken; once.
    pub fn open(&self, doors: HashMap<AccountName, Door>) {
        drop(self.0.set(doors));
    }
}

#[derive(Debug, Clone)]
struct Parts {
    webhooks: Webhooks,
    metrics: Arc<Metrics>,
    /// A permit for each body that is being read.
    reading: Arc<Semaphore>,
}

pub(super) fn router(webhooks: Webhooks, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/webhooks/synthflow", post(of_default))
        .route("/webhooks/synthflow/{account}", post(of_account))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Parts { webhooks, metrics, reading: Arc::new(Semaphore::new(READING_MAX)) })
}

async fn of_default(State(parts): State<Parts>, request: Request) -> Response {
    take(&parts, AccountName::default_account().as_str(), request).await
}

async fn of_account(State(parts): State<Parts>, Path(account): Path<String>, request: Request) -> Response {
    take(&parts, &account, request).await
}

async fn take(parts: &Parts, account: &str, request: Request) -> Response {
    let answer = judge(parts, account, request).await;
    parts.metrics.webhooks.get_or_create(&ByResult { result: answer.word() }).inc();
    let (status, text) = answer.told();
    (status, text).into_response()
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Taken,
    NotReady,
    UnknownAccount,
    TooMany,
    TooLarge,
    TooSlow,
    Malformed,
    BadSignature,
}

impl Judged {
    const fn word(self) -> &'static str {
        match self {
            Judged::Taken => "taken",
            Judged::NotReady => "not_ready",
            Judged::UnknownAccount => "unknown_account",
            Judged::TooMany => "too_many",
            Judged::TooLarge => "too_large",
            Judged::TooSlow => "too_slow",
            Judged::Malformed => "malformed",
            Judged::BadSignature => "bad_signature",
        }
    }

    const fn told(self) -> (StatusCode, &'static str) {
        match self {
            Judged::Taken => (StatusCode::NO_CONTENT, ""),
            Judged::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "the worker is starting\n"),
            Judged::UnknownAccount => {
                (StatusCode::NOT_FOUND, "no account of that name has a webhook_secret in the configuration\n")
            }
            Judged::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too many webhooks\n"),
            Judged::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "longer than a webhook is\n"),
            Judged::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body didn't come in time\n"),
            Judged::Malformed => (StatusCode::BAD_REQUEST, "no JSON with call.call_id\n"),
            Judged::BadSignature => (StatusCode::UNAUTHORIZED, "the signature isn't the call's\n"),
        }
    }
}

async fn judge(parts: &Parts, account: &str, request: Request) -> Judged {
    let Some(doors) = parts.webhooks.0.get() else { return Judged::NotReady };
    let door = AccountName::parse(account).ok().and_then(|account| doors.get(&account));
    let Some(door) = door else { return Judged::UnknownAccount };
    if !door.inbox.admits() {
        return Judged::TooMany;
    }
    let headers = request.headers().clone();
    // Nobody's memory is taken by bodies that nobody signed, nor by more than a few at once.
    if !signatures(&headers).any(may_be_signature) {
        return Judged::BadSignature;
    }
    let Ok(_reading) = parts.reading.try_acquire() else { return Judged::TooMany };
    let body = match tokio::time::timeout(READ_MAX, Bytes::from_request(request, &())).await {
        Err(_) => return Judged::TooSlow,
        Ok(Err(BytesRejection::FailedToBufferBody(_))) => return Judged::TooLarge,
        Ok(Err(_)) => return Judged::Malformed,
        Ok(Ok(body)) => body,
    };
    let Some(call_id) = call_id_of(&body) else { return Judged::Malformed };
    let secret = door.secret.expose_secret().as_bytes();
    if !signatures(&headers).any(|signature| is_signed(secret, &call_id, signature)) {
        return Judged::BadSignature;
    }
    match door.inbox.offer(call_id) {
        Offered::Taken => Judged::Taken,
        Offered::TooMany => Judged::TooMany,
    }
}

fn signatures(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let each = SIGNATURE_HEADERS.iter().flat_map(|name| headers.get_all(*name));
    each.filter_map(|value| value.to_str().ok())
}

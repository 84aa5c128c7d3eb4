//! The routes: the vendor's under /v2, the tests' under /sandbox.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Json, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::answers::{Delivery, Reply};
use super::config::NumberConfig;
use super::control::{AccountChange, Override, SettingsChange};
use super::wire::Line;
use super::world::World;
use super::{place, read};

/// Far above any body that is a call.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Of one page of the ledger.
const LEDGER_PAGE: usize = 10_000;

#[derive(Debug)]
pub struct Shared {
    world: Mutex<World>,
    pub stop: CancellationToken,
}

impl Shared {
    pub fn new(world: World, stop: CancellationToken) -> Self {
        Self { world: Mutex::new(world), stop }
    }

    /// Held for moments only, never across an await.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Sandbox = State<Arc<Shared>>;

pub fn routes(shared: Arc<Shared>) -> Router {
    let vendor = Router::new()
        .route("/calls", post(place_call).get(list_calls))
        .route("/calls/{call_id}", get(get_call))
        .route("/assistants", get(list_assistants))
        .route("/assistants/", get(list_assistants))
        .route("/assistants/{model_id}", get(get_assistant))
        .route("/assistants/{model_id}/phone_numbers", put(attach))
        .route("/assistants/{model_id}/phone_numbers/{slug}", delete(detach))
        .route("/numbers", get(list_numbers));
    let control = Router::new()
        .route("/ledger", get(ledger))
        .route("/stats", get(async |State(s): Sandbox| Json(s.world().stats())))
        .route("/overrides", post(add_override).delete(clear_overrides))
        .route("/accounts/{name}", put(change_account))
        .route("/agents/{model_id}", put(set_pool).delete(remove_agent))
        .route("/settings", put(change_settings))
        .route("/calls/end", post(end_calls));
    Router::new()
        .nest("/v2", vendor)
        .nest("/sandbox", control)
        .fallback(async || (StatusCode::NOT_FOUND, Json(json!({ "detail": "Not Found" }))))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

fn key_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn place_call(
    State(shared): Sandbox,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response {
    // Before anything else: the moment that limits are judged by.
    let at_us = line.read_at_us();
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else {
        return send(Reply::field(&["body"], "the body is too long or was cut off"));
    };
    let mut reply = place::receive(&mut shared.world(), at_us, key_of(&head.headers), &body);
    let delay = std::mem::take(&mut reply.delay);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match reply.delivery {
        Delivery::Whole => send(reply),
        Delivery::Cut => cut_off(reply),
        Delivery::Close => {
            line.cut();
            send(reply)
        }
        Delivery::Hang => {
            shared.stop.cancelled().await;
            line.cut();
            send(reply)
        }
    }
}

fn send(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match reply.body {
        Some(body) => (status, Json(body)).into_response(),
        None => status.into_response(),
    };
    if let Some(seconds) = reply.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The head, the first bytes of the body, and then nothing.
fn cut_off(reply: Reply) -> Response {
    let whole = reply.body.unwrap_or_default().to_string().into_bytes();
    let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
    let parts = futures_util::stream::unfold(Some(half), async |rest| match rest {
        Some(half) => Some((Ok(half), None)),
        None => {
            // Only what was flushed before the failure gets out.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None))
        }
    });
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_LENGTH, whole.len().to_string()),
    ];
    (status, headers, Body::from_stream(parts)).into_response()
}

/// Everything else under /v2: knows the key, or answers 401.
async fn with_account(
    shared: &Shared,
    headers: &HeaderMap,
    answer: impl FnOnce(&mut World, &str) -> Result<Reply, Reply>,
) -> Response {
    let (reply, delay) = {
        let mut world = shared.world();
        let account = key_of(headers).and_then(|key| world.account_of_key(key)).map(str::to_owned);
        let reply = match account {
            Some(account) => answer(&mut world, &account).unwrap_or_else(|error| error),
            None => Reply::unknown_key(&mut world.dice()),
        };
        let latency = world.config.latency_ms;
        (reply, world.dice().within(latency))
    };
    if delay > 0.0 {
        tokio::time::sleep(Duration::from_micros((delay * 1000.0) as u64)).await;
    }
    send(reply)
}

async fn list_calls(
    State(shared): Sandbox,
    Query(query): Query<read::Query>,
    headers: HeaderMap,
) -> Response {
    with_account(&shared, &headers, |world, account| read::list_calls(world, account, &query)).await
}

async fn get_call(State(shared): Sandbox, Path(call_id): Path<String>, headers: HeaderMap) -> Response {
    with_account(&shared, &headers, |world, account| read::get_call(world, account, &call_id)).await
}

async fn list_assistants(
    State(shared): Sandbox,
    Query(query): Query<read::Query>,
    headers: HeaderMap,
) -> Response {
    with_account(&shared, &headers, |world, account| read::list_assistants(world, account, &query)).await
}

async fn get_assistant(State(shared): Sandbox, Path(model_id): Path<String>, headers: HeaderMap) -> Response {
    with_account(&shared, &headers, |world, account| read::get_assistant(world, account, &model_id)).await
}

async fn attach(
    State(shared): Sandbox,
    Path(model_id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    with_account(&shared, &headers, |world, account| read::attach(world, account, &model_id, &body)).await
}

async fn detach(
    State(shared): Sandbox,
    Path((model_id, slug)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    with_account(&shared, &headers, |world, account| read::detach(world, account, &model_id, &slug)).await
}

async fn list_numbers(
    State(shared): Sandbox,
    Query(query): Query<read::Query>,
    headers: HeaderMap,
) -> Response {
    with_account(&shared, &headers, |world, account| read::list_numbers(world, account, &query)).await
}

#[derive(Deserialize)]
struct LedgerPage {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// NDJSON, in order; ask again with `after` = the last `seq` until nothing comes.
async fn ledger(State(shared): Sandbox, Query(page): Query<LedgerPage>) -> Response {
    let entries = shared.world().ledger.after(page.after, page.limit.unwrap_or(LEDGER_PAGE).min(LEDGER_PAGE));
    let mut lines = Vec::new();
    for entry in entries {
        if serde_json::to_writer(&mut lines, &*entry).is_err() {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        lines.push(b'\n');
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

fn done(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => Json(json!({ "status": "ok" })).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response(),
    }
}

async fn add_override(State(shared): Sandbox, Json(wanted): Json<Override>) -> Response {
    shared.world().overrides.push_back(wanted);
    done(Ok(()))
}

async fn clear_overrides(State(shared): Sandbox) -> Response {
    shared.world().overrides.clear();
    done(Ok(()))
}

async fn change_account(
    State(shared): Sandbox,
    Path(name): Path<String>,
    Json(change): Json<AccountChange>,
) -> Response {
    done(shared.world().change_account(&name, change))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPool {
    #[serde(default)]
    account: Option<String>,
    numbers: Vec<NumberConfig>,
}

async fn set_pool(
    State(shared): Sandbox,
    Path(model_id): Path<String>,
    Json(pool): Json<NewPool>,
) -> Response {
    let account = pool.account.as_deref().unwrap_or("default");
    done(shared.world().set_pool(account, &model_id, pool.numbers))
}

async fn remove_agent(State(shared): Sandbox, Path(model_id): Path<String>) -> Response {
    let removed = shared.world().remove_agent(&model_id);
    done(if removed { Ok(()) } else { Err(format!("there is no agent {model_id:?}")) })
}

async fn change_settings(State(shared): Sandbox, Json(change): Json<SettingsChange>) -> Response {
    done(shared.world().change_settings(change))
}

async fn end_calls(State(shared): Sandbox) -> Json<Value> {
    Json(json!({ "ended": shared.world().end_all_calls() }))
}

//! The vendor's routes, under /v2, and how a reply goes out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Json, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::answers::{Delivery, Payload, Reply};
use super::faults::On;
use super::wire::Line;
use super::world::World;
use super::{control_http, place, read};

/// Far above any body that is a call.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub struct Shared {
    world: Mutex<World>,
    pub stop: CancellationToken,
    /// A fault has ended the sandbox; it has stopped, too.
    pub dead: CancellationToken,
}

impl Shared {
    pub fn new(world: World) -> Self {
        let dead = CancellationToken::new();
        Self { world: Mutex::new(world), stop: dead.child_token(), dead }
    }

    /// Held for moments only, never across an await.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub type Sandbox = State<Arc<Shared>>;

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
    Router::new()
        .nest("/v2", vendor)
        .nest("/sandbox", control_http::routes())
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
        return whole(Reply::field(&["body"], "the body is too long or was cut off"));
    };
    let reply = {
        let mut world = shared.world();
        if shared.dead.is_cancelled() {
            line.cut();
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let traceparent = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
        place::receive(&mut world, at_us, place::Head { key: key_of(&head.headers), traceparent }, &body)
    };
    send(&shared, &line, reply).await
}

/// The reply on its way, late and bent as it may be.
async fn send(shared: &Shared, line: &Line, reply: Reply) -> Response {
    if !reply.delay.is_zero()
        && shared.stop.run_until_cancelled(tokio::time::sleep(reply.delay)).await.is_none()
    {
        line.cut();
    }
    match reply.delivery {
        Delivery::Whole => {}
        Delivery::Cut => return cut_off(reply),
        Delivery::Close => line.cut(),
        Delivery::Reset => line.reset(),
        Delivery::Hang => {
            shared.stop.cancelled().await;
            line.cut();
        }
        Delivery::Die { answered: true } => line.die_of_next_answer(),
        Delivery::Die { answered: false } => {
            line.reset();
            shared.dead.cancel();
        }
    }
    whole(reply)
}

fn status_of(reply: &Reply) -> StatusCode {
    StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn whole(reply: Reply) -> Response {
    let status = status_of(&reply);
    let mut response = match reply.body {
        Payload::Json(body) => (status, Json(body)).into_response(),
        Payload::Raw(kind, bytes) => (status, [(header::CONTENT_TYPE, kind)], bytes).into_response(),
        Payload::Nothing => status.into_response(),
    };
    if let Some(seconds) = reply.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The head, the first bytes of the body, and then nothing.
fn cut_off(reply: Reply) -> Response {
    let status = status_of(&reply);
    let whole = match reply.body {
        Payload::Json(body) => body.to_string().into_bytes(),
        Payload::Raw(_, bytes) => bytes,
        Payload::Nothing => b"{}".to_vec(),
    };
    let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
    let parts = futures_util::stream::unfold(Some(half), async |rest| match rest {
        Some(half) => Some((Ok(half), None)),
        None => {
            // Only what was flushed before the failure gets out.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None))
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_LENGTH, whole.len().to_string()),
    ];
    (status, headers, Body::from_stream(parts)).into_response()
}

/// Who asks, and over which connection.
struct Caller {
    line: Line,
    key: Option<String>,
    shared: Arc<Shared>,
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let line = ConnectInfo::<Line>::from_request_parts(parts, shared).await;
        let ConnectInfo(line) = line.map_err(IntoResponse::into_response)?;
        Ok(Self { line, key: key_of(&parts.headers).map(str::to_owned), shared: shared.clone() })
    }
}

impl Caller {
    /// Everything under /v2 but the placing of calls: knows the key, or answers 401.
    async fn answer(self, on: On, answer: impl FnOnce(&mut World, &str) -> Result<Reply, Reply>) -> Response {
        let reply = {
            let mut world = self.shared.world();
            let mut fate = world.fate_of_next(on);
            let account = self.key.as_deref().and_then(|key| world.account_of_key(key)).map(str::to_owned);
            let mut reply = match account {
                Some(_) if fate.bend.as_ref().is_some_and(|bend| !bend.place) => Reply::ok(),
                Some(account) => answer(&mut world, &account).unwrap_or_else(|error| error),
                None => Reply::unknown_key(&mut world.dice()),
            };
            if let Some(bend) = fate.bend {
                bend.apply(&mut reply, &mut fate.dice);
            }
            let usual = world.config.latency_ms;
            reply.delay += fate.delay + Duration::from_micros((world.dice().within(usual) * 1000.0) as u64);
            reply
        };
        send(&self.shared, &self.line, reply).await
    }
}

async fn list_calls(caller: Caller, Query(query): Query<read::Query>) -> Response {
    caller.answer(On::List, |world, account| read::list_calls(world, account, &query)).await
}

async fn get_call(caller: Caller, Path(call_id): Path<String>) -> Response {
    caller.answer(On::Record, |world, account| read::get_call(world, account, &call_id)).await
}

async fn list_assistants(caller: Caller, Query(query): Query<read::Query>) -> Response {
    caller.answer(On::Agent, |world, account| read::list_assistants(world, account, &query)).await
}

async fn get_assistant(caller: Caller, Path(model_id): Path<String>) -> Response {
    caller.answer(On::Agent, |world, account| read::get_assistant(world, account, &model_id)).await
}

async fn attach(caller: Caller, Path(model_id): Path<String>, body: Bytes) -> Response {
    caller.answer(On::Agent, |world, account| read::attach(world, account, &model_id, &body)).await
}

async fn detach(caller: Caller, Path((model_id, slug)): Path<(String, String)>) -> Response {
    caller.answer(On::Agent, |world, account| read::detach(world, account, &model_id, &slug)).await
}

async fn list_numbers(caller: Caller, Query(query): Query<read::Query>) -> Response {
    caller.answer(On::Agent, |world, account| read::list_numbers(world, account, &query)).await
}

//! The tests' routes, under /sandbox.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Json, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bend::Override;
use super::config::NumberConfig;
use super::control::{AccountChange, SettingsChange};
use super::faults::Fault;
use super::http::{Sandbox, Shared};

/// Of one page of the ledger, or of the webhooks sent.
const PAGE: usize = 10_000;

pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/ledger", get(ledger))
        .route("/webhooks", get(webhooks))
        .route("/stats", get(async |State(s): Sandbox| Json(s.world().stats())))
        .route("/overrides", post(add_override).delete(clear_overrides))
        .route("/faults", get(faults).put(set_faults).delete(clear_faults))
        .route("/accounts/{name}", put(change_account))
        .route("/agents/{model_id}", put(set_pool).delete(remove_agent))
        .route("/agents/{model_id}/webhook", put(register_webhook))
        .route("/settings", put(change_settings))
        .route("/calls/end", post(end_calls))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).min(PAGE)
    }
}

/// NDJSON, in order; ask again with `after` = the last `seq` until nothing comes.
async fn ledger(State(shared): Sandbox, Query(page): Query<Page>) -> Response {
    let entries = shared.world().ledger.after(page.after, page.limit());
    lines(&entries)
}

/// Likewise with `n`.
async fn webhooks(State(shared): Sandbox, Query(page): Query<Page>) -> Response {
    let sent = shared.world().webhooks.sent_after(page.after, page.limit());
    lines(&sent)
}

fn lines<T: Serialize>(items: &[Arc<T>]) -> Response {
    let mut lines = Vec::new();
    for item in items {
        if serde_json::to_writer(&mut lines, &**item).is_err() {
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
    done(shared.world().override_posts(wanted))
}

async fn clear_overrides(State(shared): Sandbox) -> Response {
    shared.world().overrides.clear();
    done(Ok(()))
}

async fn faults(State(shared): Sandbox) -> Json<Vec<Fault>> {
    Json(shared.world().faults.entries.clone())
}

/// The whole table; its time begins anew.
async fn set_faults(State(shared): Sandbox, Json(entries): Json<Vec<Fault>>) -> Response {
    done(shared.world().set_faults(entries))
}

async fn clear_faults(State(shared): Sandbox) -> Response {
    done(shared.world().set_faults(Vec::new()))
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    /// `null`: no webhooks any more.
    url: Option<String>,
}

async fn register_webhook(
    State(shared): Sandbox,
    Path(model_id): Path<String>,
    Json(wanted): Json<Registration>,
) -> Response {
    done(shared.world().register_webhook(&model_id, wanted.url))
}

async fn change_settings(State(shared): Sandbox, Json(change): Json<SettingsChange>) -> Response {
    done(shared.world().change_settings(change))
}

async fn end_calls(State(shared): Sandbox) -> Json<Value> {
    Json(json!({ "ended": shared.world().end_all_calls() }))
}

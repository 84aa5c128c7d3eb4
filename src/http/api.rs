//! `/api/v1`: what programs may ask and tell, and its description (`/openapi.json`), made from the same code. Each answer
//! that is no success is a problem document.

mod access;
mod controls;
mod lists;
mod page;
mod problem;
mod rows;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::{any, get};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use access::{Parts, READ_MAX};
use problem::Problem;

use super::reports::Reports;
use crate::core::events::EventTypes;
use crate::engine::explained::Explainer;
use crate::store::Pool;

pub(super) use access::{Right, Tokens};

/// Controls that are worked on at a time, told by programs or on the page: each holds one of the worker's own connections. Whoever
/// reads has others, so that no number of readers keeps a stop waiting.
const CONTROLS_AT_ONCE: usize = 2;

/// The API, once the worker has its database.
#[derive(Debug, Clone, Default)]
pub struct Api(Arc<OnceLock<Ledger>>);

#[derive(Debug, Clone)]
pub(super) struct Ledger {
    /// The worker's own, for controls.
    pub(super) pool: Pool,
    /// For whoever reads.
    pub(super) reads: Pool,
    pub(super) events: EventTypes,
    pub(super) explainer: Arc<Explainer>,
    pub(super) reports: Arc<Reports>,
    turns: Arc<Semaphore>,
}

impl Ledger {
    /// Once it is somebody's turn to control. None: it was not, for as long as could be waited.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        tokio::time::timeout(READ_MAX, turn).await.ok()?.ok()
    }
}

impl Api {
    /// None: the worker is starting.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        self.0.get()
    }

    /// From here on it answers; once.
    pub fn open(&self, pool: Pool, reads: Pool, events: EventTypes, explainer: Explainer) {
        let reports = Arc::new(Reports::new(reads.clone()));
        let turns = Arc::new(Semaphore::new(CONTROLS_AT_ONCE));
        drop(self.0.set(Ledger { pool, reads, events, explainer: Arc::new(explainer), reports, turns }));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "outdial",
        description = "What programs may ask of a dialer, and tell it. An id in a path may stand behind a `~`; the ids `.` and `..` have to, \
                       for clients take them for steps of the path.",
    ),
    security(("bearer" = [])),
    modifiers(&Bearer),
    tags(
        (name = "read", description = "With OUTDIAL_API_READ_TOKEN or OUTDIAL_API_TOKEN"),
        (name = "control", description = "With OUTDIAL_API_TOKEN"),
    )
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        api.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// Paths and their description.
fn described() -> (Router<Parts>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(lists::jobs))
        .routes(routes!(lists::job))
        .routes(routes!(lists::calls))
        .routes(routes!(lists::campaigns))
        .routes(routes!(lists::numbers))
        .routes(routes!(lists::waiting))
        .routes(routes!(lists::review))
        .routes(routes!(lists::versions))
        .routes(routes!(lists::explain))
        .routes(routes!(controls::cancel_job))
        .routes(routes!(controls::pause_campaign))
        .routes(routes!(controls::resume_campaign))
        .routes(routes!(controls::cancel_campaign))
        .routes(routes!(controls::pause_account))
        .routes(routes!(controls::resume_account))
        .routes(routes!(controls::rest_number))
        .routes(routes!(controls::activate_number))
        .routes(routes!(controls::kill_switch))
        .routes(routes!(controls::suppress))
        .routes(routes!(controls::resolve))
        .split_for_parts()
}

pub(super) fn router(api: Api, tokens: Tokens) -> Router {
    let (router, description) = described();
    let description: Arc<str> = description.to_json().unwrap_or_default().into();
    let unknown = || async {
        Problem::new(StatusCode::NOT_FOUND, "there is no such path: /openapi.json names them all")
    };
    let not_so = || async {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method: see /openapi.json")
    };
    router
        .method_not_allowed_fallback(not_so)
        .route("/api/v1", any(unknown))
        .route("/api/v1/", any(unknown))
        .route("/api/v1/{*path}", any(unknown))
        .with_state(Parts::new(api, tokens))
        .route(
            "/openapi.json",
            get(move || async move {
                ([(header::CONTENT_TYPE, "application/json")], description.to_string())
            }),
        )
}

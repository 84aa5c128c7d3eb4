//! What the worker serves: liveness, readiness, metrics, the provider's webhooks, and the API. Only the last needs a token:
//! the others only read, or are signed.

mod api;
mod page;
mod recent;
mod reports;
mod segment;
mod webhook;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use api::Api;
pub use webhook::{Door, Webhooks};

use crate::config::Http;
use crate::engine::health::{Health, Standing};
use crate::telemetry::Metrics;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0} can be reached from other machines, and no token is set (OUTDIAL_API_TOKEN)")]
    NoToken(SocketAddr),
    #[error("{address} can't be listened on: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("serving HTTP: {0}")]
    Serve(std::io::Error),
}

/// A server that holds its port already, so that a taken port is told at start.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    parts: Parts,
    webhooks: Webhooks,
    api: Api,
    tokens: api::Tokens,
    /// Where webhooks have a port of their own.
    webhook_listener: Option<TcpListener>,
}

#[derive(Debug, Clone)]
struct Parts {
    health: Health,
    metrics: Arc<Metrics>,
}

impl Server {
    /// Takes the port. Port 0 takes a free one: see [`Self::address`].
    ///
    /// # Errors
    /// A port in use, or one that outsiders reach while no token is set.
    pub async fn bind(config: &Http, health: Health, metrics: Arc<Metrics>) -> Result<Self, HttpError> {
        if !config.may_listen() {
            return Err(HttpError::NoToken(config.listen));
        }
        let (listener, address) = listen(config.listen).await?;
        let webhook_listener = match config.webhook_listen {
            Some(address) => Some(listen(address).await?.0),
            None => None,
        };
        let webhooks = Webhooks::default();
        let (parts, api) = (Parts { health, metrics }, Api::default());
        let tokens = api::Tokens { control: config.api_token.clone(), read: config.api_read_token.clone() };
        Ok(Self { listener, address, parts, webhooks, api, tokens, webhook_listener })
    }

    /// Closed until the worker has its database.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// Closed until the worker knows its accounts.
    pub fn webhooks(&self) -> Webhooks {
        self.webhooks.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then finishes the requests under way.
    ///
    /// # Errors
    /// [`HttpError::Serve`].
    pub async fn serve(self, stop: CancellationToken) -> Result<(), HttpError> {
        let hooks = webhook::router(self.webhooks, Arc::clone(&self.parts.metrics));
        let pages = router(self.parts)
            .merge(page::router(self.api.clone(), self.tokens.clone()))
            .merge(api::router(self.api, self.tokens));
        let apart = self.webhook_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        tracing::info!(http.listen = %self.address, webhook.listen = apart.map(tracing::field::display), "serving health and metrics");
        match self.webhook_listener {
            None => serve(self.listener, pages.merge(hooks), stop).await,
            Some(listener) => {
                tokio::try_join!(serve(self.listener, pages, stop.clone()), serve(listener, hooks, stop))
                    .map(drop)
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), HttpError> {
    let failed = |error| HttpError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> Result<(), HttpError> {
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(HttpError::Serve)
}

fn router(parts: Parts) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(parts)
}

/// The process runs and answers. What it needs may be away: restarting it wouldn't bring that back.
async fn healthz() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Why it isn't.
    reasons: Vec<String>,
    broker: String,
    database: String,
    /// 0: no rules are applied, and jobs wait `no_route`.
    routing_version: i64,
    draining: bool,
}

impl From<Standing> for Readiness {
    fn from(standing: Standing) -> Self {
        Self {
            ready: standing.is_ready(),
            reasons: standing.faults(),
            broker: standing.broker.to_string(),
            database: standing.database.to_string(),
            routing_version: standing.routing_version.unwrap_or(0),
            draining: standing.draining,
        }
    }
}

async fn readyz(State(parts): State<Parts>) -> Response {
    let readiness = Readiness::from(parts.health.now());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(parts): State<Parts>) -> Response {
    let standing = parts.health.now();
    parts.metrics.broker_connected.set(standing.broker.is_up().into());
    parts.metrics.database_connected.set(standing.database.is_up().into());
    parts.metrics.draining.set(standing.draining.into());
    parts.metrics.routing_version.set(standing.routing_version.unwrap_or(0));
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match parts.metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::engine::health::Link;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn config(listen: &str) -> Http {
        Http { listen: listen.parse().unwrap(), api_token: None, api_read_token: None, webhook_listen: None }
    }

    #[tokio::test]
    async fn it_tells_how_the_worker_stands_and_stops_when_asked() {
        let (health, metrics) = (Health::new(), Arc::new(Metrics::new()));
        let server = Server::bind(&config("127.0.0.1:0"), health.clone(), metrics.clone()).await.unwrap();
        let (address, stop, tasks) = (server.address(), CancellationToken::new(), TaskTracker::new());
        let served = tasks.spawn(server.serve(stop.clone()));

        assert_eq!(get(address, "/healthz").await.0, 200);
        let (status, body) = get(address, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("broker connecting") && body.contains("database connecting"), "{body}");

        health.broker(Link::Up);
        health.database(Link::Up);
        metrics.calls_placed.inc();
        let (status, body) = get(address, "/readyz").await;
        assert_eq!(status, 200, "ready without routing: {body}");
        assert!(body.contains("\"routing_version\":0"), "{body}");
        let page = get(address, "/metrics").await.1;
        assert!(page.contains("outdial_calls_placed_total 1") && page.contains("outdial_broker_connected 1"));

        health.draining();
        assert_eq!(get(address, "/readyz").await.0, 503);
        let page = get(address, "/metrics").await.1;
        assert!(page.contains("outdial_draining 1"), "{page}");
        assert_eq!(get(address, "/elsewhere").await.0, 404);
        stop.cancel();
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn it_refuses_to_be_reached_from_outside_without_a_token() {
        let made = Server::bind(&config("0.0.0.0:0"), Health::new(), Arc::new(Metrics::new())).await;
        assert!(matches!(made, Err(HttpError::NoToken(_))), "{made:?}");
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let made = Server::bind(&config(&address), Health::new(), Arc::new(Metrics::new())).await;
        assert!(made.unwrap_err().to_string().contains(&address));
    }
}

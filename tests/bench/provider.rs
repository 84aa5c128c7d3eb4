//! A provider that answers at once and remembers nothing but how often it was asked: its share of the time is small and the
//! same for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use outdial::clock;

use super::ground::AGENT;

#[derive(Debug)]
struct Provider {
    posts: AtomicU64,
    /// Since the process began, in microseconds; 0: none.
    first_us: AtomicU64,
    began: tokio::time::Instant,
    pool: String,
}

/// The n-th number of the pool.
pub fn number(n: usize) -> String {
    format!("+1628{:07}", 6_661_000 + n)
}

pub async fn serve(numbers: usize) -> Result<()> {
    let attached: Vec<serde_json::Value> = (0..numbers)
        .map(|n| serde_json::json!({ "number": number(n), "sid": null, "slug": format!("slug-{n}") }))
        .collect();
    let agent = serde_json::json!({
        "model_id": AGENT, "name": "bench", "type": "outbound", "phone_number": number(0),
        "attached_phone_numbers": attached,
    });
    let pool = serde_json::json!({ "status": "ok", "response": { "assistants": [agent] } }).to_string();
    let provider =
        Provider { posts: AtomicU64::new(0), first_us: AtomicU64::new(0), began: clock::monotonic(), pool };
    let router = Router::new()
        .route("/v2/calls", get(list).post(place))
        .route("/v2/assistants/{model}", get(assistant))
        .route("/bench", get(count))
        .with_state(Arc::new(provider));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(axum::serve::ListenerExt::tap_io(listener, |io| drop(io.set_nodelay(true))), router).await?;
    Ok(())
}

fn answer(body: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], body)
}

async fn place(State(provider): State<Arc<Provider>>, body: Bytes) -> impl IntoResponse {
    let n = provider.posts.fetch_add(1, Ordering::Relaxed);
    if n == 0 {
        provider.first_us.store(provider.began.elapsed().as_micros() as u64, Ordering::Relaxed);
    }
    debug_assert!(!body.is_empty());
    answer(format!(r#"{{"status":"ok","response":{{"answer":"ok","call_id":"{:032x}"}}}}"#, n + 1))
}

async fn list() -> impl IntoResponse {
    answer(
        r#"{"status":"ok","response":{"pagination":{"total_records":0,"limit":20,"offset":0},"calls":[]}}"#
            .to_owned(),
    )
}

async fn assistant(State(provider): State<Arc<Provider>>) -> impl IntoResponse {
    answer(provider.pool.clone())
}

/// POSTs so far, and how many microseconds ago the first came.
async fn count(State(provider): State<Arc<Provider>>) -> impl IntoResponse {
    let first = provider.first_us.load(Ordering::Relaxed);
    let ago = provider.began.elapsed().as_micros() as u64 - first;
    answer(format!("{} {}", provider.posts.load(Ordering::Relaxed), if first == 0 { 0 } else { ago }))
}

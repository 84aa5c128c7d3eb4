//! A provider that answers at once and remembers nothing but how often it was asked: its share of the time is small and the
//! same for everybody. Where it is told to, it notes who was called from which number when, is slow, or too busy.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::ground::Process;

/// An agent whose few numbers are at their limit.
pub const FULL_AGENT: &str = "agent-full";
pub const FULL_NUMBERS: usize = 10;

/// How it behaves.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Temper {
    /// Before an answer, in milliseconds.
    #[serde(default)]
    pub delay_ms: u32,
    /// Of a thousand POSTs so many are answered with 429.
    #[serde(default)]
    pub busy: u32,
}

#[derive(Debug, Default)]
struct Provider {
    posts: AtomicU64,
    refused: AtomicU64,
    /// On this machine's monotonic clock, in microseconds; 0: none.
    first_us: AtomicU64,
    /// Requests since its temper last changed.
    since_temper: AtomicU64,
    under_way: AtomicU64,
    most_under_way: AtomicU64,
    delay_ms: AtomicU32,
    busy: AtomicU32,
    numbers: usize,
    /// None: nobody wants to know.
    arrivals: Option<Mutex<Vec<Arrival>>>,
}

/// A POST that was answered with a call.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its digits.
    pub callee: u64,
    pub number: u64,
    /// On this machine's monotonic clock, which all processes share: microseconds.
    pub us: u64,
}

/// What it has heard.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Count {
    pub posts: u64,
    /// Answered with 429.
    pub refused: u64,
    /// Since the first POST, in microseconds.
    pub since_us: u64,
    /// The most requests that were under way at a time.
    pub most_under_way: u64,
}

/// This machine's monotonic clock, in microseconds.
pub fn now_us() -> u64 {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).map_or(0, |now| now.as_micros() as u64)
}

/// The n-th number of the pool.
pub fn number(n: usize) -> String {
    format!("+1628{:07}", 6_661_000 + n)
}

fn digits(text: &str) -> u64 {
    text.trim_start_matches('+').parse().unwrap_or(0)
}

pub async fn serve(numbers: usize, watch: bool) -> Result<()> {
    let provider = Provider { numbers, arrivals: watch.then(Mutex::default), ..Provider::default() };
    let router = Router::new()
        .route("/v2/calls", get(list).post(place))
        .route("/v2/assistants/{model}", get(assistant))
        .route("/bench/count", get(count))
        .route("/bench/reset", get(reset))
        .route("/bench/temper", get(temper))
        .route("/bench/arrivals", get(arrivals))
        .with_state(Arc::new(provider));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(axum::serve::ListenerExt::tap_io(listener, |io| drop(io.set_nodelay(true))), router).await?;
    Ok(())
}

fn answer(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn place(State(provider): State<Arc<Provider>>, body: Bytes) -> Response {
    /// Also where the client goes before it is answered.
    struct UnderWay<'a>(&'a AtomicU64);
    impl Drop for UnderWay<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let under_way = provider.under_way.fetch_add(1, Ordering::Relaxed) + 1;
    let _one = UnderWay(&provider.under_way);
    provider.most_under_way.fetch_max(under_way, Ordering::Relaxed);
    placed(&provider, &body).await
}

async fn placed(provider: &Provider, body: &Bytes) -> Response {
    let arrived = now_us();
    let busy = u64::from(provider.busy.load(Ordering::Relaxed));
    // Evenly spread, so that the share is kept over any time.
    let nth = provider.since_temper.fetch_add(1, Ordering::Relaxed);
    if (nth + 1) * busy / 1_000 > nth * busy / 1_000 {
        provider.refused.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::TOO_MANY_REQUESTS, r#"{"status":"error","error":"too many"}"#).into_response();
    }
    let n = provider.posts.fetch_add(1, Ordering::Relaxed);
    if n == 0 {
        provider.first_us.store(arrived, Ordering::Relaxed);
    }
    if let Some(arrivals) = &provider.arrivals {
        #[derive(Deserialize)]
        struct Call<'a> {
            phone: &'a str,
            from_phone_number: Option<&'a str>,
        }
        if let Ok(call) = serde_json::from_slice::<Call<'_>>(body) {
            let from = call.from_phone_number.map_or(0, digits);
            let arrival = Arrival { callee: digits(call.phone), number: from, us: arrived };
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        }
    }
    let delay = provider.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay.into())).await;
    }
    answer(format!(
        r#"{{"status":"ok","response":{{"answer":"ok","call_id":"{:016x}{:016x}"}}}}"#,
        arrived, n
    ))
}

async fn list() -> Response {
    answer(
        r#"{"status":"ok","response":{"pagination":{"total_records":0,"limit":20,"offset":0},"calls":[]}}"#
            .to_owned(),
    )
}

async fn assistant(State(provider): State<Arc<Provider>>, Path(model): Path<String>) -> Response {
    let numbers = if model == FULL_AGENT {
        provider.numbers..provider.numbers + FULL_NUMBERS
    } else {
        0..provider.numbers
    };
    let first = number(numbers.start);
    let attached: Vec<serde_json::Value> = numbers
        .map(|n| serde_json::json!({ "number": number(n), "sid": null, "slug": format!("slug-{n}") }))
        .collect();
    let agent = serde_json::json!({
        "model_id": model, "name": "bench", "type": "outbound", "phone_number": first,
        "attached_phone_numbers": attached,
    });
    answer(serde_json::json!({ "status": "ok", "response": { "assistants": [agent] } }).to_string())
}

async fn count(State(provider): State<Arc<Provider>>) -> Response {
    let first = provider.first_us.load(Ordering::Relaxed);
    let count = Count {
        posts: provider.posts.load(Ordering::Relaxed),
        refused: provider.refused.load(Ordering::Relaxed),
        since_us: if first == 0 { 0 } else { now_us() - first },
        most_under_way: provider.most_under_way.load(Ordering::Relaxed),
    };
    axum::Json(count).into_response()
}

/// Forgets what it has heard.
async fn reset(State(provider): State<Arc<Provider>>) {
    for counter in [&provider.posts, &provider.refused, &provider.first_us, &provider.most_under_way] {
        counter.store(0, Ordering::Relaxed);
    }
    if let Some(arrivals) = &provider.arrivals {
        arrivals.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn temper(State(provider): State<Arc<Provider>>, Query(temper): Query<Temper>) {
    provider.delay_ms.store(temper.delay_ms, Ordering::Relaxed);
    provider.busy.store(temper.busy, Ordering::Relaxed);
    provider.since_temper.store(0, Ordering::Relaxed);
    provider.most_under_way.store(0, Ordering::Relaxed);
}

/// A line for each: callee, number, microseconds.
async fn arrivals(State(provider): State<Arc<Provider>>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    if let Some(arrivals) = &provider.arrivals {
        for Arrival { callee, number, us } in arrivals.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(text, "{callee} {number} {us}");
        }
    }
    text
}

/// The stand-in as a process of its own, and how to ask it.
#[derive(Debug)]
pub struct StandIn {
    pub process: Process,
    pub url: String,
    own: String,
}

impl StandIn {
    /// With so many numbers in the pool of each agent but [`FULL_AGENT`], noting each arrival where `watch` says so.
    pub fn start(numbers: usize, watch: bool) -> Result<Self> {
        let mut arguments = vec!["provider".to_owned(), numbers.to_string()];
        arguments.extend(watch.then(|| "--watch".to_owned()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = Process::role(&arguments, Stdio::piped())?;
        let mut line = String::new();
        BufReader::new(process.stdout()?).read_line(&mut line)?;
        let address = line.trim();
        Ok(Self { url: format!("http://{address}/v2"), own: format!("http://{address}/bench"), process })
    }

    async fn ask(&self, what: &str) -> Result<String> {
        let url = format!("{}/{what}", self.own);
        let asked = async { reqwest::get(url).await?.error_for_status()?.text().await };
        Ok(tokio::time::timeout(Duration::from_secs(30), asked).await??)
    }

    pub async fn count(&self) -> Result<Count> {
        Ok(serde_json::from_str(&self.ask("count").await?)?)
    }

    pub async fn reset(&self) -> Result<()> {
        self.ask("reset").await.map(drop)
    }

    pub async fn temper(&self, Temper { delay_ms, busy }: Temper) -> Result<()> {
        self.ask(&format!("temper?delay_ms={delay_ms}&busy={busy}")).await.map(drop)
    }

    /// In the order in which they came.
    pub async fn arrivals(&self) -> Result<Vec<Arrival>> {
        let text = self.ask("arrivals").await?;
        let arrival = |line: &str| {
            let mut fields = line.split(' ').map(str::parse::<u64>);
            let mut next = || fields.next().context("three numbers")?.context("a number");
            anyhow::Ok(Arrival { callee: next()?, number: next()?, us: next()? })
        };
        text.lines().map(arrival).collect()
    }
}

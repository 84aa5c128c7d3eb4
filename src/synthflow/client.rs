//! The provider's API, one method an operation. Nothing is ever sent twice by itself: no retries, no redirects.

use std::fmt;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::gate::Gate;
use super::records;
use crate::clock;
use crate::core::call::{Assistant, CallPage, CallRecord, ListCalls, PlaceCall};
use crate::core::ids::{CallId, ModelId};
use crate::core::outcome::{
    Answer, NotSentCause, ProviderError, RETRY_AFTER_MAX, Sent, UnclearCause, error_text,
};
use crate::core::phone::E164;
use crate::core::text::tidy;
use crate::engine::place::Posted;
use crate::failpoint::{self, Point};

/// Of an answer to a list, at most this much is read.
const LIST_BYTES_MAX: usize = 8 << 20;
/// Of any other answer.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Of one call's record: it carries the transcript.
const RECORD_BYTES_MAX: usize = 4 << 20;

/// What a client needs to know of one account.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// With the version path, so ending in `/v2`.
    pub base_url: String,
    pub api_key: SecretString,
    /// For a whole exchange, connecting and reading the body included.
    pub timeout: Duration,
    /// The same for what changes nothing, and can be asked again: nobody needs to wait as long for it.
    pub read_timeout: Duration,
    pub connect_timeout: Duration,
    /// Connections kept open between requests: as many as there are requests in flight.
    pub idle_connections_max: usize,
}

impl ClientConfig {
    /// 30 s in all, 10 s to read something, 5 s to connect, 64 connections.
    pub fn new(base_url: impl Into<String>, api_key: SecretString) -> Self {
        Self {
            base_url: base_url.into(),
            api_key,
            timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            idle_connections_max: 64,
        }
    }
}

/// Why no client can be made of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "base_url {0:?} {1}; it includes the version path and ends in /v2, as https://api.us.synthflow.ai/v2 does"
    )]
    BaseUrl(String, &'static str),
    #[error("api_key {0}")]
    Key(&'static str),
    #[error("the HTTP client can't be set up (are the system's CA certificates installed?): {0}")]
    Build(String),
}

/// One account at the provider. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    read_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base_url", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// No redirect is followed, nothing repeated, and no proxy asked.
fn plain(scheme: &str, timeout: Duration) -> reqwest::ClientBuilder {
    // Fails where one is installed already, which is as good: every dependency is built with ring only.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("outdial/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .timeout(timeout);
    // No TLS, so no need of the system's certificates either (a sandbox on a bare machine).
    if scheme == "http" { builder.tls_certs_only([]) } else { builder }
}

/// A client of another service, at an address of it.
///
/// # Errors
/// [`ClientError::Build`].
pub fn other_service(url: &str, timeout: Duration) -> Result<reqwest::Client, ClientError> {
    let scheme = url.split(':').next().unwrap_or_default();
    plain(scheme, timeout).build().map_err(|error| ClientError::Build(chain(error)))
}

impl Client {
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let base = base_url(&config.base_url)?;
        let mut builder = plain(base.scheme(), config.timeout)
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer(&config.api_key)?)]))
            .http1_only()
            .connect_timeout(config.connect_timeout)
            // Below the idle time-outs of usual gateways (60 s), so that it is we who close: a request written to a
            // connection that the other side has just closed ends as unknown.
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(config.idle_connections_max)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15));
        #[cfg(target_os = "linux")]
        {
            builder = builder.tcp_user_timeout(config.timeout);
        }
        let http = builder.build().map_err(|e| ClientError::Build(chain(e)))?;
        Ok(Self { http, base, read_timeout: config.read_timeout.min(config.timeout) })
    }

    /// `POST /v2/calls`, exactly once, and not at all from `send_before` on: that is judged when a connection
    /// stands ready, right before the first byte.
    pub async fn place(&self, call: &PlaceCall, send_before: Instant) -> Posted {
        let gate = Gate::new(send_before);
        let sent = self.place_through(&gate, call).await;
        Posted { sent, left_by: gate.left_by() }
    }

    async fn place_through(&self, gate: &Gate, call: &PlaceCall) -> Sent {
        if gate.is_late() {
            return Sent::NotSent(NotSentCause::TooLate);
        }
        let url = match self.url(&["calls"]) {
            Ok(url) => url,
            Err(why) => return Sent::NotSent(NotSentCause::Build(why.to_string())),
        };
        let body = reqwest::Body::wrap(gate.body(records::place_body(call).into()));
        let mut request = self.http.post(url).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(traceparent) = &call.traceparent {
            request = request.header("traceparent", traceparent);
        }
        let _ = failpoint::at(Point::BeforePost).await;
        match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                let retry_after = retry_after(response.headers());
                let (body, _) = read_body(response, BODY_BYTES_MAX).await;
                let _ = failpoint::at(Point::AfterPost).await;
                Sent::Answered(Answer { status, body, retry_after })
            }
            Err(error) if gate.shut() => Sent::NotSent(not_sent(gate, error)),
            Err(error) if error.is_timeout() => Sent::Unclear(UnclearCause::Timeout),
            Err(error) => Sent::Unclear(UnclearCause::Connection(chain(error))),
        }
    }

    /// An agent and the numbers attached to it.
    pub async fn assistant(&self, model_id: &ModelId) -> Result<Assistant, ProviderError> {
        let url = self.url(&["assistants", model_id.as_str()])?;
        let body = self.ask(Method::GET, url, None, BODY_BYTES_MAX * 16).await?;
        records::assistant(&body, model_id)
    }

    /// Whether the key works: asks for one entry of the list of agents. Gives how many agents there are, where told.
    pub async fn probe_key(&self) -> Result<Option<u64>, ProviderError> {
        let mut url = self.url(&["assistants", ""])?;
        url.query_pairs_mut().append_pair("limit", "1").append_pair("offset", "0");
        let body = self.ask(Method::GET, url, None, LIST_BYTES_MAX).await?;
        records::total(&body)
    }

    /// A page of the calls of one agent. Their records lack the custom variables.
    pub async fn list_calls(&self, filter: &ListCalls) -> Result<CallPage, ProviderError> {
        let mut url = self.url(&["calls"])?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("model_id", filter.model_id.as_str());
            query.append_pair("limit", &filter.limit.clamp(1, ListCalls::LIMIT_MAX).to_string());
            query.append_pair("offset", &filter.offset.to_string());
            if let Some(from) = filter.from {
                query.append_pair("from_date", &from.timestamp_millis().to_string());
            }
            if let Some(to) = filter.to {
                query.append_pair("to_date", &to.timestamp_millis().to_string());
            }
            if let Some(phone) = &filter.lead_phone_number {
                query.append_pair("lead_phone_number", phone.as_str());
            }
        }
        let body = self.ask(Method::GET, url, None, LIST_BYTES_MAX).await?;
        records::calls(&body)
    }

    /// One call, with its custom variables. `NotFound` may also mean that it was placed seconds ago.
    pub async fn get_call(&self, call_id: &CallId) -> Result<CallRecord, ProviderError> {
        let url = self.url(&["calls", call_id.as_str()])?;
        let body = self.ask(Method::GET, url, None, RECORD_BYTES_MAX).await?;
        records::call(&body, call_id)
    }

    /// Adds numbers to an agent's pool.
    pub async fn attach_numbers(&self, model_id: &ModelId, numbers: &[E164]) -> Result<(), ProviderError> {
        let numbers: Vec<&str> = numbers.iter().map(E164::as_str).collect();
        self.attach(model_id, json!({ "phone_numbers": numbers })).await
    }

    /// Adds numbers to an agent's pool by the provider's handles of them.
    pub async fn attach_slugs(&self, model_id: &ModelId, slugs: &[String]) -> Result<(), ProviderError> {
        self.attach(model_id, json!({ "phone_number_slugs": slugs })).await
    }

    async fn attach(&self, model_id: &ModelId, what: Value) -> Result<(), ProviderError> {
        let url = self.url(&["assistants", model_id.as_str(), "phone_numbers"])?;
        self.ask(Method::PUT, url, Some(what), BODY_BYTES_MAX).await.map(drop)
    }

    /// Takes a number out of an agent's pool, at once.
    pub async fn detach_slug(&self, model_id: &ModelId, slug: &str) -> Result<(), ProviderError> {
        let url = self.url(&["assistants", model_id.as_str(), "phone_numbers", slug])?;
        self.ask(Method::DELETE, url, None, BODY_BYTES_MAX).await.map(drop)
    }

    async fn ask(
        &self,
        method: Method,
        url: Url,
        body: Option<Value>,
        bytes_max: usize,
    ) -> Result<Vec<u8>, ProviderError> {
        let reads = method.is_safe();
        let mut request = self.http.request(method, url);
        if reads {
            request = request.timeout(self.read_timeout);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| ProviderError::Unavailable(chain(e)))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let (body, end) = read_body(response, bytes_max).await;
        if !(200..=299).contains(&status) {
            return Err(refused(status, &body, retry_after));
        }
        match end {
            BodyEnd::Whole => Ok(body),
            BodyEnd::TooLong => {
                Err(ProviderError::Unreadable(format!("it is longer than {bytes_max} bytes")))
            }
            BodyEnd::Lost(why) => Err(ProviderError::Unavailable(why)),
        }
    }

    fn url(&self, segments: &[&str]) -> Result<Url, ProviderError> {
        // A URL library drops these two, which would make another operation of it.
        if segments.iter().any(|s| matches!(*s, "." | "..")) {
            return Err(ProviderError::NotFound { text: Some("`.` and `..` are no ids".to_owned()) });
        }
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut path) => path.extend(segments),
            Err(()) => return Err(ProviderError::Unavailable("base_url has no path".to_owned())),
        };
        Ok(url)
    }
}

fn base_url(text: &str) -> Result<Url, ClientError> {
    let fault = |why| ClientError::BaseUrl(text.to_owned(), why);
    let url = Url::parse(text).map_err(|_| ClientError::BaseUrl(text.to_owned(), "is not a URL"))?;
    match url {
        url if !url.username().is_empty() || url.password().is_some() => {
            // Not echoed: it holds a secret.
            Err(ClientError::BaseUrl(String::new(), "has a user name or password in it"))
        }
        url if !matches!(url.scheme(), "https" | "http") => Err(fault("is not an http or https URL")),
        url if url.query().is_some() || url.fragment().is_some() => Err(fault("has a query or a fragment")),
        url if !url.path().ends_with("/v2") => Err(fault("doesn't end in /v2")),
        url => Ok(url),
    }
}

fn bearer(key: &SecretString) -> Result<HeaderValue, ClientError> {
    let key = key.expose_secret();
    if key.is_empty() {
        return Err(ClientError::Key("is empty"));
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ClientError::Key(
            "has white space or characters that no key has; was it pasted with a line end?",
        ));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| ClientError::Key("has characters that a header can't carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Nothing passed the gate: why.
fn not_sent(gate: &Gate, error: reqwest::Error) -> NotSentCause {
    if error.is_dns() {
        NotSentCause::Dns(chain(error))
    } else if error.is_timeout() {
        NotSentCause::ConnectTimeout
    } else if error.is_connect() {
        NotSentCause::Connect(chain(error))
    } else if gate.is_late() {
        NotSentCause::TooLate
    } else if error.is_builder() {
        NotSentCause::Build(chain(error))
    } else {
        // The connection was lost before anything was written: of the request itself that says nothing.
        NotSentCause::Connect(chain(error))
    }
}

fn refused(status: u16, body: &[u8], retry_after: Option<Duration>) -> ProviderError {
    let text = error_text(body);
    match status {
        401 | 403 => ProviderError::Unauthorized { status, text },
        404 => ProviderError::NotFound { text },
        429 => ProviderError::RateLimited { retry_after },
        400..=499 => ProviderError::Rejected { status, text },
        _ => ProviderError::Unavailable(match text {
            Some(text) => format!("status {status}: {text}"),
            None => format!("status {status}"),
        }),
    }
}

/// Seconds, or a date (which is read against this machine's clock: it only paces us).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
            (date.to_utc() - clock::wall()).to_std().ok()?
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

enum BodyEnd {
    Whole,
    TooLong,
    Lost(String),
}

/// Reads at most `bytes_max` bytes; what was read before a failure is kept.
async fn read_body(mut response: Response, bytes_max: usize) -> (Vec<u8>, BodyEnd) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > bytes_max => {
                body.extend_from_slice(&chunk[..bytes_max - body.len()]);
                return (body, BodyEnd::TooLong);
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return (body, BodyEnd::Whole),
            Err(error) => return (body, BodyEnd::Lost(chain(error))),
        }
    }
}

/// The causes of an error, without the URL: a query may hold a callee's number.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    tidy(&text, 300)
}

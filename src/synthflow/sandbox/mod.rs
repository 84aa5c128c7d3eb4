//! A stand-in for the provider, faithful to what is known of it; what is only guessed is a switch.
//!
//! It shares no code of decision with the worker, so that a mistake there can't hide behind the same mistake here.
//! Its own [`Ledger`](ledger::LedgerEntry) of every POST received is what tests and the demo take as the truth.
//!
//! Architecture invariant: nothing here uses `crate::core` or the client.

mod answers;
mod bend;
mod calls;
mod config;
mod control;
mod control_http;
mod deliver;
mod faults;
mod http;
mod ledger;
mod place;
mod read;
mod resume;
mod script;
#[cfg(test)]
mod tests;
mod timeline;
mod webhooks;
mod wire;
mod world;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

pub use bend::{Action, Override};
pub use config::{
    AccountConfig, AgentConfig, BadNumber, ConfigFaults, Guesses, ListOrder, NumberConfig, SandboxConfig,
    ScriptConfig, Span, StatusKey, WebhookConfig,
};
pub use control::{AccountChange, SettingsChange, Stats};
pub use faults::{Delay, Fault, FaultKind, On};
pub use ledger::LedgerEntry;
pub use webhooks::{SentWebhook, WebhookKind};

use http::Shared;
use wire::{Line, Listener};
use world::World;

/// How long requests in flight are waited for at the end.
const STOP_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Config(#[from] ConfigFaults),
    #[error(
        "the sandbox listens on loopback only, not on {0}: give 127.0.0.1 with a port (0 for a free one)"
    )]
    NotLoopback(SocketAddr),
    #[error(
        "the sandbox can't listen on {address}: {error}; is another one running? --listen names another port"
    )]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("the ledger {path:?} can't be read or written: {error}")]
    Ledger { path: PathBuf, error: std::io::Error },
    #[error("no HTTP client for webhooks can be set up: {0}")]
    Webhooks(#[from] reqwest::Error),
}

/// Where it listens and what it keeps.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    pub listen: SocketAddr,
    /// Every ledger entry is appended to it as a line of JSON; what it holds already is known again.
    pub ledger_file: Option<PathBuf>,
}

impl Default for SandboxOptions {
    /// A free port of loopback, the ledger in memory only.
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ledger_file: None }
    }
}

/// A running sandbox; it stops when this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Sandbox {
    /// On a free port of loopback.
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        Self::start_with(config, SandboxOptions::default()).await
    }

    pub async fn start_with(config: SandboxConfig, options: SandboxOptions) -> Result<Self, SandboxError> {
        config.check()?;
        if !options.listen.ip().is_loopback() {
            return Err(SandboxError::NotLoopback(options.listen));
        }
        let http = deliver::client(&config.webhooks)?;
        let mut world = World::new(config);
        if let Some(path) = options.ledger_file {
            world.resume(&path).map_err(|error| SandboxError::Ledger { path, error })?;
        }
        let listen = async {
            let inner = tokio::net::TcpListener::bind(options.listen).await?;
            Ok((inner.local_addr()?, inner))
        };
        let (address, inner) =
            listen.await.map_err(|error| SandboxError::Listen { address: options.listen, error })?;

        let origin = world.timeline.origin();
        let shared = Arc::new(Shared::new(world));
        let listener = Listener { inner, origin, dead: shared.dead.clone() };
        let stop = shared.stop.clone();
        let app = http::routes(shared.clone()).into_make_service_with_connect_info::<Line>();
        let tasks = TaskTracker::new();
        tasks.spawn(async move {
            let serving = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = serving.await {
                tracing::error!(%error, "sandbox: serving ended");
            }
        });
        tasks.spawn(deliver::run(shared.clone(), http, tasks.clone()));
        tasks.close();
        Ok(Self { address, shared, tasks })
    }

    /// What `SYNTHFLOW_BASE_URL` is set to.
    pub fn base_url(&self) -> String {
        format!("http://{}/v2", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every POST received so far, in order of receipt (those still in memory).
    pub fn ledger(&self) -> Vec<Arc<LedgerEntry>> {
        self.ledger_after(0)
    }

    pub fn ledger_after(&self, seq: u64) -> Vec<Arc<LedgerEntry>> {
        self.shared.world().ledger.after(seq, usize::MAX)
    }

    /// When each call ends, in microseconds since the ledger's start (as `mono_us` in the ledger), by call id; for
    /// those made since `time_scale` was last changed.
    pub fn call_ends_us(&self) -> HashMap<String, u64> {
        let world = self.shared.world();
        let ends = world.calls.ends();
        ends.map(|(call_id, at_ms)| (call_id.to_owned(), world.timeline.real_us(at_ms))).collect()
    }

    pub fn stats(&self) -> Stats {
        self.shared.world().stats()
    }

    /// Queued behind those given before (10,000 at most, or it is not taken); the first that fits a POST is used up
    /// by it.
    pub fn override_posts(&self, wanted: Override) {
        if let Err(error) = self.shared.world().override_posts(wanted) {
            tracing::error!(%error, "sandbox: an override is not taken");
        }
    }

    pub fn clear_overrides(&self) {
        self.shared.world().overrides.clear();
    }

    /// Replaces the table of faults; its time begins now. Err: what is wrong with it, and nothing is changed.
    pub fn set_faults(&self, faults: Vec<Fault>) -> Result<(), String> {
        self.shared.world().set_faults(faults)
    }

    /// Gives an agent a URL for webhooks (or none), and sends the vendor's test there. Err: what is wrong.
    pub fn register_webhook(&self, model_id: &str, url: Option<&str>) -> Result<(), String> {
        self.shared.world().register_webhook(model_id, url.map(str::to_owned))
    }

    /// Every webhook sent or dropped so far, in the order in which they were done with (those still in memory).
    pub fn webhooks(&self) -> Vec<Arc<SentWebhook>> {
        self.shared.world().webhooks.sent_after(0, usize::MAX)
    }

    /// Until a fault has ended the sandbox: from then on it reads nothing, answers nothing and places nothing.
    pub async fn died(&self) {
        self.shared.dead.cancelled().await;
    }

    /// Err: there is no such account.
    pub fn change_account(&self, name: &str, change: AccountChange) -> Result<(), String> {
        self.shared.world().change_account(name, change)
    }

    /// Replaces an agent's pool; makes the agent if there is none. Err: there is no such account.
    pub fn set_pool(&self, account: &str, model_id: &str, numbers: &[&str]) -> Result<(), String> {
        let numbers = numbers.iter().map(|&number| number.into()).collect();
        self.shared.world().set_pool(account, model_id, numbers)
    }

    /// From now on the agent answers 404.
    pub fn remove_agent(&self, model_id: &str) -> bool {
        self.shared.world().remove_agent(model_id)
    }

    pub fn change_settings(&self, change: SettingsChange) -> Result<(), String> {
        self.shared.world().change_settings(change)
    }

    /// Ends every live call now, as its script would have; gives how many.
    pub fn end_all_calls(&self) -> usize {
        self.shared.world().end_all_calls()
    }

    /// Stops accepting, lets requests in flight end (bounded), and frees the port.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        let _ = tokio::time::timeout(STOP_WAIT, self.tasks.wait()).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

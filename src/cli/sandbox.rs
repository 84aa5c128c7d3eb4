//! `outdial sandbox`: a stand-in for the provider, until Ctrl-C.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Failure, output};
use crate::synthflow::sandbox::{Sandbox, SandboxConfig, SandboxError, SandboxOptions};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen, on loopback; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The sandbox's accounts, agents, limits and switches [default: those of config/sandbox.toml, built in]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Append every POST received to this file, a line of JSON each; what it holds already is known again
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// In place of the configuration's seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Serves until Ctrl-C or SIGTERM.
pub async fn run(args: Args, _context: &Context) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let sandbox = start(&args).await?;
    output::print(&format!(
        "sandbox: SYNTHFLOW_BASE_URL={}\nsandbox: what it received: http://{}/sandbox/ledger\n",
        sandbox.base_url(),
        sandbox.address()
    ))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        () = sandbox.died() => return Err(Failure::new("its table of faults told it to die, and so it does")),
    }
    let stats = sandbox.stats();
    sandbox.stop().await;
    output::print(&format!("sandbox: {} POSTs received, {} calls made of them\n", stats.posts, stats.calls))
}

async fn start(args: &Args) -> Result<Sandbox, Failure> {
    let mut config = match &args.config {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| Failure::from(error).at(path.display()))?;
            SandboxConfig::from_toml(&text).map_err(|faults| Failure::new(faults).at(path.display()))?
        }
        None => SandboxConfig::sample().map_err(Failure::new)?,
    };
    config.seed = args.seed.unwrap_or(config.seed);
    let options = SandboxOptions { listen: args.listen, ledger_file: args.ledger.clone() };
    Sandbox::start_with(config, options).await.map_err(|error| match error {
        SandboxError::NotLoopback(_) => Failure::usage(error).at("--listen"),
        other => Failure::new(other),
    })
}

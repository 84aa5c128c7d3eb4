//! `outdial demo`: the main job from end to end, on servers of its own, checked against the stand-in's ledger.
//!
//! It runs the commands a user would run (`migrate`, `routing apply`, two `worker`s, `publish`) as processes of their
//! own, and leaves nothing behind: no process, port, folder, database or queue, whether it ends, fails or is interrupted.

mod check;
mod crew;
mod evidence;
mod ground;
mod jobs;
mod plan;
mod report;
mod watch;

use std::path::Path;

use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Failure, output};
use crate::broker::Target;
use crate::clock;
use crate::store::{self, Purpose, reporting};
use crate::synthflow::sandbox::Sandbox;
use crew::Crew;
use ground::Ground;
use report::Verdict;

const WORKERS: [&str; 2] = ["worker-1", "worker-2"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many jobs, 100 to 2000
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(100..=jobs::JOBS_MAX as i64))]
    jobs: u32,
    /// Keep the workers' logs and the CSV in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<std::path::PathBuf>,
}

/// The configuration of the demo's processes. The user's own is left out: it may name the real provider.
fn config() -> String {
    let plan::Most { second, at_once, .. } = plan::ACCOUNT;
    let (caps, concurrent) = (second.unwrap_or_default(), at_once.unwrap_or_default());
    format!(
        "[accounts.default]\ncalls_per_second = {caps}\nconcurrent_calls = {concurrent}\n\n\
         [calls]\npoll = \"500ms\"\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n[log]\nformat = \"json\"\n"
    )
}

pub async fn run(args: Args, _context: &Context) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        eprintln!("outdial: interrupted, stopping what was started");
        Failure::new("interrupted; nothing is left behind")
    };
    tokio::pin!(stopped);
    let start = Ground::start();
    tokio::pin!(start);
    let ground = tokio::select! {
        ground = &mut start => ground?,
        failure = &mut stopped => {
            // A server half started can't be stopped: let it come up first.
            if let Ok(ground) = start.await {
                ground.end().await;
            }
            return Err(failure);
        }
    };
    let outcome = on(&ground, &args, stopped).await;
    ground.end().await;
    outcome
}

/// Everything that has to be gone before the servers are.
async fn on(ground: &Ground, args: &Args, stopped: impl Future<Output = Failure>) -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("outdial-demo-").tempdir()?;
    std::fs::write(folder.path().join("outdial.toml"), config())?;
    let sandbox = Sandbox::start(plan::sandbox()).await.map_err(Failure::new)?;
    let env = vec![
        ("DATABASE_URL", ground.database_url.clone()),
        ("AMQP_URL", ground.amqp_url.clone()),
        ("SYNTHFLOW_BASE_URL", sandbox.base_url()),
        ("SYNTHFLOW_API_KEY", plan::API_KEY.to_owned()),
    ];
    let mut crew = Crew::new(folder.path(), env)?;
    let outcome = tokio::select! {
        outcome = perform(ground, args, folder.path(), &sandbox, &mut crew) => outcome,
        failure = stopped => Err(failure),
    };
    crew.stop().await;
    sandbox.stop().await;
    if let Some(keep) = &args.keep {
        copy(folder.path(), keep)?;
    }
    outcome
}

async fn perform(
    ground: &Ground,
    args: &Args,
    folder: &Path,
    sandbox: &Sandbox,
    crew: &mut Crew,
) -> Result<(), Failure> {
    let started = clock::monotonic();
    stage("servers", ground.told())?;
    crew.run("migrate", &["migrate"]).await?;
    let routing = folder.join("routing.toml");
    std::fs::write(&routing, plan::ROUTING)?;
    let applied = crew.run("routing apply", &["routing", "apply", &routing.to_string_lossy()]).await?;
    stage("rules", &format!("{}: {}", plan::ROUTING_FILE, applied.trim()))?;
    for name in WORKERS {
        crew.start(name, &["worker"])?;
    }
    stage("workers", "two, as processes of their own; Synthflow is a stand-in on loopback")?;
    let lines = jobs::lines(args.jobs as usize);
    let file = folder.join("jobs.csv");
    jobs::write(&lines, clock::wall(), &file)?;
    let published = crew.run("publish", &["publish", "--no-check", &file.to_string_lossy()]).await?;
    demand_all(&published, lines.len())?;
    stage("published", &format!("{} lines of a CSV, each confirmed by the broker", lines.len()))?;

    let database = SecretString::from(ground.database_url.clone());
    let pool = store::connect(&database, Purpose::Command, 2, store::PATIENCE_OF_COMMANDS).await?;
    let finished = watch::until_ended(&pool, sandbox, crew, &lines).await?;
    stage("dialed", &finished)?;
    let amiss = crew.stop().await;
    stage("stopped", if amiss.is_empty() { "both workers, with exit status 0" } else { "not as it should" })?;

    let target = Target::parse(&SecretString::from(ground.amqp_url.clone()))?;
    let found = evidence::gather(lines, sandbox, &target, &pool).await?;
    let (usage, outcomes) = (found.usage(), reporting::outcomes(&pool).await?);
    pool.close().await;
    let verdict = Verdict::of(&found, &usage);
    output::print(&format!(
        "\n{}\n{}\n{}",
        report::limits(&usage),
        report::endings(&found, &outcomes),
        verdict.told()
    ))?;
    if !verdict.is_clean() {
        return Err(Failure::new(format!("the check failed: {}", verdict.wrong()))
            .mend("outdial demo --keep FOLDER keeps the workers' logs"));
    }
    if !amiss.is_empty() {
        return Err(Failure::new(amiss.join(", ")).mend("outdial demo --keep FOLDER keeps the workers' logs"));
    }
    output::print(&report::next(started.elapsed()))
}

fn stage(name: &str, what: &str) -> Result<(), Failure> {
    output::print(&format!("{name:<10} {what}\n"))
}

/// Every line must have been confirmed, or the check would count against lines that were never sent.
fn demand_all(published: &str, lines: usize) -> Result<(), Failure> {
    match published.contains(&format!("{lines} published, 0 bad")) {
        true => Ok(()),
        false => Err(Failure::new(format!("not every line was published:\n{}", published.trim_end()))),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let at = |error: std::io::Error| Failure::from(error).at(to.display());
    std::fs::create_dir_all(to).map_err(at)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(at)?;
    }
    Ok(())
}

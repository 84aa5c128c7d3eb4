//! The API as its own description tells of it, asked by schemathesis whatever the description allows, and what it forbids.

use std::time::Duration;

use tokio::process::Command;

use crate::callees::serving;
use crate::support::busy;
use crate::support::programs::{fetched, run, there};
use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, numbers, sandbox_config};

const SCHEMATHESIS: &str = "schemathesis==4.32.5";
const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/described.toml");
const CONTROL: &str = "a-token-that-controls";

/// With as many examples of each operation as wanted: 3, or `OUTDIAL_API_EXAMPLES`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_what_it_says_it_is() {
    let examples = std::env::var("OUTDIAL_API_EXAMPLES").unwrap_or_else(|_| "3".to_owned());
    let needs = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    if !there("python3", &["-c", needs], "Python 3.10 or newer with venv and pip").await {
        return;
    }
    let _beside = busy().await;
    let folder = tempfile::tempdir().unwrap();
    let venv = folder.path().join("venv");
    fetched(Command::new("python3").args(["-m", "venv"]).arg(&venv)).await;
    let mut install = Command::new(venv.join("bin/pip"));
    fetched(install.args(["install", "--no-cache-dir", "--disable-pip-version-check", SCHEMATHESIS])).await;

    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    stage.route("per_second = 50, per_day = 1000", ANY_NUMBER).await;
    let worker = stage.worker(&[("OUTDIAL_API_TOKEN", CONTROL)]).await;
    stage.publish(&jobs("spring", 3)).await;
    stage.jobs("done", None, 3, LONG).await;
    stage.paused(&["summer"]).await;
    stage.publish(&[job("waits", "summer", "+14155550150")]).await;
    stage.stands("waits", "waiting", Some("campaign_paused")).await;

    let mut ask = Command::new(venv.join("bin/schemathesis"));
    ask.args(["--config-file", SETTINGS, "run", "--no-color", "--seed", "1", "--max-examples", &examples])
        .arg("--header")
        .arg(format!("Authorization: Bearer {CONTROL}"))
        .arg(format!("http://{}/openapi.json", serving(&worker)))
        .current_dir(folder.path());
    let ended = run(&mut ask, Duration::from_secs(1_200)).await.expect("it was fetched a moment ago");
    assert!(ended.success, "{}{}", ended.out, ended.err);
    let told = ended.out.lines().filter(|line| line.contains("generated") || line.contains("passed"));
    eprintln!("{}", told.collect::<Vec<_>>().join("\n"));
    stage.stopped(worker).await;
}

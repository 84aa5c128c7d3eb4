//! The operators' page in headless Chromium: every page in light and dark, on a desk and on a phone, by the rules of axe-core;
//! a campaign stopped by keyboard alone.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::callees::serving;
use crate::support::busy;
use crate::support::programs::{fetched, run, there};
use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, number, numbers, sandbox_config};

const CHECKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/browser");
const CONTROL: &str = "a-token-that-controls";

/// The whole look.
const LOOK_MAX: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_readable_for_everyone_and_a_keyboard_will_do() {
    let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(chromium) = chromium else {
        eprintln!("skipped: there is no Chromium here (deploy/local/install.sh chromium)");
        return;
    };
    let _beside = busy().await;
    let needs = "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)";
    if !there("node", &["-e", needs], "Node 18 or newer").await || !there("npm", &["--version"], "npm").await
    {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for file in ["package.json", "check.mjs"] {
        std::fs::copy(format!("{CHECKS}/{file}"), folder.path().join(file)).unwrap();
    }
    let mut install = Command::new("npm");
    install.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
    install.env("npm_config_cache", folder.path().join("cache"));
    fetched(install.current_dir(folder.path())).await;

    // A little of everything: calls that ended, some that wait, a number that rests.
    let stage = Stage::new(sandbox_config(&numbers(3))).await;
    stage.route("per_second = 50, per_day = 1000", ANY_NUMBER).await;
    let worker = stage.worker(&[("OUTDIAL_API_TOKEN", CONTROL)]).await;
    stage.publish(&jobs("spring", 8)).await;
    stage.jobs("done", None, 8, LONG).await;
    stage.paused(&["summer"]).await;
    stage.publish(&[job("waits", "summer", "+14155550150")]).await;
    stage.stands("waits", "waiting", Some("campaign_paused")).await;
    stage.rest(&number(2)).await;

    let paths = [
        "/",
        "/campaigns/spring",
        "/numbers",
        &format!("/numbers/{}", number(0)),
        "/review",
        "/jobs/waits",
        "/jobs/spring-0",
        "/explain",
    ];
    let mut look = Command::new("node");
    look.args(["check.mjs", &format!("http://{}", serving(&worker)), CONTROL, "spring", "waits"])
        .arg(serde_json::to_string(&paths).unwrap())
        .args(std::env::var("OUTDIAL_SCREENSHOTS").ok())
        .env("CHROMIUM", chromium)
        .current_dir(folder.path());
    let ended = run(&mut look, LOOK_MAX).await.expect("node is here");
    assert!(ended.success, "{}{}", ended.out, ended.err);
    assert_eq!(ended.out.trim(), format!("looked at {} pages", 4 * paths.len()), "{}", ended.err);
    let paused = "select count(*) from outdial.campaigns where campaign_id = 'spring' and state = 'active' and event_seq >= 2";
    assert_eq!(stage.count(paused).await, 1, "paused and resumed by keyboard");
    stage.stopped(worker).await;
}

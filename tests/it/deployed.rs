//! What `deploy/` holds for other programs, judged by those programs, or by their schemas where they can't run here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::busy;
use crate::support::programs::{Ended, fetched, run, there};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const CHECKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests");
const CHECK_MAX: Duration = Duration::from_secs(120);

fn at(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

async fn ended(command: &mut Command) -> Ended {
    run(command, CHECK_MAX).await.expect("it was there a moment ago")
}

async fn passes(command: &mut Command) {
    let ended = ended(command).await;
    assert!(ended.success && ended.err.is_empty(), "{command:?}:\n{}{}", ended.out, ended.err);
}

async fn printed(command: &mut Command) -> String {
    let ended = ended(command).await;
    assert!(ended.success, "{command:?}:\n{}", ended.err);
    ended.out
}

/// The programs that judge, in a folder of their own: Python's in `venv/bin`, Node's beside `check.mjs`.
async fn judges() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["check.mjs", "package.json", "package-lock.json"] {
        std::fs::copy(Path::new(CHECKS).join(name), folder.path().join(name)).unwrap();
    }
    let venv = folder.path().join("venv");
    fetched(Command::new("python3").args(["-m", "venv"]).arg(&venv)).await;
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "--no-cache-dir", "--disable-pip-version-check", "-r"]);
    fetched(install.arg(Path::new(CHECKS).join("requirements.txt"))).await;
    let mut install = Command::new("npm");
    // Some of the packages name a newer Node; for what is used of them 20 will do.
    install.args(["ci", "--engine-strict=false", "--ignore-scripts", "--no-audit", "--no-fund"]);
    install.arg("--no-update-notifier").env("npm_config_cache", folder.path().join("cache"));
    fetched(install.current_dir(folder.path())).await;
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_workflows_and_image() {
    let python = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    let node = "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)";
    if !there("python3", &["-c", python], "Python 3.10 or newer with venv and pip").await
        || !there("node", &["-e", node], "Node 20 or newer").await
        || !there("npm", &["--version"], "npm").await
    {
        return;
    }
    let _cores = busy().await;
    let folder = judges().await;
    let bin = folder.path().join("venv/bin");

    let mut of_schema = Command::new(bin.join("check-jsonschema"));
    of_schema.args(["--builtin-schema", "vendor.compose-spec"]);
    passes(of_schema.arg(at("deploy/compose/compose.yaml"))).await;
    let mut of_schema = Command::new(bin.join("check-jsonschema"));
    of_schema.args(["--builtin-schema", "vendor.github-workflows"]);
    passes(of_schema.args([at(".github/workflows/ci.yaml"), at(".github/workflows/release.yaml")])).await;
    passes(Command::new(bin.join("hadolint")).arg(at("deploy/Dockerfile"))).await;

    let built =
        printed(Command::new(bin.join("kubectl")).arg("kustomize").arg(at("deploy/kubernetes"))).await;
    let rule = printed(&mut Command::new(at("deploy/prometheus/rule.sh"))).await;
    let objects = format!("{built}---\n{rule}");
    let check = |objects: &str| {
        let file = folder.path().join("objects.yaml");
        std::fs::write(&file, objects).unwrap();
        let mut check = Command::new("node");
        check.arg(folder.path().join("check.mjs")).arg(ROOT).stdin(std::fs::File::open(file).unwrap());
        check
    };
    passes(&mut check(&objects)).await;
    // The check itself: of each sort of object a field that nobody knows.
    let fields = [
        "minReadySeconds",
        "backoffLimit",
        "policyTypes",
        "maxReplicaCount",
        "podMetricsEndpoints",
        "groups",
    ];
    let misspelt = fields.iter().fold(objects, |objects, field| {
        assert!(objects.contains(field), "{field}");
        objects.replace(field, &format!("un{field}"))
    });
    let told = ended(&mut check(&misspelt)).await;
    assert!(!told.success, "{}", told.out);
    for field in fields {
        assert!(told.err.contains(&format!("un{field}")), "{field}: {}", told.err);
    }
}

/// systemd says nothing of a unit all of whose words it knows; one that it doesn't know it only mentions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unit() {
    if !there("systemd-analyze", &["--version"], "systemd").await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outdial.service");
    let judged = async |unit: &str| {
        std::fs::write(&file, unit).unwrap();
        ended(Command::new("systemd-analyze").arg("verify").arg(&file)).await
    };
    let unit = std::fs::read_to_string(at("deploy/systemd/outdial.service")).unwrap();
    let unit = unit.replace("/usr/local/bin/outdial", env!("CARGO_BIN_EXE_outdial"));
    let told = judged(&unit).await;
    // It may have something to say of the machine's own units.
    assert!(told.success && !told.err.contains("outdial.service"), "{}", told.err);
    let told = judged(&unit.replace("ProtectHome=", "ProtectHoem=")).await;
    assert!(told.err.contains("ProtectHoem"), "{}", told.err);
}

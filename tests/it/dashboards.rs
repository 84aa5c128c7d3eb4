//! What `deploy/` gives to Prometheus and Grafana, run by a real Prometheus and a real PostgreSQL.

use std::process::Stdio;
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::callees::serving;
use crate::support::stage::{ANY_NUMBER, LONG, Stage, jobs, numbers, sandbox_config};
use crate::support::{busy, eventually};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

/// Panels that are empty while nothing is amiss.
const EMPTY_IN_PEACE: &[&str] =
    &["What waits, and for what", "Dead letters", "Slots not used, and late sends"];

/// The queries of a dashboard: panel and text.
fn queries(dashboard: &str, field: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("{DEPLOY}/grafana/dashboards/{dashboard}.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((text(&panel["title"]), text(&target[field])));
        }
    }
    assert!(found.len() > 3 && found.iter().all(|(_, query)| !query.is_empty()), "{found:?}");
    found
}

/// Prometheus, watching one worker.
struct Prometheus {
    base: String,
    client: Client,
    _process: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// `None`: it isn't installed.
    async fn watch(worker: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: [\"{DEPLOY}/prometheus/alerts.yaml\"]\n\
             scrape_configs:\n  - job_name: outdial\n    static_configs: [{{ targets: [\"{worker}\"] }}]\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Some(Self { base: format!("http://127.0.0.1:{port}"), client, _process: process, _folder: folder })
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let answer = self.client.get(format!("{}{path}", self.base)).query(query).send().await.ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    /// What a query gives now; one that takes too long is asked again.
    async fn ask(&self, query: &str) -> Vec<Value> {
        let answer = eventually(LONG, async || self.get("/api/v1/query", &[("query", query)]).await).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_takes_every_rule_and_answers_every_panel() {
    let _beside = busy().await;
    let stage = Stage::new(sandbox_config(&numbers(5))).await;
    stage.route("per_second = 5", ANY_NUMBER).await;
    let worker = stage.worker(&[]).await;
    let Some(prometheus) = Prometheus::watch(&serving(&worker)).await else {
        eprintln!("skipped: prometheus is not installed (deploy/local/install.sh prometheus)");
        return;
    };
    let up = async || {
        let answer = prometheus.get("/api/v1/query", &[("query", "up")]).await?;
        (answer["data"]["result"][0]["value"][1] == "1").then_some(())
    };
    eventually(LONG, up).await;

    stage.publish(&jobs("c", 20)).await;
    stage.jobs("done", None, 20, LONG).await;
    // Series that begin with their first call have no rate yet, but two samples.
    let counted =
        "sum(rate(outdial_calls_placed_total[1m])) > 0 and sum(rate(outdial_calls_ended_total[5m])) >= 0";
    eventually(LONG, async || (!prometheus.ask(counted).await.is_empty()).then_some(())).await;
    let dashboard = queries("workers", "expr");
    for (panel, query) in &dashboard {
        let may_be_empty = EMPTY_IN_PEACE.contains(&panel.as_str());
        // After a scrape that took too long there is nothing until the next.
        let told = async || (may_be_empty || !prometheus.ask(query).await.is_empty()).then_some(());
        let told = tokio::time::timeout(LONG, eventually(LONG * 2, told)).await;
        assert!(told.is_ok(), "{panel} is empty: {query}");
    }
    // The scrape that tells it may be the next one.
    let placed = async || {
        let told = prometheus.ask("outdial_calls_placed_total").await;
        (told.first()?["value"][1] == "20").then_some(())
    };
    eventually(LONG, placed).await;

    let unknown = Value::from("unknown");
    let judged = async || {
        let rules = prometheus.get("/api/v1/rules", &[]).await?["data"]["groups"].as_array()?.clone();
        let rules: Vec<Value> =
            rules.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect();
        (!rules.is_empty() && rules.iter().all(|rule| rule["health"] != unknown)).then_some(rules)
    };
    let rules = eventually(LONG, judged).await;
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "in peace: {rule}");
    }
    let alerts = std::fs::read_to_string(format!("{DEPLOY}/prometheus/alerts.yaml")).unwrap();
    assert_eq!(rules.len(), alerts.matches("- alert:").count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_over_the_records_is_a_query_that_runs() {
    let stage = Stage::new(sandbox_config(&numbers(2))).await;
    stage.route("per_second = 5", ANY_NUMBER).await;
    stage.paused(&["waits"]).await;
    let _worker = stage.worker(&[]).await;
    stage.publish(&jobs("c", 3)).await;
    stage.publish(&jobs("waits", 2)).await;
    stage.jobs("done", None, 3, LONG).await;
    stage.jobs("waiting", Some("campaign_paused"), 2, LONG).await;
    for (panel, query) in queries("records", "rawSql") {
        // Grafana writes dates for its macros.
        let query = query
            .replace("$__timeFrom()", "(now() - interval '1 hour')")
            .replace("$__timeTo()", "(now() + interval '1 hour')");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from ({query}) q")))
            .fetch_one(&stage.db)
            .await
            .unwrap_or_else(|error| panic!("{panel}: {error}\n{query}"));
        assert!(rows > 0, "{panel} is empty: {query}");
    }
}

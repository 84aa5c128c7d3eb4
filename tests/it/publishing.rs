//! `publish`, `dead` and `schema`, by the real binary on a real broker.

use std::time::Duration;

use outdial::broker;

use crate::support::{Outdial, database, vhost};

const SOON: Duration = Duration::from_secs(60);

/// Rows with and without an id, two that are the same job, three bad ones.
const ROWS: &str = "job_id,campaign_id,phone,name,priority,custom_variables.plan,region\n\
    a,spring,+1 (415) 555-2671,Ada,5,gold,US-CA\n\
    ,spring,+44 20 7946 0018,Bob,,,\n\
    ,spring,+442079460018,Bob,,,\n\
    b,spring,0415 555 2671,Eve,,,\n\
    c,spring,+14155552671,,,,\n\
    d,spring,+14155552671,Dan,12,,\n";

async fn run(arguments: &[&str], amqp_url: &str) -> (bool, String) {
    let outdial = Outdial::start(arguments, &[("AMQP_URL", amqp_url)]);
    let (status, output) = outdial.wait(SOON).await;
    (status.success(), output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_rows_are_published_bad_ones_told_and_a_second_run_doubles_nothing() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = crate::intake::ground::Ground::new(&vhost.url, &database.url).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.csv");
    std::fs::write(&file, ROWS).unwrap();
    let name = file.to_str().unwrap();
    let running = ground.intake();
    for _ in 0..2 {
        let (success, output) = run(&["publish", name], &vhost.url).await;
        assert!(!success, "bad rows are a failure: {output}");
        assert!(output.contains("3 published, 3 bad"), "{output}");
        for told in
            ["jobs.csv:5: invalid_phone", "jobs.csv:6: missing_field", "jobs.csv:7: invalid_field: priority"]
        {
            assert!(output.contains(told), "{told} in {output}");
        }
        assert!(!output.contains("5552671"), "{output}");
        ground.expect_jobs(2).await;
    }
    let counts = running.stop().await;
    assert_eq!((counts.accepted(), counts.duplicates()), (2, 4));
    assert_eq!((ground.depth(broker::JOBS).await, ground.depth(broker::DEAD).await), (0, 0));
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_rows_sent_unchecked_are_dead_letters_that_can_be_listed_and_replayed() {
    let (vhost, database) = (vhost().await, database().await);
    let ground = crate::intake::ground::Ground::new(&vhost.url, &database.url).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.ndjson");
    std::fs::write(&file, "{\"job_id\":\"a\",\"campaign_id\":\"c\",\"phone\":\"0\",\"name\":\"Ada\"}\n{\n")
        .unwrap();
    let running = ground.intake();
    let (success, output) = run(&["publish", "--no-check", file.to_str().unwrap()], &vhost.url).await;
    assert!(success && output.contains("2 published, 0 bad"), "{output}");
    ground.expect_dead(2).await;
    running.stop().await;
    let (_, listed) = run(&["dead", "list"], &vhost.url).await;
    assert!(listed.contains("invalid_phone") && listed.contains("malformed"), "{listed}");
    let (_, listed) = run(&["dead", "list", "--json"], &vhost.url).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let phone =
        listed.as_array().unwrap().iter().find(|message| message["reason"] == "invalid_phone").unwrap();
    assert_eq!(phone["job_id"], "a");
    let (_, listed) = run(&["dead", "list", "--json", "--limit", "1"], &vhost.url).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let (success, output) = run(&["dead", "replay", "--reason", "malformed"], &vhost.url).await;
    assert!(success && output.contains("1 replayed, 1 left"), "{output}");
    assert_eq!(ground.depth(broker::JOBS).await, 1);
    let (success, output) = run(&["dead", "replay", "--reason", "bad"], &vhost.url).await;
    assert!(!success && output.contains("invalid_phone"), "{output}");
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_told_and_nothing_sent() {
    let vhost = vhost().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.csv");
    std::fs::write(&file, "campaign_id,phone_number,name\nc,+14155552671,Ada\n").unwrap();
    let name = file.to_str().unwrap();
    let (success, output) = run(&["publish", name], &vhost.url).await;
    assert!(!success && output.contains("\"phone_number\""), "{output}");
    let (success, output) = run(&["publish", "jobs.xlsx"], &vhost.url).await;
    assert!(!success && output.contains(".ndjson, .jsonl or .csv"), "{output}");
    let (success, output) = run(&["publish", name], "amqp://guest:hunter2@127.0.0.1:1").await;
    assert!(!success && output.contains("no connection to the broker 127.0.0.1:1"), "{output}");
    assert!(!output.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_printed() {
    let (success, output) = run(&["schema", "job"], "").await;
    assert!(success);
    let schema: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], serde_json::json!(["campaign_id", "phone", "name"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (success, script) = run(&["completions", shell], "").await;
        assert!(success, "{shell}");
        for command in ["worker", "kill-switch", "rollback", "--dry-run"] {
            let name = command.trim_start_matches('-');
            assert!(script.contains(name), "{shell} knows nothing of {command}");
        }
    }
    let (success, script) = run(&["completions", "bash"], "").await;
    assert!(success);
    // The shell itself takes it, and completes with it.
    let asked = format!(
        "{script}\nCOMP_WORDS=(outdial rout); COMP_CWORD=1; _outdial outdial rout; echo \"${{COMPREPLY[@]}}\""
    );
    let told = std::process::Command::new("bash").args(["-c", &asked]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), "routing", "{told:?}");
}

//! What `routing explain` says of a job is what a worker then does with it; versions change under running workers.

use serde_json::{Value, json};

use super::{PATIENT, bare, entry, rule_for, with};
use crate::support::eventually;
use crate::support::stage::{AGENT, LONG, Stage, job, number, numbers, sandbox_config};

async fn explain(stage: &Stage, job: &Value) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), job.to_string()).unwrap();
    let said = stage.run(&["routing", "explain", "--json", "--job", file.path().to_str().unwrap()]).await;
    serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap()
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let pool = numbers(6);
    let n = |at: usize| pool[at].as_str();
    let stage = Stage::new(sandbox_config(&pool)).await;
    // Named, the agent's pool is read before a job asks for it.
    let rules = format!("[[agent]]\nmodel_id = {AGENT:?}\n")
        + &entry(n(0), "limits = { per_hour = 2 }")
        + &entry(n(1), "limits = { per_hour = 5 }")
        + &rule_for("least", &[n(0), n(1)], "")
        + &rule_for("robin", &[n(2), n(3), n(4)], "strategy = \"round_robin\"")
        + &rule_for("known", &[n(3), n(4), n(5)], "sticky = true")
        + &rule_for("nobody", &[&number(50)], "otherwise = \"hold\"")
        + &rule_for("default", &[&number(50)], "otherwise = \"agent_default\"");
    stage.route("per_hour = 50", &rules).await;
    let _worker = stage.worker(&[PATIENT]).await;
    let read = "select count(*) from outdial.pool where attached";
    eventually(LONG, async || (stage.count(read).await == 6).then_some(())).await;
    // One at a time, in a system that is quiet otherwise: the next is asked about when the one before is done.
    let mut jobs = Vec::new();
    for round in 0..8 {
        jobs.push(job(&format!("least-{round}"), "least", &format!("+1415555010{round}")));
        jobs.push(job(&format!("robin-{round}"), "robin", &format!("+1415555011{round}")));
        // In a row, so that what a callee knows is never what is least used.
        jobs.push(job(&format!("known-{round}"), "known", ["+14155550121", "+14155550122"][round / 4]));
    }
    jobs.extend([
        job("nobody", "nobody", "+14155550130"),
        job("default", "default", "+14155550131"),
        job("stray", "stray", "+14155550132"),
        bare("headless", "least", "+14155550133"),
        job("abroad", "least", "+33142685300"),
        with(job("own", "least", "+14155550134"), json!({ "from_phone_number": n(5) })),
        with(job("foreign", "least", "+14155550135"), json!({ "from_phone_number": number(60) })),
    ]);
    let mut outcomes = std::collections::BTreeMap::new();
    for job in &jobs {
        let said = explain(&stage, job).await;
        let (id, outcome) = (job["job_id"].as_str().unwrap(), said["outcome"].as_str().unwrap());
        outcomes.entry(outcome.to_owned()).or_insert_with(Vec::new).push(id);
        stage.publish(std::slice::from_ref(job)).await;
        match outcome {
            "dial" => {
                stage.stands(id, "done", None).await;
                let (from, rule): (Option<String>, String) = sqlx::query_as(
                    "select case when decision ? 'number' or rule <> 'default' then from_phone_number end, rule
                     from reporting.calls where job_id = $1",
                )
                .bind(id)
                .fetch_one(&stage.db)
                .await
                .unwrap();
                assert_eq!(said["from_phone_number"].as_str(), from.as_deref(), "{id}: {said:#}");
                assert_eq!(said["rule"].as_str(), Some(&*rule), "{id}");
            }
            "wait" => drop(stage.stands(id, "waiting", said["reason"].as_str()).await),
            "refuse" => drop(stage.stands(id, "refused", said["reason"].as_str()).await),
            other => panic!("{id}: {other}: {said:#}"),
        }
    }
    assert_eq!(outcomes["wait"], ["least-7", "nobody", "stray", "headless", "foreign"]);
    assert_eq!(outcomes["refuse"], ["abroad"]);
}

#[tokio::test]
async fn a_running_worker_follows_a_rollback() {
    let pool = numbers(2);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let _worker = stage.worker(&[]).await;
    let call = async |n: usize| {
        let phone = format!("+1415555010{n}");
        stage.publish(&[job(&n.to_string(), "c", &phone)]).await;
        stage.called(&phone).await.from_phone_number.unwrap()
    };
    stage.route("", &rule_for("c", &[&pool[0]], "")).await;
    assert_eq!(call(0).await, pool[0]);
    let before = stage.run(&["routing", "export"]).await;
    stage.route("", &rule_for("c", &[&pool[1]], "")).await;
    let version = async |n: i64| {
        let used = format!("select count(*) from reporting.calls where routing_version = {n}");
        stage.count(&used).await
    };
    // A job that comes at once goes by the new rules: what was reserved by the old ones isn't sent.
    assert_eq!(call(1).await, pool[1]);
    let printed = stage.run(&["routing", "rollback", "1"]).await;
    assert!(printed.starts_with("version 3 is in use"), "{printed}");
    assert_eq!(call(2).await, pool[0]);
    assert_eq!(stage.run(&["routing", "export"]).await, before);
    stage.jobs("done", None, 3, LONG).await;
    assert_eq!((version(1).await, version(2).await, version(3).await), (1, 1, 1));
}

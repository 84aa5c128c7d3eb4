//! What tests do to it, and what it is made of.

use super::*;

#[tokio::test]
async fn answers_can_be_bent_and_the_ledger_tells_the_truth() {
    let (sandbox, client) = start(config()).await;
    let answer = |status| Action::Answer { status, body: None, retry_after_s: None };
    sandbox.override_posts(Override::next(1, answer(500)));
    sandbox.override_posts(Override::next(1, answer(500)).but_place());
    sandbox.override_posts(Override::next(1, Action::Close).but_place());
    sandbox.override_posts(Override::next(1, Action::Hang));
    sandbox.override_posts(Override::next(1, Action::Cut).but_place());
    sandbox.override_posts(Override::next(1, Action::Empty { status: 200 }));
    sandbox.override_posts(Override::next(1, answer(404)));
    let mut outcomes = Vec::new();
    for n in 0..8 {
        // The fourth is never answered.
        let client = if n == 3 { hasty(&sandbox) } else { client.clone() };
        outcomes.push(place(&client, &call(n)).await.outcome);
    }
    assert!(outcomes[..6].iter().all(|o| *o == PlaceOutcome::Unknown), "{outcomes:?}");
    assert_eq!(outcomes[6], PlaceOutcome::NotPlaced(NotPlaced::AgentUnavailable));
    assert!(matches!(outcomes[7], PlaceOutcome::Placed { .. }), "used up: as usual again");
    let ledger = sandbox.ledger();
    let told: Vec<_> = ledger.iter().map(|e| (e.status, e.call_id.is_some())).collect();
    let expected = [
        (Some(500), false),
        (Some(500), true),
        (None, true),
        (None, false),
        (Some(200), true),
        (Some(200), false),
        (Some(404), false),
        (Some(200), true),
    ];
    assert_eq!(told, expected);
    assert_eq!(client.list_calls(&list(100, 0)).await.unwrap().total, Some(4));
}

#[tokio::test]
async fn it_is_controlled_and_read_over_http() {
    let (sandbox, client) = start(config()).await;
    let wanted = json!({ "count": 2, "phone": "+14155550002", "action": "answer", "status": 503 });
    assert_eq!(raw(&sandbox, "POST", "/sandbox/overrides", Some(wanted)).await.0, 200);
    placed(&client, &call(1)).await;
    assert_eq!(place(&client, &call(2)).await.http_status, Some(503));
    let (_, stats) = raw(&sandbox, "GET", "/sandbox/stats", None).await;
    assert_eq!((&stats["posts"], &stats["calls"]), (&json!(2), &json!(1)));
    assert_eq!(raw(&sandbox, "DELETE", "/sandbox/overrides", None).await.0, 200);
    placed(&client, &call(2)).await;

    let change = json!({ "calls_per_second": null, "key": "key-9" });
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/accounts/default", Some(change)).await.0, 200);
    assert!(self::client(&sandbox, "key-9").probe_key().await.is_ok());
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/accounts/nobody", Some(json!({}))).await.0, 400);
    let pool = json!({ "numbers": [SPARE, { "number": "+12125550142", "sid": "PN1" }] });
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/agents/agent-2", Some(pool)).await.0, 200);
    let agent = self::client(&sandbox, "key-9").assistant(&ModelId::parse("agent-2").unwrap()).await.unwrap();
    assert_eq!(agent.pool.unwrap().len(), 2);
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/settings", Some(json!({ "time_scale": 0 }))).await.0, 400);
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/settings", Some(json!({ "time_scale": 50 }))).await.0, 200);
    assert_eq!(raw(&sandbox, "DELETE", "/sandbox/agents/agent-2", None).await.0, 200);

    let url = |query: &str| format!("http://{}/sandbox/ledger{query}", sandbox.address());
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let read = async |query: &str| -> Vec<LedgerEntry> {
        let text = http.get(url(query)).send().await.unwrap().text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = read("").await;
    let kept: Vec<LedgerEntry> = sandbox.ledger().iter().map(|e| (**e).clone()).collect();
    assert_eq!(all, kept);
    assert_eq!(read("?after=1&limit=1").await, kept[1..2]);
    assert_eq!(read("?after=3").await, []);
}

#[tokio::test]
async fn it_refuses_to_listen_beyond_loopback_and_frees_its_port() {
    let options = SandboxOptions { listen: "0.0.0.0:0".parse().unwrap(), ledger_file: None };
    let refused = Sandbox::start_with(config(), options).await;
    assert!(matches!(refused, Err(SandboxError::NotLoopback(_))));
    let sandbox = Sandbox::start(config()).await.unwrap();
    let listen = sandbox.address();
    let client = client(&sandbox, "key-1");
    client.probe_key().await.unwrap();
    sandbox.stop().await;
    let options = SandboxOptions { listen, ledger_file: None };
    Sandbox::start_with(config(), options).await.unwrap();
}

#[test]
fn the_sample_is_sound_and_faults_are_told_all_at_once() {
    let sample = SandboxConfig::sample().unwrap();
    assert_eq!(sample.agents[0].numbers.len(), 7);
    assert_eq!(sample.agents[0].numbers[1].slug, "12125550142");
    let faults = SandboxConfig::from_toml(
        "time_scale = 0.0\nlatency_ms = { min = 5, max = 1 }\n[[agent]]\nmodel_id = \"a\"\naccount = \"x\"\n",
    );
    assert_eq!(faults.unwrap_err().0.len(), 4);
    let unknown = SandboxConfig::from_toml("sede = 1").unwrap_err().to_string();
    assert!(unknown.contains("sede"), "{unknown}");
}

//! POST /v2/calls: what is made, what is refused, how it goes on.

use super::*;

#[tokio::test]
async fn a_call_is_placed_told_and_written_to_the_ledger() {
    let (sandbox, client) = start(config()).await;
    let call_id = placed(&client, &call(1)).await;
    let ledger = sandbox.ledger();
    assert_eq!(ledger.len(), 1);
    let entry = &ledger[0];
    assert_eq!((entry.seq, entry.status, entry.why.as_str()), (1, Some(200), "accepted"));
    assert_eq!(entry.account.as_deref(), Some("default"));
    assert_eq!(entry.model_id.as_deref(), Some(AGENT));
    assert_eq!(entry.phone.as_deref(), Some("+14155550001"));
    assert_eq!(entry.from_phone_number.as_deref(), Some(FROM));
    assert_eq!(entry.attempt_id.as_deref(), Some("attempt-1"));
    assert_eq!(entry.call_id.as_deref(), Some(call_id.as_str()));
    assert_eq!(entry.body["name"], "Lead 1");
    let now_us = clock::wall().timestamp_micros();
    assert!((now_us - entry.at_us).abs() < 5_000_000, "arrival {} now {now_us}", entry.at_us);

    let record = client.get_call(&call_id).await.unwrap();
    assert_eq!(record.prompt_variables[ATTEMPT_VARIABLE], "attempt-1");
    assert_eq!((record.from, record.to), (Some(number(FROM)), Some(number("+14155550001"))));
    let listed = client.list_calls(&list(100, 0)).await.unwrap();
    assert_eq!(listed.total, Some(1));
    assert_eq!(listed.calls[0].call_id, call_id);
    assert!(listed.calls[0].prompt_variables.is_empty(), "a list never tells the custom variables");
    assert!(listed.calls[0].start_time.is_some());
    sandbox.stop().await;
}

#[tokio::test]
async fn a_wrong_key_is_a_401_everywhere() {
    let (sandbox, _) = start(config()).await;
    let stranger = client(&sandbox, "wrong");
    assert_eq!(place(&stranger, &call(1)).await.outcome, PlaceOutcome::NotPlaced(NotPlaced::Unauthorized));
    assert!(matches!(stranger.probe_key().await, Err(ProviderError::Unauthorized { status: 401, .. })));
    assert!(matches!(stranger.assistant(&model_id()).await, Err(ProviderError::Unauthorized { .. })));
    assert!(matches!(stranger.list_calls(&list(1, 0)).await, Err(ProviderError::Unauthorized { .. })));
    let entry = &sandbox.ledger()[0];
    assert_eq!((entry.status, &entry.account, entry.why.as_str()), (Some(401), &None, "unknown_key"));
    let invalid = AccountChange { key_valid: Some(false), ..AccountChange::default() };
    sandbox.change_account("default", invalid).unwrap();
    assert!(client(&sandbox, "key-1").probe_key().await.is_err());
    let changed =
        AccountChange { key: Some("key-2".into()), key_valid: Some(true), ..AccountChange::default() };
    sandbox.change_account("default", changed).unwrap();
    assert_eq!(client(&sandbox, "key-2").probe_key().await, Ok(Some(1)));
}

#[tokio::test]
async fn calls_above_the_calls_a_second_are_429_and_not_made() {
    let mut config = config();
    config.accounts[0].calls_per_second = Some(3);
    config.guesses.retry_after_s = Some(2);
    let (sandbox, client) = start(config).await;
    let outcome = async |n| place(&client, &call(n)).await.outcome;
    let mut made = 0;
    let refused = loop {
        match outcome(made).await {
            PlaceOutcome::Placed { .. } if made < 100 => made += 1,
            other => break other,
        }
    };
    let busy = NotPlaced::Busy { retry_after: Some(Duration::from_secs(2)) };
    assert_eq!(refused, PlaceOutcome::NotPlaced(busy));
    assert!(made >= 3);
    assert_eq!((why(&sandbox).last().unwrap().as_str(), sandbox.stats().calls), ("caps", u64::from(made)));
    // The window slides: a second after the first there is room again.
    let deadline = clock::monotonic() + Duration::from_secs(20);
    while !matches!(outcome(made).await, PlaceOutcome::Placed { .. }) {
        assert!(clock::monotonic() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ledger = sandbox.ledger();
    let accepted: Vec<u64> = ledger.iter().filter(|e| e.why == "accepted").map(|e| e.mono_us).collect();
    assert!(accepted.windows(4).all(|w| w[3] - w[0] >= 1_000_000), "{accepted:?}");
}

#[tokio::test]
async fn calls_above_the_concurrency_are_429_until_one_ends() {
    let mut config = config();
    everyone_talks(&mut config);
    config.accounts[0].concurrent_calls = Some(2);
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    placed(&client, &call(2)).await;
    let refused = place(&client, &call(3)).await.outcome;
    assert_eq!(refused, PlaceOutcome::NotPlaced(NotPlaced::Busy { retry_after: None }));
    assert_eq!(why(&sandbox)[2], "concurrency");
    assert_eq!(sandbox.stats().live_calls, 2);
    assert_eq!(sandbox.end_all_calls(), 2);
    assert_eq!(sandbox.stats().live_calls, 0);
    placed(&client, &call(4)).await;
    let lifted = AccountChange { concurrent_calls: Some(None), ..AccountChange::default() };
    sandbox.change_account("default", lifted).unwrap();
    for n in 5..9 {
        placed(&client, &call(n)).await;
    }
}

#[tokio::test]
async fn a_call_above_the_concurrency_may_wait_a_little_for_room() {
    let mut config = config();
    everyone_talks(&mut config);
    config.time_scale = 300.0; // a minute's call lasts 200 ms
    config.accounts[0].concurrent_calls = Some(1);
    config.guesses.concurrency_wait_ms = 1_000;
    let (sandbox, client) = start(config).await;
    let started = clock::monotonic();
    placed(&client, &call(1)).await;
    placed(&client, &call(2)).await;
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
    assert_eq!(why(&sandbox), ["accepted", "accepted"]);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_call_rings_is_spoken_and_ends() {
    let mut config = config();
    everyone_talks(&mut config);
    config.script.ring_ms = Span { min: 60_000, max: 60_000 };
    config.time_scale = 60.0; // each stage lasts a second
    let (_sandbox, client) = start(config).await;
    let call_id = placed(&client, &call(1)).await;
    let mut seen: Vec<String> = Vec::new();
    let deadline = clock::monotonic() + Duration::from_secs(30);
    let last: CallRecord = loop {
        let record = client.get_call(&call_id).await.unwrap();
        let status = record.status.clone().unwrap();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        if seen.last().is_some_and(|s| s == "completed") {
            break record;
        }
        assert!(clock::monotonic() < deadline, "{seen:?}");
    };
    assert_eq!(seen, ["ringing", "in-progress", "completed"]);
    assert_eq!(last.duration_s, Some(60.0));
    assert!(last.end_reason.is_some() && last.recording_url.is_some());
}

#[tokio::test]
async fn what_can_not_be_called_is_refused_or_fails_as_switched() {
    let mut unattached = call(1);
    unattached.from_phone_number = Some(number("+12125550100"));
    let mut bad_phone = call(2);
    bad_phone.phone = number("+123");
    let mut unknown_agent = call(3);
    unknown_agent.model_id = ModelId::parse("nobody").unwrap();

    let (sandbox, client) = start(config()).await;
    let outcome = async |call| place(&client, call).await.outcome;
    assert_eq!(outcome(&unattached).await, PlaceOutcome::NotPlaced(NotPlaced::CallerIdRejected));
    assert_eq!(place(&client, &bad_phone).await.http_status, Some(400));
    assert_eq!(outcome(&unknown_agent).await, PlaceOutcome::NotPlaced(NotPlaced::AgentUnavailable));
    assert_eq!(why(&sandbox), ["unattached_from", "bad_phone", "unknown_agent"]);
    assert_eq!(sandbox.stats().calls, 0);

    let mut config = config();
    config.guesses.unattached_from = BadNumber::RecordFailed;
    config.guesses.bad_phone = BadNumber::RecordFailed;
    let (_sandbox, client) = start(config).await;
    for call in [&unattached, &bad_phone] {
        let record = client.get_call(&placed(&client, call).await).await.unwrap();
        assert_eq!(record.status.as_deref(), Some("failed"));
        assert!(record.error_message.is_some());
    }
}

#[tokio::test]
async fn a_body_without_its_fields_is_a_422() {
    let (sandbox, _) = start(config()).await;
    let good = json!({ "model_id": AGENT, "phone": "+14155550001", "name": "Ann" });
    for field in ["model_id", "phone", "name"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        let (status, answer) = raw(&sandbox, "POST", "/v2/calls", Some(body)).await;
        assert_eq!((status, &answer["detail"][0]["loc"]), (422, &json!(["body", field])));
    }
    let mut body = good.clone();
    body["custom_variables"] = json!({ "outdial_attempt_id": "x" });
    assert_eq!(raw(&sandbox, "POST", "/v2/calls", Some(body)).await.0, 200);
    assert_eq!(sandbox.ledger()[3].attempt_id.as_deref(), Some("x"));
    assert_eq!(raw(&sandbox, "POST", "/v2/calls", Some(json!("nonsense"))).await.0, 422);
    assert_eq!(sandbox.ledger().len(), 5, "whatever is answered, it was received");
    assert_eq!(raw(&sandbox, "GET", "/v2/nothing", None).await, (404, json!({ "detail": "Not Found" })));
}

#[tokio::test]
async fn without_any_number_a_call_stays_in_the_queue() {
    let mut config = config();
    config.agents[0].numbers.clear();
    config.time_scale = 1e6;
    let (_sandbox, client) = start(config).await;
    let mut call = call(1);
    call.from_phone_number = None;
    let record = client.get_call(&placed(&client, &call).await).await.unwrap();
    assert_eq!((record.status.as_deref(), record.from), (Some("queue"), None));
}

//! Lists, records and pools.

use super::*;

#[tokio::test]
async fn a_list_is_paged_filtered_and_ordered() {
    let mut config = config();
    everyone_talks(&mut config);
    let (sandbox, client) = start(config).await;
    let mut ids = Vec::new();
    for n in 0..45 {
        ids.push(placed(&client, &call(n)).await);
    }
    let mut seen = Vec::new();
    for offset in [0, 20, 40, 60] {
        let page = client.list_calls(&list(20, offset)).await.unwrap();
        assert_eq!(page.total, Some(45));
        seen.extend(page.calls.into_iter().map(|c| c.call_id));
    }
    ids.reverse();
    assert_eq!(seen, ids, "newest first");

    let one = ListCalls { lead_phone_number: Some(number("+14155550007")), ..list(100, 0) };
    let found = client.list_calls(&one).await.unwrap();
    assert_eq!(found.calls.len(), 1);
    let start_time = found.calls[0].start_time.unwrap();
    let until = client.list_calls(&ListCalls { to: Some(start_time), ..list(100, 0) }).await.unwrap();
    let from = client.list_calls(&ListCalls { from: Some(start_time), ..list(100, 0) }).await.unwrap();
    assert_eq!(until.total.unwrap() + from.total.unwrap(), 45, "from inclusive, to exclusive");
    assert!(from.calls.iter().any(|c| c.call_id == found.calls[0].call_id));

    let path = format!("/v2/calls?model_id={AGENT}");
    for limit in ["0", "101", "-1"] {
        let (status, body) = raw(&sandbox, "GET", &format!("{path}&limit={limit}"), None).await;
        assert_eq!(
            (status, &body["detail"]["description"]),
            (400, &json!("Limit must be between 1 and 100."))
        );
    }
    assert_eq!(raw(&sandbox, "GET", "/v2/calls", None).await.0, 422, "model_id is required");
    let count = |body: &Value| body["response"]["pagination"]["total_records"].clone();
    let (_, all) = raw(&sandbox, "GET", &format!("{path}&lead_phone=%2B14155550007"), None).await;
    assert_eq!(count(&all), 45, "unknown parameters are ignored");
    assert_eq!(all["response"]["calls"].as_array().unwrap().len(), 20, "20 is the default limit");
    let (_, plus) = raw(&sandbox, "GET", &format!("{path}&lead_phone_number=+14155550007"), None).await;
    assert_eq!(count(&plus), 0, "a + that isn't encoded is a space");
    let (_, ended) = raw(&sandbox, "GET", &format!("{path}&call_status=completed"), None).await;
    assert_eq!(count(&ended), 0);
    sandbox.end_all_calls();
    let (_, ended) =
        raw(&sandbox, "GET", &format!("{path}&call_status=completed&duration_max=60"), None).await;
    assert_eq!(count(&ended), 45);
}

#[tokio::test]
async fn a_list_has_the_vendors_odd_types() {
    let mut config = config();
    everyone_talks(&mut config);
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    let path = format!("/v2/calls?model_id={AGENT}");
    let item = |body: Value| body["response"]["calls"][0].clone();
    let live = item(raw(&sandbox, "GET", &path, None).await.1);
    assert!(live["start_time"].as_str().unwrap().parse::<i64>().unwrap() > 1_700_000_000_000);
    assert_eq!((&live["duration"], &live["end_call_reason"]), (&Value::Null, &Value::Null));
    assert!(live.get("status").is_none() && live.get("prompt_variables").is_none());
    sandbox.end_all_calls();
    let ended = item(raw(&sandbox, "GET", &path, None).await.1);
    assert!(ended["duration"].is_string(), "{ended}");
}

#[tokio::test]
async fn a_pool_is_told_added_to_and_taken_from() {
    let (sandbox, client) = start(config()).await;
    let pool = async || -> Vec<String> {
        let agent = client.assistant(&model_id()).await.unwrap();
        agent.pool.unwrap().into_iter().map(|n| n.number.as_str().to_owned()).collect()
    };
    assert_eq!(pool().await, [FROM]);
    client.attach_numbers(&model_id(), &[number(SPARE)]).await.unwrap();
    assert_eq!(pool().await, [FROM, SPARE]);
    client.detach_slug(&model_id(), "16286666348").await.unwrap();
    assert_eq!(pool().await, [SPARE]);
    client.attach_slugs(&model_id(), &["16286666348".into()]).await.unwrap();
    assert_eq!(pool().await, [SPARE, FROM]);

    let twice = client.detach_slug(&model_id(), "19995550000").await;
    assert!(matches!(twice, Err(ProviderError::NotFound { text: Some(_) })), "{twice:?}");
    let not_owned = client.attach_numbers(&model_id(), &[number("+12125550100")]).await;
    assert!(matches!(not_owned, Err(ProviderError::NotFound { .. })), "{not_owned:?}");
    let unknown = client.assistant(&ModelId::parse("nobody").unwrap()).await;
    assert!(matches!(unknown, Err(ProviderError::NotFound { .. })), "{unknown:?}");
    let both = json!({ "phone_numbers": [SPARE], "phone_number_slugs": ["16285550199"] });
    let path = format!("/v2/assistants/{AGENT}/phone_numbers");
    assert_eq!(raw(&sandbox, "PUT", &path, Some(both)).await.0, 400, "either, never both");
    assert_eq!(raw(&sandbox, "GET", "/v2/numbers", None).await.0, 422);
    let (status, numbers) = raw(&sandbox, "GET", "/v2/numbers?workspace=default", None).await;
    assert_eq!(
        (status, numbers["response"]["phone_numbers"].as_array().unwrap().len()),
        (200, 0),
        "imported ones"
    );
}

#[tokio::test]
async fn a_fresh_call_may_be_unknown_for_a_while_and_personal_data_redacted() {
    let mut config = config();
    config.guesses.fresh_call_404_ms = 60_000;
    config.guesses.record_status_key = StatusKey::CallStatus;
    config.guesses.assistant_in_object = true;
    config.accounts[0].redact_pii = true;
    let (sandbox, client) = start(config).await;
    let call_id = placed(&client, &call(1)).await;
    assert!(matches!(client.get_call(&call_id).await, Err(ProviderError::NotFound { .. })));
    let guesses = Guesses { record_status_key: StatusKey::CallStatus, ..Guesses::default() };
    sandbox.change_settings(SettingsChange { guesses: Some(guesses), ..SettingsChange::default() }).unwrap();
    let record = client.get_call(&call_id).await.unwrap();
    assert!(record.status.is_some());
    assert_eq!(record.to, None, "redacted");
    assert_eq!(record.prompt_variables[ATTEMPT_VARIABLE], "attempt-1");
    let by_phone = ListCalls { lead_phone_number: Some(number("+14155550001")), ..list(100, 0) };
    assert!(client.list_calls(&by_phone).await.unwrap().calls.is_empty(), "the phone filter is defeated");
    assert!(client.assistant(&model_id()).await.unwrap().pool.is_some());
}

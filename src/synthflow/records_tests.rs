#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::records::*;
use crate::core::call::PlaceCall;
use crate::core::ids::{CallId, ModelId};
use crate::core::outcome::ProviderError;
use crate::core::phone::E164;

fn call_id(id: &str) -> CallId {
    CallId::parse(id).unwrap()
}

fn model_id() -> ModelId {
    ModelId::parse("0ae2859d-c25c-4d56-a9f3-809387b725ce").unwrap()
}

fn number(text: &str) -> E164 {
    E164::from_canonical(text).unwrap()
}

#[test]
fn a_list_is_read_through_its_odd_types() {
    let page = calls(
        br#"{"status":"ok","response":{"pagination":{"total_records":"3","limit":20,"offset":0},"calls":[
        {"call_id":"a","call_status":"completed","model_id":"m","name":null,"lead_name":"Ann","lead_phone_number":"+14155550123",
         "phone_number_from":"16286666348","phone_number_to":"+14155550123","start_time":"1763900000123","duration":"42",
         "end_call_reason":"human_goodbye","error_message":null,"recording_url":"https://r/1","transcript":null},
        {"call_id":7,"call_status":"teleported","phone_number_from":"***","start_time":null,"duration":null},
        {"call_id":null,"call_status":"failed"}]}}"#,
    )
    .unwrap();
    assert_eq!((page.total, page.unreadable, page.calls.len()), (Some(3), 1, 2));
    let first = &page.calls[0];
    assert_eq!(first.call_id, call_id("a"));
    assert_eq!(first.status.as_deref(), Some("completed"));
    assert_eq!(first.end_reason.as_deref(), Some("human_goodbye"));
    assert_eq!(first.from, Some(number("+16286666348")));
    assert_eq!(first.to, Some(number("+14155550123")));
    assert_eq!(first.duration_s, Some(42.0));
    assert_eq!(first.start_time.unwrap().timestamp_millis(), 1_763_900_000_123);
    assert!(first.prompt_variables.is_empty());
    let second = &page.calls[1];
    assert_eq!((second.call_id.as_str(), second.status.as_deref()), ("7", Some("teleported")));
    assert_eq!((&second.from, second.duration_s, second.start_time), (&None, None, None));
}

#[test]
fn one_call_is_read_from_an_array_or_an_object_under_either_status() {
    let bodies = [
        r#"{"status":"ok","response":{"calls":[{"call_id":"a","status":"ringing","prompt_variables":{"outdial_attempt_id":"x","n":5}}]}}"#,
        r#"{"status":"ok","response":{"calls":{"call_id":"a","call_status":"ringing","prompt_variables":[{"key":"outdial_attempt_id","value":"x"}]}}}"#,
        r#"{"response":{"call_id":"a","status":"ringing","prompt_variables":{"outdial_attempt_id":"x"}}}"#,
    ];
    for body in bodies {
        let record = call(body.as_bytes(), &call_id("a")).unwrap();
        assert_eq!(record.status.as_deref(), Some("ringing"), "{body}");
        assert_eq!(record.prompt_variables["outdial_attempt_id"], "x", "{body}");
    }
    let empty = call(br#"{"response":{"calls":[]}}"#, &call_id("a"));
    assert!(matches!(empty, Err(ProviderError::NotFound { .. })));
    let another = call(bodies[0].as_bytes(), &call_id("b"));
    assert!(matches!(another, Err(ProviderError::Unreadable(_))));
}

#[test]
fn times_come_in_three_forms() {
    let start = |json: &str| {
        let body = format!(r#"{{"response":{{"calls":[{{"call_id":"a","start_time":{json}}}]}}}}"#);
        call(body.as_bytes(), &call_id("a")).unwrap().start_time.map(|t| t.timestamp())
    };
    for form in
        ["1763900000000", r#""1763900000000""#, r#""2025-11-23T12:13:20""#, r#""2025-11-23 12:13:20.5""#]
    {
        assert_eq!(start(form), Some(1_763_900_000), "{form}");
    }
    assert_eq!(start(r#""2025-11-23T13:13:20+01:00""#), Some(1_763_900_000));
    for form in ["null", r#""""#, r#""soon""#, "-5", "0"] {
        assert_eq!(start(form), None, "{form}");
    }
}

#[test]
fn a_pool_is_read_from_an_array_or_an_object() {
    let pool = r#""attached_phone_numbers":[{"number":"+16286666348","sid":"PN1","slug":"16286666348"},{"number":"+14165550100","sid":null},{"number":null}]"#;
    let bodies = [
        format!(
            r#"{{"status":"ok","response":{{"assistants":[{{"model_id":"{0}","name":"Acme","type":"outbound",{pool}}}]}}}}"#,
            model_id()
        ),
        format!(
            r#"{{"response":{{"assistants":{{"model_id":"{0}","name":"Acme","type":"outbound",{pool}}}}}}}"#,
            model_id()
        ),
        format!(r#"{{"response":{{"assistant":{{"name":"Acme","type":"outbound",{pool}}}}}}}"#),
    ];
    for body in bodies {
        let agent = assistant(body.as_bytes(), &model_id()).unwrap();
        let numbers = agent.pool.unwrap();
        assert_eq!(agent.kind.as_deref(), Some("outbound"));
        assert_eq!(numbers.len(), 2);
        assert_eq!(agent.unreadable, 1);
        assert_eq!((numbers[0].slug.as_str(), numbers[0].sid.as_deref()), ("16286666348", Some("PN1")));
        assert_eq!((numbers[1].slug.as_str(), numbers[1].sid.as_deref()), ("14165550100", None));
    }
}

#[test]
fn an_agent_without_its_pool_is_not_an_agent_with_an_empty_one() {
    let read = |rest: &str| {
        let body = format!(r#"{{"response":{{"assistants":[{{"model_id":"{}"{rest}}}]}}}}"#, model_id());
        assistant(body.as_bytes(), &model_id()).unwrap().pool
    };
    assert_eq!(read(""), None);
    assert_eq!(read(r#","attached_phone_numbers":null"#), None);
    assert_eq!(read(r#","attached_phone_numbers":[]"#), Some(Vec::new()));
    let other = assistant(br#"{"response":{"assistants":[{"model_id":"other"}]}}"#, &model_id());
    assert!(matches!(other, Err(ProviderError::Unreadable(_))));
    let none = assistant(br#"{"response":{"assistants":[]}}"#, &model_id());
    assert!(matches!(none, Err(ProviderError::NotFound { .. })));
}

#[test]
fn a_place_body_carries_what_is_set_and_nothing_else() {
    let mut call = PlaceCall {
        model_id: model_id(),
        phone: number("+14155550123"),
        name: "Ann \"A\" O'Hara".into(),
        from_phone_number: Some(number("+16286666348")),
        custom_variables: vec![("b".into(), "1".into()), ("outdial_attempt_id".into(), "x".into())],
        prompt: None,
        greeting: Some("Hello".into()),
        lead_email: None,
        lead_timezone: Some("America/New_York".into()),
        traceparent: None,
    };
    let body: serde_json::Value = serde_json::from_slice(&place_body(&call)).unwrap();
    let expected = serde_json::json!({
        "model_id": model_id().as_str(), "phone": "+14155550123", "name": "Ann \"A\" O'Hara",
        "from_phone_number": "+16286666348", "greeting": "Hello", "lead_timezone": "America/New_York",
        "custom_variables": [{"key": "b", "value": "1"}, {"key": "outdial_attempt_id", "value": "x"}],
    });
    assert_eq!(body, expected);
    call.from_phone_number = None;
    let body: serde_json::Value = serde_json::from_slice(&place_body(&call)).unwrap();
    assert!(body.get("from_phone_number").is_none());
    let shown = format!("{call:?}");
    assert!(!shown.contains("4155550123") && !shown.contains("Ann"), "{shown}");
}

/// JSON of the shapes the provider uses, with anything for a leaf.
fn odd_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
        Just("1763900000123".into()),
    ];
    let key = prop_oneof![
        Just("response"),
        Just("calls"),
        Just("call_id"),
        Just("status"),
        Just("start_time"),
        Just("duration"),
        Just("assistants"),
        Just("model_id"),
        Just("attached_phone_numbers"),
        Just("number"),
        Just("slug"),
        Just("prompt_variables"),
        Just("pagination"),
        Just("total_records"),
        Just("phone_number_from"),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = (calls(&body), call(&body, &call_id("a")), assistant(&body, &model_id()), total(&body));
    }

    #[test]
    fn no_json_makes_the_readers_panic(json in odd_json()) {
        let body = json.to_string().into_bytes();
        let _ = (calls(&body), call(&body, &call_id("a")), assistant(&body, &model_id()), total(&body));
    }
}

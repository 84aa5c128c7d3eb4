#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::TimeZone;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 23, 12, 0, 0).unwrap()
}

fn sample() -> Map<String, Value> {
    let Value::Object(map) = json!({
        "job_id": "j-1", "campaign_id": "spring-sale", "phone": "+1 (415) 555-2671", "name": "Ada Lovelace"
    }) else {
        unreachable!()
    };
    map
}

fn with(field: &str, value: Value) -> Map<String, Value> {
    let mut map = sample();
    map.insert(field.to_owned(), value);
    map
}

fn read(map: &Map<String, Value>) -> Result<Job, DeadLetter> {
    decode(Value::Object(map.clone()).to_string().as_bytes(), None, now(), &JobOptions::default())
}

fn read_text(text: &str) -> Result<Job, DeadLetter> {
    decode(text.as_bytes(), None, now(), &JobOptions::default())
}

fn reason(result: Result<Job, DeadLetter>) -> DeadReason {
    result.unwrap_err().reason
}

/// Every field with values that pass and values that don't. `schema` tells whether JSON Schema can say so too.
struct Rule {
    field: &'static str,
    good: Vec<Value>,
    bad: Vec<Value>,
    bad_beyond_schema: Vec<Value>,
}

fn rules() -> Vec<Rule> {
    let long = |n: usize| Value::from("x".repeat(n));
    let rule = |field, good: Value, bad: Value, bad_beyond_schema: Value| {
        let list = |v: Value| v.as_array().unwrap().clone();
        Rule { field, good: list(good), bad: list(bad), bad_beyond_schema: list(bad_beyond_schema) }
    };
    let text = |field| rule(field, json!(["", "Hi, {name}", null]), json!([1, {}, "a\0b"]), json!([]));
    vec![
        rule(
            "job_id",
            json!(["a", "A.b_c:d-9", long(128)]),
            json!(["", "a b", "é", long(129), 7]),
            json!([]),
        ),
        rule("campaign_id", json!(["a", long(128)]), json!(["", "a/b", long(129), 7]), json!([])),
        rule("name", json!(["A", "é".repeat(200)]), json!(["", "  ", "é".repeat(201), 5, "A\0"]), json!([])),
        rule("model_id", json!(["1696x1648", long(128), null]), json!(["", "a\nb", long(129), 1]), json!([])),
        rule("brand", json!(["acme corp", null]), json!(["", long(129), []]), json!([])),
        rule(
            "region",
            json!(["US-CA", "GB", "GB-ENG", null]),
            json!(["us-ca", "USA", "", "US-", 1]),
            json!([]),
        ),
        rule(
            "from_phone_number",
            json!(["+16286666348", null]),
            json!(["16286666348", "+1 628 666 6348", "+0123", "", 1]),
            json!([]),
        ),
        rule(
            "custom_variables",
            json!([{}, {"a": "b"}, [], [{"key": "a", "value": ""}], null]),
            json!([
                {"a": 1}, {"a": null}, {"": "b"}, {"outdial_attempt_id": "x"}, {"a": "\0"}, "a", ["a"],
                [{"key": "a"}], [{"key": "outdial_attempt_id", "value": "x"}]
            ]),
            json!([[{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]]),
        ),
        text("prompt"),
        text("greeting"),
        text("lead_email"),
        rule(
            "lead_timezone",
            json!(["America/New_York", "UTC", null]),
            json!(["", "+5 hours", 5]),
            json!(["Mars/Olympus"]),
        ),
        rule(
            "not_before",
            json!(["2026-12-01T09:00:00Z", "2026-12-01T09:00:00.5-05:00", null]),
            json!(["2026-12-01", "2026-12-01T09:00:00", "tomorrow", 1_700_000_000]),
            json!(["2026-13-01T09:00:00Z"]),
        ),
        rule(
            "expires_at",
            json!(["2020-01-01T00:00:00Z", null]),
            json!(["", "2026-12-01T09:00", 0]),
            json!(["9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01", "0000-06-01T00:00:00Z"]),
        ),
        rule("priority", json!([0, 4, 9, 5.0, null]), json!([-1, 10, 4.5, "4", true]), json!([])),
        rule(
            "consent",
            json!([{"source": "form", "obtained_at": "2026-01-01T00:00:00Z"}, null]),
            json!([{}, {"source": "form"}, {"source": " ", "obtained_at": "2026-01-01T00:00:00Z"}, "yes"]),
            json!([]),
        ),
        rule(
            "metadata",
            json!([{}, {"a": [1, {"b": null}]}, null]),
            json!(["x", [], 1]),
            json!([{"a": "\0"}, {"\0": 1}, {"a": "x".repeat(8192)}]),
        ),
    ]
}

#[test]
fn each_field_takes_what_it_should_and_refuses_the_rest() {
    for rule in rules() {
        for value in &rule.good {
            let result = read(&with(rule.field, value.clone()));
            if rule.field == "job_id" || !value.is_null() {
                assert!(result.is_ok(), "{} = {value}: {result:?}", rule.field);
            }
        }
        for value in rule.bad.iter().chain(&rule.bad_beyond_schema) {
            let fault = read(&with(rule.field, value.clone())).unwrap_err();
            assert_eq!(fault.reason, DeadReason::InvalidField, "{} = {value}: {fault}", rule.field);
            assert!(fault.detail.contains(rule.field), "{fault}");
        }
    }
    let covered: Vec<_> = rules().iter().map(|r| r.field).collect();
    let missed: Vec<_> =
        JobMessage::FIELDS.iter().map(|f| f.0).filter(|f| *f != "phone" && !covered.contains(f)).collect();
    assert!(missed.is_empty(), "no samples for {missed:?}");
}

#[test]
fn the_schema_agrees_with_the_reader() {
    let schema = jsonschema::draft202012::new(&serde_json::to_value(job_schema()).unwrap()).unwrap();
    let takes = |map: Map<String, Value>| schema.is_valid(&Value::Object(map));
    assert!(takes(sample()));
    for rule in rules() {
        for value in rule.good {
            assert!(takes(with(rule.field, value.clone())), "{} = {value}", rule.field);
        }
        for value in rule.bad {
            assert!(!takes(with(rule.field, value.clone())), "{} = {value}", rule.field);
        }
    }
    assert!(!takes(with("form_phone_number", json!("+16286666348"))));
    for required in ["campaign_id", "phone", "name"] {
        let mut map = sample();
        map.remove(required);
        assert!(!takes(map.clone()), "{required}");
        map.insert(required.to_owned(), Value::Null);
        assert!(!takes(map), "{required} = null");
    }
    assert!(!takes(with("phone", json!("0415 555 2671"))));
}

#[test]
fn a_body_above_64_kib_is_too_large_whatever_it_holds() {
    assert_eq!(reason(read_text(&"x".repeat(BODY_BYTES_MAX + 1))), DeadReason::TooLarge);
    let padded = |n: usize| {
        let body = Value::Object(sample()).to_string();
        format!("{body}{}", " ".repeat(n - body.len()))
    };
    assert!(read_text(&padded(BODY_BYTES_MAX)).is_ok());
    assert_eq!(reason(read_text(&padded(BODY_BYTES_MAX + 1))), DeadReason::TooLarge);
}

#[test]
fn what_is_not_one_json_object_is_malformed() {
    let deep = format!("{}{}", "[".repeat(33), "]".repeat(33));
    let nested = format!(r#"{{"metadata":{deep}}}"#);
    let twice = r#"{"phone":"+14155552671","phone":"+14155552672"}"#;
    let twice_inside = r#"{"metadata":{"a":1,"a":2}}"#;
    for text in ["", "null", "[]", "\"x\"", "{", "{} {}", "{'a':1}", &nested, &deep, twice, twice_inside] {
        assert_eq!(reason(read_text(text)), DeadReason::Malformed, "{text}");
    }
    assert!(read_text(twice).unwrap_err().detail.contains("\"phone\" is given twice"));
    assert!(read_text(&nested).unwrap_err().detail.contains("nested deeper than 32"));
    let not_utf8 = decode(b"{\"name\":\"\xff\"}", None, now(), &JobOptions::default());
    assert!(not_utf8.unwrap_err().detail.contains("not UTF-8 at byte 9"));
}

#[test]
fn an_unknown_field_is_refused_with_what_was_probably_meant() {
    let fault = read(&with("form_phone_number", json!("+16286666348"))).unwrap_err();
    assert_eq!(fault.reason, DeadReason::UnknownField);
    assert!(fault.detail.contains("\"form_phone_number\" (did you mean from_phone_number?)"), "{fault}");
    // Also with null: the name is still misspelt.
    assert_eq!(reason(read(&with("pone", Value::Null))), DeadReason::UnknownField);
    let consent = json!({"source": "form", "obtained_at": "2026-01-01T00:00:00Z", "by": "x"});
    assert!(read(&with("consent", consent)).unwrap_err().detail.contains("consent.by"));
    let pair = json!([{"key": "a", "value": "b", "type": "c"}]);
    assert_eq!(reason(read(&with("custom_variables", pair))), DeadReason::UnknownField);

    let lenient = JobOptions { unknown_fields: UnknownFields::Ignore, ..JobOptions::default() };
    let body = Value::Object(with("form_phone_number", json!("+16286666348"))).to_string();
    let job = decode(body.as_bytes(), None, now(), &lenient).unwrap();
    assert_eq!(job.content_digest(), read(&sample()).unwrap().content_digest());
}

#[test]
fn absent_and_null_required_fields_are_missing() {
    for field in ["campaign_id", "phone", "name", "job_id"] {
        let mut map = sample();
        map.insert(field.to_owned(), Value::Null);
        let fault = read(&map).unwrap_err();
        assert_eq!(fault.reason, DeadReason::MissingField, "{field}");
        map.remove(field);
        assert_eq!(read(&map).unwrap_err(), fault);
        assert!(fault.detail.contains(field), "{fault}");
    }
}

#[test]
fn the_message_id_stands_in_for_the_job_id() {
    let mut map = sample();
    map.remove("job_id");
    let body = Value::Object(map).to_string();
    let read = |body: &str, id| decode(body.as_bytes(), id, now(), &JobOptions::default());
    assert_eq!(read(&body, Some("m-1")).unwrap().job_id.as_str(), "m-1");
    assert_eq!(reason(read(&body, Some("m 1"))), DeadReason::InvalidField);
    assert_eq!(reason(read(&body, Some(""))), DeadReason::MissingField);
    let both = Value::Object(sample()).to_string();
    assert_eq!(read(&both, Some("m-1")).unwrap().job_id.as_str(), "j-1");
    assert!(read(&both, Some("not an id")).is_ok());
}

#[test]
fn the_phone_is_judged_before_other_fields_and_never_told() {
    let mut map = with("priority", json!(99));
    for bad in ["0415 555 2671", "415-555-2671", "+1 415", "+999 123456789", "+1 415 555 26x1", "", "\0"] {
        map.insert("phone".to_owned(), json!(bad));
        let fault = read(&map).unwrap_err();
        assert_eq!(fault.reason, DeadReason::InvalidPhone, "{bad}");
        assert!(bad.len() < 3 || !fault.detail.contains(bad), "{fault}");
    }
    map.insert("phone".to_owned(), json!(14155552671_u64));
    assert_eq!(reason(read(&map)), DeadReason::InvalidPhone);
    map.insert("phone".to_owned(), json!("+14155552671"));
    assert_eq!(reason(read(&map)), DeadReason::InvalidField);
}

#[test]
fn the_first_reason_that_holds_is_given() {
    let text = r#"{"job_id":"j","job_id":"j","pone":1"#;
    assert_eq!(reason(read_text(text)), DeadReason::Malformed);
    assert_eq!(reason(read_text(r#"{"pone":1,"phone":"0"}"#)), DeadReason::UnknownField);
    assert_eq!(reason(read_text(r#"{"phone":"0","priority":99}"#)), DeadReason::MissingField);
}

#[test]
fn nul_and_half_a_surrogate_pair_are_invalid_but_a_whole_pair_is_not() {
    let body =
        |name: &str| format!(r#"{{"job_id":"j","campaign_id":"c","phone":"+14155552671","name":"{name}"}}"#);
    for bad in [r"\u0000", r"\ud83d", r"\ude00", r"\ud83d\ud83d", r"a\uDE00\uD83Db", r"\ud83dx", r"\\\ud83d"]
    {
        let fault = read_text(&body(bad)).unwrap_err();
        assert_eq!(fault.reason, DeadReason::InvalidField, "{bad}");
        assert!(fault.detail.starts_with("name has U+0000 or half"), "{fault}");
    }
    assert_eq!(read_text(&body(r"\ud83d\ude00")).unwrap().name.as_str(), "😀");
    assert_eq!(read_text(&body(r"\\ud83d")).unwrap().name.as_str(), r"\ud83d");
    assert_eq!(reason(read_text(&body(r"\ud83"))), DeadReason::Malformed);
}

#[test]
fn expiry_must_follow_not_before_but_may_be_past() {
    let mut map = with("expires_at", json!("2020-01-01T00:00:00Z"));
    assert!(read(&map).is_ok());
    map.insert("not_before".to_owned(), json!("2020-01-01T00:00:00Z"));
    assert_eq!(reason(read(&map)), DeadReason::InvalidField);
    map.insert("not_before".to_owned(), json!("2020-01-01T02:00:00+02:00"));
    assert_eq!(reason(read(&map)), DeadReason::InvalidField);
    map.insert("not_before".to_owned(), json!("2019-12-31T23:59:59Z"));
    assert!(read(&map).is_ok());
}

#[test]
fn equal_content_has_an_equal_digest_however_it_is_written() {
    let one = r#"{"job_id":"a","campaign_id":"c","phone":"+1 (415) 555-2671","name":"Ada","brand":null,
        "custom_variables":{"x":"1","y":"2"},"not_before":"2026-12-01T09:00:00Z","metadata":{"p":1,"q":[1.5]}}"#;
    let other = r#"{"metadata":{"q":[1.50],"p":1.0},"name":"\u0041da","priority":4,"phone":"+14155552671",
        "not_before":"2026-12-01T10:00:00+01:00","campaign_id":"c",
        "custom_variables":[{"value":"2","key":"y"},{"key":"x","value":"1"}]}"#;
    let one = read_text(one).unwrap();
    let other = decode(other.as_bytes(), Some("a"), now(), &JobOptions::default()).unwrap();
    assert_eq!(one, other);
    assert_eq!(one.content_digest(), other.content_digest());
    assert_eq!(one.id_digest(), other.id_digest());
}

#[test]
fn any_change_of_content_changes_the_digest() {
    let mut seen = vec![read(&sample()).unwrap().content_digest()];
    let changes = [
        ("campaign_id", json!("autumn")),
        ("phone", json!("+14155552672")),
        ("name", json!("Ada")),
        ("model_id", json!("m")),
        ("brand", json!("GB")),
        ("region", json!("GB")),
        ("from_phone_number", json!("+16286666348")),
        ("custom_variables", json!({"a": "b"})),
        ("custom_variables", json!({"a": "b", "is": "c"})),
        ("prompt", json!("m")),
        ("greeting", json!("m")),
        ("lead_email", json!("m")),
        ("lead_timezone", json!("UTC")),
        ("not_before", json!("2026-12-01T09:00:00Z")),
        ("expires_at", json!("2026-12-01T09:00:00Z")),
        ("priority", json!(5)),
        ("consent", json!({"source": "form", "obtained_at": "2026-01-01T00:00:00Z"})),
        ("metadata", json!({"a": 1})),
        ("metadata", json!({})),
    ];
    for (field, value) in changes {
        let digest = read(&with(field, value)).unwrap().content_digest();
        assert!(!seen.contains(&digest), "{field}");
        seen.push(digest);
    }
}

#[test]
fn the_digest_of_a_known_job_never_changes() {
    // The ledger keeps digests for ever: a red test here means a new FORM.
    assert_eq!(hex::encode(read(&sample()).unwrap().content_digest()), "3370a12143aa542dbd8b6ddf9b8429b8");
}

#[test]
fn a_cancel_message_names_a_job_and_nothing_else() {
    let read =
        |body: &str| decode_order(body.as_bytes(), Some("cancel"), Some("m"), now(), &JobOptions::default());
    assert_eq!(read(r#"{"job_id":"j-1"}"#), Ok(Order::Cancel(JobId::parse("j-1").unwrap())));
    assert_eq!(read("{}").unwrap_err().reason, DeadReason::MissingField);
    assert_eq!(read(r#"{"job_id":" "}"#).unwrap_err().reason, DeadReason::InvalidField);
    assert_eq!(read(r#"{"job_id":"j","why":1}"#).unwrap_err().reason, DeadReason::UnknownField);
}

#[test]
fn nothing_of_a_person_is_shown_by_debug() {
    let job = read(&with("prompt", json!("call Ada"))).unwrap();
    let shown = format!("{job:?} {:?} {:?}", job.content, job.name);
    assert!(!shown.contains("Ada") && !shown.contains("555"), "{shown}");
}

fn shuffled() -> impl Strategy<Value = (Vec<String>, String)> {
    let fields = vec![
        r#""job_id":"a""#.to_owned(),
        r#""campaign_id":"c""#.to_owned(),
        r#""name":"Ada""#.to_owned(),
        r#""priority":4"#.to_owned(),
        r#""metadata":{"z":{"b":1,"a":2}}"#.to_owned(),
        r#""custom_variables":{"k":"v","j":"w"}"#.to_owned(),
    ];
    (Just(fields).prop_shuffle(), "[ \t\r\n]{0,3}")
}

proptest! {
    #[test]
    fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&body, None, now(), &JobOptions::default());
    }

    #[test]
    fn never_panics_on_what_looks_like_json(
        body in r#"(\{|\}|\[|\]|"|:|,|\\u[dD][89a-f][0-9a-f]{2}|\\u[0-9a-f]{0,4}|\\|phone|name|é|[0-9.eE+-]{1,4}| ){0,60}"#
    ) {
        let _ = read_text(&body);
    }

    #[test]
    fn order_white_space_and_punctuation_do_not_count(
        (fields, space) in shuffled(),
        gaps in proptest::collection::vec(prop_oneof![Just(""), Just(" "), Just("-"), Just("."), Just(" (")], 9),
    ) {
        let mut phone = "+1".to_owned();
        for (digit, gap) in "415555267".chars().zip(&gaps) {
            phone.push_str(if *gap == " (" { " " } else { gap });
            phone.push(digit);
        }
        phone.push('1');
        let mut fields = fields;
        fields.push(format!(r#""phone":"{phone}""#));
        let text = format!("{space}{{{space}{}{space}}}", fields.join(&format!("{space},{space}")));
        let plain = r#"{"job_id":"a","campaign_id":"c","phone":"+14155552671","name":"Ada",
            "metadata":{"z":{"a":2,"b":1}},"custom_variables":[{"key":"j","value":"w"},{"key":"k","value":"v"}]}"#;
        prop_assert_eq!(
            read_text(&text).map(|job| job.content_digest()),
            read_text(plain).map(|job| job.content_digest())
        );
    }

    #[test]
    fn metadata_comes_back_as_it_was_sent(text in "\\PC{0,40}", number in any::<i64>(), float in -1e9..1e9_f64) {
        let metadata = json!({"t": text, "n": number, "f": float, "l": [null, true]});
        let job = read(&with("metadata", metadata.clone())).unwrap();
        let back: Value = serde_json::from_str(&job.metadata.unwrap().to_json()).unwrap();
        prop_assert_eq!(&back["t"], &metadata["t"]);
        prop_assert_eq!(&back["n"], &metadata["n"]);
        prop_assert_eq!(back["f"].as_f64(), metadata["f"].as_f64());
    }
}

#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const DETAIL_OBJECT: &str = r#"{"detail":{"status":"error","description":"Phone number +14155550123 is bad.","request_id":"0123456789abcdef0123456789abcdef","category":"important"}}"#;
const SUCCESS: &str = r#"{"status":"success","response":{"answer":"ok","call_id":"c-1","eta":3}}"#;

fn answered(status: u16, body: &str) -> Sent {
    Sent::Answered(Answer { status, body: body.into(), retry_after: None })
}

fn outcome(status: u16, body: &str, with_caller_id: bool) -> PlaceOutcome {
    judge(&answered(status, body), with_caller_id).outcome
}

#[test]
fn every_status_means_one_thing_whatever_the_error_body() {
    use NotPlaced::*;
    let bodies = [
        DETAIL_OBJECT,
        r#"{"detail":"Not Found"}"#,
        r#"{"detail":[{"loc":["body","phone"],"msg":"field required"}]}"#,
        r#"{"error":"Bad","message":"gateway"}"#,
        "<html><body>502</body></html>",
        "",
        // A success's body proves nothing beside an error's status.
        SUCCESS,
    ];
    for status in 100..=599u16 {
        if (200..=299).contains(&status) {
            continue;
        }
        for body in bodies {
            for with_caller_id in [false, true] {
                let expected = match status {
                    400 if with_caller_id => PlaceOutcome::NotPlaced(CallerIdRejected),
                    400 | 422 => PlaceOutcome::NotPlaced(Rejected),
                    401 | 403 => PlaceOutcome::NotPlaced(Unauthorized),
                    404 => PlaceOutcome::NotPlaced(AgentUnavailable),
                    429 => PlaceOutcome::NotPlaced(Busy { retry_after: None }),
                    _ => PlaceOutcome::Unknown,
                };
                assert_eq!(outcome(status, body, with_caller_id), expected, "{status} {body}");
            }
        }
    }
}

#[test]
fn a_success_needs_a_call_id() {
    let placed = |id: &str| PlaceOutcome::Placed { call_id: CallId::parse(id).unwrap() };
    for status in [200, 201, 202] {
        assert_eq!(outcome(status, SUCCESS, true), placed("c-1"));
    }
    assert_eq!(
        outcome(200, r#"{"response":{"call_id":12345678901234567890}}"#, true),
        placed("12345678901234567890")
    );
    assert_eq!(outcome(200, r#"{"call_id":"top"}"#, true), placed("top"));
    let unreadable = [
        "",
        "OK",
        "{}",
        "null",
        "[]",
        r#"{"response":null}"#,
        r#"{"response":{"call_id":null}}"#,
        r#"{"response":{"call_id":""}}"#,
        r#"{"response":{"call_id":"a\u0000b"}}"#,
        &SUCCESS[..SUCCESS.len() - 1],
        DETAIL_OBJECT,
    ];
    for body in unreadable {
        assert_eq!(outcome(200, body, true), PlaceOutcome::Unknown, "{body}");
    }
}

#[test]
fn only_what_never_left_is_not_placed() {
    let judged = |sent| judge(&sent, true).outcome;
    for cause in
        [NotSentCause::Dns("x".into()), NotSentCause::Connect("x".into()), NotSentCause::ConnectTimeout]
    {
        assert_eq!(judged(Sent::NotSent(cause)), PlaceOutcome::NotPlaced(NotPlaced::Unreachable));
    }
    assert_eq!(judged(Sent::NotSent(NotSentCause::TooLate)), PlaceOutcome::NotPlaced(NotPlaced::TooLate));
    for cause in [UnclearCause::Timeout, UnclearCause::Connection("reset".into())] {
        assert_eq!(judged(Sent::Unclear(cause)), PlaceOutcome::Unknown);
    }
}

#[test]
fn retry_after_is_kept_and_bounded() {
    let busy = |seconds| {
        let sent = Sent::Answered(Answer {
            status: 429,
            body: Vec::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        });
        judge(&sent, true).outcome
    };
    let expected = |wait| PlaceOutcome::NotPlaced(NotPlaced::Busy { retry_after: Some(wait) });
    assert_eq!(busy(7), expected(Duration::from_secs(7)));
    assert_eq!(busy(10_000_000), expected(RETRY_AFTER_MAX));
}

#[test]
fn the_error_text_is_found_in_every_shape() {
    let table = [
        (DETAIL_OBJECT, "Phone number +*********23 is bad."),
        (r#"{"detail":"Not Found"}"#, "Not Found"),
        (
            r#"{"detail":[{"loc":["body","phone"],"msg":"field required"},{"loc":["body",0],"msg":"b"}]}"#,
            "body.phone: field required; body.0: b",
        ),
        (r#"{"error":"Bad Gateway","message":"upstream\nlost"}"#, "Bad Gateway: upstream lost"),
        (r#"{"message":"only this"}"#, "only this"),
        (r#"{"status":"error"}"#, r#"{"status":"error"}"#),
        ("<html><head><title>502</title></head>\n<body>Bad <b>Gateway</b></body></html>", "502 Bad Gateway"),
        ("plain words", "plain words"),
    ];
    for (body, expected) in table {
        assert_eq!(error_text(body.as_bytes()).as_deref(), Some(expected), "{body}");
    }
    for empty in ["", "  \n", "null", r#"{"detail":""}"#] {
        assert_eq!(error_text(empty.as_bytes()), None, "{empty:?}");
    }
}

#[test]
fn an_answer_is_kept_bounded_and_a_success_is_not() {
    let long = "é".repeat(5000);
    let verdict = judge(&answered(400, &long), false);
    assert_eq!(verdict.http_status, Some(400));
    assert!(verdict.raw.unwrap().len() <= RAW_BYTES_MAX);
    assert!(verdict.provider_error.unwrap().len() <= ERROR_BYTES_MAX);

    let verdict = judge(&answered(200, SUCCESS), false);
    assert_eq!((verdict.http_status, verdict.raw, verdict.provider_error), (Some(200), None, None));
    let verdict = judge(&answered(200, ""), false);
    assert_eq!(verdict.provider_error.as_deref(), Some("status 200 without a readable call_id"));
}

#[test]
fn debug_shows_no_body() {
    let shown =
        format!("{:?} {:?}", answered(400, DETAIL_OBJECT), judge(&answered(400, DETAIL_OBJECT), true));
    assert!(!shown.contains("4155550123"), "{shown}");
}

#[test]
fn a_401_names_the_three_hosts() {
    let shown = ProviderError::Unauthorized { status: 401, text: None }.to_string();
    for host in
        ["https://api.synthflow.ai/v2", "https://api.us.synthflow.ai/v2", "https://api.eu.synthflow.ai/v2"]
    {
        assert!(shown.contains(host), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_exceed_its_bounds(
        status in 100u16..1000,
        body in proptest::collection::vec(any::<u8>(), 0..4096),
        with_caller_id: bool,
    ) {
        let verdict = judge(&Sent::Answered(Answer { status, body, retry_after: None }), with_caller_id);
        if let Some(raw) = &verdict.raw {
            prop_assert!(raw.len() <= RAW_BYTES_MAX && !raw.contains('\0'));
        }
        if let Some(error) = &verdict.provider_error {
            prop_assert!(error.len() <= ERROR_BYTES_MAX && !error.contains(char::is_control));
        }
        let placed = matches!(verdict.outcome, PlaceOutcome::Placed { .. });
        prop_assert!(!placed || (200..300).contains(&status));
    }

    #[test]
    fn only_a_documented_refusal_frees_the_job_to_be_dialed_again(status in 100u16..1000, body: String) {
        let free = matches!(
            judge(&Sent::Answered(Answer { status, body: body.into(), retry_after: None }), true).outcome,
            PlaceOutcome::NotPlaced(_)
        );
        prop_assert_eq!(free, [400, 401, 403, 404, 422, 429].contains(&status));
    }
}

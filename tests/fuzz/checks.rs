//! What must hold of every input from outside, whatever its bytes. The fuzz targets (`fuzz_targets/`) and the suite
//! (`main.rs`) run the same functions; each panics where a promise is broken.

use chrono::{DateTime, Utc};
use outdial::core::call::{ATTEMPT_VARIABLE, CallRecord};
use outdial::core::ends::End;
use outdial::core::ids::{AttemptId, CallId, ModelId};
use outdial::core::job::{
    BODY_BYTES_MAX, Content, DeadLetter, DeadReason, Job, JobOptions, UnknownFields, decode, decode_order,
};
use outdial::core::outcome::{
    Answer, ERROR_BYTES_MAX, PlaceOutcome, ProviderError, RAW_BYTES_MAX, Sent, error_text, judge,
};
use outdial::core::phone::{E164, Phone, PhoneCheck, parse, place_of, zones_of};
use outdial::core::reconcile::Found;
use outdial::core::rules::{self, Compiled, FaultKind, Settings, diff};
use outdial::core::webhook::{call_id_of, is_signed};
use outdial::synthflow::records;
use serde_json::{Map, Value, json};

/// Of what is told of an input that is refused, at most this much: it goes into a header of the dead letter.
const DETAIL_BYTES_MAX: usize = 4096;

/// The moment at which everything is read.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap_or_default()
}

/// A message of `outdial.jobs`: a job, a cancel message, or a dead letter that says why and tells nothing of a person.
pub fn job(body: &[u8]) {
    for unknown_fields in [UnknownFields::Reject, UnknownFields::Ignore] {
        for phone_check in [PhoneCheck::Valid, PhoneCheck::Possible] {
            let options = JobOptions { unknown_fields, phone_check };
            match decode(body, Some("m-1"), now(), &options) {
                Ok(job) => decoded(&job, body, &options),
                Err(letter) => dead(&letter, body),
            }
        }
    }
    if let Err(letter) = decode_order(body, Some("cancel"), None, now(), &JobOptions::default()) {
        dead(&letter, body);
    }
}

/// A job says the same when it is written anew, and when the ledger gives it back.
fn decoded(job: &Job, body: &[u8], options: &JobOptions) {
    assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes was taken", body.len());
    dialable(&job.phone, options.phone_check);
    let written = Value::Object(message_of(job)).to_string();
    // The compact form may be longer than what was sent: `1e15` is sixteen digits.
    if written.len() <= BODY_BYTES_MAX {
        let again = decode(written.as_bytes(), None, now(), options);
        assert_eq!(again.as_ref(), Ok(job), "written anew: {written}");
        assert_eq!(again.map(|job| job.content_digest()), Ok(job.content_digest()), "{written}");
    }
    let stored = serde_json::to_string(&job.content).unwrap_or_default();
    assert!(!stored.contains("\\u0000"), "no text of the database holds U+0000");
    let read: Option<Content> = serde_json::from_str(&stored).ok();
    assert_eq!(read.as_ref(), Some(&job.content), "as the ledger keeps it: {stored}");
}

fn message_of(job: &Job) -> Map<String, Value> {
    let date = |date: &DateTime<Utc>| date.to_rfc3339();
    let content = &job.content;
    let variables: Vec<Value> =
        content.custom_variables.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
    let consent = content
        .consent
        .as_ref()
        .map(|consent| json!({ "source": consent.source, "obtained_at": date(&consent.obtained_at) }));
    let fields = [
        ("job_id", job.job_id.as_str().into()),
        ("campaign_id", job.campaign_id.as_str().into()),
        ("phone", job.phone.number.as_str().into()),
        ("name", job.name.as_str().into()),
        ("model_id", job.model_id.as_ref().map(|id| id.as_str()).into()),
        ("brand", job.brand.as_ref().map(|brand| brand.as_str()).into()),
        ("region", job.region.as_ref().map(|region| region.as_str()).into()),
        ("from_phone_number", job.from_phone_number.as_ref().map(E164::as_str).into()),
        ("custom_variables", variables.into()),
        ("prompt", content.prompt.as_deref().into()),
        ("greeting", content.greeting.as_deref().into()),
        ("lead_email", content.lead_email.as_deref().into()),
        ("lead_timezone", content.lead_timezone.as_deref().into()),
        ("not_before", job.not_before.as_ref().map(date).into()),
        ("expires_at", job.expires_at.as_ref().map(date).into()),
        ("priority", job.priority.get().into()),
        ("consent", consent.into()),
        ("metadata", job.metadata.as_ref().map(|metadata| metadata.as_map().clone()).into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn dead(letter: &DeadLetter, body: &[u8]) {
    assert!(!letter.detail.is_empty(), "{letter:?}");
    assert!(letter.detail.len() <= DETAIL_BYTES_MAX, "{} bytes: {letter:?}", letter.detail.len());
    // One line of a header and of a log.
    assert!(!letter.detail.chars().any(char::is_control), "{letter:?}");
    assert_eq!(letter.reason == DeadReason::TooLarge, body.len() > BODY_BYTES_MAX, "{letter:?}");
    no_phone_in(&letter.detail);
}

/// A phone number as people and programs write it: what is taken is E.164 and stands for itself.
pub fn phone(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let judged = [PhoneCheck::Valid, PhoneCheck::Possible].map(|check| {
        let judged = parse(&text, check);
        match &judged {
            Ok(phone) => dialable(phone, check),
            Err(fault) => no_phone_in(&fault.to_string()),
        }
        judged
    });
    if let [Ok(valid), possible] = judged {
        assert_eq!(Ok(valid), possible, "what is valid is possible: {text:?}");
    }
}

fn dialable(phone: &Phone, check: PhoneCheck) {
    let number = &phone.number;
    assert_eq!(E164::from_canonical(number.as_str()).as_ref(), Some(number), "E.164");
    assert_eq!(parse(number.as_str(), check).as_ref(), Ok(phone), "{} stands for itself", number.as_str());
    assert_eq!(place_of(number), phone.place, "{}", number.as_str());
    let _ = zones_of(number);
    if let Some(region) = phone.place.region {
        assert_eq!(Some(region.country()), phone.place.country, "{}", number.as_str());
    }
    no_phone_in(&format!("{phone:?}"));
}

/// A body of the provider, read as the answer to each request there is.
pub fn answer(body: &[u8]) {
    for status in [200, 302, 400, 401, 404, 408, 422, 429, 500, 503] {
        for with_caller_id in [false, true] {
            placing(status, body, with_caller_id);
        }
    }
    if let Some(text) = error_text(body) {
        one_bounded_line(&text);
    }
    let mut asked = vec![known_call()];
    match records::calls(body) {
        Ok(page) => {
            assert!(page.calls.len() + page.unreadable <= body.len(), "more entries than bytes");
            page.calls.iter().for_each(|record| ended(record, body));
            asked.extend(page.calls.first().map(|record| record.call_id.clone()));
        }
        Err(error) => unread(&error),
    }
    for call_id in asked {
        match records::call(body, &call_id) {
            Ok(record) => {
                assert_eq!(record.call_id, call_id, "another call's record");
                ended(&record, body);
            }
            Err(error) => unread(&error),
        }
    }
    match known_agent().map(|agent| records::assistant(body, &agent)) {
        Some(Ok(agent)) => {
            let pool = agent.pool.unwrap_or_default();
            assert!(pool.len() + agent.unreadable <= body.len(), "more numbers than bytes");
            for entry in pool {
                assert!(E164::from_canonical(entry.number.as_str()).is_some(), "{entry:?}");
                storable(&entry.slug, body);
            }
            agent.name.iter().chain(&agent.kind).for_each(|text| storable(text, body));
        }
        Some(Err(error)) => unread(&error),
        None => {}
    }
    if let Err(error) = records::total(body) {
        unread(&error);
    }
}

/// The call and the agent that the seeds speak of.
#[expect(clippy::expect_used, reason = "a constant")]
fn known_call() -> CallId {
    CallId::parse("call-1").expect("an id")
}

fn known_agent() -> Option<ModelId> {
    ModelId::parse("agent-1").ok()
}

/// Never taken for not placed but by a status that says so; what is kept of the answer is bounded.
fn placing(status: u16, body: &[u8], with_caller_id: bool) {
    let answer = Answer { status, body: body.to_vec(), retry_after: None };
    let verdict = judge(&Sent::Answered(answer), with_caller_id);
    let documented = matches!(status, 400 | 401 | 404 | 422 | 429);
    match &verdict.outcome {
        PlaceOutcome::Placed { call_id } => {
            assert_eq!(status, 200);
            assert_eq!(CallId::parse(call_id.as_str()).as_ref(), Ok(call_id));
        }
        PlaceOutcome::NotPlaced(_) => assert!(documented, "{status} proves nothing"),
        PlaceOutcome::Unknown => assert!(!documented, "{status} says that no call was placed"),
    }
    if let Some(error) = &verdict.provider_error {
        one_bounded_line(error);
    }
    if let Some(raw) = &verdict.raw {
        storable(raw, body);
        assert!(raw.len() <= RAW_BYTES_MAX);
    }
}

fn one_bounded_line(text: &str) {
    assert!(!text.is_empty() && text.len() <= ERROR_BYTES_MAX, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    no_phone_in(text);
}

/// What a record is read for can be kept: ends at a time that was, texts without control characters.
fn ended(record: &CallRecord, body: &[u8]) {
    let attempt = AttemptId(uuid::Uuid::nil());
    let found = Found::of_record(record, now());
    assert!(found.is_none() || record.prompt_variables.contains_key(ATTEMPT_VARIABLE));
    let texts = [&record.status, &record.end_reason, &record.error_message, &record.recording_url];
    texts.into_iter().flatten().for_each(|text| storable(text, body));
    for (key, value) in &record.prompt_variables {
        storable(key, body);
        storable(value, body);
    }
    for end in found.and_then(|found| found.end).into_iter().chain(End::of_record(attempt, record, now())) {
        assert!(end.ended_at.is_none_or(|at| at <= now()), "an end in the future");
        assert!(end.duration_s.is_none_or(|s| s >= 0), "a negative duration");
        if let Some(error) = &end.error {
            assert!(error.len() <= ERROR_BYTES_MAX);
            no_phone_in(error);
        }
    }
}

/// Of a text taken over from a body of the provider, at most 2 KiB, and nothing that PostgreSQL refuses. It may be
/// longer than it was sent: a byte that is no UTF-8 becomes three.
fn storable(text: &str, body: &[u8]) {
    assert!(text.len() <= (3 * body.len() + 32).min(2048), "{} bytes of {}", text.len(), body.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn unread(error: &ProviderError) {
    let told = error.to_string();
    assert!(told.len() <= 2 * ERROR_BYTES_MAX, "{} bytes: {told}", told.len());
    no_phone_in(&told);
}

/// A webhook's body and its signature: nothing is believed that isn't signed.
pub fn webhook(body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    assert!(!is_signed(b"secret", &known_call(), &text), "signed by nobody");
    let Some(call_id) = call_id_of(body) else { return };
    assert_eq!(CallId::parse(call_id.as_str()).as_ref(), Ok(&call_id));
    // Read and written anew it is about the same call; in capitals of a number's exponent at most.
    let anew = json!({ "call": { "call_id": call_id.as_str() } }).to_string();
    assert_eq!(call_id_of(anew.as_bytes()), Some(call_id));
}

/// A routing file: settings that are kept, given back and compiled as they are, or faults with their places.
pub fn routing(bytes: &[u8]) {
    let source = String::from_utf8_lossy(bytes);
    match rules::parse(&source) {
        Ok(settings) => understood(&settings, &source),
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a word");
            let lines = source.bytes().filter(|b| *b == b'\n').count() + 1;
            for fault in &faults {
                assert!((1..=lines).contains(&fault.line), "{fault}: of {lines} lines");
                assert!(!fault.message.is_empty(), "{fault:?}");
                assert!(fault.to_string().len() <= DETAIL_BYTES_MAX, "{} bytes", fault.to_string().len());
                assert!(
                    matches!(fault.kind, FaultKind::Syntax | FaultKind::More) || !fault.key.is_empty(),
                    "{fault}: of which key?"
                );
            }
            assert!(faults.is_sorted_by_key(|fault| fault.line), "in the order of the file");
            assert!(faults.len() <= FAULTS_MAX, "{} faults", faults.len());
        }
    }
}

/// More than anybody reads.
const FAULTS_MAX: usize = 101;

fn understood(settings: &Settings, source: &str) {
    assert!(!source.contains('\0'), "a source that PostgreSQL can't keep");
    let stored = serde_json::to_string(settings).unwrap_or_default();
    assert_eq!(serde_json::from_str::<Settings>(&stored).ok().as_ref(), Some(settings), "{stored}");
    assert!(diff(settings, settings).is_empty());
    assert_eq!(diff(&Settings::default(), settings).is_empty(), *settings == Settings::default());
    let compiled = Compiled::new(settings.clone());
    assert_eq!(compiled.settings(), settings);
    for entry in &settings.numbers {
        assert_eq!(compiled.number(&entry.number), Some(entry));
        for tag in &entry.tags {
            assert!(compiled.with_tag(tag).contains(&entry.number));
        }
    }
    for campaign in &settings.campaigns {
        assert_eq!(compiled.campaign(&campaign.id), Some(campaign));
    }
    for agent in &settings.agents {
        assert_eq!(compiled.agent(&agent.model_id), Some(agent));
    }
}

/// No text for people holds a number that could be rung, in one piece or with punctuation after its `+`.
fn no_phone_in(text: &str) {
    // Columns of a parser's messages have seven.
    const DIGITS_MIN: usize = 8;
    let (mut digits, mut international) = (0, false);
    for c in text.chars() {
        match c {
            '+' => (digits, international) = (0, true),
            '0'..='9' => digits += 1,
            ' ' | '\u{a0}' | '-' | '.' | '(' | ')' | '/' | '\u{2010}'..='\u{2015}' if international => {}
            _ => (digits, international) = (0, false),
        }
        assert!(digits < DIGITS_MIN, "it tells a number: {text:?}");
    }
}

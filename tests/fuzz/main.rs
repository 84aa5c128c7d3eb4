//! The twins of the fuzz targets, on stable Rust and in the time of a test: the seeds of every target, arbitrary bytes,
//! damaged good inputs, and inputs as large and hostile as they may come. `make fuzz` looks further.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod damage;
mod hostile;

use std::path::Path;

use proptest::prelude::*;

use damage::{damaged, damaged_json};

const JOB: &str = include_str!("corpus/job/whole.json");
const CALLS: &str = include_str!("corpus/answer/calls.json");
const ASSISTANT: &str = include_str!("corpus/answer/assistant.json");
const FIELDS: &str = include_str!("corpus/answer/fields.json");
const WEBHOOK: &str = include_str!("corpus/webhook/ended.json");
const ROUTING: &str = include_str!("corpus/routing/example.toml");

/// Of each target: its name, its check.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("job", checks::job),
    ("phone", checks::phone),
    ("answer", checks::answer),
    ("webhook", checks::webhook),
    ("routing", checks::routing),
];

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn every_seed_keeps_the_promises() {
    for (target, check) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 4, "{target}: {} seeds", seeds.len());
        for (name, bytes) in seeds {
            eprintln!("{name}");
            check(&bytes);
        }
    }
}

#[test]
fn every_target_has_its_file() {
    for (target, _) in TARGETS {
        let file = format!("tests/fuzz/fuzz_targets/{target}.rs");
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
        assert!(text.contains(&format!("checks::{target}, data")), "{file}");
    }
}

#[test]
fn the_good_seeds_are_taken() {
    use outdial::core::job::{JobOptions, decode};
    assert!(decode(JOB.as_bytes(), None, chrono::DateTime::UNIX_EPOCH, &JobOptions::default()).is_ok());
    assert!(outdial::core::rules::parse(ROUTING).is_ok());
    assert!(outdial::core::webhook::call_id_of(WEBHOOK.as_bytes()).is_some());
    assert_eq!(outdial::synthflow::records::calls(CALLS.as_bytes()).unwrap().calls.len(), 2);
}

#[test]
fn what_is_large_and_hostile_is_read_in_time_and_space() {
    for (name, check, bytes) in hostile::inputs() {
        let began = outdial::clock::monotonic();
        check(&bytes);
        let took = outdial::clock::monotonic() - began;
        // A multiple of what it takes; what grows with the square takes minutes.
        assert!(took.as_secs() < 30, "{name}: {took:?}");
        eprintln!("{name}: {} bytes, {took:?}", bytes.len());
    }
}

/// Bytes of no form, and such as parsers look for.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let telling = proptest::sample::select(b"{}[]\",:\\u0123456789+-.eE \n#='abctrue\0\xc3\xff".to_vec());
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), proptest::collection::vec(telling, 0..200),]
}

/// What looks like a number: `+`, digits, punctuation, and sometimes something else.
fn number_like() -> impl Strategy<Value = String> {
    "\\+?(1|7|39|44|49|52|54|800|[0-9]{1,3})[ .()/‐–-]{0,2}([0-9]{1,4}[ .()/-]{0,2}){0,5}([x#;٤ａ\\PC][0-9]{0,3})?"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_a_promise(bytes in bytes()) {
        for (_, check) in TARGETS {
            check(&bytes);
        }
    }

    #[test]
    fn no_damaged_job_breaks_a_promise(body in damaged_json(JOB)) {
        checks::job(&body);
    }

    #[test]
    fn no_damaged_answer_breaks_a_promise(
        body in prop_oneof![damaged_json(CALLS), damaged_json(ASSISTANT), damaged_json(FIELDS)]
    ) {
        checks::answer(&body);
    }

    #[test]
    fn no_damaged_webhook_breaks_a_promise(body in damaged_json(WEBHOOK)) {
        checks::webhook(&body);
    }

    #[test]
    fn no_damaged_routing_file_breaks_a_promise(source in damaged(ROUTING)) {
        checks::routing(&source);
    }

    #[test]
    fn no_text_that_looks_like_a_number_breaks_a_promise(text in number_like()) {
        checks::phone(text.as_bytes());
    }
}

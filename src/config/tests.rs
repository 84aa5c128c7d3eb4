#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use secrecy::ExposeSecret;

use super::reference::SHIPPED;
use super::*;

fn environment(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

/// Layers of a file's text, the environment and flags, as `gather` lays them.
fn read(text: &str, sources: &Sources, needs: Needs) -> (Config, Vec<Fault>, BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outdial.toml");
    std::fs::write(&path, text).unwrap();
    let sources = Sources { config_flag: Some(path), ..sources.clone() };
    Config::read(Layers::gather(&sources), needs)
}

fn faults(text: &str, pairs: &[(&str, &str)], needs: Needs) -> Vec<Fault> {
    read(text, &environment(pairs), needs).1
}

fn only_fault(text: &str, pairs: &[(&str, &str)]) -> Fault {
    let mut faults = faults(text, pairs, Needs::NOTHING);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults.remove(0)
}

#[test]
fn the_shipped_file_holds_the_built_in_defaults() {
    let (from_file, faults, _) = read(SHIPPED, &Sources::default(), Needs::NOTHING);
    assert_eq!(faults, []);
    let (built_in, ..) = Config::read(Layers::default(), Needs::NOTHING);
    assert_eq!(format!("{from_file:?}"), format!("{built_in:?}"));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let text = "[calls]\npoll = \"2s\"\nlive_max = \"1h\"\n[limits]\nslack_ms = 7\n";
    let mut sources = environment(&[("OUTDIAL__CALLS__POLL", "3s"), ("OUTDIAL__CALLS__LIVE_MAX", "3h")]);
    sources.set_flags = vec![("calls.poll".to_owned(), "4s".to_owned())];
    let (config, faults, _) = read(text, &sources, Needs::NOTHING);
    assert_eq!(faults, []);
    assert_eq!(config.calls.poll, Duration::from_secs(4), "flag");
    assert_eq!(config.calls.live_max, Duration::from_secs(3 * 3600), "environment");
    assert_eq!(config.limits.slack, Duration::from_millis(7), "file");
    assert_eq!(config.worker.lease, Duration::from_secs(10), "default");
}

#[test]
fn conventional_names_win_over_the_general_ones() {
    let sources = environment(&[
        ("OUTDIAL__DATABASE__URL", "postgres://general"),
        ("DATABASE_URL", "postgres://conventional"),
        ("RUST_LOG", "debug"),
    ]);
    let (config, faults, _) = read("[log]\nfilter = \"warn\"\n", &sources, Needs::DATABASE);
    assert_eq!(faults, []);
    assert_eq!(config.database.url().unwrap().expose_secret(), "postgres://conventional");
    assert_eq!(config.log.filter, "debug");
}

#[test]
fn a_secret_may_stand_in_a_file_named_by_a_variable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "k-123\n").unwrap();
    let path = path.to_str().unwrap();
    for name in ["SYNTHFLOW_API_KEY_FILE", "OUTDIAL__ACCOUNTS__DEFAULT__API_KEY_FILE"] {
        let (config, faults, _) = read("", &environment(&[(name, path)]), Needs::NOTHING);
        assert_eq!(faults, [], "{name}");
        let key = config.accounts[&AccountName::parse("default").unwrap()].api_key.as_ref().unwrap();
        assert_eq!(key.expose_secret(), "k-123", "{name}: without the line's end");
    }
    let both = only_fault("", &[("SYNTHFLOW_API_KEY", "k-1"), ("SYNTHFLOW_API_KEY_FILE", path)]);
    assert!(both.what.contains("both set"), "{both}");
    let gone = only_fault("", &[("SYNTHFLOW_API_KEY_FILE", "/nowhere/key")]);
    assert!(gone.to_string().contains("/nowhere/key (named by SYNTHFLOW_API_KEY_FILE)"), "{gone}");
}

#[test]
fn every_fault_is_told_at_once_with_its_place_and_mend() {
    let text = "[calls]\npoll = 5\n\n[limits]\nslack = 3\n[intake]\nphone_check = \"perhaps\"\n";
    let faults = faults(text, &[("OUTDIAL__WORKER__LEASE", "soon")], Needs::WORKER);
    let told: Vec<String> = faults.iter().map(|f| format!("{} | {} | {}", f.key, f.what, f.mend)).collect();
    let place_of = |key: &str| faults.iter().find(|f| f.key == key).unwrap().origin.to_string();
    assert_eq!(faults.len(), 7, "{told:#?}");
    assert!(place_of("calls.poll").ends_with("outdial.toml:2"));
    assert!(place_of("limits.slack").ends_with("outdial.toml:5"));
    assert_eq!(place_of("worker.lease"), "environment variable OUTDIAL__WORKER__LEASE");
    let expected = [
        "calls.poll | 5 is not a length of time | a length of time from 100ms to 10m, with its unit",
        "limits.slack | is no key | did you mean limits.slack_ms?",
        "intake.phone_check | \"perhaps\" is unknown | one of: valid, possible",
        "worker.lease | \"soon\" is not a length of time",
        "database.url | is missing | set DATABASE_URL",
        "amqp.url | is missing | set AMQP_URL",
        "accounts.default.api_key | is missing | set SYNTHFLOW_API_KEY",
    ];
    for start in expected {
        assert!(told.iter().any(|line| line.starts_with(start)), "{start} not in {told:#?}");
    }
}

#[test]
fn each_bad_value_names_what_would_do() {
    let cases = [
        ("calls.poll", "99y", "is out of range"),
        ("limits.slack_ms", "-1", "is not a whole number"),
        ("limits.slack_ms", "10001", "is out of range"),
        ("amqp.declare", "yes", "is not a truth value"),
        ("intake.unknown_fields", "keep", "one of: reject, ignore"),
        ("events.types", "job.done,job.gone", "\"job.gone\" is no event"),
        ("http.listen", "localhost", "is not an address"),
        ("log.filter", "outdial=loud", "is not a log filter"),
        ("accounts.eu.base_url", "https://api.eu.synthflow.ai", "https://api.eu.synthflow.ai/v2"),
        ("accounts.eu.base_url", "https://api.eu.synthflow.ai/v2/", "doesn't end in /v2"),
        ("accounts.eu.base_url", "api.eu.synthflow.ai/v2", "doesn't begin with"),
        ("accounts.eu.calls_per_second", "0", "is out of range"),
        ("accounts.eu.only_phones", "+14155550123,4155550199", "entry 2 is not a number"),
        ("accounts.eu.only_phones", "[\"+14155550123\", \"4155550199\"]", "entry 2 is not a number"),
        ("accounts.eu.only_phones", "[\"+14155550123\"", "begins as a list does, and isn't one"),
        ("telemetry.otlp_endpoint", "localhost:4318", "such as http://localhost:4318"),
        ("telemetry.otlp_endpoint", "http://:4318", "has no host"),
        ("pool.refresh", "2h", "pool.max_age"),
        ("calls", "1", "is a section; its keys: calls.live_max, calls.poll"),
        ("entirely.elsewhere", "1", "config/outdial.toml lists every key"),
    ];
    for (key, value, expected) in cases {
        let set_flags = vec![(key.to_owned(), value.to_owned())];
        let sources = Sources { set_flags, ..Sources::default() };
        let (_, faults, _) = read("", &sources, Needs::NOTHING);
        assert_eq!(faults.len(), 1, "{key}={value}: {faults:#?}");
        let told = faults[0].to_string();
        assert!(told.contains(expected), "{key}={value}: {told}");
        assert!(!told.contains("4155550199"), "a person's number was told: {told}");
    }
}

#[test]
fn a_job_is_known_at_least_as_long_as_its_record_is_kept() {
    const RECORDS: &str = "OUTDIAL__RETENTION__RECORDS";
    const KEYS: &str = "OUTDIAL__RETENTION__KEYS";
    let days = |n: u64| Some(Duration::from_secs(n * 86_400));
    let good = [
        ("forever", "forever", (None, None)),
        ("90d", "forever", (days(90), None)),
        ("2d", "2d", (days(2), days(2))),
        ("12w", "400d", (days(84), days(400))),
    ];
    for (records, keys, expected) in good {
        let (config, faults, _) = read("", &environment(&[(RECORDS, records), (KEYS, keys)]), Needs::NOTHING);
        assert_eq!(faults, [], "{records}, {keys}");
        assert_eq!((config.retention.records, config.retention.keys), expected, "{records}, {keys}");
    }
    let (config, ..) = read("[retention]\nrecords = \"90d\"\n", &Sources::default(), Needs::NOTHING);
    assert_eq!((config.retention.records, config.retention.keys), (days(90), None), "from a file");
    let bad = [
        ("47h", "forever", "retention.records", "\"forever\", or a length of time from 2days to 10years"),
        ("11y", "forever", "retention.records", "is out of range"),
        ("90", "forever", "retention.records", "is not a length of time"),
        ("never", "forever", "retention.records", "is not a length of time"),
        ("90d", "89d", "retention.keys", "is shorter than retention.records"),
        ("90d", "1d", "retention.keys", "is out of range"),
        ("forever", "90d", "retention.keys", "records are kept for ever"),
        // Of the two only the one that can't be read.
        ("soon", "90d", "retention.records", "is not a length of time"),
        ("90d", "later", "retention.keys", "is not a length of time"),
    ];
    for (records, keys, key, told) in bad {
        let fault = only_fault("", &[(RECORDS, records), (KEYS, keys)]);
        assert_eq!(fault.key, key, "{records}, {keys}: {fault}");
        assert!(fault.to_string().contains(told), "{records}, {keys}: {fault}");
    }
    let alone = only_fault("", &[(KEYS, "90d")]);
    assert_eq!(alone.origin, Origin::Environment(KEYS.to_owned()), "{alone}");
}

#[test]
fn spans_are_sent_only_by_a_build_that_can() {
    let given = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318/")]);
    let (config, faults, _) = read("", &given, Needs::NOTHING);
    if cfg!(feature = "otlp") {
        assert_eq!(faults, []);
        assert_eq!(config.telemetry.otlp_endpoint.as_deref(), Some("http://localhost:4318"));
    } else {
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].what.starts_with("not_supported"), "{}", faults[0]);
        assert!(faults[0].mend.contains("--features otlp"), "{}", faults[0]);
        assert_eq!(faults[0].origin, Origin::Environment("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()));
    }
    let (built_in, ..) = Config::read(Layers::default(), Needs::NOTHING);
    assert_eq!(built_in.telemetry.otlp_endpoint, None);
}

#[test]
fn no_message_shows_a_secret() {
    const CANARY: &str = "canary-7f3a91";
    let secrets = [
        ("DATABASE_URL", format!("mysql://u:{CANARY}@h/d")),
        ("AMQP_URL", format!("http://u:{CANARY}@h")),
        ("SYNTHFLOW_API_KEY", format!("{CANARY} with a blank")),
        ("SYNTHFLOW_WEBHOOK_SECRET", format!("{CANARY} ")),
        ("SYNTHFLOW_BASE_URL", format!("https://{CANARY}@api.us.synthflow.ai/v2")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://u:{CANARY}@localhost:4318")),
        ("OUTDIAL_API_TOKEN", CANARY.to_owned()),
        ("OUTDIAL_API_READ_TOKEN", CANARY.to_owned()),
    ];
    let pairs: Vec<(&str, &str)> = secrets.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut sources = environment(&pairs);
    sources.set_flags = vec![("accounts.eu.api_key".to_owned(), CANARY.to_owned())];
    let (config, faults, _) = read("", &sources, Needs::WORKER);
    assert_eq!(faults.len(), secrets.len() + 1, "{faults:#?}");
    assert!(!Faults(faults).to_string().contains(CANARY));

    // Nor does the printed configuration, nor a syntax error in the line that holds it.
    let broken = format!("[accounts.eu]\napi_key = \"{CANARY}\n");
    let told = Faults(super::tests::faults(&broken, &[], Needs::WORKER)).to_string();
    assert!(told.contains("outdial.toml:2") && !told.contains(CANARY), "{told}");
    let good = format!("[accounts.eu]\napi_key = \"{CANARY}\"\n");
    let (good, good_faults, _) = read(&good, &Sources::default(), Needs::NOTHING);
    assert_eq!(good_faults, []);
    assert!(!format!("{config:?}{good:?}").contains(CANARY));
}

#[test]
fn a_named_file_must_exist_and_an_unnamed_one_need_not() {
    let named = Sources { config_flag: Some("/nowhere/outdial.toml".into()), ..Sources::default() };
    let told = Config::load(&named, Needs::DATABASE).unwrap_err().to_string();
    assert!(
        told.contains("/nowhere/outdial.toml: can't be read") && told.contains("flag --config"),
        "{told}"
    );
    assert!(!told.contains("is missing"), "the file might hold it: {told}");
    let fault =
        Config::load(&environment(&[("OUTDIAL_CONFIG", "/nowhere/x.toml")]), Needs::NOTHING).unwrap_err();
    assert!(fault.to_string().contains("environment variable OUTDIAL_CONFIG"), "{fault}");
}

#[test]
fn accounts_come_from_sections_and_variables_alike() {
    let text = "[accounts.eu-west]\nbase_url = \"https://api.eu.synthflow.ai/v2\"\n";
    let sources = environment(&[
        ("OUTDIAL__ACCOUNTS__EU_WEST__API_KEY", "k-eu"),
        ("OUTDIAL__ACCOUNTS__EU_WEST__CALLS_PER_SECOND", "5"),
        ("SYNTHFLOW_API_KEY", "k-us"),
        ("SYNTHFLOW_BASE_URL", ""),
    ]);
    let (config, faults, _) = read(text, &sources, Needs::PROVIDER);
    assert!(faults.iter().all(|f| f.key == "database.url"), "{faults:#?}");
    let names: Vec<&str> = config.accounts.keys().map(AccountName::as_str).collect();
    assert_eq!(names, ["default", "eu-west"]);
    let eu = &config.accounts[&AccountName::parse("eu-west").unwrap()];
    assert_eq!(eu.calls_per_second, Some(5));
    assert_eq!(eu.base_url, HOSTS[1]);
}

#[test]
fn an_account_without_a_key_names_its_variable() {
    let faults = faults("[accounts.eu-west]\ncalls_per_second = 5\n", &[], Needs::PROVIDER);
    let key = faults.iter().find(|f| f.key == "accounts.eu-west.api_key").unwrap();
    assert!(key.mend.contains("OUTDIAL__ACCOUNTS__EU_WEST__API_KEY"), "{key}");
    assert!(
        !faults.iter().any(|f| f.key.starts_with("accounts.default")),
        "default isn't wanted: {faults:#?}"
    );
}

#[test]
fn beyond_loopback_it_listens_only_with_a_token() {
    let open = [("OUTDIAL__HTTP__LISTEN", "0.0.0.0:8080")];
    let serving = Needs { http: true, ..Needs::NOTHING };
    let told = faults("", &open, serving);
    assert!(told.len() == 1 && told[0].mend.contains("OUTDIAL_API_TOKEN"), "{told:#?}");
    assert_eq!(faults("", &open, Needs::NOTHING), [], "a command that serves nothing doesn't mind");
    let with_token = [open[0], ("OUTDIAL_API_TOKEN", "0123456789abcdef")];
    assert_eq!(faults("", &with_token, serving), []);
}

#[test]
fn a_file_has_types_and_a_variable_has_none() {
    let quoted = only_fault("[limits]\nslack_ms = \"100\"\n", &[]);
    assert!(quoted.what.contains("is not a whole number"), "{quoted}");
    let (config, faults, _) = read(
        "[events]\ntypes = [\"job.done\"]\n",
        &environment(&[("OUTDIAL__INTAKE__MAX_WAITING", "2_000"), ("OUTDIAL__AMQP__DECLARE", "false")]),
        Needs::NOTHING,
    );
    assert_eq!(faults, []);
    assert_eq!((config.intake.max_waiting, config.amqp.declare), (2_000, false));
    assert!(config.events.contains(EventType::JobDone) && !config.events.contains(EventType::JobAccepted));
}

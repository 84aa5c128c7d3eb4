//! `outdial sandbox` as a process that dies: what it was asked for is known again when it comes back.

use std::time::Duration;

use outdial::clock;
use outdial::core::call::{ATTEMPT_VARIABLE, ListCalls, PlaceCall};
use outdial::core::ids::ModelId;
use outdial::core::outcome::{PlaceOutcome, judge};
use outdial::core::phone::E164;
use outdial::synthflow::sandbox::LedgerEntry;
use outdial::synthflow::{Client, ClientConfig};
use secrecy::SecretString;

use crate::support::Outdial;

const LIMIT: Duration = Duration::from_secs(30);
const NUMBER: &str = "+16286666348";

/// Dies of its third answer.
const CONFIG: &str = r#"
time_scale = 0.01
[[account]]
name = "default"
key = "key-1"
[[agent]]
model_id = "agent-1"
numbers = ["+16286666348"]
[[fault]]
kind = "die"
from_n = 3
to_n = 4
"#;

fn call(n: u32) -> PlaceCall {
    PlaceCall {
        model_id: ModelId::parse("agent-1").unwrap(),
        phone: E164::from_canonical(&format!("+1415555{n:04}")).unwrap(),
        name: format!("Lead {n}"),
        from_phone_number: E164::from_canonical(NUMBER),
        custom_variables: vec![(ATTEMPT_VARIABLE.to_owned(), format!("attempt-{n}"))],
        prompt: None,
        greeting: None,
        lead_email: None,
        lead_timezone: None,
        traceparent: None,
    }
}

async fn place(client: &Client, n: u32) -> PlaceOutcome {
    let call = call(n);
    let posted = client.place(&call, clock::monotonic() + LIMIT).await;
    judge(&posted.sent, true).outcome
}

#[tokio::test]
async fn a_provider_that_died_knows_its_calls_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, ledger) = (path("sandbox.toml"), path("ledger.ndjson"));
    std::fs::write(&config, CONFIG).unwrap();
    let start = async |listen: &str| {
        let arguments = ["sandbox", "--config", &config, "--ledger", &ledger, "--listen", listen];
        let process = Outdial::start(&arguments, &[]);
        let line = process.line(LIMIT, "SYNTHFLOW_BASE_URL=").await;
        (process, line.split_once('=').unwrap().1.to_owned())
    };
    let (process, url) = start("127.0.0.1:0").await;
    let client = Client::new(&ClientConfig::new(url.as_str(), SecretString::from("key-1"))).unwrap();
    for n in 1..=3 {
        let outcome = place(&client, n).await;
        assert!(matches!(outcome, PlaceOutcome::Placed { .. }), "{n} is answered: {outcome:?}");
    }
    let (status, output) = process.wait(LIMIT).await;
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(matches!(place(&client, 4).await, PlaceOutcome::NotPlaced(_)), "nobody listens");

    let address = url.trim_start_matches("http://").trim_end_matches("/v2");
    let (mut process, _) = start(address).await;
    assert!(matches!(place(&client, 5).await, PlaceOutcome::Placed { .. }));
    process.kill9();
    let (process, _) = start(address).await;
    let wanted = ListCalls {
        model_id: ModelId::parse("agent-1").unwrap(),
        from: None,
        to: None,
        limit: 100,
        offset: 0,
        lead_phone_number: None,
    };
    let mut attempts = Vec::new();
    for listed in client.list_calls(&wanted).await.unwrap().calls {
        let record = client.get_call(&listed.call_id).await.unwrap();
        attempts.push(record.prompt_variables[ATTEMPT_VARIABLE].clone());
    }
    assert_eq!(attempts, ["attempt-5", "attempt-3", "attempt-2", "attempt-1"]);
    let (status, output) = process.stop(LIMIT).await;
    assert_eq!(status.code(), Some(0), "{output}");

    let lines = std::fs::read_to_string(&ledger).unwrap();
    let entries: Vec<LedgerEntry> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = entries.iter().map(|e| (e.seq, e.attempt_id.clone().unwrap(), e.placed)).collect();
    let as_sent = [1, 2, 3, 5].iter().zip(1..).map(|(n, seq)| (seq, format!("attempt-{n}"), true));
    assert_eq!(told, as_sent.collect::<Vec<_>>());
}

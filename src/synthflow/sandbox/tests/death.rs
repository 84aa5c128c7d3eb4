//! The sandbox dies, and comes back with its ledger's file.

use std::net::SocketAddr;
use std::path::Path;

use super::*;
use FaultKind::{Die, DieUnanswered};

async fn start_at(config: SandboxConfig, listen: Option<SocketAddr>, file: &Path) -> Sandbox {
    let mut options = SandboxOptions { ledger_file: Some(file.to_owned()), ..SandboxOptions::default() };
    options.listen = listen.unwrap_or(options.listen);
    Sandbox::start_with(config, options).await.unwrap()
}

async fn end_of(sandbox: Sandbox) -> SocketAddr {
    let address = sandbox.address();
    tokio::time::timeout(Duration::from_secs(5), sandbox.died()).await.unwrap();
    let started = clock::monotonic();
    sandbox.stop().await;
    assert!(started.elapsed() < Duration::from_secs(1), "nothing keeps it");
    address
}

#[tokio::test]
async fn it_dies_after_its_answer_and_knows_its_calls_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.ndjson");
    let mut config = config();
    everyone_talks(&mut config);
    config.accounts[0].concurrent_calls = Some(4);
    config.faults = vec![
        Fault { from_n: Some(2), to_n: Some(3), ..Fault::new(Die, 1.0) },
        Fault { from_n: Some(3), to_n: Some(4), ..Fault::new(DieUnanswered, 1.0) },
    ];
    let sandbox = start_at(config.clone(), None, &file).await;
    let client = client(&sandbox, "key-1");
    let first = placed(&client, &call(1)).await;
    let second = placed(&client, &call(2)).await;
    let told = client.get_call(&first).await;
    assert!(told.is_err(), "it is dead: {told:?}");
    let address = end_of(sandbox).await;

    // The third is placed, and nobody is told.
    let sandbox = start_at(config.clone(), Some(address), &file).await;
    assert_eq!(place(&client, &call(3)).await.outcome, PlaceOutcome::Unknown);
    end_of(sandbox).await;
    let sandbox = start_at(config, Some(address), &file).await;
    let ledger = sandbox.ledger();
    let told: Vec<_> = ledger.iter().map(|e| (e.seq, e.status, e.placed, e.faults.clone())).collect();
    let third = (3, None, true, vec![DieUnanswered]);
    assert_eq!(told, [(1, Some(200), true, vec![]), (2, Some(200), true, vec![Die]), third]);

    let listed: Vec<CallId> =
        client.list_calls(&list(100, 0)).await.unwrap().calls.into_iter().map(|c| c.call_id).collect();
    assert_eq!(listed[1..], [second.clone(), first]);
    let unheard = client.get_call(&listed[0]).await.unwrap();
    assert_eq!(unheard.prompt_variables[ATTEMPT_VARIABLE], "attempt-3");
    assert_eq!(unheard.status.as_deref(), Some("in-progress"));
    assert_eq!((unheard.from, unheard.to), (Some(number(FROM)), Some(number("+14155550003"))));
    assert!(unheard.start_time.is_some());

    // It counts on, and the calls that live take their room.
    assert_eq!((sandbox.stats().posts, sandbox.stats().calls, sandbox.stats().live_calls), (3, 3, 3));
    let fourth = placed(&client, &call(4)).await;
    assert!(!listed.contains(&fourth));
    assert_eq!(sandbox.ledger()[3].seq, 4);
    let times: Vec<u64> = sandbox.ledger().iter().map(|e| e.mono_us).collect();
    assert!(times.is_sorted(), "one time over all deaths: {times:?}");
    let late_us = clock::wall().timestamp_micros() - sandbox.ledger()[3].at_us;
    assert!((0..5_000_000).contains(&late_us), "{late_us}");
    assert!(matches!(
        place(&client, &call(5)).await.outcome,
        PlaceOutcome::NotPlaced(NotPlaced::Busy { .. })
    ));
    assert_eq!(sandbox.end_all_calls(), 4);
}

#[tokio::test]
async fn a_call_goes_on_while_the_sandbox_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.ndjson");
    let mut config = config();
    everyone_talks(&mut config);
    config.time_scale = 120.0; // a minute's call lasts half a second
    config.faults = vec![Fault { to_n: Some(2), ..Fault::new(Die, 1.0) }];
    let sandbox = start_at(config.clone(), None, &file).await;
    let client = client(&sandbox, "key-1");
    let call_id = placed(&client, &call(1)).await;
    let address = end_of(sandbox).await;
    tokio::time::sleep(Duration::from_millis(500)).await; // the sandbox's own time, not ours
    let sandbox = start_at(config, Some(address), &file).await;
    let record = client.get_call(&call_id).await.unwrap();
    assert_eq!((record.status.as_deref(), record.duration_s), (Some("completed"), Some(60.0)));
    assert_eq!(sandbox.stats().live_calls, 0);
}

#[tokio::test]
async fn calls_that_are_never_dialed_are_known_again_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.ndjson");
    let mut config = config();
    config.agents[0].numbers.clear();
    let mut call = call(1);
    call.from_phone_number = None;
    let sandbox = start_at(config.clone(), None, &file).await;
    let call_id = placed(&client(&sandbox, "key-1"), &call).await;
    let entry = sandbox.ledger()[0].clone();
    assert!(!entry.placed && entry.call_id.is_some(), "accepted, but nobody's phone rings");
    sandbox.stop().await;
    let sandbox = start_at(config, None, &file).await;
    let record = client(&sandbox, "key-1").get_call(&call_id).await.unwrap();
    assert_eq!((record.status.as_deref(), record.from), (Some("queue"), None));
    assert_eq!(*sandbox.ledger()[0], *entry);
}

#[tokio::test]
async fn a_line_broken_off_goes_and_a_wrong_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.ndjson");
    let sandbox = start_at(config(), None, &file).await;
    let client = client(&sandbox, "key-1");
    placed(&client, &call(1)).await;
    placed(&client, &call(2)).await;
    sandbox.stop().await;
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    let sandbox = start_at(config(), None, &file).await;
    assert_eq!((sandbox.stats().posts, sandbox.stats().calls), (1, 1));
    placed(&self::client(&sandbox, "key-1"), &call(3)).await;
    sandbox.stop().await;
    let sandbox = start_at(config(), None, &file).await;
    let phones: Vec<_> = sandbox.ledger().iter().map(|e| e.phone.clone().unwrap()).collect();
    assert_eq!(phones, ["+14155550001", "+14155550003"]);
    sandbox.stop().await;

    std::fs::write(&file, [whole.as_slice(), b"nonsense\n"].concat()).unwrap();
    let options = SandboxOptions { ledger_file: Some(file.clone()), ..SandboxOptions::default() };
    let error = Sandbox::start_with(config(), options).await.unwrap_err().to_string();
    assert!(error.contains("ledger.ndjson") && error.contains("after entry 2"), "{error}");
}

#[tokio::test]
async fn two_runs_of_one_seed_never_make_the_same_call_id() {
    let (one, first) = start(config()).await;
    let (_two, second) = start(config()).await;
    assert_ne!(placed(&first, &call(1)).await, placed(&second, &call(1)).await);
    let told = |s: &Sandbox| s.ledger()[0].call_id.clone();
    assert!(told(&one).is_some());
}

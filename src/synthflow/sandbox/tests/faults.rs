//! Each fault of the table, seen from outside, and what decides whom it strikes.

use super::*;
use crate::synthflow::sandbox::faults::FaultTable;
use FaultKind::{
    Answer, Close, Cut, DieUnanswered, Empty, Fresh404, Hang, Latency, ListLag, OtherCaller, Reset,
    Unreadable, WebhookDelay, WebhookDrop,
};

async fn start_with_faults(faults: Vec<Fault>) -> (Sandbox, Client) {
    start(SandboxConfig { faults, ..config() }).await
}

fn struck(sandbox: &Sandbox) -> Vec<Vec<FaultKind>> {
    sandbox.ledger().iter().map(|entry| entry.faults.clone()).collect()
}

#[tokio::test]
async fn each_bent_answer_is_seen_and_the_ledger_tells_what_was_placed() {
    let (sandbox, client) = start(config()).await;
    // The fault, the status its client sees, and whether the phone rings.
    let bent = [
        (Fault::answer(429, 1.0), Some(429), false),
        (Fault::answer(503, 1.0), Some(503), false),
        (Fault::answer(503, 1.0).but_place(), Some(503), true),
        (Fault::new(Empty, 1.0), Some(200), true),
        (Fault::new(Unreadable, 1.0), Some(200), true),
        (Fault::new(Cut, 1.0), Some(200), true),
        (Fault::new(Close, 1.0), None, true),
        (Fault::new(Reset, 1.0), None, true),
        (Fault { place: Some(false), ..Fault::new(Reset, 1.0) }, None, false),
        (Fault::new(Hang, 1.0), None, true),
    ];
    for (n, (fault, status, placed)) in (0..).zip(bent) {
        sandbox.set_faults(vec![fault.clone()]).unwrap();
        let client = if fault.kind == Hang { hasty(&sandbox) } else { client.clone() };
        let verdict = place(&client, &call(n)).await;
        let known = match status {
            Some(429) => PlaceOutcome::NotPlaced(NotPlaced::Busy { retry_after: None }),
            _ => PlaceOutcome::Unknown,
        };
        assert_eq!(verdict.outcome, known, "{fault:?}");
        let entry = sandbox.ledger().last().unwrap().clone();
        assert_eq!((entry.seq, entry.status, entry.placed), (u64::from(n) + 1, status, placed), "{fault:?}");
        assert_eq!((entry.faults.as_slice(), entry.why.as_str()), ([fault.kind].as_slice(), "fault"));
        assert_eq!(entry.call_id.is_some(), placed);
    }
    assert_eq!(client.list_calls(&list(100, 0)).await.unwrap().total, Some(7));
    sandbox.set_faults(Vec::new()).unwrap();
    placed(&client, &call(99)).await;
    assert_eq!(struck(&sandbox).last().unwrap(), &[]);
}

#[tokio::test]
async fn a_429_may_say_when_to_come_back() {
    let busy = Fault { retry_after_s: Some(7), ..Fault::answer(429, 1.0) };
    let (_sandbox, client) = start_with_faults(vec![busy]).await;
    let told = NotPlaced::Busy { retry_after: Some(Duration::from_secs(7)) };
    assert_eq!(place(&client, &call(1)).await.outcome, PlaceOutcome::NotPlaced(told));
}

#[tokio::test]
async fn a_reset_is_a_reset_and_a_close_is_not() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (sandbox, _) = start(config()).await;
    let body = json!({ "model_id": AGENT, "phone": "+14155550001", "name": "Ann" }).to_string();
    let mut seen = Vec::new();
    for kind in [Reset, Close] {
        sandbox.set_faults(vec![Fault::new(kind, 1.0)]).unwrap();
        let mut line = tokio::net::TcpStream::connect(sandbox.address()).await.unwrap();
        let head = "POST /v2/calls HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key-1\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        line.write_all(request.as_bytes()).await.unwrap();
        let read = line.read(&mut [0; 64]).await;
        seen.push(read.map_err(|error| error.kind()));
    }
    assert_eq!(seen, [Err(std::io::ErrorKind::ConnectionReset), Ok(0)]);
    assert!(sandbox.ledger().iter().all(|entry| entry.placed && entry.status.is_none()));
}

#[tokio::test]
async fn a_late_answer_is_of_a_call_made_at_once() {
    let (sandbox, client) = start_with_faults(vec![Fault::new(Latency, 1.0).delayed(30_000)]).await;
    let outcome = place(&hasty(&sandbox), &call(1)).await.outcome;
    assert_eq!(outcome, PlaceOutcome::Unknown, "the client gives up first");
    let entry = &sandbox.ledger()[0];
    assert_eq!((entry.status, entry.placed, entry.why.as_str()), (Some(200), true, "accepted"));
    sandbox.set_faults(vec![Fault::new(Latency, 1.0).delayed(300)]).unwrap();
    let started = clock::monotonic();
    placed(&client, &call(2)).await;
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(struck(&sandbox), [[Latency], [Latency]]);

    // Whoever stops doesn't wait for it.
    sandbox.set_faults(vec![Fault::new(Latency, 1.0).delayed(30_000)]).unwrap();
    let stopped = async {
        while sandbox.ledger().len() < 3 {
            tokio::task::yield_now().await;
        }
        let started = clock::monotonic();
        sandbox.stop().await;
        started.elapsed()
    };
    let wanted = call(3);
    let (late, took) = tokio::join!(place(&client, &wanted), stopped);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(late.outcome, PlaceOutcome::Unknown);
}

#[tokio::test]
async fn a_call_may_be_listed_late_looked_up_late_and_told_with_another_number() {
    let mut config = config();
    config.agents[0].numbers.push("+12125550142".into());
    config.faults = vec![
        Fault { from_n: Some(1), to_n: Some(2), ..Fault::new(ListLag, 1.0).delayed(60_000) },
        Fault { from_n: Some(2), to_n: Some(3), ..Fault::new(Fresh404, 1.0).delayed(60_000) },
        Fault { from_n: Some(3), to_n: Some(4), ..Fault::new(OtherCaller, 1.0) },
        Fault { from_n: Some(4), to_n: Some(5), ..Fault::new(ListLag, 1.0).delayed(200) },
    ];
    let (sandbox, client) = start(config).await;
    let mut ids = Vec::new();
    let mut asked = clock::monotonic();
    for n in 1..=4 {
        asked = clock::monotonic();
        ids.push(placed(&client, &call(n)).await);
    }
    assert_eq!(struck(&sandbox), [vec![ListLag], vec![Fresh404], vec![OtherCaller], vec![ListLag]]);
    let listed = async || -> Vec<CallId> {
        let page = client.list_calls(&list(100, 0)).await.unwrap();
        assert_eq!(page.total, Some(page.calls.len() as u64));
        page.calls.into_iter().map(|call| call.call_id).collect()
    };
    while listed().await != [ids[3].clone(), ids[2].clone(), ids[1].clone()] {
        assert!(asked.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(asked.elapsed() >= Duration::from_millis(200), "hidden for 200 ms: {:?}", asked.elapsed());
    assert!(client.get_call(&ids[0]).await.is_ok(), "only the list lags");
    assert!(matches!(client.get_call(&ids[1]).await, Err(ProviderError::NotFound { .. })));
    let record = client.get_call(&ids[2]).await.unwrap();
    assert_eq!(record.from, Some(number("+12125550142")), "asked for was {FROM}");
    assert_eq!(sandbox.ledger()[2].from_phone_number.as_deref(), Some(FROM));
}

#[tokio::test]
async fn a_list_may_lag_for_every_call() {
    let mut config = config();
    config.guesses.list_lag_ms = 60_000;
    let (sandbox, client) = start(config).await;
    placed(&client, &call(1)).await;
    assert!(client.list_calls(&list(100, 0)).await.unwrap().calls.is_empty());
    sandbox
        .change_settings(SettingsChange { guesses: Some(Guesses::default()), ..SettingsChange::default() })
        .unwrap();
    assert_eq!(client.list_calls(&list(100, 0)).await.unwrap().calls.len(), 1);
}

#[tokio::test]
async fn reads_fail_apart_from_posts() {
    let (sandbox, client) = start(config()).await;
    let call_id = placed(&client, &call(1)).await;
    let of = |on| vec![Fault::answer(503, 1.0).on(on)];
    sandbox.set_faults(of(On::List)).unwrap();
    assert!(client.list_calls(&list(1, 0)).await.is_err());
    assert!(client.get_call(&call_id).await.is_ok());
    sandbox.set_faults(of(On::Record)).unwrap();
    assert!(client.get_call(&call_id).await.is_err());
    assert!(client.list_calls(&list(1, 0)).await.is_ok() && client.assistant(&model_id()).await.is_ok());
    sandbox.set_faults(of(On::Agent)).unwrap();
    assert!(client.detach_slug(&model_id(), "16286666348").await.is_err());
    assert!(client.assistant(&model_id()).await.is_err());
    placed(&client, &call(2)).await;
    sandbox
        .set_faults(vec![Fault::new(Reset, 1.0).on(On::Record), Fault::new(Hang, 1.0).on(On::List)])
        .unwrap();
    assert!(client.get_call(&call_id).await.is_err());
    assert!(hasty(&sandbox).list_calls(&list(1, 0)).await.is_err());
    let pool = client.assistant(&model_id()).await.unwrap().pool.unwrap();
    assert_eq!(pool.len(), 1, "what was answered 503 was not done");
    sandbox.set_faults(vec![Fault::new(Empty, 1.0).on(On::Agent)]).unwrap();
    let _ = client.detach_slug(&model_id(), "16286666348").await;
    sandbox.set_faults(Vec::new()).unwrap();
    assert!(client.assistant(&model_id()).await.unwrap().pool.unwrap().is_empty(), "this was");
}

/// What a thousand POSTs met, over HTTP and several at once.
async fn thousand(seed: u64, faults: &[Fault]) -> Vec<(u64, Vec<FaultKind>, Option<u16>, bool)> {
    let (sandbox, client) = start(SandboxConfig { seed, faults: faults.to_vec(), ..config() }).await;
    futures_util::future::join_all((0..10).map(|sender| {
        let client = client.clone();
        async move {
            for n in 0..100 {
                place(&client, &call(sender * 100 + n)).await;
            }
        }
    }))
    .await;
    let ledger = sandbox.ledger();
    sandbox.stop().await;
    ledger.iter().map(|e| (e.seq, e.faults.clone(), e.status, e.placed)).collect()
}

#[tokio::test]
async fn a_seed_strikes_the_same_posts_again_as_often_as_the_rate_says() {
    let faults = [
        Fault::answer(503, 0.2),
        Fault::new(Close, 0.2),
        Fault::new(ListLag, 0.2),
        Fault::answer(429, 0.0),
        Fault::new(WebhookDrop, 1.0),
    ];
    let first = thousand(7, &faults).await;
    assert_eq!(first, thousand(7, &faults).await);
    assert_ne!(first, thousand(8, &faults).await);
    assert_eq!(first.len(), 1_000);
    let with = |kind: FaultKind| first.iter().filter(|(_, kinds, ..)| kinds.contains(&kind)).count();
    assert!((150..=250).contains(&with(Answer)), "{}", with(Answer));
    // Of those that the entry before has left.
    assert!((110..=210).contains(&with(Close)), "{}", with(Close));
    let made = first.iter().filter(|(.., placed)| *placed).count();
    assert_eq!((made, with(WebhookDrop)), (1_000 - with(Answer), made), "no call, no webhook");
    assert!((100..=220).contains(&with(ListLag)), "{}", with(ListLag));
    let of_list =
        first.iter().filter(|(_, kinds, ..)| kinds.contains(&ListLag) && kinds.contains(&Close)).count();
    assert!((10..=70).contains(&of_list), "each entry has its own dice: {of_list}");
}

#[tokio::test]
async fn faults_off_change_nothing() {
    let all = [
        Answer,
        Empty,
        Unreadable,
        Cut,
        Close,
        Reset,
        Hang,
        FaultKind::Die,
        DieUnanswered,
        Latency,
        ListLag,
        Fresh404,
        OtherCaller,
        WebhookDrop,
        WebhookDelay,
    ];
    let never = all.map(|kind| Fault {
        status: (kind == Answer).then_some(500),
        delay_ms: [Latency, WebhookDelay].contains(&kind).then_some(Delay::fixed(9_999)),
        ..Fault::new(kind, 0.0)
    });
    let later = Fault { from_n: Some(1_000), ..Fault::answer(500, 1.0) };
    let mut told = Vec::new();
    for faults in [Vec::new(), never.to_vec(), vec![later]] {
        let mut config = config();
        config.time_scale = 1e6;
        config.faults = faults;
        let (sandbox, client) = start(config).await;
        for n in 0..50 {
            placed(&client, &call(n)).await;
        }
        sandbox.end_all_calls();
        let listed = client.list_calls(&list(100, 0)).await.unwrap().calls;
        let ends: Vec<_> = listed.into_iter().map(|c| (c.status, c.end_reason, c.from, c.to)).collect();
        let ledger: Vec<_> =
            sandbox.ledger().iter().map(|e| (e.seq, e.status, e.why.clone(), e.placed)).collect();
        assert!(struck(&sandbox).iter().all(Vec::is_empty));
        told.push((ends, ledger));
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
    assert_eq!(told[0].1[49], (50, Some(200), "accepted".to_owned(), true));
}

#[tokio::test]
async fn a_schedule_is_of_numbers_or_of_time() {
    let by_number = Fault { from_n: Some(2), to_n: Some(4), ..Fault::new(Close, 1.0) };
    let (sandbox, client) = start_with_faults(vec![by_number]).await;
    for n in 0..5 {
        place(&client, &call(n)).await;
    }
    assert_eq!(struck(&sandbox), [vec![], vec![Close], vec![Close], vec![], vec![]]);

    let set = clock::monotonic();
    sandbox.set_faults(vec![Fault { from_ms: Some(200), ..Fault::answer(503, 1.0) }]).unwrap();
    while place(&client, &call(9)).await.outcome != PlaceOutcome::Unknown {
        assert!(set.elapsed() < Duration::from_secs(20));
    }
    assert!(set.elapsed() >= Duration::from_millis(200), "its time begins when the table is set");
}

#[test]
fn a_schedule_of_time_is_exact_and_moves_nothing_within_itself() {
    let table = |from_ms, to_ms, rate| FaultTable {
        entries: vec![Fault { from_ms, to_ms, ..Fault::new(Close, rate) }],
        since_us: 5_000_000,
    };
    let strikes = |table: &FaultTable, n, at_us| table.fate(1, On::Post, n, at_us).bend.is_some();
    let outage = table(Some(300), Some(600), 1.0);
    let seen = [0, 5_299_999, 5_300_000, 5_599_999, 5_600_000].map(|at_us| strikes(&outage, 1, at_us));
    assert_eq!(seen, [false, false, true, true, false]);
    let (always, later) = (table(None, None, 0.5), table(Some(300), None, 0.5));
    assert!((1..1_000).all(|n| strikes(&always, n, 5_400_000) == strikes(&later, n, 5_400_000)));
    assert!(table(None, None, 1.0).fate(1, On::List, 1, 0).bend.is_none(), "of another sort");
}

#[tokio::test]
async fn the_table_is_switched_over_http() {
    let (sandbox, client) = start(config()).await;
    let table = json!([
        { "kind": "answer", "status": 503, "rate": 1, "place": true },
        { "kind": "latency", "delay_ms": { "min": 1, "max": 50, "heavy_tail": true }, "on": "list" },
        { "kind": "fresh_404", "rate": 0.5, "from_ms": 0, "to_ms": 5 },
    ]);
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/faults", Some(table)).await.0, 200);
    let (status, kept) = raw(&sandbox, "GET", "/sandbox/faults", None).await;
    assert_eq!((status, kept.as_array().unwrap().len()), (200, 3));
    assert_eq!((&kept[0]["status"], &kept[1]["delay_ms"]["max"]), (&json!(503), &json!(50)));
    assert_eq!(place(&client, &call(1)).await.http_status, Some(503));
    // What was told can be given back.
    assert_eq!(raw(&sandbox, "PUT", "/sandbox/faults", Some(kept.clone())).await.0, 200);
    let wrong = json!([{ "kind": "answer" }, { "kind": "die", "delay_ms": 5, "rate": 2 }]);
    let (status, told) = raw(&sandbox, "PUT", "/sandbox/faults", Some(wrong)).await;
    assert_eq!(status, 400);
    let told = told["error"].as_str().unwrap();
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.contains("fault 1") && told.contains("fault 2"), "{told}");
    assert!(raw(&sandbox, "PUT", "/sandbox/faults", Some(json!([{ "kind": "fire" }]))).await.0 >= 400);
    assert_eq!(raw(&sandbox, "GET", "/sandbox/faults", None).await.1, kept, "nothing has changed");
    assert_eq!(raw(&sandbox, "DELETE", "/sandbox/faults", None).await.0, 200);
    placed(&client, &call(2)).await;
}

#[test]
fn delays_are_fixed_uniform_or_heavy_of_tail() {
    let drawn = |delay_ms: Delay| -> Vec<u128> {
        let fault = Fault { delay_ms: Some(delay_ms), ..Fault::new(Latency, 1.0) };
        let table = FaultTable { entries: vec![fault], since_us: 0 };
        (1..=10_000).map(|n| table.fate(1, On::Post, n, 0).delay.as_millis()).collect()
    };
    let share = |drawn: &[u128], above: u128| drawn.iter().filter(|&&ms| ms > above).count();
    assert!(drawn(Delay::fixed(30_000)).iter().all(|&ms| ms == 30_000));
    let uniform = drawn(Delay { min: 10, max: 19, heavy_tail: false });
    assert!(uniform.iter().all(|ms| (10..=19).contains(ms)));
    assert!((4_700..5_300).contains(&share(&uniform, 14)));
    let heavy = drawn(Delay { min: 10, max: 30_000, heavy_tail: true });
    assert!(heavy.iter().all(|ms| (10..=30_000).contains(ms)));
    assert!((4_500..5_300).contains(&share(&heavy, 20)), "half beyond twice the least");
    assert!((60..140).contains(&share(&heavy, 1_000)), "one in a hundred beyond a hundred times");
}

#[test]
fn a_table_is_read_from_the_configuration_and_its_mistakes_are_told() {
    let account = "[[account]]\nname = \"default\"\nkey = \"k\"\n";
    let read = |text: &str| SandboxConfig::from_toml(&format!("{account}{text}"));
    let config = read("[[fault]]\nkind = \"list_lag\"\nrate = 0.5\ndelay_ms = 30\n").unwrap();
    assert_eq!(config.faults, [Fault::new(ListLag, 0.5).delayed(30)]);
    for (text, wrong) in [
        ("kind = \"latency\"", "delay_ms is missing"),
        ("kind = \"close\"\ndelay_ms = 1", "delay_ms has no meaning"),
        ("kind = \"close\"\nstatus = 500", "status has no meaning"),
        ("kind = \"answer\"\nstatus = 42", "200 to 599"),
        ("kind = \"close\"\nrate = 1.5", "0 to 1"),
        ("kind = \"close\"\nfrom_n = 5\nto_n = 5", "from_n"),
        ("kind = \"list_lag\"\nplace = true", "place has no meaning"),
        ("kind = \"list_lag\"\non = \"list\"", "decided by the POST"),
        ("kind = \"latency\"\ndelay_ms = { min = 5, max = 1 }", "min is above max"),
        ("kind = \"latency\"\ndelay_ms = { min = 5, maxx = 1 }", "delay_ms"),
        ("kind = \"close\"\nrat = 1", "rat"),
    ] {
        let told = read(&format!("[[fault]]\n{text}\n")).unwrap_err().to_string();
        assert!(told.contains(wrong), "{text}: {told}");
    }
}

//! Every POST, once, in order.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_complete_and_in_order_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.ndjson");
    let options = SandboxOptions { ledger_file: Some(file.clone()), ..SandboxOptions::default() };
    let sandbox = Sandbox::start_with(config(), options).await.unwrap();
    let client = client(&sandbox, "key-1");
    let (senders, each) = (16, 50);
    let started = clock::monotonic();
    futures_util::future::join_all((0..senders).map(|s| {
        let client = client.clone();
        async move {
            for n in 0..each {
                placed(&client, &call(s * each + n)).await;
            }
        }
    }))
    .await;
    eprintln!("{} POSTs in {:?}", senders * each, started.elapsed());
    let ledger = sandbox.ledger();
    let mut phones: Vec<_> = ledger.iter().map(|e| e.phone.clone().unwrap()).collect();
    phones.sort();
    let sent: Vec<String> = (0..senders * each).map(|n| format!("+1415555{n:04}")).collect();
    assert_eq!(phones, sent, "each once");
    assert!(ledger.iter().zip(1..).all(|(entry, n)| entry.seq == n));
    let on_disk: Vec<LedgerEntry> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(on_disk.iter().eq(ledger.iter().map(|e| &**e)), "the file holds the same");
}

#[tokio::test]
async fn memory_is_bounded_and_the_gap_shows() {
    let mut config = config();
    config.ledger_memory_max = 3;
    config.calls_max = 2;
    let (sandbox, client) = start(config).await;
    let first = placed(&client, &call(0)).await;
    for n in 1..5 {
        placed(&client, &call(n)).await;
    }
    let kept: Vec<u64> = sandbox.ledger().iter().map(|e| e.seq).collect();
    assert_eq!(kept, [3, 4, 5]);
    assert_eq!(sandbox.ledger_after(4).len(), 1);
    assert!(client.get_call(&first).await.is_err());
    assert_eq!(client.list_calls(&list(100, 0)).await.unwrap().total, Some(2));
}

//! Pools: learned from the sandbox, shrinking, lost and found; and keys that are refused.

use std::sync::Arc;
use std::time::Duration;

use outdial::core::ids::RoutingVersion;
use outdial::core::phone::E164;
use outdial::core::pool::Change;
use outdial::core::rules::{Compiled, Limits};
use outdial::engine::accounts::KeyWatch;
use outdial::engine::pool::{PoolLedger, PoolStage, PoolTerms, Reader, Recheck, RulesNow, Synced, Written};
use outdial::store::{self, ConfiguredAccount};
use outdial::synthflow::sandbox::{AccountChange, SandboxConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::provider_side::{AGENT, KEY, LEASE, Side, hurry};
use crate::support::{Outdial, eventually};

const NUMBERS: [&str; 4] = ["+16286666348", "+12125550142", "+14165550144", "+442079460146"];
const SOON: Duration = Duration::from_secs(10);

/// Runs the stage for as long as `meanwhile` takes.
async fn with_stage(side: &Side, limits: Limits, refresh: Duration, meanwhile: impl AsyncFnOnce()) {
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let stage = PoolStage {
        account: side.account.clone(),
        ledger: side.pools(),
        provider: side.client(KEY),
        duties: side.worker().await,
        keys: side.keys(),
        pace: hurry(),
        rules: side.rules(limits),
        terms: PoolTerms { refresh, lease: LEASE },
    };
    tracker.spawn(stage.run(cancel.clone()));
    tracker.close();
    meanwhile().await;
    cancel.cancel();
    tokio::time::timeout(SOON, tracker.wait()).await.unwrap();
}

#[tokio::test]
async fn a_wanted_pool_is_read_with_the_limits_of_the_rules_and_detached_numbers_go() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    store::want_agent(&side.db, &side.model, &side.account).await.unwrap();
    let limits = Limits { per_minute: Some(7), ..Limits::UNLIMITED };
    with_stage(&side, limits, Duration::from_secs(300), async || {
        eventually(SOON, async || (side.attached().await.len() == 4).then_some(())).await;
        assert_eq!(
            side.count("select count(*) from outdial.limits where kind = 3 and per_minute = 7").await,
            4
        );
        let region = side.text("select region from outdial.numbers where number = '+14165550144'").await;
        assert_eq!(region.as_deref(), Some("CA-ON"));
        let epoch = side.count("select epoch from outdial.control").await;

        side.sandbox.set_pool("default", AGENT, &NUMBERS[..3]).unwrap();
        store::want_agent(&side.db, &side.model, &side.account).await.unwrap();
        eventually(SOON, async || (side.attached().await.len() == 3).then_some(())).await;
        assert!(side.count("select epoch from outdial.control").await > epoch, "workers are told");
        assert_eq!(side.count("select count(*) from outdial.pool where not attached").await, 1);
        side.sandbox.set_pool("default", AGENT, &NUMBERS).unwrap();
        store::want_agent(&side.db, &side.model, &side.account).await.unwrap();
        eventually(SOON, async || (side.attached().await.len() == 4).then_some(())).await;
        // What an agent begins with is no news; what changes under way is.
        let told =
            "select string_agg(subject || ' ' || (data ->> 'reason') || ' ' || sequence, ', ' order by id)
                    from outdial.outbox where type = 'number.state_changed'";
        assert_eq!(side.text(told).await.unwrap(), "+442079460146 detached 1, +442079460146 attached 2");
    })
    .await;
    assert_eq!(side.count("select count(*) from outdial.duties").await, 0, "the duty is left at the end");
}

#[tokio::test]
async fn a_pool_that_lost_most_of_its_numbers_is_believed_at_the_second_reading() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    store::want_agent(&side.db, &side.model, &side.account).await.unwrap();
    with_stage(&side, Limits::UNLIMITED, Duration::from_secs(300), async || {
        eventually(SOON, async || (side.attached().await.len() == 4).then_some(())).await;
        side.sandbox.set_pool("default", AGENT, &NUMBERS[..1]).unwrap();
        store::want_agent(&side.db, &side.model, &side.account).await.unwrap();
        let held = "select count(*) from outdial.agents where jsonb_array_length(pool_shrunk) = 3";
        eventually(SOON, async || (side.count(held).await == 1).then_some(())).await;
        assert_eq!(side.attached().await.len(), 4);
        eventually(SOON, async || (side.attached().await.len() == 1).then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn a_slip_of_the_provider_takes_nothing_away() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    assert!(matches!(side.sync().await, Synced::Adopted(_)));
    side.sandbox.set_pool("default", AGENT, &[]).unwrap();
    assert_eq!(side.sync().await, Synced::HeldBack { dropped: 4 });
    side.sandbox.set_pool("default", AGENT, &NUMBERS).unwrap();
    assert_eq!(
        side.sync().await,
        Synced::Adopted(Change { name: Some("Acme outbound".into()), ..Change::default() })
    );
    side.sandbox.set_pool("default", AGENT, &[]).unwrap();
    assert_eq!(side.sync().await, Synced::HeldBack { dropped: 4 }, "what was doubted before is forgotten");
    assert_eq!(side.attached().await.len(), 4);
}

#[tokio::test]
async fn an_agent_that_is_gone_is_held_until_it_is_back() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    side.sync().await;
    let state = "select state from outdial.agents";
    side.sandbox.remove_agent(AGENT);
    assert!(matches!(side.sync().await, Synced::Unavailable { .. }));
    assert_eq!(side.text(state).await.as_deref(), Some("unavailable"));
    assert_eq!(side.attached().await.len(), 4, "its numbers stay");
    assert!(
        side.pools().due(&side.account, Duration::from_secs(300)).await.unwrap().is_empty(),
        "not at once again"
    );
    side.sandbox.set_pool("default", AGENT, &NUMBERS).unwrap();
    assert!(matches!(side.sync().await, Synced::Adopted(_)));
    assert_eq!(side.text(state).await.as_deref(), Some("active"));
}

#[tokio::test]
async fn a_failed_reading_changes_nothing_but_what_went_wrong() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    side.sync().await;
    let (provider, rules) = (side.client("a-wrong-key"), side.rules(Limits::UNLIMITED));
    let reader = Reader {
        account: &side.account,
        model: &side.model,
        ledger: &side.pools(),
        provider: &provider,
        rules: &rules,
    };
    let read_at = side.text("select pool_read_at from outdial.agents").await;
    assert!(matches!(reader.sync(&Default::default()).await.unwrap(), Synced::Failed(_)));
    assert_eq!(side.attached().await.len(), 4);
    assert_eq!(side.text("select pool_read_at from outdial.agents").await, read_at);
    assert!(side.text("select pool_error from outdial.agents").await.unwrap().contains("API key"));
}

#[tokio::test]
async fn of_two_readings_at_once_one_counts_and_new_rules_void_a_reading() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    let first = side.pools().begin_reading(&side.account, &side.model).await.unwrap();
    side.sync().await;
    let change = Change { detach: vec![E164::from_canonical(NUMBERS[0]).unwrap()], ..Change::default() };
    let write = async |seen, version| {
        side.pools().adopt(&side.model, seen, RoutingVersion(version), &change, &[]).await.unwrap()
    };
    assert_eq!(write(first.seen, 0).await, Written::Overtaken);
    let second = side.pools().begin_reading(&side.account, &side.model).await.unwrap();
    assert_eq!(write(second.seen, 7).await, Written::OtherRules);
    assert_eq!(side.attached().await.len(), 4);
    assert_eq!(write(second.seen, 0).await, Written::Yes { attached: 0, detached: 1 });
    assert_eq!(side.attached().await.len(), 3);
}

#[tokio::test]
async fn after_a_refused_caller_id_a_burst_of_questions_shares_a_reading() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    side.sync().await;
    side.sandbox.set_pool("default", AGENT, &NUMBERS[1..]).unwrap();
    let (provider, recheck) = (side.client(KEY), Recheck::default());
    let version = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let readings = Arc::clone(&version);
    let rules = Arc::new(Compiled::default());
    // The rules are asked for once a reading.
    let rules = RulesNow::new(move || {
        readings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (RoutingVersion(0), Arc::clone(&rules))
    });
    let reader = Reader {
        account: &side.account,
        model: &side.model,
        ledger: &side.pools(),
        provider: &provider,
        rules: &rules,
    };
    let ask =
        async |n: usize| recheck.still_attached(&reader, &E164::from_canonical(NUMBERS[n]).unwrap()).await;
    let answers = futures_util::future::join_all((0..20).map(|n| ask(n % 2))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer, Some(n % 2 == 1));
    }
    let readings = version.load(std::sync::atomic::Ordering::Relaxed);
    assert!(readings <= 2, "{readings} readings for 20 questions");
}

#[tokio::test]
async fn an_account_is_paused_when_no_workers_key_works_and_resumed_when_one_does() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    let keys = [side.keys(), side.keys()];
    let watches = [
        KeyWatch {
            account: side.account.clone(),
            keys: keys[0].clone(),
            ledger: side.worker().await,
            provider: side.client("an-old-key"),
            pace: hurry(),
        },
        KeyWatch {
            account: side.account.clone(),
            keys: keys[1].clone(),
            ledger: side.worker().await,
            provider: side.client(KEY),
            pace: hurry(),
        },
    ];
    let state = async || {
        side.text("select state || coalesce(': ' || state_reason, '') from outdial.accounts").await.unwrap()
    };
    watches[1].probe().await.unwrap();
    watches[0].probe().await.unwrap_err();
    assert!(!keys[0].usable(&side.account) && keys[1].usable(&side.account));
    assert_eq!(state().await, "active", "the other worker's key works");

    side.sandbox
        .change_account("default", AccountChange { key_valid: Some(false), ..Default::default() })
        .unwrap();
    watches[1].probe().await.unwrap_err();
    assert_eq!(state().await, "paused: unauthorized");
    watches[0].probe().await.unwrap_err();

    side.sandbox
        .change_account("default", AccountChange { key_valid: Some(true), ..Default::default() })
        .unwrap();
    watches[1].probe().await.unwrap();
    assert_eq!(state().await, "active");
    assert!(keys[1].usable(&side.account));
    let told = "select string_agg(data ->> 'state', ',' order by sequence) from outdial.outbox
                where type = 'account.state_changed' and subject = 'default'";
    assert_eq!(side.text(told).await.as_deref(), Some("paused,active"));

    // What a person has paused isn't resumed by a key.
    sqlx::query("select outdial.set_account('default', 'paused', null, null)")
        .execute(&side.db)
        .await
        .unwrap();
    watches[1].probe().await.unwrap();
    assert_eq!(state().await, "paused");
}

#[tokio::test]
async fn a_dead_workers_key_keeps_no_account_going() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    let dead = side.worker().await;
    let watch = |ledger, key| KeyWatch {
        account: side.account.clone(),
        keys: side.keys(),
        ledger,
        provider: side.client(key),
        pace: hurry(),
    };
    watch(dead.clone(), KEY).probe().await.unwrap();
    dead.resign().await.unwrap();
    watch(side.worker().await, "a-wrong-key").probe().await.unwrap_err();
    assert_eq!(side.text("select state from outdial.accounts").await.as_deref(), Some("paused"));
}

#[tokio::test]
async fn an_accounts_limits_follow_the_configuration() {
    let side = Side::new(&NUMBERS, |_| {}).await;
    let configured = |calls_per_second, concurrent_calls| {
        [ConfiguredAccount { name: side.account.clone(), calls_per_second, concurrent_calls }]
    };
    let limits =
        "select coalesce(per_second, 0) || '/' || coalesce(concurrent, 0) from outdial.limits where kind = 1";
    assert_eq!(side.text(limits).await.as_deref(), Some("0/0"));
    store::ensure_accounts(&side.db, &configured(Some(3), Some(20))).await.unwrap();
    assert_eq!(side.text(limits).await.as_deref(), Some("3/20"));
    store::ensure_accounts(&side.db, &configured(None, Some(5))).await.unwrap();
    assert_eq!(side.text(limits).await.as_deref(), Some("0/5"));
}

#[tokio::test]
async fn the_command_line_shows_syncs_attaches_and_detaches() {
    let owned = |config: &mut SandboxConfig| {
        config.accounts[0].numbers =
            NUMBERS.iter().map(|n| serde_json::from_value((*n).into()).unwrap()).collect();
    };
    let side = Side::new(&NUMBERS[..1], owned).await;
    let base_url = side.sandbox.base_url();
    let run = async |arguments: &[&str], key: &str| {
        let env = [
            ("DATABASE_URL", side.url.as_str()),
            ("SYNTHFLOW_BASE_URL", base_url.as_str()),
            ("SYNTHFLOW_API_KEY", key),
        ];
        let (status, output) = Outdial::start(arguments, &env).wait(Duration::from_secs(20)).await;
        (status.code().unwrap(), output)
    };
    let (code, output) = run(&["pool", "show", AGENT], KEY).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("pool sync"), "{output}");

    let (code, output) = run(&["pool", "sync", AGENT], KEY).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("1 new"), "{output}");

    let (code, output) = run(&["pool", "attach", AGENT, "--number", NUMBERS[1], NUMBERS[2]], KEY).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(side.attached().await.len(), 3);

    let both = ["pool", "attach", AGENT, "--number", NUMBERS[1], "--slug", "16286666348"];
    assert_eq!(run(&both, KEY).await.0, 2);

    // The pool's last numbers, one by one: what we detach ourselves needs no second reading.
    for slug in ["16286666348", "12125550142", "14165550144"] {
        let (code, output) = run(&["pool", "detach", AGENT, "--slug", slug], KEY).await;
        assert_eq!(code, 0, "{output}");
        assert!(output.contains("1 no longer attached"), "{output}");
    }
    assert!(side.attached().await.is_empty());

    let (code, output) = run(&["pool", "show", AGENT, "--json"], KEY).await;
    assert_eq!(code, 0, "{output}");
    let start = output.find('{').unwrap();
    let shown: serde_json::Value = serde_json::from_str(&output[start..]).unwrap();
    assert_eq!(shown["numbers"].as_array().unwrap().len(), 3);

    let (code, output) = run(&["pool", "sync", AGENT], "a-wrong-key").await;
    assert_eq!(code, 1);
    assert!(output.contains("api.eu.synthflow.ai"), "{output}");
    let (code, output) = run(&["pool", "sync", "no-such-agent"], KEY).await;
    assert_eq!(code, 1);
    assert!(output.contains("404"), "{output}");
    let (code, output) = run(&["pool", "sync", AGENT, "--account", "other"], KEY).await;
    assert_eq!(code, 1);
    assert!(output.contains("[accounts.other]"), "{output}");
}

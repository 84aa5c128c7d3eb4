//! The figures at `/metrics`, held against what the stand-in's ledger, the broker and the database know.

use std::collections::{BTreeMap, BTreeSet};

use outdial::synthflow::sandbox::{Action, Override, SandboxConfig, SettingsChange, Span};
use outdial::telemetry::Metrics;

use crate::support::stage::{ANY_NUMBER, LONG, Stage, job, jobs, numbers, sandbox_config};
use crate::support::{Figures, Listener, Outdial, eventually};

/// What moves in trouble only, and which test sees it move.
const IN_TROUBLE: &[(&str, &str)] = &[
    ("limit_violations", "cli::worker::meter::tests::trouble_is_counted"),
    ("unused_slots", "cli::worker::meter::tests::trouble_is_counted"),
    (
        "statement_failures",
        "it stops::servers::what_calls_became_while_the_database_was_away_is_written_when_it_is_back",
    ),
    (
        "unwritten_results",
        "it stops::servers::what_calls_became_while_the_database_was_away_is_written_when_it_is_back",
    ),
    (
        "intake_paused",
        "it stops::servers::what_calls_became_while_the_database_was_away_is_written_when_it_is_back",
    ),
    ("acks_void", "broker::consumer::tests::an_ack_that_is_never_sent_is_counted_once"),
    ("draining", "http::tests::it_tells_how_the_worker_stands_and_stops_when_asked"),
    ("reconciled", "it reconcile::calls_whose_answers_were_lost_are_found_by_our_id_and_never_dialed_again"),
    ("webhooks", "it webhooks::what_is_no_webhook_is_refused_and_counted"),
    (
        "caller_id_mismatches",
        "it callees::a_number_that_the_provider_does_not_show_is_told_and_quarantined_where_the_rules_say_so",
    ),
    ("places_drift", "it reconcile::places_that_were_miscounted_are_found_and_put_right"),
    ("spans_lost", "it traces::a_collector_that_is_away_holds_up_no_call"),
    ("late_sends", "it limits::a_call_that_left_late_keeps_the_next_at_a_distance"),
];

/// Looks until it is so, and notes what has moved meanwhile.
async fn look(worker: &Outdial, moved: &mut BTreeSet<&str>, so: impl Fn(&Figures) -> bool) -> Figures {
    eventually(LONG, async || {
        let figures = Figures::of(worker).await;
        moved.extend(figures.moved(Metrics::NAMES));
        so(&figures).then_some(figures)
    })
    .await
}

/// How often each key occurs.
fn tally(keys: impl IntoIterator<Item = String>) -> BTreeMap<String, f64> {
    let mut tally = BTreeMap::new();
    for key in keys {
        *tally.entry(key).or_default() += 1.0;
    }
    tally
}

async fn by_disposition(stage: &Stage) -> BTreeMap<String, f64> {
    let ended: Vec<String> =
        sqlx::query_scalar("select disposition from reporting.calls where state = 'ended'")
            .fetch_all(&stage.db)
            .await
            .unwrap();
    tally(ended)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_figure_tells_what_happened() {
    const JOBS: usize = 20;
    // Slow, and one call at a time: what could be dialed but for that is seen waiting.
    let slow = Span { min: 3_000, max: 3_000 };
    let stage = Stage::new(SandboxConfig { latency_ms: slow, ..sandbox_config(&numbers(10)) }).await;
    stage.route("per_second = 50", ANY_NUMBER).await;
    stage.paused(&["held"]).await;
    // Somebody else publishes events, and doesn't. (A duty that lasts for more than a minute would be one of before the
    // database's clock was put back.)
    sqlx::query(
        "insert into outdial.duties (name, worker_no, until) values ('outbox', 0, now() + interval '50 seconds')",
    )
    .execute(&stage.db)
    .await
    .unwrap();
    let worker = stage.worker(&[("OUTDIAL__WORKER__MAX_INFLIGHT", "1")]).await;
    let mut listener = Listener::new(&stage.vhost.url).await;
    let mut moved = BTreeSet::new();

    let many = jobs("spring", JOBS);
    let unclear = Action::Answer { status: 500, body: None, retry_after_s: None };
    let phone = many[0]["phone"].as_str().map(str::to_owned);
    // It holds the only place for longer than two looks at the ledger are apart.
    stage.sandbox.override_posts(Override { phone, delay_ms: 6_000, ..Override::next(1, unclear) });
    let held: Vec<_> =
        (0..3).map(|n| job(&format!("held-{n}"), "held", &format!("+1415666010{n}"))).collect();
    stage.publish(&[&many[..], &held[..]].concat()).await;
    let accepted = (many.len() + held.len()) as f64;
    look(&worker, &mut moved, |f| f.get(r#"intake_messages_total{result="accepted"}"#) == accepted).await;
    stage.publish(&many[3..5]).await;
    stage.publish_raw([b"{".to_vec()]).await;
    look(&worker, &mut moved, |f| f.get("posts_in_flight") == 1.0).await;
    look(&worker, &mut moved, |f| f.get("dialable_jobs") > 0.0 && f.get("outbox_rows") > 0.0).await;
    let latency_ms = Some(Span { min: 250, max: 300 });
    stage.sandbox.change_settings(SettingsChange { latency_ms, ..SettingsChange::default() }).unwrap();
    stage.jobs("done", None, JOBS as i64 - 1, LONG).await;
    sqlx::query("delete from outdial.duties where name = 'outbox'").execute(&stage.db).await.unwrap();
    // The figures of the whole ledger are read every few seconds.
    let figures = look(&worker, &mut moved, |f| {
        (f.get("unknown_attempts"), f.get("dialable_jobs"), f.get("outbox_rows")) == (1.0, 0.0, 0.0)
            && f.get("posts_in_flight") == 0.0
            && ["call.ended", "job.done"]
                .map(|event| f.by("events_published_total", "type").get(event).copied())
                == [Some((JOBS - 1) as f64); 2]
    })
    .await;

    assert_eq!(figures.sum("calls_placed_total"), (JOBS - 1) as f64);
    let posts = stage.posts();
    let answers = posts.iter().map(|post| format!("{}xx", post.status.unwrap() / 100));
    assert_eq!(figures.by("answers_total", "answer"), tally(answers));
    assert_eq!(figures.sum("post_seconds_count"), posts.len() as f64);
    let attempts = figures.by("attempts_total", "outcome");
    assert_eq!((attempts["placed"], attempts["unknown"]), ((JOBS - 1) as f64, 1.0));
    assert_eq!(figures.sum("calls_ended_total"), (JOBS - 1) as f64);
    assert_eq!(figures.by("calls_ended_total", "disposition"), by_disposition(&stage).await);

    // On a machine that is too busy a slot may pass unused; each is accounted for all the same.
    let slots = figures.sum("reserved_slots_total");
    assert_eq!(slots, figures.sum("attempts_total") + figures.sum("unused_slots_total"));
    assert_eq!(figures.sum("slot_wait_seconds_count"), slots);
    assert_eq!(figures.sum("job_wait_seconds_count"), posts.len() as f64, "each job's first POST");
    // One at a time: half of them waited for more than half of the others.
    assert!(figures.sum("job_wait_seconds_sum") > 0.25 * (JOBS * JOBS / 4) as f64);

    let messages = [("accepted", accepted), ("duplicate", 2.0), ("dead", 1.0)];
    let messages = messages.map(|(result, n)| (result.to_owned(), n));
    assert_eq!(figures.by("intake_messages_total", "result"), messages.into());
    assert_eq!(figures.by("dead_letters_total", "reason"), tally(["malformed".to_owned()]));
    assert_eq!(figures.sum("intake_batch_jobs_sum"), accepted + 2.0);
    let accepts = figures.get(r#"statement_seconds_count{statement="accept"}"#);
    assert_eq!(figures.sum("intake_batch_jobs_count"), accepts);
    assert_eq!(figures.get(r#"waiting_jobs{reason="campaign_paused"}"#), 3.0);

    let told = figures.by("events_published_total", "type");
    let all: f64 = told.values().sum();
    let heard = listener.until(LONG, |events| events.len() as f64 >= all).await;
    assert_eq!(told, tally(heard.iter().map(|event| event["type"].as_str().unwrap().to_owned())));
    assert_eq!(told["call.ended"], (JOBS - 1) as f64);

    assert!(figures.get(r#"polls_total{request="list",result="ok"}"#) > 0.0);
    assert_eq!(figures.by("pool_syncs_total", "result").keys().collect::<Vec<_>>(), ["ok"]);
    assert!(figures.get("clock_offset_seconds").abs() < 1.0, "one machine, one clock");
    assert_eq!((figures.get("broker_connected"), figures.get("database_connected")), (1.0, 1.0));
    let version = stage.count("select routing_version from outdial.control").await;
    assert_eq!(figures.get("routing_version"), version as f64);

    let still: BTreeSet<&str> = Metrics::NAMES.iter().copied().filter(|name| !moved.contains(name)).collect();
    let trouble: BTreeSet<&str> = IN_TROUBLE.iter().map(|(name, _)| *name).collect();
    assert!(trouble.iter().all(|name| Metrics::NAMES.contains(name)), "{trouble:?}");
    let unfed: Vec<_> = still.difference(&trouble).collect();
    assert!(unfed.is_empty(), "declared, and never moved: {unfed:?}");
    stage.stopped(worker).await;
}

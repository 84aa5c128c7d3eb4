//! Ends of calls: found in bulk, freeing concurrency; and calls whose end nobody learns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outdial::clock;
use outdial::core::call::{ATTEMPT_VARIABLE, CallPage, CallRecord, ListCalls, PlaceCall};
use outdial::core::ids::CallId;
use outdial::core::outcome::{PlaceOutcome, ProviderError, judge};
use outdial::core::phone::E164;
use outdial::engine::ends::{EndsStage, EndsTerms};
use outdial::engine::provider::ReadsCalls;
use outdial::store::Ledger;
use outdial::synthflow::Client;
use outdial::synthflow::sandbox::{ListOrder, SandboxConfig, Span};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::provider_side::{AGENT, KEY, LEASE, Side};
use crate::support::eventually;

const NUMBER: &str = "+16286666348";

/// Counts what is asked.
#[derive(Clone)]
struct Counting {
    client: Client,
    asked: Arc<AtomicUsize>,
}

impl ReadsCalls for Counting {
    async fn list_calls(&self, filter: &ListCalls) -> Result<CallPage, ProviderError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.client.list_calls(filter).await
    }

    async fn get_call(&self, call_id: &CallId) -> Result<CallRecord, ProviderError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.client.get_call(call_id).await
    }
}

/// Calls answered at once, and over after one to two seconds.
fn short_calls(config: &mut SandboxConfig) {
    config.script.queue_ms = Span { min: 0, max: 0 };
    config.script.ring_ms = Span { min: 0, max: 200 };
    config.script.talk_ms = Span { min: 1000, max: 2000 };
    config.script.outcomes = [("completed".to_owned(), 3), ("no-answer".to_owned(), 1)].into();
}

fn stage(
    side: &Side,
    ledger: Ledger,
    live_max: Duration,
) -> (EndsStage<Ledger, Counting, Ledger>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let stage = EndsStage {
        account: side.account.clone(),
        ledger: ledger.clone(),
        provider: Counting { client: side.client(KEY), asked: Arc::clone(&asked) },
        duties: ledger,
        keys: side.keys(),
        pace: Arc::new(outdial::engine::pace::Pace::of_looks(std::num::NonZeroU32::new(2).unwrap())),
        terms: EndsTerms { poll: Duration::from_millis(500), live_max, lease: LEASE },
        placed: Arc::new(Notify::new()),
    };
    (stage, asked)
}

/// Takes `n` jobs in and through the ledger's steps up to `submitting`; gives their attempts.
async fn authorised(side: &Side, ledger: &Ledger, n: usize) -> Vec<Uuid> {
    let n = i32::try_from(n).unwrap();
    sqlx::raw_sql(
        "select outdial.see_campaigns(array['c']);
         insert into outdial.limits (kind, key, concurrent) values (3, '+16286666348', 1000);
         insert into outdial.pool (model_id, number, slug) values ('agent-1', '+16286666348', '16286666348');
         insert into outdial.agents (model_id, account) values ('agent-1', 'default');
         insert into outdial.classes (campaign_id, region) values ('c', 'US-CA');",
    )
    .execute(&side.db)
    .await
    .unwrap();
    sqlx::query(
        "select outdial.accept(array_agg(md5('j' || i)::uuid), array_agg(md5('c')::uuid), array_agg('j' || i),
             array_agg('c'::text), array_agg(1), array_agg('+1415555' || lpad(i::text, 4, '0')), array_agg('Canary'::text),
             array_agg(null::text), array_agg(null::text), array_agg(null::text), array_agg(null::text),
             array_agg(null::jsonb), array_agg(null::jsonb), array_agg(4::smallint), array_agg(null::timestamptz),
             array_agg(now() + interval '1 day'), array_agg(now()), array_agg(null::text), null)
         from generate_series(1, $1) i",
    )
    .bind(n)
    .fetch_all(&side.db)
    .await
    .unwrap();
    let jobs: Vec<i64> = sqlx::query_scalar("select job_no from outdial.work order by job_no")
        .fetch_all(&side.db)
        .await
        .unwrap();
    assert_eq!(jobs.len(), usize::try_from(n).unwrap());
    let attempts: Vec<Uuid> = jobs.iter().map(|_| Uuid::now_v7()).collect();
    let reserved: i64 = sqlx::query_scalar(
        "select count(*) from outdial.reserve($1, 0, '0', '1 second', '100 ms', $2, array_fill('c'::text, array[$3]),
             array_fill('default'::text, array[$3]), array_fill('+16286666348'::text, array[$3]),
             array_fill(null::text, array[$3]), array_fill(null::text, array[$3]), array_fill(null::text, array[$3]))
         where refused is null",
    )
    .bind(ledger.worker_no())
    .bind(&jobs)
    .bind(n)
    .fetch_one(&side.db)
    .await
    .unwrap();
    assert_eq!(reserved, i64::from(n));
    let refused: Vec<String> = sqlx::query_scalar(
        "select verdict from outdial.authorise($1, '10 seconds', $2,
             array(select r.slot from unnest($2) with ordinality u(job_no, ord) join outdial.reservations r using (job_no) order by ord),
             $4, array_fill('agent-1'::text, array[$3]),
             array_fill(null::text, array[$3]), array_fill(null::text, array[$3]), array_fill(null::text, array[$3]),
             array_fill('{}'::jsonb, array[$3]), array_fill(null::timestamptz, array[$3]), false)
         where verdict is not null",
    )
    .bind(ledger.worker_no())
    .bind(&jobs)
    .bind(n)
    .bind(&attempts)
    .fetch_all(&side.db)
    .await
    .unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    attempts
}

async fn settle_placed(side: &Side, attempts: &[Uuid], call_ids: &[String]) {
    sqlx::query(
        "select outdial.settle($1, array_fill('placed'::text, array[$3]), $2, array_fill(200::smallint, array[$3]),
             array_fill(null::text, array[$3]), array_fill(null::text, array[$3]), array_fill(null::timestamptz, array[$3]),
             array_fill('ok'::text, array[$3]), array_fill(null::int, array[$3]), array_fill(null::timestamptz, array[$3]),
             interval '100 milliseconds', null)",
    )
    .bind(attempts)
    .bind(call_ids)
    .bind(i32::try_from(attempts.len()).unwrap())
    .fetch_all(&side.db)
    .await
    .unwrap();
}

/// Places a call at the sandbox for each attempt and writes that down.
async fn placed(side: &Side, attempts: &[Uuid]) {
    let client = side.client(KEY);
    let mut call_ids = Vec::new();
    for (n, attempt) in attempts.iter().enumerate() {
        let call = PlaceCall {
            model_id: side.model.clone(),
            phone: E164::from_canonical(&format!("+1415555{:04}", n + 1)).unwrap(),
            name: "Canary".to_owned(),
            from_phone_number: E164::from_canonical(NUMBER),
            custom_variables: vec![(ATTEMPT_VARIABLE.to_owned(), attempt.to_string())],
            prompt: None,
            greeting: None,
            lead_email: None,
            lead_timezone: None,
            traceparent: None,
        };
        let sent = client.place(&call, clock::monotonic() + Duration::from_secs(5)).await.sent;
        let PlaceOutcome::Placed { call_id } = judge(&sent, true).outcome else { panic!("{sent:?}") };
        call_ids.push(call_id.as_str().to_owned());
    }
    settle_placed(side, attempts, &call_ids).await;
}

const IN_USE: &str = "select sum(in_use) from outdial.limits";
const OPEN: &str = "select count(*) from outdial.live";

#[tokio::test]
async fn five_hundred_ends_take_few_requests_and_free_every_place() {
    let side = Side::new(&[NUMBER], short_calls).await;
    let ledger = side.worker().await;
    let attempts = authorised(&side, &ledger, 500).await;
    let (stage, asked) = stage(&side, ledger, Duration::from_secs(7200));
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    placed(&side, &attempts).await;
    let placed_at = clock::monotonic();
    assert_eq!(side.count(IN_USE).await, 1500);
    tracker.spawn(stage.run(cancel.clone()));
    eventually(Duration::from_secs(20), async || (side.count(OPEN).await == 0).then_some(())).await;
    let took = placed_at.elapsed();
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    let asked = asked.load(Ordering::Relaxed);
    eprintln!("500 ends: {asked} requests, the last learned {took:?} after the last call was placed");
    assert!(asked <= 40, "{asked} requests");
    assert_eq!(side.count(IN_USE).await, 0);
    assert_eq!(
        side.count("select count(*) from outdial.jobs where state = 'done' and finished_at is not null")
            .await,
        500
    );
    let told = "select count(*) from outdial.attempts where state = 'ended' and disposition in ('answered', 'no_answer')
                and caller_id_verified and provider_status is not null and ended_at >= submitted_at - interval '1 second'";
    assert_eq!(side.count(told).await, 500);
    assert_eq!(side.count("select count(*) from outdial.outbox where type = 'call.ended'").await, 500);
}

/// What is only guessed of the provider's lists may be otherwise.
#[tokio::test]
async fn a_list_that_shows_only_ended_calls_oldest_first_will_do() {
    let unlike = |config: &mut SandboxConfig| {
        short_calls(config);
        config.guesses.list_order = ListOrder::OldestFirst;
        config.guesses.list_only_ended = true;
        config.guesses.fresh_call_404_ms = 1000;
    };
    let side = Side::new(&[NUMBER], unlike).await;
    let ledger = side.worker().await;
    let attempts = authorised(&side, &ledger, 150).await;
    let (stage, asked) = stage(&side, ledger, Duration::from_secs(7200));
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    tracker.spawn(stage.run(cancel.clone()));
    placed(&side, &attempts).await;
    eventually(Duration::from_secs(20), async || (side.count(OPEN).await == 0).then_some(())).await;
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked <= 40, "{asked} requests");
    assert_eq!(side.count(IN_USE).await, 0);
}

#[tokio::test]
async fn calls_whose_end_nobody_learns_give_their_places_back() {
    let side = Side::new(&[NUMBER], short_calls).await;
    let ledger = side.worker().await;
    let attempts = authorised(&side, &ledger, 3).await;
    // Known to nobody but us.
    settle_placed(&side, &attempts, &["x1".to_owned(), "x2".to_owned(), "x3".to_owned()]).await;
    let (stage, _) = stage(&side, ledger, Duration::from_secs(2));
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    tracker.spawn(stage.run(cancel.clone()));
    eventually(Duration::from_secs(20), async || (side.count(OPEN).await == 0).then_some(())).await;
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    assert_eq!(side.count(IN_USE).await, 0);
    let ended = "select count(*) from outdial.attempts where state = 'ended' and reason = 'end_unknown' and disposition is null";
    assert_eq!(side.count(ended).await, 3);
    assert_eq!(
        side.count("select count(*) from outdial.jobs where state = 'done' and reason = 'end_unknown'").await,
        3
    );
    let young = "select count(*) from outdial.attempts where ended_at < placed_at + interval '2 seconds'";
    assert_eq!(side.count(young).await, 0);
}

#[tokio::test]
async fn of_two_workers_one_polls_and_the_other_takes_over() {
    let side = Side::new(&[NUMBER], short_calls).await;
    let ledger = side.worker().await;
    let attempts = authorised(&side, &ledger, 20).await;
    let (first, first_asked) = stage(&side, ledger, Duration::from_secs(7200));
    let (second, second_asked) = stage(&side, side.worker().await, Duration::from_secs(7200));
    let (tracker, stop_first, stop_second) =
        (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let first = tracker.spawn(first.run(stop_first.clone()));
    eventually(Duration::from_secs(10), async || {
        (side.count("select count(*) from outdial.duties").await == 1).then_some(())
    })
    .await;
    tracker.spawn(second.run(stop_second.clone()));
    placed(&side, &attempts).await;
    eventually(Duration::from_secs(10), async || (first_asked.load(Ordering::Relaxed) > 0).then_some(()))
        .await;
    assert_eq!(second_asked.load(Ordering::Relaxed), 0);
    stop_first.cancel();
    // It writes down what it has begun to.
    first.await.unwrap();
    let open = side.count(OPEN).await;
    eventually(Duration::from_secs(20), async || (side.count(OPEN).await == 0).then_some(())).await;
    stop_second.cancel();
    tracker.close();
    tracker.wait().await;
    assert!(open == 0 || second_asked.load(Ordering::Relaxed) > 0, "the second went on");
    assert_eq!(side.count(IN_USE).await, 0);
    assert_eq!(
        side.text(&format!("select min(state) from outdial.jobs where job_id <> '{AGENT}'")).await.as_deref(),
        Some("done")
    );
}

//! Limits over several workers, held against the sandbox's own record of what arrived.

use std::collections::HashMap;
use std::time::Duration;

use outdial::clock;
use outdial::core::slots::{SlidingWindow, next_slots};
use outdial::synthflow::sandbox::{LedgerEntry, SandboxConfig, Span};
use rustix::process::Signal;

use crate::support::stage::{
    AGENT, ANY_NUMBER, Stage, job, jobs, most_in_window, number, numbers, sandbox_config,
};
use crate::support::{Figures, Outdial, eventually, from_number};

/// For what takes a moment on a quiet machine.
const SOON: Duration = Duration::from_secs(60);

fn by<'a, K: Eq + std::hash::Hash>(
    posts: &'a [LedgerEntry],
    key: impl Fn(&'a LedgerEntry) -> K,
) -> HashMap<K, Vec<u64>> {
    let mut arrivals: HashMap<K, Vec<u64>> = HashMap::new();
    for post in posts {
        arrivals.entry(key(post)).or_default().push(post.mono_us);
    }
    arrivals
}

fn from(post: &LedgerEntry) -> &str {
    post.from_phone_number.as_deref().unwrap()
}

/// Ids of jobs begin with their campaign's; each has a callee of its own.
async fn campaigns(stage: &Stage) -> HashMap<String, String> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("select attempt_id::text, campaign_id from outdial.attempts")
            .fetch_all(&stage.db)
            .await
            .unwrap();
    rows.into_iter().collect()
}

/// No window (calls, seconds) of what `of` names had more calls; what a machine that is busy with other things held up counts for
/// when its slot was.
async fn holds<'a>(
    stage: &Stage,
    posts: impl IntoIterator<Item = &'a LedgerEntry>,
    of: impl Fn(&'a LedgerEntry) -> Option<&'a str>,
    windows: &[(usize, u64)],
) {
    let windows: Vec<(u64, usize)> = windows.iter().map(|(calls, seconds)| (*seconds, *calls)).collect();
    stage.within_by(posts, of, &windows).await;
}

/// The most calls that any schedule could send from idle in `for_us`.
fn most_possible(windows: &[(usize, u64)], for_us: i64) -> usize {
    let windows: Vec<SlidingWindow> = windows
        .iter()
        .map(|(calls, seconds)| SlidingWindow { calls: *calls, length_us: *seconds as i64 * 1_000_000 })
        .collect();
    next_slots(&[], &windows, 0, 0, 10_000).into_iter().filter(|at| *at < for_us).count()
}

async fn stop(workers: Vec<Outdial>) {
    for worker in workers {
        let (status, output) = worker.stop(SOON).await;
        assert!(status.success(), "{output}");
        assert!(!output.contains("limit.violation"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_on_ten_numbers_use_what_is_allowed_and_no_more() {
    let windows = [(4, 1), (40, 60)];
    let stage = Stage::new(sandbox_config(&numbers(10))).await;
    stage.route("per_second = 4, per_minute = 40", ANY_NUMBER).await;
    let workers = vec![stage.worker(&[]).await, stage.worker(&[]).await, stage.worker(&[]).await];
    stage.publish(&jobs("big", 1_000)).await;
    stage.posted(1, SOON).await;
    tokio::time::sleep(Duration::from_secs(75)).await;
    let posts = stage.posts();
    stop(workers).await;

    let arrivals = by(&posts, from);
    holds(&stage, &posts, from_number, &windows).await;
    stage.most_in_time().await;
    assert_eq!(arrivals.len(), 10);
    let first = posts[0].mono_us;
    let used = posts.iter().filter(|post| post.mono_us < first + 75_000_000).count();
    let possible = 10 * most_possible(&windows, 75_000_000);
    assert!(used * 100 >= possible * 98, "{used} of {possible} calls that could have been sent");
    assert_eq!(by(&posts, |post| post.phone.clone()).len(), posts.len(), "nobody is rung twice");
}

/// Answers that come at once, on the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_allowance_of_a_second_is_used() {
    let stage = allowance_of_a_second(Span { min: 1, max: 5 }).await;
    stage.most_in_time().await;
    holds(&stage, &stage.posts(), from_number, &[THREE_A_SECOND]).await;
}

/// Answers that vary by far more than the slack tell little of when their calls arrived: what a busy machine held up can't be made
/// good, and counts for when its slot was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_uneven_answers_cost_no_allowance() {
    let stage = allowance_of_a_second(Span { min: 200, max: 600 }).await;
    stage.most_in_time().await;
    holds(&stage, &stage.posts(), from_number, &[THREE_A_SECOND]).await;
}

/// Calls, in so many seconds.
const THREE_A_SECOND: (usize, u64) = (3, 1);

async fn allowance_of_a_second(latency_ms: Span) -> Stage {
    // Nine bursts at the most; seven of them only if a burst follows the last within 1.42 s. Where the whole of a slow answer were
    // taken for the call's way there, fewer would go.
    const STRETCH_US: u64 = 8_500_000;
    let stage = Stage::new(SandboxConfig { latency_ms, ..sandbox_config(&numbers(10)) }).await;
    stage.route("per_second = 3", ANY_NUMBER).await;
    let workers = vec![stage.worker(&[]).await, stage.worker(&[]).await];
    stage.publish(&jobs("big", 1_000)).await;
    stage.posted(600, Duration::from_secs(120)).await;
    let posts = stage.posts();
    stop(workers).await;

    // A machine that is busy with other things sends late now and then, so the best stretch tells what the limits allow.
    let best = (0..posts.len())
        .filter_map(|at| {
            let from = posts[at].mono_us;
            (posts.last()?.mono_us >= from + STRETCH_US)
                .then(|| posts[at..].iter().filter(|post| post.mono_us < from + STRETCH_US).count())
        })
        .max()
        .unwrap_or(0);
    let possible = 10 * most_possible(&[THREE_A_SECOND], STRETCH_US as i64);
    assert!(best * 9 >= possible * 7, "{best} of {possible} calls");
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_lowered_or_raised_holds_at_once() {
    let stage = Stage::new(sandbox_config(&numbers(4))).await;
    stage.route("per_second = 6", ANY_NUMBER).await;
    let workers = vec![stage.worker(&[]).await, stage.worker(&[]).await];
    stage.publish(&jobs("big", 1_000)).await;
    stage.posted(40, SOON).await;
    stage.route("per_second = 2", ANY_NUMBER).await;
    let lowered_us = clock::wall().timestamp_micros();
    let before = stage.posts().len();
    stage.posted(before + 40, SOON).await;
    let posts = stage.posts();
    holds(&stage, &posts, from_number, &[(6, 1)]).await;
    let after: Vec<&LedgerEntry> = posts.iter().filter(|post| post.at_us >= lowered_us + 1_000_000).collect();
    assert!(after.len() >= 20, "{}", after.len());
    holds(&stage, after, from_number, &[(2, 1)]).await;

    stage.route("per_second = 10", ANY_NUMBER).await;
    let before = stage.posts().len();
    let posts = stage.posted(before + 240, SOON).await;
    stop(workers).await;
    holds(&stage, &posts, from_number, &[(10, 1)]).await;
    stage.most_in_time().await;
    for (number, arrivals) in by(&posts, from) {
        let most = most_in_window(arrivals, 1);
        assert!(most > 6, "{number} never made more than {most} calls in a second");
    }
}

/// A worker that is stopped right after its last look at the clock can't help sending late. It learns of it by the
/// answer, counts it, and keeps its distance from when the call was really made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_left_late_keeps_the_next_at_a_distance() {
    let stage = Stage::new(sandbox_config(&numbers(1))).await;
    stage.route("per_second = 1", ANY_NUMBER).await;
    let stops = "BeforeWrite:2=stop,BeforeWrite:4=stop,BeforeWrite:6=stop";
    let worker = stage.worker(&[("OUTDIAL_FAILPOINT", stops)]).await;
    stage.publish(&jobs("big", 8)).await;
    for stop in 1..=3 {
        let stopped = || worker.output().matches("failpoint BeforeWrite").count() == stop;
        eventually(SOON, async || stopped().then_some(())).await;
        // Longer than the slack, and short enough that the next slot is still to come.
        tokio::time::sleep(Duration::from_millis(150)).await;
        worker.signal(Signal::CONT);
    }
    let posts = stage.posted(8, SOON).await;
    let late = Figures::of(&worker).await.get("late_sends_total");
    stop(vec![worker]).await;
    assert!(late >= 3.0, "{late} late");
    // Where it was stopped for long, the next slot had come when it woke: that call left beside the late one.
    let late_us = stage.late_by(&posts).await;
    let short = |late_us: &[i64]| late_us.iter().all(|us| *us < 500_000);
    let mut kept = 0;
    for (two, late_us) in posts.windows(2).zip(late_us.windows(2)).filter(|(_, late_us)| short(late_us)) {
        let apart_us = two[1].mono_us - two[0].mono_us;
        assert!(apart_us >= 1_000_000, "{apart_us} µs after a call that was {} µs late", late_us[0]);
        kept += usize::from(late_us[0] > 100_000);
    }
    assert!(kept > 0, "every stop was too long");
}

/// Calls that last exactly one second, in real time.
fn one_second_calls(pool: &[String]) -> SandboxConfig {
    let mut config = sandbox_config(pool);
    config.time_scale = 1.0;
    config.script.queue_ms = Span { min: 0, max: 0 };
    config.script.ring_ms = Span { min: 0, max: 0 };
    config.script.talk_ms = Span { min: 1_000, max: 1_000 };
    config.script.outcomes = [("completed".to_owned(), 1)].into();
    config.guesses.concurrency_wait_ms = 0;
    config
}

/// The most calls of one second that are open at once.
fn most_open(arrivals: &[u64]) -> usize {
    most_in_window(arrivals.iter().copied(), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_of_numbers_campaign_and_account_is_freed_by_real_ends() {
    let mut config = one_second_calls(&numbers(3));
    config.accounts[0].concurrent_calls = Some(5);
    let stage = Stage::new(config).await;
    let campaign = "[[campaign]]\nid = \"small\"\nlimits = { concurrent = 2 }\n";
    stage.route("concurrent = 2", &format!("{campaign}{ANY_NUMBER}")).await;
    let env = [("OUTDIAL__ACCOUNTS__DEFAULT__CONCURRENT_CALLS", "5")];
    let workers = vec![stage.worker(&env).await, stage.worker(&env).await];
    stage.publish(&jobs("small", 10)).await;
    stage.publish(&jobs_beyond("large", 25)).await;
    stage.jobs("done", None, 35, Duration::from_secs(120)).await;
    let (posts, campaigns) = (stage.posts(), campaigns(&stage).await);
    assert_eq!(stage.count("select count(*) from outdial.limits where in_use <> 0").await, 0);
    stop(workers).await;

    assert_eq!(posts.len(), 35);
    assert!(posts.iter().all(|post| post.status == Some(200)), "the provider's own limit was never met");
    for (number, arrivals) in by(&posts, from) {
        assert!(most_open(&arrivals) <= 2, "{number}");
    }
    let of_campaign = by(&posts, |post| campaigns[post.attempt_id.as_ref().unwrap()].as_str());
    assert!(most_open(&of_campaign["small"]) <= 2);
    let all: Vec<u64> = posts.iter().map(|post| post.mono_us).collect();
    assert_eq!(most_open(&all), 5, "what is allowed is used");
}

/// Jobs to other callees than those of `jobs`.
fn jobs_beyond(campaign: &str, n: usize) -> Vec<serde_json::Value> {
    (0..n).map(|i| job(&format!("{campaign}-{i}"), campaign, &format!("+1213555{:04}", 1000 + i))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_of_campaign_and_account_hold_over_two_workers() {
    let stage = Stage::new(sandbox_config(&numbers(6))).await;
    let campaign = "[[campaign]]\nid = \"small\"\nlimits = { per_second = 3, per_minute = 20 }\n";
    stage.route("per_second = 5", &format!("{campaign}{ANY_NUMBER}")).await;
    let env = [("OUTDIAL__ACCOUNTS__DEFAULT__CALLS_PER_SECOND", "8")];
    let workers = vec![stage.worker(&env).await, stage.worker(&env).await];
    stage.publish(&jobs("small", 60)).await;
    stage.publish(&jobs_beyond("large", 100)).await;
    stage.jobs("waiting", Some("campaign_limit"), 40, SOON).await;
    stage.posted(120, SOON).await;
    let (posts, campaigns) = (stage.posts(), campaigns(&stage).await);
    stop(workers).await;
    let campaign = |post: &LedgerEntry| campaigns[post.attempt_id.as_ref().unwrap()].as_str();
    let small: Vec<&LedgerEntry> = posts.iter().filter(|post| campaign(post) == "small").collect();
    assert_eq!(small.len(), 20);
    holds(&stage, small, |_| Some("small"), &[(3, 1), (20, 60)]).await;
    holds(&stage, &posts, |_| Some("account"), &[(8, 1)]).await;
    holds(&stage, &posts, from_number, &[(5, 1)]).await;
    stage.most_in_time().await;
}

/// One number is full for a minute; another campaign has numbers of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saturated_number_holds_up_only_those_who_need_it() {
    let pool = numbers(5);
    let stage = Stage::new(sandbox_config(&pool)).await;
    let free: Vec<String> = pool[1..].iter().map(|n| format!("{n:?}")).collect();
    let rules = format!(
        "[[number]]\nnumber = \"{}\"\nlimits = {{ per_minute = 3 }}\n\
         [[rule]]\nname = \"free\"\nuse = {{ numbers = [{}] }}\n",
        number(0),
        free.join(", ")
    );
    stage.route("per_second = 50", &rules).await;
    let worker = stage.worker(&[]).await;
    let pinned = |mut job: serde_json::Value| {
        job["from_phone_number"] = number(0).into();
        job
    };
    stage.publish(&jobs("pinned", 2_000).into_iter().map(pinned).collect::<Vec<_>>()).await;
    // Slots that were missed are given back: only what is sent is gone.
    stage.posted(3, SOON).await;
    stage.jobs("waiting", Some("number_limit"), 1_997, SOON).await;
    // While the last of the three may still miss its slot nobody knows until when the others wait.
    let dated = "select count(*) from reporting.waiting
                 where campaign_id = 'pinned' and reason = 'number_limit' and jobs = 1997
                   and next_due_at between now() and now() + interval '61 seconds'";
    let undated = "select count(*) from reporting.jobs where reason = 'number_limit' and due_at is null";
    let told = async || (stage.count(dated).await == 1 && stage.count(undated).await == 0).then_some(());
    eventually(SOON, told).await;

    stage.publish(&jobs_beyond("free", 100)).await;
    stage.jobs("done", None, 103, SOON).await;
    // From receipt to POST, each of them; the limit allows 200 a second.
    let slowest: f64 = sqlx::query_scalar(
        "select max(extract(epoch from a.submitted_at - j.received_at))::float8
         from outdial.attempts a join outdial.jobs j using (job_no) where j.campaign_id = 'free'",
    )
    .fetch_one(&stage.db)
    .await
    .unwrap();
    // Far less than the minute for which the others wait.
    assert!(slowest < 30.0, "the slowest of the free campaign went after {slowest} s");
    let posts = stage.posts();
    stop(vec![worker]).await;
    let pinned: Vec<&LedgerEntry> = posts.iter().filter(|post| from(post) == number(0)).collect();
    assert_eq!(pinned.len(), 3);
    holds(&stage, pinned, from_number, &[(3, 60)]).await;
    assert!(posts.iter().all(|post| post.model_id.as_deref() == Some(AGENT)));
}

//! What nobody could know is found out, or put before a person; the sandbox's ledger tells who was really rung.

use outdial::synthflow::sandbox::{AccountChange, Action, Override};
use serde_json::Value;

use crate::support::stage::{AGENT, ANY_NUMBER, LONG, Stage, job, jobs, numbers, sandbox_config};
use crate::support::{Figures, Listener, Outdial, eventually};

const QUARANTINE: (&str, &str) = ("OUTDIAL__RECONCILE__QUARANTINE", "3s");
const FAST_READS: (&str, &str) = ("OUTDIAL__CALLS__READS_PER_SECOND", "100");

async fn stage(rest: &str) -> Stage {
    let stage = Stage::new(sandbox_config(&numbers(20))).await;
    stage.route("per_second = 50", &format!("{rest}\n{ANY_NUMBER}")).await;
    stage
}

fn lost(kind: Action) -> Override {
    Override::next(1, kind)
}

fn refused() -> Action {
    Action::Answer { status: 500, body: None, retry_after_s: None }
}

/// One job whose POST is answered so that nobody can know.
async fn one_unknown(stage: &Stage, id: &str, campaign: &str, answer: Override) -> Value {
    let job = job(id, campaign, "+14155550123");
    stage.sandbox.override_posts(answer);
    stage.publish(std::slice::from_ref(&job)).await;
    stage.posted(1, LONG).await;
    job
}

async fn reviewed(stage: &Stage) -> Vec<Value> {
    let listed = stage.run(&["review", "list", "--json"]).await;
    serde_json::from_str(&listed).unwrap()
}

async fn in_review(stage: &Stage, worker: &Outdial) -> String {
    stage.jobs("review", Some("unconfirmed"), 1, LONG).await;
    let listed = reviewed(stage).await;
    assert_eq!(listed.len(), 1, "{listed:?}\n{}", worker.output());
    assert!(listed[0]["looks"].as_i64().unwrap() >= 2, "{listed:?}");
    listed[0]["attempt_id"].as_str().unwrap().to_owned()
}

/// A job whose first attempt a person has taken for not placed, in a campaign that is paused.
async fn to_be_dialed_again() -> (Stage, Outdial, String) {
    dialed_again_under("").await
}

async fn dialed_again_under(rest: &str) -> (Stage, Outdial, String) {
    let stage = stage(rest).await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    let attempt = in_review(&stage, &worker).await;
    stage.run(&["campaign", "pause", "spring"]).await;
    stage.run(&["review", "resolve", &attempt, "--outcome", "not_placed"]).await;
    stage.jobs("waiting", Some("campaign_paused"), 1, LONG).await;
    (stage, worker, attempt)
}

#[tokio::test]
async fn calls_whose_answers_were_lost_are_found_by_our_id_and_never_dialed_again() {
    for redacted in [false, true] {
        let stage = stage("").await;
        let change = AccountChange { redact_pii: Some(redacted), ..AccountChange::default() };
        stage.sandbox.change_account("default", change).unwrap();
        let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
        // Others' calls, for the list to be more than what is sought.
        let others = jobs("other", 130);
        stage.publish(&others).await;
        stage.jobs("done", None, 130, LONG).await;

        let sought = jobs("sought", 12);
        for kind in [refused(), Action::Close, Action::Empty { status: 200 }, Action::Cut] {
            let three = Override { count: 1, ..lost(kind) }.but_place();
            stage.sandbox.override_posts(three);
        }
        let renamed: Vec<Value> = sought
            .iter()
            .enumerate()
            .map(|(i, _)| job(&format!("sought-{i}"), "sought", &format!("+1415777{i:04}")))
            .collect();
        stage.publish(&renamed).await;
        stage.each_done_once_of(&renamed, 142, LONG).await;
        let confirmed =
            "select count(*) from reporting.calls where campaign_id = 'sought' and state = 'ended'
                         and call_id is not null and placed_at is not null and disposition is not null";
        assert_eq!(stage.count(confirmed).await, 12, "redacted: {redacted}");
        stage.nothing_held().await;
        let figures = Figures::of(&worker).await;
        assert_eq!(figures.get("reconciled_total{result=\"found\"}"), 4.0, "redacted: {redacted}");
        stage.stopped(worker).await;
    }
}

#[tokio::test]
async fn a_call_that_is_not_there_goes_to_a_person_who_may_have_it_dialed() {
    let stage = stage("").await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    let mut events = Listener::new(&stage.vhost.url).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    let attempt = in_review(&stage, &worker).await;
    assert_eq!(stage.posts().len(), 1);
    stage.nothing_in_use().await;

    let told = stage.run(&["review", "resolve", &attempt, "--outcome", "not_placed"]).await;
    assert_eq!(told, "1 resolved\n");
    stage.jobs("done", None, 1, LONG).await;
    assert_eq!(stage.posts().len(), 2, "dialed again, once, by a person's word");
    let states: Vec<(i16, String)> =
        sqlx::query_as("select attempt_no, state from reporting.calls order by attempt_no")
            .fetch_all(&stage.db)
            .await
            .unwrap();
    assert_eq!(states, [(1, "not_placed".to_owned()), (2, "ended".to_owned())]);
    events.of("job.done", 1, LONG).await;
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_person_may_close_a_campaigns_reviews_or_say_that_a_call_was_placed() {
    let stage = stage("").await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    stage.sandbox.override_posts(Override::next(3, refused()));
    let three: Vec<Value> =
        (0..3).map(|i| job(&format!("j-{i}"), "spring", &format!("+1415555010{i}"))).collect();
    stage.publish(&three).await;
    stage.jobs("review", Some("unconfirmed"), 3, LONG).await;
    let one = reviewed(&stage).await[0]["attempt_id"].as_str().unwrap().to_owned();
    stage.run(&["review", "resolve", &one, "--outcome", "placed", "--call-id", "by-hand"]).await;
    stage.jobs("placed", None, 1, LONG).await;
    let told = stage.run(&["review", "resolve", "--campaign", "spring", "--outcome", "closed"]).await;
    assert_eq!(told, "2 resolved\n");
    stage.jobs("done", Some("unconfirmed"), 2, LONG).await;
    let closed = "select count(*) from reporting.calls where state = 'closed' and ended_at is not null";
    assert_eq!(stage.count(closed).await, 2);
    assert_eq!(stage.posts().len(), 3);

    let nothing = stage.start(&["review", "resolve", &one, "--outcome", "closed"], &[]);
    let (status, output) = nothing.wait(LONG).await;
    assert!(!status.success() && output.contains("nothing of that is in review"), "{output}");
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_campaign_that_gave_up_never_twice_dials_again_by_itself() {
    let stage = stage("[[campaign]]\nid = \"spring\"\nredial_unknown_after = \"10s\"").await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    stage.jobs("done", None, 1, LONG).await;
    let posts = stage.posts();
    assert_eq!(posts.len(), 2);
    let apart_s = (posts[1].mono_us - posts[0].mono_us) as f64 / 1e6;
    assert!(apart_s >= 10.0, "{apart_s}");
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn looks_that_take_longer_than_they_may_be_apart_add_up_all_the_same() {
    let stage = stage("").await;
    let fast = stage.worker(&[FAST_READS]).await;
    // Seven pages: more than the five seconds that looks of this quarantine may be apart.
    let others = jobs("other", 700);
    stage.publish(&others).await;
    stage.jobs("done", None, 700, LONG).await;
    stage.stopped(fast).await;
    let slow = stage.worker(&[("OUTDIAL__CALLS__READS_PER_SECOND", "1"), QUARANTINE]).await;
    stage.sandbox.override_posts(Override::next(8, refused()));
    let lost: Vec<Value> =
        (0..8).map(|i| job(&format!("lost-{i}"), "spring", &format!("+1415777{i:04}"))).collect();
    stage.publish(&lost).await;
    stage.jobs("review", Some("unconfirmed"), 8, LONG * 2).await;
    assert_eq!(stage.posts().len(), 708);
    stage.nothing_in_use().await;
    stage.stopped(slow).await;
}

#[tokio::test]
async fn nobody_is_dialed_again_by_itself_more_than_once() {
    let stage = stage("[[campaign]]\nid = \"spring\"\nredial_unknown_after = \"10s\"").await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    one_unknown(&stage, "lost", "spring", Override::next(2, refused())).await;
    stage.jobs("review", Some("unconfirmed"), 1, LONG).await;
    let states: Vec<String> = sqlx::query_scalar("select state from outdial.attempts order by attempt_no")
        .fetch_all(&stage.db)
        .await
        .unwrap();
    assert_eq!(states, ["not_placed", "unknown"]);
    assert_eq!(stage.posts().len(), 2);
    stage.nothing_in_use().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn an_agent_that_the_provider_does_not_know_any_more_proves_nothing() {
    let stage = stage("").await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    stage.jobs("dialing", Some("unconfirmed"), 1, LONG).await;
    assert!(stage.sandbox.remove_agent(AGENT), "its calls can't be listed any more");
    // Three quarantines, as the database counts them.
    let looked =
        "select count(*) from outdial.live where looked_at > since + interval '9 seconds' and looks > 3";
    eventually(LONG, async || (stage.count(looked).await == 1).then_some(())).await;
    assert_eq!(stage.count("select count(*) from reporting.jobs where state = 'dialing'").await, 1);
    assert_eq!(stage.posts().len(), 1);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn late_evidence_takes_a_job_back_that_was_to_be_dialed_again() {
    let (stage, worker, attempt) = to_be_dialed_again().await;

    assert_eq!(found(&stage, &attempt, "late").await, 1);
    assert_eq!(found(&stage, &attempt, "late").await, 0, "told twice, it is no news");
    stage.stands("lost", "placed", None).await;
    stage.run(&["campaign", "resume", "spring"]).await;
    let held = "select in_use::bigint from outdial.limits where kind = 2 and key = 'spring'";
    assert_eq!(stage.count(held).await, 1, "a call that goes on holds its place");
    assert_eq!(stage.count("select count(*) from outdial.work").await, 0);
    assert_eq!(stage.count("select count(*) from outdial.drifted()").await, 0);
    let other = format!(
        "select news::bigint from outdial.found('elsewhere', array['{attempt}'::uuid], array['x'], null)"
    );
    assert_eq!(stage.count(&other).await, 0, "another account's word counts for nothing");
    assert_eq!(stage.posts().len(), 1);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_workers_own_answer_that_comes_after_its_attempt_was_given_up_counts() {
    let (stage, worker, attempt) = to_be_dialed_again().await;
    let answer = format!(
        "select count(*) from outdial.settle(array['{attempt}'::uuid], array['placed'], array['late'], array[200::smallint],
             array[null::text], array[null::text], array[null::timestamptz], array['ok'], array[null::int],
             array[null::timestamptz], '100 ms', null)"
    );
    for _ in 0..2 {
        stage.count(&answer).await;
        stage.stands("lost", "placed", None).await;
    }
    stage.run(&["campaign", "resume", "spring"]).await;
    assert_eq!(stage.count("select count(*) from outdial.work").await, 0);
    assert_eq!(stage.count("select count(*) from outdial.drifted()").await, 0);
    assert_eq!(stage.posts().len(), 1);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_job_whose_first_call_is_found_while_the_second_is_refused_is_not_dialed_a_third_time() {
    for answer in [429, 401] {
        let stage = stage("").await;
        let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
        one_unknown(&stage, "lost", "spring", lost(refused())).await;
        let attempt = in_review(&stage, &worker).await;
        let action = Action::Answer { status: answer, body: None, retry_after_s: Some(1) };
        stage.sandbox.override_posts(Override { delay_ms: 2_000, ..lost(action) });
        stage.run(&["review", "resolve", &attempt, "--outcome", "not_placed"]).await;
        stage.posted(2, LONG).await;
        assert_eq!(found(&stage, &attempt, "late").await, 1);
        // One job, whose two calls stand differently.
        stage.views_count_as_records_do().await;
        let answered = "select count(*) from outdial.attempts where attempt_no = 2 and state = 'not_placed'";
        eventually(LONG, async || (stage.count(answered).await == 1).then_some(())).await;
        stage.stands("lost", "placed", None).await;
        stage.views_count_as_records_do().await;
        assert_eq!(stage.count("select count(*) from outdial.work").await, 0);
        assert_eq!(stage.count("select count(*) from outdial.drifted()").await, 0);
        assert_eq!(stage.posts().len(), 2);
        stage.stopped(worker).await;
    }
}

/// What the provider's record of this call with the attempt's id tells: nobody picked up. Gives how many ends were news.
async fn ended(stage: &Stage, attempt: &str, call_id: &str) -> i64 {
    ended_from(stage, attempt, call_id, "null").await
}

/// The same, with the number that the provider says it called from, quoted.
async fn ended_from(stage: &Stage, attempt: &str, call_id: &str, number: &str) -> i64 {
    let query = format!(
        "select cardinality(outdial.finish(array['{attempt}'::uuid], array['{call_id}'], array['no_answer'], array[null::text],
             array['no-answer'], array[null::text], array['as the provider tells it'], array[{number}::text], array[null::timestamptz],
             array[null::int], array['https://example.com/heard'], null))::bigint"
    );
    stage.count(&query).await
}

async fn found(stage: &Stage, attempt: &str, call_id: &str) -> i64 {
    let query = format!(
        "select news::bigint from outdial.found('default', array['{attempt}'::uuid], array['{call_id}'], null)"
    );
    stage.count(&query).await
}

/// How many calls count for the callee under the caps of this caller.
async fn counted(stage: &Stage, caller: &str) -> i64 {
    let query = format!(
        "select coalesce(sum(cardinality(slots)), 0)::bigint from outdial.recipients where scope = '{caller}'"
    );
    stage.count(&query).await
}

const CAPPED: &str = "[[campaign]]\nid = \"spring\"\nrecipient_limits = { per_day = 1 }\n";

#[tokio::test]
async fn a_call_that_was_placed_after_all_counts_for_its_callees_caps() {
    let (stage, worker, attempt) = dialed_again_under(CAPPED).await;
    assert_eq!(counted(&stage, "campaign:spring").await, 0, "who was not called may be called");
    // Records of what was not placed are no calls, whenever counting begins.
    stage.route("", ANY_NUMBER).await;
    stage.route("", &format!("{CAPPED}{ANY_NUMBER}")).await;
    assert_eq!(counted(&stage, "campaign:spring").await, 0);
    // Nor does a name help that was taken since, or while nobody counted.
    let renamed = CAPPED.replace("recipient_limits", "brand = \"globex\"\nrecipient_limits");
    stage.route("", &format!("{renamed}{ANY_NUMBER}")).await;
    assert_eq!(counted(&stage, "brand:globex").await, 0);
    assert_eq!(found(&stage, &attempt, "late").await, 1);
    assert_eq!(counted(&stage, "campaign:spring").await, 1);
    assert_eq!(counted(&stage, "brand:globex").await, 1);
    found(&stage, &attempt, "late").await;
    assert_eq!(counted(&stage, "brand:globex").await, 1, "told twice, it counts once");
    let named = CAPPED.replace("recipient_limits", "brand = \"acme\"\nrecipient_limits");
    stage.route("", "[[campaign]]\nid = \"spring\"\nbrand = \"acme\"\n[[rule]]\nname = \"any\"\n").await;
    stage.route("", &format!("{named}{ANY_NUMBER}")).await;
    assert_eq!(counted(&stage, "brand:acme").await, 1);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn who_was_dialed_again_counts_twice_and_no_more_when_the_first_call_is_found() {
    let stage = stage(
        "[[campaign]]\nid = \"spring\"\nredial_unknown_after = \"10s\"\nrecipient_limits = { per_day = 2 }",
    )
    .await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    stage.jobs("done", None, 1, LONG).await;
    assert_eq!(counted(&stage, "campaign:spring").await, 2);
    let first: String =
        sqlx::query_scalar("select attempt_id::text from outdial.attempts where attempt_no = 1")
            .fetch_one(&stage.db)
            .await
            .unwrap();
    assert_eq!(found(&stage, &first, "late").await, 1);
    // A call under way, of a job that is done.
    stage.views_count_as_records_do().await;
    assert_eq!(counted(&stage, "campaign:spring").await, 2);
    stage.publish(&[job("third", "spring", "+14155550123")]).await;
    stage.stands("third", "waiting", Some("recipient_limit")).await;
    assert_eq!(stage.posts().len(), 2);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_call_that_arrived_late_and_was_none_counts_no_more() {
    let stage = stage(CAPPED).await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    one_unknown(&stage, "lost", "spring", Override { delay_ms: 15_000, ..lost(refused()) }).await;
    let attempt: String =
        sqlx::query_scalar("select attempt_id::text from outdial.live").fetch_one(&stage.db).await.unwrap();
    let late = format!(
        "select count(*) from outdial.settle(array['{attempt}'::uuid], array['unknown'], array[null::text], array[null::smallint],
             array[null::text], array['unconfirmed'], array[null::timestamptz], array[null::text], array[null::int],
             array[(select slot + interval '9 seconds' from outdial.live)], '100 ms', null)"
    );
    stage.count(&late).await;
    let moved = "select count(*) from outdial.recipients r join outdial.live l on true
                 where r.slots = array[l.slot + interval '8.9 seconds'] and l.state = 'unknown'";
    assert_eq!(stage.count(moved).await, 1);
    assert_eq!(in_review(&stage, &worker).await, attempt);
    stage.run(&["campaign", "pause", "spring"]).await;
    stage.run(&["review", "resolve", &attempt, "--outcome", "not_placed"]).await;
    assert_eq!(counted(&stage, "campaign:spring").await, 0);
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_number_that_was_not_shown_is_judged_whoever_wrote_it_down_and_however_late() {
    let (stage, worker, attempt) = to_be_dialed_again().await;
    stage.route_with("number_limits = {}\ncaller_id_mismatch = \"quarantine\"", ANY_NUMBER).await;
    found(&stage, &attempt, "first").await;
    // As a worker writes it that dies before it has judged.
    assert_eq!(ended_from(&stage, &attempt, "first", "'+12125550000'").await, 1);
    let quarantined = "select count(*) from outdial.numbers where state = 'quarantined' and state_reason = 'caller_id_mismatch'";
    eventually(LONG, async || (stage.count(quarantined).await == 1).then_some(())).await;
    assert_eq!(stage.count("select count(*) from outdial.mismatches").await, 0);
    let counted = async || Figures::of(&worker).await.sum("caller_id_mismatches_total");
    eventually(LONG, async || (counted().await == 1.0).then_some(())).await;
    assert_eq!(ended_from(&stage, &attempt, "first", "'+12125550000'").await, 0);
    assert_eq!(
        stage.count("select count(*) from outdial.mismatches").await,
        0,
        "what was told before is no news"
    );
    stage.stopped(worker).await;
}

#[tokio::test]
async fn what_is_learned_late_of_a_forgotten_callee_says_nothing_of_it() {
    let stage = stage("").await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    let attempt = in_review(&stage, &worker).await;
    stage.run(&["review", "resolve", &attempt, "--outcome", "closed"]).await;
    stage.run(&["forget", "+14155550123"]).await;
    assert_eq!(found(&stage, &attempt, "late").await, 1);
    assert_eq!(ended(&stage, &attempt, "late").await, 1);
    let said = "select count(*) from outdial.attempts where disposition = 'no_answer' and call_id = 'late'
                and phone is null and recording_url is null and provider_error is null";
    assert_eq!(stage.count(said).await, 1);
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn a_second_call_of_an_attempt_tells_nothing_of_the_first_and_is_told() {
    let (stage, worker, attempt) = to_be_dialed_again().await;
    let found = async |account: &str, call_id: &str| -> (i32, i32) {
        let query = format!(
            "select news, twice from outdial.found('{account}', array['{attempt}'::uuid], array['{call_id}'], null)"
        );
        sqlx::query_as(sqlx::AssertSqlSafe(query)).fetch_one(&stage.db).await.unwrap()
    };
    assert_eq!(found("default", "first").await, (1, 0));
    assert_eq!(found("default", "second").await, (0, 1));
    assert_eq!(found("elsewhere", "second").await, (0, 0));
    assert_eq!(ended(&stage, &attempt, "second").await, 0);
    stage.stands("lost", "placed", None).await;
    assert_eq!(ended(&stage, &attempt, "first").await, 1);
    stage.stands("lost", "done", None).await;
    stage.nothing_held().await;
    stage.stopped(worker).await;
}

#[tokio::test]
async fn how_a_call_ended_is_told_though_its_place_was_given_back_long_before() {
    let stage = stage("").await;
    let worker = stage.worker(&[FAST_READS, QUARANTINE]).await;
    let mut events = Listener::new(&stage.vhost.url).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    let attempt = in_review(&stage, &worker).await;
    // Without the call's id nobody can learn of its end.
    stage.run(&["review", "resolve", &attempt, "--outcome", "placed"]).await;
    stage.stands("lost", "done", Some("end_unknown")).await;
    assert_eq!(ended(&stage, &attempt, "late").await, 0);
    stage.stands("lost", "done", Some("end_unknown")).await;

    let found = format!(
        "select twice::bigint from outdial.found('default', array['{attempt}'::uuid], array['late'], null)"
    );
    assert_eq!(stage.count(&found).await, 0);
    assert_eq!(ended_from(&stage, &attempt, "late", "'+12125550000'").await, 0, "it ended before");
    let judged = "select count(*) from outdial.mismatches";
    eventually(LONG, async || (stage.count(judged).await == 0).then_some(())).await;
    worker.line(LONG, "call.caller_id_mismatch").await;
    stage.stands("lost", "done", None).await;
    let told = "select count(*) from reporting.calls where call_id = 'late' and disposition = 'no_answer'
                and reason is null and provider_status = 'no-answer'";
    assert_eq!(stage.count(told).await, 1);
    stage.nothing_held().await;
    let ends = events.of("call.ended", 2, LONG).await;
    assert_eq!(ends[1]["disposition"], "no_answer", "{ends:?}");
    stage.stopped(worker).await;
}

#[tokio::test]
async fn what_nobody_has_sought_for_long_is_given_to_a_person_whatever_its_account() {
    let stage = stage("").await;
    let worker = stage.worker(&[FAST_READS]).await;
    one_unknown(&stage, "lost", "spring", lost(refused())).await;
    stage.jobs("dialing", Some("unconfirmed"), 1, LONG).await;
    stage.stopped(worker).await;
    sqlx::query("update outdial.live set account = 'gone'").execute(&stage.db).await.unwrap();
    let give_up = "select coalesce(outdial.give_up_in_vain('1 hour', 10, null), 0)::bigint";
    assert_eq!(stage.count(give_up).await, 0);
    sqlx::query("update outdial.live set since = since - interval '2 hours'")
        .execute(&stage.db)
        .await
        .unwrap();
    assert_eq!(stage.count(give_up).await, 1);
    stage.stands("lost", "review", Some("unconfirmed")).await;
    assert_eq!(stage.count("select count(*) from outdial.drifted()").await, 0);
}

#[tokio::test]
async fn places_that_were_miscounted_are_found_and_put_right() {
    let stage = stage("").await;
    let worker = stage.worker(&[FAST_READS]).await;
    stage.publish(&jobs("spring", 5)).await;
    stage.jobs("done", None, 5, LONG).await;
    assert_eq!(stage.count("select outdial.audit_places()").await, 0);
    sqlx::query("update outdial.limits set in_use = 3 where kind = 2").execute(&stage.db).await.unwrap();
    let second = stage.worker(&[FAST_READS]).await;
    let drifted = async || (Figures::of(&second).await.get("places_drift_total") == 3.0).then_some(());
    eventually(LONG, drifted).await;
    stage.nothing_held().await;
    stage.stopped(worker).await;
    stage.stopped(second).await;
}

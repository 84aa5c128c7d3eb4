//! Rows 14 and 15: orderly stops, and the deaths of those who look after what others left.

use std::collections::{HashMap, HashSet};

use outdial::synthflow::sandbox::{Action, Override};
use serde_json::Value;

use crate::crash::round::{SOON, rounds};
use crate::support::Listener;

#[tokio::test]
async fn row_14_an_orderly_stop_leaves_nothing_half_done() {
    rounds(async |round| {
        round.slow_answers(100, 400);
        let worker = round.worker().await;
        round.publish(12).await;
        round.stage.posted(round.hit() + 1, SOON).await;
        round.stage.stopped(worker).await;
        assert_eq!(round.stage.count("select count(*) from outdial.reservations").await, 0, "handed back");
        assert!(round.in_flight().await.is_empty(), "waited for, and written");
        round.slow_answers(1, 5);
        let next = round.worker().await;
        round.all_done().await;
        round.finish(next).await;
    })
    .await;
}

#[tokio::test]
async fn row_15_events_published_and_not_struck_off_come_again_as_the_same_and_in_order() {
    rounds(async |round| {
        let doomed = round.doomed("AfterPublish", "kill").await;
        let mut listener = Listener::new(&round.stage.vhost.url).await;
        round.publish_until_killed(doomed).await;
        round.inherit().await;
        let jobs = round.published();
        let done =
            round.stage.count("select count(*) from reporting.jobs where state = 'done'").await as usize;
        let of_kind = |events: &[Value], kind: &str| {
            events.iter().filter(|e| e["type"] == kind).map(|e| e["id"].clone()).collect::<HashSet<_>>().len()
        };
        let all = |events: &[Value]| of_kind(events, "job.done") == done;
        let events = listener.until(SOON, all).await;
        assert_eq!(of_kind(&events, "job.accepted"), jobs, "each once, by its id");
        let mut seen = HashSet::new();
        let again = events.iter().filter(|event| !seen.insert(event["id"].clone())).count();
        assert!(again > 0, "some came again");
        // To somebody who leaves out what it has heard, each subject's events come in order.
        let (mut heard, mut last) = (HashSet::new(), HashMap::new());
        for event in &events {
            if heard.insert(event["id"].clone()) {
                let before = last.insert(event["subject"].clone(), event["sequence"].as_str().unwrap());
                assert!(before < event["sequence"].as_str(), "{event} after {before:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn row_15_an_end_that_was_read_is_written_once_whoever_dies_over_it() {
    rounds(async |round| {
        let point = round.one_of(&["BeforeFinish", "AfterFinish"]);
        let doomed = round.doomed(point, "kill").await;
        round.publish_until_killed(doomed).await;
        round.inherit().await;
    })
    .await;
}

#[tokio::test]
async fn row_15_an_end_whose_commit_went_unheard_is_written_once() {
    rounds(async |round| {
        let worker = round.doomed("AfterFinish", "lose").await;
        round.publish_until_reached(&worker).await;
        round.all_done().await;
        round.finish(worker).await;
    })
    .await;
}

/// The next POST gets an answer that tells nothing.
fn unclear() -> Override {
    Override::next(1, Action::Answer { status: 500, body: None, retry_after_s: None })
}

#[tokio::test]
async fn row_15_a_call_that_was_found_is_written_once_whoever_dies_over_it() {
    rounds(async |round| {
        let point = round.one_of(&["BeforeFound", "AfterFound"]);
        round.stage.sandbox.override_posts(unclear().but_place());
        let doomed = round.doomed_seeker(point, "kill").await;
        round.publish(3).await;
        round.killed(doomed).await;
        let placed =
            "select count(*) from outdial.attempts where state in ('placed', 'ended') and http_status = 500";
        assert_eq!(round.stage.count(placed).await, i64::from(point == "AfterFound"), "{point}");
        round.inherit().await;
        assert_eq!(round.stage.posts().len(), round.published(), "everybody is rung once");
    })
    .await;
}

#[tokio::test]
async fn row_15_what_was_sought_in_vain_is_put_before_a_person_once_whoever_dies_over_it() {
    rounds(async |round| {
        let point = round.one_of(&["BeforeGiveUp", "AfterGiveUp"]);
        round.stage.sandbox.override_posts(unclear());
        let doomed = round.doomed_seeker(point, "kill").await;
        round.publish(3).await;
        round.killed(doomed).await;
        let lost =
            round.jobs_of("(select job_no from outdial.live where state in ('unknown', 'review')) l").await;
        assert_eq!(lost.len(), 1, "{lost:?}");
        round.inherit_all(round.in_flight().await, &lost).await;
        assert_eq!(round.posts_of(&lost[0]), 1, "it is not sent again");
    })
    .await;
}

#[tokio::test]
async fn row_15_a_take_over_that_died_is_taken_over() {
    rounds(async |round| {
        let left = round.one_of(&["AfterReserve", "AfterAuthorise"]);
        let doomed = round.doomed(left, "kill").await;
        round.publish_until_killed(doomed).await;
        let mut in_flight = round.in_flight().await;
        round.bury().await;
        let point = ["BeforeTakeOver", "AfterTakeOver"][round.nth / 2 % 2];
        round.killed(round.doomed_at_start(point, 1, "kill")).await;
        // It may have had leave for others by then.
        let still = round.in_flight().await;
        if point == "BeforeTakeOver" {
            assert!(in_flight.iter().all(|job| still.contains(job)), "nothing is taken over yet");
        }
        in_flight.extend(still);
        in_flight.sort();
        in_flight.dedup();
        round.inherit_of(in_flight).await;
    })
    .await;
}

//! Rows 3 to 8, and 13: between a slot and what became of its call.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::crash::round::{Round, SOON, rounds};
use crate::support::{Listener, eventually};

#[tokio::test]
async fn row_3_reserved_and_not_authorised_is_taken_over_with_a_new_slot() {
    rounds(async |round| {
        let point = round.one_of(&["AfterReserve", "BeforeAuthorise"]);
        let doomed = round.doomed(point, "kill").await;
        round.publish_until_killed(doomed).await;
        let old: Vec<(i64, DateTime<Utc>)> = sqlx::query_as("select job_no, slot from outdial.reservations")
            .fetch_all(&round.stage.db)
            .await
            .unwrap();
        // Where all slots were near, leave came with them, and nothing is left of this row.
        assert!(!old.is_empty() || point == "AfterReserve", "something was reserved");
        round.inherit().await;
        let new: Vec<(i64, DateTime<Utc>)> =
            sqlx::query_as("select job_no, slot from outdial.attempts where state = 'ended'")
                .fetch_all(&round.stage.db)
                .await
                .unwrap();
        let new: HashMap<i64, DateTime<Utc>> = new.into_iter().collect();
        assert!(old.iter().all(|(job, slot)| new[job] > *slot), "each has a later slot, and was rung in it");
    })
    .await;
}

#[tokio::test]
async fn a_reservation_whose_answer_got_lost_is_given_back() {
    rounds(async |round| {
        let worker = round.doomed("AfterReserve", "lose").await;
        round.publish_until_reached(&worker).await;
        round.all_done().await;
        round.finish(worker).await;
    })
    .await;
}

#[tokio::test]
async fn row_4_nothing_is_sent_on_a_leave_that_went_unheard() {
    rounds(async |round| {
        let point = round.one_of(&["AfterAuthorise", "BeforeAuthorise"]);
        let worker = round.doomed(point, "lose").await;
        round.publish_until_reached(&worker).await;
        round.all_done().await;
        // What was never sent was never tried: not one attempt is left that has no POST.
        let attempts = round.stage.count("select count(*) from outdial.attempts").await;
        assert_eq!(attempts, round.stage.posts().len() as i64);
        round.finish(worker).await;
    })
    .await;
}

#[tokio::test]
async fn row_4_a_leave_that_went_unheard_is_for_a_person_after_a_death() {
    rounds(async |round| {
        // It dies when it wants to write that nothing was sent.
        let doomed = round.doomed_at("AfterAuthorise:1=lose,BeforeSettle", 1, "kill").await;
        round.publish_until_killed(doomed).await;
        round.inherit().await;
    })
    .await;
}

#[tokio::test]
async fn row_5_authorised_and_never_sent_is_put_before_a_person_and_not_sent() {
    rounds(async |round| {
        let point = round.one_of(&["AfterAuthorise", "BeforePost"]);
        let doomed = round.doomed(point, "kill").await;
        round.publish_until_killed(doomed).await;
        let in_flight = round.in_flight().await;
        // Leave may have come too late for all of its batch; a call that is about to be sent has it.
        let unsent = in_flight.iter().any(|job| round.posts_of(job) == 0);
        assert!(unsent || point == "AfterAuthorise", "leave was given, and nothing sent");
        round.inherit().await;
    })
    .await;
}

#[tokio::test]
async fn row_6_sent_and_unanswered_is_found_and_never_sent_again() {
    rounds(async |round| {
        round.slow_answers(500, 900);
        let mut doomed = round.worker().await;
        round.publish(6).await;
        round.stage.posted(round.hit(), SOON).await;
        doomed.kill9();
        round.last_words().await;
        let in_flight = round.in_flight().await;
        assert!(in_flight.iter().any(|job| round.posts_of(job) == 1), "sent, and unanswered");
        round.slow_answers(1, 5);
        round.inherit().await;
    })
    .await;
}

#[tokio::test]
async fn row_7_answered_and_not_written_is_found_and_never_sent_again() {
    rounds(async |round| {
        let doomed = round.doomed("AfterPost", "kill").await;
        round.publish_until_killed(doomed).await;
        let in_flight = round.in_flight().await;
        assert!(in_flight.iter().any(|job| round.posts_of(job) == 1), "answered, and not written");
        round.inherit().await;
    })
    .await;
}

#[tokio::test]
async fn row_8_a_result_whose_commit_went_unheard_is_written_once() {
    rounds(async |round| {
        round.lasting_calls();
        let (first, second) = (round.hit(), round.hit() + 1);
        let plan = format!("AfterSettle:{first}=lose,AfterSettle");
        let worker = round.doomed_at(&plan, second, "hold:1").await;
        let mut listener = Listener::new(&round.stage.vhost.url).await;
        round.publish_until(|| worker.output().contains("failpoint AfterSettle Hold")).await;
        round.end_calls();
        round.all_done().await;
        round.finish(worker).await;
        let placed = listener.of("call.placed", round.published(), SOON).await;
        assert_eq!(placed.len(), round.published(), "each placed call is told of once");
    })
    .await;
}

#[tokio::test]
async fn row_8_a_result_that_was_committed_outlives_its_worker() {
    rounds(async |round| {
        let doomed = round.doomed("AfterSettle", "kill").await;
        round.publish_until_killed(doomed).await;
        round.inherit().await;
    })
    .await;
}

#[tokio::test]
async fn row_13_a_webhook_that_comes_before_our_own_write_is_believed_and_the_write_merges() {
    rounds(async |round| {
        round.lasting_calls();
        let worker = round.doomed_listener("AfterPost", "hold:8000").await;
        round.publish(1).await;
        worker.line(SOON, "failpoint AfterPost").await;
        round.end_calls();
        let of_ended = |http_status: &str| {
            format!("select count(*) from outdial.attempts where state = 'ended' and disposition is not null and http_status {http_status}")
        };
        let (heard, written) = (of_ended("is null"), of_ended("= 200"));
        eventually(SOON, async || (round.stage.count(&heard).await == 1).then_some(())).await;
        eventually(SOON, async || (round.stage.count(&written).await == 1).then_some(())).await;
        round.all_done().await;
        round.finish(worker).await;
    })
    .await;
}

/// By the step that the look-up of a webhook's call runs, while the call goes on.
#[tokio::test]
async fn row_13_what_was_heard_elsewhere_first_stands_and_our_own_write_merges() {
    rounds(async |round| {
        round.lasting_calls();
        // Its answer is held up, and each write is told of; a slot or two may be missed before.
        let told_of: String = (1..10).map(|hit| format!("AfterSettle:{hit}=hold:1,")).collect();
        let worker = round.doomed_at(&format!("{told_of}AfterPost"), 1, "hold:6000").await;
        round.publish(1).await;
        worker.line(SOON, "failpoint AfterPost").await;
        let writes = || worker.output().matches("failpoint AfterSettle").count();
        let before = writes();
        let told = hear_elsewhere(round).await;
        assert_eq!((told, writes()), (1, before), "heard before our own write");
        let placed = "select count(*) from outdial.attempts where state = 'placed'";
        assert_eq!(round.stage.count(placed).await, 1, "it counts at once");
        eventually(SOON, async || (writes() > before).then_some(())).await;
        round.end_calls();
        round.all_done().await;
        round.finish(worker).await;
    })
    .await;
}

/// Writes down what the provider knows of the calls whose answers are not written yet; gives of how many.
async fn hear_elsewhere(round: &Round) -> i64 {
    let stage = &round.stage;
    let open = "select attempt_id::text from outdial.live where state = 'submitting'";
    let known = async || {
        let open: Vec<String> = sqlx::query_scalar(open).fetch_all(&stage.db).await.unwrap();
        let mut calls: HashMap<String, String> =
            stage.posts().into_iter().filter_map(|post| post.attempt_id.zip(post.call_id)).collect();
        let known: Vec<(String, String)> =
            open.into_iter().filter_map(|id| calls.remove(&id).map(|call| (id, call))).collect();
        (!known.is_empty()).then_some(known)
    };
    let (attempts, calls): (Vec<String>, Vec<String>) = eventually(SOON, known).await.into_iter().unzip();
    sqlx::query(
        "with n as (select cardinality($1::text[]) as n)
         select outdial.settle($1::uuid[], array_fill('placed'::text, array[n]), $2, array_fill(200::smallint, array[n]),
             array_fill(null::text, array[n]), array_fill(null::text, array[n]), array_fill(null::timestamptz, array[n]),
             array_fill('ok'::text, array[n]), array_fill(null::int, array[n]), array_fill(null::timestamptz, array[n]),
             interval '100 milliseconds', null) from n",
    )
    .bind(&attempts)
    .bind(&calls)
    .execute(&stage.db)
    .await
    .unwrap();
    attempts.len() as i64
}

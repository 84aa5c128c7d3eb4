//! Rows 10 and 11: the database or the broker goes away, on servers that these tests have for themselves. Rounds share
//! each death, for a start takes seconds.

use std::time::Duration;

use futures_util::future::join_all;
use outdial::clock;
use outdial::local::Rabbit;

use crate::crash::round::{Round, SOON, lanes, times};
use crate::support::{Outdial, Vhost, database, database_on, own_postgres, own_rabbit_with, vhost};

/// How long a worker waits at its point: longer than all of a group usually take to come there, and shorter than a lease.
const HOLD: &str = "hold:2500";
const HELD_FOR: Duration = Duration::from_millis(2500);
/// What seeing that it is there, and the killing, take.
const KILLED_WITHIN: Duration = Duration::from_millis(500);
/// On a machine that is busy with other things the first goes on before the last has come: then they are played anew.
const GATHERINGS_MAX: usize = 10;
/// By then what had leave is sent: it is asked for 0.4 s before a slot at most, which lasts 0.1 s.
const SENT_WITHIN: Duration = Duration::from_secs(1);
/// Of a provider that takes its time.
const ANSWER_MS: u64 = 600;

/// The numbers of the rounds, in groups that share a death.
fn groups() -> impl Iterator<Item = std::ops::Range<usize>> {
    let times = times();
    (0..times).step_by(lanes()).map(move |from| from..times.min(from + lanes()))
}

/// Rounds with a worker each that waits at its point, all at the same time.
async fn gathered(point: &str, new: impl AsyncFn() -> Vec<Round>) -> (Vec<Round>, Vec<Outdial>) {
    for _ in 0..GATHERINGS_MAX {
        let mut rounds = new().await;
        let came = join_all(rounds.iter_mut().map(async |round| {
            let worker = round.doomed(point, HOLD).await;
            round.publish_until_reached(&worker).await;
            (clock::monotonic(), worker)
        }))
        .await;
        let first = came.iter().map(|(seen, _)| *seen).min();
        let workers = came.into_iter().map(|(_, worker)| worker).collect();
        if first.is_some_and(|first| clock::monotonic() + KILLED_WITHIN < first + HELD_FOR) {
            return (rounds, workers);
        }
        finish(&rounds, workers).await;
    }
    panic!("this machine is too busy: workers never waited at {point} at the same time");
}

async fn finish(rounds: &[Round], workers: Vec<Outdial>) {
    join_all(rounds.iter().zip(workers).map(async |(round, worker)| {
        round.all_done().await;
        round.finish(worker).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_10_without_a_database_nothing_is_authorised_and_what_became_of_calls_is_kept() {
    let _cores = crate::support::busy().await;
    let mut postgres = own_postgres().await;
    for group in groups() {
        let orderly = group.start / lanes() % 2 == 1;
        // Before a POST: each worker is about to ask for leave.
        let new = async |nth| Round::on(nth, database_on(&postgres).await, vhost().await).await;
        let (mut rounds, workers) =
            gathered("BeforeAuthorise", async || join_all(group.clone().map(new)).await).await;
        if orderly {
            postgres.halt()
        } else {
            postgres.kill9()
        }
        // Those that had leave already are sent.
        tokio::time::sleep(SENT_WITHIN).await;
        let sent: Vec<usize> = rounds.iter().map(|round| round.stage.posts().len()).collect();
        for worker in &workers {
            worker.line(SOON, "place.ledger.failed").await;
        }
        let then: Vec<usize> = rounds.iter().map(|round| round.stage.posts().len()).collect();
        assert_eq!(then, sent, "without a database nothing is sent");
        postgres.resume().unwrap();
        join_all(rounds.iter().map(Round::all_done)).await;

        // After one: calls are under way when the database goes, and answered while it is away.
        join_all(rounds.iter_mut().map(async |round| {
            let before = round.stage.posts().len();
            round.slow_answers(ANSWER_MS - 100, ANSWER_MS);
            round.publish(4).await;
            round.stage.posted(before + 1, SOON).await;
        }))
        .await;
        postgres.kill9();
        let answered = clock::monotonic() + Duration::from_millis(ANSWER_MS + 200);
        tokio::time::sleep_until(answered).await;
        postgres.resume().unwrap();
        finish(&rounds, workers).await;
    }
}

/// Makes the queues, and restarts the broker in order: one that is killed moments after a quorum queue was made may find
/// no leader for it again (rabbitmq-server issue 15725), and these tests are about outdial.
async fn settle_queues(rabbit: &mut Rabbit) {
    let made = (0..lanes()).map(async |nth| {
        let round = Round::on(nth, database().await, Vhost::nth(rabbit, nth)).await;
        round.stage.stopped(round.worker().await).await;
    });
    join_all(made).await;
    rabbit.restart().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_11_without_a_broker_calls_go_on_events_wait_and_what_comes_again_is_known() {
    let _cores = crate::support::busy().await;
    let mut rabbit = own_rabbit_with(lanes() as u32).await;
    settle_queues(&mut rabbit).await;
    for group in groups() {
        let on = |nth: usize| Vhost::nth(&rabbit, nth % lanes());
        // Something is written down, and its ack never arrives.
        let new = async |nth| Round::on(nth, database().await, on(nth)).await;
        let (mut rounds, workers) =
            gathered("BeforeAck", async || join_all(group.clone().map(new)).await).await;
        rabbit.kill9();
        for Round { stage, .. } in &rounds {
            let open = stage.count("select count(*) from outdial.jobs where state <> 'done'").await;
            let accepted = stage.count("select count(*) from outdial.jobs").await;
            stage.jobs("done", None, accepted, SOON).await;
            let events = stage.count("select count(*) from outdial.outbox").await;
            assert!(
                events >= open,
                "what happened meanwhile waits to be told: {events} events of {open} jobs"
            );
        }
        rabbit.resume().unwrap();
        join_all(rounds.iter_mut().map(async |round| round.publish(3).await)).await;
        finish(&rounds, workers).await;
    }
}

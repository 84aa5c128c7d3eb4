//! Rows 1, 2 and 9: between a message's delivery and its ack.

use crate::crash::round::{SOON, rounds};
use crate::support::eventually;

#[tokio::test]
async fn row_1_delivered_and_not_committed_is_redelivered_and_dialed_once() {
    rounds(async |round| {
        let doomed = round.doomed("BeforeAccept", "kill").await;
        round.publish_until_killed(doomed).await;
        let committed = round.stage.count("select count(*) from outdial.jobs").await;
        assert!(committed < round.published() as i64, "the last batch is not written down");
        round.inherit().await;
    })
    .await;
}

#[tokio::test]
async fn row_2_a_batch_whose_commit_went_unheard_is_recognised_as_ours() {
    rounds(async |round| {
        let worker = round.doomed("AfterAccept", "lose").await;
        round.publish_until_reached(&worker).await;
        round.all_done().await;
        round.finish(worker).await;
    })
    .await;
}

#[tokio::test]
async fn row_9_written_and_not_acked_is_acked_when_it_comes_again() {
    rounds(async |round| {
        let point = round.one_of(&["AfterAccept", "BeforeAck"]);
        let doomed = round.doomed(point, "kill").await;
        round.publish_until_killed(doomed).await;
        let committed = round.stage.count("select count(*) from outdial.jobs").await;
        assert!(committed > 0);
        let again = async || Some(round.queued().await).filter(|n| *n > 0);
        let again = i64::from(eventually(SOON, again).await);
        assert!(committed + again > round.published() as i64, "what is written down comes again");
        round.inherit().await;
    })
    .await;
}

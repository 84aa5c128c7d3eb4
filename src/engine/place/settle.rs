//! The group commits of placing, and what an outcome means for its job.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{BATCH_MAX, Caller, Desk, Place, PlaceMeter, UNREACHABLE};
use crate::clock;
use crate::core::ids::JobNo;
use crate::core::ledger::{Authorised, Became, Leave, NoLeave, Settlement, Signal};
use crate::core::outcome::{NotPlaced, PlaceOutcome};
use crate::core::states::Reason;
use crate::engine::batch::Batcher;
use crate::engine::ledger::{LedgerError, PlaceLedger};

type Done<T> = Result<T, LedgerError>;

pub(super) fn leave_batches<L: PlaceLedger, C: Caller, D: Desk, M: PlaceMeter>(
    place: &Place<L, C, D, M>,
    tracker: &TaskTracker,
) -> Batcher<Leave, Done<Authorised>> {
    let (ledger, meter, slack) = (Arc::clone(&place.ledger), Arc::clone(&place.meter), place.slack);
    Batcher::start(tracker, BATCH_MAX, move |leaves: Vec<Leave>| {
        let (ledger, meter) = (Arc::clone(&ledger), Arc::clone(&meter));
        async move {
            let began = clock::monotonic();
            let answer = ledger.authorise(slack, &leaves).await;
            meter.statement("authorise", leaves.len(), began.elapsed(), answer.is_ok());
            match answer {
                Ok(answers) => {
                    let answers: HashMap<JobNo, Authorised> = answers.into_iter().collect();
                    let one = |leave: &Leave| answers.get(&leave.job_no).copied();
                    leaves.iter().map(|l| Ok(one(l).unwrap_or(Authorised::No(NoLeave::Gone)))).collect()
                }
                Err(error) => all(&leaves, error),
            }
        }
    })
}

pub(super) fn release_batches<L: PlaceLedger, C: Caller, D: Desk, M: PlaceMeter>(
    place: &Place<L, C, D, M>,
    tracker: &TaskTracker,
) -> Batcher<JobNo, Done<()>> {
    let (ledger, meter) = (Arc::clone(&place.ledger), Arc::clone(&place.meter));
    Batcher::start(tracker, BATCH_MAX, move |jobs: Vec<JobNo>| {
        let (ledger, meter) = (Arc::clone(&ledger), Arc::clone(&meter));
        async move {
            let began = clock::monotonic();
            let answer = ledger.release(&jobs).await;
            meter.statement("release", jobs.len(), began.elapsed(), answer.is_ok());
            jobs.iter().map(|_| answer.clone()).collect()
        }
    })
}

pub(super) fn settle_batches<L: PlaceLedger, C: Caller, D: Desk, M: PlaceMeter>(
    place: &Place<L, C, D, M>,
    tracker: &TaskTracker,
) -> Batcher<Settlement, Done<()>> {
    let (ledger, meter, desk) =
        (Arc::clone(&place.ledger), Arc::clone(&place.meter), Arc::clone(&place.desk));
    let slack = place.slack;
    Batcher::start(tracker, BATCH_MAX, move |settlements: Vec<Settlement>| {
        let (ledger, meter, desk) = (Arc::clone(&ledger), Arc::clone(&meter), Arc::clone(&desk));
        async move {
            let began = clock::monotonic();
            let answer = ledger.settle(slack, &settlements).await;
            meter.statement("settle", settlements.len(), began.elapsed(), answer.is_ok());
            match answer {
                Ok(refused) => {
                    for campaign in refused {
                        desk.refused_in_a_row(&campaign).await;
                    }
                    settlements.iter().map(|_| Ok(())).collect()
                }
                Err(LedgerError::Refused(_)) if settlements.len() > 1 => {
                    // One that can't be written must not take the evidence of the others with it.
                    let mut answers = Vec::with_capacity(settlements.len());
                    for one in &settlements {
                        answers.push(ledger.settle(slack, std::slice::from_ref(one)).await.map(drop));
                    }
                    answers
                }
                Err(error) => all(&settlements, error),
            }
        }
    })
}

fn all<I, T>(items: &[I], error: LedgerError) -> Vec<Done<T>> {
    tracing::warn!(error = %error, items = items.len(), "place.ledger.failed");
    items.iter().map(|_| Err(error.clone())).collect()
}

/// What an outcome means for the job, where nobody else has to be asked.
pub(super) fn became(outcome: &PlaceOutcome) -> Became {
    match outcome {
        PlaceOutcome::Placed { call_id } => Became::Placed { call_id: call_id.clone() },
        PlaceOutcome::Unknown => Became::Unknown,
        PlaceOutcome::NotPlaced(why) => match why {
            NotPlaced::TooLate => Became::Unsent { reason: Reason::Queued, ready_in: None },
            NotPlaced::Unreachable => {
                Became::Unsent { reason: Reason::ProviderUnavailable, ready_in: Some(UNREACHABLE) }
            }
            NotPlaced::Busy { .. } => Became::Retry { reason: Reason::AccountLimit, ready_in: None },
            NotPlaced::Unauthorized => Became::Retry { reason: Reason::AccountPaused, ready_in: None },
            NotPlaced::AgentUnavailable => Became::Retry { reason: Reason::AgentUnavailable, ready_in: None },
            NotPlaced::CallerIdRejected | NotPlaced::Rejected => {
                Became::Refused { reason: Reason::ProviderRejected }
            }
        },
    }
}

/// What an outcome says of the account's health.
pub(super) fn signal(outcome: &PlaceOutcome, status: Option<u16>) -> Option<Signal> {
    match outcome {
        PlaceOutcome::Placed { .. } => Some(Signal::Ok),
        PlaceOutcome::Unknown => Some(Signal::Unknown),
        PlaceOutcome::NotPlaced(why) => match why {
            NotPlaced::TooLate => None,
            NotPlaced::Unreachable => Some(Signal::Unknown),
            NotPlaced::Busy { retry_after } => Some(Signal::Busy { retry_after: *retry_after }),
            // A key that is refused says nothing of whether calls would get through.
            NotPlaced::Unauthorized => None,
            NotPlaced::AgentUnavailable | NotPlaced::CallerIdRejected | NotPlaced::Rejected => {
                status.map(|_| Signal::Ok)
            }
        },
    }
}

//! Webhooks as hints: which calls are to be looked up now, instead of when their turn in the list comes. Losing one costs
//! time and nothing else: polling and reconciling find out without them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounts::AccountKeys;
use super::pace::Pace;
use super::provider::ReadsCalls;
use super::reconcile::{EvidenceLedger, learn};
use crate::clock;
use crate::core::ids::{AccountName, CallId};
use crate::core::outcome::ProviderError;
use crate::core::reconcile::Found;

/// Calls that wait to be looked up.
const WAITING_MAX: usize = 1_000;
/// Webhooks a second of one account that are read at all, and so many at once after a pause.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(200).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
/// Calls that are remembered, so that a webhook that is sent again costs nothing.
const SEEN_MAX: usize = 20_000;
/// A call that goes on isn't looked up again sooner.
const AGAIN: Duration = Duration::from_secs(2);

/// Where an account's hints are put.
#[derive(Debug)]
pub struct Inbox {
    hints: mpsc::Sender<CallId>,
    flood: DefaultDirectRateLimiter,
}

/// What became of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    Taken,
    /// More than are read in a second, or than wait already.
    TooMany,
}

/// An inbox and its other end.
pub fn inbox() -> (Inbox, mpsc::Receiver<CallId>) {
    let (hints, waiting) = mpsc::channel(WAITING_MAX);
    let flood = RateLimiter::direct(Quota::per_second(PER_SECOND).allow_burst(BURST));
    (Inbox { hints, flood }, waiting)
}

impl Inbox {
    /// Whether another webhook may be read now: asked before anything is computed of it.
    pub fn admits(&self) -> bool {
        self.flood.check().is_ok()
    }

    /// Never waits.
    pub fn offer(&self, call_id: CallId) -> Offered {
        match self.hints.try_send(call_id) {
            Ok(()) => Offered::Taken,
            Err(_) => Offered::TooMany,
        }
    }
}

/// Looks up the calls that webhooks of one account name.
#[derive(Debug)]
pub struct HintStage<L, P> {
    pub account: AccountName,
    pub ledger: L,
    pub provider: P,
    pub keys: Arc<AccountKeys>,
    /// Its own: whoever floods it doesn't slow down polling.
    pub pace: Arc<Pace>,
    pub hints: mpsc::Receiver<CallId>,
}

/// What is known of a call that was hinted at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Its end is written down, or it isn't ours: nothing more is to be learned of it.
    Settled,
    LookedUp(Instant),
}

impl<L: EvidenceLedger, P: ReadsCalls> HintStage<L, P> {
    /// Runs until canceled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut seen: HashMap<CallId, Seen> = HashMap::new();
        while let Some(Some(call_id)) = cancel.run_until_cancelled(self.hints.recv()).await {
            let known = match seen.get(&call_id) {
                Some(Seen::Settled) => true,
                Some(Seen::LookedUp(at)) => clock::monotonic() < *at + AGAIN,
                None => false,
            };
            if known || !self.keys.usable(&self.account) {
                continue;
            }
            if !self.pace.turn(&cancel).await {
                return;
            }
            if seen.len() >= SEEN_MAX {
                seen.clear();
            }
            seen.insert(call_id.clone(), self.look_up(&call_id).await);
        }
    }

    async fn look_up(&self, call_id: &CallId) -> Seen {
        let looked_up = Seen::LookedUp(clock::monotonic());
        let record = match self.provider.get_call(call_id).await {
            Ok(record) => record,
            Err(ProviderError::Unauthorized { .. }) => {
                self.keys.report_unauthorized(&self.account);
                return looked_up;
            }
            Err(error) => {
                tracing::debug!(account = %self.account, call.id = %call_id, %error, "webhook.unread");
                return looked_up;
            }
        };
        // Bounds what the provider's clock says of the end; the ledger bounds it no further.
        let Some(found) = Found::of_record(&record, clock::wall()) else { return Seen::Settled };
        match learn(&self.ledger, &self.account, std::slice::from_ref(&found)).await {
            Ok(_) if found.end.is_some() => Seen::Settled,
            Ok(_) => looked_up,
            Err(error) => {
                tracing::debug!(account = %self.account, call.id = %call_id, %error, "webhook.unwritten");
                looked_up
            }
        }
    }
}

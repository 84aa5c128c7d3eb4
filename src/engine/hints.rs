//! Webhooks as hints: which calls are to be looked up now, instead of when their turn in the list comes. Losing one costs
//! time: polling and reconciling find out without them. Only of an attempt that was given up nothing else tells any more, so a
//! look-up that fails is tried again a few times.

use std::collections::{BTreeMap, HashMap};
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
/// A call that goes on isn't looked up again sooner: what is hinted meanwhile waits.
const AGAIN: Duration = Duration::from_secs(2);
/// A call that could not be read is tried again after this, each time after twice as long, so many times in all (for some
/// forty minutes), as long as not too many wait for that. Nobody hints at it again.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);
const RETRIES: u8 = 10;
const RETRYING_MAX: usize = 1_000;
/// Those that only wait for their next look leave room for these.
const AGAIN_MAX: usize = RETRYING_MAX / 2;

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
    /// It goes on.
    LookedUp(Instant),
    /// It could not be read, or what it told not be written.
    Unread,
}

/// Calls to be looked up again, the next first, and how often each could not be read.
type Retries = BTreeMap<(Instant, CallId), u8>;

impl<L: EvidenceLedger, P: ReadsCalls> HintStage<L, P> {
    /// Runs until canceled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut seen: HashMap<CallId, Seen> = HashMap::new();
        let mut retries = Retries::new();
        while let Some(Some((call_id, tries))) = cancel.run_until_cancelled(self.next(&mut retries)).await {
            match seen.get(&call_id) {
                Some(Seen::Settled) => continue,
                Some(Seen::Unread) if tries == 0 => continue,
                Some(Seen::LookedUp(at)) if clock::monotonic() < *at + AGAIN => {
                    // It may be of the end, where the first was not: its turn comes once, however many there are.
                    if retries.len() < AGAIN_MAX {
                        retries.insert((*at + AGAIN, call_id), 0);
                    }
                    continue;
                }
                Some(Seen::LookedUp(_) | Seen::Unread) | None => {}
            }
            let found = if self.keys.usable(&self.account) {
                if !self.pace.turn(&cancel).await {
                    return;
                }
                self.look_up(&call_id).await
            } else {
                Seen::Unread
            };
            if seen.len() >= SEEN_MAX {
                seen.clear();
            }
            if found == Seen::Unread && tries < RETRIES && retries.len() < RETRYING_MAX {
                let wait = RETRY.saturating_mul(1 << tries).min(RETRY_MAX);
                retries.insert((clock::monotonic() + wait, call_id.clone()), tries + 1);
                seen.insert(call_id, found);
            } else if found == Seen::Unread {
                seen.remove(&call_id);
            } else {
                seen.insert(call_id, found);
            }
        }
    }

    /// The next call to be looked up, and how often that was tried in vain; `None`: nobody hints any more.
    async fn next(&mut self, retries: &mut Retries) -> Option<(CallId, u8)> {
        let due = retries.first_key_value().map(|((at, _), _)| *at);
        tokio::select! {
            () = tokio::time::sleep_until(due.unwrap_or_else(clock::monotonic)), if due.is_some() => {
                retries.pop_first().map(|((_, call_id), tries)| (call_id, tries))
            }
            hint = self.hints.recv() => hint.map(|call_id| (call_id, 0)),
        }
    }

    async fn look_up(&self, call_id: &CallId) -> Seen {
        let looked_up = Seen::LookedUp(clock::monotonic());
        let record = match self.provider.get_call(call_id).await {
            Ok(record) => record,
            Err(error) => {
                if let ProviderError::Unauthorized { .. } = error {
                    self.keys.report_unauthorized(&self.account);
                }
                tracing::debug!(account = %self.account, call.id = %call_id, %error, "webhook.unread");
                return Seen::Unread;
            }
        };
        // Bounds what the provider's clock says of the end; the ledger bounds it no further.
        let Some(found) = Found::of_record(&record, clock::wall()) else {
            // Of a fresh call the record may not tell everything yet.
            return if record.prompt_variables.is_empty() { Seen::Unread } else { Seen::Settled };
        };
        match learn(&self.ledger, &self.account, &found).await {
            Ok(()) if found.end.is_some() => Seen::Settled,
            Ok(()) => looked_up,
            Err(error) => {
                tracing::debug!(account = %self.account, call.id = %call_id, %error, "webhook.unwritten");
                Seen::Unread
            }
        }
    }
}

//! Webhooks as hints: which calls are to be looked up now, instead of when their turn in the list comes. Losing one costs
//! time: polling and reconciling find out without them. Only of an attempt that was given up nothing else tells any more, so a
//! look-up that fails is tried again a few times.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
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
/// Calls that are being looked up: one that the provider is slow to tell doesn't hold up the others.
const AT_ONCE: usize = 16;
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
    pub async fn run(self, cancel: CancellationToken) {
        let Self { account, ledger, provider, keys, pace, mut hints } = self;
        let reader = Reader { account, ledger, provider, keys, pace };
        let mut known = Known::default();
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some((call_id, tries, found)) = under_way.next() => known.note(call_id, tries, found),
                next = known.next(&mut hints), if under_way.len() < AT_ONCE => {
                    let Some((call_id, tries)) = next else { return };
                    if known.is_to_be_read(&call_id, tries) {
                        let (reader, cancel) = (&reader, &cancel);
                        under_way.push(async move {
                            let found = reader.read(&call_id, cancel).await;
                            (call_id, tries, found)
                        });
                    }
                }
            }
        }
    }
}

/// The calls that were hinted at.
#[derive(Debug, Default)]
struct Known {
    seen: HashMap<CallId, Seen>,
    retries: Retries,
}

impl Known {
    /// The next call to be looked up, and how often that was tried in vain; `None`: nobody hints any more.
    async fn next(&mut self, hints: &mut mpsc::Receiver<CallId>) -> Option<(CallId, u8)> {
        let due = self.retries.first_key_value().map(|((at, _), _)| *at);
        tokio::select! {
            () = tokio::time::sleep_until(due.unwrap_or_else(clock::monotonic)), if due.is_some() => {
                self.retries.pop_first().map(|((_, call_id), tries)| (call_id, tries))
            }
            hint = hints.recv() => hint.map(|call_id| (call_id, 0)),
        }
    }

    /// Whether something may be learned of it now. If so, it counts as looked up.
    fn is_to_be_read(&mut self, call_id: &CallId, tries: u8) -> bool {
        let now = clock::monotonic();
        match self.seen.get(call_id) {
            Some(Seen::Settled) => return false,
            Some(Seen::Unread) if tries == 0 => return false,
            Some(Seen::LookedUp(at)) if now < *at + AGAIN => {
                // It may be of the end, where the first was not: its turn comes once, however many there are.
                if self.retries.len() < AGAIN_MAX {
                    self.retries.insert((*at + AGAIN, call_id.clone()), 0);
                }
                return false;
            }
            Some(Seen::LookedUp(_) | Seen::Unread) | None => {}
        }
        self.see(call_id.clone(), Seen::LookedUp(now));
        true
    }

    fn see(&mut self, call_id: CallId, seen: Seen) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(call_id, seen);
    }

    fn note(&mut self, call_id: CallId, tries: u8, found: Seen) {
        if found != Seen::Unread {
            self.see(call_id, found);
        } else if tries < RETRIES && self.retries.len() < RETRYING_MAX {
            let wait = RETRY.saturating_mul(1 << tries).min(RETRY_MAX);
            self.retries.insert((clock::monotonic() + wait, call_id.clone()), tries + 1);
            self.see(call_id, found);
        } else {
            self.seen.remove(&call_id);
        }
    }
}

/// Looks calls up, and writes down what they tell.
#[derive(Debug)]
struct Reader<L, P> {
    account: AccountName,
    ledger: L,
    provider: P,
    keys: Arc<AccountKeys>,
    pace: Arc<Pace>,
}

impl<L: EvidenceLedger, P: ReadsCalls> Reader<L, P> {
    async fn read(&self, call_id: &CallId, cancel: &CancellationToken) -> Seen {
        if !self.keys.usable(&self.account) || !self.pace.turn(cancel).await {
            return Seen::Unread;
        }
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

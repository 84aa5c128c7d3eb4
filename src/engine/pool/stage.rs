//! When pools are read: at start, when somebody asks, and every `pool.refresh`. One worker reads for all.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{PoolLedger, Reader, RulesNow, Synced};
use crate::clock;
use crate::core::backoff::Backoff;
use crate::core::ids::{AccountName, ModelId, RoutingVersion};
use crate::core::outcome::ProviderError;
use crate::engine::accounts::AccountKeys;
use crate::engine::duty::{Duties, Duty};
use crate::engine::pace::Pace;
use crate::engine::ports::LedgerError;
use crate::engine::provider::ReadsPools;

/// Between two looks for agents to be read.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A reading held back is soon followed by another.
const SECOND_READING_AFTER: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Readings under way at once: a slow answer about one agent doesn't hold up all others.
const AT_ONCE: usize = 4;

/// Lengths of time, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct PoolTerms {
    /// `pool.refresh`
    pub refresh: Duration,
    /// `worker.lease`
    pub lease: Duration,
}

/// Reads the pools of one account's agents.
#[derive(Debug)]
pub struct PoolStage<L, P, D> {
    pub account: AccountName,
    pub ledger: L,
    pub provider: P,
    pub duties: D,
    pub keys: Arc<AccountKeys>,
    pub pace: Arc<Pace>,
    pub rules: RulesNow,
    pub terms: PoolTerms,
}

/// An agent that couldn't be read as it should.
#[derive(Debug)]
struct Retry {
    at: Instant,
    backoff: Backoff,
}

impl<L: PoolLedger, P: ReadsPools, D: Duties> PoolStage<L, P, D> {
    /// Runs until canceled.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { account, ledger, provider, duties, keys, pace, rules, terms } = self;
        let mut duty = Duty::of_account(duties, "pool", &account, &keys, terms.lease);
        let mut retries: HashMap<ModelId, Retry> = HashMap::new();
        let mut expected = None;
        while cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if !duty.is_ours().await {
                continue;
            }
            let due = match look(&account, &ledger, &rules, &mut expected, &retries, terms.refresh).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::debug!(%account, %error, "no look at which pools are to be read");
                    continue;
                }
            };
            let readings = futures_util::stream::iter(due).map(|model| {
                let (account, ledger, provider, rules) = (&account, &ledger, &provider, &rules);
                let (pace, cancel) = (&pace, &cancel);
                async move {
                    if !pace.turn(cancel).await {
                        return None;
                    }
                    let reader = Reader { account, model: &model, ledger, provider, rules };
                    let synced = cancel.run_until_cancelled(reader.sync(&BTreeSet::new())).await?;
                    Some((model, synced))
                }
            });
            let mut readings = readings.buffer_unordered(AT_ONCE);
            while let Some(reading) = readings.next().await {
                let Some((model, synced)) = reading else { continue };
                if let Ok(Synced::Failed(ProviderError::Unauthorized { .. })) = synced {
                    keys.report_unauthorized(&account);
                }
                note(&mut retries, &account, model, synced);
            }
        }
        duty.leave().await;
    }
}

/// Which agents to read now. Agents of new rules get their rows first.
async fn look<L: PoolLedger>(
    account: &AccountName,
    ledger: &L,
    rules: &RulesNow,
    expected: &mut Option<RoutingVersion>,
    retries: &HashMap<ModelId, Retry>,
    refresh: Duration,
) -> Result<Vec<ModelId>, LedgerError> {
    let (version, compiled) = rules.get();
    if *expected != Some(version) {
        let settings = compiled.settings();
        let named = settings.agents.iter().map(|agent| &agent.model_id);
        let by_campaigns = settings.campaigns.iter().filter_map(|campaign| campaign.model_id.as_ref());
        let ours: BTreeSet<&ModelId> =
            named.chain(by_campaigns).filter(|model| compiled.account(model) == account).collect();
        ledger.expect(account, &ours.into_iter().cloned().collect::<Vec<_>>()).await?;
        *expected = Some(version);
    }
    let now = clock::monotonic();
    let mut due = ledger.due(account, refresh).await?;
    due.retain(|model| retries.get(model).is_none_or(|retry| retry.at <= now));
    // A wish is taken back when a reading begins: one that failed is remembered here.
    due.extend(retries.iter().filter(|(_, retry)| retry.at <= now).map(|(model, _)| model.clone()));
    due.sort_unstable();
    due.dedup();
    Ok(due)
}

fn note(
    retries: &mut HashMap<ModelId, Retry>,
    account: &AccountName,
    model: ModelId,
    synced: Result<Synced, LedgerError>,
) {
    let why = match synced {
        Ok(Synced::Adopted(change)) => {
            retries.remove(&model);
            if !change.is_empty() {
                let (attached, detached) = (change.attach.len(), change.detach.len());
                tracing::info!(%account, model_id = %model, attached, detached, "the agent's pool has changed");
            }
            return;
        }
        // Looked for again by the ledger's own rule.
        Ok(Synced::Unavailable { why }) => {
            retries.remove(&model);
            tracing::warn!(%account, model_id = %model, why, "the agent is held");
            return;
        }
        Ok(Synced::HeldBack { dropped }) => {
            tracing::warn!(
                %account, model_id = %model, dropped,
                "a reading would drop more than half of the agent's pool; a second one has to agree"
            );
            let retry = Retry { at: clock::monotonic() + SECOND_READING_AFTER, backoff: fresh() };
            retries.insert(model, retry);
            return;
        }
        Ok(Synced::Unusable(why)) => why,
        Ok(Synced::Failed(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let now = clock::monotonic();
    let retry = retries.entry(model.clone()).or_insert_with(|| Retry { at: now, backoff: fresh() });
    let wait = retry.backoff.after_failure(rand::random());
    retry.at = now + wait;
    tracing::warn!(
        %account, model_id = %model, why, retry_ms = wait.as_millis() as u64,
        "the agent's pool could not be read; it stays as it was"
    );
}

const fn fresh() -> Backoff {
    Backoff::new(RETRY_FIRST, RETRY_MAX)
}

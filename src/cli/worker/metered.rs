//! What the stages reach outside, counted on its way.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::clock;
use crate::core::call::{Assistant, CallPage, CallRecord, ListCalls};
use crate::core::ends::End;
use crate::core::events::EventType;
use crate::core::ids::{AccountName, AttemptId, CallId, ModelId, RoutingVersion};
use crate::core::outcome::ProviderError;
use crate::core::phone::E164;
use crate::core::pool::{Change, Listed};
use crate::core::reconcile::GiveUp;
use crate::core::states::Disposition;
use crate::engine::ends::{EndsLedger, Open};
use crate::engine::outbox::EventSink;
use crate::engine::pool::{Begun, PoolLedger, Written};
use crate::engine::ports::LedgerError;
use crate::engine::provider::{ReadsCalls, ReadsPools};
use crate::engine::reconcile::{EvidenceLedger, Heard, Sought};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{ByChange, ByDisposition, ByPoll, ByResult, ByType};

/// The same thing, counted.
#[derive(Debug, Clone)]
pub(super) struct Metered<T> {
    pub inner: T,
    pub metrics: Arc<Metrics>,
}

impl<T> Metered<T> {
    fn polled<A>(&self, request: &'static str, answer: Result<A, ProviderError>) -> Result<A, ProviderError> {
        let result = result(&answer);
        self.metrics.polls.get_or_create(&ByPoll { request, result }).inc();
        answer
    }
}

impl<P: ReadsCalls> ReadsCalls for Metered<P> {
    async fn list_calls(&self, filter: &ListCalls) -> Result<CallPage, ProviderError> {
        self.polled("list", self.inner.list_calls(filter).await)
    }

    async fn get_call(&self, call_id: &CallId) -> Result<CallRecord, ProviderError> {
        self.polled("call", self.inner.get_call(call_id).await)
    }
}

impl<P: ReadsPools> ReadsPools for Metered<P> {
    async fn assistant(&self, model_id: &ModelId) -> Result<Assistant, ProviderError> {
        let answer = self.inner.assistant(model_id).await;
        self.metrics.pool_syncs.get_or_create(&ByResult { result: result(&answer) }).inc();
        answer
    }
}

const fn result<A>(answer: &Result<A, ProviderError>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(ProviderError::Unauthorized { .. }) => "unauthorized",
        Err(ProviderError::NotFound { .. }) => "not_found",
        Err(ProviderError::Rejected { .. }) => "rejected",
        Err(ProviderError::RateLimited { .. }) => "rate_limited",
        Err(ProviderError::Unavailable(_)) => "unavailable",
        Err(ProviderError::Unreadable(_)) => "unreadable",
    }
}

impl<L: EndsLedger> EndsLedger for Metered<L> {
    async fn open(&self, account: &AccountName, max: usize) -> Result<Open, LedgerError> {
        self.inner.open(account, max).await
    }

    async fn overdue(&self, live_max: Duration, max: usize) -> Result<Vec<AttemptId>, LedgerError> {
        self.inner.overdue(live_max, max).await
    }

    async fn finish(&self, ends: &[End]) -> Result<Vec<AttemptId>, LedgerError> {
        let began = clock::monotonic();
        let answer = self.inner.finish(ends).await;
        self.metrics.statement("finish", began.elapsed(), answer.is_ok());
        let news: HashSet<AttemptId> = answer.iter().flatten().copied().collect();
        for end in ends.iter().filter(|end| news.contains(&end.attempt)) {
            let disposition = end.disposition.map_or("unknown", Disposition::as_str);
            self.metrics.calls_ended.get_or_create(&ByDisposition { disposition }).inc();
        }
        answer
    }

    async fn mismatched(&self) -> Result<usize, LedgerError> {
        let answer = self.inner.mismatched().await;
        if let Ok(calls @ 1..) = answer {
            self.metrics.caller_id_mismatches.inc_by(calls as u64);
        }
        answer
    }
}

impl<L: PoolLedger> PoolLedger for Metered<L> {
    async fn expect(&self, account: &AccountName, agents: &[ModelId]) -> Result<(), LedgerError> {
        self.inner.expect(account, agents).await
    }

    async fn due(&self, account: &AccountName, refresh: Duration) -> Result<Vec<ModelId>, LedgerError> {
        self.inner.due(account, refresh).await
    }

    async fn begin_reading(&self, account: &AccountName, model: &ModelId) -> Result<Begun, LedgerError> {
        self.inner.begin_reading(account, model).await
    }

    async fn adopt(
        &self,
        model: &ModelId,
        seen: Option<DateTime<Utc>>,
        version: RoutingVersion,
        change: &Change,
        attach: &[Listed],
    ) -> Result<Written, LedgerError> {
        let answer = self.inner.adopt(model, seen, version, change, attach).await;
        if let Ok(Written::Yes { attached, detached }) = answer {
            for (change, numbers) in [("attached", attached), ("detached", detached)] {
                self.metrics.pool_changes.get_or_create(&ByChange { change }).inc_by(numbers as u64);
            }
        }
        answer
    }

    async fn hold_back(
        &self,
        model: &ModelId,
        seen: Option<DateTime<Utc>>,
        doubted: &BTreeSet<E164>,
    ) -> Result<Written, LedgerError> {
        self.inner.hold_back(model, seen, doubted).await
    }

    async fn keep(&self, model: &ModelId, error: &str) -> Result<(), LedgerError> {
        self.inner.keep(model, error).await
    }

    async fn is_attached(&self, model: &ModelId, number: &E164) -> Result<bool, LedgerError> {
        self.inner.is_attached(model, number).await
    }

    async fn unavailable(
        &self,
        account: &AccountName,
        model: &ModelId,
        why: &str,
    ) -> Result<(), LedgerError> {
        self.inner.unavailable(account, model, why).await
    }
}

impl<L: EvidenceLedger> EvidenceLedger for Metered<L> {
    async fn unknown(&self, account: &AccountName, max: usize) -> Result<Sought, LedgerError> {
        self.inner.unknown(account, max).await
    }

    async fn known_calls(
        &self,
        window: (DateTime<Utc>, DateTime<Utc>),
        calls: &[CallId],
    ) -> Result<HashSet<CallId>, LedgerError> {
        self.inner.known_calls(window, calls).await
    }

    async fn found(
        &self,
        account: &AccountName,
        calls: &[(AttemptId, CallId)],
    ) -> Result<Heard, LedgerError> {
        let heard = self.inner.found(account, calls).await?;
        self.reconciled("found", heard.news);
        self.reconciled("twice", heard.twice);
        Ok(heard)
    }

    async fn looked(
        &self,
        attempts: &[AttemptId],
        complete: bool,
        began: DateTime<Utc>,
        gap: Duration,
    ) -> Result<(), LedgerError> {
        self.inner.looked(attempts, complete, began, gap).await
    }

    async fn give_up(&self, attempts: &[(AttemptId, GiveUp)]) -> Result<usize, LedgerError> {
        let over = self.inner.give_up(attempts).await?;
        self.reconciled("given_up", over);
        Ok(over)
    }
}

impl<T> Metered<T> {
    fn reconciled(&self, result: &'static str, attempts: usize) {
        self.metrics.reconciled.get_or_create(&ByResult { result }).inc_by(attempts as u64);
    }
}

impl<S: EventSink> EventSink for Metered<S> {
    async fn publish(&self, kind: &str, id: &str, body: Vec<u8>) -> Result<(), String> {
        self.inner.publish(kind, id, body).await?;
        let r#type = EventType::parse(kind).map_or("other", EventType::as_str);
        self.metrics.events_published.get_or_create(&ByType { r#type }).inc();
        Ok(())
    }
}

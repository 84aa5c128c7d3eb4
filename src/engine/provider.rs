//! What the stages ask of one account at the provider, apart from placing calls.

use std::future::Future;

use crate::core::call::{Assistant, CallPage, CallRecord, ListCalls};
use crate::core::ids::{CallId, ModelId};
use crate::core::outcome::ProviderError;

type Answer<T> = Result<T, ProviderError>;

/// Tells an agent's pool.
pub trait ReadsPools: Send + Sync + 'static {
    fn assistant(&self, model_id: &ModelId) -> impl Future<Output = Answer<Assistant>> + Send;
}

/// Tells how calls stand.
pub trait ReadsCalls: Send + Sync + 'static {
    fn list_calls(&self, filter: &ListCalls) -> impl Future<Output = Answer<CallPage>> + Send;
    fn get_call(&self, call_id: &CallId) -> impl Future<Output = Answer<CallRecord>> + Send;
}

/// Tells whether the account's key works, by a request that changes nothing.
pub trait ProbesKey: Send + Sync + 'static {
    fn probe_key(&self) -> impl Future<Output = Answer<()>> + Send;
}

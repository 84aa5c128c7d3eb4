//! The client as the stages see it.

use super::Client;
use crate::core::call::{Assistant, CallPage, CallRecord, ListCalls};
use crate::core::ids::{CallId, ModelId};
use crate::core::outcome::ProviderError;
use crate::engine::provider::{ProbesKey, ReadsCalls, ReadsPools};

impl ReadsPools for Client {
    async fn assistant(&self, model_id: &ModelId) -> Result<Assistant, ProviderError> {
        Client::assistant(self, model_id).await
    }
}

impl ReadsCalls for Client {
    async fn list_calls(&self, filter: &ListCalls) -> Result<CallPage, ProviderError> {
        Client::list_calls(self, filter).await
    }

    async fn get_call(&self, call_id: &CallId) -> Result<CallRecord, ProviderError> {
        Client::get_call(self, call_id).await
    }
}

impl ProbesKey for Client {
    async fn probe_key(&self) -> Result<(), ProviderError> {
        Client::probe_key(self).await.map(drop)
    }
}

//! What can't be a job, and why.

use crate::core::states::words;

words!(
    /// Why a message was dead-lettered. Of several, the first in this order is given.
    DeadReason {
        TooLarge = "too_large",
        Malformed = "malformed",
        UnknownField = "unknown_field",
        MissingField = "missing_field",
        InvalidPhone = "invalid_phone",
        InvalidField = "invalid_field",
        /// The same id was received with other content; only the ledger knows.
        Conflict = "conflict",
        /// The broker's own: delivered too often without an answer.
        DeliveryLimit = "delivery_limit",
    }
);

/// A message that can't be a job. `detail` names the field, what is wrong and the mend; never a phone number or
/// a person's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct DeadLetter {
    pub reason: DeadReason,
    pub detail: String,
}

impl DeadLetter {
    pub fn new(reason: DeadReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(DeadReason::Malformed, detail)
    }

    pub(super) fn invalid_field(detail: impl Into<String>) -> Self {
        Self::new(DeadReason::InvalidField, detail)
    }
}

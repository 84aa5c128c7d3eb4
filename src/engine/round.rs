//! Rounds of asking the provider about one account: why one broke off, and how long that holds up the next.

use std::time::Duration;

use super::ports::LedgerError;
use crate::core::backoff::Backoff;
use crate::core::ids::AccountName;
use crate::core::outcome::ProviderError;

/// Why a round broke off.
pub(super) enum Stop {
    Canceled,
    Provider(ProviderError),
    Ledger(LedgerError),
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Stop::Ledger(error)
    }
}

impl Stop {
    /// How long to wait for the next round, where it is `usual` after a good one; `None`: there is no next. `busy` is of
    /// the whole account: it was the account that was asked to slow down.
    pub(super) fn wait(
        self,
        work: &'static str,
        account: &AccountName,
        usual: Duration,
        busy: &mut Backoff,
    ) -> Option<Duration> {
        match self {
            Stop::Canceled => return None,
            Stop::Provider(ProviderError::RateLimited { retry_after }) => {
                let wait = busy.after_failure(rand::random()).max(retry_after.unwrap_or_default());
                tracing::warn!(work, %account, wait_ms = wait.as_millis() as u64, "round.slowed: 429");
                return Some(wait);
            }
            Stop::Provider(error) => tracing::warn!(work, %account, %error, "round.refused"),
            Stop::Ledger(error @ LedgerError::Unavailable(_)) => {
                tracing::debug!(work, %account, %error, "round.unread");
            }
            // It would be again: nobody mends that by waiting.
            Stop::Ledger(error @ LedgerError::Refused(_)) => {
                tracing::error!(work, %account, %error, "round.unwritten: the database refused what the provider told");
            }
        }
        Some(usual)
    }
}

//! The contract's states, reasons and dispositions, and which may follow which.

/// An enum of words: the contract's spelling is written once, beside the variant.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The contract's word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words!(
    /// Where a job stands.
    JobState {
        Waiting = "waiting",
        /// Its attempt is authorised; the answer is not known yet.
        Dialing = "dialing",
        Placed = "placed",
        Done = "done",
        Refused = "refused",
        Expired = "expired",
        Canceled = "canceled",
        /// Nobody can tell whether the call was placed: a person decides.
        Review = "review",
    }
);

impl JobState {
    /// The one table of transitions.
    pub const fn may_become(self, next: JobState) -> bool {
        use JobState::*;
        matches!(
            (self, next),
            (Waiting, Dialing | Refused | Expired | Canceled)
                // Back to waiting: known not placed. Refused: the provider will not place it. Done: the end came
                // before the answer did. Review: nobody can tell.
                | (Dialing, Placed | Waiting | Refused | Done | Review)
                // Back to waiting: the retry policy names its disposition.
                | (Placed, Done | Waiting)
                // A person's word, or late evidence.
                | (Review, Placed | Waiting | Done)
        )
    }

    pub const fn is_final(self) -> bool {
        matches!(self, JobState::Done | JobState::Refused | JobState::Expired | JobState::Canceled)
    }
}

words!(
    /// Where one try at placing a call stands.
    AttemptState {
        /// Committed before the first byte is sent.
        Submitting = "submitting",
        Placed = "placed",
        Ended = "ended",
        /// Known not to have been placed.
        NotPlaced = "not_placed",
        /// Nobody knows yet.
        Unknown = "unknown",
        /// A person closed it without knowing.
        Closed = "closed",
    }
);

impl AttemptState {
    /// The one table of transitions. Evidence may come in any order: an end may be learned before the answer.
    pub const fn may_become(self, next: AttemptState) -> bool {
        use AttemptState::*;
        matches!(
            (self, next),
            (Submitting, Placed | NotPlaced | Unknown | Ended)
                | (Unknown, Placed | NotPlaced | Closed | Ended)
                | (Placed, Ended)
                // Late evidence is merged whenever it comes, whatever was believed.
                | (Closed | NotPlaced, Placed | Ended)
        )
    }
}

words!(
    /// What became of a call that was placed and has ended.
    Disposition {
        Answered = "answered",
        NoAnswer = "no_answer",
        Busy = "busy",
        Voicemail = "voicemail",
        Rejected = "rejected",
        InvalidNumber = "invalid_number",
        Canceled = "canceled",
        Failed = "failed",
    }
);

words!(
    /// Why a job waits, or why it was not dialed.
    Reason {
        Queued = "queued",
        NumberLimit = "number_limit",
        AccountLimit = "account_limit",
        CampaignLimit = "campaign_limit",
        RecipientLimit = "recipient_limit",
        NoRoute = "no_route",
        NoAgent = "no_agent",
        NoEligibleNumber = "no_eligible_number",
        FromNumberNotInPool = "from_number_not_in_pool",
        PoolUnknown = "pool_unknown",
        AgentUnavailable = "agent_unavailable",
        ProviderUnavailable = "provider_unavailable",
        OutsideWindow = "outside_window",
        TimezoneUnknown = "timezone_unknown",
        Suppressed = "suppressed",
        DestinationNotAllowed = "destination_not_allowed",
        ConsentMissing = "consent_missing",
        NotBefore = "not_before",
        CampaignPaused = "campaign_paused",
        AccountPaused = "account_paused",
        KillSwitch = "kill_switch",
        Retry = "retry",
        ProviderRejected = "provider_rejected",
        Unconfirmed = "unconfirmed",
        EndUnknown = "end_unknown",
        Expired = "expired",
        Canceled = "canceled",
    }
);

words!(
    /// What may be dialed from: eligible are `active` and `warming`.
    NumberState {
        Active = "active",
        Warming = "warming",
        Resting = "resting",
        Quarantined = "quarantined",
        Retired = "retired",
    }
);

impl NumberState {
    pub const fn is_eligible(self) -> bool {
        matches!(self, NumberState::Active | NumberState::Warming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_state_has_no_way_out() {
        for &from in JobState::ALL.iter().filter(|s| s.is_final()) {
            assert!(JobState::ALL.iter().all(|&to| !from.may_become(to)), "{from}");
        }
    }

    #[test]
    fn an_unknown_attempt_is_never_submitted_again() {
        assert!(AttemptState::ALL.iter().all(|from| !from.may_become(AttemptState::Submitting)));
    }

    #[test]
    fn words_read_back_as_themselves() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
    }
}

//! What happened, in the contract's words.

use super::states::words;

words!(
    /// An event's type, which is also its routing key.
    EventType {
        JobAccepted = "job.accepted",
        JobWaiting = "job.waiting",
        JobRefused = "job.refused",
        JobExpired = "job.expired",
        JobCanceled = "job.canceled",
        JobDone = "job.done",
        CallPlaced = "call.placed",
        CallUnknown = "call.unknown",
        CallEnded = "call.ended",
        CallCallerIdMismatch = "call.caller_id_mismatch",
        NumberStateChanged = "number.state_changed",
        CampaignStateChanged = "campaign.state_changed",
        AccountStateChanged = "account.state_changed",
    }
);

/// The types of event that are sent (`events.types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTypes(u16);

impl EventTypes {
    pub fn all() -> Self {
        Self::only(EventType::ALL.iter().copied())
    }

    pub fn only(types: impl IntoIterator<Item = EventType>) -> Self {
        Self(types.into_iter().fold(0, |set, t| set | (1 << t as u16)))
    }

    /// The words, for a statement that writes events; `None`: all.
    pub fn names(self) -> Option<Vec<&'static str>> {
        if self == Self::all() {
            return None;
        }
        Some(EventType::ALL.iter().filter(|t| self.contains(**t)).map(|t| t.as_str()).collect())
    }

    pub const fn contains(self, event: EventType) -> bool {
        self.0 & (1 << event as u16) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_it_was_given_and_nothing_else() {
        let set = EventTypes::only([EventType::JobDone, EventType::AccountStateChanged]);
        for &event in EventType::ALL {
            let expected = matches!(event, EventType::JobDone | EventType::AccountStateChanged);
            assert_eq!(set.contains(event), expected, "{event}");
            assert!(EventTypes::all().contains(event));
        }
    }
}

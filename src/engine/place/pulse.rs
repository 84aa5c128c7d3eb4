//! Whether this process gets the time it asks for. One that is stopped now and then, or has to wait for a processor,
//! can't tell from its own clock when its requests arrive; nor can what runs on the same machine be trusted to.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock;

const BEAT: Duration = Duration::from_millis(10);
/// A beat that comes later than this shows a stall.
const STALL: Duration = Duration::from_millis(25);

#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<Beats>);

#[derive(Debug, Default, Clone, Copy)]
struct Beats {
    last: Option<Instant>,
    /// Since the end of the last stall, or the first beat.
    calm_since: Option<Instant>,
}

impl Pulse {
    /// Beats for ever.
    pub(super) async fn beat(&self) {
        loop {
            let due = clock::monotonic() + BEAT;
            tokio::time::sleep_until(due).await;
            let now = clock::monotonic();
            let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if beats.last.is_none_or(|last| now > last + BEAT + STALL) {
                beats.calm_since = Some(now);
            }
            beats.last = Some(now);
        }
    }

    /// Whether nothing has stalled for so long.
    pub(super) fn is_calm_for(&self, span: Duration) -> bool {
        let now = clock::monotonic();
        let beats = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let beats_now = beats.last.is_some_and(|last| now <= last + BEAT + STALL);
        beats_now && beats.calm_since.is_some_and(|since| since + span <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_remembered_and_one_that_lasts_is_seen() {
        let pulse = Pulse::default();
        let beat = async |span| drop(tokio::time::timeout(span, pulse.beat()).await);
        let second = Duration::from_secs(1);
        assert!(!pulse.is_calm_for(Duration::ZERO), "not one beat yet");
        beat(2 * second).await;
        assert!(pulse.is_calm_for(second) && !pulse.is_calm_for(2 * second));
        tokio::time::advance(Duration::from_millis(40)).await;
        assert!(!pulse.is_calm_for(Duration::ZERO), "it doesn't beat");
        beat(second).await;
        assert!(pulse.is_calm_for(second / 2) && !pulse.is_calm_for(second), "it hasn't for a while");
    }
}

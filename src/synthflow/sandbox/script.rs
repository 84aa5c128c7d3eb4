//! How the n-th call goes: decided by the seed and n alone.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use super::config::{ScriptConfig, Span};

/// In the call's own milliseconds from its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Script {
    #[serde(deserialize_with = "or_never")]
    pub rings_at_ms: f64,
    /// The answer, or the end of the ringing.
    #[serde(deserialize_with = "or_never")]
    pub answered_at_ms: f64,
    /// Infinite for a call that never leaves the queue.
    #[serde(deserialize_with = "or_never")]
    pub ends_at_ms: f64,
    pub end: Ending,
    /// Whether somebody's phone rings.
    pub dialed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    pub status: String,
    pub reason: Cow<'static, str>,
    pub error: Option<Cow<'static, str>>,
}

/// JSON has no infinity: it is written as `null`.
fn or_never<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
}

impl Script {
    pub fn draw(config: &ScriptConfig, seed: u64, ordinal: u64, phone: &str) -> Self {
        let mut dice = Dice::new(seed, ordinal);
        let status = match config.outcomes_by_phone.get(phone) {
            Some(status) => status.clone(),
            None => pick(config, &mut dice),
        };
        let rings_at_ms = dice.within(config.queue_ms);
        let answered_at_ms = rings_at_ms + dice.within(config.ring_ms);
        let (talk_ms, reason, error) = match status.as_str() {
            "completed" => {
                let reasons = [
                    "human_goodbye",
                    "agent_goodbye",
                    "human_ended_call",
                    "agent_ended_call",
                    "max_duration",
                ];
                (dice.within(config.talk_ms), dice.one_of(&reasons), None)
            }
            "hangup_on_voicemail" => (dice.within(config.voicemail_ms), "voicemail", None),
            "left_voicemail" => (dice.within(config.voicemail_ms), "voicemail_message_left", None),
            "no-answer" | "busy" => (0.0, "undefined", None),
            "canceled" | "user-canceled" => (0.0, "user_canceled", None),
            "spam" => (0.0, "error", Some("Telephony - 608 - Rejected")),
            _ => {
                let errors = [
                    "Telephony - 503 - Service Unavailable",
                    "Telephony - 404 - Not Found",
                    "Telephony - 480 - Temporarily Unavailable",
                ];
                (0.0, "error", Some(dice.one_of(&errors)))
            }
        };
        Self {
            rings_at_ms,
            answered_at_ms,
            ends_at_ms: answered_at_ms + talk_ms,
            end: Ending { status, reason: reason.into(), error: error.map(Cow::from) },
            dialed: true,
        }
    }

    /// Accepted, and failed at once.
    pub fn failed(error: &'static str) -> Self {
        Self {
            rings_at_ms: 0.0,
            answered_at_ms: 0.0,
            ends_at_ms: 0.0,
            end: Ending { status: "failed".to_owned(), reason: "error".into(), error: Some(error.into()) },
            dialed: false,
        }
    }

    /// Accepted, and never dialed.
    pub fn stuck() -> Self {
        Self { rings_at_ms: f64::INFINITY, ends_at_ms: f64::INFINITY, ..Self::failed("never dialed") }
    }

    /// The provider's word for the call at `age_ms`.
    pub fn status_at(&self, age_ms: f64) -> &str {
        if age_ms >= self.ends_at_ms {
            &self.end.status
        } else if age_ms >= self.answered_at_ms && self.answered_at_ms >= self.rings_at_ms {
            "in-progress"
        } else if age_ms >= self.rings_at_ms {
            "ringing"
        } else {
            "queue"
        }
    }

    /// Seconds of conversation, rounded.
    pub fn duration_s(&self) -> u64 {
        ((self.ends_at_ms - self.answered_at_ms).max(0.0) / 1000.0).round() as u64
    }
}

fn pick(config: &ScriptConfig, dice: &mut Dice) -> String {
    let total: u64 = config.outcomes.values().map(|&weight| u64::from(weight)).sum();
    let mut left = dice.below(total.max(1));
    for (status, &weight) in &config.outcomes {
        match left.checked_sub(u64::from(weight)) {
            Some(rest) => left = rest,
            None => return status.clone(),
        }
    }
    "failed".to_owned()
}

/// SplitMix64: small, and the same on every machine and in every version.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, ordinal: u64) -> Self {
        let mut dice = Self(seed);
        let mixed = dice.next() ^ ordinal.wrapping_mul(0xA076_1D64_78BD_642F);
        Self(mixed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 to `n` − 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// From 0 up to 1, which it never is.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn within(&mut self, span: Span) -> f64 {
        (span.min + self.below(span.max.saturating_sub(span.min) + 1)) as f64
    }

    fn one_of(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_ordinal_give_the_same_call() {
        let config = ScriptConfig::default();
        let draw = |seed, n| Script::draw(&config, seed, n, "+14155550123");
        assert_eq!(draw(1, 5), draw(1, 5));
        assert!((0..20).any(|n| draw(1, n) != draw(2, n)));
    }

    #[test]
    fn outcomes_come_in_their_weights() {
        let config = ScriptConfig::default();
        let drawn = (0..10_000).map(|n| Script::draw(&config, 7, n, "").end.status);
        let voicemail = drawn.filter(|status| status == "hangup_on_voicemail").count();
        assert!((7_700..8_300).contains(&voicemail), "{voicemail} of 10,000, with a weight of 80 %");
    }

    #[test]
    fn a_call_goes_through_its_stages_in_order() {
        let mut config = ScriptConfig::default();
        config.outcomes_by_phone.insert("+1".into(), "completed".into());
        let script = Script::draw(&config, 1, 1, "+1");
        let stages = [0.0, script.rings_at_ms, script.answered_at_ms, script.ends_at_ms];
        let seen: Vec<&str> = stages.iter().map(|&at| script.status_at(at)).collect();
        assert_eq!(seen, ["queue", "ringing", "in-progress", "completed"]);
        assert_eq!(Script::stuck().status_at(1e12), "queue");
        assert_eq!(Script::failed("x").status_at(0.0), "failed");
    }
}

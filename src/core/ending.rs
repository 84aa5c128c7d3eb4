//! How a call stands, from the provider's own words.

use super::states::Disposition;

/// Whether a call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Live,
    Ended(Disposition),
}

/// Reads a record's status, end reason and error message.
///
/// Not ended are `pending`, `queue`, `ringing`, `in-progress`, and also `registered` (known to the provider, not
/// dialed yet) and `paused`: neither says that the line is free, and a call that stays so is given up by
/// `calls.live_max`. A word never seen before ends the call (as `failed`) only where an end reason stands beside
/// it; without one it counts as going on, for freeing its place too early would break a concurrency limit.
pub fn progress(status: Option<&str>, end_reason: Option<&str>, error_message: Option<&str>) -> Progress {
    let status = status.unwrap_or_default().trim().to_ascii_lowercase().replace(['_', ' '], "-");
    let told = format!("{} {}", end_reason.unwrap_or_default(), error_message.unwrap_or_default());
    Progress::Ended(match status.as_str() {
        "pending" | "queue" | "queued" | "registered" | "initiated" | "ringing" | "in-progress"
        | "paused" => {
            return Progress::Live;
        }
        "completed" => Disposition::Answered,
        "no-answer" => Disposition::NoAnswer,
        "busy" => Disposition::Busy,
        "hangup-on-voicemail" | "left-voicemail" => Disposition::Voicemail,
        "spam" => Disposition::Rejected,
        "canceled" | "cancelled" | "user-canceled" | "user-cancelled" => Disposition::Canceled,
        "failed" => why_failed(&told),
        _ if ends(end_reason) => why_failed(&told),
        _ => return Progress::Live,
    })
}

/// `undefined` is what a record says before anything is known.
fn ends(end_reason: Option<&str>) -> bool {
    end_reason.is_some_and(|reason| !matches!(reason.trim(), "" | "undefined"))
}

fn why_failed(told: &str) -> Disposition {
    let told = told.to_ascii_lowercase();
    // SIP 608: an analytics engine rejected the call on the callee's behalf.
    let has_608 = told.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "608");
    if has_608 {
        Disposition::Rejected
    } else if ["invalid phone number", "invalid number", "unallocated"]
        .iter()
        .any(|words| told.contains(words))
    {
        Disposition::InvalidNumber
    } else {
        Disposition::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::Disposition::*;
    use super::Progress::{Ended, Live};
    use super::*;

    #[test]
    fn every_documented_status_is_read() {
        let table = [
            ("pending", Live),
            ("queue", Live),
            ("registered", Live),
            ("ringing", Live),
            ("in-progress", Live),
            ("paused", Live),
            ("completed", Ended(Answered)),
            ("no-answer", Ended(NoAnswer)),
            ("busy", Ended(Busy)),
            ("failed", Ended(Failed)),
            ("canceled", Ended(Canceled)),
            ("user-canceled", Ended(Canceled)),
            ("hangup_on_voicemail", Ended(Voicemail)),
            ("left_voicemail", Ended(Voicemail)),
            ("spam", Ended(Rejected)),
        ];
        for (status, expected) in table {
            assert_eq!(progress(Some(status), None, None), expected, "{status}");
            assert_eq!(progress(Some(&status.to_uppercase()), None, None), expected, "{status} in capitals");
        }
    }

    #[test]
    fn a_failure_is_told_apart_by_its_error() {
        let failed = |error| progress(Some("failed"), Some("error"), Some(error));
        assert_eq!(failed("Telephony - 400 - Invalid phone number"), Ended(InvalidNumber));
        assert_eq!(failed("SIP 608 Rejected"), Ended(Rejected));
        assert_eq!(failed("call 16085550123 failed"), Ended(Failed), "608 within a number is no code");
        assert_eq!(failed("429 Too Many Requests"), Ended(Failed));
    }

    #[test]
    fn an_unknown_word_ends_a_call_only_with_an_end_reason() {
        assert_eq!(progress(Some("teleported"), None, None), Live);
        assert_eq!(progress(Some("teleported"), Some("undefined"), None), Live);
        assert_eq!(progress(Some("teleported"), Some("human_hangup"), None), Ended(Failed));
        assert_eq!(progress(None, None, None), Live);
    }
}

//! Ids as segments of a path. Browsers and clients take `.` and `..` for steps of it, however they are encoded; so a `~`, which no id
//! has, may stand before an id, and stands before these two.

use std::borrow::Cow;

/// An id as it stands in paths that we make.
pub(super) fn of(id: &str) -> Cow<'_, str> {
    match id {
        "." | ".." => Cow::Owned(format!("~{id}")),
        _ => Cow::Borrowed(id),
    }
}

/// The id that a segment of a path names.
pub(super) fn id(segment: &str) -> &str {
    segment.strip_prefix('~').unwrap_or(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_reached_and_no_other_in_its_place() {
        for name in [".", "..", "...", ".a", "crm:2026-11.a_b-C9"] {
            let segment = of(name);
            assert_eq!(id(&segment), name);
            assert_eq!(id(&format!("~{name}")), name);
            assert!(segment != "." && segment != "..", "{segment}");
        }
        assert_eq!(of("..."), "...");
    }
}

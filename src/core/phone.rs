//! Phone numbers: E.164 as a type, parsed and judged by libphonenumber's metadata.

use std::fmt;
use std::sync::Arc;

/// A phone number in E.164, with its `+`. It has no `Display`: where a person's number must be written whole
/// (the provider's API, the database), the code says so with [`E164::as_str`]; everything else shows it masked.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct E164(Arc<str>);

impl E164 {
    /// Takes text that is E.164 already, such as one read back from the database: `+`, then 3 to 15 digits,
    /// the first not 0. Says nothing of validity; see [`parse`] for what a person wrote.
    pub fn from_canonical(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('+')?;
        let well_formed = (3..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        well_formed.then(|| Self(text.into()))
    }

    /// The number whole. Use it only where it must be.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last two digits, the rest hidden: enough to tell numbers of one log apart, not to ring anyone.
    pub fn masked(&self) -> String {
        let shown = self.0.len() - 2;
        format!("+{}{}", "*".repeat(shown - 1), &self.0[shown..])
    }
}

impl fmt::Debug for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_text_passes() {
        assert!(E164::from_canonical("+14155550123").is_some());
        for bad in ["14155550123", "+", "+1", "+0155", "+1415 5550123", "+1234567890123456"] {
            assert!(E164::from_canonical(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn debug_hides_all_but_two_digits() {
        let number = E164::from_canonical("+14155550123").unwrap();
        assert_eq!(format!("{number:?}"), "+*********23");
    }
}

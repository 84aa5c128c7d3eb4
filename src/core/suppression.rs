//! Whom nobody may call, and for whom that holds: do-not-call lists and opt-outs.

use std::borrow::Cow;

use super::ids::{Brand, CampaignId};
use super::phone::{E164, PhoneError};

/// For whom a suppression holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Whoever calls.
    Everywhere,
    Brand(Brand),
    Campaign(CampaignId),
}

const BRAND: &str = "brand:";
const CAMPAIGN: &str = "campaign:";

impl Scope {
    /// As the ledger keeps it.
    pub fn as_text(&self) -> Cow<'static, str> {
        match self {
            Scope::Everywhere => Cow::Borrowed(""),
            Scope::Brand(brand) => Cow::Owned(format!("{BRAND}{}", brand.as_str())),
            Scope::Campaign(campaign) => Cow::Owned(format!("{CAMPAIGN}{}", campaign.as_str())),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Scope::Everywhere);
        }
        if let Some(brand) = text.strip_prefix(BRAND) {
            return Brand::parse(brand).ok().map(Scope::Brand);
        }
        CampaignId::parse(text.strip_prefix(CAMPAIGN)?).ok().map(Scope::Campaign)
    }

    /// Whether calls of a campaign, in a brand's name, are meant.
    pub fn covers(&self, campaign: &CampaignId, brand: Option<&Brand>) -> bool {
        match self {
            Scope::Everywhere => true,
            Scope::Brand(of) => brand == Some(of),
            Scope::Campaign(of) => campaign == of,
        }
    }
}

/// How the numbers of a range begin: `+1900`, `+88`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(String);

/// Not a way a number can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be + and 1 to 15 digits, the first not 0, as in +1900")]
pub struct NoPrefix;

impl Prefix {
    /// Spaces and punctuation are left out.
    ///
    /// # Errors
    /// [`NoPrefix`].
    pub fn parse(text: &str) -> Result<Self, NoPrefix> {
        let kept: String = text.chars().filter(|c| !" .-()/".contains(*c)).collect();
        let digits = kept.strip_prefix('+').ok_or(NoPrefix)?;
        let well_formed = (1..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        if well_formed { Ok(Self(kept)) } else { Err(NoPrefix) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A phone of a list of those that must not be called. Read by its form alone: whether anybody has it doesn't matter, and
/// lists are long. `calling_code`: of the numbers that don't begin with a +.
///
/// # Errors
/// What is wrong with it.
pub fn listed_phone(text: &str, calling_code: Option<&str>) -> Result<E164, PhoneError> {
    let kept: String = text.chars().filter(|c| !" .-()/".contains(*c)).collect();
    let whole = match (kept.strip_prefix('+'), calling_code) {
        _ if kept.is_empty() => return Err(PhoneError::Empty),
        (Some(_), _) => kept,
        (None, Some(code)) => format!("+{code}{kept}"),
        (None, None) => return Err(PhoneError::National),
    };
    let digits = &whole[1..];
    match digits.len() {
        _ if !digits.bytes().all(|b| b.is_ascii_digit()) => Err(PhoneError::Character),
        ..DIGITS_MIN => Err(PhoneError::TooShort),
        DIGITS_MIN..=15 => E164::from_canonical(&whole).ok_or(PhoneError::CallingCode),
        _ => Err(PhoneError::TooLong),
    }
}

/// No subscriber's number, with its calling code, is shorter.
const DIGITS_MIN: usize = 7;

/// What is suppressed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Suppressed {
    Phone(E164),
    Prefix(Prefix),
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_kept() {
        let (acme, spring) = (Brand::parse("acme").unwrap(), CampaignId::parse("spring").unwrap());
        for scope in [Scope::Everywhere, Scope::Brand(acme.clone()), Scope::Campaign(spring.clone())] {
            assert_eq!(Scope::parse(&scope.as_text()), Some(scope));
        }
        assert_eq!(Scope::parse("acme"), None);
        assert!(Scope::Everywhere.covers(&spring, None));
        assert!(Scope::Brand(acme.clone()).covers(&spring, Some(&acme)));
        assert!(!Scope::Brand(acme.clone()).covers(&spring, None));
        assert!(Scope::Campaign(spring.clone()).covers(&spring, Some(&acme)));
        assert!(!Scope::Campaign(spring).covers(&CampaignId::parse("autumn").unwrap(), Some(&acme)));
    }

    #[test]
    fn a_listed_phone_is_read_by_its_form() {
        assert_eq!(listed_phone("+1 (415) 555-2671", None).unwrap().as_str(), "+14155552671");
        assert_eq!(listed_phone("415.555.2671", Some("1")).unwrap().as_str(), "+14155552671");
        assert_eq!(listed_phone("+44 20 7946 0000", Some("1")).unwrap().as_number(), 442_079_460_000);
        for (bad, why) in [
            ("", PhoneError::Empty),
            ("4155552671", PhoneError::National),
            ("+1415555x671", PhoneError::Character),
            ("+123456", PhoneError::TooShort),
            ("+1234567890123456", PhoneError::TooLong),
            ("+0123456789", PhoneError::CallingCode),
        ] {
            assert_eq!(listed_phone(bad, None).unwrap_err(), why, "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_international() {
        assert_eq!(Prefix::parse("+1 (900)").unwrap().as_str(), "+1900");
        for bad in ["1900", "+", "+0900", "+1900a", "+1234567890123456", ""] {
            assert_eq!(Prefix::parse(bad), Err(NoPrefix), "{bad}");
        }
    }
}

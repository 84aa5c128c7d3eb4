//! Whom nobody may call, and for whom that holds: do-not-call lists and opt-outs.

use std::borrow::Cow;

use super::ids::{Brand, CampaignId};
use super::phone::{self, E164, PhoneCheck, PhoneError};

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

/// A phone of a list of those that must not be called, in the form in which jobs have it: without a trunk prefix such as
/// the 0 of +44 (0)20. Whether anybody has it doesn't matter, as long as it could be dialed. `calling_code`: of the
/// numbers that don't begin with a +, which are national then.
///
/// # Errors
/// What is wrong with it.
pub fn listed_phone(text: &str, calling_code: Option<&str>) -> Result<E164, PhoneError> {
    let text = text.trim();
    let whole = match (text.strip_prefix('+'), calling_code) {
        _ if text.is_empty() => return Err(PhoneError::Empty),
        (Some(_), _) => Cow::Borrowed(text),
        (None, Some(code)) => Cow::Owned(format!("+{code}{text}")),
        (None, None) => return Err(PhoneError::National),
    };
    match plain_nanp(&whole) {
        Some(phone) => Ok(phone),
        None => phone::parse(&whole, PhoneCheck::Possible).map(|phone| phone.number),
    }
}

/// North American numbers that are written as they are kept, without asking what the numbers of each country look like:
/// lists have millions.
fn plain_nanp(text: &str) -> Option<E164> {
    let national = text.strip_prefix("+1")?.as_bytes();
    let is_plain =
        national.len() == 10 && matches!(national[0], b'2'..=b'9') && national.iter().all(u8::is_ascii_digit);
    is_plain.then(|| E164::from_canonical(text)).flatten()
}

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
    fn a_listed_phone_is_kept_as_jobs_have_it() {
        assert_eq!(listed_phone("+1 (415) 555-2671", None).unwrap().as_str(), "+14155552671");
        assert_eq!(listed_phone("415.555.2671", Some("1")).unwrap().as_str(), "+14155552671");
        for (text, code, kept) in [
            ("+44 20 7946 0000", "1", "+442079460000"),
            ("+44 (0)20 7946 0000", "1", "+442079460000"),
            ("020 7946 0000", "44", "+442079460000"),
            ("030 123456", "49", "+4930123456"),
            ("14155552671", "1", "+14155552671"),
            ("+1 1 415 555 2671", "1", "+14155552671"),
        ] {
            let listed = listed_phone(text, Some(code)).unwrap();
            assert_eq!(listed.as_str(), kept, "{text}");
            // What a publisher may send for the same phone.
            assert_eq!(phone::parse(kept, PhoneCheck::Possible).unwrap().number, listed, "{text}");
        }
        for (bad, why) in [
            ("", PhoneError::Empty),
            ("4155552671", PhoneError::National),
            ("+1415555?671", PhoneError::Character),
            ("+14155552671x5", PhoneError::Extension),
            ("+123456", PhoneError::TooShort),
            ("+1234567890123456", PhoneError::TooLong),
            ("+0123456789", PhoneError::CallingCode),
        ] {
            assert_eq!(listed_phone(bad, None).unwrap_err(), why, "{bad}");
        }
    }

    proptest::proptest! {
        /// The short way is no other way.
        #[test]
        fn a_plain_number_is_what_libphonenumber_makes_of_it(national in "[2-9][0-9]{9}") {
            let text = format!("+1{national}");
            let plain = plain_nanp(&text).unwrap();
            proptest::prop_assert_eq!(plain, phone::parse(&text, PhoneCheck::Possible).unwrap().number);
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

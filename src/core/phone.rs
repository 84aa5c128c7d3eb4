//! Phone numbers: E.164 as a type, parsed and judged by libphonenumber's metadata.

use std::fmt;
use std::hash::{Hash, Hasher};

use chrono_tz::Tz;
use rlibphonenumber::{
    ExtractNumberError, NotANumberError, NumberLengthType, PHONE_NUMBER_UTIL as LIB, ParseError, PhoneNumber,
    PhoneNumberFormat, PhoneNumberType, ValidationError,
};

use super::place::{AreaCode, Country, Place, Region, ascii};
use super::zones::{state_of_digits, zones_of_digits};

/// A phone number in E.164, with its `+`. It has no `Display`: where a person's number must be written whole
/// (the provider's API, the database), the code says so with [`E164::as_str`]; everything else shows it masked.
///
/// Its text fits where a pointer to it would stand: pools, rankings and books of ten thousand numbers are walked and hashed
/// without following one. Filled up with zeroes, which stand before every digit, it is ordered as its text is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct E164([u8; 16]);

impl Hash for E164 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.0));
    }
}

impl E164 {
    /// Takes text that is E.164 already, such as one read back from the database: `+`, then 3 to 15 digits,
    /// the first not 0. Says nothing of validity; see [`parse`] for what a person wrote.
    pub fn from_canonical(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('+')?;
        let well_formed = (3..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        well_formed.then(|| {
            let mut filled = [0; 16];
            filled.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
            Self(filled)
        })
    }

    /// The number whole. Use it only where it must be.
    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }

    /// The number as a number, for lists of millions: 15 digits fit.
    pub fn as_number(&self) -> i64 {
        self.digits().bytes().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
    }

    fn digits(&self) -> &str {
        &self.as_str()[1..]
    }

    /// The last two digits, the rest hidden: enough to tell numbers of one log apart, not to ring anyone.
    pub fn masked(&self) -> String {
        let text = self.as_str();
        let shown = text.len() - 2;
        format!("+{}{}", "*".repeat(shown - 1), &text[shown..])
    }
}

impl fmt::Debug for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// E.164 whole in JSON: for the database and the provider, not for logs.
pub mod whole {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::E164;

    pub fn serialize<S: Serializer>(number: &E164, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(number.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<E164, D::Error> {
        let text = String::deserialize(from)?;
        E164::from_canonical(&text).ok_or_else(|| D::Error::custom("not a number in E.164"))
    }
}

/// As [`whole`], a list of them.
pub mod whole_list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::E164;

    #[derive(Serialize, Deserialize)]
    struct Whole(#[serde(with = "super::whole")] E164);

    pub fn serialize<S: Serializer>(numbers: &[E164], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(numbers.iter().map(E164::as_str))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<E164>, D::Error> {
        Ok(Vec::<Whole>::deserialize(from)?.into_iter().map(|Whole(number)| number).collect())
    }
}

/// How strictly a number is judged (`intake.phone_check`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhoneCheck {
    /// By length and by the ranges in use.
    Valid,
    /// By length alone.
    Possible,
}

/// Why a text is not a number to dial. Says nothing of the number itself: it may be a person's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PhoneError {
    #[error("is empty")]
    Empty,
    #[error(
        "must be international, starting with + and the country's calling code; a national number isn't guessed"
    )]
    National,
    #[error("has an extension; only numbers that can be dialed as they stand are taken")]
    Extension,
    #[error("has a character that is neither a digit nor punctuation (space . - ( ) /)")]
    Character,
    #[error("starts with a calling code that no country has")]
    CallingCode,
    #[error("is too short for its country")]
    TooShort,
    #[error("is too long for its country")]
    TooLong,
    #[error("has a length that its country doesn't use")]
    Length,
    #[error("is in no range that its country uses")]
    NotInUse,
}

/// A number as parsed, with what its digits tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phone {
    pub number: E164,
    pub place: Place,
    pub kind: Kind,
}

impl Phone {
    /// The country a call to it is counted under; none, and so refused by every allow-list, for numbers that cost the
    /// caller more than a call or belong to no country.
    pub fn destination(&self) -> Option<Country> {
        self.place.country.filter(|_| self.kind == Kind::Ordinary)
    }
}

/// What a call to a number costs its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ordinary,
    /// Premium rate, shared cost, or a service that takes calls for somebody else: pagers, mailboxes, numbers for a
    /// person wherever they are.
    Costly,
}

/// Reads an international number as a person or program writes it: `+1 (415) 555-0123`.
pub fn parse(text: &str, check: PhoneCheck) -> Result<Phone, PhoneError> {
    let text = text.trim();
    check_characters(text)?;
    let number = LIB.parse(text, None).map_err(parse_error)?;
    match LIB.is_possible_number_with_reason(&number) {
        Ok(NumberLengthType::IsPossible) => {}
        // It lacks its area code.
        Ok(NumberLengthType::IsPossibleLocalOnly) => return Err(PhoneError::TooShort),
        Err(error) => return Err(length_error(error)),
    }
    if check == PhoneCheck::Valid && !LIB.is_valid_number(&number) {
        return Err(PhoneError::NotInUse);
    }
    let e164 =
        E164::from_canonical(&LIB.format(&number, PhoneNumberFormat::E164)).ok_or(PhoneError::Length)?;
    if !stands_for_itself(&e164, &number) {
        return Err(PhoneError::NotInUse);
    }
    Ok(describe(e164, &number))
}

/// Each reading takes one trunk prefix off: what was written with two (+49 00 9608860) would be another number when it is read back.
fn stands_for_itself(e164: &E164, number: &PhoneNumber) -> bool {
    let national = e164.digits().get(number.country_code.to_string().len()..).unwrap_or("");
    // Nearly all numbers have none, and reading takes long.
    !national.starts_with('0') || LIB.parse(e164.as_str(), None).is_ok_and(|again| again == *number)
}

/// What the digits of a number tell. Nothing is known of one that libphonenumber can't read.
pub fn place_of(number: &E164) -> Place {
    match LIB.parse(number.as_str(), None) {
        Ok(parsed) => describe(number.clone(), &parsed).place,
        Err(_) => Place::default(),
    }
}

fn describe(number: E164, parsed: &PhoneNumber) -> Phone {
    let country =
        LIB.get_region_for_number(parsed).and_then(|r| Country::try_from((r as u16).to_be_bytes()).ok());
    let kind = match LIB.get_number_type(parsed) {
        PhoneNumberType::PremiumRate
        | PhoneNumberType::SharedCost
        | PhoneNumberType::PersonalNumber
        | PhoneNumberType::Pager
        | PhoneNumberType::VoiceMail => Kind::Costly,
        _ => Kind::Ordinary,
    };
    let area = match LIB.get_length_of_geographical_area_code(parsed) {
        0 => None,
        length => {
            let calling_code_digits = parsed.country_code.to_string().len();
            number.as_str().get(..1 + calling_code_digits + length).and_then(|p| p.parse::<AreaCode>().ok())
        }
    };
    let region = country.map(|country| state_of(&number, country).unwrap_or(country.into()));
    Phone { number, place: Place { country, region, area }, kind }
}

/// The state or province, of numbers whose calling code says no more than North America.
fn state_of(number: &E164, country: Country) -> Option<Region> {
    state_of_digits(number.digits()).filter(|state| state.country() == country)
}

/// The time zones in which the callee may be; empty: unknown. A number that isn't tied to a place has those of its
/// country's calling code.
pub fn zones_of(number: &E164) -> &'static [Tz] {
    let Ok(parsed) = LIB.parse(number.as_str(), None) else { return &[] };
    if LIB.get_number_type(&parsed) == PhoneNumberType::Unknown {
        &[]
    } else if LIB.is_number_geographical(&parsed) {
        zones_of_digits(number.digits())
    } else {
        zones_of_digits(&parsed.country_code.to_string())
    }
}

/// Only `+`, digits and punctuation: no letters (a vanity number is not what the caller ID list will hold), no
/// extension, no `tel:`.
fn check_characters(text: &str) -> Result<(), PhoneError> {
    if text.is_empty() {
        return Err(PhoneError::Empty);
    }
    let lower = text.to_ascii_lowercase();
    if ["ext", "x", "#", ";", ","].iter().any(|mark| lower.contains(mark)) {
        return Err(PhoneError::Extension);
    }
    let Some(rest) = text.strip_prefix('+') else { return Err(PhoneError::National) };
    let allowed = |c: char| {
        c.is_ascii_digit()
            || matches!(c, ' ' | '.' | '-' | '(' | ')' | '/' | '\u{a0}' | '\u{2010}'..='\u{2015}')
    };
    if rest.chars().all(allowed) { Ok(()) } else { Err(PhoneError::Character) }
}

fn parse_error(error: ParseError) -> PhoneError {
    match error {
        ParseError::InvalidCountryCode => PhoneError::CallingCode,
        ParseError::TooShortAfterIdd | ParseError::TooShortNsn => PhoneError::TooShort,
        ParseError::TooLongNsn => PhoneError::TooLong,
        ParseError::NotANumber(NotANumberError::FailedToExtractNumber(
            ExtractNumberError::NoValidStartCharacter,
        )) => PhoneError::Empty,
        ParseError::NotANumber(_) => PhoneError::TooShort,
    }
}

fn length_error(error: ValidationError) -> PhoneError {
    match error {
        ValidationError::InvalidCountryCode => PhoneError::CallingCode,
        ValidationError::TooShort => PhoneError::TooShort,
        ValidationError::TooLong => PhoneError::TooLong,
        ValidationError::InvalidLength => PhoneError::Length,
    }
}

#[cfg(test)]
#[path = "phone_tests.rs"]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests;

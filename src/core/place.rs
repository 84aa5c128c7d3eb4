//! Where a number lives: country, state or province, area code. All are small values that copy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// ISO 3166-1 alpha-2, as of 2026, and what libphonenumber knows besides: AC and TA (reserved there for Ascension and
/// Tristan da Cunha) and XK (Kosovo).
const COUNTRIES: &str = "AC AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO \
    BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH \
    ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL \
    IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME \
    MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH \
    PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TA \
    TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW";

/// Why a text is not a country, region or area code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("{0:?} is not an ISO 3166-1 country code; write two capital letters, such as US or GB")]
    Country(String),
    #[error("{0:?} is not a region; write ISO 3166-2, such as US-CA, or a country, such as GB")]
    Region(String),
    #[error("{0:?} is not an area code with its country's calling code, such as +1415")]
    Area(String),
}

/// A country by its ISO 3166-1 alpha-2 code. `+1` is split: `US`, `CA`, `JM`, …
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country([u8; 2]);

impl Country {
    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }
}

impl FromStr for Country {
    type Err = PlaceError;
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        match <[u8; 2]>::try_from(text.as_bytes()) {
            Ok(code) if is_country(code) => Ok(Self(code)),
            _ => Err(PlaceError::Country(shortened(text))),
        }
    }
}

impl TryFrom<[u8; 2]> for Country {
    type Error = PlaceError;
    fn try_from(code: [u8; 2]) -> Result<Self, PlaceError> {
        std::str::from_utf8(&code).unwrap_or_default().parse()
    }
}

/// A country or a part of one: ISO 3166-2 (`US-CA`) or ISO 3166-1 (`GB`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region {
    /// `US-CA`, padded with zeroes.
    text: [u8; 6],
}

impl Region {
    pub fn as_str(&self) -> &str {
        ascii(&self.text)
    }

    pub fn country(&self) -> Country {
        Country([self.text[0], self.text[1]])
    }

    /// Whether it names a part of a country.
    pub fn is_part(&self) -> bool {
        self.text[2] != 0
    }

    /// `US` covers `US` and every `US-*`; a part covers only itself.
    pub fn covers(&self, other: &Region) -> bool {
        self == other || (!self.is_part() && self.country() == other.country())
    }
}

impl From<Country> for Region {
    fn from(country: Country) -> Self {
        let [a, b] = country.0;
        Self { text: [a, b, 0, 0, 0, 0] }
    }
}

impl FromStr for Region {
    type Err = PlaceError;

    /// Its shape and its country are checked; ISO's list of parts is not carried.
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let wrong = || PlaceError::Region(shortened(text));
        let (country, part) = match text.split_once('-') {
            Some((country, part)) => (country, Some(part)),
            None => (text, None),
        };
        let country: Country = country.parse().map_err(|_| wrong())?;
        let mut region = Region::from(country);
        if let Some(part) = part {
            let well_formed = (1..=3).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
            if !well_formed {
                return Err(wrong());
            }
            region.text[2] = b'-';
            region.text[3..3 + part.len()].copy_from_slice(part.as_bytes());
        }
        Ok(region)
    }
}

/// A geographical area code with its calling code, so that it stands alone: the digits of `+1415` or `+4420`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AreaCode(u64);

impl FromStr for AreaCode {
    type Err = PlaceError;
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let wrong = || PlaceError::Area(shortened(text));
        let digits = text.strip_prefix('+').ok_or_else(wrong)?;
        let well_formed = (2..=14).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        if !well_formed {
            return Err(wrong());
        }
        digits.parse().map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for AreaCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}", self.0)
    }
}

impl fmt::Debug for AreaCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a number's digits tell of where it lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// None: it belongs to no country (satellite, international freephone, …).
    pub country: Option<Country>,
    /// The state or province for numbers of the US and Canada where known, else the country.
    pub region: Option<Region>,
    /// None: not tied to a place.
    pub area: Option<AreaCode>,
}

macro_rules! text_value {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = PlaceError;
            fn try_from(text: String) -> Result<Self, PlaceError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
text_value!(Country);
text_value!(Region);
text_value!(AreaCode);

macro_rules! shown_as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
shown_as_text!(Country);
shown_as_text!(Region);

fn is_country(code: [u8; 2]) -> bool {
    COUNTRIES.as_bytes().split(|b| !b.is_ascii_uppercase()).any(|known| known == code)
}

/// The text of a field that only ever holds ASCII, without its padding.
pub(super) fn ascii(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// What an error message shows of a text of any length.
fn shortened(text: &str) -> String {
    text.chars().take(20).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn region(text: &str) -> Region {
        text.parse().unwrap()
    }

    #[test]
    fn a_country_covers_its_parts_and_a_part_only_itself() {
        assert!(region("US").covers(&region("US-CA")));
        assert!(region("US").covers(&region("US")));
        assert!(region("US-CA").covers(&region("US-CA")));
        assert!(!region("US-CA").covers(&region("US")));
        assert!(!region("US-CA").covers(&region("US-NY")));
        assert!(!region("CA").covers(&region("US-CA")));
    }

    #[test]
    fn regions_have_the_iso_shape_and_a_real_country() {
        for good in ["US", "US-CA", "GB-ENG", "FR-75", "FR-2A", "XK", "CA-ON"] {
            assert_eq!(region(good).as_str(), good);
        }
        for bad in [
            "", "U", "us", "USA", "US-", "US-CALI", "us-ca", "US-ca", "ZZ", "ZZ-AA", "EU", "US_CA", "US-C-A",
            "ÄÖ",
        ] {
            assert!(bad.parse::<Region>().is_err(), "{bad}");
        }
        assert_eq!(COUNTRIES.split_whitespace().count(), 249 + 3);
    }

    #[test]
    fn an_area_code_stands_with_its_calling_code() {
        assert_eq!("+1415".parse::<AreaCode>().unwrap().to_string(), "+1415");
        for bad in ["1415", "+", "+0415", "+14a5", "+123456789012345"] {
            assert!(bad.parse::<AreaCode>().is_err(), "{bad}");
        }
    }
}

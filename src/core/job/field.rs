//! How each kind of field is read from JSON. A fault says what is wrong and the mend, never the value.

use chrono::{DateTime, Datelike, SubsecRound, Utc};
use serde_json::{Map, Value};

use super::json::{has_nul, quoted};
use crate::core::call::ATTEMPT_VARIABLE;
use crate::core::ids::{Brand, CampaignId, IdError, JobId, ModelId};
use crate::core::phone::E164;
use crate::core::place::Region;

/// A kind of field.
pub trait Field: Sized {
    const REQUIRED: bool = true;

    fn read(value: Value) -> Result<Self, String>;

    /// What an absent field is; `None` where it is required.
    fn absent() -> Option<Self> {
        None
    }
}

impl<T: Field> Field for Option<T> {
    const REQUIRED: bool = false;

    fn read(value: Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

fn wants(what: &str, value: &Value) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("must be {what}, not {kind}")
}

impl Field for String {
    fn read(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(wants("a string", &other)),
        }
    }
}

macro_rules! id_field {
    ($($id:ty),+) => {$(
        impl Field for $id {
            fn read(value: Value) -> Result<Self, String> {
                <$id>::parse(&String::read(value)?).map_err(|e: IdError| e.to_string())
            }
        }
    )+};
}
id_field!(JobId, CampaignId, ModelId, Brand);

impl Field for E164 {
    fn read(value: Value) -> Result<Self, String> {
        E164::from_canonical(&String::read(value)?)
            .ok_or_else(|| "must be E.164: + and 3 to 15 digits, without punctuation".to_owned())
    }
}

impl Field for Region {
    fn read(value: Value) -> Result<Self, String> {
        String::read(value)?
            .parse()
            .map_err(|_| "must be an ISO 3166-2 or 3166-1 code, such as \"US-CA\" or \"GB\"".to_owned())
    }
}

/// The callee's name: it has no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    pub const CHARS_MAX: usize = 200;

    /// 1 to 200 characters, not all of them white space.
    pub fn parse(text: String) -> Result<Self, String> {
        match text.chars().count() {
            _ if text.trim().is_empty() => Err("must not be empty".to_owned()),
            n if n > Self::CHARS_MAX => {
                Err(format!("is {n} characters long, at most {} are allowed", Self::CHARS_MAX))
            }
            _ => Ok(Self(text)),
        }
    }

    /// The name whole. Use it only where it must be.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Field for Name {
    fn read(value: Value) -> Result<Self, String> {
        Self::parse(String::read(value)?)
    }
}

/// 0 to 9, higher first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    pub fn new(priority: u8) -> Option<Self> {
        (priority <= 9).then_some(Self(priority))
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(4)
    }
}

impl Field for Priority {
    fn read(value: Value) -> Result<Self, String> {
        let priority = value.as_u64().and_then(|n| u8::try_from(n).ok()).and_then(Self::new);
        priority.ok_or_else(|| "must be a whole number from 0 to 9".to_owned())
    }
}

impl Field for DateTime<Utc> {
    fn read(value: Value) -> Result<Self, String> {
        let date = DateTime::parse_from_rfc3339(&String::read(value)?).map_err(|_| {
            "must be a date of RFC 3339 with an offset, such as \"2026-11-30T09:00:00-05:00\"".to_owned()
        })?;
        let date = date.to_utc();
        if !(1..=9999).contains(&date.year()) {
            // Its offset has moved it where RFC 3339 has no dates: no event could tell it.
            return Err("must be within the years 1 to 9999 in UTC".to_owned());
        }
        // The database keeps microseconds; the digest must not depend on what it drops.
        Ok(date.trunc_subsecs(6))
    }
}

/// A time zone of the IANA database.
impl Field for chrono_tz::Tz {
    fn read(value: Value) -> Result<Self, String> {
        String::read(value)?
            .parse()
            .map_err(|_| "must be an IANA time zone, such as \"America/New_York\"".to_owned())
    }
}

/// Keys and values, whichever of the two forms they came in. Sorted by key: neither form's order means anything.
#[derive(Default)]
pub struct Variables(pub Vec<(String, String)>);

impl Field for Variables {
    fn read(value: Value) -> Result<Self, String> {
        let pairs: Vec<(String, String)> = match value {
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| {
                    let text = String::read(value).map_err(|e| format!("{}: {e}", quoted(&key)))?;
                    Ok((key, text))
                })
                .collect::<Result<_, String>>()?,
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(i, item)| read_pair(item).map_err(|e| format!("[{i}]: {e}")))
                .collect::<Result<_, String>>()?,
            other => return Err(wants("an object of strings, or an array of {key, value}", &other)),
        };
        check_keys(pairs).map(Self)
    }
}

fn check_keys(mut pairs: Vec<(String, String)>) -> Result<Vec<(String, String)>, String> {
    pairs.sort();
    if pairs.iter().any(|(key, _)| key.is_empty()) {
        return Err("has an empty key".to_owned());
    }
    if pairs.iter().any(|(key, _)| key == ATTEMPT_VARIABLE) {
        return Err(format!("must not use the key {ATTEMPT_VARIABLE:?}, which is outdial's own"));
    }
    match pairs.windows(2).find(|two| two[0].0 == two[1].0) {
        Some(two) => Err(format!("has the key {} twice", quoted(&two[0].0))),
        None => Ok(pairs),
    }
}

fn read_pair(item: Value) -> Result<(String, String), String> {
    let Value::Object(mut pair) = item else { return Err(wants("{key, value}", &item)) };
    let mut text = |name: &str| match pair.remove(name) {
        Some(value) => String::read(value).map_err(|e| format!("{name} {e}")),
        None => Err(format!("has no {name}")),
    };
    Ok((text("key")?, text("value")?))
}

/// That the callee agreed: where and when.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Consent {
    pub source: String,
    pub obtained_at: DateTime<Utc>,
}

impl Field for Consent {
    fn read(value: Value) -> Result<Self, String> {
        let Value::Object(mut map) = value else { return Err(wants("{source, obtained_at}", &value)) };
        let mut part = |name: &str| match map.remove(name) {
            None | Some(Value::Null) => Err(format!("has no {name}")),
            Some(value) => Ok(value),
        };
        let source = String::read(part("source")?).map_err(|e| format!("source {e}"))?;
        if source.trim().is_empty() {
            return Err("source must not be empty".to_owned());
        }
        let obtained_at = Field::read(part("obtained_at")?).map_err(|e| format!("obtained_at {e}"))?;
        Ok(Self { source, obtained_at })
    }
}

/// The publisher's own object, echoed in events and records. `Debug` hides it: nobody knows what is in it.
#[derive(Clone, PartialEq)]
pub struct Metadata(Map<String, Value>);

impl Metadata {
    pub const BYTES_MAX: usize = 8 * 1024;

    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Compact, keys sorted: equal content has equal text.
    pub fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{{{} keys}}", self.0.len())
    }
}

impl Field for Metadata {
    fn read(value: Value) -> Result<Self, String> {
        let Value::Object(map) = value else { return Err(wants("an object", &value)) };
        let metadata = Self(map);
        match metadata.to_json().len() {
            n if n > Self::BYTES_MAX => {
                Err(format!("takes {n} bytes as compact JSON, at most {} are allowed", Self::BYTES_MAX))
            }
            _ => Ok(metadata),
        }
    }
}

/// Reads one field out of the message; takes it away, so that what is left is unknown.
pub fn take<T: Field>(message: &mut Map<String, Value>, name: &str) -> Result<T, String> {
    match message.remove(name) {
        None | Some(Value::Null) => T::absent().ok_or_else(|| format!("{name} is missing")),
        Some(value) if has_nul(&value) => Err(format!(
            "{name} has U+0000 or half a surrogate pair in it, which no text may hold; leave it out"
        )),
        Some(value) => T::read(value).map_err(|e| format!("{name} {e}")),
    }
}

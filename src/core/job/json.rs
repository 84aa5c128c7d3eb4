//! JSON read strictly: a key given twice is refused rather than guessed at, and nesting is bounded.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The deepest nesting that is read.
const DEPTH_MAX: u8 = 32;

/// Reads one JSON document. The error tells the place and what was expected there, never what stood there.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    let body = std::str::from_utf8(body).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
    let body = without_lone_surrogates(body);
    let mut reader = serde_json::Deserializer::from_str(&body);
    let value = Strict { depth_left: DEPTH_MAX }.deserialize(&mut reader).map_err(|e| e.to_string())?;
    reader.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// Half a surrogate pair is well-formed JSON but no character. It becomes U+0000, which is refused in the same
/// words, so that the field can be named; the parser would only call the whole body malformed.
fn without_lone_surrogates(body: &str) -> Cow<'_, str> {
    let mut mended = Cow::Borrowed(body);
    let mut at = 0;
    while let Some(found) = body.as_bytes()[at..].iter().position(|&b| b == b'\\') {
        at += found;
        at += match (escaped_unit(body, at), escaped_unit(body, at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                mended.to_mut().replace_range(at..at + 6, "\\u0000");
                6
            }
            _ => 2,
        };
        if at >= body.len() {
            break;
        }
    }
    mended
}

/// The UTF-16 unit of the escape `\uXXXX` at this byte, if there is one.
fn escaped_unit(body: &str, at: usize) -> Option<u16> {
    let digits = body.get(at..at + 6)?.strip_prefix("\\u")?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[derive(Clone, Copy)]
struct Strict {
    depth_left: u8,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth_left = self
            .depth_left
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")))?;
        Ok(Self { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // 5.0 is the number 5: so that equal content has one form.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() <= EXACT {
            return Ok(Value::Number((value as i64).into()));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<Key>()? {
            if map.contains_key(&key.0) {
                return Err(de::Error::custom(format_args!("the key {} is given twice", quoted(&key.0))));
            }
            map.insert(key.0, entries.next_value_seed(inner)?);
        }
        Ok(Value::Object(map))
    }
}

#[derive(Deserialize)]
struct Key(String);

/// A publisher's key, fit for a log line and a header: short, and with its digits hidden where it may be a phone.
pub fn quoted(key: &str) -> String {
    const CHARS_MAX: usize = 40;
    const DIGITS_MAX: usize = 6;
    let hide = key.chars().filter(char::is_ascii_digit).count() > DIGITS_MAX;
    let shown: String =
        key.chars().take(CHARS_MAX).map(|c| if hide && c.is_ascii_digit() { '#' } else { c }).collect();
    let more = if key.chars().nth(CHARS_MAX).is_some() { "…" } else { "" };
    format!("{shown:?}{more}")
}

/// Whether U+0000 stands anywhere in it (half a surrogate pair has become one).
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

//! What a webhook of the provider is worth: a hint that something is to be learned of a call.
//!
//! Its signature covers the call's id and nothing else, and may be sent again by whoever has seen it: so of the body only
//! the id is read, and what is recorded is what the provider then tells of that call.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use sha2::Sha256;

use super::ids::CallId;

/// Spellings of the header that carries the signature, as the provider's documents and gateways have them; names of
/// headers have no case.
pub const SIGNATURE_HEADERS: &[&str] =
    &["synthflow-signature", "x-synthflow-signature", "http-synthflow-signature", "http_synthflow_signature"];

/// Of HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;

/// The call that a webhook is about; `None`: it doesn't say, or not in a readable form.
///
/// Anybody may send one, and it is read before its signature can be judged: so nothing but ids is taken into memory,
/// where a body of 2 MiB would become a tree of many times its size.
pub fn call_id_of(body: &[u8]) -> Option<CallId> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let Told { call_id, of_call, .. } = reader.deserialize_any(Part::Body).ok()?;
    reader.end().ok()?;
    of_call.or(call_id)?
}

/// What one part of a body tells. Of a member that is there and no id, `Some(None)`.
#[derive(Debug, Default)]
struct Told {
    /// The part is an id itself.
    is: Option<CallId>,
    /// Its member `call_id`.
    call_id: Option<Option<CallId>>,
    /// The same of its member `call`.
    of_call: Option<Option<CallId>>,
}

/// A part of a body that is looked into; all others are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Body,
    Call,
    Id,
}

impl Part {
    fn id<E>(self, text: &str) -> Result<Told, E> {
        let is = CallId::parse(text).ok().filter(|_| self == Part::Id);
        Ok(Told { is, ..Told::default() })
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Told;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Told, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Told;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Told, E> {
        Ok(Told::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Told, E> {
        Ok(Told::default())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Told, E> {
        self.id(&number.to_string())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Told, E> {
        self.id(&number.to_string())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Told, E> {
        self.id(&Number::from_f64(number).map(|number| number.to_string()).unwrap_or_default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Told, E> {
        self.id(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Told, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Told::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Told, A::Error> {
        let mut told = Told::default();
        while let Some(key) = members.next_key::<Cow<'de, str>>()? {
            match (self, key.as_ref()) {
                (Part::Body | Part::Call, "call_id") => {
                    told.call_id = Some(members.next_value_seed(Part::Id)?.is);
                }
                (Part::Body, "call") => told.of_call = members.next_value_seed(Part::Call)?.call_id,
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(told)
    }
}

/// Whether it has the form of a signature: what hasn't needn't be read further.
pub fn may_be_signature(signature: &str) -> bool {
    STANDARD.decode(signature.trim()).is_ok_and(|bytes| bytes.len() == SIGNATURE_BYTES)
}

/// Whether the signature is the call id's: base64 of its HMAC-SHA256. In constant time.
pub fn is_signed(secret: &[u8], call_id: &CallId, signature: &str) -> bool {
    let Ok(signature) = STANDARD.decode(signature.trim()) else { return false };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return false };
    mac.update(call_id.as_str().as_bytes());
    mac.verify_slice(&signature).is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    /// By `printf call-1 | openssl dgst -sha256 -hmac secret -binary | base64`.
    const SIGNATURE: &str = "PoJ9GoYyOm85vRgIFRR1yjlxKzoXi5b4bC09LaLBOUg=";

    fn call(id: &str) -> CallId {
        CallId::parse(id).unwrap()
    }

    #[test]
    fn a_signature_is_of_this_call_with_this_secret() {
        assert!(is_signed(b"secret", &call("call-1"), SIGNATURE));
        assert!(is_signed(b"secret", &call("call-1"), &format!(" {SIGNATURE}\n")));
        assert!(!is_signed(b"Secret", &call("call-1"), SIGNATURE));
        assert!(!is_signed(b"secret", &call("call-2"), SIGNATURE));
        for wrong in ["", "AAAA", "not base64!", &SIGNATURE[4..]] {
            assert!(!is_signed(b"secret", &call("call-1"), wrong), "{wrong}");
            assert!(!may_be_signature(wrong), "{wrong}");
        }
        assert!(may_be_signature(SIGNATURE));
    }

    #[test]
    fn of_the_body_only_the_calls_id_is_read() {
        let id = |body: &str| call_id_of(body.as_bytes()).map(|id| id.to_string());
        assert_eq!(
            id(r#"{"status": "x", "call": {"call_id": "a", "status": 7}, "lead": null}"#),
            Some("a".into())
        );
        assert_eq!(id(r#"{"call_id": 12}"#), Some("12".into()));
        assert_eq!(id(r#"{"call_id": "b", "x": [{"call_id": "c"}], "call": 7}"#), Some("b".into()));
        // Of a member that comes twice the last counts.
        assert_eq!(id(r#"{"call": {"call_id": "a"}, "call": {"call_\u0069d": "b"}}"#), Some("b".into()));
        for nothing in [
            "",
            "{}",
            "[]",
            r#"{"call": {"call_id": ""}}"#,
            r#"{"call": {"call_id": {}}}"#,
            "{\"call",
            "{} {}",
            "\"a\"",
            r#"{"call": {"call_id": null}, "call_id": "b"}"#,
            r#"{"call_id": "b"} x"#,
            r#"{"call": {"call": {"call_id": "c"}}}"#,
        ] {
            assert_eq!(id(nothing), None, "{nothing}");
        }
    }
}

//! What a webhook of the provider is worth: a hint that something is to be learned of a call.
//!
//! Its signature covers the call's id and nothing else, and may be sent again by whoever has seen it: so of the body only
//! the id is read, and what is recorded is what the provider then tells of that call.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::ids::CallId;

/// Spellings of the header that carries the signature, as the provider's documents and gateways have them; names of
/// headers have no case.
pub const SIGNATURE_HEADERS: &[&str] =
    &["synthflow-signature", "x-synthflow-signature", "http-synthflow-signature", "http_synthflow_signature"];

/// Of HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;

/// The call that a webhook is about; `None`: it doesn't say, or not in a readable form.
pub fn call_id_of(body: &[u8]) -> Option<CallId> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let id = body.get("call").and_then(|call| call.get("call_id")).or_else(|| body.get("call_id"))?;
    match id {
        Value::String(id) => CallId::parse(id).ok(),
        Value::Number(id) => CallId::parse(&id.to_string()).ok(),
        _ => None,
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
        for nothing in
            ["", "{}", "[]", r#"{"call": {"call_id": ""}}"#, r#"{"call": {"call_id": {}}}"#, "{\"call"]
        {
            assert_eq!(id(nothing), None, "{nothing}");
        }
    }
}

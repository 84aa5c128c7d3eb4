//! Who is at the page: a token traded for a cookie, which tells until when and for what, and is signed with that token. Nothing is
//! kept: any worker with the same tokens knows it, and another token ends it.

use axum::http::{HeaderMap, header};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;

use crate::http::api::{Right, Tokens};

const COOKIE: &str = "outdial_session";
const LASTS: TimeDelta = TimeDelta::hours(12);

/// Somebody who has shown a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub right: Right,
    /// Stands in every form: another site's page can't know it.
    pub csrf: String,
}

impl Session {
    pub(super) fn controls(&self) -> bool {
        self.right == Right::Control
    }
}

/// The `Set-Cookie` of a session that begins now. `secure`: the browser came by https.
pub(super) fn cookie(tokens: &Tokens, right: Right, now: DateTime<Utc>, secure: bool) -> Option<String> {
    let until = (now + LASTS).timestamp();
    let said = format!("{}.{until}", right.as_str());
    let signature = sign(tokens, right, &said)?;
    let secure = if secure { "; Secure" } else { "" };
    let seconds = LASTS.num_seconds();
    Some(format!("{COOKIE}={said}.{signature}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"))
}

/// The `Set-Cookie` that ends one.
pub(super) fn no_cookie() -> String {
    format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
}

/// The session of a request, if it has one that is good.
pub(super) fn of(headers: &HeaderMap, tokens: &Tokens, now: DateTime<Utc>) -> Option<Session> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    // Another worker of this host may have set one of the same name.
    pairs.filter(|(name, _)| *name == COOKIE).find_map(|(_, value)| read(value, tokens, now))
}

fn read(value: &str, tokens: &Tokens, now: DateTime<Utc>) -> Option<Session> {
    let (said, signature) = value.rsplit_once('.')?;
    let (right, until) = said.split_once('.')?;
    let right = Right::parse(right)?;
    verify(tokens, right, said, signature)?;
    let until = DateTime::from_timestamp(until.parse().ok()?, 0)?;
    (now < until).then_some(())?;
    Some(Session { right, csrf: sign(tokens, right, &format!("csrf.{value}"))? })
}

fn mac(tokens: &Tokens, right: Right, text: &str) -> Option<Hmac<Sha256>> {
    let token = tokens.of(right)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(token.expose_secret().as_bytes()).ok()?;
    mac.update(b"outdial page\0");
    mac.update(text.as_bytes());
    Some(mac)
}

fn sign(tokens: &Tokens, right: Right, text: &str) -> Option<String> {
    Some(hex::encode(mac(tokens, right, text)?.finalize().into_bytes()))
}

/// In constant time.
fn verify(tokens: &Tokens, right: Right, text: &str, signature: &str) -> Option<()> {
    mac(tokens, right, text)?.verify_slice(&hex::decode(signature).ok()?).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use secrecy::SecretString;

    use super::*;

    fn tokens(control: &str) -> Tokens {
        let secret = |text: &str| Some(SecretString::from(text.to_owned()));
        Tokens { control: secret(control), read: secret("a-token-that-reads") }
    }

    fn sent(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let pair = cookie.split(';').next().unwrap();
        headers.insert(
            header::COOKIE,
            format!("other=1; outdial_session=read.1.00; {pair}; last=2").parse().unwrap(),
        );
        headers
    }

    #[test]
    fn a_cookie_is_good_for_its_time_its_right_and_its_token() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let ours = tokens("a-token-that-controls");
        let cookie = cookie(&ours, Right::Control, now, true).unwrap();
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        let session = of(&sent(&cookie), &ours, now).unwrap();
        assert!(session.controls() && session.csrf.len() == 64);
        assert_eq!(of(&sent(&cookie), &ours, now + LASTS), None);
        assert_eq!(of(&sent(&cookie), &tokens("another-token"), now), None);
        assert_eq!(of(&HeaderMap::new(), &ours, now), None);
        // A reader that says it may control, or for longer.
        let reads = super::cookie(&ours, Right::Read, now, false).unwrap();
        assert!(!of(&sent(&reads), &ours, now).unwrap().controls());
        assert_eq!(of(&sent(&reads.replacen("read", "control", 1)), &ours, now), None);
        assert_eq!(of(&sent(&cookie.replacen(".18", ".19", 1)), &ours, now), None);
    }
}

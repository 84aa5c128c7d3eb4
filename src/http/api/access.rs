//! Who may ask what, and how much of a request is read: a token first, then the body, then a turn.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::problem::Problem;
use super::{Api, Ledger};
use crate::http::reports::Reports;
use crate::http::segment;

pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
/// To the end of a body, and again for a turn.
pub(super) const READ_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Parts {
    api: Api,
    tokens: Tokens,
}

/// `OUTDIAL_API_TOKEN` and `OUTDIAL_API_READ_TOKEN`
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Tokens {
    pub control: Option<SecretString>,
    pub read: Option<SecretString>,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Right {
    Read,
    Control,
}

impl Right {
    pub(in crate::http) const fn as_str(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Control => "control",
        }
    }

    pub(in crate::http) fn parse(word: &str) -> Option<Self> {
        [Right::Read, Right::Control].into_iter().find(|right| right.as_str() == word)
    }
}

impl Tokens {
    pub(in crate::http) fn of(&self, right: Right) -> Option<&SecretString> {
        match right {
            Right::Read => self.read.as_ref(),
            Right::Control => self.control.as_ref(),
        }
    }

    pub(in crate::http) fn are_set(&self) -> bool {
        self.control.is_some() || self.read.is_some()
    }

    /// What somebody may who shows this.
    pub(in crate::http) fn allow(&self, given: &str) -> Option<Right> {
        // Digests, so that how long a comparison takes says nothing of the token.
        let digest = |text: &str| Sha256::digest(text.as_bytes());
        let is =
            |right: Right| self.of(right).is_some_and(|token| digest(given) == digest(token.expose_secret()));
        // Both are looked at, whichever it is.
        match (is(Right::Control), is(Right::Read)) {
            (true, _) => Some(Right::Control),
            (false, true) => Some(Right::Read),
            (false, false) => None,
        }
    }

    /// Whoever has no token may do nothing, also where none is set.
    fn right(&self, headers: &HeaderMap) -> Result<Right, Problem> {
        let refused = |why: &str| Problem::new(StatusCode::UNAUTHORIZED, why);
        if !self.are_set() {
            return Err(refused("no token is set: start the worker with OUTDIAL_API_TOKEN"));
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        let given = given
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| refused("send Authorization: Bearer with a token of the worker"))?;
        let why = "the bearer token must be that of OUTDIAL_API_TOKEN or OUTDIAL_API_READ_TOKEN";
        self.allow(given).ok_or_else(|| refused(why))
    }
}

impl Parts {
    pub(super) fn new(api: Api, tokens: Tokens) -> Self {
        Self { api, tokens }
    }

    fn admit(&self, needed: Right, headers: &HeaderMap) -> Result<(Ledger, Right), Problem> {
        let right = self.tokens.right(headers)?;
        if needed == Right::Control && right == Right::Read {
            let why = "this token only reads: controls need that of OUTDIAL_API_TOKEN";
            return Err(Problem::new(StatusCode::FORBIDDEN, why));
        }
        let starting = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the worker is starting");
        Ok((self.api.0.get().cloned().ok_or_else(starting)?, right))
    }
}

fn busy() -> Problem {
    let why = format!("nothing was done within {} s; try again", READ_MAX.as_secs());
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Somebody who may read.
pub(super) struct Reads {
    pub ledger: Ledger,
    /// Callees' numbers are shown whole to those who control, and masked to others.
    pub sees_phones: bool,
}

impl FromRequestParts<Parts> for Reads {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, parts: &Parts) -> Result<Self, Problem> {
        let (ledger, right) = parts.admit(Right::Read, &head.headers)?;
        Ok(Self { ledger, sees_phones: right == Right::Control })
    }
}

impl Reads {
    /// What counts many records, and the epoch that it is to be asked for.
    pub(super) async fn reports(&self) -> Result<(&Reports, i64), Problem> {
        let reports: &Reports = &self.ledger.reports;
        Ok((reports, reports.epoch().await.map_err(Problem::of_database)?))
    }
}

/// Somebody who may control.
pub(super) struct Controls {
    ledger: Ledger,
}

impl FromRequestParts<Parts> for Controls {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, parts: &Parts) -> Result<Self, Problem> {
        let (ledger, _) = parts.admit(Right::Control, &head.headers)?;
        Ok(Self { ledger })
    }
}

impl Controls {
    /// Once it is this request's turn.
    pub(super) async fn turn(&self) -> Result<(OwnedSemaphorePermit, &Ledger), Problem> {
        let turn = self.ledger.turn().await.ok_or_else(busy)?;
        Ok((turn, &self.ledger))
    }
}

/// A body, once somebody was admitted. What it says is for the one who asked to read.
pub(super) struct Body(pub Bytes);

impl FromRequest<Parts> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Parts) -> Result<Self, Problem> {
        let reading = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX);
        match tokio::time::timeout(READ_MAX, reading).await {
            Ok(Ok(body)) => Ok(Self(body)),
            Ok(Err(_)) => Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body could not be read, or is longer than {BODY_BYTES_MAX} bytes"),
            )),
            Err(_) => Err(busy()),
        }
    }
}

impl Body {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.0).map_err(|error| Problem::of_body(&error))
    }

    /// For requests that say all by their path: nothing, and null, are as good as an empty object.
    pub(super) fn json_or_nothing<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        let given = if self.0.is_empty() { None } else { self.json()? };
        Ok(given.unwrap_or_default())
    }
}

/// What follows the `?`.
pub(super) struct Asked<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Parts> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, parts: &Parts) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(head, parts).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(Problem::bad(rejection.body_text())),
        }
    }
}

/// What the path names.
pub(super) struct Named(pub String);

impl FromRequestParts<Parts> for Named {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, parts: &Parts) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(head, parts).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(rejection) => Err(Problem::bad(rejection.body_text())),
        }
    }
}

impl Named {
    pub(super) fn parse<T, E: std::fmt::Display>(
        &self,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Problem> {
        parse(segment::id(&self.0)).map_err(|why| Problem::bad(format!("{what} {why}")))
    }
}

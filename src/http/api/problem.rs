//! Why a request was not done: a problem document (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::error::Category;
use utoipa::ToSchema;

/// A problem document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(in crate::http) struct Document<'a> {
    /// What sort of problem, for a person.
    title: &'a str,
    /// The HTTP status again.
    status: u16,
    /// What was wrong, where, and what to do.
    detail: &'a str,
}

#[derive(Debug)]
pub(in crate::http) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(in crate::http) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// The database didn't do it, or didn't say so: the log tells more than an outsider may know.
    pub(super) fn of_database(error: impl std::fmt::Display) -> Self {
        tracing::warn!(%error, "api.failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database did not answer; try again")
    }

    /// A row is otherwise than this version knows: trying again won't help. Its values stay out of the log.
    pub(super) fn of_rows(what: &str, error: &serde_json::Error) -> Self {
        tracing::error!(list = what, line = error.line(), column = error.column(), "api.unreadable");
        let why = "a record is not as this version knows it: are worker and schema of one version?";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, why)
    }

    /// What is wrong with a body, without its words: they may be somebody's number.
    pub(super) fn of_body(error: &serde_json::Error) -> Self {
        let what = match error.classify() {
            Category::Syntax => "is not JSON",
            Category::Eof | Category::Io => "ends too soon",
            Category::Data => {
                "has an unknown field, lacks one, or has one of another type or with an unknown word"
            }
        };
        Self::bad(format!("the body {what}, at line {} column {}", error.line(), error.column()))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("refused");
        let document = Document { title, status: self.status.as_u16(), detail: &self.detail };
        let body = serde_json::to_string(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

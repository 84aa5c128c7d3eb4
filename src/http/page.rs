//! The operators' page: what goes on, why not, and buttons to stop it. Rendered here, no build step; without scripts it works, with them it
//! stays current. Every form carries a proof that it is ours, and cookies stay with this site.

mod acts;
mod parts;
mod session;
mod views;

use axum::Router;
use axum::extract::{Form, FromRequestParts, State};
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::api::{Api, Ledger, Tokens};
use crate::clock;
use crate::store::reporting;
use parts::{frame, nothing};
use session::Session;

/// Nothing from elsewhere is loaded, framed, or told of where a reader came from.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
];
const FORM_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone)]
struct Desk {
    api: Api,
    tokens: Tokens,
}

pub(super) fn router(api: Api, tokens: Tokens) -> Router {
    let still = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
    };
    Router::new()
        .route("/", get(views::overview))
        .route("/campaigns/{id}", get(views::campaign))
        .route("/numbers", get(views::numbers))
        .route("/numbers/{number}", get(views::number))
        .route("/review", get(views::review))
        .route("/jobs", get(views::find_job))
        .route("/jobs/{id}", get(views::job))
        .route("/explain", get(views::explain).post(views::explained))
        .route("/login", get(login).post(log_in))
        .route("/logout", post(log_out))
        .route("/do/kill-switch/{what}", post(acts::kill_switch))
        .route("/do/campaigns/{id}/{what}", post(acts::campaign))
        .route("/do/accounts/{id}/{what}", post(acts::account))
        .route("/do/numbers/{id}/{what}", post(acts::number))
        .route("/do/jobs/{id}/cancel", post(acts::cancel_job))
        .route("/do/review/{id}/{what}", post(acts::resolve))
        .layer(axum::extract::DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(axum::middleware::map_response(guarded))
        .route("/page/style.css", still("text/css; charset=utf-8", parts::STYLE))
        // Browsers ask for one; there is none.
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .route("/page/page.js", still("text/javascript; charset=utf-8", parts::SCRIPT))
        .with_state(Desk { api, tokens })
}

async fn guarded(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why there is no page.
#[derive(Debug)]
enum Trouble {
    /// Nobody is logged in.
    Stranger,
    Forbidden(&'static str),
    Bad(String),
    Missing(String),
    Conflict(String),
    /// The worker is starting, or the database is away.
    Away,
    /// Others told something, for all the time that could be waited.
    Busy,
}

impl Trouble {
    fn of_database(error: impl std::fmt::Display) -> Self {
        tracing::warn!(%error, "page.failed");
        Self::Away
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::Stranger => return Redirect::to("/login").into_response(),
            Self::Forbidden(why) => (StatusCode::FORBIDDEN, why.to_owned()),
            Self::Bad(why) => (StatusCode::BAD_REQUEST, why),
            Self::Missing(why) => (StatusCode::NOT_FOUND, why),
            Self::Conflict(why) => (StatusCode::CONFLICT, why),
            Self::Away => {
                let why = "The worker is starting, or the database doesn't answer. Try again in a moment.";
                (StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
            }
            Self::Busy => {
                let why = "It was not done: much else is being done. Try again in a moment.";
                (StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
            }
        };
        let body = html! { p.note.bad role="alert" { (why) } p { a href="/" { "To the overview" } } };
        let title = status.canonical_reason().unwrap_or("It was not done");
        (status, Html(frame(title, "", None, &Value::Null, &body).into_string())).into_response()
    }
}

/// Somebody who is logged in, with what a page needs.
struct Guest {
    session: Session,
    ledger: Ledger,
}

impl FromRequestParts<Desk> for Guest {
    type Rejection = Trouble;

    async fn from_request_parts(head: &mut Head, desk: &Desk) -> Result<Self, Trouble> {
        let session = session::of(&head.headers, &desk.tokens, clock::wall()).ok_or(Trouble::Stranger)?;
        let ledger = desk.api.ledger().cloned().ok_or(Trouble::Away)?;
        Ok(Self { session, ledger })
    }
}

impl Guest {
    async fn standing(&self) -> Result<Value, Trouble> {
        reporting::standing(&self.ledger.reads).await.map_err(Trouble::of_database)
    }

    async fn page(&self, title: &str, at: &str, body: &Markup) -> Result<Html<String>, Trouble> {
        let standing = self.standing().await?;
        Ok(Html(frame(title, at, Some(&self.session), &standing, body).into_string()))
    }
}

/// What every form carries.
#[derive(Deserialize)]
struct Proof {
    #[serde(default)]
    csrf: String,
}

/// A form of ours, sent by somebody who may control.
struct Told(Guest);

impl Told {
    fn admit(guest: Guest, headers: &HeaderMap, proof: &Proof) -> Result<Self, Trouble> {
        is_ours(&guest.session, headers, proof)?;
        if !guest.session.controls() {
            return Err(Trouble::Forbidden("You are logged in with a token that only reads."));
        }
        Ok(Self(guest))
    }

    /// Once it is its turn.
    async fn in_turn(self) -> Result<(Guest, OwnedSemaphorePermit), Trouble> {
        let turn = self.0.ledger.turn().await.ok_or(Trouble::Busy)?;
        Ok((self.0, turn))
    }
}

fn is_ours(session: &Session, headers: &HeaderMap, proof: &Proof) -> Result<(), Trouble> {
    let from = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let elsewhere = from.is_some_and(|from| from != "same-origin" && from != "none");
    if elsewhere || proof.csrf != session.csrf {
        return Err(Trouble::Forbidden(
            "This form is not of this page, or of an earlier login: go back, load the page anew, and try again.",
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
struct LogIn {
    token: String,
}

async fn login(State(desk): State<Desk>) -> Html<String> {
    login_page(&desk.tokens, nothing())
}

fn login_page(tokens: &Tokens, said: Markup) -> Html<String> {
    let body = html! {
        (said)
        @if tokens.are_set() {
            form.sheet method="post" action="/login" {
                p {
                    label for="token" { "Token" } br;
                    input id="token" name="token" type="password" required autocomplete="current-password" autofocus size="40";
                }
                p.dim { "That of OUTDIAL_API_TOKEN controls; that of OUTDIAL_API_READ_TOKEN only reads. It is good for twelve hours." }
                button { "Log in" }
            }
        } @else {
            p.note.bad role="alert" { "No token is set. Start the worker with OUTDIAL_API_TOKEN." }
        }
    };
    Html(frame("Log in", "", None, &Value::Null, &body).into_string())
}

async fn log_in(State(desk): State<Desk>, headers: HeaderMap, Form(asked): Form<LogIn>) -> Response {
    let secure = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let right = desk.tokens.allow(asked.token.trim());
    let cookie = right.and_then(|right| session::cookie(&desk.tokens, right, clock::wall(), secure));
    match cookie {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        None => {
            let said = html! { p.note.bad role="alert" { "That is none of this worker's tokens." } };
            (StatusCode::UNAUTHORIZED, login_page(&desk.tokens, said)).into_response()
        }
    }
}

async fn log_out(guest: Guest, headers: HeaderMap, Form(proof): Form<Proof>) -> Result<Response, Trouble> {
    is_ours(&guest.session, &headers, &proof)?;
    Ok(([(header::SET_COOKIE, session::no_cookie())], Redirect::to("/login")).into_response())
}

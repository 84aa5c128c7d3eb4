//! Bodies in the vendor's shapes.

use std::time::Duration;

use serde_json::{Value, json};

use super::script::Dice;

/// What goes back, and how.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Payload,
    pub retry_after_s: Option<u64>,
    /// Before it is sent.
    pub delay: Duration,
    pub delivery: Delivery,
}

#[derive(Debug)]
pub enum Payload {
    Nothing,
    Json(Value),
    /// A content type, and bytes that may be anything.
    Raw(&'static str, Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Whole,
    /// Never, while the client waits.
    Hang,
    /// The connection is closed without a byte.
    Close,
    /// The same with a TCP reset.
    Reset,
    /// The connection is closed in the middle of the body.
    Cut,
    /// The sandbox ends, once the answer is out or instead of it.
    Die {
        answered: bool,
    },
}

impl Delivery {
    /// Whether the client gets to see the status.
    pub fn answers(self) -> bool {
        matches!(self, Self::Whole | Self::Cut | Self::Die { answered: true })
    }
}

impl Reply {
    pub fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            body: Payload::Json(body),
            retry_after_s: None,
            delay: Duration::ZERO,
            delivery: Delivery::Whole,
        }
    }

    pub fn ok() -> Self {
        Self::new(200, json!({ "status": "ok" }))
    }

    pub fn response(response: Value) -> Self {
        Self::new(200, json!({ "status": "ok", "response": response }))
    }

    /// An error with the `detail` object.
    pub fn error(status: u16, description: &str, dice: &mut Dice) -> Self {
        let request_id = format!("{:016x}{:016x}", dice.next(), dice.next());
        let detail = json!({
            "status": "error", "description": description, "request_id": request_id, "category": "important",
        });
        Self::new(status, json!({ "detail": detail }))
    }

    /// 422: one field at fault.
    pub fn field(place: &[&str], message: &str) -> Self {
        Self::new(422, json!({ "detail": [{ "loc": place, "msg": message, "type": "value_error" }] }))
    }

    pub fn unknown_key(dice: &mut Dice) -> Self {
        Self::error(401, "Unauthorized: invalid API key.", dice)
    }
}

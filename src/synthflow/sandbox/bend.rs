//! Answers bent out of the usual, for the next POSTs (an [`Override`]) or by the table of faults.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answers::{Delivery, Payload, Reply};
use super::faults::{Fate, FaultKind};
use super::script::Dice;

/// What happens to the next POSTs instead of the usual.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Override {
    /// For so many POSTs that fit.
    #[serde(default = "one")]
    pub count: u32,
    #[serde(default)]
    pub model_id: Option<String>,
    #[serde(default)]
    pub phone: Option<String>,
    #[serde(default)]
    pub from_phone_number: Option<String>,
    /// Whether a call is made of it none the less, whatever is answered.
    #[serde(default)]
    pub place: bool,
    #[serde(default)]
    pub delay_ms: u64,
    #[serde(flatten)]
    pub action: Action,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// The usual answer, only later.
    AsUsual,
    Answer {
        status: u16,
        /// Absent: a `detail` object.
        #[serde(default)]
        body: Option<Value>,
        #[serde(default)]
        retry_after_s: Option<u64>,
    },
    /// A status without a body.
    Empty { status: u16 },
    /// A status with a body that tells no call id: a page of HTML, half a document, bytes, …
    Unreadable { status: u16 },
    /// No answer while the client waits.
    Hang,
    /// The connection is closed without an answer.
    Close,
    /// The connection is reset without an answer.
    Reset,
    /// The usual answer, broken off in its body.
    Cut,
    /// The sandbox ends: right after the usual answer, or without one.
    Die { answered: bool },
}

/// An action, and whether the request does what it asks for none the less.
#[derive(Debug, Clone, PartialEq)]
pub struct Bend {
    pub place: bool,
    pub action: Action,
}

impl Override {
    /// The next `count` POSTs, whoever they are for; no call is made of them.
    pub fn next(count: u32, action: Action) -> Self {
        Self {
            count,
            model_id: None,
            phone: None,
            from_phone_number: None,
            place: false,
            delay_ms: 0,
            action,
        }
    }

    /// The same, but the call is made.
    pub fn but_place(mut self) -> Self {
        self.place = true;
        self
    }

    fn fits(&self, body: &Value) -> bool {
        let same = |wanted: &Option<String>, field: &str| {
            wanted.as_deref().is_none_or(|wanted| body.get(field).and_then(Value::as_str) == Some(wanted))
        };
        same(&self.model_id, "model_id")
            && same(&self.phone, "phone")
            && same(&self.from_phone_number, "from_phone_number")
    }

    /// The first that fits; used up by one.
    pub fn take(queue: &mut VecDeque<Self>, body: &Value) -> Option<Self> {
        let index = queue.iter().position(|wanted| wanted.fits(body))?;
        let found = queue.get_mut(index)?;
        let wanted = found.clone();
        found.count = found.count.saturating_sub(1);
        if found.count == 0 {
            queue.remove(index);
        }
        Some(wanted)
    }

    /// Goes before what the table of faults says of the answer.
    pub fn decide(self, fate: &mut Fate) {
        fate.delay += Duration::from_millis(self.delay_ms);
        let kind = self.action.kind();
        let place = self.place || self.action == Action::AsUsual;
        fate.bend_by(kind, Bend { place, action: self.action });
    }
}

impl Action {
    fn kind(&self) -> FaultKind {
        match self {
            Self::AsUsual => FaultKind::Latency,
            Self::Answer { .. } => FaultKind::Answer,
            Self::Empty { .. } => FaultKind::Empty,
            Self::Unreadable { .. } => FaultKind::Unreadable,
            Self::Hang => FaultKind::Hang,
            Self::Close => FaultKind::Close,
            Self::Reset => FaultKind::Reset,
            Self::Cut => FaultKind::Cut,
            Self::Die { answered: true } => FaultKind::Die,
            Self::Die { answered: false } => FaultKind::DieUnanswered,
        }
    }
}

impl Bend {
    /// Changes the usual reply.
    pub fn apply(self, reply: &mut Reply, dice: &mut Dice) {
        match self.action {
            Action::AsUsual => {}
            Action::Answer { status, body, retry_after_s } => {
                reply.status = status;
                reply.retry_after_s = retry_after_s;
                reply.body = match body {
                    Some(body) => Payload::Json(body),
                    None => Reply::error(status, "As the test asked for.", dice).body,
                };
            }
            Action::Empty { status } => {
                reply.status = status;
                reply.body = Payload::Nothing;
            }
            Action::Unreadable { status } => {
                reply.status = status;
                reply.body = unreadable(dice);
            }
            Action::Hang => reply.delivery = Delivery::Hang,
            Action::Close => reply.delivery = Delivery::Close,
            Action::Reset => reply.delivery = Delivery::Reset,
            Action::Cut => reply.delivery = Delivery::Cut,
            Action::Die { answered } => reply.delivery = Delivery::Die { answered },
        }
    }
}

/// One of the bodies that no call id can be read from.
fn unreadable(dice: &mut Dice) -> Payload {
    let nameless = json!({ "status": "success", "response": { "answer": "ok" } });
    let null = json!({ "status": "success", "response": { "answer": "ok", "call_id": null } });
    match dice.below(6) {
        0 => Payload::Raw("text/html", b"<html><body><h1>Bad Gateway</h1></body></html>".to_vec()),
        1 => Payload::Raw(
            "application/json",
            b"{\"status\":\"success\",\"response\":{\"answer\":\"ok\",\"call_".to_vec(),
        ),
        2 => Payload::Raw("application/json", vec![0xff, 0xfe, 0x00, 0xc3, 0x28]),
        // Longer than anyone should read.
        3 => Payload::Raw("application/json", vec![b'['; 256 << 10]),
        4 => Payload::Json(nameless),
        _ => Payload::Json(null),
    }
}

//! Faults by rate and by schedule.
//!
//! What strikes the n-th request of its sort is decided by the seed, n and the table alone (and the time, where a fault
//! has one), so a run's faults come again with its seed. A POST's n is its `seq` in the ledger.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bend::{Action, Bend};
use super::script::Dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The answer comes later by `delay_ms`; the call is made at once.
    Latency,
    /// `status` instead of the usual; 5xx in any of the forms they have been seen in.
    Answer,
    /// A status (200) without a body.
    Empty,
    /// A status (200) with a body that tells no call id.
    Unreadable,
    /// The usual answer, broken off in its body.
    Cut,
    /// The connection is closed without an answer.
    Close,
    /// The same with a TCP reset.
    Reset,
    /// No answer while the client waits.
    Hang,
    /// The process ends right after the answer.
    Die,
    /// The process ends instead of answering.
    DieUnanswered,
    /// The call is in no list for `delay_ms`.
    ListLag,
    /// Looking the call up is answered 404 for `delay_ms`.
    #[serde(rename = "fresh_404")]
    Fresh404,
    /// The record tells another caller ID than was asked for.
    OtherCaller,
    /// The webhook of the call's end is never sent.
    WebhookDrop,
    /// It is sent twice at once.
    WebhookDouble,
    /// It comes later by `delay_ms`, so in another order.
    WebhookDelay,
    /// It comes again, byte for byte, `delay_ms` after the first.
    WebhookReplay,
    /// `delay_ms` after the POST comes one with a wrong signature, which says that the call has ended.
    WebhookForge,
    /// The same with the right signature, which is of the call id alone; its variables are another call's.
    WebhookLie,
}

/// Which requests a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    #[default]
    Post,
    /// `GET /v2/calls`
    List,
    /// `GET /v2/calls/{call_id}`
    Record,
    /// Agents, their pools, and numbers, read and changed.
    Agent,
}

/// An entry of the table. Each is decided by dice of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub kind: FaultKind,
    #[serde(default)]
    pub on: On,
    /// 0 to 1: of the requests in its span.
    #[serde(default = "always")]
    pub rate: f64,
    /// Real milliseconds since the table was set; `to_ms` exclusive.
    pub from_ms: Option<u64>,
    pub to_ms: Option<u64>,
    /// Numbers of requests of this sort, from 1; `to_n` exclusive.
    pub from_n: Option<u64>,
    pub to_n: Option<u64>,
    /// Whether the request does what it asks for none the less.
    pub place: Option<bool>,
    pub status: Option<u16>,
    pub retry_after_s: Option<u64>,
    pub delay_ms: Option<Delay>,
}

fn always() -> f64 {
    1.0
}

/// Milliseconds: `5`, `{ min = 1, max = 9 }`, or `{ min = 1, max = 9, heavy_tail = true }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "DelayForm")]
pub struct Delay {
    pub min: u64,
    pub max: u64,
    /// Most near `min`, and one in x beyond x times it, up to `max`.
    pub heavy_tail: bool,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "give milliseconds, or { min, max } with or without heavy_tail = true"
)]
enum DelayForm {
    Fixed(u64),
    Within {
        min: u64,
        max: u64,
        #[serde(default)]
        heavy_tail: bool,
    },
}

impl From<DelayForm> for Delay {
    fn from(form: DelayForm) -> Self {
        match form {
            DelayForm::Fixed(ms) => Self::fixed(ms),
            DelayForm::Within { min, max, heavy_tail } => Self { min, max, heavy_tail },
        }
    }
}

impl Delay {
    pub fn fixed(ms: u64) -> Self {
        Self { min: ms, max: ms, heavy_tail: false }
    }

    fn draw_ms(self, dice: &mut Dice) -> u64 {
        let span = self.max.saturating_sub(self.min) as f64;
        if !self.heavy_tail {
            return self.min + (dice.unit() * (span + 1.0)) as u64;
        }
        // Pareto's distribution with exponent 1, cut off at `max`.
        let (low, high) = (self.min.max(1) as f64, self.max.max(1) as f64);
        (low / (1.0 - dice.unit() * (1.0 - low / high))) as u64
    }
}

impl Fault {
    /// With the defaults of its kind, on POSTs, at any time.
    pub fn new(kind: FaultKind, rate: f64) -> Self {
        Self {
            kind,
            on: On::Post,
            rate,
            from_ms: None,
            to_ms: None,
            from_n: None,
            to_n: None,
            place: None,
            status: None,
            retry_after_s: None,
            delay_ms: None,
        }
    }

    /// An answer with this status; no call is made of it.
    pub fn answer(status: u16, rate: f64) -> Self {
        Self { status: Some(status), ..Self::new(FaultKind::Answer, rate) }
    }

    pub fn but_place(self) -> Self {
        Self { place: Some(true), ..self }
    }

    pub fn on(self, on: On) -> Self {
        Self { on, ..self }
    }

    pub fn delayed(self, ms: u64) -> Self {
        Self { delay_ms: Some(Delay::fixed(ms)), ..self }
    }

    /// What is wrong with it, each in a phrase.
    pub fn faults(&self) -> Vec<String> {
        use FaultKind::{Answer, Empty, Latency, Unreadable, WebhookDelay};
        let mut faults = Vec::new();
        let mut check = |right: bool, text: &str| {
            if !right {
                faults.push(text.to_owned());
            }
        };
        let kind = self.kind;
        check((0.0..=1.0).contains(&self.rate), "rate: give 0 to 1");
        check(self.from_ms < self.to_ms || self.to_ms.is_none(), "from_ms is not below to_ms");
        check(self.from_n < self.to_n || self.to_n.is_none(), "from_n is not below to_n");
        check(self.delay_ms.is_none_or(|d| d.min <= d.max), "delay_ms: min is above max");
        check(self.status.is_some() || kind != Answer, "status is missing");
        check(self.status.is_none_or(|s| (200..=599).contains(&s)), "status: give 200 to 599");
        let takes_status = matches!(kind, Answer | Empty | Unreadable);
        check(self.status.is_none() || takes_status, "status has no meaning here");
        check(self.retry_after_s.is_none() || kind == Answer, "retry_after_s has no meaning here");
        check(self.place.is_none() || kind.bends(), "place has no meaning here");
        let takes_delay = kind.delay_default_ms().is_some() || matches!(kind, Latency | WebhookDelay);
        check(self.delay_ms.is_some() || !matches!(kind, Latency | WebhookDelay), "delay_ms is missing");
        check(self.delay_ms.is_none() || takes_delay, "delay_ms has no meaning here");
        check(!kind.is_of_calls() || self.on == On::Post, "on: this is decided by the POST");
        faults
    }

    fn strikes(&self, n: u64, ms: u64, dice: &mut Dice) -> bool {
        let within = |at: u64, from: Option<u64>, to: Option<u64>| {
            from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to)
        };
        // The dice are thrown first, so that a span changes nothing within itself.
        dice.unit() < self.rate && within(n, self.from_n, self.to_n) && within(ms, self.from_ms, self.to_ms)
    }

    fn delay_ms(&self, dice: &mut Dice) -> u64 {
        match self.delay_ms {
            Some(delay) => delay.draw_ms(dice),
            None => self.kind.delay_default_ms().unwrap_or(0),
        }
    }

    /// What it makes of an answer, if it is of those that do.
    fn bend(&self, dice: &mut Dice) -> Option<Bend> {
        let status = self.status.unwrap_or(200);
        let action = match self.kind {
            FaultKind::Answer => self.answer_in_some_form(status, dice),
            FaultKind::Empty => Action::Empty { status },
            FaultKind::Unreadable => Action::Unreadable { status },
            FaultKind::Cut => Action::Cut,
            FaultKind::Close => Action::Close,
            FaultKind::Reset => Action::Reset,
            FaultKind::Hang => Action::Hang,
            FaultKind::Die => Action::Die { answered: true },
            FaultKind::DieUnanswered => Action::Die { answered: false },
            _ => return None,
        };
        Some(Bend { place: self.place.unwrap_or(self.kind != FaultKind::Answer), action })
    }

    fn answer_in_some_form(&self, status: u16, dice: &mut Dice) -> Action {
        let retry_after_s = self.retry_after_s;
        let gateway = json!({ "error": "upstream", "message": "The upstream did not answer." });
        match dice.below(4) {
            1 if status >= 500 => Action::Answer { status, body: Some(gateway), retry_after_s },
            2 if status >= 500 => Action::Empty { status },
            3 if status >= 500 => Action::Unreadable { status },
            _ => Action::Answer { status, body: None, retry_after_s },
        }
    }
}

impl FaultKind {
    /// Whether it changes the answer; of these, one strikes a request.
    fn bends(self) -> bool {
        !self.is_of_calls() && self != Self::Latency
    }

    /// Whether it is about the call that is made, so about nothing where none is.
    fn is_of_calls(self) -> bool {
        self.delay_default_ms().is_some()
            || matches!(
                self,
                Self::OtherCaller | Self::WebhookDrop | Self::WebhookDouble | Self::WebhookDelay
            )
    }

    /// `None`: it has no delay, or no default.
    fn delay_default_ms(self) -> Option<u64> {
        match self {
            Self::ListLag | Self::Fresh404 | Self::WebhookReplay => Some(5_000),
            Self::WebhookForge | Self::WebhookLie => Some(0),
            _ => None,
        }
    }
}

/// What is wrong with a table, each with the number of its entry.
pub fn check_faults(entries: &[Fault]) -> Result<(), Vec<String>> {
    let of_entry = |(n, entry): (usize, &Fault)| {
        entry
            .faults()
            .into_iter()
            .map(move |text| format!("fault {n}, {:?}: {text}", entry.kind))
            .collect::<Vec<_>>()
    };
    let faults: Vec<String> = (1..).zip(entries).flat_map(of_entry).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// The table in force.
#[derive(Debug, Default)]
pub struct FaultTable {
    pub entries: Vec<Fault>,
    /// When it was set, in microseconds of the timeline.
    pub since_us: u64,
}

/// What strikes one request, put together.
#[derive(Debug)]
pub struct Fate {
    kinds: Vec<FaultKind>,
    /// For what is left open of the bend.
    pub dice: Dice,
    pub bend: Option<Bend>,
    /// Added to the usual latency.
    pub delay: Duration,
    pub call: CallFate,
}

/// What strikes a call once it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallFate {
    pub list_lag_ms: u64,
    pub fresh_404_ms: u64,
    pub other_caller: bool,
    pub webhook_dropped: bool,
    pub webhook_doubled: bool,
    pub webhook_delay_ms: u64,
    /// After the first; the next three likewise are absent where nothing of the kind is sent.
    pub webhook_replay_ms: Option<u64>,
    /// After the POST.
    pub webhook_forge_ms: Option<u64>,
    pub webhook_lie_ms: Option<u64>,
}

impl FaultTable {
    pub fn fate(&self, seed: u64, on: On, n: u64, at_us: u64) -> Fate {
        let ms = at_us.saturating_sub(self.since_us) / 1000;
        let mut fate = Fate {
            kinds: Vec::new(),
            dice: Dice::new(seed ^ 0xBE4D, n),
            bend: None,
            delay: Duration::ZERO,
            call: CallFate::default(),
        };
        for (entry, salt) in self.entries.iter().zip(1u64..) {
            let mut dice = Dice::new(seed ^ (salt << 32) ^ 0xFA17, n);
            if entry.on == on && entry.strikes(n, ms, &mut dice) {
                fate.suffer(entry, &mut dice);
            }
        }
        fate
    }
}

impl Fate {
    fn suffer(&mut self, fault: &Fault, dice: &mut Dice) {
        let call = &mut self.call;
        match fault.kind {
            FaultKind::Latency => self.delay += Duration::from_millis(fault.delay_ms(dice)),
            FaultKind::ListLag => call.list_lag_ms = call.list_lag_ms.max(fault.delay_ms(dice)),
            FaultKind::Fresh404 => call.fresh_404_ms = call.fresh_404_ms.max(fault.delay_ms(dice)),
            FaultKind::OtherCaller => call.other_caller = true,
            FaultKind::WebhookDrop => call.webhook_dropped = true,
            FaultKind::WebhookDouble => call.webhook_doubled = true,
            FaultKind::WebhookDelay => call.webhook_delay_ms += fault.delay_ms(dice),
            FaultKind::WebhookReplay => call.webhook_replay_ms = Some(fault.delay_ms(dice)),
            FaultKind::WebhookForge => call.webhook_forge_ms = Some(fault.delay_ms(dice)),
            FaultKind::WebhookLie => call.webhook_lie_ms = Some(fault.delay_ms(dice)),
            // One answer is bent once: by the first in the table.
            _ if self.bend.is_some() => return,
            _ => self.bend = fault.bend(dice),
        }
        self.kinds.push(fault.kind);
    }

    /// A test's own wish goes before the table's bends.
    pub fn bend_by(&mut self, kind: FaultKind, bend: Bend) {
        self.kinds.retain(|kind| !kind.bends());
        self.kinds.push(kind);
        self.bend = Some(bend);
    }

    /// What struck, for the ledger.
    pub fn struck(&self, call_was_made: bool) -> Vec<FaultKind> {
        self.kinds.iter().copied().filter(|kind| call_was_made || !kind.is_of_calls()).collect()
    }
}

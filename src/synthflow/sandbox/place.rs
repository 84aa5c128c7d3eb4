//! `POST /v2/calls`: what the sandbox makes of one body.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answers::Reply;
use super::bend::{Action, Override};
use super::calls::{Call, Made};
use super::config::BadNumber;
use super::faults::{CallFate, On};
use super::ledger::LedgerEntry;
use super::script::{Dice, Script};
use super::world::World;

/// The reply, with the word for the ledger and the call that was made (its id first), if one was.
struct Decision {
    reply: Reply,
    why: &'static str,
    call: Option<(String, Made)>,
}

impl Decision {
    fn refused(reply: Reply, why: &'static str) -> Self {
        Self { reply, why, call: None }
    }
}

/// The fields the sandbox looks at.
struct Asked {
    model_id: String,
    phone: String,
    name: String,
    from: Option<String>,
    variables: Map<String, Value>,
    webhook_url: Option<String>,
}

/// What the sandbox reads of a POST's head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    pub key: Option<&'a str>,
    pub traceparent: Option<&'a str>,
}

/// Decides on one POST and writes it to the ledger. `at_us`: when its bytes were read.
pub fn receive(world: &mut World, at_us: u64, head: Head<'_>, body: &[u8]) -> Reply {
    let json: Value =
        serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned().into());
    let account = head.key.and_then(|key| world.account_of_key(key)).map(str::to_owned);
    let seq = world.ledger.next_seq();
    let mut fate = world.faults.fate(world.config.seed, On::Post, seq, at_us);
    let wish = Override::take(&mut world.overrides, &json);
    let overridden = wish.as_ref().is_some_and(|wish| wish.action != Action::AsUsual);
    if let Some(wish) = wish {
        wish.decide(&mut fate);
    }

    let mut decision = match &fate.bend {
        Some(bend) if !bend.place => Decision::refused(Reply::ok(), "fault"),
        _ => decide(world, account.as_deref(), at_us, &json, &fate.call),
    };
    let faults = fate.struck(decision.call.is_some());
    if let Some(bend) = fate.bend.filter(|bend| bend.action != Action::AsUsual) {
        bend.apply(&mut decision.reply, &mut fate.dice);
        decision.why = if overridden { "override" } else { "fault" };
    }
    let Decision { mut reply, why, call } = decision;
    let text = |field: &str| json.get(field).and_then(Value::as_str).map(str::to_owned);
    let entry = LedgerEntry {
        seq,
        mono_us: at_us,
        at_us: world.timeline.wall_us(at_us),
        account,
        model_id: text("model_id"),
        phone: text("phone"),
        from_phone_number: text("from_phone_number"),
        attempt_id: attempt_id(&json),
        traceparent: head.traceparent.map(str::to_owned),
        status: reply.delivery.answers().then_some(reply.status),
        call_id: call.as_ref().map(|(call_id, _)| call_id.clone()),
        placed: call.as_ref().is_some_and(|(_, made)| made.script.dialed),
        why: why.to_owned(),
        faults,
        body: json,
    };
    world.ledger.append(entry, call.as_ref().map(|(_, made)| made));
    let usual = Dice::new(world.config.seed ^ 0x1A7E, seq).within(world.config.latency_ms);
    reply.delay += fate.delay + Duration::from_micros((usual * 1000.0) as u64);
    reply
}

fn attempt_id(body: &Value) -> Option<String> {
    let variables = variables_of(body.get("custom_variables")?, true)?;
    variables.get("outdial_attempt_id").and_then(Value::as_str).map(str::to_owned)
}

fn decide(world: &mut World, account: Option<&str>, at_us: u64, body: &Value, fate: &CallFate) -> Decision {
    let Some(account) = account else {
        return Decision::refused(Reply::unknown_key(&mut world.dice()), "unknown_key");
    };
    let guesses = world.config.guesses.clone();
    let caps =
        world.accounts.get_mut(account).is_some_and(|a| a.admits_at(at_us, guesses.caps_count_refused));
    if !caps {
        return too_many(world, "Too many calls per second.", "caps");
    }
    let asked = match read(body, guesses.variables_object) {
        Ok(asked) => asked,
        Err(reply) => return Decision::refused(*reply, "invalid_body"),
    };
    let Some(agent) = world.agent_of(account, &asked.model_id) else {
        return Decision::refused(
            Reply::error(404, "Assistant not found.", &mut world.dice()),
            "unknown_agent",
        );
    };
    let own_choice = agent.pool.first().map(|n| n.number.clone());
    let attached = asked.from.as_ref().is_none_or(|from| agent.pool.iter().any(|n| n.number == *from));
    let faults = [
        (!is_e164(&asked.phone), guesses.bad_phone, "Telephony - 400 - Invalid phone number", "bad_phone"),
        (
            !attached,
            guesses.unattached_from,
            "The from_phone_number is not attached to the assistant.",
            "unattached_from",
        ),
    ];
    let mut script = None;
    for (_, guess, text, why) in faults.into_iter().filter(|(at_fault, ..)| *at_fault) {
        match guess {
            BadNumber::Reject400 => {
                return Decision::refused(Reply::error(400, text, &mut world.dice()), why);
            }
            BadNumber::RecordFailed => script = script.or(Some(Script::failed(text))),
        }
    }
    let from = asked.from.clone().or(own_choice);
    let script = script.unwrap_or_else(|| match &from {
        Some(_) => {
            Script::draw(&world.config.script, world.config.seed, world.calls.next_ordinal(), &asked.phone)
        }
        None if guesses.no_number_queues => Script::stuck(),
        None => Script::failed("Telephony - 400 - No phone number attached"),
    });
    let from =
        if fate.other_caller { Some(world.other_caller(&asked.model_id, from.as_deref())) } else { from };
    accept(world, account, at_us, asked, Made { from, began_us: at_us, script, fate: fate.clone() })
}

/// The last gate: concurrency. Past it the call exists.
fn accept(world: &mut World, account: &str, at_us: u64, asked: Asked, mut made: Made) -> Decision {
    let now_ms = world.timeline.call_ms(at_us);
    let patience = Duration::from_millis(world.config.guesses.concurrency_wait_ms);
    let Some(room) = world.accounts.get_mut(account) else {
        return Decision::refused(Reply::unknown_key(&mut world.dice()), "unknown_key");
    };
    let wait_ms = room.room_in_ms(now_ms);
    let wait = if wait_ms > 0.0 { world.timeline.real(wait_ms) } else { Duration::ZERO };
    if wait_ms > 0.0 && wait > patience {
        return too_many(world, "Concurrency limit reached.", "concurrency");
    }
    made.began_us = at_us + wait.as_micros() as u64;
    let began_ms = now_ms + wait_ms;
    room.occupy(began_ms + made.script.ends_at_ms, wait_ms > 0.0);
    let redacted = room.config.redact_pii;
    let call_id = world.next_call_id();
    world.know(Call {
        call_id: call_id.clone(),
        model_id: asked.model_id,
        name: asked.name,
        phone: asked.phone,
        variables: asked.variables,
        received_us: at_us,
        received_wall_ms: world.timeline.wall_us(at_us) / 1000,
        began_ms,
        redacted,
        webhook_url: asked.webhook_url,
        made: made.clone(),
    });
    world.lie_about_last_call();
    let mut response = json!({ "answer": "ok", "call_id": call_id });
    if world.config.guesses.eta {
        response["eta"] = json!(3);
    }
    let mut reply = Reply::new(200, json!({ "status": "success", "response": response }));
    reply.delay = wait;
    Decision { reply, why: "accepted", call: Some((call_id, made)) }
}

fn too_many(world: &mut World, description: &str, why: &'static str) -> Decision {
    let mut reply = Reply::error(429, description, &mut world.dice());
    reply.retry_after_s = world.config.guesses.retry_after_s;
    Decision::refused(reply, why)
}

fn read(body: &Value, variables_object: bool) -> Result<Asked, Box<Reply>> {
    let fault = |field: &str, message: &str| Err(Box::new(Reply::field(&["body", field], message)));
    let Value::Object(body) = body else {
        return Err(Box::new(Reply::field(&["body"], "value is not a valid dict")));
    };
    let mut required = Vec::with_capacity(3);
    for field in ["model_id", "phone", "name"] {
        match body.get(field) {
            Some(Value::String(text)) if !text.is_empty() => required.push(text.clone()),
            Some(Value::Null) | None => return fault(field, "field required"),
            Some(_) => return fault(field, "str type expected"),
        }
    }
    let from = match body.get("from_phone_number") {
        None | Some(Value::Null) => None,
        Some(Value::String(from)) => Some(from.clone()),
        Some(_) => return fault("from_phone_number", "str type expected"),
    };
    let variables = match body.get("custom_variables") {
        None | Some(Value::Null) => Map::new(),
        Some(variables) => match variables_of(variables, variables_object) {
            Some(variables) => variables,
            None => return fault("custom_variables", "value is not a valid list of {key, value}"),
        },
    };
    for field in ["prompt", "greeting", "lead_email", "lead_timezone", "external_webhook_url"] {
        if body.get(field).is_some_and(|value| !value.is_string() && !value.is_null()) {
            return fault(field, "str type expected");
        }
    }
    let [model_id, phone, name] = <[String; 3]>::try_from(required).unwrap_or_default();
    let webhook_url = body.get("external_webhook_url").and_then(Value::as_str).map(str::to_owned);
    Ok(Asked { model_id, phone, name, from, variables, webhook_url })
}

pub fn variables_of(value: &Value, object_too: bool) -> Option<Map<String, Value>> {
    match value {
        Value::Array(pairs) => pairs
            .iter()
            .map(|pair| {
                let (key, value) = (pair.get("key")?.as_str()?, pair.get("value")?.as_str()?);
                Some((key.to_owned(), Value::from(value)))
            })
            .collect(),
        Value::Object(map) if object_too => Some(map.clone()),
        _ => None,
    }
}

fn is_e164(phone: &str) -> bool {
    let Some(digits) = phone.strip_prefix('+') else { return false };
    (7..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

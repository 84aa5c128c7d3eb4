//! Reading what the provider writes, and writing what it reads.
//!
//! Its types lie: numbers arrive as strings, times as epoch milliseconds in strings or as dates without a zone, nulls
//! anywhere, and some things under two names. So everything is read through [`Value`], field by field; what can't be
//! read is missing, and words never seen before are kept.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::{Map, Value, json};

use crate::core::call::{Assistant, CallPage, CallRecord, PlaceCall, PoolNumber};
use crate::core::ids::{CallId, ModelId};
use crate::core::outcome::ProviderError;
use crate::core::phone::E164;
use crate::core::text::tidy;

/// Of any text taken over from a record, at most this much.
const TEXT_BYTES_MAX: usize = 2048;

/// The body of `POST /v2/calls`.
pub fn place_body(call: &PlaceCall) -> Vec<u8> {
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            body.insert(key.to_owned(), value);
        }
    };
    put("model_id", call.model_id.as_str().into());
    put("phone", call.phone.as_str().into());
    put("name", call.name.as_str().into());
    put("from_phone_number", call.from_phone_number.as_ref().map(E164::as_str).into());
    let variables = call.custom_variables.iter().map(|(key, value)| json!({ "key": key, "value": value }));
    put("custom_variables", variables.collect());
    put("prompt", call.prompt.as_deref().into());
    put("greeting", call.greeting.as_deref().into());
    put("lead_email", call.lead_email.as_deref().into());
    put("lead_timezone", call.lead_timezone.as_deref().into());
    Value::Object(body).to_string().into_bytes()
}

/// A page of `GET /v2/calls`.
pub fn calls(body: &[u8]) -> Result<CallPage, ProviderError> {
    let response = response(body)?;
    let entries = match response.get("calls") {
        Some(Value::Array(calls)) => calls,
        Some(Value::Null) | None if response.get("pagination").is_some() => {
            return Ok(CallPage { total: total_records(&response), ..CallPage::default() });
        }
        _ => return Err(unreadable("it has no response.calls")),
    };
    let calls: Vec<CallRecord> = entries.iter().filter_map(record).collect();
    Ok(CallPage { unreadable: entries.len() - calls.len(), calls, total: total_records(&response) })
}

/// The one record of `GET /v2/calls/{call_id}`: in an array, or on its own.
pub fn call(body: &[u8], call_id: &CallId) -> Result<CallRecord, ProviderError> {
    let response = response(body)?;
    let found = match response.get("calls") {
        Some(Value::Array(calls)) if calls.is_empty() => {
            return Err(ProviderError::NotFound { text: Some("the list of calls is empty".to_owned()) });
        }
        Some(Value::Array(calls)) => calls.iter().filter_map(record).find(|r| r.call_id == *call_id),
        Some(one @ Value::Object(_)) => record(one),
        _ => response.get("call").and_then(record).or_else(|| record(&response)),
    };
    match found {
        Some(record) if record.call_id == *call_id => Ok(record),
        _ => Err(unreadable("it has no record of the call that was asked for")),
    }
}

/// The agent of `GET /v2/assistants/{model_id}`: in an array, or on its own.
pub fn assistant(body: &[u8], model_id: &ModelId) -> Result<Assistant, ProviderError> {
    let response = response(body)?;
    let found = match response.get("assistants") {
        Some(Value::Array(agents)) if agents.is_empty() => {
            return Err(ProviderError::NotFound { text: Some("the list of assistants is empty".to_owned()) });
        }
        Some(Value::Array(agents)) => {
            let named = |id: &str| agents.iter().find(|a| text(a, "model_id").as_deref() == Some(id));
            named(model_id.as_str()).or_else(|| agents.first().filter(|a| a.get("model_id").is_none()))
        }
        Some(one @ Value::Object(_)) => Some(one),
        _ => response.get("assistant").or_else(|| response.get("model_id").map(|_| &response)),
    };
    let agent = found.ok_or_else(|| unreadable("it has no record of the assistant that was asked for"))?;
    if text(agent, "model_id").is_some_and(|id| id != model_id.as_str()) {
        return Err(unreadable("it is about another assistant"));
    }
    let attached = agent.get("attached_phone_numbers").and_then(Value::as_array);
    let pool: Option<Vec<PoolNumber>> =
        attached.map(|numbers| numbers.iter().filter_map(pool_number).collect());
    Ok(Assistant {
        model_id: model_id.clone(),
        name: text(agent, "name"),
        kind: text(agent, "type"),
        unreadable: attached.map_or(0, Vec::len) - pool.as_ref().map_or(0, Vec::len),
        pool,
    })
}

/// How many entries a list has in all.
pub fn total(body: &[u8]) -> Result<Option<u64>, ProviderError> {
    response(body).map(|response| total_records(&response))
}

fn total_records(response: &Value) -> Option<u64> {
    let total = response.get("pagination")?.get("total_records")?;
    total.as_u64().or_else(|| total.as_str()?.trim().parse().ok())
}

/// The `response` object, or the body itself where there is none.
fn response(body: &[u8]) -> Result<Value, ProviderError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(mut object)) => Ok(match object.remove("response") {
            Some(response @ Value::Object(_)) => response,
            _ => Value::Object(object),
        }),
        Ok(_) => Err(unreadable("it is JSON, but not an object")),
        Err(fault) => Err(unreadable(&format!("it is not JSON ({fault})"))),
    }
}

fn unreadable(why: &str) -> ProviderError {
    ProviderError::Unreadable(why.to_owned())
}

fn record(value: &Value) -> Option<CallRecord> {
    Some(CallRecord {
        call_id: CallId::parse(&text(value, "call_id")?).ok()?,
        model_id: text(value, "model_id").and_then(|id| ModelId::parse(&id).ok()),
        status: text(value, "call_status").or_else(|| text(value, "status")),
        end_reason: text(value, "end_call_reason"),
        error_message: text(value, "error_message"),
        from: phone(value, "phone_number_from"),
        to: phone(value, "phone_number_to").or_else(|| phone(value, "lead_phone_number")),
        duration_s: number(value.get("duration")),
        start_time: time(value.get("start_time")),
        recording_url: text(value, "recording_url"),
        prompt_variables: variables(value.get("prompt_variables")),
    })
}

fn pool_number(value: &Value) -> Option<PoolNumber> {
    let number = match value {
        Value::String(number) => as_phone(number)?,
        _ => phone(value, "number").or_else(|| phone(value, "phone_number"))?,
    };
    Some(PoolNumber {
        slug: text(value, "slug").unwrap_or_else(|| number.as_str().trim_start_matches('+').to_owned()),
        sid: text(value, "sid"),
        number,
    })
}

/// A text, or a number as text. Empty ones are missing.
fn text(value: &Value, key: &str) -> Option<String> {
    let text = match value.get(key)? {
        Value::String(text) => tidy(text.trim(), TEXT_BYTES_MAX),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn phone(value: &Value, key: &str) -> Option<E164> {
    as_phone(&text(value, key)?)
}

/// With or without its `+`, and with the punctuation people use.
fn as_phone(text: &str) -> Option<E164> {
    let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | '(' | ')')).collect();
    E164::from_canonical(&digits).or_else(|| E164::from_canonical(&format!("+{digits}")))
}

fn number(value: Option<&Value>) -> Option<f64> {
    let number = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (number.is_finite() && number >= 0.0).then_some(number)
}

/// Epoch milliseconds (also as text), or an ISO date; one without a zone is UTC.
fn time(value: Option<&Value>) -> Option<DateTime<Utc>> {
    if let Some(millis) = number(value) {
        return DateTime::from_timestamp_millis(millis as i64).filter(|t| t.timestamp() > 0);
    }
    let text = value?.as_str()?.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .map(|time| time.and_utc())
}

/// An object, or an array of `{key, value}`.
fn variables(value: Option<&Value>) -> BTreeMap<String, String> {
    let as_text = |value: &Value| match value {
        Value::String(text) => tidy(text, TEXT_BYTES_MAX),
        other => tidy(&other.to_string(), TEXT_BYTES_MAX),
    };
    match value {
        Some(Value::Object(map)) => {
            map.iter().map(|(key, value)| (tidy(key, TEXT_BYTES_MAX), as_text(value))).collect()
        }
        Some(Value::Array(list)) => {
            list.iter().filter_map(|pair| Some((text(pair, "key")?, as_text(pair.get("value")?)))).collect()
        }
        _ => BTreeMap::new(),
    }
}

//! Everything under /v2 but the placing of calls: lists, records, agents and their pools.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::answers::Reply;
use super::calls::Wanted;
use super::config::{ListOrder, NumberConfig};
use super::world::World;

/// Query parameters; those nobody asks for are ignored, as the vendor does.
pub type Query = HashMap<String, String>;

fn integer<T: std::str::FromStr>(query: &Query, key: &str) -> Result<Option<T>, Reply> {
    match query.get(key).map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Reply::field(&["query", key], "value is not a valid integer")),
        },
    }
}

/// `limit` and `offset`.
fn page(world: &mut World, query: &Query) -> Result<(usize, usize), Reply> {
    let limit = integer::<i64>(query, "limit")?.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(Reply::error(400, "Limit must be between 1 and 100.", &mut world.dice()));
    }
    Ok((limit as usize, integer(query, "offset")?.unwrap_or(0)))
}

pub fn list_calls(world: &mut World, account: &str, query: &Query) -> Result<Reply, Reply> {
    let Some(model_id) = query.get("model_id").filter(|id| !id.is_empty()) else {
        return Err(Reply::field(&["query", "model_id"], "field required"));
    };
    let (limit, offset) = page(world, query)?;
    let wanted = Wanted {
        model_id: model_id.clone(),
        from_ms: integer(query, "from_date")?,
        to_ms: integer(query, "to_date")?,
        status: query.get("call_status").cloned(),
        phone: query.get("lead_phone_number").cloned(),
        duration_min_s: integer(query, "duration_min")?,
        duration_max_s: integer(query, "duration_max")?,
        only_ended: world.config.guesses.list_only_ended,
        now_us: world.timeline.now_us(),
        lag_us: world.config.guesses.list_lag_ms * 1000,
    };
    let now_ms = world.timeline.call_ms(wanted.now_us);
    let found = match world.agent_of(account, model_id) {
        Some(_) => world.calls.wanted(&wanted, now_ms),
        None => Vec::new(),
    };
    let tell = |call: &&super::calls::Call| call.listed(now_ms);
    let calls: Vec<Value> = match world.config.guesses.list_order {
        ListOrder::OldestFirst => found.iter().skip(offset).take(limit).map(tell).collect(),
        ListOrder::NewestFirst => found.iter().rev().skip(offset).take(limit).map(tell).collect(),
    };
    let pagination = json!({ "total_records": found.len(), "limit": limit, "offset": offset });
    Ok(Reply::response(json!({ "pagination": pagination, "calls": calls })))
}

pub fn get_call(world: &mut World, account: &str, call_id: &str) -> Result<Reply, Reply> {
    let now_us = world.timeline.now_us();
    let now_ms = world.timeline.call_ms(now_us);
    let fresh_ms = world.config.guesses.fresh_call_404_ms;
    let status_key = world.config.guesses.record_status_key;
    let known = world
        .calls
        .get(call_id)
        .filter(|call| world.agent_of(account, &call.model_id).is_some())
        .filter(|call| now_us >= call.received_us + fresh_ms.max(call.made.fate.fresh_404_ms) * 1000);
    match known {
        Some(call) => Ok(Reply::response(json!({ "calls": [call.record(now_ms, status_key)] }))),
        None => Err(Reply::error(404, "Call not found.", &mut world.dice())),
    }
}

pub fn list_assistants(world: &mut World, account: &str, query: &Query) -> Result<Reply, Reply> {
    let (limit, offset) = page(world, query)?;
    let mut agents: Vec<_> = world.agents.iter().filter(|(_, agent)| agent.account == account).collect();
    agents.sort_by_key(|(model_id, _)| model_id.as_str());
    let told = agents.iter().skip(offset).take(limit).map(
        |(model_id, agent)| json!({ "model_id": model_id, "name": agent.name, "type": agent.kind, "description": null }),
    );
    let told: Vec<Value> = told.collect();
    let pagination = json!({ "total_records": agents.len(), "limit": limit, "offset": offset });
    Ok(Reply::response(json!({ "pagination": pagination, "assistants": told })))
}

pub fn get_assistant(world: &mut World, account: &str, model_id: &str) -> Result<Reply, Reply> {
    if let Some(status) = world.assistant_status {
        return Err(Reply::error(status, "As the test asked for.", &mut world.dice()));
    }
    let in_object = world.config.guesses.assistant_in_object;
    let Some(agent) = world.agent_of(account, model_id) else { return Err(unknown_assistant(world)) };
    let numbers: Vec<Value> =
        agent.pool.iter().map(|n| json!({ "number": n.number, "sid": n.sid, "slug": n.slug })).collect();
    let told = json!({
        "model_id": model_id, "name": agent.name, "type": agent.kind,
        "phone_number": agent.pool.first().map(|n| &n.number),
        "attached_phone_numbers": numbers,
    });
    let told = if in_object { told } else { json!([told]) };
    Ok(Reply::response(json!({ "assistants": told })))
}

fn unknown_assistant(world: &mut World) -> Reply {
    Reply::error(404, "Assistant not found.", &mut world.dice())
}

/// PUT: `phone_numbers` or `phone_number_slugs`, not both; adds to what is attached.
pub fn attach(world: &mut World, account: &str, model_id: &str, body: &[u8]) -> Result<Reply, Reply> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let list = |key: &str| -> Option<Vec<String>> {
        let items = body.get(key)?.as_array()?;
        items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let wanted: Vec<Wants> = match (list("phone_numbers"), list("phone_number_slugs")) {
        (Some(numbers), None) => numbers.into_iter().map(Wants::Number).collect(),
        (None, Some(slugs)) => slugs.into_iter().map(Wants::Slug).collect(),
        _ => {
            let text = "Provide either phone_numbers or phone_number_slugs, not both.";
            return Err(Reply::error(400, text, &mut world.dice()));
        }
    };
    let Some(agent) = world.agent_of(account, model_id) else { return Err(unknown_assistant(world)) };
    if agent.kind != "outbound" {
        let text = "Phone number pooling is only available for outbound assistants.";
        return Err(Reply::error(400, text, &mut world.dice()));
    }
    let owned = world.owned_by(account);
    let mut found = Vec::new();
    for wants in &wanted {
        match owned.iter().find(|number| wants.is(number)) {
            Some(number) => found.push(number.clone()),
            None => return Err(Reply::error(404, "Phone number not found.", &mut world.dice())),
        }
    }
    if let Some(agent) = world.agents.get_mut(model_id) {
        let new = found.into_iter().filter(|n| !agent.pool.contains(n)).collect::<Vec<_>>();
        agent.pool.extend(new);
    }
    Ok(Reply::ok())
}

enum Wants {
    Number(String),
    Slug(String),
}

impl Wants {
    fn is(&self, number: &NumberConfig) -> bool {
        match self {
            Wants::Number(wanted) => number.number == *wanted,
            Wants::Slug(wanted) => number.slug == *wanted,
        }
    }
}

/// DELETE by slug: at once. The account keeps the number.
pub fn detach(world: &mut World, account: &str, model_id: &str, slug: &str) -> Result<Reply, Reply> {
    if world.agent_of(account, model_id).is_none() {
        return Err(unknown_assistant(world));
    }
    let pool = world.agents.get_mut(model_id).map(|agent| &mut agent.pool);
    let taken = pool.and_then(|pool| {
        let index = pool.iter().position(|number| number.slug == slug)?;
        Some(pool.remove(index))
    });
    match taken {
        Some(number) => {
            if let Some(account) = world.accounts.get_mut(account)
                && !account.config.numbers.contains(&number)
            {
                account.config.numbers.push(number);
            }
            Ok(Reply::ok())
        }
        None => Err(Reply::error(404, "Phone number is not attached to the assistant.", &mut world.dice())),
    }
}

/// The numbers of a workspace: imported ones (without `sid`) are left out.
pub fn list_numbers(world: &mut World, account: &str, query: &Query) -> Result<Reply, Reply> {
    let Some(workspace) = query.get("workspace") else {
        return Err(Reply::field(&["query", "workspace"], "field required"));
    };
    let own = world
        .accounts
        .get(account)
        .map(|a| a.config.workspace.clone().unwrap_or_else(|| a.config.name.clone()));
    let owned = if own.as_ref() == Some(workspace) { world.owned_by(account) } else { Vec::new() };
    let told: Vec<Value> = owned
        .iter()
        .filter(|n| n.sid.is_some())
        .map(|n| json!({ "phone_number": n.number, "sid": n.sid, "slug": n.slug }))
        .collect();
    Ok(Reply::response(json!({ "phone_numbers": told })))
}

//! What a new document would change, entry by entry.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Settings;

/// One entry that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Such as `number +16286666348` or `rule acme, California`.
    pub entry: String,
    #[serde(flatten)]
    pub what: Difference,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Difference {
    Added,
    Removed,
    Changed { keys: Vec<KeyChange> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyChange {
    pub key: String,
    pub was: Value,
    pub now: Value,
}

/// Differences in the order of entries' names: defaults, agents, numbers, campaigns, rules. A rule's place in the file
/// is one of its keys, as the first match wins.
pub fn diff(was: &Settings, now: &Settings) -> Vec<Change> {
    let (mut was, now) = (entries(was), entries(now));
    let mut changes = Vec::new();
    for (name, now) in now {
        let what = match was.remove(&name) {
            None => Difference::Added,
            Some(was) if was == now => continue,
            Some(was) => Difference::Changed { keys: key_changes(&was, &now) },
        };
        changes.push((name, what));
    }
    changes.extend(was.into_keys().map(|name| (name, Difference::Removed)));
    changes.sort_by(|a, b| a.0.cmp(&b.0));
    changes.into_iter().map(|((_, entry), what)| Change { entry, what }).collect()
}

/// Kind's rank and name of each entry, and its keys.
type Entries = BTreeMap<(u8, String), Map<String, Value>>;

fn entries(settings: &Settings) -> Entries {
    let agents = settings.agents.iter().map(|a| ((1, format!("agent {}", a.model_id)), keys_of(a)));
    let numbers = settings.numbers.iter().map(|n| ((2, format!("number {}", n.number.as_str())), keys_of(n)));
    let campaigns = settings.campaigns.iter().map(|c| ((3, format!("campaign {}", c.id)), keys_of(c)));
    let rules = (1..).zip(&settings.rules).map(|(place, rule)| {
        let mut keys = keys_of(rule);
        keys.insert("place".to_owned(), Value::from(place));
        ((4, format!("rule {}", rule.name)), keys)
    });
    let defaults = ((0, "defaults".to_owned()), keys_of(&settings.defaults));
    std::iter::once(defaults).chain(agents).chain(numbers).chain(campaigns).chain(rules).collect()
}

fn keys_of(entry: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(entry) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    }
}

fn key_changes(was: &Map<String, Value>, now: &Map<String, Value>) -> Vec<KeyChange> {
    let value = |keys: &Map<String, Value>, key: &str| keys.get(key).cloned().unwrap_or(Value::Null);
    let mut names: Vec<&String> = was.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|key| KeyChange { key: key.clone(), was: value(was, key), now: value(now, key) })
        .filter(|change| change.was != change.now)
        .collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Difference::Added => write!(f, "+ {}", self.entry),
            Difference::Removed => write!(f, "- {}", self.entry),
            Difference::Changed { keys } => {
                write!(f, "~ {}", self.entry)?;
                keys.iter().try_for_each(|k| write!(f, "\n    {}: {} -> {}", k.key, k.was, k.now))
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::super::parse;
    use super::*;

    fn lines(was: &str, now: &str) -> Vec<String> {
        diff(&parse(was).unwrap(), &parse(now).unwrap()).iter().map(Change::to_string).collect()
    }

    #[test]
    fn every_entry_that_differs_is_told() {
        let was = "[[campaign]]\nid = 'a'\n[[number]]\nnumber = '+16286666348'\n[[rule]]\nname = 'x'\n[[rule]]\nname = 'y'\n";
        assert!(lines(was, was).is_empty());
        let now = "[defaults]\nno_route = 'refuse'\n[[campaign]]\nid = 'a'\nweight = 2\n[[campaign]]\nid = 'b'\n\
                   [[rule]]\nname = 'y'\n[[rule]]\nname = 'x'\n";
        assert_eq!(
            lines(was, now),
            [
                "~ defaults\n    no_route: \"hold\" -> \"refuse\"",
                "- number +16286666348",
                "~ campaign a\n    weight: 1 -> 2",
                "+ campaign b",
                "~ rule x\n    place: 1 -> 2",
                "~ rule y\n    place: 2 -> 1",
            ]
        );
    }
}

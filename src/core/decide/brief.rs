//! What is stored with every attempt: why this number, in a few hundred bytes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::select::excluded;
use super::{NumberUse, Plan, Tier, TierSource, World};
use crate::core::ids::RoutingVersion;
use crate::core::rules::Use;

/// The decision as a JSON object of at most some 500 bytes. `world` tells why numbers of the agent were passed over, as
/// long as it still has the rules of `version`, under which was decided.
pub fn brief(
    world: &World,
    version: RoutingVersion,
    plan: &Plan,
    tier: usize,
    used: Option<NumberUse>,
) -> Value {
    let mut said = Map::new();
    said.insert("routing_version".to_owned(), json!(version));
    let Some(at) = plan.tiers.get(tier) else { return Value::Object(said) };
    said.insert("rule".to_owned(), json!(at.source.name()));
    if !matches!(at.source, TierSource::AgentDefault { .. }) {
        said.insert("strategy".to_owned(), json!(at.strategy));
        said.insert("sticky".to_owned(), json!(at.sticky));
        said.insert("candidates".to_owned(), json!(at.candidates.len()));
        if world.version == version {
            said.insert("excluded".to_owned(), json!(at.excluded_counts(world, plan)));
        }
    }
    // Rules before it, whose numbers were all at their limit.
    if tier > 0 {
        said.insert("overflowed".to_owned(), json!(tier));
    }
    if let Some(used) = used {
        said.insert("share".to_owned(), json!((used.share * 1_000.0).round() / 1_000.0));
        said.insert("last_call".to_owned(), json!(used.last_call));
    }
    Value::Object(said)
}

impl Tier {
    /// How many of the agent's numbers the rule left out, by the reason; counted once a list.
    fn excluded_counts(&self, world: &World, plan: &Plan) -> &BTreeMap<&'static str, usize> {
        self.candidates.excluded.get_or_init(|| {
            let mut counts = BTreeMap::new();
            let pinned =
                Use { numbers: self.candidates.iter().map(|c| c.number.clone()).collect(), ..Use::default() };
            let uses = match &self.source {
                TierSource::Rule { index, .. } => world.rules.rules().get(*index).map(|rule| &rule.uses),
                _ => Some(&pinned),
            };
            if let (Some(uses), Some(pool)) = (uses, world.pools.get(&plan.model)) {
                for attached in pool.numbers() {
                    if let Some(why) = excluded(world, pool, uses, &attached.number) {
                        *counts.entry(why.as_str()).or_default() += 1;
                    }
                }
            }
            counts
        })
    }
}

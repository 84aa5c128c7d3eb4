//! Which caller ID a job gets, or why it gets none. One pure function that worker, `explain` and tests all run:
//! [`decide`] settles everything that holds for a whole class of jobs, [`choose`] picks one of its numbers by how much
//! each has been used.

mod brief;
mod candidates;
mod choose;
mod explain;
mod ranking;
mod render;
mod select;
mod world;

pub use brief::brief;
pub use candidates::{Candidate, Candidates, Lists};
pub use choose::{Choice, NumberUse, choose, choose_by};
pub use explain::{
    CandidateSaid, Did, ExcludedSaid, Explanation, Outcome, Question, RuleSaid, WindowSaid, explain,
};
pub use ranking::Rankings;
pub use select::Exclusion;
pub use world::*;

use std::sync::Arc;

use crate::core::ids::{AccountName, Brand, ModelId};
use crate::core::phone::E164;
use crate::core::place::Place;
use crate::core::rules::compile::Asked;
use crate::core::rules::{NoRoute, Otherwise, Overflow, Rule, Strategy};
use crate::core::states::Reason;

/// What may be done with the jobs of a class.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// They wait; something has to change first.
    Hold(Reason),
    /// They are over.
    Refuse(Reason),
    Dial(Plan),
}

/// With which agent, and from which numbers, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub model: ModelId,
    /// The publisher's, else the campaign's: part of the sticky key.
    pub brand: Option<Brand>,
    pub account: AccountName,
    /// Never empty. The next is looked at when every number of one is at its limit and its rule says `next`.
    pub tiers: Vec<Tier>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tier {
    pub source: TierSource,
    pub strategy: Strategy,
    pub sticky: bool,
    pub overflow: Overflow,
    pub candidates: Arc<Candidates>,
    /// Where the callees are, for [`Strategy::LocalPresence`].
    callees: Place,
}

/// Who says that these numbers may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierSource {
    /// The publisher's `from_phone_number`.
    Publisher,
    /// A rule, by its place in the file (from 0).
    Rule { index: usize, name: String },
    /// No number of ours: the provider picks. By the rule's `otherwise`, or (none) by `no_route`.
    AgentDefault { rule: Option<(usize, String)> },
}

impl TierSource {
    /// As recorded in `calls.rule`.
    pub fn name(&self) -> &str {
        match self {
            TierSource::Publisher => "from_phone_number",
            TierSource::Rule { name, .. } | TierSource::AgentDefault { rule: Some((_, name)) } => name,
            TierSource::AgentDefault { rule: None } => "no_route",
        }
    }
}

/// The decision for a class of jobs. What holds for all of them is asked first, the rules last.
pub fn decide(world: &World, class: &Class) -> Decision {
    decide_among(world, class, &mut Lists::default())
}

/// The same, for many classes of one world, which keep their lists together.
pub fn decide_among(world: &World, class: &Class, lists: &mut Lists) -> Decision {
    decide_seen(world, class, lists, &mut |_, _| {})
}

/// [`decide`], telling of each rule that matched, by its place in the file, what came of it.
fn decide_seen(
    world: &World,
    class: &Class,
    lists: &mut Lists,
    saw: &mut impl FnMut(usize, Step),
) -> Decision {
    let settled = match gate(world, class) {
        Ok(settled) => settled,
        Err(decision) => return decision,
    };
    let tiers = match &class.pinned {
        Some(pinned) => pinned_tier(world, class, &settled, pinned).map(|tier| vec![tier]),
        None => walk(world, class, &settled, lists, saw),
    };
    match tiers {
        Ok(tiers) => Decision::Dial(Plan {
            model: settled.model,
            brand: settled.brand,
            account: settled.account,
            tiers,
        }),
        Err(decision) => decision,
    }
}

/// What is settled of a class once nothing but the numbers is open.
struct Settled {
    model: ModelId,
    brand: Option<Brand>,
    account: AccountName,
    pool: Arc<Pool>,
}

/// The reasons that hold before any number is looked at, in their order.
fn gate(world: &World, class: &Class) -> Result<Settled, Decision> {
    let hold = |reason| Err(Decision::Hold(reason));
    if world.kill_switch {
        return hold(Reason::KillSwitch);
    }
    match world.campaigns.get(&class.campaign) {
        Some(CampaignState::Paused) => return hold(Reason::CampaignPaused),
        Some(CampaignState::Canceled) => return hold(Reason::Canceled),
        Some(CampaignState::Active) | None => {}
    }
    if world.version.0 == 0 {
        return hold(Reason::NoRoute);
    }
    let campaign = world.rules.campaign(&class.campaign);
    let Some(model) = class.model.clone().or_else(|| campaign?.model_id.clone()) else {
        return hold(Reason::NoAgent);
    };
    let account = world.rules.account(&model).clone();
    match world.accounts.get(&account) {
        Some(AccountState::Active) => {}
        Some(AccountState::ProviderUnavailable) => return hold(Reason::ProviderUnavailable),
        Some(AccountState::Paused) | None => return hold(Reason::AccountPaused),
    }
    let listed = campaign.and_then(|c| c.destinations.as_deref());
    if let Some(listed) = listed
        && !class.country.is_some_and(|country| listed.contains(&country))
    {
        return Err(Decision::Refuse(Reason::DestinationNotAllowed));
    }
    let pool = match world.pools.get(&model) {
        Some(pool) => match pool.state {
            PoolState::Current => pool.clone(),
            PoolState::AgentUnavailable => return hold(Reason::AgentUnavailable),
            PoolState::NeverRead | PoolState::Stale => return hold(Reason::PoolUnknown),
        },
        None => return hold(Reason::PoolUnknown),
    };
    if listed.is_none() {
        // An empty pool allows no country, but it will not stay empty: nothing is refused for it.
        if pool.numbers().is_empty() {
            return hold(Reason::NoEligibleNumber);
        }
        if !class.country.is_some_and(|country| pool.countries().contains(&country)) {
            return Err(Decision::Refuse(Reason::DestinationNotAllowed));
        }
    }
    let brand = class.brand.clone().or_else(|| campaign?.brand.clone());
    Ok(Settled { model, brand, account, pool })
}

fn pinned_tier(world: &World, class: &Class, settled: &Settled, pinned: &E164) -> Result<Tier, Decision> {
    let Some(attached) = settled.pool.get(pinned) else {
        return Err(Decision::Hold(Reason::FromNumberNotInPool));
    };
    if !world.number_state(pinned).is_eligible() {
        return Err(Decision::Hold(Reason::NoEligibleNumber));
    }
    Ok(Tier {
        source: TierSource::Publisher,
        strategy: Strategy::LeastUsed,
        sticky: false,
        overflow: Overflow::Wait,
        candidates: Arc::new(Candidates::new(vec![select::candidate(world, attached, 1)])),
        callees: class.place(),
    })
}

/// What came of a rule that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It gave a tier.
    Tier,
    /// It had no eligible number, and its `otherwise` was followed.
    Otherwise(Otherwise),
}

/// The rules in file order. A job that one rule has numbers for is neither held nor refused by a later one, which it
/// only reached because those numbers are at their limit for a moment: it waits for them.
fn walk(
    world: &World,
    class: &Class,
    settled: &Settled,
    lists: &mut Lists,
    saw: &mut impl FnMut(usize, Step),
) -> Result<Vec<Tier>, Decision> {
    let asked = settled.asked(class);
    let mut tiers = Vec::new();
    for (index, rule) in world.rules.matching(&asked) {
        let list = || select::candidates(world, &settled.pool, rule);
        let candidates = lists.of_rule(&settled.model, index, list);
        let step = if candidates.is_empty() { Step::Otherwise(rule.otherwise) } else { Step::Tier };
        saw(index, step);
        match step {
            Step::Tier => {
                tiers.push(Tier::of_rule(index, rule, candidates, class.place()));
                if rule.overflow == Overflow::Wait {
                    return Ok(tiers);
                }
            }
            Step::Otherwise(Otherwise::Next) => {}
            Step::Otherwise(Otherwise::AgentDefault) => {
                tiers.push(Tier::agent_default(Some((index, rule.name.clone()))));
                return Ok(tiers);
            }
            Step::Otherwise(_) if !tiers.is_empty() => return Ok(tiers),
            Step::Otherwise(Otherwise::Hold) => return Err(Decision::Hold(Reason::NoEligibleNumber)),
            Step::Otherwise(Otherwise::Refuse) => return Err(Decision::Refuse(Reason::NoEligibleNumber)),
        }
    }
    if !tiers.is_empty() {
        return Ok(tiers);
    }
    match world.rules.settings().defaults.no_route {
        NoRoute::Hold => Err(Decision::Hold(Reason::NoRoute)),
        NoRoute::Refuse => Err(Decision::Refuse(Reason::NoRoute)),
        NoRoute::AgentDefault => Ok(vec![Tier::agent_default(None)]),
    }
}

impl Settled {
    fn asked<'a>(&'a self, class: &'a Class) -> Asked<'a> {
        Asked {
            campaign: &class.campaign,
            model: &self.model,
            brand: self.brand.as_ref(),
            region: class.region,
        }
    }
}

impl Tier {
    pub(in crate::core) fn of_rule(
        index: usize,
        rule: &Rule,
        candidates: Arc<Candidates>,
        callees: Place,
    ) -> Self {
        Self {
            source: TierSource::Rule { index, name: rule.name.clone() },
            strategy: rule.strategy,
            sticky: rule.sticky,
            overflow: rule.overflow,
            candidates,
            callees,
        }
    }

    fn agent_default(rule: Option<(usize, String)>) -> Self {
        Self {
            source: TierSource::AgentDefault { rule },
            strategy: Strategy::LeastUsed,
            sticky: false,
            overflow: Overflow::Wait,
            candidates: Arc::default(),
            callees: Place::default(),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where its ground gives way")]
pub(crate) mod reference;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its ground gives way")]
mod tests;

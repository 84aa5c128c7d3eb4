//! The decision for one job, told in full: every rule and why it was passed over, every number and why it was left
//! out, when the job could be dialed. It runs [`decide`](super::decide)'s own steps and only writes down what they saw.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use super::select::{Exclusion, excluded, region_of};
use super::{
    Callee, Candidate, Candidates, Choice, Class, Decision, Lists, NumberUse, Settled, Step, Tier,
    TierSource, World, choose,
};
use crate::core::hours::HoursVerdict;
use crate::core::ids::{AccountName, Brand, CampaignId, ModelId, RoutingVersion};
use crate::core::phone::E164;
use crate::core::place::{Country, Region};
use crate::core::rules::compile::MatchKey;
use crate::core::rules::{Otherwise, Overflow, Rule, Strategy};
use crate::core::states::{Reason, words};
use crate::core::usage::Used;

/// What is asked: a job of that class, now.
pub struct Question<'a> {
    pub world: &'a World,
    pub class: &'a Class,
    pub now: DateTime<Utc>,
    pub not_before: Option<DateTime<Utc>>,
    /// Those the callee may be in: [`crate::core::hours::zones_of_callee`].
    pub zones: &'a [Tz],
    pub callee: Callee<'a>,
    /// Before then caps keep the callee from being called again.
    pub again_at: Option<DateTime<Utc>>,
    /// The number the callee knows.
    pub sticky: Option<&'a E164>,
    /// For `weighted`.
    pub draw: u64,
    pub usage: &'a dyn Fn(&E164) -> NumberUse,
    /// The figures behind it, where they were read.
    pub figures: &'a dyn Fn(&E164) -> Option<Used>,
}

impl std::fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("class", self.class).finish_non_exhaustive()
    }
}

words!(
    /// What would become of the job now.
    Outcome {
        Dial = "dial",
        Wait = "wait",
        Refuse = "refuse",
    }
);

/// The answer. Caller IDs stand in it whole: they are the operator's own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub routing_version: RoutingVersion,
    /// The version of the legal hours and caps that ship; null where the routing asks for none.
    pub calling_rules_version: Option<String>,
    pub campaign_id: CampaignId,
    pub model_id: Option<ModelId>,
    pub account: Option<AccountName>,
    pub brand: Option<Brand>,
    pub region: Option<Region>,
    pub country: Option<Country>,
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    /// Null where the agent's default is used.
    pub from_phone_number: Option<String>,
    pub rule: Option<String>,
    /// When it could be dialed; null where only a person or the provider can release it.
    pub at: Option<DateTime<Utc>>,
    pub time_zones: Vec<&'static str>,
    /// In file order; empty where what holds the job comes before any rule.
    pub rules: Vec<RuleSaid>,
}

/// What one rule did with the job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleSaid {
    /// In the file, from 1; null: the publisher's `from_phone_number`.
    pub place: Option<usize>,
    pub name: String,
    #[serde(flatten)]
    pub did: Did,
    pub candidates: Vec<CandidateSaid>,
    pub excluded: Vec<ExcludedSaid>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "did", rename_all = "snake_case")]
pub enum Did {
    NotMatched { key: MatchKey },
    NoEligibleNumber { otherwise: Otherwise },
    OfferedNumbers { strategy: Strategy, sticky: bool, overflow: Overflow },
    NotReached,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateSaid {
    pub number: String,
    pub chosen: bool,
    /// Whether it could take a call now.
    pub free: bool,
    pub next_at: Option<DateTime<Utc>>,
    pub last_call: Option<DateTime<Utc>>,
    pub weight: u32,
    /// For `local_presence`: 0 same area code, 1 region, 2 country, 3 elsewhere.
    pub nearness: u8,
    /// Of its tightest window.
    pub share: f64,
    pub windows: Vec<WindowSaid>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowSaid {
    pub window: &'static str,
    pub used: u32,
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExcludedSaid {
    pub number: String,
    pub reason: Exclusion,
    /// What of the number is not as the rule wants it.
    pub has: Option<String>,
}

/// Explains what would become of the job.
pub fn explain(question: &Question) -> Explanation {
    let (world, class) = (question.world, question.class);
    let campaign = world.rules.campaign(&class.campaign);
    let model = class.model.clone().or_else(|| campaign?.model_id.clone());
    let mut said = Explanation {
        routing_version: world.version,
        calling_rules_version: world.rules.law().map(|law| law.version.clone()),
        campaign_id: class.campaign.clone(),
        account: model.as_ref().map(|model| world.rules.account(model).clone()),
        model_id: model,
        brand: class.brand.clone().or_else(|| campaign?.brand.clone()),
        region: class.region,
        country: class.country,
        outcome: Outcome::Wait,
        reason: None,
        from_phone_number: None,
        rule: None,
        at: None,
        time_zones: question.zones.iter().map(|zone| zone.name()).collect(),
        rules: Vec::new(),
    };
    let mut steps = Vec::new();
    match super::decide_seen(world, class, &mut Lists::default(), &mut |index, step| {
        steps.push((index, step))
    }) {
        Decision::Hold(reason) => said.settle(Outcome::Wait, Some(reason), None),
        Decision::Refuse(reason) => said.settle(Outcome::Refuse, Some(reason), None),
        Decision::Dial(plan) => {
            let choice = choose(&plan, &|number| (question.usage)(number), question.sticky, question.draw);
            said.take(choice, &plan.tiers);
            said.hold_for_time(question);
            if let Some(reason) = world.refusal(&class.campaign, said.brand.as_ref(), &question.callee) {
                said.settle(Outcome::Refuse, Some(reason), None);
            }
            if class.pinned.is_some() {
                said.rules.extend(plan.tiers.iter().map(|tier| pinned_said(question, tier)));
            }
        }
    }
    if class.pinned.is_none()
        && let Ok(settled) = super::gate(world, class)
    {
        said.rules = rules_said(question, &settled, &steps);
    }
    said.mark_chosen();
    said
}

impl Explanation {
    fn settle(&mut self, outcome: Outcome, reason: Option<Reason>, at: Option<DateTime<Utc>>) {
        (self.outcome, self.reason, self.at) = (outcome, reason, at);
    }

    fn take(&mut self, choice: Choice, tiers: &[Tier]) {
        let name = |tier: usize| tiers.get(tier).map(|tier| tier.source.name().to_owned());
        match choice {
            Choice::Number { number, tier, .. } => {
                self.settle(Outcome::Dial, None, None);
                (self.from_phone_number, self.rule) = (Some(number.as_str().to_owned()), name(tier));
            }
            Choice::AgentDefault { tier } => {
                self.settle(Outcome::Dial, None, None);
                self.rule = name(tier);
            }
            Choice::Full { next_at } => self.settle(Outcome::Wait, Some(Reason::NumberLimit), next_at),
        }
    }

    /// Dates of the job's own come before a number's: it isn't dialed before the last of them.
    fn hold_for_time(&mut self, question: &Question) {
        let start = question.not_before.map_or(question.now, |date| date.max(question.now));
        if start > question.now {
            self.settle(Outcome::Wait, Some(Reason::NotBefore), self.at.max(Some(start)));
        }
        if let Some(again) = question.again_at.filter(|again| *again > start) {
            self.settle(Outcome::Wait, Some(Reason::RecipientLimit), self.at.max(Some(again)));
        }
        let hours = question.world.hours(question.class);
        if hours.are_unlimited() {
            return;
        }
        if question.zones.is_empty() {
            self.settle(Outcome::Wait, Some(Reason::TimezoneUnknown), None);
        } else if let HoursVerdict::Closed { opens_at } = hours.judge(question.zones, start) {
            self.settle(
                Outcome::Wait,
                Some(Reason::OutsideWindow),
                opens_at.map(|at| self.at.max(Some(at)).unwrap_or(at)),
            );
        }
    }

    fn mark_chosen(&mut self) {
        let (Some(number), Some(rule)) = (&self.from_phone_number, &self.rule) else { return };
        for said in self.rules.iter_mut().filter(|said| said.name == *rule) {
            for candidate in &mut said.candidates {
                candidate.chosen = candidate.number == *number;
            }
        }
    }
}

fn rules_said(question: &Question, settled: &Settled, steps: &[(usize, Step)]) -> Vec<RuleSaid> {
    let asked = settled.asked(question.class);
    let rules = question.world.rules.rules().iter().enumerate();
    rules
        .map(|(index, rule)| {
            let did = match (rule.mismatch(&asked), steps.iter().find(|(at, _)| *at == index)) {
                (Some(key), _) => Did::NotMatched { key },
                (None, None) => Did::NotReached,
                (None, Some((_, Step::Otherwise(otherwise)))) => {
                    Did::NoEligibleNumber { otherwise: *otherwise }
                }
                (None, Some((_, Step::Tier))) => Did::OfferedNumbers {
                    strategy: rule.strategy,
                    sticky: rule.sticky,
                    overflow: rule.overflow,
                },
            };
            let looked_at = matches!(did, Did::NoEligibleNumber { .. } | Did::OfferedNumbers { .. });
            let (candidates, excluded) =
                if looked_at { numbers_said(question, settled, (index, rule)) } else { Default::default() };
            RuleSaid { place: Some(index + 1), name: rule.name.clone(), did, candidates, excluded }
        })
        .collect()
}

/// The agent's numbers and those that the rule names, each as a candidate or with what excludes it.
fn numbers_said(
    question: &Question,
    settled: &Settled,
    (index, rule): (usize, &Rule),
) -> (Vec<CandidateSaid>, Vec<ExcludedSaid>) {
    let (world, pool) = (question.world, &settled.pool);
    let candidates = Arc::new(Candidates::new(super::select::candidates(world, pool, rule)));
    let tier = Tier::of_rule(index, rule, candidates, question.class.place());
    let mut numbers: Vec<&E164> =
        pool.numbers().iter().map(|n| &n.number).chain(&rule.uses.numbers).collect();
    numbers.sort();
    numbers.dedup();
    let out = numbers.into_iter().filter_map(|number| {
        let reason = excluded(world, pool, &rule.uses, number)?;
        let entry = world.rules.number(number);
        let has = match reason {
            Exclusion::State => Some(world.number_state(number).to_string()),
            Exclusion::Brand => entry.and_then(|e| e.brand.as_ref()).map(Brand::to_string),
            Exclusion::Region => pool.get(number).and_then(|n| region_of(world, n)).map(|r| r.to_string()),
            Exclusion::Tags => entry.map(|e| e.tags.join(", ")).filter(|tags| !tags.is_empty()),
            Exclusion::NotAttached | Exclusion::Numbers => None,
        };
        Some(ExcludedSaid { number: number.as_str().to_owned(), reason, has })
    });
    (candidates_said(question, &tier), out.collect())
}

fn pinned_said(question: &Question, tier: &Tier) -> RuleSaid {
    RuleSaid {
        place: None,
        name: TierSource::Publisher.name().to_owned(),
        did: Did::OfferedNumbers { strategy: tier.strategy, sticky: tier.sticky, overflow: tier.overflow },
        candidates: candidates_said(question, tier),
        excluded: Vec::new(),
    }
}

fn candidates_said(question: &Question, tier: &Tier) -> Vec<CandidateSaid> {
    tier.candidates
        .iter()
        .map(|candidate| candidate_said(question, candidate, tier.nearness(candidate)))
        .collect()
}

fn candidate_said(question: &Question, candidate: &Candidate, nearness: u8) -> CandidateSaid {
    let Candidate { number, weight, .. } = candidate;
    let used = (question.usage)(number);
    let limits = question.world.rules.number_limits(number);
    let windows = (question.figures)(number).map_or(Vec::new(), |figures| {
        [
            ("second", figures.second, limits.per_second),
            ("minute", figures.minute, limits.per_minute),
            ("hour", figures.hour, limits.per_hour),
            ("day", figures.day, limits.per_day),
            ("concurrent", figures.concurrent, limits.concurrent),
        ]
        .into_iter()
        .filter_map(|(window, used, limit)| Some(WindowSaid { window, used, limit: limit? }))
        .collect()
    });
    CandidateSaid {
        number: number.as_str().to_owned(),
        chosen: false,
        free: used.free,
        next_at: used.next_at,
        last_call: used.last_call,
        weight: *weight,
        nearness,
        share: used.share,
        windows,
    }
}

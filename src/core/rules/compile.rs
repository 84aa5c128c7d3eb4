//! Settings compiled to look-ups: what a decision asks is answered by hash, not by searching lists.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use super::settings::{
    AgentSettings, CallingRules, CampaignSettings, EXPIRES_AFTER_DEFAULT, Limits, NumberSettings, Rule,
    Settings,
};
use crate::core::hours::{Law, LawError};
use crate::core::ids::{AccountName, Brand, CampaignId, ModelId};
use crate::core::phone::E164;
use crate::core::place::Region;
use crate::core::states::words;

/// The rules of one version, ready to decide by. Made once a version, shared by all who decide.
#[derive(Debug)]
pub struct Compiled {
    settings: Settings,
    account_default: AccountName,
    agents: HashMap<ModelId, usize>,
    numbers: HashMap<E164, usize>,
    campaigns: HashMap<CampaignId, usize>,
    rules: RuleIndex,
    by_brand: HashMap<Brand, Vec<E164>>,
    by_tag: HashMap<String, Vec<E164>>,
    by_region: HashMap<Region, Vec<E164>>,
    /// Where the settings call for it.
    law: Option<Law>,
}

impl Default for Compiled {
    /// No rules at all: before the first `routing apply`.
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

/// The legal hours and caps that the settings call for.
fn law_of(settings: &Settings) -> Result<Option<Law>, LawError> {
    match settings.defaults.calling_rules {
        CallingRules::None => Ok(None),
        CallingRules::Standard => Law::built_in()?.with(&settings.calling_rules).map(Some),
    }
}

impl Compiled {
    /// Settings that somebody else has read: another version of this program, whose rules may be unknown to this one.
    ///
    /// # Errors
    /// Where the law that they call for can't be followed: nobody may be called as if there were none.
    pub fn of_stored(settings: Settings) -> Result<Self, LawError> {
        law_of(&settings)?;
        Ok(Self::new(settings))
    }

    /// Settings that were just read, and so their law.
    pub fn new(settings: Settings) -> Self {
        let agents = index_by(&settings.agents, |agent| agent.model_id.clone());
        let numbers = index_by(&settings.numbers, |entry| entry.number.clone());
        let campaigns = index_by(&settings.campaigns, |campaign| campaign.id.clone());
        let (mut by_brand, mut by_tag, mut by_region) = (HashMap::new(), HashMap::new(), HashMap::new());
        for entry in &settings.numbers {
            if let Some(brand) = &entry.brand {
                list_under(&mut by_brand, brand.clone(), entry);
            }
            for tag in &entry.tags {
                list_under(&mut by_tag, tag.clone(), entry);
            }
            if let Some(region) = entry.region {
                list_under(&mut by_region, region, entry);
                if region.is_part() {
                    list_under(&mut by_region, region.country().into(), entry);
                }
            }
        }
        let rules = RuleIndex::new(&settings.rules);
        let account_default = AccountName::default_account();
        let law = law_of(&settings).unwrap_or_default();
        Self {
            law,
            settings,
            account_default,
            agents,
            numbers,
            campaigns,
            rules,
            by_brand,
            by_tag,
            by_region,
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The rules in file order.
    pub fn rules(&self) -> &[Rule] {
        &self.settings.rules
    }

    /// Where the agent belongs; one without an entry to `default`.
    pub fn account(&self, model: &ModelId) -> &AccountName {
        self.agent(model).map_or(&self.account_default, |agent| &agent.account)
    }

    pub fn agent(&self, model: &ModelId) -> Option<&AgentSettings> {
        self.settings.agents.get(*self.agents.get(model)?)
    }

    /// None: a campaign that the file doesn't mention has the defaults of [`CampaignSettings::unknown`].
    pub fn campaign(&self, id: &CampaignId) -> Option<&CampaignSettings> {
        self.settings.campaigns.get(*self.campaigns.get(id)?)
    }

    pub fn campaign_limits(&self, id: &CampaignId) -> Limits {
        self.campaign(id).map_or(Limits::UNLIMITED, |campaign| campaign.limits)
    }

    /// The legal hours and caps of callees' places. None: only the campaigns' own.
    pub fn law(&self) -> Option<&Law> {
        self.law.as_ref()
    }

    /// Whether some rule caps the calls to one phone: then it is kept count of all of them.
    pub fn keeps_recipients(&self) -> bool {
        let capped = |campaign: &CampaignSettings| campaign.recipient_limits.caps().next().is_some();
        self.law.is_some() || self.settings.campaigns.iter().any(capped)
    }

    /// The campaign's share of what is scarce.
    pub fn campaign_weight(&self, id: &CampaignId) -> u32 {
        self.campaign(id).map_or(1, |campaign| campaign.weight)
    }

    /// How long after receipt a job without `expires_at` expires.
    pub fn expires_after(&self, id: &CampaignId) -> Duration {
        self.campaign(id).map_or(EXPIRES_AFTER_DEFAULT, |campaign| campaign.expires_after)
    }

    /// None: the campaign never dials again what may have been placed.
    pub fn redial_unknown_after(&self, id: &CampaignId) -> Option<Duration> {
        self.campaign(id)?.redial_unknown_after
    }

    /// None: an attached number without an entry has no brand, no tags, derived region, default limits, weight 1.
    pub fn number(&self, number: &E164) -> Option<&NumberSettings> {
        self.settings.numbers.get(*self.numbers.get(number)?)
    }

    /// The number's own limits over the defaults.
    pub fn number_limits(&self, number: &E164) -> Limits {
        let default = &self.settings.defaults.number_limits;
        self.number(number).map_or(*default, |entry| entry.limits.over(default))
    }

    /// Numbers with an entry of that brand.
    pub fn with_brand(&self, brand: &Brand) -> &[E164] {
        self.by_brand.get(brand).map_or(&[], Vec::as_slice)
    }

    /// Numbers with an entry that has the tag.
    pub fn with_tag(&self, tag: &str) -> &[E164] {
        self.by_tag.get(tag).map_or(&[], Vec::as_slice)
    }

    /// Numbers with an entry that places them in the region or a part of it.
    pub fn with_region(&self, region: &Region) -> &[E164] {
        self.by_region.get(region).map_or(&[], Vec::as_slice)
    }
}

fn index_by<T, K: Eq + Hash>(list: &[T], key: impl Fn(&T) -> K) -> HashMap<K, usize> {
    list.iter().enumerate().map(|(at, item)| (key(item), at)).collect()
}

fn list_under<K: Eq + Hash>(lists: &mut HashMap<K, Vec<E164>>, key: K, entry: &NumberSettings) {
    lists.entry(key).or_default().push(entry.number.clone());
}

/// Finds the rules that may match a class without reading all of them: each rule is listed once for every value of
/// the first key it names, so that a class looks into one short list a key.
#[derive(Debug, Default)]
struct RuleIndex {
    by_campaign: HashMap<CampaignId, Vec<usize>>,
    by_brand: HashMap<Brand, Vec<usize>>,
    by_model: HashMap<ModelId, Vec<usize>>,
    by_region: HashMap<Region, Vec<usize>>,
    any: Vec<usize>,
}

impl RuleIndex {
    fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let keys = &rule.matches;
            if !keys.campaign.is_empty() {
                list_rule(&mut index.by_campaign, &keys.campaign, at);
            } else if !keys.brand.is_empty() {
                list_rule(&mut index.by_brand, &keys.brand, at);
            } else if !keys.model_id.is_empty() {
                list_rule(&mut index.by_model, &keys.model_id, at);
            } else if !keys.region.is_empty() {
                list_rule(&mut index.by_region, &keys.region, at);
            } else {
                index.any.push(at);
            }
        }
        index
    }
}

fn list_rule<K: Eq + Hash + Clone>(lists: &mut HashMap<K, Vec<usize>>, keys: &[K], at: usize) {
    for key in keys {
        let list = lists.entry(key.clone()).or_default();
        if list.last() != Some(&at) {
            list.push(at);
        }
    }
}

/// What of a class the rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub campaign: &'a CampaignId,
    pub model: &'a ModelId,
    pub brand: Option<&'a Brand>,
    pub region: Option<Region>,
}

words!(
    /// A key of `match` that a class doesn't meet.
    MatchKey {
        Brand = "brand",
        Region = "region",
        Campaign = "campaign",
        ModelId = "model_id",
    }
);

impl Rule {
    /// None: the rule matches. Else the first key that doesn't.
    pub fn mismatch(&self, asked: &Asked) -> Option<MatchKey> {
        let keys = &self.matches;
        let meets = |empty: bool, met: bool| empty || met;
        if !meets(keys.brand.is_empty(), asked.brand.is_some_and(|b| keys.brand.contains(b))) {
            return Some(MatchKey::Brand);
        }
        let region_met = asked.region.is_some_and(|r| keys.region.iter().any(|wanted| wanted.covers(&r)));
        if !meets(keys.region.is_empty(), region_met) {
            return Some(MatchKey::Region);
        }
        if !meets(keys.campaign.is_empty(), keys.campaign.contains(asked.campaign)) {
            return Some(MatchKey::Campaign);
        }
        if !meets(keys.model_id.is_empty(), keys.model_id.contains(asked.model)) {
            return Some(MatchKey::ModelId);
        }
        None
    }
}

impl Compiled {
    /// The rules that match, in file order, with their places in the file.
    pub fn matching<'a>(&'a self, asked: &'a Asked<'a>) -> impl Iterator<Item = (usize, &'a Rule)> + 'a {
        let index = &self.rules;
        let country = asked.region.filter(Region::is_part).map(|r| Region::from(r.country()));
        let mut lists: [&[usize]; 6] = [
            under(&index.by_campaign, Some(asked.campaign)),
            under(&index.by_brand, asked.brand),
            under(&index.by_model, Some(asked.model)),
            under(&index.by_region, asked.region.as_ref()),
            under(&index.by_region, country.as_ref()),
            &index.any,
        ];
        // A merge of sorted lists; a rule that stands in two of them (`US` and `US-CA`) comes once.
        std::iter::from_fn(move || {
            let next = lists.iter().filter_map(|list| list.first().copied()).min()?;
            for list in &mut lists {
                if list.first() == Some(&next) {
                    *list = &list[1..];
                }
            }
            Some(next)
        })
        .filter_map(|at| Some((at, self.settings.rules.get(at)?)))
        .filter(|(_, rule)| rule.mismatch(asked).is_none())
    }
}

fn under<'a, K: Eq + Hash>(lists: &'a HashMap<K, Vec<usize>>, key: Option<&K>) -> &'a [usize] {
    key.and_then(|key| lists.get(key)).map_or(&[], Vec::as_slice)
}

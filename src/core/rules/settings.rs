//! The routing settings as understood: what `outdial.routing_versions.settings` holds as JSON.
//! A value of these types has passed every check of [`super::document`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::hours::CallingRule;
use crate::core::ids::{AccountName, Brand, CampaignId, ModelId};
use crate::core::ledger::Cap;
use crate::core::phone::E164;
use crate::core::place::{Country, Region};
use crate::core::states::{Disposition, words};
use crate::core::windows::Window;

/// Calls allowed in any sliding window of that length, and at the same time. None: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_day: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
}

impl Limits {
    pub const UNLIMITED: Limits =
        Limits { per_second: None, per_minute: None, per_hour: None, per_day: None, concurrent: None };

    /// These limits, and the default's where these say nothing.
    pub fn over(&self, default: &Limits) -> Limits {
        Limits {
            per_second: self.per_second.or(default.per_second),
            per_minute: self.per_minute.or(default.per_minute),
            per_hour: self.per_hour.or(default.per_hour),
            per_day: self.per_day.or(default.per_day),
            concurrent: self.concurrent.or(default.concurrent),
        }
    }

    /// The windows that are set, shortest first: at most so many calls in that many seconds.
    pub fn windows(&self) -> impl Iterator<Item = (u32, u32)> {
        [(self.per_second, 1), (self.per_minute, 60), (self.per_hour, 3_600), (self.per_day, 86_400)]
            .into_iter()
            .filter_map(|(calls, seconds)| calls.map(|calls| (calls, seconds)))
    }
}

words!(
    /// How one of a rule's free numbers is chosen.
    Strategy {
        /// Smallest share of its tightest window.
        LeastUsed = "least_used",
        /// Oldest last call.
        RoundRobin = "round_robin",
        Weighted = "weighted",
        /// Nearest: area code, region, country.
        LocalPresence = "local_presence",
    }
);

words!(
    /// What a job does when every eligible number of its rule is at its limit.
    Overflow {
        Wait = "wait",
        Next = "next",
    }
);

words!(
    /// What a job does when its rule has no eligible number.
    Otherwise {
        Next = "next",
        Hold = "hold",
        Refuse = "refuse",
        /// The call goes out without `from_phone_number`: the provider picks.
        AgentDefault = "agent_default",
    }
);

words!(
    /// What a job does when no rule takes it.
    NoRoute {
        Hold = "hold",
        Refuse = "refuse",
        AgentDefault = "agent_default",
    }
);

words!(
    /// Whether jobs of a campaign must tell of the callee's consent.
    #[derive(Default)]
    ConsentPolicy {
        #[default]
        Optional = "optional",
        Required = "required",
    }
);

/// Calls allowed to one phone in any sliding window of that length. None: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecipientLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_day: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_week: Option<u32>,
    /// Seconds between two calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_gap: Option<u32>,
}

impl RecipientLimits {
    pub fn caps(&self) -> impl Iterator<Item = Cap> + use<> {
        let windows = [(self.per_hour, 3_600), (self.per_day, 86_400), (self.per_week, 7 * 86_400)];
        let windows =
            windows.into_iter().filter_map(|(calls, seconds)| calls.map(|calls| Cap { calls, seconds }));
        windows.chain(self.min_gap.map(|seconds| Cap { calls: 1, seconds }))
    }
}

words!(
    /// Whose hours and caps hold for a callee.
    #[derive(Default)]
    CallingRules {
        #[default]
        /// Only the campaign's own.
        None = "none",
        /// The legal ones of the callee's place too.
        Standard = "standard",
    }
);

words!(
    /// What is done when the provider has called from another number than was chosen.
    #[derive(Default)]
    OnMismatch {
        #[default]
        /// An event, a metric, and `caller_id_verified` in the record.
        Report = "report",
        /// That, and the number that was chosen is quarantined.
        Quarantine = "quarantine",
    }
);

/// When a job whose call has ended is dialed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Calls placed for one job, the first included.
    pub max_attempts: u32,
    /// After calls that ended so, and how many seconds after their end was learned. Others end the job.
    pub on: BTreeMap<Disposition, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub defaults: Defaults,
    #[serde(default)]
    pub agents: Vec<AgentSettings>,
    #[serde(default)]
    pub numbers: Vec<NumberSettings>,
    #[serde(default)]
    pub campaigns: Vec<CampaignSettings>,
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// In place of those that ship, each for its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calling_rules: Vec<CallingRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    pub number_limits: Limits,
    pub no_route: NoRoute,
    #[serde(default)]
    pub calling_rules: CallingRules,
    #[serde(default)]
    pub caller_id_mismatch: OnMismatch,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            number_limits: Limits::UNLIMITED,
            no_route: NoRoute::Hold,
            calling_rules: CallingRules::None,
            caller_id_mismatch: OnMismatch::Report,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    pub model_id: ModelId,
    pub name: Option<String>,
    pub account: AccountName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberSettings {
    #[serde(with = "crate::core::phone::whole")]
    pub number: E164,
    pub brand: Option<Brand>,
    /// None: derived from the number.
    pub region: Option<Region>,
    #[serde(default)]
    pub tags: Vec<String>,
    pub weight: u32,
    /// As written, before the defaults; see [`super::Compiled::number_limits`].
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CampaignSettings {
    pub id: CampaignId,
    pub brand: Option<Brand>,
    pub model_id: Option<ModelId>,
    /// Its share of a scarce account or number among campaigns with something to dial.
    pub weight: u32,
    pub limits: Limits,
    pub window: Option<Window>,
    /// Countries it may call, sorted. None: those of the agent's own numbers.
    pub destinations: Option<Vec<Country>>,
    /// How long after receipt a job without `expires_at` expires.
    #[serde(with = "seconds")]
    pub expires_after: Duration,
    #[serde(default)]
    pub consent: ConsentPolicy,
    /// How often one phone may be called, in the name of the campaign's brand; without one, by the campaign.
    #[serde(default)]
    pub recipient_limits: RecipientLimits,
    /// None: a job is over when its call has ended, however that was.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// A call of which nobody knows whether it was placed is dialed again when it was looked for in vain for so long.
    /// None: never; a person decides.
    #[serde(default, with = "seconds_or_none")]
    pub redial_unknown_after: Option<Duration>,
}

/// How long a job without `expires_at` lives where its campaign says nothing.
pub const EXPIRES_AFTER_DEFAULT: Duration = Duration::from_secs(7 * 86_400);

impl CampaignSettings {
    /// A campaign that no file mentions.
    pub fn unknown(id: CampaignId) -> Self {
        Self {
            id,
            brand: None,
            model_id: None,
            weight: 1,
            limits: Limits::UNLIMITED,
            window: None,
            destinations: None,
            expires_after: EXPIRES_AFTER_DEFAULT,
            consent: ConsentPolicy::Optional,
            recipient_limits: RecipientLimits::default(),
            retry: None,
            redial_unknown_after: None,
        }
    }
}

/// First match wins, in file order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub name: String,
    #[serde(rename = "match")]
    pub matches: Match,
    #[serde(rename = "use")]
    pub uses: Use,
    pub strategy: Strategy,
    pub sticky: bool,
    pub overflow: Overflow,
    pub otherwise: Otherwise,
}

/// Which jobs: keys ANDed, values ORed, an empty list matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    pub brand: Vec<Brand>,
    pub region: Vec<Region>,
    pub campaign: Vec<CampaignId>,
    pub model_id: Vec<ModelId>,
}

/// Which of the agent's eligible numbers: keys ANDed, values ORed, but of `tags` all are needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Use {
    pub brand: Vec<Brand>,
    pub region: Vec<Region>,
    pub tags: Vec<String>,
    #[serde(with = "crate::core::phone::whole_list")]
    pub numbers: Vec<E164>,
}

/// A duration as whole seconds.
mod seconds {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.as_secs())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

mod seconds_or_none {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| value.as_secs()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_secs))
    }
}

//! What a decision is made from: the job's class, and what is known of the world at that moment.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use crate::core::hours::{Attempts, Hours, PlaceRule};
use crate::core::ids::{AccountName, Brand, CampaignId, ModelId, RoutingVersion};
use crate::core::job::Job;
use crate::core::ledger::{Cap, RecipientAsk};
use crate::core::phone::{E164, place_of};
use crate::core::place::{AreaCode, Country, Place, Region};
use crate::core::rules::{Compiled, ConsentPolicy};
use crate::core::states::{NumberState, Reason, words};
use crate::core::suppression::Scope;

/// The inputs of a decision that a job brings. Jobs of one class are decided alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    pub campaign: CampaignId,
    /// As the publisher gave it; none: the campaign's.
    pub model: Option<ModelId>,
    /// As the publisher gave it; none: the campaign's.
    pub brand: Option<Brand>,
    /// As the publisher gave it, else derived from the callee's number.
    pub region: Option<Region>,
    /// Where the call goes, by the callee's number: [`crate::core::phone::Phone::destination`].
    pub country: Option<Country>,
    /// The callee's area code, for `local_presence`.
    pub area: Option<AreaCode>,
    /// The publisher's own `from_phone_number`.
    pub pinned: Option<E164>,
    /// Jobs parked on the number their callee knows. [`super::decide`] doesn't read it: it is for [`super::choose`].
    pub sticky: Option<E164>,
}

impl Class {
    pub fn of_job(job: &Job) -> Self {
        Self {
            campaign: job.campaign_id.clone(),
            model: job.model_id.clone(),
            brand: job.brand.clone(),
            region: job.region(),
            country: job.phone.destination(),
            area: job.phone.place.area,
            pinned: job.from_phone_number.clone(),
            sticky: None,
        }
    }

    /// Where its callees are, as the rules see it.
    pub(super) fn place(&self) -> Place {
        let country = self.region.map(|region| region.country()).or(self.country);
        Place { country, region: self.region, area: self.area }
    }
}

words!(
    /// What is known of an agent's pool.
    PoolState {
        NeverRead = "never_read",
        /// Read, but longer ago than `pool.max_age`.
        Stale = "stale",
        Current = "current",
        /// The provider says there is no such agent.
        AgentUnavailable = "agent_unavailable",
    }
);

/// The numbers attached to one agent, with what their digits tell.
#[derive(Debug, Clone)]
pub struct Pool {
    pub state: PoolState,
    /// Sorted by number.
    numbers: Vec<PoolNumber>,
    countries: BTreeSet<Country>,
    /// Places in `numbers`, by derived region; a part is listed under its country too.
    by_region: HashMap<Region, Vec<u32>>,
}

#[derive(Debug, Clone)]
pub struct PoolNumber {
    pub number: E164,
    pub place: Place,
}

impl Pool {
    pub fn new(state: PoolState, numbers: impl IntoIterator<Item = E164>) -> Self {
        let unique: BTreeSet<E164> = numbers.into_iter().collect();
        let numbers = placed(unique);
        let countries = numbers.iter().filter_map(|n| n.place.country).collect();
        let mut by_region: HashMap<Region, Vec<u32>> = HashMap::new();
        for (at, region) in (0..).zip(&numbers).filter_map(|(at, n)| Some((at, n.place.region?))) {
            by_region.entry(region).or_default().push(at);
            if region.is_part() {
                by_region.entry(region.country().into()).or_default().push(at);
            }
        }
        Self { state, numbers, countries, by_region }
    }

    pub fn numbers(&self) -> &[PoolNumber] {
        &self.numbers
    }

    pub fn get(&self, number: &E164) -> Option<&PoolNumber> {
        let at = self.numbers.binary_search_by(|known| known.number.cmp(number)).ok()?;
        self.numbers.get(at)
    }

    /// The countries of its numbers, by their digits.
    pub fn countries(&self) -> &BTreeSet<Country> {
        &self.countries
    }

    /// Numbers whose digits tell that they are in the region or a part of it.
    pub fn in_region(&self, region: &Region) -> impl Iterator<Item = &PoolNumber> {
        self.by_region.get(region).into_iter().flatten().filter_map(|&at| self.numbers.get(at as usize))
    }
}

/// Places of numbers that stood in a pool before. Pools are read again and again, digits always tell the same, and
/// libphonenumber takes some 20 µs to say what.
static PLACES: LazyLock<Mutex<HashMap<E164, Place>>> = LazyLock::new(Mutex::default);
/// More are forgotten, all at once.
const PLACES_MAX: usize = 200_000;

fn placed(numbers: BTreeSet<E164>) -> Vec<PoolNumber> {
    // Nothing that panics runs under the lock, and an entry is never wrong.
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    if places.len() + numbers.len() > PLACES_MAX {
        places.clear();
    }
    let place = |number: E164| {
        let place = *places.entry(number.clone()).or_insert_with_key(place_of);
        PoolNumber { number, place }
    };
    numbers.into_iter().map(place).collect()
}

words!(
    /// Whether a campaign's jobs may go. Absent from the world: active.
    CampaignState {
        Active = "active",
        Paused = "paused",
        Canceled = "canceled",
    }
);

words!(
    /// Whether calls may be placed with an account. Absent from the world: this worker holds no key for it, and
    /// nothing is sent (`account_paused`).
    AccountState {
        Active = "active",
        Paused = "paused",
        /// The breaker is open, or the provider asked to wait.
        ProviderUnavailable = "provider_unavailable",
    }
);

/// What is known of a job's callee beside the phone.
#[derive(Debug, Clone, Copy)]
pub struct Callee<'a> {
    /// For whom the phone must not be called.
    pub suppressed: &'a [Scope],
    /// The publisher tells of the callee's consent.
    pub consented: bool,
}

/// Everything a decision reads beside the class.
#[derive(Debug, Clone)]
pub struct World {
    /// 0: no rules applied yet, every job waits `no_route`.
    pub version: RoutingVersion,
    pub rules: Arc<Compiled>,
    /// By agent; absent: never read.
    pub pools: HashMap<ModelId, Arc<Pool>>,
    /// Absent: active.
    pub numbers: HashMap<E164, NumberState>,
    /// Absent: active.
    pub campaigns: HashMap<CampaignId, CampaignState>,
    pub accounts: HashMap<AccountName, AccountState>,
    pub kill_switch: bool,
}

impl World {
    /// When callees of a class may be called.
    pub fn hours(&self, class: &Class) -> Hours {
        let campaign = self.rules.campaign(&class.campaign);
        let rules = self.law_of(class);
        Hours { rules, window: campaign.and_then(|campaign| campaign.window.clone()) }
    }

    /// Who calls a class's callees, and how often they may be called. None: nobody keeps count. `brand`: in whose name.
    pub fn recipients(
        &self,
        class: &Class,
        brand: Option<&Brand>,
        now: DateTime<Utc>,
    ) -> Option<RecipientAsk> {
        if !self.rules.keeps_recipients() {
            return None;
        }
        let caller = match brand {
            Some(brand) => Scope::Brand(brand.clone()),
            None => Scope::Campaign(class.campaign.clone()),
        };
        let own = self.rules.campaign(&class.campaign).map(|c| c.recipient_limits).unwrap_or_default();
        // A day more or less of a rule's time is not worth the callee's calendar.
        let today = now.date_naive();
        let legal = self.law_of(class).into_iter().filter(|rule| rule.holds_on(today)).filter_map(|rule| {
            let Attempts { calls, hours } = rule.attempts?;
            Some(Cap { calls, seconds: hours.saturating_mul(3_600) })
        });
        Some(RecipientAsk { caller, caps: own.caps().chain(legal).collect() })
    }

    /// Why a callee may never be called for a job of that campaign, in that brand's name.
    pub fn refusal(&self, campaign: &CampaignId, brand: Option<&Brand>, callee: &Callee) -> Option<Reason> {
        if callee.suppressed.iter().any(|scope| scope.covers(campaign, brand)) {
            return Some(Reason::Suppressed);
        }
        let demands =
            self.rules.campaign(campaign).is_some_and(|settings| settings.consent == ConsentPolicy::Required);
        (demands && !callee.consented).then_some(Reason::ConsentMissing)
    }

    fn law_of(&self, class: &Class) -> Vec<Arc<PlaceRule>> {
        self.rules.law().map(|law| law.of_place(class.region, class.country)).unwrap_or_default()
    }

    pub fn number_state(&self, number: &E164) -> NumberState {
        self.numbers.get(number).copied().unwrap_or(NumberState::Active)
    }
}

//! Which waiting jobs go next, and from which numbers: the heart of dispatch, as one pure function.
//!
//! Campaigns of an account take turns by weight; within a campaign the job with the highest priority goes first, then
//! the one received first. A class whose numbers are all at their limit is set aside, and nobody else with it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::decide::{Choice, NumberUse, Plan, Rankings, choose_by};
use super::fair::{Turn, Turns};
use super::ids::{AccountName, CampaignId, ClassNo, JobNo};
use super::ledger::{Ask, StickyAsk, StickyKey, Waiting};
use super::phone::E164;
use super::place::Region;
use super::usage::UsageBook;

/// A class that may be dialed, with the first of its waiting jobs.
#[derive(Debug)]
pub struct Offer {
    pub class_no: ClassNo,
    pub campaign: CampaignId,
    /// The campaign's share of what is scarce.
    pub weight: u32,
    /// Where its callees are, as the rules see it.
    pub region: Option<Region>,
    /// Its jobs are parked on this number.
    pub sticky: Option<E164>,
    pub plan: Arc<Plan>,
    /// In order.
    pub jobs: VecDeque<Waiting>,
    /// More wait than are listed here.
    pub more: bool,
}

/// A job and the number chosen for it.
#[derive(Debug, Clone)]
pub struct Pick {
    pub ask: Ask,
    pub class_no: ClassNo,
    pub region: Option<Region>,
    pub plan: Arc<Plan>,
    /// Place in [`Plan::tiers`].
    pub tier: usize,
    /// The number's use when it was chosen; `None`: the agent's default.
    pub used: Option<NumberUse>,
    pub waiting: Waiting,
}

/// What a pass comes to.
#[derive(Debug, Default)]
pub struct Picked {
    pub picks: Vec<Pick>,
    /// Classes whose numbers are all at their limit, and when the first is free again.
    pub full: Vec<(ClassNo, Option<DateTime<Utc>>)>,
    /// Jobs whose callee knows a number that is at its limit: they wait for it apart from their class.
    pub parked: Vec<(JobNo, ClassNo, E164)>,
    /// Something could have gone, but wasn't read far enough, or the capacity is used up.
    pub more: bool,
}

/// How many may be asked for in one pass.
#[derive(Debug)]
pub struct Room {
    pub capacity: usize,
    /// Of those with limits, and never more than the smallest window holds: the ledger grants no more at once.
    pub accounts: HashMap<AccountName, usize>,
    pub campaigns: HashMap<CampaignId, usize>,
}

impl Room {
    fn has(&self, account: &AccountName, campaign: &CampaignId) -> bool {
        self.accounts.get(account).is_none_or(|left| *left > 0)
            && self.campaigns.get(campaign).is_none_or(|left| *left > 0)
    }

    fn take(&mut self, account: &AccountName, campaign: &CampaignId) {
        self.capacity -= 1;
        if let Some(left) = self.accounts.get_mut(account) {
            *left -= 1;
        }
        if let Some(left) = self.campaigns.get_mut(campaign) {
            *left -= 1;
        }
    }
}

/// The classes of one campaign with one account.
struct Group {
    account: AccountName,
    campaign: CampaignId,
    weight: u32,
    offers: Vec<Offer>,
}

/// Picks. `draw` gives randomness for weighted choices.
pub fn pick(
    offers: Vec<Offer>,
    (book, rankings): (&mut UsageBook, &mut Rankings),
    turns: &mut Turns,
    sticky: &HashMap<StickyKey, E164>,
    room: &mut Room,
    draw: &mut impl FnMut() -> u64,
) -> Picked {
    let mut picked = Picked::default();
    let mut groups = grouped(offers);
    turns.present(groups.iter().map(|g| (&g.account, &g.campaign, g.weight)));
    let mut behind: HashMap<AccountName, f64> = HashMap::new();
    for group in &groups {
        let come = turns.of(&group.account, &group.campaign).come();
        behind.entry(group.account.clone()).and_modify(|least| *least = least.min(come)).or_insert(come);
    }
    let turn = |turns: &Turns, group: &Group| {
        let behind = behind.get(&group.account).copied().unwrap_or(0.0);
        turns.of(&group.account, &group.campaign).ahead_of(behind)
    };
    let mut queue: BinaryHeap<Reverse<(Turn, usize)>> =
        groups.iter().enumerate().map(|(at, group)| Reverse((turn(turns, group), at))).collect();
    let mut is_held = false;
    while room.capacity > 0 {
        let Some(Reverse((its, at))) = queue.pop() else { break };
        let group = &mut groups[at];
        if !room.has(&group.account, &group.campaign) {
            is_held = true;
            continue;
        }
        match step(group, (&mut *book, &mut *rankings), sticky, draw, &mut picked) {
            Step::Picked => {
                room.take(&group.account, &group.campaign);
                turns.took(&group.account, &group.campaign);
                queue.push(Reverse((turn(turns, group), at)));
            }
            Step::SetAside => queue.push(Reverse((its, at))),
            Step::Over => {}
        }
    }
    // Groups leave the queue when they have nothing more to give: what is left was stopped by the room.
    picked.more |= room.capacity == 0 && (is_held || !queue.is_empty());
    picked
}

enum Step {
    Picked,
    /// A job or a class was set aside; the campaign may have others.
    SetAside,
    /// Nothing more of this campaign in this pass.
    Over,
}

fn step(
    group: &mut Group,
    (book, rankings): (&mut UsageBook, &mut Rankings),
    sticky: &HashMap<StickyKey, E164>,
    draw: &mut impl FnMut() -> u64,
    picked: &mut Picked,
) -> Step {
    if group.offers.iter().any(|offer| offer.jobs.is_empty() && offer.more) {
        // Its next job may come before every other: the order is kept by reading again.
        picked.more = true;
        return Step::Over;
    }
    group.offers.retain(|offer| !offer.jobs.is_empty());
    let first = group
        .offers
        .iter_mut()
        .enumerate()
        .min_by_key(|(_, offer)| offer.jobs.front().map(|job| (job.rank, job.job_no)));
    let Some((at, offer)) = first else { return Step::Over };
    let Some(job) = offer.jobs.pop_front() else { return Step::Over };

    let key = || StickyKey {
        model: offer.plan.model.clone(),
        brand: offer.plan.brand.clone(),
        phone: job.phone.clone(),
    };
    let known = (!sticky.is_empty()).then(key).and_then(|key| sticky.get(&key));
    let drawn = draw();
    let best = |tier: &_| rankings.best(tier, book, drawn);
    match choose_by(&offer.plan, &|number| book.view(number), known, best) {
        Choice::Number { number, tier, breaks_sticky } => {
            let used = book.view(&number);
            book.ask(&number);
            let claims = offer.plan.tiers.get(tier).is_some_and(|tier| tier.sticky);
            let ask = StickyAsk {
                model: offer.plan.model.clone(),
                brand: offer.plan.brand.clone(),
                gives_way: known.filter(|_| breaks_sticky).cloned(),
            };
            picked.picks.push(offer.pick(job, Some(number), tier, Some(used), claims.then_some(ask)));
            Step::Picked
        }
        Choice::AgentDefault { tier } => {
            picked.picks.push(offer.pick(job, None, tier, None, None));
            Step::Picked
        }
        Choice::Full { next_at } => {
            match known {
                // The others of the class may take other numbers.
                Some(number) if offer.waits_for(number) => {
                    picked.parked.push((job.job_no, offer.class_no, number.clone()));
                }
                _ => {
                    picked.full.push((offer.class_no, next_at));
                    group.offers.swap_remove(at);
                }
            }
            Step::SetAside
        }
    }
}

impl Offer {
    /// Whether a job of this class waits for just that number, apart from its class.
    fn waits_for(&self, number: &E164) -> bool {
        self.sticky.as_ref() != Some(number)
            && self.plan.tiers.iter().any(|tier| tier.sticky && tier.holds(number))
    }

    fn pick(
        &self,
        waiting: Waiting,
        number: Option<E164>,
        tier: usize,
        used: Option<NumberUse>,
        sticky: Option<StickyAsk>,
    ) -> Pick {
        Pick {
            ask: Ask {
                job_no: waiting.job_no,
                campaign: self.campaign.clone(),
                account: self.plan.account.clone(),
                number,
                sticky,
                recipient: None,
            },
            class_no: self.class_no,
            region: self.region,
            plan: Arc::clone(&self.plan),
            tier,
            used,
            waiting,
        }
    }
}

fn grouped(offers: Vec<Offer>) -> Vec<Group> {
    let mut places: HashMap<(AccountName, CampaignId), usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for offer in offers {
        let key = (offer.plan.account.clone(), offer.campaign.clone());
        let at = *places.entry(key).or_insert_with_key(|(account, campaign)| {
            groups.push(Group {
                account: account.clone(),
                campaign: campaign.clone(),
                weight: offer.weight,
                offers: Vec::new(),
            });
            groups.len() - 1
        });
        groups[at].offers.push(offer);
    }
    groups
}

#[cfg(test)]
#[path = "pick_tests.rs"]
mod tests;

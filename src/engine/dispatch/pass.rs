//! One pass over the work list.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::classes::{Classes, Standing};
use super::{ASKS_MAX, COLLIDED, Dispatch, HEADS_OLD, HEADS_QUICK, IDLE, Next, READ_EVERY, READ_OLD, State};
use crate::clock;
use crate::core::decide::{Callee, Class, Plan, Rankings, World};
use crate::core::fair::{Turn, Turns};
use crate::core::hours::{Hours, HoursVerdict, LOOK_AHEAD, zones_of_callee};
use crate::core::ids::{AccountName, CampaignId, ClassNo, JobNo};
use crate::core::ledger::{ClassEnd, ClassHead, ClassStatus, Park, ParkedUntil, StickyKey, Waiting};
use crate::core::phone::E164;
use crate::core::pick::{Offer, Picked, Room, pick};
use crate::core::rules::Limits;
use crate::core::states::Reason;
use crate::core::usage::{UsageBook, Used};
use crate::engine::ledger::{DispatchLedger, LedgerError};

/// Of a class that is over, at most so many jobs are ended in one pass.
const ENDED_MAX: usize = 500;

/// A class that may be dialed now.
struct Open {
    class_no: ClassNo,
    /// Of its first job: 9 − priority.
    rank: i16,
    first: JobNo,
    plan: Arc<Plan>,
    /// How many of its jobs are looked at.
    each: usize,
}

/// Why classes wait, as far as this pass knows.
#[derive(Default)]
pub(super) struct Waits(HashMap<ClassNo, (Reason, Option<DateTime<Utc>>)>);

impl Waits {
    pub(super) fn set(&mut self, class_no: ClassNo, reason: Reason, due_at: Option<DateTime<Utc>>) {
        self.0.insert(class_no, (reason, due_at));
    }

    fn statuses(self) -> Vec<ClassStatus> {
        let status = |(class_no, (reason, due_at))| ClassStatus { class_no, reason, due_at };
        self.0.into_iter().map(status).collect()
    }

    fn soonest(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.0.values().filter_map(|(_, due_at)| *due_at).filter(|at| *at > now).min()
    }
}

impl<L: DispatchLedger> Dispatch<L> {
    pub(super) async fn pass(&mut self, state: &mut State) -> Result<Next, LedgerError> {
        let world = Arc::clone(&self.world.borrow_and_update());
        let Some(reading) = self.tenure.now() else { return Ok(Next::In(COLLIDED)) };
        let now = reading.now;
        self.take_back(state).await?;
        state.forget_past(now);
        if state.version != Some(world.version) {
            // Other limits: what is full may have room.
            state.forget_limits();
            state.version = Some(world.version);
        }
        if state.is_share_old() {
            state.share = self.ledger.share().await?;
            state.share_read = Some(clock::monotonic());
        }
        let heads = self.heads(state).await?;
        state.classes.decide(self.ledger.as_ref(), &world, &heads).await?;
        self.read_usage(state, &world, now).await;

        let mut waits = Waits::default();
        let ended = self.end_classes(state, &world, &heads).await?;
        let open = self.sort_out(state, &world, &heads, &mut waits).await?;
        let capacity = self.inflight.available_permits().min(self.sending.room()).min(ASKS_MAX);
        let mut next = Next::In(IDLE);
        if !open.is_empty() && capacity > 0 {
            next = self.dial(state, &world, now, open, capacity, &mut waits).await?;
        } else if !open.is_empty() {
            self.sending.starve();
        }
        let soonest = waits.soonest(now);
        let news = state.classes.news(waits.statuses(), now);
        if !news.is_empty() {
            self.ledger.note(&news).await?;
            state.classes.noted(news, now);
        }
        let next = match (next, soonest) {
            _ if ended => Next::Now,
            (Next::In(wait), Some(at)) if wait == IDLE => Next::At(at),
            (next, _) => next,
        };
        state.heads = Some(heads);
        // Jobs of other classes may have come since these were read.
        let unread = state.heads_due.map(|due| due.saturating_duration_since(clock::monotonic()));
        Ok(match (next, unread) {
            (Next::In(wait), Some(unread)) => Next::In(wait.min(unread)),
            (Next::At(date), Some(unread)) => Next::In(self.until(date).min(unread)),
            (next, _) => next,
        })
    }

    /// The first job of every class, as it was read a moment ago where that takes long.
    async fn heads(&self, state: &mut State) -> Result<Vec<ClassHead>, LedgerError> {
        let began = clock::monotonic();
        // Whatever fails from here on, they are read anew.
        if let (Some(heads), true) = (state.heads.take(), state.heads_due.is_some_and(|due| began < due)) {
            return Ok(heads);
        }
        let heads = self.ledger.heads().await?;
        let took = began.elapsed();
        state.heads_due = (took > HEADS_QUICK).then(|| began + (took * 10).min(HEADS_OLD));
        Ok(heads)
    }

    /// Reads how far numbers are used: at once those of which only a reading can tell, and all of them now and then, beside
    /// the passes, which don't wait for it.
    async fn read_usage(&self, state: &mut State, world: &World, now: DateTime<Utc>) {
        let horizon = TimeDelta::from_std(self.sending.lead() + self.horizon).unwrap_or_default();
        state.book.begin(now, horizon);
        let unknown = state.classes.numbers().iter().filter(|n| !state.book.knows(n));
        let numbers: Vec<E164> = state.book.unclear().chain(unknown).cloned().collect();
        if !numbers.is_empty() {
            let read = self.ledger.used(&numbers, self.slack).await;
            take_in(&mut state.book, world, read);
        }
        if let Some(Ok((read, took))) = state.reading.try_join_next() {
            let granted = std::mem::take(&mut state.granted);
            let mut apart = READ_EVERY;
            if take_in(&mut state.book, world, read) {
                granted.iter().for_each(|(number, slot)| state.book.granted_since(number, *slot));
                // All workers together spend no more of the database's time on it than one may.
                apart = apart.max((took * 20 * state.share.1.max(1)).min(READ_OLD));
            }
            state.rankings.clear();
            state.usage_due = Some(clock::monotonic() + apart);
        }
        let is_due = state.usage_due.is_none_or(|due| clock::monotonic() >= due);
        if is_due && state.reading.is_empty() && !state.classes.numbers().is_empty() {
            state.book.retain(|number| state.classes.numbers().contains(number));
            state.granted.clear();
            let all: Vec<E164> = state.classes.numbers().iter().cloned().collect();
            let (ledger, slack) = (Arc::clone(&self.ledger), self.slack);
            state.reading.spawn(async move {
                let began = clock::monotonic();
                (ledger.used(&all, slack).await, began.elapsed())
            });
        }
    }

    /// Ends the jobs of classes that are over; true if some may be left.
    async fn end_classes(
        &self,
        state: &State,
        world: &World,
        heads: &[ClassHead],
    ) -> Result<bool, LedgerError> {
        let mut more = false;
        for head in heads {
            if let Some(Standing::End(end)) = state.classes.standing(head.class_no) {
                let ended = self.ledger.end_class(world.version, head.class_no, *end, ENDED_MAX).await?;
                more |= ended == ENDED_MAX;
            }
        }
        Ok(more)
    }

    /// Which classes may be dialed now; of the others, why they wait.
    async fn sort_out(
        &self,
        state: &mut State,
        world: &World,
        heads: &[ClassHead],
        waits: &mut Waits,
    ) -> Result<Vec<Open>, LedgerError> {
        let mut open = Vec::new();
        let mut unread = HashSet::new();
        let State { classes, book, rankings, campaigns_shut, accounts_shut, .. } = state;
        for &ClassHead { class_no, rank, job_no: first } in heads {
            let (Some(standing), Some(class)) = (classes.standing(class_no), classes.class(class_no)) else {
                continue;
            };
            match standing {
                Standing::End(_) => {}
                Standing::Hold(reason) => {
                    waits.set(class_no, *reason, None);
                    if *reason == Reason::PoolUnknown {
                        unread.extend(agent_of(world, class));
                    }
                }
                Standing::Dial(plan) => match self
                    .barred(plan)
                    .or_else(|| {
                        let shut = accounts_shut.get(&plan.account).or(campaigns_shut.get(&class.campaign))?;
                        Some((shut.why, shut.due_at))
                    })
                    .or_else(|| full(class, plan, book, rankings))
                {
                    Some((reason, due_at)) => waits.set(class_no, reason, due_at),
                    None => open.push(Open { class_no, rank, first, plan: Arc::clone(plan), each: 0 }),
                },
            }
        }
        for model in unread {
            let account = world.rules.account(&model);
            self.ledger.want_pool(&model, account).await?;
        }
        Ok(open)
    }

    /// Whether this process may not send with the account.
    fn barred(&self, plan: &Plan) -> Option<(Reason, Option<DateTime<Utc>>)> {
        (!self.accounts_here.usable(&plan.account)).then_some((Reason::AccountPaused, None))
    }

    /// Reads jobs of the open classes, picks, and asks for slots.
    async fn dial(
        &mut self,
        state: &mut State,
        world: &Arc<World>,
        now: DateTime<Utc>,
        open: Vec<Open>,
        capacity: usize,
        waits: &mut Waits,
    ) -> Result<Next, LedgerError> {
        let (open, later) = in_turn(open, &mut state.turns, world, &state.classes, capacity);
        for class_no in &later {
            waits.set(*class_no, Reason::Queued, None);
        }
        let jobs = self.read_jobs(state, &open).await?;
        let mut windows = HashMap::new();
        let mut parks = Vec::new();
        let mut offers = offers(state, world, now, open, jobs, &mut windows, &mut parks);
        let refused = self.refuse_callees(world, &mut offers).await?;
        let sticky = self.known_numbers(&offers).await?;
        let dialable: Vec<ClassNo> = offers.iter().map(|o| o.class_no).collect();
        let mut room = self.room(world, &offers, capacity);
        let picked = pick(
            offers,
            (&mut state.book, &mut state.rankings),
            &mut state.turns,
            &sticky,
            &mut room,
            &mut state.draws,
        );
        for class_no in dialable {
            waits.set(class_no, Reason::Queued, None);
        }
        for (class_no, next_at) in &picked.full {
            waits.set(*class_no, Reason::NumberLimit, *next_at);
        }
        parks.extend(self.sticky_parks(state, &picked).await?);
        if !parks.is_empty() {
            self.ledger.park(world.version, &parks).await?;
        }
        let (asked, more) = (picked.picks.len(), picked.more || !later.is_empty());
        let outcome = self.ask(state, world, now, picked, &windows, waits).await?;
        if !outcome.parks.is_empty() {
            self.ledger.park(world.version, &outcome.parks).await?;
        }
        Ok(match () {
            () if outcome.granted + outcome.parks.len() > 0 || refused > 0 || !parks.is_empty() => Next::Now,
            // Others took them first.
            () if asked > outcome.refused || more => Next::In(COLLIDED),
            () => Next::In(IDLE),
        })
    }

    /// The first jobs of each class: of this worker's own share, and of everybody's where that has none, or none as
    /// urgent as the first of all.
    async fn read_jobs(&self, state: &mut State, open: &[Open]) -> Result<Vec<Waiting>, LedgerError> {
        let classes: Vec<(ClassNo, usize)> = open.iter().map(|o| (o.class_no, o.each)).collect();
        let mut jobs = self.ledger.candidates(&classes, state.share).await?;
        if state.share.1 > 1 {
            let urgent: HashMap<ClassNo, i16> = open.iter().map(|o| (o.class_no, o.rank)).collect();
            let ours = jobs.iter().filter(|j| urgent.get(&j.class_no).is_some_and(|rank| j.rank <= *rank));
            let served: HashSet<ClassNo> = ours.map(|j| j.class_no).collect();
            let others: Vec<_> = classes.into_iter().filter(|(class, _)| !served.contains(class)).collect();
            if !others.is_empty() {
                jobs.retain(|j| served.contains(&j.class_no));
                jobs.extend(self.ledger.candidates(&others, (0, 1)).await?);
            }
        }
        let found: HashSet<ClassNo> = jobs.iter().map(|job| job.class_no).collect();
        if found.len() < open.len() {
            // A class that has nothing waiting any more takes no other's turn.
            state.heads_due = None;
        }
        Ok(jobs)
    }

    /// Refuses the jobs whose callees may never be called so; gives how many.
    async fn refuse_callees(&self, world: &World, offers: &mut [Offer]) -> Result<usize, LedgerError> {
        let mut refused: BTreeMap<&str, (Reason, Vec<JobNo>)> = BTreeMap::new();
        for offer in offers {
            let Offer { jobs, plan, campaign, .. } = offer;
            jobs.retain(|job| match self.refusal(world, campaign, plan, job) {
                Some(reason) => {
                    refused.entry(reason.as_str()).or_insert((reason, Vec::new())).1.push(job.job_no);
                    false
                }
                None => true,
            });
        }
        let mut count = 0;
        for (reason, jobs) in refused.into_values() {
            count += jobs.len();
            self.ledger.end_jobs(world.version, &jobs, ClassEnd::Refused(reason)).await?;
        }
        Ok(count)
    }

    fn refusal(&self, world: &World, campaign: &CampaignId, plan: &Plan, job: &Waiting) -> Option<Reason> {
        // A staging account calls those it is told to, and nobody else.
        if !self.accounts_here.may_call(&plan.account, &job.phone) {
            return Some(Reason::DestinationNotAllowed);
        }
        let callee = Callee { suppressed: &job.suppressed, consented: job.consented };
        world.refusal(campaign, plan.brand.as_ref(), &callee)
    }

    /// Which number each callee knows, where a sticky rule may ask.
    async fn known_numbers(&self, offers: &[Offer]) -> Result<HashMap<StickyKey, E164>, LedgerError> {
        let keys: HashSet<StickyKey> = offers
            .iter()
            .filter(|offer| offer.plan.tiers.iter().any(|tier| tier.sticky))
            .flat_map(|offer| offer.jobs.iter().map(|job| sticky_key(&offer.plan, job)))
            .collect();
        let keys: Vec<StickyKey> = keys.into_iter().collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let known = self.ledger.sticky(&keys).await?;
        Ok(keys.into_iter().zip(known).filter_map(|(key, number)| Some((key, number?))).collect())
    }

    /// The ledger grants at most n to a statement where a window allows n: asking for more is in vain.
    fn room(&self, world: &World, offers: &[Offer], capacity: usize) -> Room {
        let mut room = Room { capacity, accounts: HashMap::new(), campaigns: HashMap::new() };
        for offer in offers {
            let account = &offer.plan.account;
            if let Some(most) = self.accounts.get(account).and_then(most_at_once) {
                room.accounts.insert(account.clone(), most);
            }
            if let Some(most) = most_at_once(&world.rules.campaign_limits(&offer.campaign)) {
                room.campaigns.insert(offer.campaign.clone(), most);
            }
        }
        room
    }

    /// Jobs that wait for one number alone get a class of their own for it.
    async fn sticky_parks(&self, state: &State, picked: &Picked) -> Result<Vec<Park>, LedgerError> {
        let wanted: Vec<(JobNo, Class)> = picked
            .parked
            .iter()
            .filter_map(|(job_no, class_no, number)| {
                let class = state.classes.class(*class_no)?;
                Some((*job_no, Class { sticky: Some(number.clone()), ..Class::clone(class) }))
            })
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (jobs, classes): (Vec<JobNo>, Vec<Class>) = wanted.into_iter().unzip();
        let numbers = self.ledger.class_numbers(&classes).await?;
        let park = |(job_no, class_no)| Park {
            job_no,
            reason: Reason::NumberLimit,
            until: ParkedUntil::Now,
            class_no: Some(class_no),
        };
        Ok(jobs.into_iter().zip(numbers).map(park).collect())
    }
}

/// Takes in a reading, if there is one.
fn take_in(book: &mut UsageBook, world: &World, read: Result<Vec<Used>, LedgerError>) -> bool {
    match read {
        Ok(read) => {
            for used in read {
                let limits = world.rules.number_limits(&used.number);
                book.read(used, limits);
            }
            true
        }
        // Choices are worse without it, but what is exact is the reservation.
        Err(error) => {
            tracing::warn!(error = %error, "dispatch.usage.unread");
            false
        }
    }
}

/// The classes of those campaigns of each account whose turn it may be before the capacity is used up, with how many jobs
/// each may need; and the others.
fn in_turn(
    open: Vec<Open>,
    turns: &mut Turns,
    world: &World,
    classes: &Classes,
    capacity: usize,
) -> (Vec<Open>, Vec<ClassNo>) {
    let mut by_account: HashMap<AccountName, HashMap<CampaignId, Vec<Open>>> = HashMap::new();
    for one in open {
        let Some(class) = classes.class(one.class_no) else { continue };
        let campaigns = by_account.entry(one.plan.account.clone()).or_default();
        campaigns.entry(class.campaign.clone()).or_default().push(one);
    }
    turns.present(by_account.iter().flat_map(|(account, campaigns)| {
        campaigns.keys().map(move |campaign| (account, campaign, world.rules.campaign_weight(campaign)))
    }));
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for (account, campaigns) in by_account {
        let mut campaigns: Vec<(Turn, Vec<Open>)> =
            campaigns.into_iter().map(|(campaign, open)| (turns.of(&account, &campaign), open)).collect();
        if campaigns.len() > capacity {
            campaigns.select_nth_unstable_by(capacity, |a, b| a.0.cmp(&b.0));
        }
        let beyond = campaigns.split_off(capacity.min(campaigns.len()));
        let weight = |(_, open): &(Turn, Vec<Open>)| {
            let class = open.first().and_then(|one| classes.class(one.class_no));
            class.map_or(1, |class| world.rules.campaign_weight(&class.campaign) as usize)
        };
        let all: usize = campaigns.iter().map(weight).sum();
        for campaign in campaigns {
            // Twice its share, for others may have fewer jobs.
            let share = 2 * capacity * weight(&campaign) / all.max(1);
            let ahead = campaign.1.iter().min_by_key(|one| (one.rank, one.first)).map(|one| one.class_no);
            let classes = campaign.1.len();
            first.extend(campaign.1.into_iter().map(|open| {
                let each = looked_at(share, classes, Some(open.class_no) == ahead, capacity);
                Open { each, ..open }
            }));
        }
        later.extend(beyond.into_iter().flat_map(|(_, open)| open).map(|open| open.class_no));
    }
    (first, later)
}

/// How many jobs of a class are looked at. Where one class is read to its end, its campaign has no more to give in this pass, and what
/// it gives less than its share is not made up for: so the class whose jobs go first may give all of it.
fn looked_at(share: usize, classes: usize, is_ahead: bool, capacity: usize) -> usize {
    let ahead = if is_ahead { share } else { 0 };
    (2 * share / classes.max(1)).max(ahead).max(share.min(8)).clamp(4, capacity.max(8))
}

/// Whether all numbers of a class are at their limit, and until when.
fn full(
    class: &Class,
    plan: &Plan,
    book: &UsageBook,
    rankings: &mut Rankings,
) -> Option<(Reason, Option<DateTime<Utc>>)> {
    let full = |soonest| Some((Reason::NumberLimit, soonest));
    if let Some(mine) = class.sticky.as_ref().filter(|n| plan.tiers.iter().any(|t| t.sticky && t.holds(n))) {
        let used = book.view(mine);
        return if used.free { None } else { full(used.next_at) };
    }
    let mut soonest: Option<DateTime<Utc>> = None;
    for tier in &plan.tiers {
        if tier.candidates.is_empty() {
            return None;
        }
        match rankings.any_free(tier, book) {
            Ok(()) => return None,
            Err(next_at) => soonest = [soonest, next_at].into_iter().flatten().min(),
        }
    }
    full(soonest)
}

/// Offers of the open classes, their jobs in order; those outside the campaign's window are parked until it opens.
fn offers(
    state: &State,
    world: &World,
    now: DateTime<Utc>,
    open: Vec<Open>,
    jobs: Vec<Waiting>,
    windows: &mut HashMap<JobNo, DateTime<Utc>>,
    parks: &mut Vec<Park>,
) -> Vec<Offer> {
    let mut by_class: HashMap<ClassNo, Vec<Waiting>> = HashMap::new();
    for job in jobs {
        by_class.entry(job.class_no).or_default().push(job);
    }
    open.into_iter()
        .filter_map(|Open { class_no, plan, each, .. }| {
            let class = state.classes.class(class_no)?;
            let mut jobs = by_class.remove(&class_no)?;
            let more = jobs.len() >= each;
            jobs.sort_by_key(|job| (job.rank, job.job_no));
            let hours = world.hours(class);
            if !hours.are_unlimited() {
                jobs.retain(|job| match judge(&hours, job, now) {
                    Ok(until) => {
                        windows.insert(job.job_no, until);
                        true
                    }
                    Err(park) => {
                        parks.push(park);
                        false
                    }
                });
            }
            Some(Offer {
                class_no,
                campaign: class.campaign.clone(),
                weight: world.rules.campaign_weight(&class.campaign),
                region: class.region,
                sticky: class.sticky.clone(),
                plan,
                jobs: VecDeque::from(jobs),
                more,
            })
        })
        .collect()
}

/// Until when a job may be dialed by its hours, or how it is parked.
fn judge(hours: &Hours, job: &Waiting, now: DateTime<Utc>) -> Result<DateTime<Utc>, Park> {
    let park = |reason, until| Park { job_no: job.job_no, reason, until, class_no: None };
    let given: Option<Tz> = job.lead_timezone.as_deref().and_then(|zone| zone.parse().ok());
    let zones = zones_of_callee(given, &job.phone);
    if zones.is_empty() {
        return Err(park(Reason::TimezoneUnknown, ParkedUntil::Change));
    }
    match hours.judge(&zones, now) {
        HoursVerdict::Open { until } => Ok(until),
        HoursVerdict::Closed { opens_at: Some(at) } => {
            Err(park(Reason::OutsideWindow, ParkedUntil::Date(at)))
        }
        // Zones whose clocks change apart may have a common hour again in another season.
        HoursVerdict::Closed { opens_at: None } => {
            Err(park(Reason::OutsideWindow, ParkedUntil::Look(now + LOOK_AHEAD)))
        }
    }
}

fn sticky_key(plan: &Plan, job: &Waiting) -> StickyKey {
    StickyKey { model: plan.model.clone(), brand: plan.brand.clone(), phone: job.phone.clone() }
}

fn agent_of(world: &World, class: &Class) -> Option<crate::core::ids::ModelId> {
    class.model.clone().or_else(|| world.rules.campaign(&class.campaign)?.model_id.clone())
}

fn most_at_once(limits: &Limits) -> Option<usize> {
    let windows = limits.windows().map(|(calls, _)| calls);
    windows.chain(limits.concurrent).min().map(|n| n as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_that_goes_first_may_give_all_of_its_campaigns_share() {
        let (capacity, campaigns) = (128, 2);
        let share = 2 * capacity / campaigns;
        for classes in 1..500 {
            assert!(looked_at(share, classes, true, capacity) >= capacity / campaigns, "of {classes}");
            // Never so few that a pass is made for each.
            assert!((4..=capacity).contains(&looked_at(share, classes, false, capacity)), "of {classes}");
        }
        assert_eq!(looked_at(share, 8, false, capacity), 32);
    }
}

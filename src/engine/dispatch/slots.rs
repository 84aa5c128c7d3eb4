//! Asking the ledger for slots, and remembering what it refused.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::pass::Waits;
use super::{Dispatch, Ready, Shut, Slotted, State};
use crate::clock;
use crate::core::decide::{World, brief};
use crate::core::ids::{AttemptId, JobNo};
use crate::core::ledger::{Intent, NoSlot, Park, ParkedUntil, SlotAnswer, SlotAnswers};
use crate::core::pick::{Pick, Picked};
use crate::core::states::Reason;
use crate::core::trace::Took;
use crate::engine::ledger::{DispatchLedger, LedgerError};

/// Between two looks whether a probe has shown that the provider is back.
const PROBE_LOOK: TimeDelta = TimeDelta::milliseconds(100);

/// A campaign or an account at its limit is asked for again after this at the latest.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(1);
/// The same where only the end of a call makes room.
const ASK_SOON: TimeDelta = TimeDelta::milliseconds(50);
/// A callee who is just being called is looked at again after this: by then it is known whether a call was made.
const CALLEE_LOOK: TimeDelta = TimeDelta::seconds(11);

/// What came of asking.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) granted: usize,
    pub(super) refused: usize,
    /// Jobs whose callees may not be called before a date.
    pub(super) parks: Vec<Park>,
}

impl<L: DispatchLedger> Dispatch<L> {
    /// Asks for a slot for each pick; those who get one go on to be placed.
    pub(super) async fn ask(
        &self,
        state: &mut State,
        world: &World,
        now: DateTime<Utc>,
        mut picked: Picked,
        windows: &HashMap<JobNo, DateTime<Utc>>,
        waits: &mut Waits,
    ) -> Result<Outcome, LedgerError> {
        let mut outcome = Outcome::default();
        if picked.picks.is_empty() {
            return Ok(outcome);
        }
        for pick in &mut picked.picks {
            let class = state.classes.class(pick.class_no);
            pick.ask.recipient =
                class.and_then(|class| world.recipients(class, pick.plan.brand.as_ref(), now));
        }
        let asks: Vec<_> = picked.picks.iter().map(|p| p.ask.clone()).collect();
        let intents: Vec<_> = picked.picks.iter().map(|pick| intent(world, pick, windows)).collect();
        let (began, asked_at, steps) = (clock::monotonic(), clock::uptime(), self.tenure.steps());
        let asked_on = clock::wall();
        let answers = self.ledger.reserve(world.version, self.terms(), &asks, &intents).await;
        let decided = Took { began: asked_on, ended: clock::wall() };
        self.meter.statement("reserve", began.elapsed(), answers.is_ok());
        let all = || asks.iter().zip(&intents).map(|(ask, intent)| (ask.job_no, intent.attempt)).collect();
        let answers = match answers {
            Ok(SlotAnswers { said: Some(said), .. }) if !self.tenure.agrees(asked_at, said) => {
                // The database's clock has made a step: these slots keep their distance from none that were made before.
                state.unheard = all();
                picked.picks.iter().for_each(|p| state.turns.gave_back(&p.ask.account, &p.ask.campaign));
                self.take_back(state).await?;
                return Ok(outcome);
            }
            Ok(SlotAnswers { said, answers }) => {
                if let (Some(said), Some(reading)) = (said, self.tenure.now()) {
                    self.sending.leave_took((reading.now - said).to_std().unwrap_or_default());
                }
                answers
            }
            Err(error) => {
                // It may have been done all the same: nobody would look after those slots and leaves.
                state.unheard = all();
                self.take_back(state).await?;
                return Err(error);
            }
        };
        let picks = picked.picks.into_iter().zip(intents);
        let mut asked: HashMap<JobNo, (Pick, Intent)> = picks.map(|p| (p.0.ask.job_no, p)).collect();
        for answer in answers {
            match answer {
                SlotAnswer::Granted(reserved) => {
                    let Some((pick, intent)) = asked.remove(&reserved.job_no) else { continue };
                    if let Some(number) = &pick.ask.number {
                        state.book.granted(number, reserved.slot);
                        if !state.reading.is_empty() {
                            state.granted.push((number.clone(), reserved.slot));
                        }
                    }
                    outcome.granted += 1;
                    let answered = self.tenure.now().map_or(now, |reading| reading.now);
                    self.meter.reserved((reserved.slot - answered).to_std().unwrap_or_default());
                    let (job_no, attempt) = (reserved.job_no, intent.attempt);
                    let version = world.version;
                    let job = Slotted { reserved: *reserved, pick, intent, version, steps, decided };
                    if !self.hand_on(job).await {
                        state.unheard.push((job_no, attempt));
                    }
                }
                SlotAnswer::None { job_no, why, next_at } => {
                    let Some((pick, _)) = asked.remove(&job_no) else { continue };
                    outcome.refused += 1;
                    let until = match (why, next_at) {
                        (NoSlot::RecipientLimit, Some(at)) => Some(ParkedUntil::Date(at)),
                        (NoSlot::RecipientBusy, Some(at)) => {
                            Some(ParkedUntil::Look(at.min(now + CALLEE_LOOK)))
                        }
                        _ => None,
                    };
                    if let Some(until) = until {
                        let (reason, class_no) = (Reason::RecipientLimit, None);
                        outcome.parks.push(Park { job_no, reason, until, class_no });
                    }
                    state.refused(&pick, why, next_at, now, waits);
                }
            }
        }
        // Neither granted nor refused: another worker took them.
        for (pick, _) in asked.into_values() {
            state.turns.gave_back(&pick.ask.account, &pick.ask.campaign);
        }
        Ok(outcome)
    }
}

impl<L: DispatchLedger> Dispatch<L> {
    /// False: nobody places calls any more.
    async fn hand_on(&self, job: Slotted) -> bool {
        let Ok(permit) = Arc::clone(&self.inflight).acquire_owned().await else { return false };
        let ready = Ready { job, permit, unsent: self.sending.begin() };
        self.placing.send(ready).await.is_ok()
    }
}

/// What is recorded of the call, should the pick get leave.
fn intent(world: &World, pick: &Pick, windows: &HashMap<JobNo, DateTime<Utc>>) -> Intent {
    let Pick { ask, plan, tier, used, region, .. } = pick;
    Intent {
        attempt: AttemptId(uuid::Uuid::now_v7()),
        model: plan.model.clone(),
        brand: plan.brand.clone(),
        region: *region,
        rule: plan.tiers.get(*tier).map(|tier| tier.source.name().to_owned()),
        decision: brief(world, world.version, plan, *tier, *used),
        window_until: windows.get(&ask.job_no).copied(),
    }
}

impl State {
    /// Remembers a refusal for as long as it holds.
    fn refused(
        &mut self,
        pick: &Pick,
        why: NoSlot,
        next_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        waits: &mut Waits,
    ) {
        let ask = &pick.ask;
        self.turns.gave_back(&ask.account, &ask.campaign);
        // Where the ledger names no time, a call has to end or a slot to pass: it is looked at again soon.
        // And where it does, a call given back may make room before.
        let again = if next_at.is_some() { ASK_AGAIN } else { ASK_SOON };
        let until = next_at.map_or(now + again, |at| at.min(now + again));
        let shut = |why| Shut { why, until, due_at: next_at };
        match why {
            NoSlot::NumberLimit => {
                if let Some(number) = &ask.number {
                    self.book.refused(number, next_at);
                }
                waits.set(pick.class_no, Reason::NumberLimit, next_at);
            }
            NoSlot::CampaignLimit => {
                self.campaigns_shut.insert(ask.campaign.clone(), shut(Reason::CampaignLimit));
                waits.set(pick.class_no, Reason::CampaignLimit, next_at);
            }
            NoSlot::AccountLimit => {
                self.accounts_shut.insert(ask.account.clone(), shut(Reason::AccountLimit));
                waits.set(pick.class_no, Reason::AccountLimit, next_at);
            }
            NoSlot::ProviderUnavailable => {
                // Past already while a probe is under way: its answer is waited for.
                let until = next_at.filter(|at| *at > now).unwrap_or(now + PROBE_LOOK);
                let shut = Shut { why: Reason::ProviderUnavailable, until, due_at: Some(until) };
                self.accounts_shut.insert(ask.account.clone(), shut);
                waits.set(pick.class_no, Reason::ProviderUnavailable, Some(until));
            }
            NoSlot::NoLimits => waits.set(pick.class_no, Reason::PoolUnknown, None),
            // The world is about to change, or somebody else was first: the next pass knows more.
            // A job whose callee was called too lately waits for its own date.
            NoSlot::Stale
            | NoSlot::AccountPaused
            | NoSlot::Sticky
            | NoSlot::Expired
            | NoSlot::RecipientLimit
            | NoSlot::RecipientBusy => {}
        }
    }
}

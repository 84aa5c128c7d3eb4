//! Asking the ledger for slots, and remembering what it refused.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::pass::Waits;
use super::{Dispatch, Ready, Shut, Slotted, State};
use crate::clock;
use crate::core::decide::World;
use crate::core::ids::JobNo;
use crate::core::ledger::{NoSlot, Park, ParkedUntil, SlotAnswer, SlotAnswers};
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
        let (began, asked_at, steps) = (clock::monotonic(), clock::uptime(), self.tenure.steps());
        let asked_on = clock::wall();
        let answers = self.ledger.reserve(world.version, self.terms(), &asks).await;
        let decided = Took { began: asked_on, ended: clock::wall() };
        self.meter.statement("reserve", began.elapsed(), answers.is_ok());
        let jobs = || asks.iter().map(|ask| ask.job_no).collect::<Vec<JobNo>>();
        let answers = match answers {
            Ok(SlotAnswers { said: Some(said), .. }) if !self.tenure.agrees(asked_at, said) => {
                // The database's clock has made a step: these slots keep their distance from none that were made before.
                self.ledger.unreserve(&jobs()).await?;
                picked.picks.iter().for_each(|p| state.turns.gave_back(&p.ask.account, &p.ask.campaign));
                return Ok(outcome);
            }
            Ok(SlotAnswers { answers, .. }) => answers,
            Err(error) => {
                // It may have been done all the same: nobody would look after those slots. Upkeep does, should this fail.
                self.ledger.unreserve(&jobs()).await?;
                return Err(error);
            }
        };
        let mut asked: HashMap<JobNo, Pick> = picked.picks.into_iter().map(|p| (p.ask.job_no, p)).collect();
        for answer in answers {
            match answer {
                SlotAnswer::Granted(reserved) => {
                    let Some(pick) = asked.remove(&reserved.job_no) else { continue };
                    if let Some(number) = &pick.ask.number {
                        state.book.granted(number, reserved.slot);
                    }
                    outcome.granted += 1;
                    let answered = self.tenure.now().map_or(now, |reading| reading.now);
                    self.meter.reserved((reserved.slot - answered).to_std().unwrap_or_default());
                    let window_until = windows.get(&reserved.job_no).copied();
                    let Ok(permit) = Arc::clone(&self.inflight).acquire_owned().await else { break };
                    let version = world.version;
                    let job = Slotted { reserved: *reserved, pick, version, window_until, steps, decided };
                    let ready = Ready { job, permit, unsent: self.sending.begin() };
                    // The other end is gone only when the process stops: the drain hands the reservation back.
                    if self.placing.send(ready).await.is_err() {
                        break;
                    }
                }
                SlotAnswer::None { job_no, why, next_at } => {
                    let Some(pick) = asked.remove(&job_no) else { continue };
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
        for pick in asked.into_values() {
            state.turns.gave_back(&pick.ask.account, &pick.ask.campaign);
        }
        Ok(outcome)
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

//! The classes of waiting jobs, and what the rules in use say of each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::core::decide::{Class, Decision, Lists, Plan, World, decide_among};
use crate::core::ids::ClassNo;
use crate::core::ledger::{ClassEnd, ClassHead, ClassStatus};
use crate::core::phone::E164;
use crate::core::states::Reason;
use crate::engine::ledger::{DispatchLedger, LedgerError};

/// More than this many classes aren't kept in memory once they have nothing waiting.
const KEPT_MAX: usize = 100_000;

/// What may be done with a class now.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    Dial(Arc<Plan>),
    Hold(Reason),
    End(ClassEnd),
}

/// What was last said of a class.
#[derive(Debug)]
struct Noted {
    status: ClassStatus,
    /// When its reason was last found to hold.
    held_at: DateTime<Utc>,
}

#[derive(Debug, Default)]
pub(super) struct Classes {
    known: HashMap<ClassNo, Arc<Class>>,
    /// Classes that can't be read: their jobs wait, and nobody else's.
    unreadable: HashSet<ClassNo>,
    decided: HashMap<ClassNo, Standing>,
    /// Decisions are good for this world only.
    of: Option<Arc<World>>,
    lists: Lists,
    /// The numbers of all plans, and where the lists stand that they are from.
    numbers: HashSet<E164>,
    listed: HashSet<usize>,
    noted: HashMap<ClassNo, Noted>,
}

impl Classes {
    /// Decides every class that has a job waiting, where that isn't done yet.
    pub(super) async fn decide<L: DispatchLedger>(
        &mut self,
        ledger: &L,
        world: &Arc<World>,
        heads: &[ClassHead],
    ) -> Result<(), LedgerError> {
        if self.of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, world)) {
            self.decided.clear();
            self.numbers.clear();
            self.listed.clear();
            self.lists = Lists::default();
            self.of = Some(Arc::clone(world));
        }
        let new: Vec<ClassNo> = heads.iter().map(|h| h.class_no).filter(|no| !self.is_read(*no)).collect();
        if !new.is_empty() {
            if self.known.len() > KEPT_MAX {
                let waiting: HashSet<ClassNo> = heads.iter().map(|h| h.class_no).collect();
                self.known.retain(|no, _| waiting.contains(no));
                self.noted.retain(|no, _| waiting.contains(no));
            }
            let read = ledger.classes(&new).await?;
            self.known.extend(read.into_iter().map(|(no, class)| (no, Arc::new(class))));
            let known = &self.known;
            self.unreadable.extend(new.into_iter().filter(|no| !known.contains_key(no)));
        }
        for head in heads {
            if let (false, Some(class)) =
                (self.decided.contains_key(&head.class_no), self.known.get(&head.class_no))
            {
                let standing = standing(world, class, &mut self.lists);
                if let Standing::Dial(plan) = &standing {
                    for list in plan.tiers.iter().map(|tier| &tier.candidates) {
                        if self.listed.insert(Arc::as_ptr(list) as usize) {
                            self.numbers.extend(list.iter().map(|candidate| candidate.number.clone()));
                        }
                    }
                }
                self.decided.insert(head.class_no, standing);
            }
        }
        Ok(())
    }

    fn is_read(&self, class_no: ClassNo) -> bool {
        self.known.contains_key(&class_no) || self.unreadable.contains(&class_no)
    }

    pub(super) fn standing(&self, class_no: ClassNo) -> Option<&Standing> {
        self.decided.get(&class_no)
    }

    pub(super) fn class(&self, class_no: ClassNo) -> Option<&Arc<Class>> {
        self.known.get(&class_no)
    }

    /// Every number that some class may be dialed from.
    pub(super) fn numbers(&self) -> &HashSet<E164> {
        &self.numbers
    }

    /// Which of these say something new.
    pub(super) fn news(&mut self, statuses: Vec<ClassStatus>, now: DateTime<Utc>) -> Vec<ClassStatus> {
        let mut news = Vec::new();
        for status in statuses {
            match self.noted.get_mut(&status.class_no) {
                Some(noted) if noted.outlasts(&status, now) => {}
                Some(noted) => {
                    noted.held_at = now;
                    if is_news(&noted.status, &status) {
                        news.push(status);
                    }
                }
                None => news.push(status),
            }
        }
        news.sort_by_key(|status| status.class_no);
        news
    }

    /// They are written down.
    pub(super) fn noted(&mut self, news: Vec<ClassStatus>, now: DateTime<Utc>) {
        self.noted.extend(news.into_iter().map(|status| (status.class_no, Noted { status, held_at: now })));
    }
}

/// A class that a limit holds up is `queued` again once the limit hasn't for this long. Whenever there is room a few of
/// its jobs go, and the others wait for the limit as before: that is no change.
const LIMIT_HOLDS: TimeDelta = TimeDelta::seconds(3);

impl Noted {
    fn outlasts(&self, status: &ClassStatus, now: DateTime<Utc>) -> bool {
        let limited = matches!(
            self.status.reason,
            Reason::NumberLimit | Reason::CampaignLimit | Reason::AccountLimit | Reason::RecipientLimit
        );
        limited && status.reason == Reason::Queued && now < self.held_at + LIMIT_HOLDS
    }
}

/// A date that moves by less than a second is no news.
fn is_news(said: &ClassStatus, status: &ClassStatus) -> bool {
    let moved = match (said.due_at, status.due_at) {
        (Some(was), Some(is)) => (is - was).num_milliseconds().abs() >= 1_000,
        (was, is) => was != is,
    };
    said.reason != status.reason || moved
}

fn standing(world: &World, class: &Class, lists: &mut Lists) -> Standing {
    match decide_among(world, class, lists) {
        Decision::Dial(plan) => Standing::Dial(Arc::new(plan)),
        Decision::Hold(Reason::Canceled) => Standing::End(ClassEnd::Canceled),
        Decision::Hold(reason) => Standing::Hold(reason),
        Decision::Refuse(reason) => Standing::End(ClassEnd::Refused(reason)),
    }
}

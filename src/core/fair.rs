//! Whose turn it is: campaigns of one account go round by weight (stride scheduling), so that a small campaign beside a
//! huge one gets its share at once.

use std::collections::HashMap;

use super::ids::{AccountName, CampaignId};

/// Campaigns that have nothing to dial are forgotten beyond so many of an account.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct Turns {
    accounts: HashMap<AccountName, Round>,
}

/// The campaigns of an account.
#[derive(Debug, Default)]
struct Round {
    /// How far each has come, in calls divided by weight.
    turns: HashMap<CampaignId, f64>,
    /// How far the one had come that was served last.
    reached: f64,
}

impl Turns {
    /// Those who have something to dial now. Who was away, or held up by a full number, doesn't make up for it: the
    /// furthest behind of them starts where the others are. But they keep their order among themselves, so that a
    /// number which is free now and then goes round all who wait for it.
    pub fn present<'a>(&mut self, campaigns: impl Iterator<Item = (&'a AccountName, &'a CampaignId)>) {
        let mut here: HashMap<&AccountName, Vec<&CampaignId>> = HashMap::new();
        for (account, campaign) in campaigns {
            here.entry(account).or_default().push(campaign);
        }
        for (account, campaigns) in here {
            let round = self.accounts.entry(account.clone()).or_default();
            if round.turns.len() > REMEMBERED_MAX {
                round.turns.retain(|campaign, _| campaigns.contains(&campaign));
            }
            let reached = round.reached;
            let behind = |turn: &f64| *turn < reached;
            let known = campaigns.iter().filter_map(|campaign| round.turns.get(*campaign).copied());
            let furthest = known.filter(behind).fold(reached, f64::min);
            for campaign in campaigns {
                let turn = round.turns.entry(campaign.clone()).or_insert(reached);
                if behind(turn) {
                    *turn += reached - furthest;
                }
            }
        }
    }

    /// How far a campaign has come; the smallest goes next.
    pub fn of(&self, account: &AccountName, campaign: &CampaignId) -> f64 {
        self.accounts.get(account).and_then(|round| round.turns.get(campaign)).copied().unwrap_or(0.0)
    }

    /// It had a turn.
    pub fn took(&mut self, account: &AccountName, campaign: &CampaignId, weight: u32) {
        let turn = self.of(account, campaign);
        if let Some(round) = self.accounts.get_mut(account) {
            round.reached = round.reached.max(turn);
        }
        self.step(account, campaign, 1.0 / f64::from(weight.max(1)));
    }

    /// Its turn came to nothing.
    pub fn gave_back(&mut self, account: &AccountName, campaign: &CampaignId, weight: u32) {
        self.step(account, campaign, -1.0 / f64::from(weight.max(1)));
    }

    fn step(&mut self, account: &AccountName, campaign: &CampaignId, by: f64) {
        if let Some(turn) = self.accounts.get_mut(account).and_then(|round| round.turns.get_mut(campaign)) {
            *turn += by;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn turns_go_by_weight() {
        let account = AccountName::parse("default").unwrap();
        let (heavy, light) = (CampaignId::parse("heavy").unwrap(), CampaignId::parse("light").unwrap());
        let mut turns = Turns::default();
        turns.present([(&account, &heavy), (&account, &light)].into_iter());
        let mut heavy_turns = 0;
        for _ in 0..400 {
            if turns.of(&account, &heavy) <= turns.of(&account, &light) {
                turns.took(&account, &heavy, 3);
                heavy_turns += 1;
            } else {
                turns.took(&account, &light, 1);
            }
        }
        assert_eq!(heavy_turns, 300);
    }

    #[test]
    fn a_newcomer_starts_level() {
        let account = AccountName::parse("default").unwrap();
        let (old, new) = (CampaignId::parse("old").unwrap(), CampaignId::parse("new").unwrap());
        let mut turns = Turns::default();
        turns.present([(&account, &old)].into_iter());
        (0..1000).for_each(|_| turns.took(&account, &old, 1));
        turns.present([(&account, &old), (&account, &new)].into_iter());
        assert!((turns.of(&account, &new) - turns.of(&account, &old)).abs() <= 1.0);
    }

    #[test]
    fn a_number_that_is_free_now_and_then_goes_round_all_who_wait_for_it() {
        let account = AccountName::parse("default").unwrap();
        let [a, busy, z] = ["a", "busy", "z"].map(|id| CampaignId::parse(id).unwrap());
        let mut turns = Turns::default();
        let mut served: HashMap<&CampaignId, u32> = HashMap::new();
        for pass in 0..1000 {
            if pass % 10 > 0 {
                turns.present([(&account, &busy)].into_iter());
                turns.took(&account, &busy, 1);
                continue;
            }
            turns.present([(&account, &a), (&account, &busy), (&account, &z)].into_iter());
            let first = if turns.of(&account, &a) <= turns.of(&account, &z) { &a } else { &z };
            turns.took(&account, first, 1);
            *served.entry(first).or_default() += 1;
        }
        assert_eq!((served[&a], served[&z]), (50, 50));
    }
}

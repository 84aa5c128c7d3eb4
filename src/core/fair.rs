//! Whose turn it is: campaigns of one account go round by weight (stride scheduling), so that a small campaign beside a
//! huge one gets its share at once.

use std::collections::HashMap;

use super::ids::{AccountName, CampaignId};

/// How far each campaign has come, in calls divided by weight.
#[derive(Debug, Default)]
pub struct Turns {
    accounts: HashMap<AccountName, HashMap<CampaignId, f64>>,
}

impl Turns {
    /// Those who have something to dial now. Who was away starts level with the furthest behind of the others: it
    /// neither makes up for its absence nor waits for it.
    pub fn present<'a>(&mut self, campaigns: impl Iterator<Item = (&'a AccountName, &'a CampaignId)>) {
        let mut here: HashMap<&AccountName, Vec<&CampaignId>> = HashMap::new();
        for (account, campaign) in campaigns {
            here.entry(account).or_default().push(campaign);
        }
        self.accounts.retain(|account, _| here.contains_key(account));
        for (account, campaigns) in here {
            let turns = self.accounts.entry(account.clone()).or_default();
            turns.retain(|campaign, _| campaigns.contains(&campaign));
            let floor = turns.values().copied().fold(f64::INFINITY, f64::min);
            let floor = if floor.is_finite() { floor } else { 0.0 };
            for campaign in campaigns {
                turns.entry(campaign.clone()).or_insert(floor);
            }
        }
    }

    /// How far a campaign has come; the smallest goes next.
    pub fn of(&self, account: &AccountName, campaign: &CampaignId) -> f64 {
        self.accounts.get(account).and_then(|turns| turns.get(campaign)).copied().unwrap_or(0.0)
    }

    /// It had a turn.
    pub fn took(&mut self, account: &AccountName, campaign: &CampaignId, weight: u32) {
        self.step(account, campaign, 1.0 / f64::from(weight.max(1)));
    }

    /// Its turn came to nothing.
    pub fn gave_back(&mut self, account: &AccountName, campaign: &CampaignId, weight: u32) {
        self.step(account, campaign, -1.0 / f64::from(weight.max(1)));
    }

    fn step(&mut self, account: &AccountName, campaign: &CampaignId, by: f64) {
        if let Some(turn) = self.accounts.get_mut(account).and_then(|turns| turns.get_mut(campaign)) {
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
        assert!((turns.of(&account, &new) - turns.of(&account, &old)).abs() < 1e-9);
    }
}

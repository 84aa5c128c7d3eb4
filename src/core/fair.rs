//! Whose turn it is: campaigns of one account go round by weight (stride scheduling), so that a small campaign beside a
//! huge one gets its share at once.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::ids::{AccountName, CampaignId};

/// Of more campaigns than this, those that are away are forgotten.
const KEPT_MAX: usize = 10_000;

/// How far each campaign has come, in calls divided by weight.
#[derive(Debug, Default)]
pub struct Turns {
    accounts: HashMap<AccountName, HashMap<CampaignId, Place>>,
    taken: u64,
}

#[derive(Debug)]
struct Place {
    come: f64,
    /// What one call costs: 1 / weight.
    stride: f64,
    /// The last one it took, counted over all.
    last: u64,
}

/// How far a campaign has come; the smallest goes next, of equals the one whose last turn was longest ago.
#[derive(Debug, Clone)]
pub struct Turn {
    come: f64,
    last: u64,
    campaign: CampaignId,
}

impl Turn {
    /// How far it has come.
    pub fn come(&self) -> f64 {
        self.come
    }

    /// Beside the one of its account that is furthest behind: accounts have come as far as they have, each by itself.
    #[must_use]
    pub fn ahead_of(self, furthest_behind: f64) -> Self {
        Self { come: self.come - furthest_behind, ..self }
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self, other);
        a.come.total_cmp(&b.come).then(a.last.cmp(&b.last)).then_with(|| a.campaign.cmp(&b.campaign))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

impl Turns {
    /// Those who have something to dial now, and their weights.
    ///
    /// Nobody is further ahead of the furthest behind than one call of its own: what others couldn't use isn't held
    /// against it, and absence is neither made up for nor waited for. Who is away keeps its place beside the others
    /// that are: campaigns that share a number take turns by weight although they are here only while it is free.
    /// A newcomer joins at the end of the round.
    pub fn present<'a>(&mut self, campaigns: impl Iterator<Item = (&'a AccountName, &'a CampaignId, u32)>) {
        let mut here: HashMap<&AccountName, HashMap<&CampaignId, f64>> = HashMap::new();
        for (account, campaign, weight) in campaigns {
            here.entry(account).or_default().insert(campaign, 1.0 / f64::from(weight.max(1)));
        }
        for (account, campaigns) in here {
            let turns = self.accounts.entry(account.clone()).or_default();
            if turns.len() > KEPT_MAX {
                turns.retain(|campaign, _| campaigns.contains_key(campaign));
            }
            let known = campaigns.keys().filter_map(|campaign| turns.get(*campaign));
            let behind = known.map(|turn| turn.come).fold(f64::INFINITY, f64::min);
            let behind = if behind.is_finite() { behind } else { 0.0 };
            for (campaign, stride) in campaigns {
                let newcomer = Place { come: f64::INFINITY, stride, last: 0 };
                let turn = turns.entry(campaign.clone()).or_insert(newcomer);
                turn.stride = stride;
                turn.come = turn.come.min(behind + stride);
            }
        }
    }

    /// Whose turn it is among campaigns of one account.
    pub fn of(&self, account: &AccountName, campaign: &CampaignId) -> Turn {
        let place = self.accounts.get(account).and_then(|places| places.get(campaign));
        let (come, last) = place.map_or((0.0, 0), |place| (place.come, place.last));
        Turn { come, last, campaign: campaign.clone() }
    }

    /// It had a turn.
    pub fn took(&mut self, account: &AccountName, campaign: &CampaignId) {
        self.taken += 1;
        let taken = self.taken;
        if let Some(turn) = self.turn(account, campaign) {
            turn.come += turn.stride;
            turn.last = taken;
        }
    }

    /// Its turn came to nothing.
    pub fn gave_back(&mut self, account: &AccountName, campaign: &CampaignId) {
        if let Some(turn) = self.turn(account, campaign) {
            turn.come -= turn.stride;
        }
    }

    fn turn(&mut self, account: &AccountName, campaign: &CampaignId) -> Option<&mut Place> {
        self.accounts.get_mut(account)?.get_mut(campaign)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    struct Field {
        account: AccountName,
        turns: Turns,
    }

    impl Field {
        fn new() -> Self {
            Self { account: AccountName::parse("default").unwrap(), turns: Turns::default() }
        }

        /// A pass of these campaigns in which there is room for `room` calls; who got how many.
        fn pass(&mut self, campaigns: &[(&str, u32)], room: usize) -> HashMap<String, usize> {
            let ids: Vec<(CampaignId, u32)> =
                campaigns.iter().map(|(id, weight)| (CampaignId::parse(id).unwrap(), *weight)).collect();
            self.turns.present(ids.iter().map(|(id, weight)| (&self.account, id, *weight)));
            let mut got = HashMap::new();
            for _ in 0..room {
                let turn = |id: &CampaignId| self.turns.of(&self.account, id);
                let next = ids.iter().min_by_key(|(id, _)| turn(id)).unwrap().0.clone();
                self.turns.took(&self.account, &next);
                *got.entry(next.to_string()).or_default() += 1;
            }
            got
        }
    }

    #[test]
    fn turns_go_by_weight() {
        for room in [400, 10, 1] {
            let mut field = Field::new();
            let heavy = (0..400 / room).map(|_| field.pass(&[("heavy", 3), ("light", 1)], room));
            let heavy: usize = heavy.map(|got| got.get("heavy").copied().unwrap_or(0)).sum();
            assert!((299..=301).contains(&heavy), "{heavy} of 400, {room} at a time");
        }
    }

    #[test]
    fn a_newcomer_neither_waits_for_the_past_nor_pushes_in() {
        let mut field = Field::new();
        field.pass(&[("old", 1)], 1000);
        let got = field.pass(&[("old", 1), ("new", 1)], 10);
        assert!((4..=6).contains(&got["new"]), "{got:?}");
        // A stream of newcomers: who was there before has its turn.
        let mut field = Field::new();
        field.pass(&[("z", 1)], 1);
        let passes = (0..20).map(|i| field.pass(&[(&format!("a{i}"), 1), ("z", 1)], 1));
        assert!(passes.filter(|got| got.contains_key("z")).count() >= 10);
    }

    #[test]
    fn who_is_here_only_while_a_number_is_free_keeps_its_place() {
        // Two campaigns share a number that takes one call at a time; a third has numbers of its own.
        let mut field = Field::new();
        let mut got: HashMap<String, usize> = HashMap::new();
        let (heavy, light) = (CampaignId::parse("heavy").unwrap(), CampaignId::parse("light").unwrap());
        for _ in 0..400 {
            field.pass(&[("free", 1), ("heavy", 3), ("light", 1)], 0);
            let turn = |id: &CampaignId| field.turns.of(&field.account, id);
            let next = if turn(&heavy) <= turn(&light) { &heavy } else { &light };
            field.turns.took(&field.account, next);
            *got.entry(next.to_string()).or_default() += 1;
            field.pass(&[("free", 1)], 50);
        }
        assert!((299..=301).contains(&got["heavy"]), "{got:?}");
    }

    #[test]
    fn another_accounts_passes_change_nothing() {
        let mut field = Field::new();
        let other = AccountName::parse("other").unwrap();
        let mut b = 0;
        for _ in 0..100 {
            b += field.pass(&[("a", 1), ("b", 1)], 1).get("b").copied().unwrap_or(0);
            field.turns.present([(&other, &CampaignId::parse("c").unwrap(), 1)].into_iter());
        }
        assert_eq!(b, 50);
    }

    #[test]
    fn what_came_to_nothing_costs_nothing() {
        let mut field = Field::new();
        let (a, account) = (CampaignId::parse("a").unwrap(), field.account.clone());
        field.pass(&[("a", 1), ("b", 1)], 0);
        field.turns.took(&account, &a);
        field.turns.gave_back(&account, &a);
        assert!((field.turns.of(&account, &a).come - 1.0).abs() < 1e-9);
    }
}

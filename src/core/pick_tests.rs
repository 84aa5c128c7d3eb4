#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, HashSet};

use chrono::TimeDelta;
use proptest::prelude::{Strategy as Generates, any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::core::decide::{Candidate, Candidates, Tier};
use crate::core::ids::ModelId;
use crate::core::place::Place;
use crate::core::rules::{Limits, Match, Otherwise, Overflow, Rule, Strategy, Use};
use crate::core::usage::Used;

fn number(n: usize) -> E164 {
    E164::from_canonical(&format!("+1628666{:04}", 1000 + n)).unwrap()
}

fn account(n: usize) -> AccountName {
    AccountName::parse(&format!("account-{n}")).unwrap()
}

fn campaign(n: usize) -> CampaignId {
    CampaignId::parse(&format!("campaign-{n}")).unwrap()
}

fn plan(at: usize, numbers: &[usize]) -> Arc<Plan> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    let candidate = |n: &usize| Candidate { number: number(*n), weight: 1, place: Place::default() };
    let candidates = Arc::new(Candidates::new(numbers.iter().map(candidate).collect()));
    let rule = Rule {
        name: "any".to_owned(),
        matches: Match::default(),
        uses: Use::default(),
        strategy: Strategy::LeastUsed,
        sticky: false,
        overflow: Overflow::Wait,
        otherwise: Otherwise::Next,
    };
    Arc::new(Plan {
        model: ModelId::parse("agent").unwrap(),
        brand: None,
        account: account(at),
        tiers: vec![Tier::of_rule(0, &rule, candidates, Place::default())],
    })
}

/// A class: its account, campaign and numbers, the ranks of its jobs in order of receipt, and whether more wait.
#[derive(Debug, Clone)]
struct Wants {
    account: usize,
    campaign: usize,
    numbers: Vec<usize>,
    jobs: Vec<(i16, i64)>,
    more: bool,
}

/// What each number and account still takes, and how many may go.
#[derive(Debug, Clone)]
struct Limited {
    numbers: Vec<u32>,
    accounts: Vec<Option<usize>>,
    campaigns: Vec<Option<usize>>,
    capacity: usize,
}

fn offers(wants: &[Wants]) -> Vec<Offer> {
    let offer = |(no, wants): (usize, &Wants)| {
        let class_no = ClassNo(i32::try_from(no).unwrap());
        let mut jobs = wants.jobs.clone();
        jobs.sort_unstable();
        let job = |(rank, job_no)| Waiting {
            job_no: JobNo(job_no),
            class_no,
            rank,
            phone: E164::from_canonical("+14155550123").unwrap(),
            lead_timezone: None,
            consented: false,
            suppressed: Vec::new(),
        };
        Offer {
            class_no,
            campaign: campaign(wants.campaign),
            region: None,
            weight: weight(wants.campaign),
            sticky: None,
            plan: plan(wants.account, &wants.numbers),
            jobs: jobs.into_iter().map(job).collect(),
            more: wants.more,
        }
    };
    wants.iter().enumerate().map(offer).collect()
}

fn weight(campaign: usize) -> u32 {
    u32::try_from(campaign).unwrap() + 1
}

fn run(wants: &[Wants], limited: &Limited, turns: &mut Turns) -> Picked {
    let mut book = UsageBook::default();
    let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    book.begin(now, TimeDelta::milliseconds(100));
    for (n, left) in limited.numbers.iter().enumerate() {
        // Ten a minute, of which so many are left; a full one is free again in half a minute.
        let used = 10 - left;
        let used = Used {
            number: number(n),
            second: 0,
            minute: used,
            hour: 0,
            day: 0,
            concurrent: 0,
            next_at: (*left == 0).then(|| now + TimeDelta::seconds(30)),
            last_call: None,
        };
        book.read(used, Limits { per_minute: Some(10), ..Limits::default() });
    }
    let some = |left: &[Option<usize>]| -> Vec<(usize, usize)> {
        left.iter().enumerate().filter_map(|(n, left)| Some((n, (*left)?))).collect()
    };
    let mut room = Room {
        capacity: limited.capacity,
        accounts: some(&limited.accounts).into_iter().map(|(n, left)| (account(n), left)).collect(),
        campaigns: some(&limited.campaigns).into_iter().map(|(n, left)| (campaign(n), left)).collect(),
    };
    let mut rankings = Rankings::default();
    pick(offers(wants), (&mut book, &mut rankings), turns, &HashMap::new(), &mut room, &mut || 0)
}

/// Whether the jobs of `wants` that are left could go beside what was picked.
fn has_room(wants: &Wants, limited: &Limited, picked: &Picked) -> bool {
    let count = |of: &dyn Fn(&Pick) -> bool| picked.picks.iter().filter(|p| of(p)).count();
    let left = |most: Option<usize>, used: usize| most.is_none_or(|most| used < most);
    picked.picks.len() < limited.capacity
        && left(limited.accounts[wants.account], count(&|p| p.ask.account == account(wants.account)))
        && left(limited.campaigns[wants.campaign], count(&|p| p.ask.campaign == campaign(wants.campaign)))
        && wants.numbers.iter().any(|n| {
            count(&|p| p.ask.number == Some(number(*n))) < usize::try_from(limited.numbers[*n]).unwrap()
        })
}

const NUMBERS: usize = 5;
const ACCOUNTS: usize = 2;
const CAMPAIGNS: usize = 4;

fn wants() -> impl Generates<Value = Vec<Wants>> {
    // A campaign belongs to the account that its agent has: any, class by class.
    let class = (
        0..ACCOUNTS,
        0..CAMPAIGNS,
        proptest::collection::vec(0..NUMBERS, 1..=NUMBERS),
        proptest::collection::vec(0i16..3, 1..12),
        any::<bool>(),
    );
    proptest::collection::vec(class, 1..8).prop_map(|classes| {
        let mut received = 0;
        let class =
            |(account, campaign, numbers, ranks, more): (usize, usize, Vec<usize>, Vec<i16>, bool)| {
                let jobs = ranks
                    .into_iter()
                    .map(|rank| {
                        received += 1;
                        // Received in turns, not class by class.
                        (rank, (received * 7_919) % 1_009)
                    })
                    .collect();
                Wants { account, campaign, numbers, jobs, more }
            };
        classes.into_iter().map(class).collect()
    })
}

fn limited() -> impl Generates<Value = Limited> {
    (
        proptest::collection::vec(0u32..6, NUMBERS),
        proptest::collection::vec(proptest::option::of(0usize..12), ACCOUNTS),
        proptest::collection::vec(proptest::option::of(0usize..12), CAMPAIGNS),
        1usize..60,
    )
        .prop_map(|(numbers, accounts, campaigns, capacity)| Limited {
            numbers,
            accounts,
            campaigns,
            capacity,
        })
}

proptest! {
    #[test]
    fn nothing_is_picked_twice_or_above_what_there_is_room_for(wants in wants(), limited in limited()) {
        let picked = run(&wants, &limited, &mut Turns::default());
        let jobs: HashSet<JobNo> = picked.picks.iter().map(|p| p.ask.job_no).collect();
        prop_assert_eq!(jobs.len(), picked.picks.len());
        prop_assert!(picked.picks.len() <= limited.capacity);
        for (n, left) in limited.numbers.iter().enumerate() {
            let used = picked.picks.iter().filter(|p| p.ask.number == Some(number(n))).count();
            prop_assert!(used <= usize::try_from(*left).unwrap(), "number {n}: {used} of {left}");
        }
        for (n, left) in limited.accounts.iter().enumerate() {
            let used = picked.picks.iter().filter(|p| p.ask.account == account(n)).count();
            prop_assert!(left.is_none_or(|left| used <= left));
        }
        for (n, left) in limited.campaigns.iter().enumerate() {
            let used = picked.picks.iter().filter(|p| p.ask.campaign == campaign(n)).count();
            prop_assert!(left.is_none_or(|left| used <= left));
        }
        for pick in &picked.picks {
            let class = &wants[usize::try_from(pick.class_no.0).unwrap()];
            prop_assert!(class.jobs.contains(&(pick.waiting.rank, pick.ask.job_no.0)));
            prop_assert!(pick.ask.number.as_ref().is_some_and(|n| class.numbers.iter().any(|m| number(*m) == *n)));
        }
    }

    #[test]
    fn equal_inputs_give_equal_picks(wants in wants(), limited in limited()) {
        let asks = |picked: Picked| picked.picks.into_iter().map(|p| p.ask).collect::<Vec<_>>();
        let (one, other) =
            (run(&wants, &limited, &mut Turns::default()), run(&wants, &limited, &mut Turns::default()));
        prop_assert_eq!(one.full.clone(), other.full.clone());
        prop_assert_eq!(asks(one), asks(other));
    }

    /// Whatever is full: a class with jobs read, a free number and room has none of its jobs left, unless its campaign
    /// has to read on first.
    #[test]
    fn nobody_waits_who_could_go(wants in wants(), limited in limited()) {
        let picked = run(&wants, &limited, &mut Turns::default());
        for (no, class) in wants.iter().enumerate() {
            let gone = picked.picks.iter().filter(|p| p.class_no.0 == i32::try_from(no).unwrap()).count();
            let reads_on = picked.more
                && wants.iter().any(|w| w.more && (w.account, w.campaign) == (class.account, class.campaign));
            prop_assert!(gone == class.jobs.len() || reads_on || !has_room(class, &limited, &picked), "class {no}");
        }
    }

    /// Within a campaign of one account, by priority and then receipt, over all of its classes.
    #[test]
    fn a_campaign_keeps_its_order(wants in wants(), limited in limited()) {
        let picked = run(&wants, &limited, &mut Turns::default());
        let full: HashSet<ClassNo> = picked.full.iter().map(|(class_no, _)| *class_no).collect();
        let mut last: BTreeMap<(AccountName, CampaignId), (i16, JobNo)> = BTreeMap::new();
        for pick in &picked.picks {
            let at = (pick.waiting.rank, pick.ask.job_no);
            if let Some(before) = last.insert((pick.ask.account.clone(), pick.ask.campaign.clone()), at) {
                prop_assert!(before < at);
            }
        }
        // None that was left comes before one that was picked, unless its class is full.
        for (no, class) in wants.iter().enumerate() {
            let class_no = ClassNo(i32::try_from(no).unwrap());
            let Some(last) = last.get(&(account(class.account), campaign(class.campaign))) else { continue };
            for (rank, job_no) in &class.jobs {
                let picked = picked.picks.iter().any(|p| p.ask.job_no == JobNo(*job_no));
                prop_assert!(picked || full.contains(&class_no) || *last < (*rank, JobNo(*job_no)));
            }
        }
    }

    /// Campaigns that all have enough to dial share a scarce account by weight, to within a call of each.
    #[test]
    fn a_scarce_account_is_shared_by_weight(campaigns in 2..CAMPAIGNS, room in 1usize..30, passes in 1usize..60) {
        let wants: Vec<Wants> = (0..campaigns)
            .map(|c| Wants {
                account: 0,
                campaign: c,
                numbers: vec![c],
                jobs: (0..40).map(|j| (4, i64::try_from(c * 100 + j).unwrap())).collect(),
                more: false,
            })
            .collect();
        let limited = Limited {
            numbers: vec![10; NUMBERS],
            accounts: vec![Some(room.min(10)), None],
            campaigns: vec![None; CAMPAIGNS],
            capacity: 100,
        };
        let mut turns = Turns::default();
        let mut got = vec![0usize; campaigns];
        for _ in 0..passes {
            for pick in run(&wants, &limited, &mut turns).picks {
                got[(0..campaigns).find(|c| campaign(*c) == pick.ask.campaign).unwrap()] += 1;
            }
        }
        let (all, weights) = (passes * room.min(10), (0..campaigns).map(weight).sum::<u32>());
        for (c, got) in got.iter().enumerate() {
            let due = all as f64 * f64::from(weight(c)) / f64::from(weights);
            prop_assert!((*got as f64 - due).abs() <= f64::from(weights), "{got} of {all}, due {due}");
        }
    }
}

/// How far an account has come says nothing beside another: each has its share of what is scarce.
#[test]
fn an_account_that_has_come_far_is_not_behind_one_that_begins() {
    let wants = |account, campaign| Wants {
        account,
        campaign,
        numbers: vec![0],
        jobs: (0..20).map(|n| (5, n + 100 * account as i64)).collect(),
        more: false,
    };
    let mut turns = Turns::default();
    turns.present([(&account(0), &campaign(0), 1)].into_iter());
    (0..1_000).for_each(|_| turns.took(&account(0), &campaign(0)));
    let limited =
        Limited { numbers: vec![10], accounts: vec![None, None], campaigns: vec![None, None], capacity: 10 };
    let picked = run(&[wants(0, 0), wants(1, 0)], &limited, &mut turns);
    let of = |at| picked.picks.iter().filter(|pick| pick.ask.account == account(at)).count();
    assert_eq!((of(0), of(1)), (5, 5));
}

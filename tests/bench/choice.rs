//! Choosing a number, alone: among ten thousand, under five thousand rules. No server is asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use outdial::clock;
use outdial::core::decide::{
    AccountState, Class, Decision, Lists, Plan, Pool, PoolState, Rankings, World, decide_among,
};
use outdial::core::fair::Turns;
use outdial::core::ids::{AccountName, CampaignId, ClassNo, JobNo, ModelId, RoutingVersion};
use outdial::core::ledger::Waiting;
use outdial::core::phone::{self, E164, PhoneCheck};
use outdial::core::pick::{Offer, Room, pick};
use outdial::core::rules::{Compiled, Strategy, parse};
use outdial::core::usage::{UsageBook, Used};

use super::ground::AGENT;
use super::provider::number;
use super::report::Findings;

const NUMBERS: usize = 10_000;
const RULES: usize = 5_000;
const JOBS: usize = 100_000;
/// Jobs to a pass.
const PASS: usize = 256;
/// Once a second all numbers are read anew, which has every order made anew: it counts.
const PASSES_A_SECOND: usize = 50;
const AREAS: [&str; 4] = ["212", "312", "415", "206"];

pub fn findings() -> Result<Findings> {
    let mut found = Findings::default();
    for strategy in [Strategy::LeastUsed, Strategy::RoundRobin, Strategy::LocalPresence] {
        for campaigns in [10, 1_000] {
            let world = world(strategy)?;
            let (decided_us, chosen_us) = of(&world, campaigns)?;
            let name = format!("{strategy:?}, {campaigns} campaigns");
            found.add(format!("{name}: deciding a class, µs"), decided_us);
            found.at_most(format!("{name}: choosing a number, µs"), chosen_us, 2.0);
        }
    }
    Ok(found)
}

fn world(strategy: Strategy) -> Result<World> {
    let mut rules = format!(
        "[defaults]\nnumber_limits = {{ per_second = 1000, per_day = 100000 }}\n[[agent]]\nmodel_id = \"{AGENT}\"\n"
    );
    for n in 0..RULES {
        rules.push_str(&format!(
            "[[rule]]\nname = \"other-{n}\"\nmatch = {{ campaign = [\"elsewhere-{n}\"] }}\n"
        ));
    }
    let strategy = serde_json::to_value(strategy)?;
    rules.push_str(&format!("[[rule]]\nname = \"any\"\nstrategy = {strategy}\n"));
    let settings = parse(&rules).map_err(|faults| anyhow!("{faults:?}"))?;
    let numbers: Vec<E164> =
        (0..NUMBERS).map(|n| E164::from_canonical(&number(n)).context("a number")).collect::<Result<_>>()?;
    Ok(World {
        version: RoutingVersion(1),
        rules: Arc::new(Compiled::new(settings)),
        pools: HashMap::from([(ModelId::parse(AGENT)?, Arc::new(Pool::new(PoolState::Current, numbers)))]),
        numbers: HashMap::new(),
        campaigns: HashMap::new(),
        accounts: HashMap::from([(AccountName::parse("default")?, AccountState::Active)]),
        kill_switch: false,
    })
}

/// Microseconds to decide a class, and to choose a number for a job of one.
fn of(world: &World, campaigns: usize) -> Result<(f64, f64)> {
    let mut classes = Vec::new();
    for campaign in 0..campaigns {
        for area in AREAS {
            let phone =
                phone::parse(&format!("+1{area}2345678"), PhoneCheck::Valid).map_err(|e| anyhow!("{e:?}"))?;
            classes.push(Class {
                campaign: CampaignId::parse(&format!("campaign-{campaign}"))?,
                model: Some(ModelId::parse(AGENT)?),
                brand: None,
                region: phone.place.region,
                country: phone.destination(),
                area: phone.place.area,
                pinned: None,
                sticky: None,
            });
        }
    }
    let began = clock::monotonic();
    let mut lists = Lists::default();
    let decided: Vec<Decision> = classes.iter().map(|class| decide_among(world, class, &mut lists)).collect();
    let decided_us = began.elapsed().as_secs_f64() * 1e6 / classes.len() as f64;
    let plans: Vec<Arc<Plan>> = decided
        .into_iter()
        .map(|decision| match decision {
            Decision::Dial(plan) => Ok(Arc::new(plan)),
            other => Err(anyhow!("{other:?}")),
        })
        .collect::<Result<_>>()?;

    let mut now = DateTime::<Utc>::from_timestamp(1_800_000_000, 0).context("a date")?;
    let mut book = UsageBook::default();
    book.begin(now, TimeDelta::milliseconds(100));
    let began_at = now;
    let readings: Vec<_> = (0..NUMBERS)
        .map(|n| {
            let number = E164::from_canonical(&number(n)).context("a number")?;
            let limits = world.rules.number_limits(&number);
            let used = Used {
                number,
                second: 0,
                minute: 0,
                hour: 0,
                day: (n % 7) as u32,
                concurrent: 0,
                next_at: None,
                last_call: Some(began_at - TimeDelta::seconds((n % 977) as i64)),
            };
            Ok((used, limits))
        })
        .collect::<Result<_>>()?;
    let mut rankings = Rankings::default();
    let mut turns = Turns::default();
    let mut draws = || 0;
    let mut took = std::time::Duration::ZERO;
    let mut chosen = 0;
    let mut job_no = 0;
    // As many classes have something to dial as a pass takes jobs, another lot each time.
    for pass in 0..JOBS / PASS {
        let here = classes.len().min(PASS);
        let each = PASS / here;
        let offers: Vec<Offer> = (0..here)
            .map(|at| {
                let at = (pass * here + at) % classes.len();
                let class_no = ClassNo(at as i32);
                let jobs: VecDeque<Waiting> = (0..each)
                    .map(|_| {
                        job_no += 1;
                        Ok(Waiting {
                            job_no: JobNo(job_no),
                            class_no,
                            rank: 5,
                            phone: E164::from_canonical("+14155550123").context("a phone")?,
                            lead_timezone: None,
                            consented: false,
                            suppressed: Vec::new(),
                        })
                    })
                    .collect::<Result<_>>()?;
                Ok(Offer {
                    class_no,
                    campaign: classes[at].campaign.clone(),
                    weight: 1,
                    region: classes[at].region,
                    sticky: None,
                    plan: Arc::clone(&plans[at]),
                    jobs,
                    more: false,
                })
            })
            .collect::<Result<_>>()?;
        let mut room = Room { capacity: PASS, accounts: HashMap::new(), campaigns: HashMap::new() };
        let sticky = HashMap::new();
        let readings = if pass % PASSES_A_SECOND == 0 { readings.clone() } else { Vec::new() };
        let began = clock::monotonic();
        if !readings.is_empty() {
            readings.into_iter().for_each(|(used, limits)| book.read(used, limits));
            rankings.clear();
        }
        let picked = pick(offers, (&mut book, &mut rankings), &mut turns, &sticky, &mut room, &mut draws);
        took += began.elapsed();
        now += TimeDelta::milliseconds(1_000 / PASSES_A_SECOND as i64);
        for pick in &picked.picks {
            if let Some(number) = &pick.ask.number {
                book.granted(number, now);
            }
        }
        chosen += picked.picks.len();
        book.begin(now, TimeDelta::milliseconds(100));
    }
    ensure!(chosen >= JOBS / PASS * PASS / 2, "only {chosen} of {JOBS} jobs got a number");
    Ok((decided_us, took.as_secs_f64() * 1e6 / chosen as f64))
}

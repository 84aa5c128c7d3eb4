//! What workers make of limits at speed: several of them beside one, windows that bind, one hot number, a campaign at its
//! limit beside a free one, ten jobs beside very many. The provider's arrivals tell.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use outdial::clock;

use super::ground::{Ground, Process, job};
use super::provider::Arrival;
use super::report::{Findings, spread};
use super::speed;
use super::stage::{NEVER, Size, Stage};

const WORKERS: [usize; 4] = [1, 2, 4, 8];
const TURNS: usize = 3;
const SECOND_US: u64 = 1_000_000;
const MINUTE_US: u64 = 60 * SECOND_US;

pub async fn findings(ground: &Ground, jobs: usize) -> Result<Findings> {
    let mut found = Findings::default();
    together(ground, jobs, &mut found).await?;
    for workers in WORKERS {
        bound(ground, workers, &mut found).await?;
    }
    hot(ground, &mut found).await?;
    beside(ground, &mut found).await?;
    few(ground, &mut found).await?;
    Ok(found)
}

/// Jobs a second of several workers beside those of one, in turns.
async fn together(ground: &Ground, jobs: usize, found: &mut Findings) -> Result<()> {
    let stage = Stage::new(ground, "bench", Size::SMALL, NEVER, false, &[]).await?;
    let mut rates: HashMap<usize, Vec<f64>> = HashMap::new();
    let mut first = 0;
    for _ in 0..TURNS {
        for workers in WORKERS {
            let measured = speed::run_warm(&stage, first, jobs, workers).await?;
            println!(
                "  {workers} workers: {:.0}/s, CPU-µs a job: {:.0?}",
                measured.per_second, measured.cpu_us
            );
            rates.entry(workers).or_default().push(measured.per_second);
            first += 2 * jobs;
        }
    }
    let mut rate = |workers| spread(rates.remove(&workers).unwrap_or_default()).0;
    let one = rate(1);
    found.add("1 worker: jobs/s", one);
    found.add("2 workers: of one's jobs/s, %", 100.0 * rate(2) / one);
    for workers in [4, 8] {
        found.at_least(format!("{workers} workers: of one's jobs/s, %"), 100.0 * rate(workers) / one, 80.0);
    }
    Ok(())
}

/// Numbers with a window of a second and one of a minute, both of which bind, and more jobs than they allow.
async fn bound(ground: &Ground, workers: usize, found: &mut Findings) -> Result<()> {
    const NUMBERS: usize = 2_000;
    const PER_MINUTE: usize = 5;
    /// In this time each number may call twice as often as its minute allows: at the beginning, and after a minute.
    const LASTS: Duration = Duration::from_secs(75);
    let size = Size { numbers: NUMBERS, ..Size::SMALL };
    let limits = format!("per_second = 1, per_minute = {PER_MINUTE}");
    let stage = Stage::new(ground, "bench", size, &limits, true, &[]).await?;
    let allowed = 2 * PER_MINUTE * NUMBERS;
    let arrivals = arrivals_within(&stage, allowed + allowed / 2, workers, LASTS).await?;
    let numbers = by_number(&arrivals);
    let above: usize =
        numbers.values().map(|calls| above(calls, 1, SECOND_US) + above(calls, PER_MINUTE, MINUTE_US)).sum();
    found.at_most(format!("{workers} workers, {NUMBERS} numbers: calls above a window"), above as f64, 0.0);
    let used = 100.0 * arrivals.len() as f64 / allowed as f64;
    found.at_least(
        format!("{workers} workers, {NUMBERS} numbers: of the minute's allowance used, %"),
        used,
        98.0,
    );
    Ok(())
}

/// One number for all jobs of several workers.
async fn hot(ground: &Ground, found: &mut Findings) -> Result<()> {
    const PER_SECOND: usize = 10;
    const LASTS: Duration = Duration::from_secs(30);
    let size = Size { numbers: 1, ..Size::SMALL };
    let stage = Stage::new(ground, "bench", size, &format!("per_second = {PER_SECOND}"), true, &[]).await?;
    let allowed = PER_SECOND * LASTS.as_secs() as usize;
    let arrivals = arrivals_within(&stage, 10 * allowed, 4, LASTS).await?;
    let above: usize = by_number(&arrivals).values().map(|calls| above(calls, PER_SECOND, SECOND_US)).sum();
    found.at_most("one hot number, 4 workers: calls above its second", above as f64, 0.0);
    let used = 100.0 * arrivals.len() as f64 / allowed as f64;
    found.at_least("one hot number, 4 workers: of its seconds' allowance used, %", used, 85.0);
    Ok(())
}

/// A campaign at its own limit, whose jobs have been taken in and told that they wait, beside one that is free and has the same
/// numbers: how fast is the free one, with and without it?
async fn beside(ground: &Ground, found: &mut Findings) -> Result<()> {
    const JOBS: usize = 40_000;
    let mut rates: [Vec<f64>; 2] = Default::default();
    for turn in 0..TURNS {
        for (shared, rates) in [false, true].into_iter().zip(&mut rates) {
            let stage = Stage::new(ground, "bench", Size::SMALL, NEVER, true, &[]).await?;
            let capped = "[[campaign]]\nid = \"campaign-1\"\nlimits = { per_second = 20 }\n";
            stage.apply(&format!("{}{capped}", stage.rules(NEVER)))?;
            let end = clock::monotonic() + Duration::from_secs(300);
            let worker = stage.worker()?;
            if shared {
                publish(ground, JOBS..2 * JOBS, 1).await?;
                let mut records = stage.records().await?;
                let wait = "select count(*) >= 9 * $1 / 10 from outdial.jobs where state = 'waiting' and reason = 'campaign_limit'";
                while !sqlx::query_scalar::<_, bool>(wait).bind(JOBS as i64).fetch_one(&mut records).await? {
                    ensure!(clock::monotonic() < end, "the campaign at its limit doesn't wait for it");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            publish(ground, 0..JOBS, 0).await?;
            let free = |arrivals: &[Arrival]| -> Vec<u64> {
                let theirs = |a: &&Arrival| a.callee % 10_000_000 < 2_000_000 + JOBS as u64;
                arrivals.iter().filter(theirs).map(|a| a.us).collect()
            };
            let times = loop {
                ensure!(clock::monotonic() < end, "the free campaign was not dialed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                let times = free(&stage.provider.arrivals().await?);
                if times.len() >= JOBS {
                    break times;
                }
            };
            let took = times.iter().max().unwrap_or(&0) - times.iter().min().unwrap_or(&0);
            rates.push(JOBS as f64 * SECOND_US as f64 / took as f64);
            println!("  turn {turn}, beside a capped one {shared}: {:.0}/s", rates.last().unwrap_or(&0.0));
            drop(worker);
        }
    }
    let [alone, shared] = rates.map(|rates| spread(rates).0);
    found.at_least(
        "a free campaign beside one at its limit: of its jobs/s alone, %",
        100.0 * shared / alone,
        85.0,
    );
    Ok(())
}

/// Ten jobs of one campaign, published when another has very many under the same account.
async fn few(ground: &Ground, found: &mut Findings) -> Result<()> {
    const CALLS_PER_SECOND: usize = 20;
    const FEW: usize = 10;
    const MANY: u64 = 1_000_000;
    let rate = CALLS_PER_SECOND.to_string();
    let more = [("OUTDIAL__ACCOUNTS__DEFAULT__CALLS_PER_SECOND", rate.as_str())];
    let size = Size { waiting: MANY, full: false, ..Size::SMALL };
    let stage = Stage::new(ground, "bench", size, NEVER, true, &more).await?;
    let worker = stage.worker()?;
    let end = clock::monotonic() + Duration::from_secs(120);
    while stage.provider.count().await?.posts < 5 * CALLS_PER_SECOND as u64 {
        ensure!(clock::monotonic() < end, "the many are not dialed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Every fourth has an area code that none of the many have.
    let jobs: Vec<_> = (0..FEW).map(|n| job(4 * n, 9)).collect();
    let published = super::provider::now_us();
    let mut publisher = ground.publisher().await?;
    for job in &jobs {
        publisher.publish("outdial.jobs", job).await?;
    }
    publisher.close().await?;
    let theirs: Vec<u64> =
        jobs.iter().filter_map(|job| job["phone"].as_str()?.get(1..)?.parse().ok()).collect();
    let last = loop {
        ensure!(clock::monotonic() < end, "the ten were not dialed");
        let arrivals = stage.provider.arrivals().await?;
        let came: Vec<&Arrival> = arrivals.iter().filter(|a| theirs.contains(&a.callee)).collect();
        if came.len() == FEW {
            break came.iter().map(|arrival| arrival.us).max().unwrap_or(0);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    stage.stop(worker).await?;
    let alone = FEW as f64 / (CALLS_PER_SECOND as f64 / 2.0);
    let took = last.saturating_sub(published) as f64 / SECOND_US as f64;
    let name = format!("ten jobs beside {MANY} of another campaign: times what their share alone needs");
    found.at_most(name, took / alone, 2.0);
    Ok(())
}

/// So many jobs of a campaign, while workers run.
async fn publish(ground: &Ground, jobs: Range<usize>, campaign: usize) -> Result<()> {
    let mut publisher = ground.publisher().await?;
    for n in jobs {
        publisher.publish("outdial.jobs", &job(n, campaign)).await?;
    }
    publisher.close().await
}

/// What arrives within a time from the first call, of so many jobs and workers.
async fn arrivals_within(
    stage: &Stage<'_>,
    jobs: usize,
    workers: usize,
    lasts: Duration,
) -> Result<Vec<Arrival>> {
    stage.ground.fill("outdial.jobs", 0..jobs, stage.size.campaigns).await?;
    let workers: Vec<Process> = (0..workers).map(|_| stage.worker()).collect::<Result<_>>()?;
    let end = clock::monotonic() + Duration::from_secs(60) + lasts;
    while stage.provider.count().await?.since_us < lasts.as_micros() as u64 {
        ensure!(clock::monotonic() < end, "no call came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut arrivals = stage.provider.arrivals().await?;
    for worker in workers {
        stage.stop(worker).await?;
    }
    let first = arrivals.iter().map(|arrival| arrival.us).min().unwrap_or(0);
    arrivals.retain(|arrival| arrival.us < first + lasts.as_micros() as u64);
    Ok(arrivals)
}

/// When each number was called from, in order.
fn by_number(arrivals: &[Arrival]) -> HashMap<u64, Vec<u64>> {
    let mut numbers: HashMap<u64, Vec<u64>> = HashMap::new();
    for arrival in arrivals {
        numbers.entry(arrival.number).or_default().push(arrival.us);
    }
    numbers.values_mut().for_each(|calls| calls.sort_unstable());
    numbers
}

/// How many calls came when a window of that width already held `most`.
fn above(calls: &[u64], most: usize, width_us: u64) -> usize {
    calls.iter().zip(calls.iter().skip(most)).filter(|(early, late)| *late - *early < width_us).count()
}

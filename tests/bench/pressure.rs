//! What becomes of the flow when others stall: a provider that slows from 20 ms to 5 s and back, one that is too busy, a
//! database that stands still; and how soon it is as fast as before.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outdial::clock;

use super::ground::{Ground, Process};
use super::provider::{StandIn, Temper};
use super::report::Findings;
use super::stage::{NEVER, Size, Stage};

/// As a provider answers on a good day.
const USUAL: Temper = Temper { delay_ms: 20, busy: 0 };
const TICK: Duration = Duration::from_millis(500);
const BEFORE: Duration = Duration::from_secs(10);
const TROUBLE: Duration = Duration::from_secs(10);
/// So long it may take to be as fast as before, and so long it is watched.
const RECOVERED: f64 = 10.0;
const AFTER: Duration = Duration::from_secs(25);

#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Beside which the others are to be read: on a machine that others use, too, nothing stays as fast as it was.
    None,
    Slow,
    /// All of 1,000 are turned away.
    Busy,
    /// Three in ten are.
    OftenBusy,
    Database,
}

/// More than are sent in the time that all of it takes: the flow never ends for want of jobs.
const JOBS: u64 = 2_000_000;
/// `worker.max_inflight`
const UNDER_WAY_MAX: f64 = 512.0;

pub async fn findings(ground: &Ground) -> Result<Findings> {
    // All wait in the ledger already, so that nothing but the trouble changes the pace.
    let size = Size { waiting: JOBS, full: false, ..Size::SMALL };
    let stage = Stage::new(ground, "bench", size, NEVER, false, &[]).await?;
    let mut found = Findings::default();
    stage.provider.temper(USUAL).await?;
    let worker = stage.worker()?;
    rates(&stage.provider, Duration::from_secs(5)).await?;
    for trouble in [Trouble::None, Trouble::Slow, Trouble::Busy, Trouble::OftenBusy, Trouble::Database] {
        let was = rates(&stage.provider, BEFORE).await?;
        let before = mean(&was);
        let refused = stage.provider.count().await?.refused;
        let (during, most) = {
            let _trouble = Begun::new(ground, &stage, trouble).await?;
            let during = rates(&stage.provider, TROUBLE).await?;
            (during, stage.provider.count().await?.most_under_way)
        };
        stage.provider.temper(USUAL).await?;
        let refused = stage.provider.count().await?.refused - refused;
        let after = rates(&stage.provider, AFTER).await?;
        ensure!(stage.provider.count().await?.posts < JOBS, "too few jobs: the flow ended by itself");
        // From then on it was as fast for two seconds.
        let back = after.windows(4).position(|some| mean(some) >= 0.9 * before);
        let back = back.map_or(f64::INFINITY, |ticks| ticks as f64 * TICK.as_secs_f64());
        let name = format!("{trouble:?}");
        for (when, rates) in [("before", &was), ("during", &during), ("after", &after)] {
            let each: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
            println!("  {name}, {when}, POSTs/s by the half second: {}", each.join(" "));
        }
        found.add(format!("{name}: jobs/s before"), before);
        found.add(format!("{name}: jobs/s during"), mean(&during));
        found.add(format!("{name}: answered 429"), refused as f64);
        let herd = after.iter().fold(0.0_f64, |most, rate| most.max(*rate)) / before;
        found.at_most(format!("{name}: the fastest half second after, times before"), herd, 2.0);
        let settled = 100.0 * mean(after.get(after.len() / 2..).unwrap_or_default()) / before;
        found.at_least(format!("{name}: of the jobs/s before, 12 s after, %"), settled, 90.0);
        found.at_most(format!("{name}: seconds until 90 % of before"), back, RECOVERED);
        found.at_most(format!("{name}: most requests under way"), most as f64, UNDER_WAY_MAX);
    }
    stage.stop(worker).await?;
    Ok(found)
}

fn mean(rates: &[f64]) -> f64 {
    rates.iter().sum::<f64>() / rates.len().max(1) as f64
}

/// A database that stands still goes on whatever becomes of the measurement.
struct Begun<'a> {
    ground: &'a Ground,
    database: bool,
}

impl<'a> Begun<'a> {
    async fn new(ground: &'a Ground, stage: &Stage<'_>, trouble: Trouble) -> Result<Self> {
        let temper = match trouble {
            Trouble::None => USUAL,
            Trouble::Slow => Temper { delay_ms: 5_000, ..USUAL },
            Trouble::Busy => Temper { busy: 1_000, ..USUAL },
            Trouble::OftenBusy => Temper { busy: 300, ..USUAL },
            Trouble::Database => USUAL,
        };
        stage.provider.temper(temper).await?;
        let begun = Self { ground, database: matches!(trouble, Trouble::Database) };
        if begun.database {
            halted(ground, true)?;
        }
        Ok(begun)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.database {
            let _ = halted(self.ground, false);
        }
    }
}

/// Every process of the database stands still, or goes on.
fn halted(ground: &Ground, still: bool) -> Result<()> {
    let server =
        ground.servers.postgres.as_ref().and_then(outdial::local::Postgres::pid).context("postgres")?;
    Process::halt_all(server, still)
}

/// POSTs a second, for each tick of that time.
async fn rates(provider: &StandIn, lasts: Duration) -> Result<Vec<f64>> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.tick().await;
    let mut rates = Vec::new();
    let mut last = (provider.count().await?.posts, clock::monotonic());
    for _ in 0..lasts.as_millis() / TICK.as_millis() {
        ticks.tick().await;
        let now = (provider.count().await?.posts, clock::monotonic());
        rates.push((now.0 - last.0) as f64 / (now.1 - last.1).as_secs_f64());
        last = now;
    }
    Ok(rates)
}

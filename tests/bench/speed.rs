//! How many jobs a second: the textbook pipeline, outdial with everything on and without events, and the parts alone.
//! Speed is taken from the first POST to the last record that says `placed`; the queue is filled before.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outdial::clock;
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

use super::ground::{Ground, NUMBERS, Process};
use super::parts::{self, Part};
use super::provider::StandIn;
use super::report::Findings;
use super::stage::{NEVER, Size, Stage};
use super::{ledger, profile, textbook, usage};

/// A run that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(1_800);

/// How it went.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub per_second: f64,
    /// The same, until every event is with the broker.
    pub told_per_second: f64,
    /// Processor time for a job, in microseconds, by process.
    pub cpu_us: Cpu,
    /// Of the program itself, in bytes: of several the largest.
    pub peak_memory: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    pub program: f64,
    pub postgres: f64,
    pub rabbitmq: f64,
    pub provider: f64,
}

impl Cpu {
    fn all(self) -> f64 {
        self.program + self.postgres + self.rabbitmq + self.provider
    }
}

/// Jobs for outdial, and for the textbook pipeline and each of the parts.
pub async fn findings(ground: &Ground, jobs: usize, baseline_jobs: usize) -> Result<Findings> {
    let mut found = Findings::default();
    let textbook = textbook(ground, baseline_jobs).await?;
    tell(&mut found, "textbook", textbook);
    let with = outdial(ground, jobs, true).await?;
    tell(&mut found, "outdial, everything on", with);
    let without = outdial(ground, jobs, false).await?;
    tell(&mut found, "outdial, no events", without);
    let mut each = Vec::new();
    for &part in Part::ALL {
        let rate = self::part(ground, part, baseline_jobs).await?;
        found.add(format!("{part:?} alone: jobs/s"), rate);
        each.push((part, rate));
    }
    // One after the other on the same processors.
    let allowed = |publish: bool| {
        let rates = each.iter().filter(|(part, _)| publish || *part != Part::Publish).map(|(_, rate)| rate);
        1.0 / rates.map(|rate| 1.0 / rate).sum::<f64>()
    };
    let times = |rate: f64| rate / textbook.per_second;
    found.at_least("outdial, everything on: times the textbook", times(with.per_second), 4.0);
    found.at_least("outdial, no events: times the textbook", times(without.per_second), 5.0);
    let share = "of what the parts allow, %";
    found.at_least(format!("outdial, everything on: {share}"), 100.0 * with.per_second / allowed(true), 70.0);
    found.at_least(format!("outdial, no events: {share}"), 100.0 * without.per_second / allowed(false), 70.0);
    Ok(found)
}

fn tell(found: &mut Findings, who: &str, measured: Measured) {
    let Cpu { program, postgres, rabbitmq, provider } = measured.cpu_us;
    found.add(format!("{who}: jobs/s"), measured.per_second);
    if !measured.told_per_second.is_nan() {
        found.add(format!("{who}: jobs/s until all events are confirmed"), measured.told_per_second);
    }
    found.add(format!("{who}: CPU-µs a job"), measured.cpu_us.all());
    found.add(format!("{who}: of these the program"), program);
    found.add(format!("{who}: of these PostgreSQL"), postgres);
    found.add(format!("{who}: of these RabbitMQ"), rabbitmq);
    found.add(format!("{who}: of these the provider"), provider);
    let memory = measured.peak_memory as f64 / 1_048_576.0;
    if who == "textbook" {
        found.add(format!("{who}: most memory, MiB"), memory);
    } else {
        found.at_most(format!("{who}: most memory, MiB"), memory, 100.0);
    }
}

async fn textbook(ground: &Ground, jobs: usize) -> Result<Measured> {
    let provider = StandIn::start(NUMBERS, false)?;
    let database = ground.database("bench").await?;
    textbook::fill(&database, NUMBERS).await?;
    ground.fill(textbook::QUEUE, 0..jobs, Size::SMALL.campaigns).await?;
    let mut records = PgConnection::connect(&database).await?;
    let mut command = Command::new(std::env::current_exe()?);
    let amqp = ground.servers.amqp_url();
    command.args(["textbook", &amqp, &database, &provider.url, &jobs.to_string()]).stdout(Stdio::null());
    let before = usage::Servers::of(ground, &provider)?;
    let mut programs = vec![Process::start(&mut command)?];
    let placed = "select count(*) from calls where state = 'placed'";
    let took = until_placed(&provider, &mut records, placed, &mut programs, jobs).await?;
    measured(ground, &provider, (before, 0), &programs, jobs, took)
}

async fn outdial(ground: &Ground, jobs: usize, events: bool) -> Result<Measured> {
    // There is no event of an account that nobody pauses.
    let types = [("OUTDIAL__EVENTS__TYPES", "account.state_changed")];
    let more: &[_] = if events { &[] } else { &types };
    let stage = Stage::new(ground, "bench", Size::SMALL, NEVER, false, more).await?;
    run(&stage, 0, jobs, 1).await
}

/// Lets so many workers do so many jobs, the first of which has that number. Every job has its record at the end.
pub async fn run(stage: &Stage<'_>, first: usize, jobs: usize, workers: usize) -> Result<Measured> {
    stage.ground.fill("outdial.jobs", first..first + jobs, stage.size.campaigns).await?;
    let since = Since::now(stage, &[]).await?;
    let mut programs: Vec<Process> = (0..workers).map(|_| stage.worker()).collect::<Result<_>>()?;
    let measured = since.until_done(stage, jobs, &mut programs).await?;
    for program in programs {
        stage.stop(program).await?;
    }
    Ok(measured)
}

/// The same, of workers that have done as many jobs before: all their connections have planned their statements.
pub async fn run_warm(stage: &Stage<'_>, first: usize, jobs: usize, workers: usize) -> Result<Measured> {
    stage.ground.fill("outdial.jobs", first..first + jobs, stage.size.campaigns).await?;
    let since = Since::now(stage, &[]).await?;
    let mut programs: Vec<Process> = (0..workers).map(|_| stage.worker()).collect::<Result<_>>()?;
    since.until_done(stage, jobs, &mut programs).await?;
    let since = Since::now(stage, &programs).await?;
    stage.ground.fill("outdial.jobs", first + jobs..first + 2 * jobs, stage.size.campaigns).await?;
    let measured = since.until_done(stage, jobs, &mut programs).await?;
    for program in programs {
        stage.stop(program).await?;
    }
    Ok(measured)
}

/// What there was before jobs are done.
struct Since {
    last_job: i64,
    placed: i64,
    cpu: usage::Servers,
    own_cpu_us: u64,
}

impl Since {
    async fn now(stage: &Stage<'_>, programs: &[Process]) -> Result<Self> {
        let mut records = stage.records().await?;
        stage.provider.reset().await?;
        let last_job =
            sqlx::query_scalar("select last_value from outdial.job_no").fetch_one(&mut records).await?;
        let placed = sqlx::query_scalar("select count(*) from outdial.live").fetch_one(&mut records).await?;
        if stage.ground.profile {
            profile::begin(&stage.database).await?;
        }
        let cpu = usage::Servers::of(stage.ground, &stage.provider)?;
        Ok(Self { last_job, placed, cpu, own_cpu_us: own_cpu_us(programs)? })
    }

    async fn until_done(self, stage: &Stage<'_>, jobs: usize, programs: &mut [Process]) -> Result<Measured> {
        let mut records = stage.records().await?;
        let placed = format!("select count(*) - {} from outdial.live where state = 'placed'", self.placed);
        let took = until_placed(&stage.provider, &mut records, &placed, programs, jobs).await?;
        let measured =
            measured(stage.ground, &stage.provider, (self.cpu, self.own_cpu_us), programs, jobs, took)?;
        if stage.ground.profile {
            profile::tell(&stage.database, jobs).await?;
        }
        let records_of =
            "select count(*) filter (where state = 'placed') from outdial.jobs where job_no > $1";
        let recorded: i64 =
            sqlx::query_scalar(records_of).bind(self.last_job).fetch_one(&mut records).await?;
        ensure!(recorded == jobs as i64, "{recorded} of {jobs} jobs have a record that says placed");
        let told = until_told(&stage.provider, &mut records).await?;
        Ok(Measured { told_per_second: jobs as f64 / told.as_secs_f64(), ..measured })
    }
}

/// Since the first POST, until the broker has confirmed every event.
async fn until_told(provider: &StandIn, records: &mut PgConnection) -> Result<Duration> {
    let began = clock::monotonic();
    loop {
        let count = provider.count().await?;
        let left: i64 =
            sqlx::query_scalar("select count(*) from outdial.outbox").fetch_one(&mut *records).await?;
        if left == 0 {
            return Ok(Duration::from_micros(count.since_us));
        }
        ensure!(began.elapsed() < LIMIT, "{left} events are not told after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Since the first POST, until all are recorded as placed.
async fn until_placed(
    provider: &StandIn,
    records: &mut PgConnection,
    placed: &str,
    programs: &mut [Process],
    jobs: usize,
) -> Result<Duration> {
    let began = clock::monotonic();
    loop {
        ensure!(began.elapsed() < LIMIT, "not done after {LIMIT:?}");
        // Asked for rarely, and of the records only when the provider has heard of all: asking costs the same machine.
        tokio::time::sleep(Duration::from_millis(if jobs < 100_000 { 50 } else { 250 })).await;
        let count = provider.count().await?;
        ensure!(count.posts <= jobs as u64, "{} POSTs for {jobs} jobs", count.posts);
        let all = count.posts == jobs as u64;
        let placed = sqlx::AssertSqlSafe(placed.to_owned());
        if all && sqlx::query_scalar::<_, i64>(placed).fetch_one(&mut *records).await? == jobs as i64 {
            return Ok(Duration::from_micros(count.since_us));
        }
        for program in &mut *programs {
            if program.ended()? {
                bail!("a program has ended after {} POSTs", count.posts);
            }
        }
    }
}

fn own_cpu_us(programs: &[Process]) -> Result<u64> {
    programs.iter().map(|program| usage::cpu_us(program.pid)).sum()
}

fn measured(
    ground: &Ground,
    provider: &StandIn,
    (before, own_before): (usage::Servers, u64),
    programs: &[Process],
    jobs: usize,
    took: Duration,
) -> Result<Measured> {
    let own = own_cpu_us(programs)?.saturating_sub(own_before);
    let mut peak_memory = 0;
    for program in programs {
        peak_memory = usage::peak_memory(program.pid)?.max(peak_memory);
    }
    let after = usage::Servers::of(ground, provider)?;
    let each = |us: u64| us as f64 / jobs as f64;
    Ok(Measured {
        per_second: jobs as f64 / took.as_secs_f64(),
        told_per_second: f64::NAN,
        cpu_us: Cpu {
            program: each(own),
            postgres: each(after.postgres.saturating_sub(before.postgres)),
            rabbitmq: each(after.rabbitmq.saturating_sub(before.rabbitmq)),
            provider: each(after.provider.saturating_sub(before.provider)),
        },
        peak_memory,
    })
}

/// The rate of one part alone.
async fn part(ground: &Ground, part: Part, jobs: usize) -> Result<f64> {
    let provider = StandIn::start(NUMBERS, false)?;
    let database = ground.database("bench").await?;
    match part {
        Part::Consume => ground.fill(parts::QUEUE, 0..jobs, Size::SMALL.campaigns).await?,
        Part::Insert | Part::Steps => {
            let secret = SecretString::from(database.clone());
            let pool = outdial::store::connect(
                &secret,
                outdial::store::Purpose::Command,
                2,
                outdial::store::PATIENCE_OF_COMMANDS,
            )
            .await?;
            outdial::store::migrate(&pool).await?;
            if part == Part::Insert {
                ledger::ground(&pool, ([None; 4], None), &[([None; 4], None)], &[], 0).await;
            }
            pool.close().await;
        }
        Part::Post | Part::Publish => {}
    }
    let name = clap::ValueEnum::to_possible_value(&part).context("a part")?;
    let arguments =
        ["part", name.get_name(), &ground.servers.amqp_url(), &database, &provider.url, &jobs.to_string()];
    let mut process = Process::role(&arguments, Stdio::piped())?;
    let mut line = String::new();
    let mut output = BufReader::new(process.stdout()?);
    let line = tokio::task::spawn_blocking(move || output.read_line(&mut line).map(|_| line)).await??;
    process.wait(Duration::from_secs(10)).await?;
    Ok(line.trim().parse()?)
}

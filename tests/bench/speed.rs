//! What is measured: the textbook pipeline, and outdial with everything on and without events.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outdial::clock;
use secrecy::SecretString;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use super::ground::{AGENT, Ground, NUMBERS, Process};
use super::parts::{self, Part};
use super::usage;
use super::{ledger, textbook};

/// A run that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(1_800);
const SUPPRESSED: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Subject {
    Textbook,
    Outdial,
    WithoutEvents,
}

impl Subject {
    pub const ALL: &[Self] = &[Self::Textbook, Self::Outdial, Self::WithoutEvents];
}

/// How it went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measured {
    pub jobs: usize,
    pub per_second: f64,
    /// Processor time for a job, in microseconds, by process.
    pub cpu_us: Cpu,
    /// Of the program itself, in bytes.
    pub peak_memory: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cpu {
    pub program: f64,
    pub postgres: f64,
    pub rabbitmq: f64,
    pub provider: f64,
}

impl Cpu {
    pub fn all(self) -> f64 {
        self.program + self.postgres + self.rabbitmq + self.provider
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cpu { program, postgres, rabbitmq, provider } = self.cpu_us;
        write!(
            f,
            "{} jobs, {:.0}/s; CPU-µs a job: program {program:.0}, postgres {postgres:.0}, rabbitmq {rabbitmq:.0}, \
             provider {provider:.0}; {} MiB",
            self.jobs,
            self.per_second,
            self.peak_memory >> 20
        )
    }
}

/// The stand-in, and where it listens.
struct Provider {
    process: Process,
    url: String,
    count_url: String,
}

impl Provider {
    fn start() -> Result<Self> {
        let mut process = Process::role(&["provider", &NUMBERS.to_string()], Stdio::piped())?;
        let mut line = String::new();
        BufReader::new(process.stdout()?).read_line(&mut line)?;
        let address = line.trim();
        Ok(Self {
            url: format!("http://{address}/v2"),
            count_url: format!("http://{address}/bench"),
            process,
        })
    }

    /// POSTs so far, and since when.
    async fn count(&self) -> Result<(u64, Duration)> {
        let text = reqwest::get(&self.count_url).await?.text().await?;
        let (posts, ago) = text.split_once(' ').context("two numbers")?;
        Ok((posts.parse()?, Duration::from_micros(ago.parse()?)))
    }
}

pub async fn measure(ground: &Ground, subject: Subject, jobs: usize) -> Result<Measured> {
    let provider = Provider::start()?;
    let database = ground.database("bench").await?;
    let amqp = ground.servers.amqp_url();
    let folder = tempfile::tempdir()?;
    let command = match subject {
        Subject::Textbook => {
            textbook::fill(&database, NUMBERS).await?;
            ground.fill(textbook::QUEUE, jobs).await?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["textbook", &amqp, &database, &provider.url, &jobs.to_string()]);
            command
        }
        Subject::Outdial | Subject::WithoutEvents => {
            let settings =
                Settings { database: &database, amqp: &amqp, provider: &provider.url, folder: folder.path() };
            settings.prepare()?;
            ground.listen().await?;
            ground.fill("outdial.jobs", jobs).await?;
            let mut worker = settings.command(&["worker"]);
            if subject == Subject::WithoutEvents {
                // There is no event of an account that nobody pauses.
                worker.env("OUTDIAL__EVENTS__TYPES", "account.state_changed");
            }
            worker
        }
    };
    run(ground, &provider, &database, subject, jobs, command).await
}

async fn run(
    ground: &Ground,
    provider: &Provider,
    database: &str,
    subject: Subject,
    jobs: usize,
    mut command: Command,
) -> Result<Measured> {
    let postgres =
        ground.servers.postgres.as_ref().and_then(outdial::local::Postgres::pid).context("postgres")?;
    let rabbitmq =
        ground.servers.rabbit.as_ref().and_then(outdial::local::Rabbit::pid).context("rabbitmq")?;
    let used = || -> Result<[u64; 3]> {
        Ok([usage::cpu_us(postgres)?, usage::cpu_us(rabbitmq)?, usage::cpu_us(provider.process.pid)?])
    };
    let before = used()?;
    let mut program = Process::start(command.stdout(Stdio::null()))?;
    let placed = match subject {
        Subject::Textbook => "select count(*) from calls where state = 'placed'",
        Subject::Outdial | Subject::WithoutEvents => {
            "select (select count(*) from outdial.attempts) * (select count(*) filter (where state <> 'placed') = 0
             from outdial.live)::int"
        }
    };
    let mut records = PgConnection::connect(database).await?;
    let began = clock::monotonic();
    // Asked for rarely, and of the records only when the provider has heard of all: asking costs the same machine.
    let took = loop {
        ensure!(began.elapsed() < LIMIT, "not done after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(if jobs < 100_000 { 50 } else { 250 })).await;
        let ended = program.ended()?;
        let (posts, since) = provider.count().await?;
        ensure!(posts <= jobs as u64, "{posts} POSTs for {jobs} jobs");
        if posts == jobs as u64
            && sqlx::query_scalar::<_, i64>(placed).fetch_one(&mut records).await? == jobs as i64
        {
            break since;
        }
        if ended {
            bail!("the program has ended after {posts} POSTs");
        }
    };
    let (own, memory) = (usage::cpu_us(program.pid)?, usage::peak_memory(program.pid)?);
    let after = used()?;
    let each = |us: u64| us as f64 / jobs as f64;
    let measured = Measured {
        jobs,
        per_second: jobs as f64 / took.as_secs_f64(),
        cpu_us: Cpu {
            program: each(own),
            postgres: each(after[0] - before[0]),
            rabbitmq: each(after[1] - before[1]),
            provider: each(after[2] - before[2]),
        },
        peak_memory: memory,
    };
    if subject != Subject::Textbook {
        let missing = "select count(*) from outdial.jobs where state <> 'placed'";
        let missing: i64 = sqlx::query_scalar(missing).fetch_one(&mut records).await?;
        ensure!(missing == 0, "{missing} jobs without a record that says placed");
    }
    Ok(measured)
}

/// The rate of one part alone.
pub async fn part(ground: &Ground, part: Part, jobs: usize) -> Result<f64> {
    let provider = Provider::start()?;
    let database = ground.database("bench").await?;
    match part {
        Part::Consume => ground.fill(parts::QUEUE, jobs).await?,
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

struct Settings<'a> {
    database: &'a str,
    amqp: &'a str,
    provider: &'a str,
    folder: &'a Path,
}

impl Settings<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outdial"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["OUTDIAL", "SYNTHFLOW_", "DATABASE_URL", "AMQP_URL", "RUST_LOG"]
                .iter()
                .any(|own| name.starts_with(own))
            {
                command.env_remove(&*name);
            }
        }
        command.args(arguments).current_dir(self.folder).stdin(Stdio::null()).envs([
            ("DATABASE_URL", self.database),
            ("AMQP_URL", self.amqp),
            ("SYNTHFLOW_BASE_URL", self.provider),
            ("SYNTHFLOW_API_KEY", "bench"),
            ("OUTDIAL__ACCOUNTS__DEFAULT__CALLS_PER_SECOND", "10000"),
            ("OUTDIAL__HTTP__LISTEN", "127.0.0.1:0"),
            // Learning how calls end is measured apart.
            ("OUTDIAL__CALLS__POLL", "10m"),
            ("RUST_LOG", "warn"),
        ]);
        command
    }

    /// Tables, rules with windows that never bind, and suppressions.
    fn prepare(&self) -> Result<()> {
        let routing = self.folder.join("routing.toml");
        std::fs::write(&routing, rules())?;
        let list = self.folder.join("suppressed.csv");
        let phones = (0..SUPPRESSED).map(|n| format!("+1503{:07}\n", 2_000_000 + n));
        std::fs::write(&list, std::iter::once("phone\n".to_owned()).chain(phones).collect::<String>())?;
        let (routing, list) = (routing.to_string_lossy(), list.to_string_lossy());
        for arguments in [
            &["migrate"][..],
            &["routing", "apply", &routing],
            &["suppress", "import", &list, "--source", "bench"],
        ] {
            let output = self.command(arguments).output()?;
            ensure!(
                output.status.success(),
                "outdial {arguments:?}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        // The queues, which `outdial check` doesn't make: a worker does, and leaves at once.
        let declared = self.command(&["worker"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut worker = declared?;
        std::thread::sleep(Duration::from_secs(3));
        worker.kill()?;
        worker.wait()?;
        Ok(())
    }
}

/// Twenty campaigns' rules, most of which don't apply, as in a file that has grown.
fn rules() -> String {
    let mut text = "[defaults]\ncalling_rules = \"none\"\n\
        number_limits = { per_second = 1000, per_minute = 60000, per_hour = 1000000, per_day = 10000000 }\n"
        .to_owned();
    for n in 10..30 {
        text.push_str(&format!(
            "[[rule]]\nname = \"other-{n}\"\nmatch = {{ campaign = [\"campaign-{n}\"] }}\n"
        ));
    }
    text.push_str(&format!("[[agent]]\nmodel_id = \"{AGENT}\"\n[[rule]]\nname = \"any\"\n"));
    text
}

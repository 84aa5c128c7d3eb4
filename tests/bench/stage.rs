//! outdial as it is measured: its settings, a database of the size that is asked for, and workers.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};

use super::ground::{AGENT, Ground, NUMBERS, Process};
use super::provider::{FULL_AGENT, StandIn};

/// What outdial has to carry.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub numbers: usize,
    pub rules: usize,
    pub campaigns: usize,
    pub suppressed: u64,
    /// Jobs that are over, each with its attempt and its key.
    pub past: u64,
    /// Jobs of one campaign that wait.
    pub waiting: u64,
    /// Whether that campaign's numbers are all at their limit.
    pub full: bool,
}

impl Size {
    /// What every ratio is measured with.
    pub const SMALL: Self = Self {
        numbers: NUMBERS,
        rules: 20,
        campaigns: 10,
        suppressed: 10_000,
        past: 0,
        waiting: 0,
        full: true,
    };
}

/// One outdial: its database, settings, and rules.
#[derive(Debug)]
pub struct Stage<'a> {
    pub ground: &'a Ground,
    pub provider: StandIn,
    pub database: String,
    pub size: Size,
    amqp: String,
    folder: tempfile::TempDir,
    more: Vec<(&'static str, String)>,
}

/// Windows that never bind.
pub const NEVER: &str = "per_second = 1000, per_minute = 60000, per_hour = 1000000, per_day = 10000000";
/// The job numbers of what was there before begin with it.
const PAST: u64 = 1;

impl<'a> Stage<'a> {
    /// Its tables, rules and queues are there; no worker runs.
    pub async fn new(
        ground: &'a Ground,
        name: &str,
        size: Size,
        limits: &str,
        watch: bool,
        more: &[(&'static str, &str)],
    ) -> Result<Self> {
        let stage = Self {
            provider: StandIn::start(size.numbers, watch)?,
            database: ground.database(name).await?,
            amqp: ground.servers.amqp_url(),
            folder: tempfile::tempdir()?,
            more: more.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            ground,
            size,
        };
        stage.run(&["migrate"])?;
        stage.apply(&stage.rules(limits))?;
        stage.suppress()?;
        stage.load().await?;
        // The queues are declared by a worker; it reads the pools, too, and takes what little the full numbers allow.
        let worker = stage.worker()?;
        stage.settle().await?;
        stage.stop(worker).await?;
        ground.listen().await?;
        stage.provider.reset().await?;
        Ok(stage)
    }

    /// Until every pool is known and the full numbers are full.
    async fn settle(&self) -> Result<()> {
        let mut records = self.records().await?;
        let ready = "select count(*) > 0 and count(*) = count(pool_read_at) from outdial.agents";
        for _ in 0..600 {
            let full = self.size.waiting == 0 || !self.size.full || self.provider.count().await?.posts >= 10;
            if full && sqlx::query_scalar::<_, bool>(ready).fetch_one(&mut records).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("after a minute the pools are not known")
    }

    pub async fn records(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.database).await?)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outdial"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let own = ["OUTDIAL", "SYNTHFLOW_", "DATABASE_URL", "AMQP_URL", "RUST_LOG"];
            if own.iter().any(|own| name.starts_with(own)) {
                command.env_remove(&*name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .envs([
                ("DATABASE_URL", self.database.as_str()),
                ("AMQP_URL", &self.amqp),
                ("SYNTHFLOW_BASE_URL", &self.provider.url),
                ("SYNTHFLOW_API_KEY", "bench"),
                ("OUTDIAL__ACCOUNTS__DEFAULT__CALLS_PER_SECOND", "100000"),
                // A million wait in one of the cases.
                ("OUTDIAL__INTAKE__MAX_WAITING", "100000000"),
                ("OUTDIAL__HTTP__LISTEN", "127.0.0.1:0"),
                // Learning how calls end is measured apart.
                ("OUTDIAL__CALLS__POLL", "10m"),
                ("RUST_LOG", "warn"),
            ])
            .envs(self.more.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    pub fn worker(&self) -> Result<Process> {
        Process::start(self.command(&["worker"]).stdout(Stdio::null()))
    }

    /// Lets it drain.
    pub async fn stop(&self, mut worker: Process) -> Result<()> {
        worker.terminate()?;
        worker.wait(Duration::from_secs(60)).await
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = self.command(arguments).output()?;
        ensure!(
            output.status.success(),
            "outdial {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    pub fn apply(&self, rules: &str) -> Result<()> {
        let file = self.folder.path().join("routing.toml");
        std::fs::write(&file, rules)?;
        self.run(&["routing", "apply", &file.to_string_lossy()])
    }

    /// Rules most of which don't apply, as in a file that has grown; the one that does stands last.
    pub fn rules(&self, limits: &str) -> String {
        let mut text = format!(
            "[defaults]\ncalling_rules = \"none\"\nnumber_limits = {{ {limits} }}\n[[agent]]\nmodel_id = \"{AGENT}\"\n"
        );
        if self.size.waiting > 0 && self.size.full {
            text.push_str(&format!(
                "[[agent]]\nmodel_id = \"{FULL_AGENT}\"\n[[rule]]\nname = \"full\"\nmatch = {{ campaign = [\"campaign-full\"] }}\n"
            ));
            for n in 0..super::provider::FULL_NUMBERS {
                let number = super::provider::number(self.size.numbers + n);
                text.push_str(&format!("[[number]]\nnumber = \"{number}\"\nlimits = {{ per_hour = 1 }}\n"));
            }
        }
        for n in 0..self.size.rules {
            text.push_str(&format!(
                "[[rule]]\nname = \"other-{n}\"\nmatch = {{ campaign = [\"elsewhere-{n}\"] }}\n"
            ));
        }
        text.push_str("[[rule]]\nname = \"any\"\n");
        text
    }

    /// Callees whom nobody here calls.
    fn suppress(&self) -> Result<()> {
        let file = self.folder.path().join("suppressed.csv");
        let mut list = std::io::BufWriter::new(std::fs::File::create(&file)?);
        writeln!(list, "phone")?;
        // Of area codes that no job is for, seven million numbers each.
        for n in 0..self.size.suppressed {
            let area = [503, 602, 702, 808].get((n / 7_000_000) as usize).context("too many opt-outs")?;
            writeln!(list, "+1{area}{:07}", 2_000_000 + n % 7_000_000)?;
        }
        list.flush()?;
        drop(list);
        self.run(&["suppress", "import", &file.to_string_lossy(), "--source", "bench"])
    }

    /// What was there before: written straight into the tables, for it would take hours through the queue.
    async fn load(&self) -> Result<()> {
        let Size { past, waiting, .. } = self.size;
        let mut db = self.records().await?;
        let job_keys = "insert into outdial.job_keys (id_digest, content_digest, job_no)
            select md5('past-' || n)::uuid, md5('content-' || n)::uuid, n from generate_series($1::bigint, $2) n";
        let jobs = "insert into outdial.jobs (job_no, job_id, campaign_id, class_no, phone, name, model_id, priority, expires_at,
                received_at, state, attempts, placed, finished_at, event_seq)
            select n, 'past-' || n, 'past-' || n % 100, 1, '+1415' || (2000000 + n % 7999999), 'A Callee', $3, 4, t + interval '7 days',
                   t, 'done', 1, 1, t + interval '1 minute', 3
            from (select n, now() - ($4 - n) * 2419200 / $5 * interval '1 second' t from generate_series($1::bigint, $2) n) n";
        let attempts = "insert into outdial.attempts (job_no, attempt_no, attempt_id, worker_no, campaign_id, account, model_id, phone,
                from_phone_number, routing_version, rule, decision, state, disposition, call_id, http_status, provider_status,
                slot, submitted_at, placed_at, ended_at, duration_s)
            select n, 1, md5('attempt-' || n)::uuid, 1, 'past-' || n % 100, 'default', $3, '+1415' || (2000000 + n % 7999999),
                   '+1628' || (6661000 + n % 2000), 1, 'any',
                   '{\"tier\": 0, \"rule\": \"any\", \"strategy\": \"least_used\", \"candidates\": 2000, \"share\": 0.01}'::jsonb,
                   'ended', (array['answered', 'no_answer', 'voicemail', 'busy'])[1 + n % 4], md5('call-' || n), 200, 'completed',
                   t, t, t, t + interval '1 minute', 60
            from (select n, now() - ($4 - n) * 2419200 / $5 * interval '1 second' t from generate_series($1::bigint, $2) n) n";
        // What upkeep would have added up of them by now. Jobs count themselves.
        let counts = [
            "insert into outdial.campaign_counts (campaign_id, what, n, last_at)
             select a.campaign_id, w.what, count(*), max(a.placed_at) from outdial.attempts a
             cross join lateral (values ('calls'), (a.state), (case when a.disposition = 'answered' then 'answered' end)) w(what)
             where w.what in ('calls', 'ended', 'answered') group by a.campaign_id, w.what",
            "insert into outdial.campaign_pace (campaign_id, at, calls)
             select a.campaign_id, date_trunc('minute', a.placed_at), count(*) from outdial.attempts a
             where a.placed_at > now() - interval '25 hours' group by 1, 2",
            "insert into outdial.number_pace (number, hour, ended, answered)
             select a.from_phone_number, date_trunc('hour', a.submitted_at, 'UTC'), count(*), count(*) filter (where a.disposition = 'answered')
             from outdial.attempts a where a.submitted_at > now() - interval '25 hours' group by 1, 2",
            "select outdial.coarsen_pace(10000000)",
            "select outdial.count_up_campaigns(10000000)",
        ];
        // In parts, so that no transaction and no list in memory grows with the size.
        for first in (PAST..PAST + past).step_by(100_000) {
            let last = (first + 99_999).min(PAST + past - 1);
            for statement in [job_keys, jobs, attempts] {
                let query = sqlx::query(statement).bind(first as i64).bind(last as i64);
                let query = match statement == job_keys {
                    true => query,
                    // Four weeks of them, in the order of their numbers as ever.
                    false => query.bind(AGENT).bind((PAST + past) as i64).bind(past as i64),
                };
                query.execute(&mut db).await?;
            }
        }
        for statement in counts {
            sqlx::query(statement).execute(&mut db).await?;
        }
        let first = PAST + past;
        if waiting > 0 {
            let class = "insert into outdial.classes (campaign_id, model_id, country) values ('campaign-full', $1, 'US') returning class_no";
            let class: i32 = sqlx::query_scalar(class)
                .bind(if self.size.full { FULL_AGENT } else { AGENT })
                .fetch_one(&mut db)
                .await?;
            sqlx::query("insert into outdial.campaigns (campaign_id, first_received_at) values ('campaign-full', now())")
                .execute(&mut db)
                .await?;
            sqlx::query(
                "insert into outdial.limits (kind, key) values (2, 'campaign-full') on conflict do nothing",
            )
            .execute(&mut db)
            .await?;
            let jobs = "with n as (
                    insert into outdial.jobs (job_no, job_id, campaign_id, class_no, phone, name, model_id, priority, expires_at, received_at, state, reason)
                    select n, 'waiting-' || n, 'campaign-full', $3, '+1415' || (2000000 + n % 7999999), 'A Callee', $4, 4,
                           now() + interval '7 days', now(), 'waiting', 'queued' from generate_series($1::bigint, $2) n
                    returning job_no, class_no, expires_at)
                insert into outdial.work (job_no, class_no, rank, expires_at) select job_no, class_no, 5, expires_at from n";
            for first in (first..first + waiting).step_by(100_000) {
                let last = (first + 99_999).min(PAST + past + waiting - 1);
                sqlx::query(jobs)
                    .bind(first as i64)
                    .bind(last as i64)
                    .bind(class)
                    .bind(if self.size.full { FULL_AGENT } else { AGENT })
                    .execute(&mut db)
                    .await?;
            }
        }
        sqlx::query("select setval('outdial.job_no', $1)")
            .bind((PAST + past + waiting) as i64)
            .execute(&mut db)
            .await?;
        // Counts of so many records at once leave empty pages: as the runbook says, after a ledger was restored.
        sqlx::query("vacuum (analyze, truncate on)").execute(&mut db).await?;
        Ok(())
    }
}

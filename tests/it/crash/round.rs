//! One time that a row of the crash table is played.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use outdial::clock;
use outdial::synthflow::sandbox::{SandboxConfig, SettingsChange, Span};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::support::stage::{AGENT, ANY_NUMBER, Stage, job, numbers, sandbox_config};
use crate::support::{Database, Outdial, Vhost, assert_discreet, busy, database, eventually, vhost};

/// Far more than anything takes here.
pub const SOON: Duration = Duration::from_secs(60);
/// The shortest lease there is.
pub const LEASE: (&str, &str) = ("OUTDIAL__WORKER__LEASE", "3s");
/// As long as an unknown call is looked for in vain: short, and found well within it by a worker that reads fast.
const QUARANTINE: (&str, &str) = ("OUTDIAL__RECONCILE__QUARANTINE", "3s");
const FAST_READS: (&str, &str) = ("OUTDIAL__CALLS__READS_PER_SECOND", "100");
/// Three numbers of this rate: a dozen jobs are several seconds' worth, so a limit that a crash forgets is exceeded.
const RATE: &str = "per_second = 4, per_minute = 40";
const WINDOWS: &[(u64, usize)] = &[(1, 4), (60, 40)];
/// Points that are passed only with slots further away than leave that comes with them. So these numbers are slow, and more jobs come
/// at once than they call in a second, however slowly a busy machine publishes.
const FAR_POINTS: [&str; 2] = ["AfterReserve", "BeforeAuthorise"];
const FAR_RATE: &str = "per_second = 1, per_minute = 40";
/// By how much calls are shortened: they take milliseconds.
const SHORT_CALLS: f64 = 2000.0;
const WEBHOOK_SECRET: &str = "crash-secret";
/// Jobs that are published together.
const WAVE: usize = 3;
/// Workers that ack what others left, one after the other.
const SUCCESSORS_MAX: usize = 5;
/// Rounds under way at a time: mostly they wait.
const LANES: std::ops::RangeInclusive<usize> = 3..=8;

/// Plays a row as often as it is asked for.
pub async fn rounds(play: impl AsyncFn(&mut Round)) {
    let _cores = busy().await;
    let (times, lanes) = (times(), lanes());
    // Each has one virtual host, which every round leaves empty.
    let lanes = (0..lanes).map(async |lane| {
        let vhost = vhost().await;
        for nth in (lane..times).step_by(lanes) {
            let mut round = Round::on(nth, database().await, vhost.clone()).await;
            play(&mut round).await;
            // Dropping a database waits for every login that is under way, those of the other lanes, too: not on the
            // thread that they need.
            tokio::task::spawn_blocking(|| drop(round)).await.unwrap();
        }
    });
    join_all(lanes).await;
}

pub fn times() -> usize {
    let given = std::env::var("OUTDIAL_CRASH_TIMES").ok();
    given.map_or(3, |given| given.parse().expect("OUTDIAL_CRASH_TIMES is a number"))
}

pub fn lanes() -> usize {
    times().clamp(*LANES.start(), *LANES.end())
}

pub struct Round {
    pub stage: Stage,
    /// From 0; it varies the moment.
    pub nth: usize,
    published: Vec<Value>,
    /// Its slots are to be far.
    far: bool,
}

impl Round {
    pub async fn on(nth: usize, database: Database, vhost: Vhost) -> Self {
        let mut config = SandboxConfig { time_scale: SHORT_CALLS, ..sandbox_config(&numbers(3)) };
        config.accounts[0].webhook_secret = Some(WEBHOOK_SECRET.to_owned());
        let stage = Stage::on(config, database, vhost).await;
        stage.route(RATE, ANY_NUMBER).await;
        Self { stage, nth, published: Vec::new(), far: false }
    }

    /// One of these, in turns.
    pub fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.nth % choices.len()]
    }

    /// How often the worker comes to the point before it happens.
    pub fn hit(&self) -> usize {
        1 + self.nth / 2 % 4
    }

    /// From now on calls last, so that a write that comes twice still finds them.
    pub fn lasting_calls(&self) {
        self.change(SettingsChange { time_scale: Some(0.1), ..SettingsChange::default() });
    }

    /// Ends those, and lets the next be short again.
    pub fn end_calls(&self) {
        self.stage.sandbox.end_all_calls();
        self.change(SettingsChange { time_scale: Some(SHORT_CALLS), ..SettingsChange::default() });
    }

    /// From now on the provider takes this long to answer.
    pub fn slow_answers(&self, min: u64, max: u64) {
        self.change(SettingsChange { latency_ms: Some(Span { min, max }), ..SettingsChange::default() });
    }

    fn change(&self, settings: SettingsChange) {
        self.stage.sandbox.change_settings(settings).unwrap();
    }

    pub async fn worker(&self) -> Outdial {
        self.stage.worker(&[LEASE]).await
    }

    /// A worker to which something happens at a point: `kill`, `stop`, `lose` or `hold:MS`.
    pub async fn doomed(&mut self, point: &str, what: &str) -> Outdial {
        if FAR_POINTS.contains(&point) {
            self.far = true;
            self.stage.route(FAR_RATE, ANY_NUMBER).await;
        }
        self.doomed_at(point, self.hit(), what).await
    }

    pub async fn doomed_at(&self, point: &str, hit: usize, what: &str) -> Outdial {
        self.started(self.doomed_at_start(point, hit, what)).await
    }

    /// One that looks for unknown calls as an heir does.
    pub async fn doomed_seeker(&self, point: &str, what: &str) -> Outdial {
        let failpoint = format!("{point}:1={what}");
        let env = [LEASE, QUARANTINE, FAST_READS, ("OUTDIAL_FAILPOINT", failpoint.as_str())];
        self.started(self.stage.start(&["worker"], &env)).await
    }

    /// One that the provider's webhooks reach.
    pub async fn doomed_listener(&self, point: &str, what: &str) -> Outdial {
        let failpoint = format!("{point}:1={what}");
        let env = [
            LEASE,
            FAST_READS,
            ("OUTDIAL_FAILPOINT", failpoint.as_str()),
            ("SYNTHFLOW_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ];
        let worker = self.started(self.stage.start(&["worker"], &env)).await;
        let serving = worker.line(SOON, "serving health and metrics").await;
        let line: Value = serde_json::from_str(&serving).unwrap();
        let url = format!("http://{}/webhooks/synthflow", line["http.listen"].as_str().unwrap());
        self.stage.sandbox.register_webhook(AGENT, Some(&url)).unwrap();
        worker
    }

    async fn started(&self, worker: Outdial) -> Outdial {
        worker.line(SOON, "worker.started").await;
        worker
    }

    /// One that may not live to say that it has started.
    pub fn doomed_at_start(&self, point: &str, hit: usize, what: &str) -> Outdial {
        let failpoint = format!("{point}:{hit}={what}");
        self.stage.start(&["worker"], &[LEASE, ("OUTDIAL_FAILPOINT", &failpoint)])
    }

    /// Publishes jobs to callees of their own, and waits for the confirms.
    pub async fn publish(&mut self, n: usize) {
        let from = self.published.len();
        let new = (from..from + n).map(|i| job(&format!("job-{i}"), "crash", &format!("+1415234{i:04}")));
        let new: Vec<Value> = new.collect();
        self.stage.publish(&new).await;
        self.published.extend(new);
    }

    pub fn published(&self) -> usize {
        self.published.len()
    }

    /// Publishes wave after wave until it has happened.
    pub async fn publish_until(&mut self, mut happened: impl FnMut() -> bool) {
        let end = clock::monotonic() + SOON;
        while !happened() {
            if clock::monotonic() > end {
                let posts = self.stage.posts().len();
                panic!(
                    "round {}: it never happened; {posts} POSTs, {:?}",
                    self.nth,
                    self.stage.standings().await
                );
            }
            if self.far {
                // Those that come later than the worker's death have to be called by its heir, as slowly.
                if self.stage.count("select count(*) from outdial.work").await < WAVE as i64 {
                    self.publish(2 * WAVE).await;
                }
            } else if self.published.len() < 30 * WAVE {
                self.publish(WAVE).await;
            }
            let next = clock::monotonic() + Duration::from_millis(150);
            while !happened() && clock::monotonic() < next {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// Publishes until the worker has been killed at its point.
    pub async fn publish_until_killed(&mut self, mut worker: Outdial) {
        self.publish_until(|| worker.ended().is_some()).await;
        self.killed(worker).await;
    }

    /// The worker has been killed at its point, and told nothing of anybody.
    pub async fn killed(&self, worker: Outdial) {
        let (status, printed) = worker.wait(SOON).await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}\n{printed}");
        assert_discreet(&printed, &self.stage.posts());
        self.last_words().await;
    }

    /// Waits until the database has done, or undone, what the dead asked for last.
    pub async fn last_words(&self) {
        let connections = "select count(*) from pg_stat_activity
                           where datname = current_database() and application_name like 'outdial%'";
        eventually(SOON, async || (self.stage.count(connections).await == 0).then_some(())).await;
    }

    /// Publishes until a worker has come to its point, and lives.
    pub async fn publish_until_reached(&mut self, worker: &Outdial) {
        self.publish_until(|| worker.output().contains("failpoint ")).await;
    }

    /// Lets the leases of the dead run out at once: of every worker and of every duty.
    pub async fn bury(&self) {
        for lease in [
            "update outdial.workers set lease_until = clock_timestamp() where ended_at is null",
            "update outdial.duties set until = clock_timestamp()",
        ] {
            sqlx::query(lease).execute(&self.stage.db).await.unwrap();
        }
    }

    /// The jobs of a query, in order.
    pub async fn jobs_of(&self, from: &str) -> Vec<String> {
        let query = format!("select j.job_id from {from} join outdial.jobs j using (job_no) order by 1");
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&self.stage.db).await.unwrap()
    }

    /// The jobs whose calls are under way, as far as the dead have written.
    pub async fn in_flight(&self) -> Vec<String> {
        self.jobs_of("(select job_no from outdial.live where state = 'submitting') l").await
    }

    /// How many POSTs the provider has received for a job.
    pub fn posts_of(&self, job: &str) -> usize {
        let phone = &self.published.iter().find(|j| j["job_id"] == *job).unwrap()["phone"];
        self.stage.posts().iter().filter(|post| post.phone.as_deref() == phone.as_str()).count()
    }

    /// After a death: another worker ends what can be ended. Of the jobs in flight nobody knows what became; those that the
    /// provider has are found there, the others go to a person, and neither is sent again. Every other one is rung once.
    pub async fn inherit(&self) {
        self.inherit_of(self.in_flight().await).await;
    }

    /// The same, where these were in flight before others looked at them.
    pub async fn inherit_of(&self, in_flight: Vec<String>) {
        self.inherit_all(in_flight, &[]).await;
    }

    /// The same, where these were sent, and the provider knows of no call.
    pub async fn inherit_all(&self, in_flight: Vec<String>, not_there: &[String]) {
        let before: Vec<usize> = in_flight.iter().map(|job| self.posts_of(job)).collect();
        assert!(before.iter().all(|posts| *posts <= 1));
        self.bury().await;
        let heir = self.stage.worker(&[LEASE, QUARANTINE, FAST_READS]).await;
        let unsent = in_flight.iter().filter(|job| self.posts_of(job) == 0);
        let mut reviewed: Vec<String> = unsent.chain(not_there).cloned().collect();
        reviewed.sort();
        self.end(&reviewed).await;
        let after: Vec<usize> = in_flight.iter().map(|job| self.posts_of(job)).collect();
        assert_eq!(before, after, "round {}: of {in_flight:?} something was sent again", self.nth);
        self.finish(heir).await;
    }

    /// Waits until every job is done but these, which are put before a person.
    async fn end(&self, reviewed: &[String]) {
        let limit = clock::monotonic() + SOON;
        let over = "select count(*) from reporting.jobs where state in ('done', 'review')";
        let in_review = "(select job_no from outdial.jobs where state = 'review') r";
        loop {
            let found = self.jobs_of(in_review).await;
            if self.stage.count(over).await == self.published.len() as i64 && found == reviewed {
                return;
            }
            if clock::monotonic() > limit {
                let standings = self.stage.standings().await;
                panic!("round {}: in review are to be {reviewed:?}: {standings:?}", self.nth);
            }
            // Every lane asks, and the workers need the processors.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Every job is rung once, and done.
    pub async fn all_done(&self) {
        self.end(&[]).await;
        assert_eq!(
            self.stage.posts().len(),
            self.published.len(),
            "round {}: everybody is rung once",
            self.nth
        );
    }

    /// Stops the last worker in order; then everything is acked and published, and the oracle is asked.
    pub async fn finish(&self, last: Outdial) {
        let outbox = "select count(*) from outdial.outbox";
        eventually(SOON, async || (self.stage.count(outbox).await == 0).then_some(())).await;
        self.stage.stopped(last).await;
        // What comes again may have been on its way to the worker when it was stopped: then another acks it.
        for _ in 0..SUCCESSORS_MAX {
            if self.queued().await == 0 {
                break;
            }
            let next = self.worker().await;
            eventually(SOON, async || (self.queued().await == 0).then_some(())).await;
            self.stage.stopped(next).await;
        }
        assert_eq!(self.queued().await, 0, "round {}: everything is acked", self.nth);
        self.stage.prove(&self.published, WINDOWS).await;
    }

    /// Messages that wait in the jobs' queue.
    pub async fn queued(&self) -> u32 {
        let connection =
            Connection::connect(&self.stage.vhost.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue =
            channel.queue_declare("outdial.jobs".into(), passive, FieldTable::default()).await.unwrap();
        let waiting = queue.message_count();
        connection.close(200, "done".into()).await.unwrap();
        waiting
    }
}

//! One run: begin, go wrong by the schedule, heal, settle, judge.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use outdial::clock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::evidence::{Evidence, keep_events, ledger, queued};
use super::fleet::Fleet;
use super::ground::Ground;
use super::load::Publisher;
use super::oracle::Verdict;
use super::proxy::{Line, Way};
use super::routes::{Routes, TIME_SCALE};
use super::schedule::{CREW, CREW_MAX, Deed, Event, Server, schedule};
use super::tally::Tally;
use super::windows::Lateness;
use crate::support::stage::NAME;
use crate::support::{Outdial, eventually};

/// After the schedule: hung answers, back-offs and the quarantine have to pass, and the backlog to be worked off, which
/// grows with the run.
const SETTLE: Duration = Duration::from_secs(240);
/// Between two looks at how all jobs stand: each reads them all.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks at processes that may have ended by themselves.
const TEND: Duration = Duration::from_millis(250);
const SOON: Duration = Duration::from_secs(60);
/// Breaches of one kind whose stories are told.
const STORIES: usize = 3;

#[derive(Clone)]
struct Run {
    ground: Arc<Ground>,
    fleet: Arc<Fleet>,
    tally: Arc<Tally>,
}

/// Fails where something that was promised doesn't hold.
pub async fn run(seed: u64, length: Duration, jobs_per_second: usize) {
    let _cores = crate::support::busy().await;
    let seconds = length.as_secs();
    println!(
        "chaos: OUTDIAL_CHAOS_SEED={seed} OUTDIAL_CHAOS_SECONDS={seconds} OUTDIAL_CHAOS_RATE={jobs_per_second}"
    );
    let events = schedule(seed, length);
    events.iter().for_each(|event| println!("{event}"));

    let routes = Routes { jobs_per_second };
    let run = Run::begin(&routes, seed).await;
    let (tasks, stop, until) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let publisher = Publisher::new(run.ground.amqp_url(), seed);
    let publishing = tasks.spawn(publisher.run(jobs_per_second, stop.clone()));
    let (watching, unwatched) = (run.tally.clone(), until.clone());
    tasks.spawn(async move { watching.watch_the_machine(unwatched).await });
    let all = async {
        let since = clock::monotonic();
        run.play(events, length).await;
        println!("chaos: the last deed was over after {:.1} s", since.elapsed().as_secs_f64());
        stop.cancel();
        run.ground.heal().await;
        run.fleet.scale(CREW).await;
        let published = publishing.await.unwrap();
        println!("chaos: everything is healed and confirmed after {:.1} s", since.elapsed().as_secs_f64());
        let settle_max = SETTLE.max(length);
        run.settle(published.jobs.len() as i64, settle_max).await;
        let resolved = run.resolve().await;
        run.settle(published.jobs.len() as i64, settle_max).await;
        (published, resolved, run.fleet.pages().await)
    };
    let (published, resolved, pages) = tokio::select! {
        done = all => done,
        () = run.tend() => unreachable!("it goes on for ever"),
    };
    until.cancel();
    tasks.close();
    tasks.wait().await;
    run.fleet.scale(0).await;

    let waiting = async || (queued(run.ground.amqp_url()).await == 0).then_some(());
    eventually(SOON, waiting).await;
    let mut found =
        Evidence::gather(&run.ground.db, run.ground.amqp_url(), &run.ground.ledger_file(), TIME_SCALE).await;
    found.resolved = resolved;
    let lateness = Lateness {
        troubles: run.tally.troubles(),
        places: run.tally.places(),
        offsets: run.ground.clock_offsets(),
    };
    let mut verdict = Verdict::of(&found, &published, &routes, &lateness);
    run.discreet(&found, &pages, &mut verdict).await;
    run.keep().await;
    run.report(seed, &mut verdict).await;
}

impl Run {
    async fn begin(routes: &Routes, seed: u64) -> Self {
        let ground = Arc::new(Ground::new(routes, seed).await);
        let tally = Arc::new(Tally::default());
        let caps = routes.account_limits().windows[0].1.to_string();
        let settings = vec![("OUTDIAL__ACCOUNTS__DEFAULT__CALLS_PER_SECOND".to_owned(), caps)];
        let fleet = Arc::new(Fleet::new(ground.clone(), tally.clone(), settings));
        let run = Self { ground, fleet, tally };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), routes.file()).unwrap();
        run.command(&["routing", "apply", file.path().to_str().unwrap()]).await;
        run.fleet.scale(CREW).await;
        run.fleet.started().await;
        keep_events(run.ground.amqp_url()).await;
        run
    }

    async fn command(&self, arguments: &[&str]) -> String {
        let env = self.ground.env(None, &[]);
        let env: Vec<(&str, &str)> =
            env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (status, printed) = Outdial::start(arguments, &env).wait(SOON).await;
        assert!(status.success(), "outdial {arguments:?}: {status}\n{printed}");
        printed
    }

    async fn tend(&self) {
        for nth in 0.. {
            self.fleet.tend().await;
            if let Some(worker) = self.fleet.serving(nth).await {
                self.ground.hear(worker);
            }
            if self.ground.tend().await {
                self.tally.count("Provider died of an answer");
            }
            tokio::time::sleep(TEND).await;
        }
    }

    /// Each deed in its time, beside those that still last.
    async fn play(&self, events: Vec<Event>, length: Duration) {
        let (start, mut deeds) = (clock::monotonic(), FuturesUnordered::new());
        let mut events = events.into_iter();
        loop {
            let next = events.next();
            let until = start + next.as_ref().map_or(length, |event| event.at);
            while clock::monotonic() < until {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    Some(()) = deeds.next(), if !deeds.is_empty() => {}
                }
            }
            match next {
                Some(event) => deeds.push(self.act(event.deed)),
                None => break,
            }
        }
        while deeds.next().await.is_some() {}
    }

    async fn act(&self, deed: Deed) {
        let ms = Duration::from_millis;
        let since = clock::wall();
        match deed {
            Deed::Kill { worker, gone_ms } => {
                let killed = self.fleet.kill(worker, ms(gone_ms)).await;
                self.tally.count(if killed { "worker killed" } else { "no worker to kill" });
            }
            Deed::Pause { worker, ms: length } => {
                let paused = self.fleet.pause(worker, ms(length)).await;
                self.tally.count(if paused { "worker stopped and continued" } else { "no worker to stop" });
            }
            Deed::Down { server, gone_ms } => {
                self.ground.down(server, ms(gone_ms)).await;
                self.tally.count(&format!("{server:?} killed and restarted"));
            }
            Deed::Cut { worker, server } => {
                self.ground.cut(worker, server);
                self.tally.count(&format!("{server:?} cut"));
            }
            Deed::Line { worker, server, line, ms: length } => {
                self.ground.set_line(worker, server, line);
                tokio::time::sleep(ms(length)).await;
                self.ground.set_line(worker, server, Line::default());
                if server == Server::Provider && line.there != Way::Pass {
                    self.tally.trouble("the network", worker, since);
                }
                self.tally.count(&format!("{server:?} {}", name(line)));
            }
            Deed::Faults { table, ms: length } => {
                self.ground.set_faults(&table).await;
                tokio::time::sleep(ms(length)).await;
                self.ground.set_faults(&[]).await;
                self.tally.count("Provider with faults");
            }
            Deed::Scale { ms: length } => {
                for workers in [1, CREW_MAX, 2, CREW] {
                    self.fleet.scale(workers).await;
                    tokio::time::sleep(ms(length)).await;
                }
                self.tally.count("scaled 1, 8, 2");
            }
            Deed::Roll => {
                self.fleet.roll().await;
                self.tally.count("rolling restart");
            }
            Deed::Clock { step_s } => self.tally.count(if self.ground.step_clock(step_s) {
                "a step of the database's clock"
            } else {
                "skipped, libfaketime is not installed: a step of the database's clock"
            }),
            Deed::DiskFull { ms: length } => {
                let filled = self.ground.fill_disk(ms(length)).await;
                self.tally.count(if filled {
                    "the database's disk full"
                } else {
                    "skipped, no file system can be mounted: a full disk"
                });
            }
        }
    }

    /// Until every job has come to its end.
    async fn settle(&self, jobs: i64, limit: Duration) {
        let query =
            "select state || coalesce(' ' || reason, ''), count(*) from reporting.jobs group by 1 order by 1";
        let since = clock::monotonic();
        let mut standing: Vec<(String, i64)> = Vec::new();
        while since.elapsed() < limit {
            standing = sqlx::query_as(query).fetch_all(&self.ground.db).await.unwrap_or_default();
            let over =
                standing.iter().filter(|(state, _)| state.starts_with("done") || state.starts_with("review"));
            let outbox: Result<i64, _> =
                sqlx::query_scalar("select count(*) from outdial.outbox").fetch_one(&self.ground.db).await;
            if over.map(|(_, n)| n).sum::<i64>() == jobs && outbox.is_ok_and(|events| events == 0) {
                println!("chaos: settled {:.1} s after the schedule", since.elapsed().as_secs_f64());
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.tally.odd(format!("not settled after {limit:?}: {standing:?} of {jobs}"));
    }

    /// A person looks at some of what is in review, and says what the provider's own ledger tells. Gives the attempts that
    /// were not placed: their jobs are dialed again.
    async fn resolve(&self) -> HashSet<String> {
        let query = "select attempt_id::text from outdial.live where state = 'review' order by 1 limit 30";
        let waiting: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.ground.db).await.unwrap();
        let posts = ledger(&self.ground.ledger_file(), TIME_SCALE);
        let calls: HashMap<&str, &str> = posts
            .iter()
            .filter(|post| post.entry.placed)
            .filter_map(|post| Some((post.entry.attempt_id.as_deref()?, post.entry.call_id.as_deref()?)))
            .collect();
        let mut again = HashSet::new();
        for (nth, attempt) in waiting.iter().enumerate() {
            let mut said = vec!["review", "resolve", attempt.as_str(), "--outcome"];
            match calls.get(attempt.as_str()) {
                Some(call_id) => said.extend(["placed", "--call-id", call_id]),
                None if nth % 3 == 0 => said.push("closed"),
                None => said.push("not_placed"),
            }
            if said.contains(&"not_placed") {
                again.insert(attempt.clone());
            }
            self.tally.count(&format!("resolved by a person: {}", said[4]));
            self.command(&said).await;
        }
        again
    }

    /// What the workers have said, in logs and metrics: nothing of any callee, and nothing of a fault of their own.
    async fn discreet(&self, found: &Evidence, pages: &[String], verdict: &mut Verdict) {
        let printed = self.fleet.printed().await;
        let phones: HashSet<&str> =
            found.jobs.values().flat_map(|job| [&job.phone[1..], &job.phone[2..]]).collect();
        let mut told = 0;
        for line in printed.iter().chain(pages).flat_map(|text| text.lines()) {
            let phone = line.split(|c: char| !c.is_ascii_digit()).any(|digits| phones.contains(digits));
            if phone || line.contains(NAME) {
                told += 1;
                verdict.breach(None, format!("a callee is told of: {line}"));
            }
            if line.contains("panicked") {
                verdict.breach(None, format!("a worker printed: {line}"));
            }
        }
        verdict.figure("lines of logs and metrics that tell of a callee", told);
        for (what, must_be) in [
            ("worker.taken_over", true),
            ("worker.fenced", true),
            ("link to the broker lost", true),
            ("limit.violation.prevented", false),
        ] {
            let n = printed.iter().map(|text| text.matches(what).count()).sum();
            verdict.figure(format!("logged {what}"), n);
            if must_be && n == 0 {
                verdict.breach(None, format!("the run proves nothing: there was no {what}"));
            }
        }
        verdict.figure("bytes of logs", printed.iter().map(String::len).sum());
        verdict.figure("bytes of metrics", pages.iter().map(String::len).sum());
    }

    /// For a closer look: the ledger and what the workers printed, in the folder `OUTDIAL_CHAOS_KEEP`.
    async fn keep(&self) {
        let Some(folder) = std::env::var_os("OUTDIAL_CHAOS_KEEP").map(PathBuf::from) else { return };
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(self.ground.ledger_file(), folder.join("ledger.ndjson")).unwrap();
        for (n, printed) in self.fleet.printed().await.iter().enumerate() {
            std::fs::write(folder.join(format!("worker-{n}.log")), printed).unwrap();
        }
    }

    async fn report(&self, seed: u64, verdict: &mut Verdict) {
        let counts = self.tally.counts();
        for (what, n) in &counts {
            println!("{n:>9}  {what}");
        }
        for (what, n) in &verdict.figures {
            println!("{n:>9}  {what}");
        }
        self.tally.odds().iter().for_each(|odd| println!("odd: {odd}"));
        let mut told: HashMap<&str, usize> = HashMap::new();
        for breach in &verdict.breaches {
            let kind = breach.what.split(':').next().unwrap_or_default();
            let stories = told.entry(kind).or_default();
            *stories += 1;
            if *stories > STORIES {
                continue;
            }
            println!("BREACH {}", breach.what);
            if let Some(job) = &breach.job {
                println!("{}", self.command(&["job", "show", job]).await);
            }
        }
        let breaches = &verdict.breaches;
        let what: String = breaches.iter().take(STORIES).map(|breach| format!("\n{}", breach.what)).collect();
        assert!(
            breaches.is_empty(),
            "{} breaches; OUTDIAL_CHAOS_SEED={seed} gives the same schedule again; the first:{what}",
            breaches.len()
        );
    }
}

fn name(line: Line) -> &'static str {
    match (line.refused, line.there, line.back) {
        (true, ..) => "refused",
        (_, Way::Hole, Way::Hole) => "a hole both ways",
        (_, Way::Hole, _) => "a hole there",
        (_, _, Way::Hole) => "a hole back",
        (_, Way::Slow(_), _) => "slow both ways",
        _ => "slow back",
    }
}

//! The workers of a run: real processes behind their proxies, killed, stopped, scaled and restarted.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::sync::{Mutex, MutexGuard};

use super::ground::Ground;
use super::schedule::CREW_MAX;
use super::tally::Tally;
use crate::support::{Outdial, eventually, page};

/// More than a stopping worker takes: its drain, and what it writes after that.
const STOP_MAX: Duration = Duration::from_secs(60);
const START_MAX: Duration = Duration::from_secs(60);

pub struct Fleet {
    ground: Arc<Ground>,
    tally: Arc<Tally>,
    settings: Vec<(String, String)>,
    /// Whoever does something to a worker holds its place as long as it takes.
    places: Vec<Mutex<Option<Outdial>>>,
    /// What those that are gone have printed.
    printed: StdMutex<Vec<String>>,
}

type Place<'a> = MutexGuard<'a, Option<Outdial>>;

impl Fleet {
    pub fn new(ground: Arc<Ground>, tally: Arc<Tally>, settings: Vec<(String, String)>) -> Self {
        let places = (0..CREW_MAX).map(|_| Mutex::default()).collect();
        Self { ground, tally, settings, places, printed: StdMutex::default() }
    }

    /// So many workers, from the first on; the others end in order.
    pub async fn scale(&self, workers: usize) {
        let each = self.places.iter().enumerate().map(async |(n, place)| {
            let mut place = place.lock().await;
            if n >= workers {
                self.end(&mut place).await;
            } else if place.is_none() {
                *place = Some(self.start(n));
            }
        });
        join_all(each).await;
    }

    /// Until every worker is at work.
    pub async fn started(&self) {
        for place in &self.places {
            if let Some(worker) = &*place.lock().await {
                worker.line(START_MAX, "worker.started").await;
            }
        }
    }

    /// False where there was nobody at all.
    pub async fn kill(&self, nth: usize, gone: Duration) -> bool {
        let Some((n, mut place)) = self.at_work(nth).await else { return false };
        let mut worker = place.take().expect("somebody is at work here");
        worker.kill9();
        self.retire(worker).await;
        tokio::time::sleep(gone).await;
        *place = Some(self.start(n));
        true
    }

    /// Asleep for so long; false where there was nobody at all.
    pub async fn pause(&self, nth: usize, length: Duration) -> bool {
        let Some((n, place)) = self.at_work(nth).await else { return false };
        let worker = place.as_ref().expect("somebody is at work here");
        let since = outdial::clock::wall();
        worker.signal(Signal::STOP);
        tokio::time::sleep(length).await;
        worker.signal(Signal::CONT);
        self.tally.trouble("a stop", Some(n), since);
        true
    }

    /// One after the other ends in order, and another takes its place.
    pub async fn roll(&self) {
        for (n, place) in self.places.iter().enumerate() {
            let mut place = place.lock().await;
            if place.is_none() {
                continue;
            }
            self.end(&mut place).await;
            let worker = self.start(n);
            // While it can't start (the database is away, say), the others go on.
            let started =
                eventually(START_MAX, async || worker.output().contains("worker.started").then_some(()));
            let _ = tokio::time::timeout(Duration::from_secs(5), started).await;
            *place = Some(worker);
        }
    }

    /// Starts anew those that have ended by themselves.
    pub async fn tend(&self) {
        for (n, place) in self.places.iter().enumerate() {
            let Ok(mut place) = place.try_lock() else { continue };
            let Some(status) = place.as_mut().and_then(Outdial::ended) else { continue };
            let worker = place.take().expect("it has just ended");
            self.tally.count("workers that ended by themselves");
            self.odd_end(status, &worker);
            self.retire(worker).await;
            *place = Some(self.start(n));
        }
    }

    /// Where one of them serves HTTP, if one does: another each time.
    pub async fn serving(&self, nth: usize) -> Option<SocketAddr> {
        let place = self.places[nth % self.places.len()].try_lock().ok()?;
        let line = place.as_ref()?.printed("serving health and metrics")?;
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        line["http.listen"].as_str()?.parse().ok()
    }

    /// What those at work tell at `/metrics`.
    pub async fn pages(&self) -> Vec<String> {
        let mut pages = Vec::new();
        for place in &self.places {
            if let Some(worker) = &*place.lock().await {
                pages.push(page(worker).await);
            }
        }
        pages
    }

    /// What they all have printed; those at work, so far.
    pub async fn printed(&self) -> Vec<String> {
        let mut printed = self.printed.lock().unwrap().clone();
        for place in &self.places {
            printed.extend(place.lock().await.as_ref().map(Outdial::output));
        }
        printed
    }

    /// The place from the nth on where a worker is: a deed shall meet one however few there are.
    async fn at_work(&self, nth: usize) -> Option<(usize, Place<'_>)> {
        for n in (0..self.places.len()).map(|ahead| (nth + ahead) % self.places.len()) {
            let place = self.places[n].lock().await;
            if place.is_some() {
                return Some((n, place));
            }
        }
        None
    }

    fn start(&self, n: usize) -> Outdial {
        let env = self.ground.env(Some(n), &self.settings);
        let env: Vec<(&str, &str)> =
            env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let worker = Outdial::start(&["worker"], &env);
        self.tally.started(worker.pid(), n);
        worker
    }

    async fn end(&self, place: &mut Place<'_>) {
        let Some(mut worker) = place.take() else { return };
        worker.signal(Signal::TERM);
        let ended = eventually(STOP_MAX * 2, async || worker.ended());
        match tokio::time::timeout(STOP_MAX, ended).await {
            Ok(status) if status.success() => self.tally.count("workers ended in order"),
            Ok(status) => self.odd_end(status, &worker),
            Err(_) => {
                self.tally.odd(format!("a worker did not end within {STOP_MAX:?}:\n{}", tail(&worker)));
                worker.kill9();
            }
        }
        self.retire(worker).await;
    }

    fn odd_end(&self, status: ExitStatus, worker: &Outdial) {
        self.tally.odd(format!("a worker ended with {status}:\n{}", tail(worker)));
    }

    async fn retire(&self, worker: Outdial) {
        let (_, printed) = worker.wait(STOP_MAX).await;
        self.printed.lock().unwrap().push(printed);
    }
}

fn tail(worker: &Outdial) -> String {
    let printed = worker.output();
    let lines: Vec<&str> = printed.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

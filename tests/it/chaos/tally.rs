//! What has happened in a run, counted, and when there was trouble that makes a call late.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use outdial::clock;
use tokio_util::sync::CancellationToken;

/// Between two looks at whether this machine still runs us.
const BEAT: Duration = Duration::from_millis(10);
/// A beat that comes so late is a stall.
const STALL: Duration = Duration::from_millis(40);
/// Between two looks at how long the system's processes have waited for a processor.
const LOOK: Duration = Duration::from_millis(100);
/// Of that time, the share in which somebody waited, from which the machine counts as overbooked.
const OVERBOOKED: f64 = 0.8;
/// A processor that wasn't there for so many milliseconds between two looks may have held a call up. The kernel counts in tens.
const STOLEN_MS: u64 = 30;

/// Microseconds since 1970, as the provider's ledger has them.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub what: &'static str,
    /// The worker's place that had it; `None`: all had.
    pub of: Option<usize>,
    pub from_us: i64,
    pub to_us: i64,
}

#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<String, u64>>,
    troubles: Mutex<Vec<Trouble>>,
    /// Where each process was at work.
    places: Mutex<BTreeMap<u32, usize>>,
    odd: Mutex<Vec<String>>,
}

impl Tally {
    pub fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    /// From then until now.
    pub fn trouble(&self, what: &'static str, of: Option<usize>, since: DateTime<Utc>) {
        let (from_us, to_us) = (since.timestamp_micros(), clock::wall().timestamp_micros());
        self.troubles.lock().unwrap().push(Trouble { what, of, from_us, to_us });
    }

    pub fn started(&self, pid: u32, place: usize) {
        self.count("workers started");
        self.places.lock().unwrap().insert(pid, place);
    }

    pub fn places(&self) -> BTreeMap<u32, usize> {
        self.places.lock().unwrap().clone()
    }

    pub fn troubles(&self) -> Vec<Trouble> {
        self.troubles.lock().unwrap().clone()
    }

    /// What a person should look at.
    pub fn odd(&self, what: String) {
        self.odd.lock().unwrap().push(what);
    }

    pub fn odds(&self) -> Vec<String> {
        self.odd.lock().unwrap().clone()
    }

    /// Notes when this machine was too busy to run everybody in time: what is late then may be late by the machine.
    pub async fn watch_the_machine(&self, stop: CancellationToken) {
        let (mut looked, mut looked_at, mut waited_us, mut stolen) =
            (clock::wall(), clock::monotonic(), system_waited_us(), stolen_ms());
        while !stop.is_cancelled() {
            let (since, before) = (clock::wall(), clock::monotonic());
            tokio::time::sleep(BEAT).await;
            if before.elapsed() > BEAT + STALL {
                self.trouble("a stall of the machine", None, since);
            }
            if looked_at.elapsed() < LOOK {
                continue;
            }
            let now_us = system_waited_us();
            if now_us.saturating_sub(waited_us) as f64 > OVERBOOKED * looked_at.elapsed().as_micros() as f64 {
                self.trouble("a machine with too few processors", None, looked);
            }
            let stolen_now = stolen_ms();
            if stolen.iter().zip(&stolen_now).any(|(was, is)| is.saturating_sub(*was) >= STOLEN_MS) {
                self.trouble("a processor that another machine had", None, looked);
            }
            (looked, looked_at, waited_us, stolen) = (clock::wall(), clock::monotonic(), now_us, stolen_now);
        }
    }
}

/// Of each processor, the milliseconds that the machine beneath gave to others; none where the kernel doesn't tell.
fn stolen_ms() -> Vec<u64> {
    let told = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let processors = told.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    // In hundredths of a second.
    processors.filter_map(|line| Some(line.split_whitespace().nth(8)?.parse::<u64>().ok()? * 10)).collect()
}

/// Microseconds in which some process of the system was ready and had no processor; 0 where the kernel doesn't tell.
fn system_waited_us() -> u64 {
    let told = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let total = told.lines().next().and_then(|some| some.rsplit_once("total="));
    total.and_then(|(_, us)| us.parse().ok()).unwrap_or(0)
}

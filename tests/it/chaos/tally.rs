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

/// Microseconds since 1970, as the provider's ledger has them.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub what: &'static str,
    pub from_us: i64,
    pub to_us: i64,
}

#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<String, u64>>,
    troubles: Mutex<Vec<Trouble>>,
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
    pub fn trouble(&self, what: &'static str, since: DateTime<Utc>) {
        let (from_us, to_us) = (since.timestamp_micros(), clock::wall().timestamp_micros());
        self.troubles.lock().unwrap().push(Trouble { what, from_us, to_us });
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

    /// Notes when this machine was too busy to run anybody in time: what is late then is late by the machine.
    pub async fn watch_the_machine(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let (since, before) = (clock::wall(), clock::monotonic());
            tokio::time::sleep(BEAT).await;
            if before.elapsed() > BEAT + STALL {
                self.trouble("a stall of the machine", since);
            }
        }
    }
}

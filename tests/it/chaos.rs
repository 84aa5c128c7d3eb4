//! Everything goes wrong at once, and what was promised holds: real processes, a seeded schedule, and an oracle that reads
//! the provider's ledger and the confirmed publishes.
//!
//! `make chaos` runs it for as long as wanted; a seed that isn't given is drawn and told, and gives the same schedule
//! again. What a schedule meets depends on the machine, so a failure doesn't come again for certain, but likely.
//!
//! | | |
//! |---|---|
//! | `schedule`, `faults` | what goes wrong and when: a pure function of seed and length |
//! | `run` | one run: begin, play the schedule, heal, settle, judge |
//! | `ground`, `proxy`, `fleet` | the servers, the network, the workers |
//! | `load`, `routes` | what is published; who may call whom, how often |
//! | `tally` | what has happened, and when the machine itself stalled |
//! | `evidence`, `oracle`, `windows` | what is left afterwards, and what must hold |

mod evidence;
mod faults;
mod fleet;
mod ground;
mod load;
mod oracle;
mod proxy;
mod routes;
mod run;
mod schedule;
mod tally;
mod windows;

use std::time::Duration;

use run::run;

/// Jobs a second.
const RATE: usize = 40;

/// Of a seed and a length in which everything happens at least once.
const SHORT: (u64, Duration) = (126, Duration::from_secs(58));

/// Everything once, and quickly: part of the ordinary suite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_run() {
    run(SHORT.0, SHORT.1, RATE).await;
}

/// `OUTDIAL_CHAOS_SECONDS` (600) at `OUTDIAL_CHAOS_RATE` (40) jobs a second, by the schedule of `OUTDIAL_CHAOS_SEED` (drawn): `make chaos`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make chaos runs it: it takes as long as it is told"]
async fn a_run_as_long_as_wanted() {
    let given = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    let seed = given("OUTDIAL_CHAOS_SEED").unwrap_or_else(|| rand::random_range(1..1_000_000));
    let rate = given("OUTDIAL_CHAOS_RATE").map_or(RATE, |rate| rate as usize);
    run(seed, Duration::from_secs(given("OUTDIAL_CHAOS_SECONDS").unwrap_or(600)), rate).await;
}

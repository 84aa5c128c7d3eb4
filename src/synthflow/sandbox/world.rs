//! Everything the sandbox knows, behind one lock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::bend::Override;
use super::calls::{Call, Calls};
use super::config::{AccountConfig, NumberConfig, SandboxConfig};
use super::faults::{Fate, FaultTable, On};
use super::ledger::Ledger;
use super::script::Dice;
use super::timeline::Timeline;
use super::webhooks::Outbox;

/// Waiting for their POSTs.
const OVERRIDES_MAX: usize = 10_000;

#[derive(Debug)]
pub struct World {
    pub config: SandboxConfig,
    pub timeline: Timeline,
    pub accounts: HashMap<String, Account>,
    pub agents: HashMap<String, Agent>,
    pub calls: Calls,
    pub ledger: Ledger,
    pub overrides: VecDeque<Override>,
    pub faults: FaultTable,
    pub webhooks: Outbox,
    /// What reading an agent is answered with, while a test wants it to fail.
    pub assistant_status: Option<u16>,
    /// Requests answered so far: numbers request ids and latencies.
    answers: u64,
    /// Requests so far but POSTs of calls, by sort.
    reads: HashMap<On, u64>,
}

#[derive(Debug)]
pub struct Account {
    pub config: AccountConfig,
    pub key_valid: bool,
    /// Real microseconds of the arrivals that count towards its calls a second; only the last second's are kept.
    arrivals_us: VecDeque<u64>,
    /// The calls' own time at which each live call ends, soonest first.
    ends_ms: BinaryHeap<Reverse<Moment>>,
}

/// A moment in milliseconds, ordered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment(pub f64);

impl Eq for Moment {}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Debug)]
pub struct Agent {
    pub account: String,
    pub name: String,
    pub kind: String,
    pub pool: Vec<NumberConfig>,
    /// Where the webhooks of its calls go.
    pub webhook: Option<String>,
}

impl World {
    pub fn new(config: SandboxConfig) -> Self {
        let accounts = config.accounts.iter().map(|a| (a.name.clone(), Account::new(a.clone()))).collect();
        let agents = config.agents.iter().map(|agent| {
            let known = Agent {
                account: agent.account.clone(),
                name: agent.name.clone(),
                kind: agent.kind.clone(),
                pool: agent.numbers.clone(),
                webhook: agent.external_webhook_url.clone(),
            };
            (agent.model_id.clone(), known)
        });
        Self {
            timeline: Timeline::start(config.time_scale),
            agents: agents.collect(),
            accounts,
            calls: Calls::new(config.calls_max),
            ledger: Ledger::new(config.ledger_memory_max),
            overrides: VecDeque::new(),
            faults: FaultTable { entries: config.faults.clone(), since_us: 0 },
            webhooks: Outbox::new(&config.webhooks, config.calls_max),
            assistant_status: None,
            answers: 0,
            reads: HashMap::new(),
            config,
        }
    }

    pub fn account_of_key(&self, key: &str) -> Option<&str> {
        let mut accounts = self.accounts.values();
        accounts.find(|a| a.key_valid && a.config.key == key).map(|a| a.config.name.as_str())
    }

    /// The agent, if it is one of this account's.
    pub fn agent_of(&self, account: &str, model_id: &str) -> Option<&Agent> {
        self.agents.get(model_id).filter(|agent| agent.account == account)
    }

    /// Every number of an account: attached to its agents, or spare.
    pub fn owned_by(&self, account: &str) -> Vec<NumberConfig> {
        let spare = self.accounts.get(account).into_iter().flat_map(|a| a.config.numbers.iter());
        let attached = self.agents.values().filter(|a| a.account == account).flat_map(|a| a.pool.iter());
        let mut owned: Vec<NumberConfig> = spare.chain(attached).cloned().collect();
        owned.sort_by(|a, b| a.number.cmp(&b.number));
        owned.dedup_by(|a, b| a.number == b.number);
        owned
    }

    /// The next answer's own dice.
    pub fn dice(&mut self) -> Dice {
        self.answers += 1;
        Dice::new(self.config.seed ^ 0x5EED, self.answers)
    }

    /// Err: too many are waiting.
    pub fn override_posts(&mut self, wanted: Override) -> Result<(), String> {
        if self.overrides.len() >= OVERRIDES_MAX {
            return Err(format!("{OVERRIDES_MAX} overrides are waiting already: take a count, or a fault"));
        }
        self.overrides.push_back(wanted);
        Ok(())
    }

    /// What the table of faults has for the next request of this sort.
    pub fn fate_of_next(&mut self, on: On) -> Fate {
        let n = self.reads.entry(on).or_default();
        *n += 1;
        self.faults.fate(self.config.seed, on, *n, self.timeline.now_us())
    }

    /// Of the next call; no other run of the sandbox makes the same, whatever its seed.
    pub fn next_call_id(&self) -> String {
        let run = self.config.seed ^ self.timeline.start_wall_us().unsigned_abs().rotate_left(20);
        let mut dice = Dice::new(run, self.calls.next_ordinal());
        let (high, low) = (dice.next(), dice.next());
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff,
        )
    }

    /// A number that a call's record may tell instead of `from`: another of the pool, or one of nobody's.
    pub fn other_caller(&self, model_id: &str, from: Option<&str>) -> String {
        let mut pool = self.agents.get(model_id).into_iter().flat_map(|agent| &agent.pool);
        let other = pool.find(|number| Some(number.number.as_str()) != from);
        other.map_or_else(|| "+15005550006".to_owned(), |number| number.number.clone())
    }

    /// A call that is made now.
    pub fn know(&mut self, mut call: Call) {
        // Two requests may have been read in one order and come here in the other.
        call.received_wall_ms = call.received_wall_ms.max(self.calls.last_wall_ms());
        self.webhooks.call_will_end(call.ends_ms(), self.calls.next_ordinal());
        self.calls.push(call);
    }

    pub fn end_all_calls(&mut self) -> usize {
        let now_ms = self.timeline.call_ms(self.timeline.now_us());
        self.webhooks.calls_end_at(now_ms);
        self.accounts.values_mut().for_each(|account| account.ends_ms.clear());
        self.calls.end_all(now_ms)
    }
}

impl Account {
    fn new(config: AccountConfig) -> Self {
        Self { config, key_valid: true, arrivals_us: VecDeque::new(), ends_ms: BinaryHeap::new() }
    }

    /// CAPS: whether one more call fits the second that ends at `at_us`. Counts it if so, or if `count_refused`.
    pub fn admits_at(&mut self, at_us: u64, count_refused: bool) -> bool {
        const SECOND_US: u64 = 1_000_000;
        while self.arrivals_us.front().is_some_and(|&past| past + SECOND_US <= at_us) {
            self.arrivals_us.pop_front();
        }
        let admitted = self.config.calls_per_second.is_none_or(|max| self.arrivals_us.len() < max as usize);
        if admitted || count_refused {
            self.arrivals_us.push_back(at_us);
        }
        admitted
    }

    /// How long (in the calls' own milliseconds) until there is room for one more call: 0 if there is now.
    pub fn room_in_ms(&mut self, now_ms: f64) -> f64 {
        while self.ends_ms.peek().is_some_and(|Reverse(end)| end.0 <= now_ms) {
            self.ends_ms.pop();
        }
        match (self.config.concurrent_calls, self.ends_ms.peek()) {
            (Some(max), _) if self.ends_ms.len() < max as usize => 0.0,
            (Some(_), Some(Reverse(soonest))) => soonest.0 - now_ms,
            (Some(_), None) => f64::INFINITY,
            (None, _) => 0.0,
        }
    }

    /// Takes up room until `end_ms`; with `in_place_of_next`, that of the call that ends next.
    pub fn occupy(&mut self, end_ms: f64, in_place_of_next: bool) {
        if in_place_of_next {
            self.ends_ms.pop();
        }
        self.ends_ms.push(Reverse(Moment(end_ms)));
    }

    pub fn live_calls(&mut self, now_ms: f64) -> usize {
        self.room_in_ms(now_ms);
        self.ends_ms.len()
    }
}

//! What goes wrong, and when: a pure function of a seed and a length.
//!
//! Deeds are dealt from a shuffled deck, so that a run as short as one deck meets everything, and two decks nothing in
//! the same order.

use std::fmt;
use std::time::Duration;

use outdial::synthflow::sandbox::Fault;

use super::faults::fault_table;
use super::proxy::{Line, Way};

/// Workers when nothing is scaled.
pub const CREW: usize = 3;
pub const CREW_MAX: usize = 8;
/// Between two deeds, on average.
const GAP_MS: u64 = 2_000;
/// The first and the last part of a run, in which nothing begins.
const CALM: f64 = 0.05;
/// Beyond the lease, and that of whoever looks for the dead, should it be the one that sleeps.
const OVERSLEEP_MS: (u64, u64) = (8_000, 11_000);
/// The network goes wrong for so long.
const LINE_MS: (u64, u64) = (1_000, 6_000);

/// The servers that a worker talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Database,
    Broker,
    Provider,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Deed {
    /// `kill -9` of a worker, and a new one after `gone_ms`.
    Kill { worker: usize, gone_ms: u64 },
    /// SIGSTOP, and SIGCONT after `ms`.
    Pause { worker: usize, ms: u64 },
    /// The server dies and comes back: PostgreSQL by an immediate stop, the others by SIGKILL.
    Down { server: Server, gone_ms: u64 },
    /// Every connection of this worker (`None`: of all) to the server ends.
    Cut { worker: Option<usize>, server: Server },
    /// The network to the server is so for `ms`.
    Line { worker: Option<usize>, server: Server, line: Line, ms: u64 },
    /// The provider goes wrong by this table for `ms`.
    Faults { table: Vec<Fault>, ms: u64 },
    /// One worker, then eight, then two, then as many as usual, `ms` each.
    Scale { ms: u64 },
    /// Each worker in turn ends by SIGTERM, and a new one starts.
    Roll,
    /// The database's clock steps by this.
    Clock { step_s: i64 },
    /// The database's disk is full for `ms`.
    DiskFull { ms: u64 },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub at: Duration,
    pub deed: Deed,
}

/// The schedule of a run, in order of time.
pub fn schedule(seed: u64, length: Duration) -> Vec<Event> {
    let mut dice = Dice(seed);
    let calm_ms = (length.as_millis() as f64 * CALM) as u64;
    let end_ms = length.as_millis() as u64 - calm_ms;
    let (mut at_ms, mut deck, mut events) = (calm_ms, Vec::new(), Vec::new());
    loop {
        at_ms += dice.within(GAP_MS / 4, GAP_MS * 7 / 4);
        if at_ms >= end_ms {
            return events;
        }
        if deck.is_empty() {
            deck = dice.shuffled(&DECK);
        }
        let card = deck.pop().expect("it was just filled");
        events.push(Event { at: Duration::from_millis(at_ms), deed: card.deed(&mut dice, length) });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Card {
    Kill,
    Pause,
    Oversleep,
    Down(Server),
    Net(Server),
    Faults,
    Scale,
    Roll,
    Clock,
    DiskFull,
}

const DECK: [Card; 25] = [
    Card::Kill,
    Card::Kill,
    Card::Kill,
    Card::Kill,
    Card::Kill,
    Card::Pause,
    Card::Pause,
    Card::Pause,
    Card::Oversleep,
    Card::Down(Server::Database),
    Card::Down(Server::Broker),
    Card::Down(Server::Provider),
    Card::Net(Server::Database),
    Card::Net(Server::Database),
    Card::Net(Server::Broker),
    Card::Net(Server::Broker),
    Card::Net(Server::Provider),
    Card::Net(Server::Provider),
    Card::Faults,
    Card::Faults,
    Card::Faults,
    Card::Scale,
    Card::Roll,
    Card::Clock,
    Card::DiskFull,
];

impl Card {
    fn deed(self, dice: &mut Dice, length: Duration) -> Deed {
        let worker = dice.below(CREW as u64) as usize;
        match self {
            Self::Kill => Deed::Kill { worker, gone_ms: dice.within(0, 3_000) },
            Self::Pause => {
                // Most around the lease, some far beyond it, and up to two minutes where there is time for it: so that not
                // all workers are stopped most of the time.
                let longest = (length.as_millis() as u64 / 10).clamp(5_000, 120_000);
                let most = match dice.below(12) {
                    0 => longest,
                    1..=3 => longest.min(20_000),
                    _ => 5_000,
                };
                Deed::Pause { worker, ms: dice.within(1_000, most) }
            }
            Self::Oversleep => Deed::Pause { worker, ms: dice.within(OVERSLEEP_MS.0, OVERSLEEP_MS.1) },
            Self::Down(server) => Deed::Down { server, gone_ms: dice.within(200, 4_000) },
            Self::Net(server) => net(server, worker, dice),
            Self::Faults => Deed::Faults { table: fault_table(dice), ms: dice.within(3_000, 8_000) },
            Self::Scale => Deed::Scale { ms: dice.within(2_000, 5_000) },
            Self::Roll => Deed::Roll,
            Self::Clock => Deed::Clock { step_s: if dice.below(2) == 0 { 5 } else { -5 } },
            Self::DiskFull => Deed::DiskFull { ms: dice.within(500, 3_000) },
        }
    }
}

fn net(server: Server, worker: usize, dice: &mut Dice) -> Deed {
    let worker = (dice.below(3) > 0).then_some(worker);
    let slow = Way::Slow(Duration::from_millis(dice.within(20, 300)));
    let line = |there, back, refused| Line { there, back, refused };
    let line = match dice.below(9) {
        0 | 1 => return Deed::Cut { worker, server },
        2 => line(slow, slow, false),
        3 => line(Way::Pass, slow, false),
        4 => line(Way::Hole, Way::Hole, false),
        5 => line(Way::Hole, Way::Pass, false),
        6 => line(Way::Pass, Way::Hole, false),
        7 => line(slow, Way::Pass, false),
        _ => line(Way::Pass, Way::Pass, true),
    };
    Deed::Line { worker, server, line, ms: dice.within(LINE_MS.0, LINE_MS.1) }
}

/// SplitMix64: the same for ever, whatever library comes or goes.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Both included.
    pub fn within(&mut self, min: u64, max: u64) -> u64 {
        min + self.below(max - min + 1)
    }

    pub fn shuffled<T: Copy>(&mut self, from: &[T]) -> Vec<T> {
        let mut left = from.to_vec();
        for i in (1..left.len()).rev() {
            left.swap(i, self.below(i as u64 + 1) as usize);
        }
        left
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.1} s  {}", self.at.as_secs_f64(), self.deed)
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |worker: &Option<usize>| worker.map_or("all".to_owned(), |n| format!("worker {n}"));
        let s = |ms: &u64| *ms as f64 / 1_000.0;
        match self {
            Self::Kill { worker, gone_ms } => write!(f, "kill -9 worker {worker}, gone {:.1} s", s(gone_ms)),
            Self::Pause { worker, ms } => write!(f, "stop worker {worker} for {:.1} s", s(ms)),
            Self::Down { server, gone_ms } => write!(f, "{server:?} dies, gone {:.1} s", s(gone_ms)),
            Self::Cut { worker, server } => write!(f, "cut {} from {server:?}", whose(worker)),
            Self::Line { worker, server, line, ms } => {
                write!(f, "{} to {server:?} for {:.1} s: ", whose(worker), s(ms))?;
                match line.refused {
                    true => write!(f, "refused"),
                    false => write!(f, "there {:?}, back {:?}", line.there, line.back),
                }
            }
            Self::Faults { table, ms } => {
                write!(f, "Provider for {:.1} s:", s(ms))?;
                table.iter().try_for_each(|fault| write!(f, " {:?} {:.2}", fault.kind, fault.rate))
            }
            Self::Scale { ms } => write!(f, "scale to 1, 8, 2, {CREW}, {:.1} s each", s(ms)),
            Self::Roll => write!(f, "rolling restart"),
            Self::Clock { step_s } => write!(f, "the database's clock steps by {step_s:+} s"),
            Self::DiskFull { ms } => write!(f, "the database's disk is full for {:.1} s", s(ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_another_seed_another() {
        let minute = Duration::from_secs(60);
        assert_eq!(schedule(7, minute), schedule(7, minute));
        assert_ne!(schedule(7, minute), schedule(8, minute));
    }

    #[test]
    fn the_short_run_meets_everything() {
        let (seed, length) = super::super::SHORT;
        let events = schedule(seed, length);
        assert!(events.len() >= DECK.len(), "{} deeds", events.len());
        // Somebody is taken for dead while it sleeps, which the run must show: the others can tell, for nothing is wrong with
        // the database meanwhile.
        let oversleeps = |e: &&Event| matches!(e.deed, Deed::Pause { ms, .. } if ms >= OVERSLEEP_MS.0);
        let from = events.iter().find(oversleeps).expect("somebody oversleeps").at;
        let hinders = |deed: &Deed| match deed {
            Deed::Down { server, .. } | Deed::Line { server, .. } | Deed::Cut { server, .. } => {
                *server == Server::Database
            }
            Deed::Scale { .. } | Deed::Roll | Deed::Clock { .. } | Deed::DiskFull { .. } => true,
            Deed::Kill { .. } | Deed::Pause { .. } | Deed::Faults { .. } => false,
        };
        let (before, after) = (
            from.saturating_sub(Duration::from_millis(LINE_MS.1)),
            from + Duration::from_millis(OVERSLEEP_MS.1),
        );
        let meanwhile = |e: &&Event| hinders(&e.deed) && (before..after).contains(&e.at);
        assert_eq!(events.iter().find(meanwhile), None);
    }

    #[test]
    fn a_deck_is_dealt_out_before_the_next_begins() {
        let events = schedule(7, Duration::from_secs(300));
        assert!(events.len() > 2 * DECK.len(), "{}", events.len());
        for deck in events[..2 * DECK.len()].chunks(DECK.len()) {
            let kills = deck.iter().filter(|e| matches!(e.deed, Deed::Kill { .. })).count();
            assert_eq!(kills, 5);
            for server in [Server::Database, Server::Broker, Server::Provider] {
                let down = |e: &&Event| matches!(e.deed, Deed::Down { server: s, .. } if s == server);
                assert_eq!(deck.iter().filter(down).count(), 1, "{server:?}");
            }
        }
        assert!(events.windows(2).all(|two| two[0].at < two[1].at));
    }
}

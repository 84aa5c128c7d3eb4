//! How the worker stands with what it needs, told by the stages and read by `/readyz`, the metrics and the stages
//! that stop when the database is away.

use std::fmt;

use tokio::sync::watch;

/// A connection, as its keeper last saw it.
///
/// ```text
/// Connecting ─▶ Up ⇄ Down
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not tried to the end yet.
    Connecting,
    Up,
    /// Why, without secrets.
    Down(String),
}

impl Link {
    pub const fn is_up(&self) -> bool {
        matches!(self, Link::Up)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Link::Connecting => f.write_str("connecting"),
            Link::Up => f.write_str("up"),
            Link::Down(why) => write!(f, "down: {why}"),
        }
    }
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub broker: Link,
    pub database: Link,
    /// Version of the routing in use; `None`: none is loaded, and jobs wait `no_route`.
    pub routing_version: Option<i64>,
    /// Stopping: nothing new is taken.
    pub draining: bool,
}

impl Standing {
    /// Why it isn't ready; empty: it is. Without routing it is ready.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, link) in [("broker", &self.broker), ("database", &self.database)] {
            if !link.is_up() {
                faults.push(format!("{name} {link}"));
            }
        }
        if self.draining {
            faults.push("draining: it stops, and takes nothing new".to_owned());
        }
        faults
    }

    pub fn is_ready(&self) -> bool {
        self.faults().is_empty()
    }
}

/// One for the process; clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    standing: watch::Sender<Standing>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    pub fn new() -> Self {
        let standing = Standing {
            broker: Link::Connecting,
            database: Link::Connecting,
            routing_version: None,
            draining: false,
        };
        Self { standing: watch::Sender::new(standing) }
    }

    pub fn now(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// For who waits for a change.
    pub fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub fn broker(&self, link: Link) {
        self.set(|standing| std::mem::replace(&mut standing.broker, link.clone()) != link);
    }

    pub fn database(&self, link: Link) {
        self.set(|standing| std::mem::replace(&mut standing.database, link.clone()) != link);
    }

    pub fn routing(&self, version: Option<i64>) {
        self.set(|standing| std::mem::replace(&mut standing.routing_version, version) != version);
    }

    pub fn draining(&self) {
        self.set(|standing| !std::mem::replace(&mut standing.draining, true));
    }

    /// Wakes nobody when nothing changed.
    fn set(&self, change: impl FnOnce(&mut Standing) -> bool) {
        self.standing.send_if_modified(change);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn it_is_ready_when_both_are_up_whatever_the_routing() {
        let health = Health::new();
        assert_eq!(health.now().faults(), ["broker connecting", "database connecting"]);
        health.broker(Link::Up);
        health.database(Link::Up);
        assert!(health.now().is_ready(), "without routing it is ready");
        health.database(Link::Down("connection refused".to_owned()));
        assert_eq!(health.now().faults(), ["database down: connection refused"]);
        health.database(Link::Up);
        health.draining();
        assert!(!health.now().is_ready());
    }

    #[test]
    fn only_a_change_wakes() {
        let health = Health::new();
        let mut watcher = health.subscribe();
        watcher.mark_unchanged();
        health.broker(Link::Connecting);
        assert!(!watcher.has_changed().unwrap());
        health.broker(Link::Up);
        assert!(watcher.has_changed().unwrap());
    }
}

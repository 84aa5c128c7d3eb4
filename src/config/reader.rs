//! Takes keys out of the layers one by one and notes every fault; what nobody took at the end is unknown.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::SecretString;

use super::fault::{Fault, Origin};
use super::given::{Bad, Given, Reading};
use super::layers::Layers;

pub(super) struct Reader {
    layers: Layers,
    /// Every key ever asked for: what an unknown one may have meant.
    known: BTreeSet<String>,
}

impl Reader {
    pub fn new(layers: Layers) -> Self {
        Self { layers, known: BTreeSet::new() }
    }

    /// A key's value, or `None` where it is given nowhere or is bad (which is noted).
    pub fn optional<T>(&mut self, key: &str, read: impl FnOnce(&Given) -> Reading<T>) -> Option<T> {
        self.known.insert(key.to_owned());
        let given = self.layers.given.remove(key)?;
        match read(&given) {
            Ok(value) => Some(value),
            Err(bad) => {
                self.fault(key, given.origin, bad);
                None
            }
        }
    }

    pub fn or<T>(&mut self, key: &str, default: T, read: impl FnOnce(&Given) -> Reading<T>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// A secret, whose value no message shows: `read` says what is wrong without repeating it.
    pub fn secret(&mut self, key: &str, read: impl FnOnce(&Given) -> Reading<&str>) -> Option<SecretString> {
        self.optional(key, |given| Ok(SecretString::from(read(given)?.to_owned())))
    }

    /// A secret or key that a command can't do without.
    pub fn demand(&mut self, key: &str, mend: &str) {
        // A bad value was told already, and a broken file may hold it.
        let told = self.layers.faults.iter().any(|fault| fault.key == key);
        if !told && !self.layers.file_broken {
            self.fault(key, Origin::Nowhere, Bad::new("is missing", mend));
        }
    }

    pub fn fault(&mut self, key: &str, origin: Origin, bad: Bad) {
        self.layers.faults.push(Fault { key: key.to_owned(), origin, what: bad.what, mend: bad.mend });
    }

    pub fn origin_of(&self, key: &str) -> Origin {
        self.layers.given.get(key).map_or(Origin::Nowhere, |given| given.origin.clone())
    }

    pub fn accounts_given(&self) -> BTreeSet<String> {
        self.layers.given.keys().filter_map(|key| super::layers::account_of(key)).map(str::to_owned).collect()
    }

    /// All faults, those of keys that nobody took among them; and the keys that exist.
    pub fn finish(mut self) -> (Vec<Fault>, BTreeSet<String>) {
        for (key, given) in std::mem::take(&mut self.layers.given) {
            let mend = self.what_was_meant(&key);
            self.layers.faults.push(Fault { what: "is no key".to_owned(), mend, origin: given.origin, key });
        }
        (self.layers.faults, self.known)
    }

    fn what_was_meant(&self, key: &str) -> String {
        let inner = format!("{key}.");
        let in_section: Vec<&str> =
            self.known.iter().map(String::as_str).filter(|known| known.starts_with(&inner)).collect();
        if !in_section.is_empty() {
            return format!("{key} is a section; its keys: {}", in_section.join(", "));
        }
        let nearest = self.known.iter().map(|known| (distance(key, known), known)).min();
        match nearest {
            Some((changes, known)) if changes <= 1 + key.len() / 4 => format!("did you mean {known}?"),
            _ => "remove it; config/outdial.toml lists every key".to_owned(),
        }
    }
}

/// A second as the least and a year as the most that any length of time may be, unless a key says otherwise.
pub(super) const fn seconds(least: u64, most: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_secs(least)..=Duration::from_secs(most)
}

/// Letters to change, add or drop to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

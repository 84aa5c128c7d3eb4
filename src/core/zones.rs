//! What libphonenumber's prefix tables tell of a number beyond its country: time zones, and the state or province of
//! numbers in the US and Canada. The tables are written by `data/generate.py`.

use std::collections::HashMap;
use std::sync::LazyLock;

use chrono_tz::Tz;

use super::place::Region;

/// Values by prefix of an E.164 number (without `+`); the longest prefix speaks.
struct PrefixTable<T> {
    by_prefix: HashMap<u32, T>,
    digits_max: usize,
}

impl<T> PrefixTable<T> {
    /// Reads lines of `prefix,value`, leaving out comments. A value that can't be read gives no row; the tests see
    /// that there is none.
    fn read(table: &str, value: impl Fn(&str) -> Option<T>) -> Self {
        let rows = table.lines().filter_map(|line| line.split_once(','));
        let mut read = Self { by_prefix: HashMap::new(), digits_max: 0 };
        for (prefix, text) in rows {
            if let (Ok(key), Some(value)) = (prefix.parse(), value(text)) {
                read.by_prefix.insert(key, value);
                read.digits_max = read.digits_max.max(prefix.len());
            }
        }
        read
    }

    /// `digits`: the number without its `+`.
    fn longest(&self, digits: &str) -> Option<&T> {
        let longest = self.digits_max.min(digits.len());
        (1..=longest).rev().find_map(|length| self.by_prefix.get(&digits.get(..length)?.parse().ok()?))
    }
}

static ZONES: LazyLock<PrefixTable<Vec<Tz>>> = LazyLock::new(|| {
    let zones = |text: &str| text.split(' ').map(|zone| zone.parse().ok()).collect();
    PrefixTable::read(include_str!("data/zones.csv"), zones)
});

static STATES: LazyLock<PrefixTable<Region>> =
    LazyLock::new(|| PrefixTable::read(include_str!("data/nanp_regions.csv"), |text| text.parse().ok()));

/// The zones in which a number with these digits may be; empty: unknown.
pub(super) fn zones_of_digits(digits: &str) -> &'static [Tz] {
    ZONES.longest(digits).map_or(&[], Vec::as_slice)
}

/// `US-CA` for the digits of a number in the US or Canada; none where the code lies in several, or isn't listed.
pub(super) fn state_of_digits(digits: &str) -> Option<Region> {
    STATES.longest(digits).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(table: &str) -> usize {
        table.lines().filter(|line| !line.starts_with('#')).count()
    }

    #[test]
    fn every_row_of_the_tables_is_read() {
        assert_eq!(ZONES.by_prefix.len(), rows(include_str!("data/zones.csv")));
        assert_eq!(STATES.by_prefix.len(), rows(include_str!("data/nanp_regions.csv")));
    }

    #[test]
    fn an_unmapped_code_is_unknown_not_everywhere() {
        assert!(zones_of_digits("10001234567").is_empty());
        assert_eq!(zones_of_digits("14155550123"), [chrono_tz::America::Los_Angeles]);
        assert_eq!(state_of_digits("19025550123"), None, "Nova Scotia or Prince Edward Island");
    }
}

//! The law's hours and caps, by the callee's place: data, with where it is written and from when it holds.
//!
//! It is no legal advice. The data that ship are in `data/calling_rules.toml`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use chrono::{NaiveDate, NaiveDateTime, Weekday};
use serde::{Deserialize, Serialize};

use super::holidays::Calendar;
use crate::core::place::{Country, PlaceError, Region};
use crate::core::windows::{LocalTime, Window, WindowError};

const SHIPPED: &str = include_str!("../data/calling_rules.toml");

const US_TERRITORIES: [&str; 6] = ["AS", "GU", "MP", "PR", "UM", "VI"];

/// The place of rules that hold where no others do.
const ELSEWHERE: &str = "*";

/// A cap on calls to one callee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempts {
    pub calls: u32,
    /// In any window of so many hours.
    pub hours: u32,
}

/// What one text of law says of one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceRule {
    /// None: wherever no other rule holds.
    pub place: Option<Region>,
    /// Where it is written.
    pub source: String,
    pub url: Option<String>,
    /// By the callee's calendar; the last day is one of them.
    pub effective: (Option<NaiveDate>, Option<NaiveDate>),
    /// It holds on these days alone.
    only_on: Option<Arc<Calendar>>,
    /// Open in any of these. Empty: it says nothing of hours.
    hours: Vec<Window>,
    /// Closed on these days.
    holidays: Option<Arc<Calendar>>,
    pub attempts: Option<Attempts>,
    pub confidence: Confidence,
    /// The text speaks of automated or recorded calls. Calls placed here are an artificial voice's: it holds.
    pub automated_only: bool,
    pub note: Option<String>,
}

/// How well a rule was attested when it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The text itself, or several independent accounts of it.
    High,
    Medium,
    Low,
}

impl PlaceRule {
    /// Whether one may call when the clock shows this.
    pub fn is_open(&self, local: NaiveDateTime) -> bool {
        let date = local.date();
        if !self.holds_on(date) {
            return true;
        }
        let open = self.hours.is_empty() || self.hours.iter().any(|window| window.is_open(local));
        open && !self.holidays.as_ref().is_some_and(|holidays| holidays.has(date))
    }

    /// Of days in general: hours of some days alone leave the others to what holds elsewhere.
    fn says_hours(&self) -> bool {
        !self.hours.is_empty() && self.only_on.is_none()
    }

    pub fn holds_on(&self, date: NaiveDate) -> bool {
        self.effective.0.is_none_or(|from| date >= from)
            && self.effective.1.is_none_or(|until| date <= until)
            && self.only_on.as_ref().is_none_or(|days| days.has(date))
    }

    /// The seconds of the day at which it may open or close. A day begins and ends at midnight.
    pub(super) fn boundaries(&self) -> impl Iterator<Item = i64> {
        self.hours.iter().flat_map(Window::boundaries).chain([0])
    }
}

/// What a user has written down of a place, in place of the rules that ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallingRule {
    /// `US-FL`, `GB`, or `*` for where nothing else holds.
    pub place: String,
    pub source: String,
    pub url: Option<String>,
    pub effective: (Option<NaiveDate>, Option<NaiveDate>),
    pub hours: Vec<Window>,
    /// The name of a list that ships.
    pub holidays: Option<String>,
    pub attempts: Option<Attempts>,
    pub note: Option<String>,
}

/// All rules of one version.
#[derive(Debug, Clone, Default)]
pub struct Law {
    /// As its editors name it.
    pub version: String,
    calendars: BTreeMap<String, Arc<Calendar>>,
    by_place: HashMap<Region, Vec<Arc<PlaceRule>>>,
    elsewhere: Vec<Arc<PlaceRule>>,
}

/// What is wrong with a file of rules.
#[derive(Debug, thiserror::Error)]
pub enum LawError {
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("rule {nth} ({place}): {why}")]
    Rule { nth: usize, place: String, why: RuleError },
}

/// What is wrong with one rule.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("hours: {0}")]
    Hours(#[from] WindowError),
    #[error("holidays: there is no list {0:?}")]
    Holidays(String),
    #[error("only_on: there is no list {0:?}")]
    OnlyOn(String),
    #[error("says neither hours nor holidays nor attempts")]
    Nothing,
    #[error("attempts must be at least 1 in at least 1 hour")]
    Attempts,
    #[error("ends before it begins")]
    Effective,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    #[serde(default)]
    holidays: BTreeMap<String, Calendar>,
    #[serde(default)]
    rule: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    place: String,
    source: String,
    url: Option<String>,
    effective_from: Option<NaiveDate>,
    effective_until: Option<NaiveDate>,
    only_on: Option<String>,
    #[serde(default)]
    hours: Vec<EntryHours>,
    holidays: Option<String>,
    attempts: Option<Attempts>,
    confidence: Confidence,
    #[serde(default)]
    automated_only: bool,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryHours {
    days: Vec<Weekday>,
    from: String,
    to: String,
}

impl Law {
    /// The rules that ship with the program.
    ///
    /// # Errors
    /// None, as the tests see.
    pub fn built_in() -> Result<Self, LawError> {
        static READ: LazyLock<Option<Law>> = LazyLock::new(|| Law::from_toml(SHIPPED).ok());
        match &*READ {
            Some(law) => Ok(law.clone()),
            None => Self::from_toml(SHIPPED),
        }
    }

    /// These rules, but for the places of `others` theirs.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn with(mut self, others: &[CallingRule]) -> Result<Self, LawError> {
        let mut replaced = HashSet::new();
        for (nth, other) in (1..).zip(others) {
            let rule = other.rule(&self.calendars).map_err(|why| LawError::Rule {
                nth,
                place: other.place.clone(),
                why,
            })?;
            if replaced.insert(rule.place) {
                match &rule.place {
                    Some(place) => drop(self.by_place.remove(place)),
                    None => self.elsewhere.clear(),
                }
            }
            self.add(rule);
        }
        Ok(self)
    }

    fn add(&mut self, rule: PlaceRule) {
        match rule.place {
            Some(place) => self.by_place.entry(place).or_default().push(Arc::new(rule)),
            None => self.elsewhere.push(Arc::new(rule)),
        }
    }

    /// # Errors
    /// What is wrong with the text, and where.
    pub fn from_toml(text: &str) -> Result<Self, LawError> {
        let file: File = toml::from_str(text)?;
        let holidays: BTreeMap<String, Arc<Calendar>> =
            file.holidays.into_iter().map(|(name, list)| (name, Arc::new(list))).collect();
        let mut law = Self { version: file.version, calendars: holidays, ..Self::default() };
        for (nth, entry) in (1..).zip(file.rule) {
            let place = entry.place.clone();
            let rule = entry.rule(&law.calendars).map_err(|why| LawError::Rule { nth, place, why })?;
            law.add(rule);
        }
        Ok(law)
    }

    /// What holds for a callee: the rules of the country and those of its part. `region`: where the callee is, as far
    /// as is known; `country`: where the call goes. Where these are two countries, the rules of both.
    pub fn of_place(&self, region: Option<Region>, country: Option<Country>) -> Vec<Arc<PlaceRule>> {
        let part = region.filter(Region::is_part);
        let mut places: Vec<Region> = region
            .map(|region| region.country().into())
            .into_iter()
            .chain(country.map(Region::from))
            .chain(part)
            .collect();
        // ISO 3166 has them twice, as countries and as parts of one.
        let territory = part.as_ref().and_then(|part| part.as_str().strip_prefix("US-"));
        let territory = territory.filter(|code| US_TERRITORIES.contains(code));
        places.extend(territory.and_then(|code| code.parse::<Region>().ok()));
        places.dedup();
        let mut found: Vec<Arc<PlaceRule>> =
            places.iter().filter_map(|place| self.by_place.get(place)).flatten().cloned().collect();
        if !found.iter().any(|rule| rule.says_hours()) {
            found.extend(self.elsewhere.iter().cloned());
        }
        found
    }

    pub fn rules(&self) -> impl Iterator<Item = &Arc<PlaceRule>> {
        self.by_place.values().flatten().chain(&self.elsewhere)
    }
}

impl Entry {
    fn rule(self, calendars: &BTreeMap<String, Arc<Calendar>>) -> Result<PlaceRule, RuleError> {
        let mut hours = Vec::new();
        for entry in &self.hours {
            let (from, to) = (LocalTime::parse(&entry.from)?, LocalTime::parse(&entry.to)?);
            hours.push(Window::new(entry.days.iter().copied(), from, to)?);
        }
        let only_on = match &self.only_on {
            Some(name) => Some(calendars.get(name).cloned().ok_or_else(|| RuleError::OnlyOn(name.clone()))?),
            None => None,
        };
        let effective = (self.effective_from, self.effective_until);
        let Self { place, source, url, holidays, attempts, confidence, automated_only, note, .. } = self;
        let said = CallingRule { place, source, url, effective, hours, holidays, attempts, note };
        Ok(PlaceRule { confidence, automated_only, only_on, ..said.rule(calendars)? })
    }
}

impl CallingRule {
    fn rule(&self, calendars: &BTreeMap<String, Arc<Calendar>>) -> Result<PlaceRule, RuleError> {
        let place = (self.place != ELSEWHERE).then(|| self.place.parse()).transpose()?;
        let holidays = match &self.holidays {
            Some(name) => {
                Some(calendars.get(name).cloned().ok_or_else(|| RuleError::Holidays(name.clone()))?)
            }
            None => None,
        };
        if self.hours.is_empty() && holidays.is_none() && self.attempts.is_none() {
            return Err(RuleError::Nothing);
        }
        if self.attempts.is_some_and(|cap| cap.calls == 0 || cap.hours == 0) {
            return Err(RuleError::Attempts);
        }
        if let (Some(from), Some(until)) = self.effective
            && until < from
        {
            return Err(RuleError::Effective);
        }
        Ok(PlaceRule {
            place,
            source: self.source.clone(),
            url: self.url.clone(),
            effective: self.effective,
            only_on: None,
            hours: self.hours.clone(),
            holidays,
            attempts: self.attempts,
            confidence: Confidence::High,
            automated_only: false,
            note: self.note.clone(),
        })
    }
}

#[cfg(test)]
#[path = "law_tests.rs"]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests;

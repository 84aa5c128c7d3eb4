//! The routing file: TOML read into [`Settings`], or every fault of it at once.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{NaiveDate, Weekday};
use toml::de::DeTable;

use super::reader::{Fault, FaultKind, Faults, Field, Section};
use super::settings::*;
use crate::core::hours::{Attempts, CallingRule, Law};
use crate::core::ids::{AccountName, Brand, CampaignId, IdError, ModelId};
use crate::core::phone::{self, E164, PhoneCheck};
use crate::core::place::Region;
use crate::core::states::Disposition;
use crate::core::windows::{LocalTime, Window};

/// The longest file, in bytes: some 50,000 numbers.
pub const SOURCE_BYTES_MAX: usize = 16 << 20;
const WEIGHT_MAX: u32 = 1_000;
const NAME_CHARS_MAX: usize = 200;
const REDIAL_AFTER_MIN: Duration = Duration::from_secs(10);
const REDIAL_AFTER_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Of one job.
const ATTEMPTS_MAX: u32 = 100;
/// To one phone: more are not kept count of.
const CALLS_MAX: u32 = 100;
/// Of a window of such a cap: longer ago is not kept.
const HOURS_MAX: u32 = 30 * 24;
const GAP_MIN: Duration = Duration::from_secs(10);
const GAP_MAX: Duration = Duration::from_secs(30 * 86_400);
const RETRY_AFTER_MIN: Duration = Duration::from_secs(10);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30 * 86_400);
const EXPIRES_AFTER_MIN: Duration = Duration::from_secs(60);
const EXPIRES_AFTER_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Reads the whole document. Nothing of one with a fault is to be used.
pub fn parse(source: &str) -> Result<Settings, Vec<Fault>> {
    let faults = Faults::new(source);
    if source.len() > SOURCE_BYTES_MAX {
        let message =
            format_args!("the file is {} bytes long; at most {SOURCE_BYTES_MAX} are read", source.len());
        faults.note(0, "", FaultKind::Syntax, message);
        return Err(faults.into_sorted());
    }
    let (root, errors) = DeTable::parse_recoverable(source);
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        faults.note(offset, "", FaultKind::Syntax, error.message());
    }
    let settings = read_root(Section::root(&faults, root.get_ref()));
    match faults.into_sorted() {
        faults if faults.is_empty() => Ok(settings),
        faults => Err(faults),
    }
}

fn read_root(mut root: Section) -> Settings {
    let defaults = root.get("defaults").and_then(|f| f.table()).map(read_defaults).unwrap_or_default();
    let agents = entries(root.get("agent"), "model_id", read_agent, |agent| agent.model_id.clone());
    let numbers = entries(root.get("number"), "number", read_number, |entry| entry.number.clone());
    let campaigns = entries(root.get("campaign"), "id", read_campaign, |campaign| campaign.id.clone());
    let rules = entries(root.get("rule"), "name", read_rule, |rule| rule.name.clone());
    let calling_rules =
        list(root.get("calling_rule"), |f| f.table().and_then(|section| read_calling_rule(f, section)));
    root.finish();
    Settings { defaults, agents, numbers, campaigns, rules, calling_rules }
}

/// The tables of one `[[kind]]`, each with a key of its own that no other may have.
fn entries<T, K: std::hash::Hash + Eq>(
    field: Option<Field>,
    key_name: &'static str,
    read: impl Fn(&mut Section, usize) -> Option<T>,
    key: impl Fn(&T) -> K,
) -> Vec<T> {
    let Some(field) = field else { return Vec::new() };
    let tables = field.list(|element| Some(element.clone())).unwrap_or_default();
    let mut lines: HashMap<K, usize> = HashMap::new();
    let mut entries = Vec::with_capacity(tables.len());
    for (at, element) in tables.iter().enumerate() {
        let Some(mut section) = element.table() else { continue };
        let entry = read(&mut section, at);
        let place = section.get(key_name).unwrap_or_else(|| element.clone());
        section.finish();
        let Some(entry) = entry else { continue };
        match lines.get(&key(&entry)) {
            Some(line) => {
                let message = format_args!("the same as in line {line}; write it once");
                place.fault::<()>(FaultKind::Duplicate, message);
            }
            None => {
                lines.insert(key(&entry), place.line());
                entries.push(entry);
            }
        }
    }
    entries
}

fn read_defaults(mut section: Section) -> Defaults {
    let number_limits = read_limits(section.get("number_limits"));
    let no_route = section.get("no_route").and_then(|f| f.word(NoRoute::ALL)).unwrap_or(NoRoute::Hold);
    let calling_rules = word_or(section.get("calling_rules"), CallingRules::ALL, CallingRules::None);
    let caller_id_mismatch = word_or(section.get("caller_id_mismatch"), OnMismatch::ALL, OnMismatch::Report);
    section.finish();
    Defaults {
        number_limits,
        no_route,
        calling_rules: calling_rules.unwrap_or_default(),
        caller_id_mismatch: caller_id_mismatch.unwrap_or_default(),
    }
}

fn read_agent(section: &mut Section, _: usize) -> Option<AgentSettings> {
    let model_id = section.require("model_id").and_then(|f| f.parsed(ModelId::parse));
    let name = section.get("name").and_then(|f| f.parsed(short_text));
    let account = match section.get("account") {
        Some(field) => field.parsed(AccountName::parse),
        None => Some(AccountName::default_account()),
    };
    Some(AgentSettings { model_id: model_id?, name, account: account? })
}

fn read_number(section: &mut Section, _: usize) -> Option<NumberSettings> {
    let number = section.require("number").and_then(|f| number(&f));
    let brand = section.get("brand").and_then(|f| f.parsed(Brand::parse));
    let region = section.get("region").and_then(|f| f.parsed(str::parse::<Region>));
    let tags = list(section.get("tags"), |f| f.parsed(short_text));
    let weight = section.get("weight").map_or(Some(1), |f| f.count(WEIGHT_MAX));
    let limits = read_limits(section.get("limits"));
    Some(NumberSettings { number: number?, brand, region, tags, weight: weight?, limits })
}

fn read_campaign(section: &mut Section, _: usize) -> Option<CampaignSettings> {
    let id = section.require("id").and_then(|f| f.parsed(CampaignId::parse));
    let brand = section.get("brand").and_then(|f| f.parsed(Brand::parse));
    let model_id = section.get("model_id").and_then(|f| f.parsed(ModelId::parse));
    let weight = section.get("weight").map_or(Some(1), |f| f.count(WEIGHT_MAX));
    let limits = read_limits(section.get("limits"));
    let window = section.get("window").and_then(|f| read_window(&f));
    let destinations = section.get("destinations").and_then(|f| read_destinations(&f));
    let expires_after = section.get("expires_after").map_or(Some(EXPIRES_AFTER_DEFAULT), |f| read_expiry(&f));
    let consent = word_or(section.get("consent"), ConsentPolicy::ALL, ConsentPolicy::Optional);
    let recipient_limits = read_recipient_limits(section.get("recipient_limits"));
    let retry = section.get("retry").and_then(|f| read_retry(&f));
    let redial_unknown_after = section.get("redial_unknown_after").map_or(Some(None), |f| read_redial(&f));
    Some(CampaignSettings {
        id: id?,
        brand,
        model_id,
        weight: weight?,
        limits,
        window,
        destinations,
        expires_after: expires_after?,
        consent: consent?,
        recipient_limits,
        retry,
        redial_unknown_after: redial_unknown_after?,
    })
}

fn read_rule(section: &mut Section, at: usize) -> Option<Rule> {
    let name = match section.get("name") {
        Some(field) => field.parsed(short_text),
        None => Some(format!("rule {}", at + 1)),
    };
    let matches = section.get("match").and_then(|f| f.table()).map(read_match).unwrap_or_default();
    let uses = section.get("use").and_then(|f| f.table()).map(read_use).unwrap_or_default();
    let strategy = word_or(section.get("strategy"), Strategy::ALL, Strategy::LeastUsed);
    let sticky = section.get("sticky").map_or(Some(false), |f| f.boolean());
    let overflow = word_or(section.get("overflow"), Overflow::ALL, Overflow::Wait);
    let otherwise = word_or(section.get("otherwise"), Otherwise::ALL, Otherwise::Next);
    Some(Rule {
        name: name?,
        matches,
        uses,
        strategy: strategy?,
        sticky: sticky?,
        overflow: overflow?,
        otherwise: otherwise?,
    })
}

fn read_match(mut section: Section) -> Match {
    let matches = Match {
        brand: list(section.get("brand"), |f| f.parsed(Brand::parse)),
        region: list(section.get("region"), |f| f.parsed(str::parse::<Region>)),
        campaign: list(section.get("campaign"), |f| f.parsed(CampaignId::parse)),
        model_id: list(section.get("model_id"), |f| f.parsed(ModelId::parse)),
    };
    section.finish();
    matches
}

fn read_use(mut section: Section) -> Use {
    let uses = Use {
        brand: list(section.get("brand"), |f| f.parsed(Brand::parse)),
        region: list(section.get("region"), |f| f.parsed(str::parse::<Region>)),
        tags: list(section.get("tags"), |f| f.parsed(short_text)),
        numbers: list(section.get("numbers"), number),
    };
    section.finish();
    uses
}

fn read_limits(field: Option<Field>) -> Limits {
    let Some(mut section) = field.and_then(|f| f.table()) else { return Limits::UNLIMITED };
    let mut limit = |key, max| section.get(key).and_then(|f| f.count(max));
    let limits = Limits {
        per_second: limit("per_second", 10_000),
        per_minute: limit("per_minute", 100_000),
        per_hour: limit("per_hour", 1_000_000),
        per_day: limit("per_day", 10_000_000),
        concurrent: limit("concurrent", 100_000),
    };
    section.finish();
    limits
}

fn read_recipient_limits(field: Option<Field>) -> RecipientLimits {
    let Some(mut section) = field.and_then(|f| f.table()) else { return RecipientLimits::default() };
    let mut limit = |key| section.get(key).and_then(|f| f.count(CALLS_MAX));
    let (per_hour, per_day, per_week) = (limit("per_hour"), limit("per_day"), limit("per_week"));
    let min_gap = section.get("min_gap").and_then(|field| {
        let gap = field.parsed(duration)?;
        if (GAP_MIN..=GAP_MAX).contains(&gap) {
            u32::try_from(gap.as_secs()).ok()
        } else {
            field.invalid("must be from 10s to 30d")
        }
    });
    section.finish();
    RecipientLimits { per_hour, per_day, per_week, min_gap }
}

/// What the law says of a place, in the user's own reading of it.
fn read_calling_rule(field: &Field, mut section: Section) -> Option<CallingRule> {
    let text = |field: Option<Field>| field.and_then(|f| f.text().map(str::to_owned));
    let date = |field: Option<Field>| field.and_then(|f| f.parsed(str::parse::<NaiveDate>));
    let place = section.require("place").and_then(|f| f.text().map(str::to_owned));
    let source = section.require("source").and_then(|f| f.text().map(str::to_owned));
    let (url, note) = (text(section.get("url")), text(section.get("note")));
    let effective = (date(section.get("effective_from")), date(section.get("effective_until")));
    let hours = list(section.get("hours"), read_window);
    let holidays = text(section.get("holidays"));
    let attempts = section.get("attempts").and_then(|f| {
        let mut section = f.table()?;
        let calls = section.require("calls").and_then(|f| f.count(CALLS_MAX));
        let hours = section.require("hours").and_then(|f| f.count(HOURS_MAX));
        section.finish();
        Some(Attempts { calls: calls?, hours: hours? })
    });
    section.finish();
    let rule =
        CallingRule { place: place?, source: source?, url, effective, hours, holidays, attempts, note };
    // What it says is judged where all such rules are.
    match Law::built_in().and_then(|law| law.with(std::slice::from_ref(&rule))) {
        Ok(_) => Some(rule),
        Err(error) => field.invalid(error),
    }
}

fn read_window(field: &Field) -> Option<Window> {
    let mut section = field.table()?;
    let days = section.require("days").and_then(|f| f.list(weekday));
    let from = section.require("from").and_then(|f| f.parsed(LocalTime::parse));
    let to = section.require("to").and_then(|f| f.parsed(LocalTime::parse));
    section.finish();
    Window::new(days?, from?, to?).map_or_else(|error| field.invalid(error), Some)
}

fn weekday(field: &Field) -> Option<Weekday> {
    const DAYS: [(&str, Weekday); 7] = [
        ("mon", Weekday::Mon),
        ("tue", Weekday::Tue),
        ("wed", Weekday::Wed),
        ("thu", Weekday::Thu),
        ("fri", Weekday::Fri),
        ("sat", Weekday::Sat),
        ("sun", Weekday::Sun),
    ];
    let text = field.text()?;
    let day = DAYS.iter().find(|(word, _)| *word == text).map(|(_, day)| *day);
    day.or_else(|| field.invalid("must be one of mon, tue, wed, thu, fri, sat, sun"))
}

fn read_destinations(field: &Field) -> Option<Vec<crate::core::place::Country>> {
    let mut countries = field.list(|f| f.parsed(str::parse))?;
    if countries.is_empty() {
        return field.invalid("names no country; leave it out to allow those of the agent's own numbers");
    }
    countries.sort();
    countries.dedup();
    Some(countries)
}

fn read_expiry(field: &Field) -> Option<Duration> {
    let duration = field.parsed(duration)?;
    if (EXPIRES_AFTER_MIN..=EXPIRES_AFTER_MAX).contains(&duration) {
        Some(duration)
    } else {
        field.invalid("must be from 1m to 366d")
    }
}

/// `never`, or how long an unknown attempt is looked for in vain before it counts as not placed.
fn read_redial(field: &Field) -> Option<Option<Duration>> {
    if field.text() == Some("never") {
        return Some(None);
    }
    let duration = field.parsed(|text| duration(text).map_err(|wrong| format!("{wrong}, or \"never\"")))?;
    if (REDIAL_AFTER_MIN..=REDIAL_AFTER_MAX).contains(&duration) {
        Some(Some(duration))
    } else {
        field.invalid("must be \"never\", or from 10s to 30d")
    }
}

/// A try after each disposition that is named, so long after the call.
fn read_retry(field: &Field) -> Option<Retry> {
    let mut section = field.table()?;
    let max_attempts = section.require("max_attempts").and_then(|f| f.count(ATTEMPTS_MAX));
    let mut on = BTreeMap::new();
    if let Some(mut dispositions) = section.require("on").and_then(|f| f.table()) {
        for &disposition in Disposition::ALL {
            let delay = dispositions.get(disposition.as_str()).and_then(|f| read_delay(&f));
            on.extend(delay.map(|delay| (disposition, delay.as_secs())));
        }
        dispositions.finish();
    }
    section.finish();
    Some(Retry { max_attempts: max_attempts?, on })
}

fn read_delay(field: &Field) -> Option<Duration> {
    let delay = field.parsed(duration)?;
    if (RETRY_AFTER_MIN..=RETRY_AFTER_MAX).contains(&delay) {
        Some(delay)
    } else {
        field.invalid("must be from 10s to 30d")
    }
}

/// `90s`, `30m`, `2h`, `7d`.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let wrong = "must be a duration such as 90s, 30m, 2h or 7d";
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).ok_or(wrong)?;
    let (digits, unit) = text.split_at(digits_end);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong),
    };
    let count: u64 = digits.parse().map_err(|_| wrong)?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or(wrong)
}

fn number(field: &Field) -> Option<E164> {
    // Whether it is in use is the pool's word, not libphonenumber's.
    field.parsed(|text| phone::parse(text, PhoneCheck::Possible)).map(|phone| phone.number)
}

fn list<'a, T>(field: Option<Field<'a>>, each: impl Fn(&Field<'a>) -> Option<T>) -> Vec<T> {
    field.and_then(|f| f.list(each)).unwrap_or_default()
}

fn word_or<T: Copy + std::fmt::Display>(field: Option<Field>, words: &[T], default: T) -> Option<T> {
    field.map_or(Some(default), |f| f.word(words))
}

fn short_text(text: &str) -> Result<String, IdError> {
    match text.chars().count() {
        0 => return Err(IdError::Empty),
        count if count > NAME_CHARS_MAX => return Err(IdError::TooLong(count, NAME_CHARS_MAX)),
        _ => {}
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(IdError::BadCharacter(c)),
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests;

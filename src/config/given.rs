//! A value as somebody gave it, and its reading as the type that the key wants.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Origin;

/// How a length of time is written; said of every key that takes one.
pub const UNITS: &str = ", with its unit: 500ms, 10s, 30m, 2h or 7d";

/// What a file, a variable or a flag held, before anyone knows what it should be.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<String>),
    /// A TOML value that no key takes (a float, a date, …), by the name of its kind.
    Other(&'static str),
}

/// A raw value and where it came from.
#[derive(Clone)]
pub struct Given {
    pub raw: Raw,
    pub origin: Origin,
}

/// Without the value: it may be a secret.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Given from {}", self.origin)
    }
}

/// Why a value doesn't do, and what would.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad {
    pub what: String,
    pub mend: String,
}

impl Bad {
    pub fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: mend.into() }
    }
}

pub type Reading<T> = Result<T, Bad>;

impl Given {
    /// Variables and flags are text whatever they mean; a TOML file has types of its own.
    fn is_typed(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }

    /// The value for an error message. Only for keys that aren't secret.
    pub fn shown(&self) -> String {
        match &self.raw {
            Raw::Text(text) => format!("{text:?}"),
            Raw::Integer(n) => n.to_string(),
            Raw::Boolean(b) => b.to_string(),
            Raw::List(items) => format!("a list of {}", items.len()),
            Raw::Other(kind) => (*kind).to_owned(),
        }
    }

    /// Any text. `takes`: which, for whoever gave something else.
    pub fn text(&self, takes: &str) -> Reading<&str> {
        match &self.raw {
            Raw::Text(text) => Ok(text),
            other => Err(Bad::new(format!("{} is not text in quotes", kind(other)), takes)),
        }
    }

    /// A whole number within `range`.
    pub fn whole(&self, range: RangeInclusive<u64>) -> Reading<u64> {
        let mend = || format!("a whole number from {} to {}", range.start(), range.end());
        let number = match &self.raw {
            Raw::Integer(n) => u64::try_from(*n).ok(),
            Raw::Text(text) if !self.is_typed() => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        match number {
            Some(n) if range.contains(&n) => Ok(n),
            Some(n) => Err(Bad::new(format!("{n} is out of range"), mend())),
            None => Err(Bad::new(format!("{} is not a whole number", self.shown()), mend())),
        }
    }

    /// As [`Self::whole`], for ranges that fit.
    pub fn whole_u32(&self, range: RangeInclusive<u32>) -> Reading<u32> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        self.whole(wide).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    pub fn boolean(&self) -> Reading<bool> {
        match &self.raw {
            Raw::Boolean(b) => Ok(*b),
            Raw::Text(text) if !self.is_typed() && text == "true" => Ok(true),
            Raw::Text(text) if !self.is_typed() && text == "false" => Ok(false),
            _ => Err(Bad::new(format!("{} is not a truth value", self.shown()), "true or false")),
        }
    }

    /// A length of time with its unit, within `range`.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Reading<Duration> {
        let mend = || {
            format!(
                "a length of time from {} to {}{UNITS}",
                humantime::format_duration(*range.start()),
                humantime::format_duration(*range.end())
            )
        };
        let length = match &self.raw {
            Raw::Text(text) => humantime::parse_duration(text.trim()).ok(),
            _ => None,
        };
        match length {
            Some(d) if range.contains(&d) => Ok(d),
            Some(_) => Err(Bad::new(format!("{} is out of range", self.shown()), mend())),
            None => Err(Bad::new(format!("{} is not a length of time", self.shown()), mend())),
        }
    }

    /// A length of time within `range`; `None`: `"forever"`.
    pub fn duration_or_forever(&self, range: RangeInclusive<Duration>) -> Reading<Option<Duration>> {
        match &self.raw {
            Raw::Text(text) if text.trim() == "forever" => Ok(None),
            _ => self
                .duration(range)
                .map(Some)
                .map_err(|bad| Bad { mend: format!("\"forever\", or {}", bad.mend), ..bad }),
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Reading<T> {
        let found = match &self.raw {
            Raw::Text(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let choice: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Bad::new(format!("{} is unknown", self.shown()), format!("one of: {}", choice.join(", ")))
        })
    }

    /// A list of texts; in a variable or flag separated by commas, or as in the file. `takes`: of which, as for [`Self::text`].
    pub fn list(&self, takes: &str) -> Reading<Vec<String>> {
        match &self.raw {
            Raw::List(items) => Ok(items.clone()),
            Raw::Text(text) if !self.is_typed() && text.trim_start().starts_with('[') => {
                let read = toml::from_str::<HashMap<String, Vec<String>>>(&format!("list = {text}"));
                let bad = |_| Bad::new("begins as a list does, and isn't one", takes);
                Ok(read.map_err(bad)?.remove("list").unwrap_or_default())
            }
            Raw::Text(text) if !self.is_typed() => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()),
            other => Err(Bad::new(format!("{} is not a list of texts", kind(other)), takes)),
        }
    }

    /// An address to listen on.
    pub fn socket(&self) -> Reading<SocketAddr> {
        let takes = "an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
        self.text(takes)?.parse().map_err(|_| Bad::new(format!("{} is not an address", self.shown()), takes))
    }

    /// An address on the web to send requests to, and nothing but that. `takes`: which, as for [`Self::text`].
    pub fn web_address(&self, takes: &str) -> Reading<&str> {
        let url = self.text(takes)?;
        if url.contains(['@', '?', '#']) || url.contains(char::is_whitespace) {
            // Not repeated: what stands before an @ is a secret.
            return Err(Bad::new("has a user, a query, a fragment or blanks in it", takes));
        }
        let what = match url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) {
            None => "doesn't begin with https:// or http://",
            Some(rest) if rest.is_empty() || rest.starts_with(['/', ':']) => "has no host",
            Some(_) => return Ok(url),
        };
        Err(Bad::new(format!("{url:?} {what}"), takes))
    }
}

fn kind(raw: &Raw) -> &'static str {
    match raw {
        Raw::Text(_) => "text",
        Raw::Integer(_) => "a whole number",
        Raw::Boolean(_) => "a truth value",
        Raw::List(_) => "a list",
        Raw::Other(kind) => kind,
    }
}

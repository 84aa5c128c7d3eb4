//! An explanation as text, for a person at a terminal.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

use super::Exclusion;
use super::explain::{CandidateSaid, Did, ExcludedSaid, Explanation, Outcome, RuleSaid};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        write!(
            f,
            "campaign {}, agent {}, account {}, brand {}, callee in {}; routing version {}",
            self.campaign_id,
            or_none(self.model_id.as_ref().map(ToString::to_string)),
            or_none(self.account.as_ref().map(ToString::to_string)),
            or_none(self.brand.as_ref().map(ToString::to_string)),
            self.region.map_or("an unknown region".to_owned(), |region| region.to_string()),
            self.routing_version.0,
        )?;
        match &self.calling_rules_version {
            Some(version) => writeln!(f, ", calling rules {version}")?,
            None => writeln!(f)?,
        }
        self.fmt_outcome(f)?;
        self.rules.iter().try_for_each(|rule| rule.fmt(f))
    }
}

impl Explanation {
    fn fmt_outcome(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.outcome)?;
        if let Some(reason) = self.reason {
            write!(f, " {reason}")?;
        }
        if self.outcome == Outcome::Dial {
            write!(f, " from {}", self.from_phone_number.as_deref().unwrap_or("the agent's default number"))?;
        }
        if let Some(rule) = &self.rule {
            write!(f, ", by {rule:?}")?;
        }
        match (self.outcome, self.at) {
            (Outcome::Wait, Some(at)) => write!(f, ", until {}", date(at))?,
            (Outcome::Wait, None) => write!(f, ", until something changes")?,
            _ => {}
        }
        if !self.time_zones.is_empty() {
            write!(f, " (callee in {})", self.time_zones.join(", "))?;
        }
        writeln!(f)
    }
}

impl fmt::Display for RuleSaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(place) => write!(f, "  rule {place} {:?}: ", self.name)?,
            None => write!(f, "  {}: ", self.name)?,
        }
        match &self.did {
            Did::NotMatched { key } => writeln!(f, "doesn't match: {key}")?,
            Did::NotReached => writeln!(f, "not reached")?,
            Did::NoEligibleNumber { otherwise } => writeln!(f, "no eligible number; otherwise {otherwise}")?,
            Did::OfferedNumbers { strategy, sticky, overflow } => {
                let sticky = if *sticky { ", sticky" } else { "" };
                writeln!(f, "{} eligible; {strategy}{sticky}, overflow {overflow}", self.candidates.len())?;
            }
        }
        self.candidates.iter().try_for_each(|candidate| candidate.fmt(f))?;
        self.excluded.iter().try_for_each(|excluded| excluded.fmt(f))
    }
}

impl fmt::Display for CandidateSaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "    {} {}", if self.chosen { '>' } else { ' ' }, self.number)?;
        match (self.free, self.next_at) {
            (true, _) => write!(f, "  free")?,
            (false, Some(at)) => write!(f, "  number_limit until {}", date(at))?,
            (false, None) => write!(f, "  number_limit until a call ends")?,
        }
        write!(f, "  share {:.2}", self.share)?;
        self.windows.iter().try_for_each(|w| write!(f, "  {} {}/{}", w.window, w.used, w.limit))?;
        writeln!(f)
    }
}

impl fmt::Display for ExcludedSaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = self.has.as_deref().unwrap_or("none");
        write!(f, "    x {}  ", self.number)?;
        match self.reason {
            Exclusion::NotAttached => writeln!(f, "isn't attached to the agent"),
            Exclusion::State => writeln!(f, "is {has}"),
            Exclusion::Numbers => writeln!(f, "isn't among the rule's numbers"),
            Exclusion::Brand => writeln!(f, "its brand: {has}"),
            Exclusion::Region => writeln!(f, "its region: {has}"),
            Exclusion::Tags => writeln!(f, "its tags: {has}"),
        }
    }
}

fn date(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

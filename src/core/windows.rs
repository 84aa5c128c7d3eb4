//! Days and hours of the week, by a clock on a wall: a campaign's calling window, or a place's legal hours.

use chrono::{Datelike, NaiveDateTime, Timelike, Weekday};
use serde::{Deserialize, Serialize};

pub(super) const DAY_SECONDS: i64 = 86_400;

/// Days and hours in which one may call: from `from` up to, but not at, `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Monday first; those on which the window opens.
    days: Vec<Weekday>,
    from: LocalTime,
    /// Not later than `from`: on the next day.
    to: LocalTime,
}

/// A time of the day in whole minutes, `00:00` to `24:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalTime {
    minutes: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("must be a time from \"00:00\" to \"24:00\", as HH:MM")]
    Time,
    #[error("can't begin at 24:00; write 00:00 of the next day")]
    FromMidnight,
    #[error("names no day")]
    NoDay,
}

impl LocalTime {
    pub fn parse(text: &str) -> Result<Self, WindowError> {
        let two = |part: &str| -> Option<u16> {
            let well_formed = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            well_formed.then(|| part.parse().ok())?
        };
        let (hours, minutes) = text.split_once(':').ok_or(WindowError::Time)?;
        match (two(hours), two(minutes)) {
            (Some(24), Some(0)) => Ok(Self { minutes: 24 * 60 }),
            (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => Ok(Self { minutes: hours * 60 + minutes }),
            _ => Err(WindowError::Time),
        }
    }

    fn seconds(self) -> i64 {
        i64::from(self.minutes) * 60
    }
}

impl TryFrom<String> for LocalTime {
    type Error = WindowError;
    fn try_from(text: String) -> Result<Self, WindowError> {
        Self::parse(&text)
    }
}

impl From<LocalTime> for String {
    fn from(time: LocalTime) -> String {
        time.to_string()
    }
}

impl std::fmt::Display for LocalTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl Window {
    pub fn new(
        days: impl IntoIterator<Item = Weekday>,
        from: LocalTime,
        to: LocalTime,
    ) -> Result<Self, WindowError> {
        let mut days: Vec<Weekday> = days.into_iter().collect();
        days.sort_by_key(Weekday::num_days_from_monday);
        days.dedup();
        if days.is_empty() {
            return Err(WindowError::NoDay);
        }
        if from.minutes == 24 * 60 {
            return Err(WindowError::FromMidnight);
        }
        Ok(Self { days, from, to })
    }

    pub fn days(&self) -> &[Weekday] {
        &self.days
    }

    pub fn from(&self) -> LocalTime {
        self.from
    }

    pub fn to(&self) -> LocalTime {
        self.to
    }

    /// Whether it is open when the clock shows this.
    pub fn is_open(&self, local: NaiveDateTime) -> bool {
        let (day, second) = (local.weekday(), i64::from(local.num_seconds_from_midnight()));
        let (from, to) = (self.from.seconds(), self.to.seconds());
        let opens_on = |day: Weekday| self.days.contains(&day);
        if from < to {
            opens_on(day) && (from..to).contains(&second)
        } else {
            (opens_on(day) && second >= from) || (opens_on(day.pred()) && second < to)
        }
    }

    /// The seconds of the day at which it opens or closes.
    pub(super) fn boundaries(&self) -> [i64; 2] {
        [self.from.seconds(), self.to.seconds() % DAY_SECONDS]
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn times_are_two_digits_each() {
        for bad in ["", "9:00", "09:0", "24:01", "25:00", "09:60", "0900", "+9:00", "09:00:00"] {
            assert_eq!(LocalTime::parse(bad), Err(WindowError::Time), "{bad}");
        }
        let time = |text| LocalTime::parse(text).unwrap();
        assert_eq!(Window::new([], time("09:00"), time("10:00")), Err(WindowError::NoDay));
        assert_eq!(Window::new([Weekday::Mon], time("24:00"), time("10:00")), Err(WindowError::FromMidnight));
    }
}

//! Holidays as rules: so that a list of them holds for every year.

use std::str::FromStr;

use chrono::{Datelike, Days, Month, NaiveDate, Weekday};
use serde::{Deserialize, Serialize};

/// A day that comes once a year.
///
/// | written | means |
/// |---|---|
/// | `12-25` | that day of that month |
/// | `3rd mon of jan` | the third Monday of January (`1st` to `4th`) |
/// | `last mon of may` | the last one |
/// | `mon before 05-25` | the last Monday before that day |
/// | `easter-2`, `easter+1` | so many days from Easter Sunday of the western churches |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Holiday {
    Date { month: u32, day: u32 },
    Nth { nth: u8, weekday: Weekday, month: Month },
    Last { weekday: Weekday, month: Month },
    Before { weekday: Weekday, month: u32, day: u32 },
    Easter { days: i16 },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no holiday; write 12-25, 3rd mon of jan, last mon of may, mon before 05-25, easter-2 or easter+1"
)]
pub struct HolidayError(String);

impl Holiday {
    /// None: it doesn't come in that year, or the year is beyond what calendars hold.
    pub fn of_year(self, year: i32) -> Option<NaiveDate> {
        match self {
            Self::Date { month, day } => NaiveDate::from_ymd_opt(year, month, day),
            Self::Nth { nth, weekday, month } => {
                NaiveDate::from_weekday_of_month_opt(year, month.number_from_month(), weekday, nth)
            }
            Self::Last { weekday, month } => (4..=5).rev().find_map(|nth| {
                NaiveDate::from_weekday_of_month_opt(year, month.number_from_month(), weekday, nth)
            }),
            Self::Before { weekday, month, day } => {
                let last = NaiveDate::from_ymd_opt(year, month, day)?.pred_opt()?;
                let back = last.weekday().days_since(weekday);
                last.checked_sub_days(Days::new(u64::from(back)))
            }
            Self::Easter { days } => {
                easter(year)?.checked_add_signed(chrono::Duration::days(i64::from(days)))
            }
        }
    }
}

/// Easter Sunday by the Gregorian calendar, as Meeus, Jones and Butcher compute it.
fn easter(year: i32) -> Option<NaiveDate> {
    let (golden, century, of_century) = (year.rem_euclid(19), year.div_euclid(100), year.rem_euclid(100));
    let moon_drift = (century - (century + 8).div_euclid(25) + 1).div_euclid(3);
    let full = (19 * golden + century - century.div_euclid(4) - moon_drift + 15).rem_euclid(30);
    let to_sunday =
        (32 + 2 * century.rem_euclid(4) + 2 * of_century.div_euclid(4) - full - of_century.rem_euclid(4))
            .rem_euclid(7);
    let late = (golden + 11 * full + 22 * to_sunday).div_euclid(451);
    let after_march_22 = u64::try_from(full + to_sunday - 7 * late).ok()?;
    NaiveDate::from_ymd_opt(year, 3, 22)?.checked_add_days(Days::new(after_march_22))
}

/// Of a leap year, so that 02-29 is one.
fn month_and_day(text: &str) -> Option<(u32, u32)> {
    let (month, day) = text.split_once('-')?;
    let date = NaiveDate::from_ymd_opt(2_000, month.parse().ok()?, day.parse().ok()?)?;
    Some((date.month(), date.day()))
}

impl FromStr for Holiday {
    type Err = HolidayError;

    fn from_str(text: &str) -> Result<Self, HolidayError> {
        let wrong = || HolidayError(text.to_owned());
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            [easter] if easter.starts_with("easter") => {
                let days = easter["easter".len()..].parse().map_err(|_| wrong())?;
                Ok(Self::Easter { days })
            }
            [date] => {
                let (month, day) = month_and_day(date).ok_or_else(wrong)?;
                Ok(Self::Date { month, day })
            }
            [weekday, "before", date] => {
                let (month, day) = month_and_day(date).ok_or_else(wrong)?;
                Ok(Self::Before { weekday: weekday.parse().map_err(|_| wrong())?, month, day })
            }
            [nth, weekday, "of", month] => {
                let (weekday, month) =
                    (weekday.parse().map_err(|_| wrong())?, month.parse().map_err(|_| wrong())?);
                match *nth {
                    "1st" => Ok(Self::Nth { nth: 1, weekday, month }),
                    "2nd" => Ok(Self::Nth { nth: 2, weekday, month }),
                    "3rd" => Ok(Self::Nth { nth: 3, weekday, month }),
                    "4th" => Ok(Self::Nth { nth: 4, weekday, month }),
                    "last" => Ok(Self::Last { weekday, month }),
                    _ => Err(wrong()),
                }
            }
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Holiday {
    type Error = HolidayError;
    fn try_from(text: String) -> Result<Self, HolidayError> {
        text.parse()
    }
}

impl From<Holiday> for String {
    fn from(holiday: Holiday) -> String {
        let short = |name: &str| name[..3].to_lowercase();
        match holiday {
            Holiday::Date { month, day } => format!("{month:02}-{day:02}"),
            Holiday::Nth { nth, weekday, month } => {
                let nth = ["1st", "2nd", "3rd", "4th"].get(usize::from(nth) - 1).unwrap_or(&"4th");
                format!("{nth} {} of {}", short(&weekday.to_string()), short(month.name()))
            }
            Holiday::Last { weekday, month } => {
                format!("last {} of {}", short(&weekday.to_string()), short(month.name()))
            }
            Holiday::Before { weekday, month, day } => {
                format!("{} before {month:02}-{day:02}", short(&weekday.to_string()))
            }
            Holiday::Easter { days } => format!("easter{days:+}"),
        }
    }
}

/// On which other days a holiday is kept that falls on a weekend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    #[default]
    Never,
    /// One on a Saturday also on the Friday before it, one on a Sunday also on the Monday after it.
    Nearest,
    /// Also on the next weekday that is no holiday itself.
    Next,
}

/// The holidays of a place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    pub days: Vec<Holiday>,
    #[serde(default)]
    pub observed: Observed,
}

impl Calendar {
    pub fn has(&self, date: NaiveDate) -> bool {
        self.is_one(date)
            || match (self.observed, date.weekday()) {
                (_, Weekday::Sat | Weekday::Sun) | (Observed::Never, _) => false,
                (Observed::Nearest, Weekday::Fri) => date.succ_opt().is_some_and(|next| self.is_one(next)),
                (Observed::Nearest, Weekday::Mon) => date.pred_opt().is_some_and(|last| self.is_one(last)),
                (Observed::Nearest, _) => false,
                (Observed::Next, _) => self.is_kept_for_a_weekend(date),
            }
    }

    fn is_one(&self, date: NaiveDate) -> bool {
        self.days.iter().any(|holiday| holiday.of_year(date.year()) == Some(date))
    }

    /// Whether this weekday is where one of the last weekend's holidays has gone: each takes the next that is free.
    fn is_kept_for_a_weekend(&self, date: NaiveDate) -> bool {
        let since_monday = date.weekday().num_days_from_monday();
        let Some(saturday) = date.checked_sub_days(Days::new(u64::from(since_monday) + 2)) else {
            return false;
        };
        let homeless = saturday.iter_days().take(2).filter(|day| self.is_one(*day)).count();
        let before = saturday.iter_days().skip(2).take(since_monday as usize);
        before.filter(|day| !self.is_one(*day)).count() < homeless
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn on(holiday: &str, year: i32) -> String {
        holiday.parse::<Holiday>().unwrap().of_year(year).unwrap().to_string()
    }

    #[test]
    fn holidays_come_by_their_rules() {
        assert_eq!(on("12-25", 2026), "2026-12-25");
        assert_eq!(on("3rd mon of jan", 2026), "2026-01-19");
        assert_eq!(on("last mon of may", 2026), "2026-05-25");
        assert_eq!(on("last mon of aug", 2027), "2027-08-30");
        assert_eq!(on("4th thu of nov", 2026), "2026-11-26");
        assert_eq!(on("mon before 05-25", 2026), "2026-05-18");
        assert_eq!(on("mon before 05-25", 2027), "2027-05-24");
        assert_eq!(on("tue before 11-09", 2026), "2026-11-03");
        assert_eq!("02-29".parse::<Holiday>().unwrap().of_year(2026), None);
    }

    /// Dates as the astronomical tables of the United States Naval Observatory have them.
    #[test]
    fn easter_is_where_the_tables_have_it() {
        for (year, date) in [
            (2000, "2000-04-23"),
            (2008, "2008-03-23"),
            (2011, "2011-04-24"),
            (2024, "2024-03-31"),
            (2025, "2025-04-20"),
            (2026, "2026-04-05"),
            (2027, "2027-03-28"),
            (2038, "2038-04-25"),
        ] {
            assert_eq!(on("easter+0", year), date);
        }
        assert_eq!(on("easter-2", 2026), "2026-04-03");
        assert_eq!(on("easter+39", 2026), "2026-05-14");
    }

    #[test]
    fn what_is_no_holiday_is_refused_and_what_is_one_is_written_as_it_was_read() {
        for bad in [
            "",
            "25-12",
            "02-30",
            "5th mon of jan",
            "3rd monday of",
            "3rd mon jan",
            "easter",
            "easter+x",
            "x",
        ] {
            assert!(bad.parse::<Holiday>().is_err(), "{bad}");
        }
        for good in ["12-25", "mon before 05-25", "1st mon of sep", "last fri of may", "easter-2", "easter+1"]
        {
            assert_eq!(String::from(good.parse::<Holiday>().unwrap()), good);
        }
    }

    fn calendar(days: &[&str], observed: Observed) -> Calendar {
        Calendar { days: days.iter().map(|day| day.parse().unwrap()).collect(), observed }
    }

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn a_holiday_on_a_weekend_is_kept_on_the_nearest_weekday_where_that_is_the_custom() {
        // A Saturday, a Sunday, and a Saturday of the next year.
        for (kept, day) in
            [("2026-07-03", "2026-07-04"), ("2027-07-05", "2027-07-04"), ("2021-12-31", "2022-01-01")]
        {
            let nearest = calendar(&["07-04", "01-01"], Observed::Nearest);
            assert!(nearest.has(date(kept)) && nearest.has(date(day)), "{kept}");
            let never = calendar(&["07-04", "01-01"], Observed::Never);
            assert!(!never.has(date(kept)) && never.has(date(day)), "{kept}");
        }
        assert!(!calendar(&["07-04"], Observed::Nearest).has(date("2026-07-06")));
    }

    /// As bank holidays of England and Wales were in those years.
    #[test]
    fn or_on_the_next_weekday_that_is_free() {
        let christmas = calendar(&["01-01", "12-25", "12-26"], Observed::Next);
        for (kept, free) in [
            // Saturday and Sunday.
            ("2021-12-27 2021-12-28", "2021-12-24 2021-12-29"),
            // Sunday; the Monday is Boxing Day.
            ("2022-12-26 2022-12-27", "2022-12-23 2022-12-28"),
            // Friday and Saturday.
            ("2020-12-25 2020-12-28", "2020-12-24 2020-12-29"),
            // New Year's Day was a Saturday.
            ("2022-01-03", "2022-01-04 2021-12-31"),
        ] {
            assert!(kept.split(' ').all(|day| christmas.has(date(day))), "{kept}");
            assert!(!free.split(' ').any(|day| christmas.has(date(day))), "{free}");
        }
    }
}

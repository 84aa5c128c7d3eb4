//! When a callee may be called, in the callee's local time: inside the campaign's window, and inside the legal hours of
//! the callee's place.
//!
//! A moment is judged by what the clock on the callee's wall shows then. That settles the days on which clocks
//! change: an hour that is skipped opens and closes nothing, and of an hour that comes twice both are judged alike.

mod holidays;
mod law;

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Duration, NaiveDateTime, Offset, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use super::phone::{E164, zones_of};
use super::windows::{DAY_SECONDS, Window};

pub use holidays::{Calendar, Holiday, HolidayError, Observed};
pub use law::{Attempts, CallingRule, Confidence, Law, LawError, PlaceRule, RuleError};

/// How far ahead the next opening is sought: a week repeats, clocks may change within it, and holidays follow each other.
pub const LOOK_AHEAD: Duration = Duration::days(15);

/// Whether a call may start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoursVerdict {
    /// At least until then.
    Open { until: DateTime<Utc> },
    /// None: not within two weeks; the callee's zones have no common hour in it.
    Closed { opens_at: Option<DateTime<Utc>> },
}

/// The zones a callee may be in: the publisher's word, else by the number. Empty: `timezone_unknown`.
pub fn zones_of_callee(lead_timezone: Option<Tz>, phone: &E164) -> Cow<'static, [Tz]> {
    match lead_timezone {
        Some(zone) => Cow::Owned(vec![zone]),
        None => Cow::Borrowed(zones_of(phone)),
    }
}

/// Everything that says when callees of one campaign in one place may be called: all of it must be open.
#[derive(Debug, Clone, Default)]
pub struct Hours {
    /// The legal hours of the place.
    pub rules: Vec<Arc<PlaceRule>>,
    /// The campaign's own.
    pub window: Option<Window>,
}

impl Hours {
    /// Always open: no zone need be known.
    pub fn are_unlimited(&self) -> bool {
        self.rules.is_empty() && self.window.is_none()
    }

    /// Open only where every zone is: a number that may be in several must be inside in all of them. No zone at all is
    /// closed for good: the caller says `timezone_unknown` before it asks.
    pub fn judge(&self, zones: &[Tz], now: DateTime<Utc>) -> HoursVerdict {
        if zones.is_empty() {
            return HoursVerdict::Closed { opens_at: None };
        }
        let limit = now + LOOK_AHEAD;
        if zones.iter().all(|&zone| self.is_open(zone, now)) {
            let closes = zones.iter().filter_map(|&zone| self.next_change(zone, now, limit)).min();
            return HoursVerdict::Open { until: closes.unwrap_or(limit) };
        }
        HoursVerdict::Closed { opens_at: self.next_common_opening(zones, now, limit) }
    }

    fn next_common_opening(
        &self,
        zones: &[Tz],
        now: DateTime<Utc>,
        limit: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let mut moment = now;
        // Each round moves on to where the last of the closed zones opens; it ends by the limit.
        loop {
            let closed = zones.iter().filter(|&&zone| !self.is_open(zone, moment));
            let opens: Vec<_> = closed.map(|&zone| self.next_change(zone, moment, limit)).collect();
            match opens.into_iter().collect::<Option<Vec<_>>>()?.into_iter().max() {
                Some(opens) => moment = opens,
                None => return Some(moment),
            }
        }
    }

    fn is_open(&self, zone: Tz, moment: DateTime<Utc>) -> bool {
        let local = moment.with_timezone(&zone).naive_local();
        self.window.as_ref().is_none_or(|window| window.is_open(local))
            && self.rules.iter().all(|rule| rule.is_open(local))
    }

    /// The first moment after `start` at which the zone goes from open to closed or back.
    fn next_change(&self, zone: Tz, start: DateTime<Utc>, limit: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let open = self.is_open(zone, start);
        let mut moment = start;
        while moment < limit {
            moment = self.next_boundary(zone, moment);
            if self.is_open(zone, moment) != open {
                return Some(moment);
            }
        }
        None
    }

    /// The next moment at which the wall clock shows a time at which something opens or closes, or jumps.
    fn next_boundary(&self, zone: Tz, moment: DateTime<Utc>) -> DateTime<Utc> {
        let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        let local: NaiveDateTime = moment.with_timezone(&zone).naive_local();
        let second = i64::from(local.num_seconds_from_midnight());
        let of_rules = self.rules.iter().flat_map(|rule| rule.boundaries());
        let boundaries = self.window.iter().flat_map(Window::boundaries).chain(of_rules);
        let ahead = boundaries.map(|boundary| (boundary - second - 1).rem_euclid(DAY_SECONDS) + 1);
        let whole = moment - Duration::nanoseconds(i64::from(local.nanosecond()));
        let next = whole + Duration::seconds(ahead.min().unwrap_or(DAY_SECONDS));
        if offset(next) == offset(moment) {
            return next;
        }
        // The clock jumps on the way (less than a day: once): by halves to the second at which it does.
        let (mut before, mut after) = (whole, next);
        while after - before > Duration::seconds(1) {
            let middle = before + Duration::seconds((after - before).num_seconds() / 2);
            if offset(middle) == offset(moment) { before = middle } else { after = middle }
        }
        after
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use chrono::Weekday;
    use chrono_tz::America::{Adak, Los_Angeles, New_York, Phoenix};
    use chrono_tz::Asia::Tokyo;
    use chrono_tz::Europe::London;
    use proptest::prelude::*;

    use super::*;
    use crate::core::windows::LocalTime;

    const WORKDAYS: [Weekday; 5] = [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri];
    const ALL_DAYS: [Weekday; 7] =
        [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];

    fn window(days: &[Weekday], from: &str, to: &str) -> Hours {
        let time = |text| LocalTime::parse(text).unwrap();
        let window = Window::new(days.iter().copied(), time(from), time(to)).unwrap();
        Hours { rules: Vec::new(), window: Some(window) }
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn open_until(text: &str) -> HoursVerdict {
        HoursVerdict::Open { until: utc(text) }
    }

    fn opens_at(text: &str) -> HoursVerdict {
        HoursVerdict::Closed { opens_at: Some(utc(text)) }
    }

    #[test]
    fn hours_are_the_callees_own() {
        let hours = window(&WORKDAYS, "09:00", "20:00");
        // Friday 2026-11-20, standard time.
        assert_eq!(hours.judge(&[New_York], utc("2026-11-20T14:00:00Z")), open_until("2026-11-21T01:00:00Z"));
        assert_eq!(hours.judge(&[New_York], utc("2026-11-20T13:59:59.5Z")), opens_at("2026-11-20T14:00:00Z"));
        assert_eq!(hours.judge(&[New_York], utc("2026-11-21T01:00:00Z")), opens_at("2026-11-23T14:00:00Z"));
        // Summer time: an hour earlier by UTC.
        assert_eq!(hours.judge(&[New_York], utc("2026-07-10T13:00:00Z")), open_until("2026-07-11T00:00:00Z"));
    }

    #[test]
    fn past_midnight_the_days_name_the_start() {
        let night = window(&[Weekday::Fri], "22:00", "02:00");
        assert_eq!(night.judge(&[London], utc("2026-11-20T21:00:00Z")), opens_at("2026-11-20T22:00:00Z"));
        assert_eq!(night.judge(&[London], utc("2026-11-21T01:59:59Z")), open_until("2026-11-21T02:00:00Z"));
        assert_eq!(night.judge(&[London], utc("2026-11-21T02:00:00Z")), opens_at("2026-11-27T22:00:00Z"));
        let whole = window(&[Weekday::Fri], "06:00", "06:00");
        assert_eq!(whole.judge(&[London], utc("2026-11-20T06:00:00Z")), open_until("2026-11-21T06:00:00Z"));
    }

    #[test]
    fn the_whole_day_ends_at_24() {
        let friday = window(&[Weekday::Fri], "00:00", "24:00");
        assert_eq!(friday.judge(&[London], utc("2026-11-20T00:00:00Z")), open_until("2026-11-21T00:00:00Z"));
        let ever = window(&ALL_DAYS, "00:00", "24:00");
        let now = utc("2026-11-20T00:00:00Z");
        assert_eq!(ever.judge(&[London], now), HoursVerdict::Open { until: now + LOOK_AHEAD });
    }

    #[test]
    fn an_hour_that_is_skipped_opens_with_the_clock() {
        // 2026-03-08 in New York: 02:00 becomes 03:00 at 07:00Z.
        let early = window(&ALL_DAYS, "02:30", "05:00");
        assert_eq!(early.judge(&[New_York], utc("2026-03-08T06:30:00Z")), opens_at("2026-03-08T07:00:00Z"));
        let skipped = window(&[Weekday::Sun], "02:10", "02:50");
        assert_eq!(skipped.judge(&[New_York], utc("2026-03-08T06:30:00Z")), opens_at("2026-03-15T06:10:00Z"));
        // Open through the jump: it closes by the new clock.
        let through = window(&ALL_DAYS, "01:00", "04:00");
        assert_eq!(
            through.judge(&[New_York], utc("2026-03-08T06:30:00Z")),
            open_until("2026-03-08T08:00:00Z")
        );
    }

    #[test]
    fn an_hour_that_comes_twice_is_judged_by_the_clock_both_times() {
        // 2026-11-01 in New York: 02:00 becomes 01:00 at 06:00Z.
        let early = window(&ALL_DAYS, "01:30", "05:00");
        assert_eq!(early.judge(&[New_York], utc("2026-11-01T05:00:00Z")), opens_at("2026-11-01T05:30:00Z"));
        assert_eq!(early.judge(&[New_York], utc("2026-11-01T05:45:00Z")), open_until("2026-11-01T06:00:00Z"));
        assert_eq!(early.judge(&[New_York], utc("2026-11-01T06:00:00Z")), opens_at("2026-11-01T06:30:00Z"));
        assert_eq!(early.judge(&[New_York], utc("2026-11-01T06:30:00Z")), open_until("2026-11-01T10:00:00Z"));
    }

    #[test]
    fn a_number_in_several_zones_must_be_inside_in_all() {
        let hours = window(&WORKDAYS, "09:00", "17:00");
        let both = [New_York, Los_Angeles];
        assert_eq!(hours.judge(&both, utc("2026-11-20T15:00:00Z")), opens_at("2026-11-20T17:00:00Z"));
        assert_eq!(hours.judge(&both, utc("2026-11-20T17:00:00Z")), open_until("2026-11-20T22:00:00Z"));
        let never =
            window(&ALL_DAYS, "09:00", "10:00").judge(&[New_York, Tokyo], utc("2026-11-20T15:00:00Z"));
        assert_eq!(never, HoursVerdict::Closed { opens_at: None });
        assert_eq!(hours.judge(&[], utc("2026-11-20T15:00:00Z")), HoursVerdict::Closed { opens_at: None });
    }

    proptest! {
        /// Against a minute-by-minute reading of the wall clock.
        #[test]
        fn the_next_change_is_the_first(
            days in proptest::sample::subsequence(ALL_DAYS.to_vec(), 1..=7),
            from in 0u16..1440, to in 0u16..=1440,
            zone in proptest::sample::select(vec![New_York, London, Tokyo, Phoenix, Adak, chrono_tz::Australia::Lord_Howe]),
            minute in 0i64..(366 * 1440),
        ) {
            let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
            let window = window(&days, &time(from), &time(to));
            let now = utc("2026-01-01T00:00:00Z") + Duration::minutes(minute);
            let open = window.is_open(zone, now);
            let slow = (1..=8 * 1440).map(|m| now + Duration::minutes(m)).find(|&at| window.is_open(zone, at) != open);
            let expected = match (open, slow) {
                (true, Some(until)) => HoursVerdict::Open { until },
                (true, None) => HoursVerdict::Open { until: now + LOOK_AHEAD },
                (false, opens_at) => HoursVerdict::Closed { opens_at },
            };
            prop_assert_eq!(window.judge(&[zone], now), expected);
        }
    }
}

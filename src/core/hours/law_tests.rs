use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use super::*;
use crate::core::hours::{Hours, HoursVerdict, zones_of_callee};
use crate::core::phone::{E164, place_of};

fn built_in() -> Law {
    Law::built_in().unwrap()
}

/// Whether a callee there may be called when the clock shows this.
fn open(law: &Law, place: &str, local: &str) -> bool {
    let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M").unwrap();
    let region = (place != ELSEWHERE).then(|| place.parse().unwrap());
    law.of_place(region, None).iter().all(|rule| rule.is_open(local))
}

#[test]
fn the_rules_that_ship_can_be_read_and_name_their_sources() {
    let law = built_in();
    assert!(law.rules().count() > 45);
    for rule in law.rules() {
        assert!(rule.source.len() > 10, "{rule:?}");
        let sure = rule.confidence == Confidence::High;
        assert!(!sure || rule.url.is_some(), "{rule:?}");
        assert!(rule.url.is_some() || rule.note.is_some() || rule.place.is_none(), "{rule:?}");
    }
    assert!(!law.elsewhere.is_empty(), "no place is without hours");
}

/// Open hours of each day, Monday 2026-11-16 to Sunday: of weekdays, of Saturday, of Sunday. `-`: closed; two pairs:
/// with a break.
const HOURS: &[(&str, &str, &str, &str)] = &[
    ("*", "09:00 20:00", "10:00 18:00", "-"),
    ("US", "08:00 21:00", "08:00 21:00", "08:00 21:00"),
    ("US-NY", "08:00 21:00", "08:00 21:00", "08:00 21:00"),
    ("US-AL", "08:00 20:00", "08:00 20:00", "-"),
    ("US-CA", "09:00 21:00", "09:00 21:00", "09:00 21:00"),
    ("US-CT", "09:00 20:00", "09:00 20:00", "09:00 20:00"),
    ("US-FL", "08:00 20:00", "08:00 20:00", "08:00 20:00"),
    ("US-IL", "09:00 21:00", "09:00 21:00", "09:00 21:00"),
    ("US-IN", "09:00 20:00", "09:00 20:00", "09:00 20:00"),
    ("US-KY", "10:00 21:00", "10:00 21:00", "10:00 21:00"),
    ("US-LA", "08:00 20:00", "08:00 20:00", "-"),
    ("US-MA", "08:00 20:00", "08:00 20:00", "08:00 20:00"),
    ("US-MD", "08:00 20:00", "08:00 20:00", "08:00 20:00"),
    ("US-ME", "09:00 17:00", "-", "-"),
    ("US-MI", "09:00 21:00", "09:00 21:00", "09:00 21:00"),
    ("US-MN", "09:00 21:00", "09:00 21:00", "09:00 21:00"),
    ("US-MS", "08:00 20:00", "08:00 20:00", "-"),
    ("US-NE", "08:00 21:00", "08:00 21:00", "13:00 21:00"),
    ("US-NM", "09:00 21:00", "09:00 21:00", "09:00 21:00"),
    ("US-NV", "09:00 20:00", "09:00 20:00", "09:00 20:00"),
    ("US-OK", "09:00 20:00", "09:00 20:00", "09:00 20:00"),
    ("US-OR", "08:00 20:00", "08:00 20:00", "08:00 20:00"),
    ("US-PA", "09:00 19:00", "09:00 19:00", "-"),
    ("US-RI", "09:00 18:00", "10:00 17:00", "-"),
    ("US-SD", "09:00 21:00", "-", "-"),
    ("US-TX", "09:00 21:00", "09:00 21:00", "12:00 21:00"),
    ("US-UT", "08:00 21:00", "08:00 21:00", "-"),
    ("US-WA", "08:00 20:00", "08:00 20:00", "08:00 20:00"),
    ("US-WY", "08:00 20:00", "08:00 20:00", "08:00 20:00"),
    ("AS", "08:00 21:00", "08:00 21:00", "08:00 21:00"),
    ("GU", "08:00 21:00", "08:00 21:00", "08:00 21:00"),
    ("MP", "08:00 21:00", "08:00 21:00", "08:00 21:00"),
    ("PR", "09:00 21:00", "09:00 21:00", "09:00 21:00"),
    ("VI", "08:00 21:00", "08:00 21:00", "08:00 21:00"),
    ("CA", "09:00 21:30", "10:00 18:00", "10:00 18:00"),
    ("CA-BC", "09:00 21:30", "10:00 18:00", "10:00 18:00"),
    ("CA-ON", "09:00 21:30", "10:00 18:00", "10:00 18:00"),
    ("AU", "09:00 20:00", "09:00 17:00", "-"),
    ("FR", "10:00 13:00 14:00 20:00", "-", "-"),
    ("GB", "08:00 21:00", "09:00 21:00", "-"),
    ("IT", "09:00 20:00", "10:00 19:00", "-"),
    ("NL", "09:00 22:00", "10:00 16:00", "-"),
    ("PT", "09:00 22:00", "-", "-"),
    ("ES", "09:00 21:00", "-", "-"),
    ("NO", "09:00 21:00", "-", "-"),
    ("ZA", "08:00 20:00", "09:00 13:00", "-"),
    ("DE", "09:00 20:00", "10:00 18:00", "-"),
];

fn minute_of(time: &str) -> usize {
    let (hours, minutes) = time.split_once(':').unwrap();
    hours.parse::<usize>().unwrap() * 60 + minutes.parse::<usize>().unwrap()
}

/// Whether a day's hours, as the tables have them, hold a minute of it.
fn holds(hours: &str, minute: usize) -> bool {
    let times: Vec<&str> = hours.split(' ').filter(|time| *time != "-").collect();
    times.chunks(2).any(|span| (minute_of(span[0])..minute_of(span[1])).contains(&minute))
}

fn line_of(place: &str) -> [&'static str; 3] {
    let line = HOURS.iter().find(|(of, ..)| *of == place);
    assert!(line.is_some(), "{place} has no line");
    let (_, weekdays, saturday, sunday) = line.unwrap();
    [weekdays, saturday, sunday]
}

/// Which of the three hours of a line are a day's.
fn kind_of_day(day: Weekday) -> usize {
    day.num_days_from_monday().saturating_sub(4) as usize
}

/// Minute by minute.
fn assert_day(law: &Law, place: &str, date: &str, hours: &str) {
    for minute in 0..24 * 60 {
        let local = format!("{date} {:02}:{:02}", minute / 60, minute % 60);
        assert_eq!(open(law, place, &local), holds(hours, minute), "{place} {local}");
    }
}

#[test]
fn each_place_has_the_hours_that_its_law_names() {
    let law = built_in();
    for (place, ..) in HOURS {
        for date in 16..=22 {
            let day = NaiveDate::from_ymd_opt(2026, 11, date).unwrap();
            assert_day(&law, place, &day.to_string(), line_of(place)[kind_of_day(day.weekday())]);
        }
    }
}

/// The days of 2027 that are closed in a place, beside the weekdays that always are.
const CLOSED_2027: &[(&str, &str)] = &[
    (
        "US-AL",
        "01-01 01-18 02-09 02-15 04-26 05-31 06-07 06-18 06-19 07-05 09-06 10-11 11-11 11-25 12-24 12-25 12-31",
    ),
    (
        "US-LA",
        "01-01 01-18 02-09 02-15 03-26 05-31 06-18 06-19 07-05 09-06 10-11 11-11 11-25 11-26 12-24 12-25 12-31",
    ),
    (
        "US-PA",
        "01-01 01-18 02-15 03-26 05-31 06-14 06-18 06-19 07-05 09-06 10-11 11-02 11-11 11-25 12-24 12-25 12-31",
    ),
    (
        "US-RI",
        "01-01 01-18 02-15 05-31 06-18 06-19 07-05 08-09 09-06 10-11 11-02 11-11 11-25 12-24 12-25 12-31",
    ),
    (
        "US-UT",
        "01-01 01-18 02-15 05-31 06-18 06-19 07-05 07-23 07-24 09-06 10-11 11-11 11-25 12-24 12-25 12-31",
    ),
    ("AU", "01-01 01-26 03-26 03-29 04-26 12-25 12-27 12-28"),
    ("CA-BC", "01-01 02-15 03-26 05-24 07-01 08-02 09-06 09-30 10-11 11-11 12-25 12-27"),
    ("ES", "01-01 01-06 03-26 10-12 11-01 12-06 12-08"),
    ("FR", "01-01 03-29 05-06 05-17 07-14 11-01 11-11"),
    ("GB", "01-01 01-02 01-04 03-17 03-26 03-29 05-03 05-31 07-12 08-02 08-30 11-30 12-25 12-27 12-28"),
    ("IT", "01-01 01-06 03-29 05-01 06-02 10-04 11-01 12-08 12-25"),
    ("NL", "01-01 03-26 03-29 04-27 05-04 05-05 05-06 05-17 12-25"),
    ("NO", "01-01 03-25 03-26 03-29 05-06 05-17"),
    ("PT", "01-01 02-09 03-26 05-27 06-10 10-05 11-01 12-01 12-08"),
    ("ZA", "01-01 03-22 03-26 03-29 04-27 05-01 05-03 06-16 08-09 09-24 12-16 12-25 12-27 12-28"),
];

#[test]
fn holidays_are_closed_all_day_and_no_other_day_is() {
    let law = built_in();
    for (place, closed) in CLOSED_2027 {
        let closed: Vec<&str> = closed.split(' ').collect();
        let new_year = NaiveDate::from_ymd_opt(2027, 1, 1).unwrap();
        for date in new_year.iter_days().take(365) {
            let opens = (0..48).any(|half_hour| {
                open(&law, place, &format!("{date} {:02}:{:02}", half_hour / 2, half_hour % 2 * 30))
            });
            let listed = closed.contains(&&date.to_string()[5..]);
            let is_open = line_of(place)[kind_of_day(date.weekday())] != "-" && !listed;
            assert_eq!(opens, is_open, "{place} {date}");
        }
    }
}

/// Those of 2027 that a closed weekend hides, in a year in which they are weekdays.
#[test]
fn holidays_that_fell_on_weekends_are_closed_too() {
    let law = built_in();
    for (place, days) in [
        ("ES", "05-01 08-15 12-25"),
        ("FR", "05-01 05-08 08-15 12-25"),
        ("IT", "04-25 08-15 12-26"),
        ("NL", "12-26"),
        ("NO", "05-01 12-25 12-26"),
        ("PT", "04-25 05-01 08-15 12-25"),
    ] {
        for day in days.split(' ') {
            assert_day(&law, place, &format!("2030-{day}"), "-");
        }
    }
}

/// Days that the law neither closes nor leaves as they are, and one beside them.
const DAYS_APART: &[(&str, &str, &str)] = &[
    ("US-NE", "2026-04-24", "13:00 21:00"),
    // Independence Day is a Saturday.
    ("US-NE", "2026-07-03", "13:00 21:00"),
    ("US-NE", "2026-07-04", "13:00 21:00"),
    ("US-NE", "2026-11-25", "08:00 21:00"),
    ("US-NE", "2026-11-26", "13:00 21:00"),
    ("US-NE", "2026-11-27", "13:00 21:00"),
    ("US-NE", "2029-11-23", "13:00 21:00"),
    ("US-NE", "2029-11-30", "08:00 21:00"),
    ("US-NE", "2026-12-25", "13:00 21:00"),
    ("IT", "2026-04-24", "10:00 19:00"),
    ("IT", "2026-04-30", "10:00 19:00"),
    ("IT", "2026-06-01", "10:00 19:00"),
    ("IT", "2026-08-14", "10:00 19:00"),
    ("IT", "2026-10-30", "09:00 20:00"),
    ("IT", "2026-12-07", "10:00 19:00"),
    ("IT", "2026-12-23", "09:00 20:00"),
    ("IT", "2026-12-24", "10:00 19:00"),
    ("IT", "2026-12-31", "10:00 19:00"),
    ("IT", "2027-01-05", "10:00 19:00"),
    ("IT", "2029-10-03", "10:00 19:00"),
    ("IT", "2029-10-31", "10:00 19:00"),
    ("NL", "2026-12-04", "09:00 22:00"),
    ("NL", "2026-12-05", "10:00 16:00"),
    ("NL", "2026-12-24", "09:00 18:30"),
    ("NL", "2028-12-05", "09:00 18:30"),
    // Places whose law knows no holidays.
    ("CA", "2026-12-25", "09:00 21:30"),
    ("US-TX", "2026-12-25", "09:00 21:00"),
];

#[test]
fn days_with_hours_of_their_own_have_them() {
    let law = built_in();
    for (place, date, hours) in DAYS_APART {
        assert_day(&law, place, date, hours);
    }
}

/// When a rule was not yet felt, and when it was.
const EFFECTIVE: &[(&str, &str, &str)] = &[
    ("AU", "2017-03-28 08:30", "2017-03-29 08:30"),
    ("FR", "2023-02-28 09:30", "2023-03-01 09:30"),
    ("IT", "2024-09-27 09:30", "2024-09-28 09:30"),
    ("IT", "2024-08-14 19:30", "2024-12-24 19:30"),
    ("NO", "2009-05-29 08:30", "2009-06-01 08:30"),
    ("US-CT", "2023-09-30 20:30", "2023-10-01 20:30"),
    ("US-FL", "2021-06-30 20:30", "2021-07-01 20:30"),
    ("US-MD", "2023-12-31 20:30", "2024-01-01 20:30"),
    ("US-OK", "2022-10-31 20:30", "2022-11-01 20:30"),
    ("US-OR", "2025-12-31 20:30", "2026-01-01 20:30"),
    // Its first text is felt on holidays alone: Thanksgiving before it, Christmas after.
    ("US-PA", "2019-11-28 12:00", "2019-12-25 12:00"),
    // A Sunday, and the next one.
    ("US-PA", "2026-10-11 12:00", "2026-10-18 12:00"),
    ("US-WA", "2022-06-08 20:30", "2022-06-09 20:30"),
];

#[test]
fn a_rule_holds_from_its_first_day() {
    let law = built_in();
    for (place, before, after) in EFFECTIVE {
        assert!(open(&law, place, before), "{place} {before}");
        assert!(!open(&law, place, after), "{place} {after}");
    }
}

/// Calls in so many hours.
const CAPS: &[(&str, u32, u32)] = &[
    ("CA-BC", 1, 720),
    ("FR", 4, 720),
    ("US-FL", 3, 24),
    ("US-MD", 3, 24),
    ("US-ME", 1, 8),
    ("US-OK", 3, 24),
    ("US-OR", 3, 24),
];

#[test]
fn caps_are_told() {
    let law = built_in();
    let caps = |place: &str| -> Vec<Attempts> {
        law.of_place(Some(place.parse().unwrap()), None).iter().filter_map(|rule| rule.attempts).collect()
    };
    for (place, calls, hours) in CAPS {
        assert_eq!(caps(place), [Attempts { calls: *calls, hours: *hours }], "{place}");
    }
    assert_eq!(caps("US-NY"), []);
}

/// The tables above forget nothing that a rule says.
#[test]
fn each_place_that_has_rules_is_tested() {
    for rule in built_in().rules() {
        let place = rule.place.map_or(ELSEWHERE.to_owned(), |place| place.to_string());
        assert!(HOURS.iter().any(|(of, ..)| *of == place), "hours of {place}");
        if rule.holidays.is_some() {
            assert!(CLOSED_2027.iter().any(|(of, _)| *of == place), "holidays of {place}");
        }
        if rule.only_on.is_some() {
            assert!(DAYS_APART.iter().any(|(of, ..)| *of == place), "days of {place}");
        }
        if rule.attempts.is_some() {
            assert!(CAPS.iter().any(|(of, ..)| *of == place), "cap of {place}");
        }
        assert_eq!(rule.effective.1, None, "{place}: that a rule ends isn't tested");
        if let Some(from) = rule.effective.0 {
            let first = from.to_string();
            let between = |(of, before, after): &(&str, &str, &str)| {
                *of == place && before[..10] < *first.as_str() && first.as_str() <= &after[..10]
            };
            assert!(EFFECTIVE.iter().any(between), "{place} from {from}");
        }
    }
}

/// Places of North America without hours of their own, and the line of the table above that is theirs.
const AS_IN: &[(&str, &str)] = &[
    (
        "US",
        "US-AK US-AR US-AZ US-CO US-DC US-DE US-GA US-HI US-IA US-ID US-KS US-MO US-MT US-NC US-ND US-NH US-NJ US-OH \
         US-SC US-TN US-VA US-VT US-WI US-WV",
    ),
    ("CA", "CA-AB CA-MB CA-NB CA-NL CA-NS CA-NT CA-NU CA-PE CA-QC CA-SK CA-YT"),
    ("*", "AG AI BB BM BS DM DO GD JM KN KY LC MS SX TC TT VC VG"),
];

/// Codes of which some numbers, or all, are of no place: there is no clock to judge by, and nobody is rung.
const OF_NO_PLACE: &[(&str, &str)] = &[
    (
        "personal numbers, which follow their owner",
        "500 521 522 523 524 525 526 527 528 529 532 533 544 566 577 588",
    ),
    ("personal numbers of Canada", "622 633"),
    ("numbers of Canada for machines and networks", "600"),
    ("toll-free", "800 833 844 855 866 877 888"),
    ("premium rate", "900"),
    ("beside fixed lines of the Dominican Republic some that are toll-free", "809 829 849"),
    (
        "beside fixed lines of an island its mobile numbers, which libphonenumber ties to no place",
        "242 246 264 268 284 345 441 473 649 658 664 684 721 758 767 784 868 869 876",
    ),
];

/// What the law allows there: on weekdays, Saturday, Sunday.
fn lawful(place: &str) -> [&'static str; 3] {
    let named = AS_IN.iter().find(|(_, places)| places.split(' ').any(|other| other == place));
    line_of(named.map_or(place, |(line, _)| line))
}

/// Through a week, each half hour and the second before it: open in each zone while the clock on its wall shows lawful
/// hours, and for a number that may be in several while all do.
fn assert_lawful_week(from: &str, hours: &Hours, zones: &[Tz], lawful: [&str; 3], told: &str) {
    let from: DateTime<Utc> = from.parse().unwrap();
    for half_hour in 0..7 * 48 {
        let sharp = from + TimeDelta::minutes(30 * half_hour);
        for now in [sharp - TimeDelta::seconds(1), sharp] {
            let may = |zone: &Tz| {
                let local = now.with_timezone(zone);
                let minute = (local.hour() * 60 + local.minute()) as usize;
                holds(lawful[kind_of_day(local.weekday())], minute)
            };
            for zone in zones {
                assert_eq!(hours.is_open(*zone, now), may(zone), "{told}: at {now} in {zone}");
            }
            let open = matches!(hours.judge(zones, now), HoursVerdict::Open { .. });
            assert_eq!(open, zones.iter().all(may), "{told}: at {now}");
        }
    }
}

/// Every area code of the North American plan, with each place and set of time zones that its numbers have: what
/// libphonenumber says is in tests/data, what the law allows in the tables above. The weeks are those around the
/// changes of clocks, and have no holiday.
#[test]
fn every_area_code_of_north_america_has_its_place_its_zones_and_its_hours() {
    let law = built_in();
    let (mut codes, mut of_no_place, mut judged) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let lines = include_str!("../../../tests/data/nanp_codes.csv").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let [code, country, state, zones, number]: [&str; 5] =
            line.split(',').collect::<Vec<_>>().try_into().unwrap();
        codes.insert(code);
        let phone = E164::from_canonical(number).unwrap();
        let (place, found) = (place_of(&phone), zones_of_callee(None, &phone));
        let region = if state.is_empty() { country } else { state };
        assert_eq!(place.country.map(|it| it.to_string()).as_deref(), Some(country), "{line}");
        assert_eq!(place.region.map(|it| it.to_string()).as_deref(), Some(region), "{line}");
        assert_eq!(found.iter().map(|zone| zone.name()).collect::<Vec<_>>().join(" "), zones, "{line}");
        let hours = Hours { rules: law.of_place(place.region, place.country), window: None };
        if zones.is_empty() {
            of_no_place.insert(code);
            let now = "2027-03-10T18:00:00Z".parse().unwrap();
            assert_eq!(hours.judge(&found, now), HoursVerdict::Closed { opens_at: None }, "{line}");
        } else if judged.insert((region, zones)) {
            for week in ["2027-03-10T12:00:00Z", "2027-11-03T12:00:00Z"] {
                assert_lawful_week(week, &hours, &found, lawful(region), line);
            }
        }
    }
    assert_eq!((codes.len(), judged.len()), (469, 118));
    let named: BTreeSet<&str> = OF_NO_PLACE.iter().flat_map(|(_, codes)| codes.split(' ')).collect();
    assert_eq!(of_no_place, named);
    // No number is valid under any other code.
    for code in (200..1_000).map(|code| code.to_string()).filter(|code| !codes.contains(code.as_str())) {
        let phone = E164::from_canonical(&format!("+1{code}2345678")).unwrap();
        assert!(zones_of_callee(None, &phone).is_empty(), "{code}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_place() {
    let rule = |more: &str| {
        let head = "version = \"1\"\n[[rule]]\nplace = \"US-CA\"\nsource = \"a law\"\nconfidence = \"high\"";
        format!("{head}\n{more}\n")
    };
    let one_hour = "attempts = { calls = 1, hours = 1 }";
    for (more, told) in [
        (String::new(), "rule 1 (US-CA): says neither hours nor holidays nor attempts"),
        ("holidays = \"XX\"".to_owned(), "rule 1 (US-CA): holidays: there is no list \"XX\""),
        (format!("only_on = \"XX\"\n{one_hour}"), "rule 1 (US-CA): only_on: there is no list \"XX\""),
        (one_hour.replace("= 1,", "= 0,"), "rule 1 (US-CA): attempts must be at least 1"),
        (
            "hours = [{ days = [\"mon\"], from = \"9\", to = \"10:00\" }]".to_owned(),
            "rule 1 (US-CA): hours: must be a time",
        ),
        (
            format!("effective_from = \"2026-02-01\"\neffective_until = \"2026-01-01\"\n{one_hour}"),
            "ends before it begins",
        ),
        ("colour = 1".to_owned(), "unknown field `colour`"),
    ] {
        let error = Law::from_toml(&rule(&more)).unwrap_err().to_string();
        assert!(error.contains(told), "{more}: {error}");
    }
    let nowhere = rule(one_hour).replace("US-CA", "Atlantis");
    assert!(Law::from_toml(&nowhere).unwrap_err().to_string().contains("Atlantis"));
}

use std::collections::BTreeSet;
use std::ops::Range;

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

/// Open hours of each day, Monday 2026-11-16 to Sunday: of weekdays, of Saturday, of Sunday. `-`: closed.
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
    ("GB", "08:00 21:00", "09:00 21:00", "-"),
    ("ES", "09:00 21:00", "-", "-"),
    ("NO", "09:00 21:00", "-", "-"),
    ("ZA", "08:00 20:00", "09:00 13:00", "-"),
    ("DE", "09:00 20:00", "10:00 18:00", "-"),
];

fn minute_of(time: &str) -> usize {
    let (hours, minutes) = time.split_once(':').unwrap();
    hours.parse::<usize>().unwrap() * 60 + minutes.parse::<usize>().unwrap()
}

/// The minutes of a day that are open.
fn minutes_of(hours: &str) -> Range<usize> {
    hours.split_once(' ').map_or(0..0, |(from, to)| minute_of(from)..minute_of(to))
}

#[test]
fn each_place_has_the_hours_that_its_law_names() {
    let law = built_in();
    for (place, weekdays, saturday, sunday) in HOURS {
        let week = [weekdays, weekdays, weekdays, weekdays, weekdays, saturday, sunday];
        for (day, hours) in (16..).zip(week) {
            for minute in 0..24 * 60 {
                let local = format!("2026-11-{day} {:02}:{:02}", minute / 60, minute % 60);
                assert_eq!(open(&law, place, &local), minutes_of(hours).contains(&minute), "{place} {local}");
            }
        }
    }
}

/// The table above forgets none of the rules that ship, but those that have tests of their own.
#[test]
fn each_place_that_has_rules_is_tested() {
    let tested: Vec<&str> = HOURS.iter().map(|(place, ..)| *place).collect();
    for place in built_in().by_place.keys() {
        let place = place.as_str();
        let apart = ["FR", "IT", "NL", "PT"];
        assert!(tested.contains(&place) || apart.contains(&place), "{place}");
    }
}

#[test]
fn france_has_a_break_at_noon() {
    let law = built_in();
    let times = ["09:59", "10:00", "12:59", "13:00", "13:59", "14:00", "19:59", "20:00"];
    let open = times.map(|time| open(&law, "FR", &format!("2026-11-16 {time}")));
    assert_eq!(open, [false, true, true, false, false, true, true, false]);
}

#[test]
fn holidays_are_closed_where_the_law_says_so() {
    let law = built_in();
    for (place, day, is_open) in [
        ("US-TX", "2026-12-25", true),
        ("US-UT", "2026-12-25", false),
        ("US-UT", "2026-07-24", false),
        // Independence Day is a Saturday.
        ("US-UT", "2026-07-03", false),
        ("US-RI", "2026-08-10", false),
        ("US-LA", "2026-02-17", false),
        ("US-LA", "2026-02-18", true),
        ("US-AL", "2026-04-27", false),
        ("US-PA", "2026-04-03", false),
        ("FR", "2026-05-14", false),
        ("IT", "2026-06-02", false),
        ("NL", "2026-04-27", false),
        ("GB", "2026-12-28", false),
        ("GB", "2026-12-29", true),
        ("CA", "2026-12-25", true),
        ("CA-BC", "2026-05-18", false),
    ] {
        assert_eq!(open(&law, place, &format!("{day} 12:00")), is_open, "{place} {day}");
    }
}

#[test]
fn a_rule_holds_from_its_first_day() {
    let law = built_in();
    assert!(open(&law, "US-OR", "2025-12-31 20:30"));
    assert!(!open(&law, "US-OR", "2026-01-01 20:30"));
    assert!(open(&law, "US-PA", "2026-10-11 12:00"), "a Sunday");
    assert!(!open(&law, "US-PA", "2026-10-18 12:00"), "the next one");
}

#[test]
fn caps_are_told() {
    let law = built_in();
    let caps = |place: &str| -> Vec<Attempts> {
        law.of_place(Some(place.parse().unwrap()), None).iter().filter_map(|rule| rule.attempts).collect()
    };
    for place in ["US-FL", "US-OK", "US-MD", "US-OR"] {
        assert_eq!(caps(place), [Attempts { calls: 3, hours: 24 }], "{place}");
    }
    assert_eq!(caps("FR"), [Attempts { calls: 4, hours: 720 }]);
    assert_eq!(caps("US-NY"), []);
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
fn lawful(place: &str) -> [Range<usize>; 3] {
    let named = AS_IN.iter().find(|(_, places)| places.split(' ').any(|other| other == place));
    let place = named.map_or(place, |(line, _)| line);
    let line = HOURS.iter().find(|(of, ..)| *of == place);
    assert!(line.is_some(), "{place} has no line");
    let (_, weekdays, saturday, sunday) = line.unwrap();
    [weekdays, saturday, sunday].map(|hours| minutes_of(hours))
}

/// Through a week, each half hour and the second before it: open in each zone while the clock on its wall shows lawful
/// hours, and for a number that may be in several while all do.
fn assert_lawful_week(from: &str, hours: &Hours, zones: &[Tz], lawful: &[Range<usize>; 3], told: &str) {
    let from: DateTime<Utc> = from.parse().unwrap();
    for half_hour in 0..7 * 48 {
        let sharp = from + TimeDelta::minutes(30 * half_hour);
        for now in [sharp - TimeDelta::seconds(1), sharp] {
            let may = |zone: &Tz| {
                let local = now.with_timezone(zone);
                let day = local.weekday().num_days_from_monday().saturating_sub(4) as usize;
                lawful[day].contains(&((local.hour() * 60 + local.minute()) as usize))
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
/// libphonenumber says is in tests/data, what the law allows in the tables above. The weeks are those around the changes
/// of clocks, and have no holiday.
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
                assert_lawful_week(week, &hours, &found, &lawful(region), line);
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

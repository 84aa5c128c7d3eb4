use chrono::{DateTime, TimeDelta, Timelike, Utc};

use super::*;
use crate::core::hours::{Hours, HoursVerdict, zones_of_callee};
use crate::core::phone::{E164, place_of};

fn built_in() -> Law {
    Law::built_in().unwrap()
}

/// Whether a callee there may be called when the clock shows this.
fn open(law: &Law, place: &str, local: &str) -> bool {
    let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M").unwrap();
    law.of_place(Some(place.parse().unwrap()), None).iter().all(|rule| rule.is_open(local))
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
    ("PR", "09:00 21:00", "09:00 21:00", "09:00 21:00"),
    ("VI", "08:00 21:00", "08:00 21:00", "08:00 21:00"),
    ("CA", "09:00 21:30", "10:00 18:00", "10:00 18:00"),
    ("CA-ON", "09:00 21:30", "10:00 18:00", "10:00 18:00"),
    ("AU", "09:00 20:00", "09:00 17:00", "-"),
    ("GB", "08:00 21:00", "09:00 21:00", "-"),
    ("ES", "09:00 21:00", "-", "-"),
    ("NO", "09:00 21:00", "-", "-"),
    ("ZA", "08:00 20:00", "09:00 13:00", "-"),
    ("DE", "09:00 20:00", "10:00 18:00", "-"),
];

fn minutes_of(time: &str) -> usize {
    let (hours, minutes) = time.split_once(':').unwrap();
    hours.parse::<usize>().unwrap() * 60 + minutes.parse::<usize>().unwrap()
}

#[test]
fn each_place_has_the_hours_that_its_law_names() {
    let law = built_in();
    for (place, weekdays, saturday, sunday) in HOURS {
        let week = [weekdays, weekdays, weekdays, weekdays, weekdays, saturday, sunday];
        for (day, hours) in (16..).zip(week) {
            let (from, to) =
                hours.split_once(' ').map_or((0, 0), |(from, to)| (minutes_of(from), minutes_of(to)));
            for minute in 0..24 * 60 {
                let local = format!("2026-11-{day} {:02}:{:02}", minute / 60, minute % 60);
                assert_eq!(open(&law, place, &local), (from..to).contains(&minute), "{place} {local}");
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
        let apart = ["US", "FR", "IT", "NL", "PT", "CA-BC", "AS", "GU", "MP"];
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

/// Every area code of the North American plan of which the data know where it is: through the two weeks around each change
/// of clocks nobody is rung outside 8 to 21:30 in any zone the number may be in, and everybody some time.
#[test]
fn nobody_in_north_america_is_rung_at_night() {
    let law = built_in();
    let mut seen = 0;
    for area in 201..1_000 {
        let Some(phone) = E164::from_canonical(&format!("+1{area}5550123")) else { continue };
        let (place, zones) = (place_of(&phone), zones_of_callee(None, &phone));
        if place.country.is_none() || zones.is_empty() {
            continue;
        }
        seen += 1;
        let hours = Hours { rules: law.of_place(place.region, place.country), window: None };
        for week in ["2026-03-05T00:00:00Z", "2026-10-29T00:00:00Z"] {
            let from: DateTime<Utc> = week.parse().unwrap();
            let mut open = 0;
            for half_hour in 0..7 * 48 {
                let now = from + TimeDelta::minutes(30 * half_hour);
                if let HoursVerdict::Open { .. } = hours.judge(&zones, now) {
                    open += 1;
                    for zone in zones.iter() {
                        let local = now.with_timezone(zone).time();
                        let minute = local.hour() * 60 + local.minute();
                        assert!(
                            (8 * 60..21 * 60 + 30).contains(&minute),
                            "{phone:?} at {now}, {local} there"
                        );
                    }
                }
            }
            assert!(open > 5 * 6, "{area} is open for {open} half hours a week");
        }
    }
    assert!(seen > 350, "{seen}");
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

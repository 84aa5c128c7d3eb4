//! Held against libphonenumber's own answers, which `data/generate.py` wrote to tests/data.

use std::collections::BTreeSet;

use super::*;

const PREFIXES: &str = include_str!("../../tests/data/phone_prefixes.csv");
const UNREACHABLE: &str = include_str!("../../tests/data/unreachable_prefixes.csv");

/// A line of the oracle: what libphonenumber says of a number.
struct Row<'a> {
    kind: &'a str,
    how: &'a str,
    text: &'a str,
    possible: bool,
    valid: bool,
    country: &'a str,
    found_kind: &'a str,
    e164: &'a str,
    area_digits: usize,
    state: &'a str,
    zones: &'a str,
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let parse = |line| {
        let fields: Vec<&str> = str::split(line, ',').collect();
        Row {
            kind: fields[1],
            how: fields[2],
            text: fields[3],
            possible: fields[4] == "possible",
            valid: fields[5] == "valid",
            country: fields[6],
            found_kind: fields[7],
            e164: fields[8],
            area_digits: fields[9].parse().unwrap_or(0),
            state: fields[10],
            zones: fields[11],
        }
    };
    table.lines().filter(|l| !l.starts_with('#') && !l.contains("unparsable")).map(parse).collect()
}

/// Where we mean to differ, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("+13101234", "seven digits, valid within the country only: it can't be dialed from elsewhere"),
    ("+1 310-1234", "the same"),
    ("+4980012345678900", "sixteen digits: E.164 ends at fifteen"),
];

/// What we say differently of the number, if anything.
fn disagreements(row: &Row) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |what: &str, ours: String, theirs: &str| {
        if ours != theirs {
            wrong.push(format!("{} {} {} {what}: {ours:?}, not {theirs:?}", row.kind, row.how, row.text));
        }
    };
    let strict = parse(row.text, PhoneCheck::Valid);
    let lenient = parse(row.text, PhoneCheck::Possible);
    expect("valid", strict.is_ok().to_string(), &row.valid.to_string());
    expect("possible", lenient.is_ok().to_string(), &row.possible.to_string());
    if let Ok(phone) = strict {
        let text = |region: Option<Region>| region.map(|r| r.to_string()).unwrap_or_default();
        let region = if row.state.is_empty() { row.country } else { row.state };
        // Ours stands with its calling code of 1 to 3 digits.
        let area = phone.place.area.map(|area| area.to_string()).unwrap_or_default();
        let area_fits = match row.area_digits {
            0 => area.is_empty(),
            digits => row.e164.starts_with(&area) && (1..=3).contains(&(area.len() - 1 - digits)),
        };
        let costly = ["PREMIUM_RATE", "SHARED_COST", "PERSONAL_NUMBER", "PAGER", "VOICEMAIL"];
        let zones: Vec<_> = zones_of(&phone.number).iter().map(|zone| zone.name()).collect();
        expect("E.164", phone.number.as_str().into(), row.e164);
        expect("country", phone.place.country.map(|c| c.to_string()).unwrap_or_default(), row.country);
        expect("region", text(phone.place.region), region);
        expect("area", area_fits.to_string(), "true");
        expect(
            "costly",
            (phone.kind == Kind::Costly).to_string(),
            &costly.contains(&row.found_kind).to_string(),
        );
        expect("zones", zones.join(" "), row.zones);
        expect("place", format!("{:?}", place_of(&phone.number)), &format!("{:?}", phone.place));
    }
    wrong
}

fn assert_agreed(table: &str, count: usize) {
    let rows = rows(table);
    assert_eq!(rows.len(), count);
    let excepted = |row: &Row| EXCEPTIONS.iter().any(|(text, _)| *text == row.text);
    let wrong: Vec<_> = rows.iter().filter(|row| !excepted(row)).flat_map(disagreements).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn example_numbers_of_every_country_and_type_are_judged_as_libphonenumber_does() {
    assert_agreed(include_str!("../../tests/data/phone_examples.csv"), 4_767);
}

#[test]
fn a_number_under_every_prefix_is_placed_as_libphonenumber_does() {
    assert_agreed(PREFIXES, 4_279);
}

/// Each row of libphonenumber's tables has a number above of which it speaks, no longer one; or it is listed with the
/// reason why there is none.
#[test]
fn no_row_of_the_tables_is_left_untested() {
    let lines = |table: &'static str| table.lines().filter(|line| !line.starts_with('#'));
    for (kind, table, spoken_of, unreachable) in [
        ("ZONES", include_str!("data/zones.csv"), 3_131, 109),
        ("STATE", include_str!("data/nanp_regions.csv"), 537, 0),
    ] {
        let mut all: BTreeSet<&str> = lines(table).filter_map(|line| Some(line.split_once(',')?.0)).collect();
        // Known to libphonenumber as every zone from Saipan to Bermuda, to us as unknown.
        all.extend((kind == "ZONES").then_some("1"));
        let numbers: Vec<Row> = rows(PREFIXES).into_iter().filter(|row| row.kind == kind).collect();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for row in &numbers {
            let digits = &row.e164[1..];
            let longest = (1..=digits.len()).rev().map(|n| &digits[..n]).find(|prefix| all.contains(prefix));
            // Of a number that is of no place the row of its calling code speaks.
            let of_no_place = !row.found_kind.starts_with("FIXED_LINE") && row.how.len() <= 3;
            assert!(longest == Some(row.how) || of_no_place, "{kind} {} {}: {longest:?}", row.how, row.text);
            assert!(digits.starts_with(row.how) && row.valid && seen.insert(row.how), "{kind} {}", row.how);
        }
        assert_eq!(numbers.len(), spoken_of, "{kind}");
        let apart: Vec<Vec<&str>> = lines(UNREACHABLE).map(|line| line.splitn(3, ',').collect()).collect();
        let apart = apart.iter().filter(|fields| fields[0] == kind && !fields[2].is_empty());
        let apart: BTreeSet<&str> = apart.map(|fields| fields[1]).collect();
        assert_eq!(apart.len(), unreachable, "{kind}");
        assert!(seen.is_disjoint(&apart), "{kind}");
        seen.extend(apart);
        assert_eq!(seen, all, "{kind}");
    }
}

#[test]
fn only_an_international_number_that_can_be_dialed_as_it_stands_is_taken() {
    let reason = |text| parse(text, PhoneCheck::Valid).map(|phone| phone.number.as_str().to_owned());
    assert_eq!(reason(" +1 (415) 555-2671 ").as_deref(), Ok("+14155552671"));
    assert_eq!(reason("+44 (0)20 7946 0958").as_deref(), Ok("+442079460958"));
    for (text, error) in [
        ("", PhoneError::Empty),
        ("  ", PhoneError::Empty),
        ("+", PhoneError::TooShort),
        ("4155552671", PhoneError::National),
        ("(415) 555-2671", PhoneError::National),
        ("011 44 20 7946 0958", PhoneError::National),
        ("tel:+14155552671", PhoneError::National),
        ("+1 415 555 2671 ext. 5", PhoneError::Extension),
        ("+14155552671x5", PhoneError::Extension),
        ("+14155552671;ext=5", PhoneError::Extension),
        ("+14155552671,,5", PhoneError::Extension),
        ("+1 800 FLOWERS", PhoneError::Character),
        ("+1+4155552671", PhoneError::Character),
        ("++14155552671", PhoneError::Character),
        ("+١٤١٥٥٥٥٢٦٧١", PhoneError::Character),
        ("+999 555 0123 45", PhoneError::CallingCode),
        ("+0 415 555 2671", PhoneError::CallingCode),
        ("+1 415 555 267", PhoneError::TooShort),
        ("+1 415 555 26711", PhoneError::TooLong),
        ("+1 555 2671", PhoneError::TooShort),
        ("+1 000 555 2671", PhoneError::NotInUse),
    ] {
        assert_eq!(reason(text), Err(error), "{text}");
    }
}

#[test]
fn a_number_that_costs_more_than_a_call_has_no_destination() {
    let destination = |text| parse(text, PhoneCheck::Possible).ok().and_then(|phone| phone.destination());
    assert_eq!(destination("+14155552671").map(|c| c.to_string()).as_deref(), Some("US"));
    assert_eq!(destination("+16135550123").map(|c| c.to_string()).as_deref(), Some("CA"));
    assert_eq!(destination("+18765230123").map(|c| c.to_string()).as_deref(), Some("JM"));
    for costly in [
        "+19002345678", // premium rate
        "+449012345678",
        "+448431234567", // shared cost
        "+447012345678", // personal, wherever they are
        "+447640123456", // pager
        "+15002345678",  // personal
        "+870773111632", // satellite
        "+881612345678",
        "+882345678901",
        "+80012345678", // belongs to no country
    ] {
        assert_eq!(destination(costly), None, "{costly}");
    }
}

#[test]
fn only_canonical_text_passes() {
    assert!(E164::from_canonical("+14155550123").is_some());
    for bad in ["14155550123", "+", "+1", "+0155", "+1415 5550123", "+1234567890123456"] {
        assert!(E164::from_canonical(bad).is_none(), "{bad}");
    }
}

#[test]
fn debug_hides_all_but_two_digits() {
    let number = E164::from_canonical("+14155550123").unwrap();
    assert_eq!(format!("{number:?}"), "+*********23");
}

#[test]
fn a_trunk_prefix_that_is_written_twice_makes_no_number() {
    assert_eq!(parse("+49009608860", PhoneCheck::Possible), Err(PhoneError::NotInUse));
    // Where the zero is part of the number it stays.
    assert_eq!(parse("+39 06 1234567", PhoneCheck::Possible).unwrap().number.as_str(), "+39061234567");
    assert_eq!(parse("+44 (0)20 7946 0958", PhoneCheck::Possible).unwrap().number.as_str(), "+442079460958");
}

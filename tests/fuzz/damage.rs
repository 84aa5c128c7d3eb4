//! Good inputs, damaged: fields dropped, doubled, given odd values; pieces of the text cut out, repeated, replaced.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// Values that a field doesn't expect, as JSON text.
const ODD_VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "-0.0",
    "1e308",
    "5e-324",
    "0.1",
    "123456.789e3",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999999999999999",
    "1e999",
    "\"\"",
    "\" \"",
    "\"\\u0000\"",
    "\"\\ud83d\"",
    "\"\\ude00\\ud83d\"",
    "\"\\ud83d\\ude00\"",
    "\"+1 (415) 555-0123\"",
    "\"14155550123\"",
    "\"2026-11-27T23:59:60.999999999-23:59\"",
    "\"0000-01-01T00:00:00+23:59\"",
    "\"call-1\"",
    "\"\u{202e}\u{feff}\u{10ffff}\"",
    "[]",
    "{}",
    "[[[[{}]]]]",
    "{\"key\":\"a\",\"value\":\"b\"}",
    "{\"a\":1,\"a\":2}",
];

/// Pieces that mean something to the one or the other reader.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\xc3",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"=",
    b"#",
    b"\n",
    b"\r",
    b"'''",
    b"\"\"\"",
    b"[[",
    b"]]",
    b".",
    b"+14155550123",
    b"1e999",
    b"0x",
    b"nan",
    b"-",
    b"inf",
    b"1979-05-27",
    b"99999999999999999999",
    b"\xe2\x80\xae",
    b"key",
    b"[a.b]\n",
    b"a.b.c = 1\n",
];

/// What is done to a text.
#[derive(Debug, Clone)]
enum Blow {
    Cut(Index, usize),
    Repeat(Index, usize, usize),
    Insert(Index, Index),
    Flip(Index, u8),
}

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        (any::<Index>(), 1..60usize).prop_map(|(at, length)| Blow::Cut(at, length)),
        (any::<Index>(), 1..40usize, 1..30usize)
            .prop_map(|(at, length, times)| Blow::Repeat(at, length, times)),
        (any::<Index>(), any::<Index>()).prop_map(|(at, piece)| Blow::Insert(at, piece)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, mask)| Blow::Flip(at, mask)),
    ]
}

/// The text after up to four blows.
pub fn damaged(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(blow(), 0..=4).prop_map(|blows| after(text.as_bytes().to_vec(), &blows))
}

fn after(mut bytes: Vec<u8>, blows: &[Blow]) -> Vec<u8> {
    for blow in blows {
        let length = bytes.len();
        let place = |at: &Index| at.index(length + 1);
        match blow {
            Blow::Cut(at, cut) => drop(bytes.drain(place(at)..(place(at) + cut).min(length))),
            Blow::Repeat(at, piece, times) => {
                let piece = bytes[place(at)..(place(at) + piece).min(length)].repeat(*times);
                bytes.splice(place(at)..place(at), piece);
            }
            Blow::Insert(at, piece) => {
                let piece = PIECES[piece.index(PIECES.len())];
                bytes.splice(place(at)..place(at), piece.iter().copied());
            }
            Blow::Flip(at, mask) => {
                if let Some(byte) = bytes.get_mut(place(at)) {
                    *byte ^= mask;
                }
            }
        }
    }
    bytes
}

/// What is done to a value somewhere in a JSON document.
#[derive(Debug, Clone, Copy)]
enum Change {
    Drop,
    Double,
    Odd(Index),
    Bury(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Drop),
        Just(Change::Double),
        any::<Index>().prop_map(Change::Odd),
        (1..40usize).prop_map(Change::Bury),
    ]
}

/// The document with up to three changes of values, and perhaps blows to its text.
pub fn damaged_json(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), change()), 0..=3);
    let blows = prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(blow(), 1..=2)];
    (changes, blows).prop_map(move |(changes, blows)| {
        let document: Value = serde_json::from_str(text).unwrap();
        let places = count(&document);
        let changes: Vec<(usize, Change)> =
            changes.iter().map(|(at, change)| (at.index(places), *change)).collect();
        let mut written = String::new();
        write(&document, &changes, &mut 0, &mut written);
        after(written.into_bytes(), &blows)
    })
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Object(map) => map.values().map(count).sum::<usize>(),
        Value::Array(list) => list.iter().map(count).sum(),
        _ => 0,
    }
}

/// Writes a value, changed where a change is for its place; by hand, as a key may come twice.
fn write(value: &Value, changes: &[(usize, Change)], place: &mut usize, to: &mut String) {
    let here = *place;
    *place += 1;
    match changes.iter().find(|(at, _)| *at == here).map(|(_, change)| change) {
        Some(Change::Odd(which)) => {
            *place += count(value) - 1;
            to.push_str(ODD_VALUES[which.index(ODD_VALUES.len())]);
        }
        Some(Change::Bury(depth)) => {
            *place += count(value) - 1;
            to.push_str(&format!("{}{value}{}", "[".repeat(*depth), "]".repeat(*depth)));
        }
        _ => write_inside(value, changes, place, to),
    }
}

fn write_inside(value: &Value, changes: &[(usize, Change)], place: &mut usize, to: &mut String) {
    let (entries, brackets): (Vec<(String, &Value)>, _) = match value {
        Value::Object(map) => {
            (map.iter().map(|(k, v)| (format!("{}:", Value::from(k.as_str())), v)).collect(), "{}")
        }
        Value::Array(list) => (list.iter().map(|v| (String::new(), v)).collect(), "[]"),
        plain => return to.push_str(&plain.to_string()),
    };
    let mut parts = Vec::new();
    for (name, entry) in entries {
        let change = changes.iter().find(|(at, _)| *at == *place).map(|(_, change)| *change);
        let mut part = name;
        write(entry, changes, place, &mut part);
        match change {
            Some(Change::Drop) => {}
            Some(Change::Double) => parts.extend([part.clone(), part]),
            _ => parts.push(part),
        }
    }
    to.push_str(&brackets[..1]);
    to.push_str(&parts.join(","));
    to.push_str(&brackets[1..]);
}

//! Which room may import which, and which library belongs to one room: ARCHITECTURE.md says why, this holds it.
//!
//! Read from the source text, comments and string literals left out. A name in a macro counts like any other.
#![expect(clippy::unwrap_used, reason = "a source tree that can't be read is a failed test")]

use std::path::{Path, PathBuf};

/// Room → the rooms it may name. A room that isn't listed here is refused, so a new one has to be thought about.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("clock", &[]),
    ("failpoint", &[]),
    ("engine", &["core", "clock"]),
    ("config", &["core"]),
    ("telemetry", &["core", "clock", "config"]),
    ("broker", &["core", "clock", "config", "engine", "failpoint", "telemetry"]),
    ("store", &["core", "clock", "config", "engine", "failpoint", "telemetry"]),
    ("synthflow", &["core", "clock", "config", "engine", "failpoint", "telemetry"]),
    ("local", &["clock"]),
    ("http", &["core", "clock", "config", "engine", "telemetry", "broker", "store", "synthflow"]),
    (
        "cli",
        &["core", "clock", "config", "engine", "telemetry", "broker", "store", "synthflow", "http", "local"],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Library → the only rooms that may name it.
const BELONGS_TO: &[(&str, &[&str])] =
    &[("lapin", &["broker"]), ("sqlx", &["store"]), ("reqwest", &["synthflow"])];

/// Room → libraries it must not name.
const WITHOUT: &[(&str, &[&str])] = &[("core", &["tokio", "axum", "rand"]), ("engine", &["axum"])];

#[test]
fn every_room_keeps_to_its_imports() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 10, "the sources are found");
    let breaches: Vec<String> = files
        .iter()
        .flat_map(|file| breaches(file.strip_prefix(&src).unwrap(), &std::fs::read_to_string(file).unwrap()))
        .collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What the file at `path` (below src) names although it must not, one line each.
fn breaches(path: &Path, source: &str) -> Vec<String> {
    let parts: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let room = parts[0].as_str();
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: room {room} is not in MAY_IMPORT", path.display())];
    };
    let tokens = tokens(source);
    let depth = parts.len() - usize::from(parts.last().is_some_and(|last| last == "mod"));
    let mut found = Vec::new();
    for (line, other) in rooms_named(&tokens, depth) {
        if other != room && !allowed.contains(&other) && MAY_IMPORT.iter().any(|(name, _)| *name == other) {
            found.push(format!("src/{}:{line}: {room} must not import {other}", path.display()));
        }
    }
    let foreign =
        BELONGS_TO.iter().filter(|(_, owners)| !owners.contains(&room)).map(|(library, _)| *library);
    let without =
        WITHOUT.iter().filter(|(name, _)| *name == room).flat_map(|(_, libraries)| *libraries).copied();
    let banned: Vec<&str> = foreign.chain(without).collect();
    for (at, (line, token)) in tokens.iter().enumerate() {
        if banned.contains(&token.as_str()) && names_a_library(&tokens, at) {
            found.push(format!("src/{}:{line}: {room} must not name {token}", path.display()));
        }
    }
    found
}

/// The token begins a path or stands in an attribute or `use`; a field or a module of ours may bear the same name.
fn names_a_library(tokens: &[(usize, String)], at: usize) -> bool {
    let near = |offset: isize| {
        at.checked_add_signed(offset).and_then(|at| tokens.get(at)).map_or("", |(_, token)| token.as_str())
    };
    let begins = near(-1) != "::" || near(-2) != "crate" && near(-2) != "self" && near(-2) != "super";
    begins && (near(1) == "::" || ["use", "crate"].contains(&near(-1)))
}

/// Rooms named by `crate::room`, `crate::{room, …}`, `outdial::room` and as many `super`s as lead to the root.
fn rooms_named(tokens: &[(usize, String)], depth: usize) -> Vec<(usize, &str)> {
    let token = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let mut rooms = Vec::new();
    for at in 0..tokens.len() {
        let supers =
            (0..).take_while(|n| token(at + 2 * n) == "super" && token(at + 2 * n + 1) == "::").count();
        let after = match token(at) {
            "crate" | "outdial" if token(at + 1) == "::" => at + 2,
            "super" if supers == depth && (at == 0 || token(at - 1) != "::") => at + 2 * supers,
            _ => continue,
        };
        if token(after) != "{" {
            rooms.extend(tokens.get(after).map(|(line, room)| (*line, room.as_str())));
            continue;
        }
        let mut nesting = 0;
        for (at, (line, room)) in tokens.iter().enumerate().skip(after) {
            match room.as_str() {
                "{" => nesting += 1,
                "}" => nesting -= 1,
                name if nesting == 1 && ["{", ","].contains(&token(at - 1)) => rooms.push((*line, name)),
                _ => {}
            }
            if nesting == 0 {
                break;
            }
        }
    }
    rooms
}

/// Words and marks with their lines; comments, strings and character literals left out.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let text: Vec<char> = source.chars().collect();
    let peek = |at: usize| text.get(at).copied().unwrap_or('\0');
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < text.len() {
        let start = at;
        match (peek(at), peek(at + 1)) {
            ('/', '/') => at += text[at..].iter().take_while(|c| **c != '\n').count(),
            ('/', '*') => at = end_of_comment(&text, at),
            ('r', '"' | '#') if raw_string_end(&text, at).is_some() => {
                at = raw_string_end(&text, at).unwrap()
            }
            ('"', _) => at = end_of_literal(&text, at, '"'),
            ('\'', '\\') => at = end_of_literal(&text, at, '\''),
            ('\'', _) if peek(at + 2) == '\'' => at += 3,
            (':', ':') => {
                at += 2;
                tokens.push((line, "::".to_owned()));
            }
            (c, _) if c.is_alphanumeric() || c == '_' => {
                at += text[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                tokens.push((line, text[start..at].iter().collect()));
            }
            (c, _) => {
                at += 1;
                if !c.is_whitespace() {
                    tokens.push((line, c.to_string()));
                }
            }
        }
        line += text[start..at.min(text.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_comment(text: &[char], start: usize) -> usize {
    let (mut nesting, mut at) = (0, start);
    while at < text.len() {
        match text[at..] {
            ['/', '*', ..] => (nesting, at) = (nesting + 1, at + 2),
            ['*', '/', ..] => (nesting, at) = (nesting - 1, at + 2),
            _ => at += 1,
        }
        if nesting == 0 {
            break;
        }
    }
    at
}

fn end_of_literal(text: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of `r"…"` or `r#"…"#` at `start`, if one begins there.
fn raw_string_end(text: &[char], start: usize) -> Option<usize> {
    let hashes = text[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: &usize| {
        text[*at] == '"' && text[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (open + 1..text.len()).find(closes).map(|at| at + 1 + hashes)
}

#[test]
fn a_breach_is_seen_and_named() {
    let see = |path: &str, source: &str| breaches(Path::new(path), source);
    assert_eq!(
        see("core/pick.rs", "//! text\nuse chrono::Utc;\nuse crate::store::Pool;\n"),
        ["src/core/pick.rs:3: core must not import store"]
    );
    assert_eq!(see("core/deep/er.rs", "fn f() { super::super::super::engine::g() }").len(), 1);
    assert_eq!(see("engine/mod.rs", "use crate::{clock, core::{job, ids}, cli::Context, store};").len(), 2);
    assert_eq!(see("engine/intake.rs", "use super::super::broker::Session;").len(), 1);
    assert_eq!(
        see("http/mod.rs", "async fn f() { let p: sqlx::PgPool = g(); }"),
        ["src/http/mod.rs:1: http must not name sqlx"]
    );
    assert_eq!(see("cli/check.rs", "use reqwest::Client; use ::lapin::Channel;").len(), 2);
    assert_eq!(see("core/job.rs", "#[tokio::test] async fn f() { rand::random::<u8>(); }").len(), 2);
    assert_eq!(see("broker/mod.rs", "use crate::cli::Context;").len(), 1);
    assert_eq!(see("cellar/mod.rs", "").len(), 1, "an unknown room");
}

#[test]
fn what_is_allowed_is_no_breach() {
    let see = |path: &str, source: &str| breaches(Path::new(path), source);
    assert_eq!(see("core/pick.rs", "// sqlx::query\nuse super::job; use crate::core::ids;"), [""; 0]);
    assert_eq!(
        see(
            "core/a.rs",
            r##"/* tokio::x /* y */ */ const A: &str = "sqlx::q \" crate::store"; const B: &str = r#"lapin::"#;"##
        ),
        [""; 0]
    );
    assert_eq!(
        see("core/b.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // crate::store"),
        [""; 0]
    );
    assert_eq!(see("broker/mod.rs", "use lapin::Channel; use crate::engine::ports::Door;"), [""; 0]);
    assert_eq!(see("store/mod.rs", "use sqlx::PgPool; mod tests { use super::*; }"), [""; 0]);
    assert_eq!(see("config/mod.rs", "struct C { lapin: u8 } fn f(c: C) -> u8 { c.lapin }"), [""; 0]);
}

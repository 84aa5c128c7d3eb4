//! `deploy/docs/configuration.md`: every key, what it takes, its default, its variables and its meaning.
//!
//! Nothing in it is written a second time. Which keys there are, and what each takes, is asked of the code that
//! reads them: each is given what no key takes, and the mend says what it does take. Defaults and meanings are
//! those of `config/outdial.toml`; `tests.rs` holds its defaults equal to the built-in ones.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use super::fault::Origin;
use super::given::{Given, Raw, UNITS};
use super::layers::{Layers, PREFIX, Sources};
use super::{CONVENTIONAL, Config, Needs, is_secret};

pub(super) const SHIPPED: &str = include_str!("../../config/outdial.toml");

const HEAD: &str = "# Configuration

Every key there is, in the order of [config/outdial.toml](../../config/outdial.toml), which is a file to start from. \
Written by a test of `src/config/reference.rs`, from that file's comments and from what the code takes.

A flag (`--set SECTION.KEY=VALUE`, never for a secret) wins over the environment, the environment over the file, and \
the file over the default. The file is the one that `--config` or `OUTDIAL_CONFIG` names, else `config/outdial.toml` \
where that exists. An unknown key, a bad value or a missing secret stops the program, which tells every fault at once.

Where two variables are named, the first wins. A variable that ends in `_FILE` holds the path of a file with the \
secret in it. An empty variable counts as not set. Text stands in quotes in the file, a list in brackets; in a \
variable both stand without, and commas separate the items of a list. A length of time has a unit: `500ms`, `10s`, \
`30m`, `2h` or `7d`.

NAME is an account's name. Variables have it in capitals, with `_` for `-`; an account with a `-` in its name has to \
stand in the file.
";

/// A table of the file.
struct Section {
    name: &'static str,
    /// What stands above it.
    comment: String,
    keys: Vec<Key>,
}

/// A key of the file.
struct Key {
    /// With its section.
    name: String,
    /// As the file writes it; `None`: it is commented out there.
    default: Option<&'static str>,
    comment: String,
}

impl Key {
    /// The comment, without the variable that it begins with where the key has one with a name of its own.
    fn meaning(&self) -> Option<&str> {
        match own_variable(&self.name) {
            Some(own) if is_secret(&self.name) => {
                self.comment.strip_prefix(&format!("{own} or {own}_FILE: "))
            }
            Some(own) => self.comment.strip_prefix(&format!("{own}: ")),
            None => Some(self.comment.as_str()).filter(|comment| !comment.is_empty()),
        }
    }
}

fn own_variable(key: &str) -> Option<&'static str> {
    CONVENTIONAL.iter().find(|(_, of)| *of == key).map(|(variable, _)| *variable)
}

/// The variables that set a key, the strongest first; those of a secret also with `_FILE`.
fn variables(key: &str) -> Vec<String> {
    let general = format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
    own_variable(key).map(str::to_owned).into_iter().chain([general]).collect()
}

/// The shipped file, line by line: TOML's own reader drops the comments.
fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut above: Vec<&str> = Vec::new();
    for line in SHIPPED.lines() {
        let comment = line.strip_prefix("# ");
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { name, comment: above.join(" "), keys: Vec::new() });
        } else if let (Some(section), Some((name, rest))) = (sections.last_mut(), key_of(line)) {
            let (value, meaning) = rest.split_once(" # ").unwrap_or((rest, ""));
            section.keys.push(Key {
                name: format!("{}.{name}", section.name),
                default: comment.is_none().then_some(value.trim_end()),
                comment: meaning.to_owned(),
            });
        } else if let (Some(key), Some(more)) =
            (sections.last_mut().and_then(|section| section.keys.last_mut()), continued(line))
        {
            key.comment.push(' ');
            key.comment.push_str(more);
        } else if let Some(comment) = comment {
            above.push(comment);
            continue;
        }
        above.clear();
    }
    sections
}

/// `key = value # comment`, commented out or not.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    key.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some((key, rest))
}

/// A comment that goes on below the line that it began on.
fn continued(line: &str) -> Option<&str> {
    line.strip_prefix(' ')?.trim_start().strip_prefix("# ")
}

/// Every key that is read, with what it takes.
fn takes() -> BTreeMap<String, String> {
    let (_, faults, known) = Config::read(Layers::default(), Needs::NOTHING);
    assert_eq!(faults, []);
    let mut layers = Layers::default();
    for key in &known {
        let nothing = Given { raw: Raw::Other("nothing"), origin: Origin::Nowhere };
        layers.given.insert(key.clone(), nothing);
    }
    let (_, faults, _) = Config::read(layers, Needs::NOTHING);
    assert_eq!(faults.len(), known.len(), "one fault for each key: {faults:#?}");
    let takes: BTreeMap<String, String> =
        faults.into_iter().map(|fault| (fault.key, fault.mend.replace(UNITS, ""))).collect();
    assert!(takes.keys().eq(&known), "{takes:#?}");
    takes
}

fn page() -> String {
    let takes = takes();
    let mut page = HEAD.to_owned();
    for section in sections() {
        page.push_str(&format!("\n## `[{}]`\n\n", of_any_account(section.name)));
        if !section.comment.is_empty() {
            page.push_str(&format!("{}\n\n", section.comment));
        }
        page.push_str("| key | takes | default | variable | meaning |\n|---|---|---|---|---|\n");
        for key in &section.keys {
            let cells = [
                format!("`{}`", of_any_account(&key.name)),
                takes.get(&key.name).cloned().unwrap_or_default(),
                key.default.map_or("none".to_owned(), |value| format!("`{value}`")),
                told_variables(&key.name),
                key.meaning().unwrap_or_default().to_owned(),
            ];
            page.push_str(&format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")));
        }
    }
    page
}

/// The file shows one account; the others have the same keys.
fn of_any_account(key: &str) -> String {
    key.replacen("accounts.default", "accounts.NAME", 1)
}

fn told_variables(key: &str) -> String {
    let told: Vec<String> = variables(key)
        .iter()
        .map(|variable| match variable.strip_prefix(PREFIX) {
            None if key.starts_with("accounts.") => format!("`{variable}` (of `default`)"),
            _ => format!("`{}`", variable.replace("__ACCOUNTS__DEFAULT__", "__ACCOUNTS__NAME__")),
        })
        .collect();
    let also = if is_secret(key) { "; each also with `_FILE`" } else { "" };
    told.join(" or ") + also
}

#[test]
fn the_shipped_file_has_the_keys_that_are_read_and_says_what_they_mean() {
    let keys: Vec<Key> = sections().into_iter().flat_map(|section| section.keys).collect();
    let in_file: BTreeSet<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    let takes = takes();
    let read: BTreeSet<&str> = takes.keys().map(String::as_str).collect();
    assert_eq!(in_file, read, "config/outdial.toml, and the code");
    assert_eq!(keys.len(), read.len(), "none twice");
    for key in keys {
        let name = &key.name;
        assert!(key.meaning().is_some(), "{name}: has no comment, or not its variable and a colon first");
    }
}

#[test]
fn each_key_is_set_by_the_variables_that_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nothing");
    // As a configuration it holds nothing, as a secret a few letters.
    std::fs::write(&path, "# text\n").unwrap();
    for key in takes().into_keys() {
        for variable in variables(&key) {
            let mut ways = vec![(variable.clone(), "text")];
            if is_secret(&key) {
                ways.push((format!("{variable}_FILE"), path.to_str().unwrap()));
            }
            for (name, value) in ways {
                let environment = BTreeMap::from([(name.clone(), value.to_owned())]);
                let sources = Sources { config_flag: Some(path.clone()), environment, ..Sources::default() };
                let layers = Layers::gather(&sources);
                assert_eq!(layers.faults, [], "{name}");
                assert!(layers.given.keys().eq([&key]), "{name} sets {:?}", layers.given.keys());
            }
        }
    }
}

/// The page is this; `OUTDIAL_WRITE_DOCS=1` writes it.
#[test]
fn the_page_of_keys_is_current() {
    let page = page();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/docs/configuration.md");
    if std::env::var_os("OUTDIAL_WRITE_DOCS").is_some() {
        std::fs::write(file, &page).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(written == page, "OUTDIAL_WRITE_DOCS=1 cargo test --lib the_page_of_keys writes it anew");
}

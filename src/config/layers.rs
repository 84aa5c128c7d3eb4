//! File, environment and flags laid over each other: flag > environment > file. Defaults are the reader's.
//! An empty variable counts as not set (compose files and charts pass `X=""` for "none").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::given::{Given, Raw};
use super::{CONVENTIONAL, DEFAULT_PATH, is_secret};

/// Prefix of variables that may set any key: `OUTDIAL__SECTION__KEY`.
pub(super) const PREFIX: &str = "OUTDIAL__";

/// What a process was started with; tests make their own.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`. Without it `OUTDIAL_CONFIG`, then `config/outdial.toml` where that exists.
    pub config_flag: Option<PathBuf>,
    /// `--set KEY=VALUE`.
    pub set_flags: Vec<(String, String)>,
    pub environment: BTreeMap<String, String>,
}

impl Sources {
    /// This process's environment, with the flags given.
    pub fn of_process(config_flag: Option<PathBuf>, set_flags: Vec<(String, String)>) -> Self {
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect();
        Self { config_flag, set_flags, environment }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    }
}

/// Dotted key → what was given, the strongest source winning.
#[derive(Default)]
pub(super) struct Layers {
    pub given: BTreeMap<String, Given>,
    pub faults: Vec<Fault>,
    /// The file couldn't be read to its end: what it lacks can't be judged.
    pub file_broken: bool,
}

impl Layers {
    pub fn gather(sources: &Sources) -> Self {
        let mut layers = Self::default();
        layers.file(sources);
        layers.any_key_variables(sources);
        layers.conventional_variables(sources);
        for (key, value) in &sources.set_flags {
            let origin = Origin::Flag("--set");
            if is_secret(key) {
                let mend = "use its environment variable or NAME_FILE: everyone on this machine can read a command line";
                layers.fault(key, origin, "a secret can't be given by a flag", mend);
            } else {
                layers.put(key.clone(), Raw::Text(value.clone()), origin);
            }
        }
        layers
    }

    fn put(&mut self, key: String, raw: Raw, origin: Origin) {
        self.given.insert(key, Given { raw, origin });
    }

    fn fault(&mut self, key: &str, origin: Origin, what: impl Into<String>, mend: impl Into<String>) {
        self.faults.push(Fault { key: key.to_owned(), origin, what: what.into(), mend: mend.into() });
    }

    fn file(&mut self, sources: &Sources) {
        let named =
            sources.config_flag.clone().or_else(|| sources.variable("OUTDIAL_CONFIG").map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        match std::fs::read_to_string(&path) {
            Ok(text) => self.file_text(&path, &text),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.file_broken = true;
                let origin = match sources.config_flag {
                    Some(_) => Origin::Flag("--config"),
                    None if named.is_some() => Origin::Environment("OUTDIAL_CONFIG".to_owned()),
                    None => Origin::File { path: path.clone(), line: 0 },
                };
                let what = format!("can't be read: {error}");
                self.fault(&path.display().to_string(), origin, what, "name a readable TOML file, or none");
            }
        }
    }

    /// A file's text. Syntax errors are told by message and line only: the line itself may hold a secret.
    pub fn file_text(&mut self, path: &Path, text: &str) {
        let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|&b| b == b'\n').count();
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(0, |span| line_of(span.start));
            let origin = Origin::File { path: path.to_owned(), line };
            self.fault("(the file)", origin, format!("is not TOML: {}", error.message()), "correct the line");
        }
        if !errors.is_empty() {
            self.file_broken = true;
            return;
        }
        self.table(path, "", table.get_ref(), &line_of);
    }

    fn table(&mut self, path: &Path, above: &str, table: &DeTable<'_>, line_of: &dyn Fn(usize) -> usize) {
        for (name, value) in table {
            let origin = Origin::File { path: path.to_owned(), line: line_of(name.span().start) };
            let key = join(above, name.get_ref());
            if name.get_ref().contains('.') {
                self.fault(&key, origin, "has a dot in a quoted name", "use letters, digits, _ and -");
                continue;
            }
            match value.get_ref() {
                DeValue::Table(inner) => self.table(path, &key, inner, line_of),
                other => self.put(key, raw(other), origin),
            }
        }
    }

    fn any_key_variables(&mut self, sources: &Sources) {
        for name in sources.environment.keys() {
            let (Some(rest), Some(value)) = (name.strip_prefix(PREFIX), sources.variable(name)) else {
                continue;
            };
            let key = self.key_of_variable(rest);
            self.variable(&key, name, value);
        }
    }

    /// `ACCOUNTS__EU_WEST__API_KEY` means the file's `accounts.eu-west.api_key` where there is one: a variable's
    /// name has neither case nor dashes to offer.
    fn key_of_variable(&self, rest: &str) -> String {
        let mut parts: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        if parts.len() == 3 && parts[0] == "accounts" {
            let same = |name: &&str| name.to_lowercase().replace('-', "_") == parts[1];
            let in_file = self.given.keys().filter_map(|key| account_of(key)).find(same);
            if let Some(name) = in_file.map(str::to_owned) {
                parts[1] = name;
            }
        }
        parts.join(".")
    }

    fn conventional_variables(&mut self, sources: &Sources) {
        for (name, key) in CONVENTIONAL {
            let file_name = format!("{name}_FILE");
            match (sources.variable(name), sources.variable(&file_name)) {
                (Some(_), Some(_)) if is_secret(key) => {
                    let what = format!("{name} and {file_name} are both set");
                    self.fault(key, Origin::Environment(file_name), what, "set one of them");
                }
                (Some(value), _) => self.variable(key, name, value),
                (None, Some(path)) if is_secret(key) => self.secret_file(key, &file_name, path),
                _ => {}
            }
        }
    }

    fn variable(&mut self, key: &str, name: &str, value: &str) {
        match key.strip_suffix("_file") {
            Some(secret) if is_secret(secret) => self.secret_file(secret, name, value),
            _ => self.put(key.to_owned(), Raw::Text(value.to_owned()), Origin::Environment(name.to_owned())),
        }
    }

    fn secret_file(&mut self, key: &str, variable: &str, path: &str) {
        let origin = Origin::SecretFile { variable: variable.to_owned(), path: PathBuf::from(path) };
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => {
                self.fault(key, origin, "the file is empty", "put the secret in it");
            }
            Ok(text) => {
                self.put(key.to_owned(), Raw::Text(text.trim_end_matches(['\r', '\n']).to_owned()), origin)
            }
            Err(error) => {
                self.fault(key, origin, format!("can't be read: {error}"), "name a readable file");
            }
        }
    }
}

/// NAME of `accounts.NAME.key`.
pub(super) fn account_of(key: &str) -> Option<&str> {
    key.strip_prefix("accounts.")?.split_once('.').map(|(name, _)| name)
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Raw::Integer(n),
            Err(_) => Raw::Other("an integer too large"),
        },
        DeValue::Boolean(b) => Raw::Boolean(*b),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts
                .collect::<Option<_>>()
                .map_or(Raw::Other("a list with something else than texts"), Raw::List)
        }
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a section"),
    }
}

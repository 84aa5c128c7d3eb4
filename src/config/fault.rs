//! What is wrong with a configuration: every fault at once, each with its key, where it came from and the mend.
//! Values of secrets never get here: see [`Given::shown`](super::given::Given::shown).

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Line of the configuration file, from 1.
    File { path: PathBuf, line: usize },
    /// An environment variable, by its name.
    Environment(String),
    /// A file whose path an environment variable (`NAME_FILE`) gives.
    SecretFile { variable: String, path: PathBuf },
    /// `--set` or another flag.
    Flag(&'static str),
    /// Given nowhere.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line: 0 } => write!(f, "{}", path.display()),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::SecretFile { variable, path } => write!(f, "{} (named by {variable})", path.display()),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Nowhere => f.write_str("not set anywhere"),
        }
    }
}

/// One thing wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `section.key`; the file's name where the file itself is at fault.
    pub key: String,
    pub origin: Origin,
    pub what: String,
    pub mend: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    where: {}\n    mend:  {}", self.key, self.what, self.origin, self.mend)
    }
}

/// All that is wrong, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the configuration has a fault")?,
            n => write!(f, "the configuration has {n} faults")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

//! Where the configuration came from, and who else can read its secrets. That it has no fault is known by then.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::config::{CONVENTIONAL, DEFAULT_PATH, Sources, is_secret};

/// There a container's engine puts secrets, for everybody inside to read: nobody else is there.
const OF_THE_CONTAINER: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

const READ: u32 = 0o004;
const ENTER: u32 = 0o001;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// None: the built-in defaults, the environment and flags.
    pub settings: Option<PathBuf>,
    /// Files with secrets that every user of this machine can read.
    pub exposed: BTreeSet<PathBuf>,
}

pub fn look(sources: &Sources) -> Files {
    let given = |value: &&String| !value.trim().is_empty();
    let named = sources.environment.get("OUTDIAL_CONFIG").filter(given);
    let settings = sources
        .config_flag
        .clone()
        .or_else(|| named.map(PathBuf::from))
        .or_else(|| Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists()));
    let secrets = sources.environment.iter().filter(|(name, value)| names_a_secret(name) && given(value));
    let exposed = secrets
        .map(|(_, path)| PathBuf::from(path))
        .chain(settings.clone().filter(|path| has_secrets(path)))
        .filter(|path| everybody_reads(path))
        .collect();
    Files { settings, exposed }
}

/// Whether a variable gives the path of a secret's file.
fn names_a_secret(variable: &str) -> bool {
    let Some(of) = variable.strip_suffix("_FILE") else { return false };
    of.starts_with("OUTDIAL__") || CONVENTIONAL.iter().any(|(name, key)| *name == of && is_secret(key))
}

fn has_secrets(settings: &Path) -> bool {
    let text = std::fs::read_to_string(settings).unwrap_or_default();
    text.parse::<toml::Table>().is_ok_and(|table| holds_secrets("", &table))
}

fn holds_secrets(above: &str, table: &toml::Table) -> bool {
    table.iter().any(|(name, value)| {
        let key = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        match value {
            toml::Value::Table(inner) => holds_secrets(&key, inner),
            _ => is_secret(&key),
        }
    })
}

/// Where nobody but the owner may enter a folder, what is inside is as closed as it.
fn everybody_reads(path: &Path) -> bool {
    let allowed = |path: &Path, right: u32| {
        std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & right != 0)
    };
    let Ok(path) = std::path::absolute(path) else { return false };
    !OF_THE_CONTAINER.iter().any(|folder| path.starts_with(folder))
        && allowed(&path, READ)
        && path.ancestors().skip(1).all(|folder| allowed(folder, ENTER))
}

pub fn judge(files: &Files) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "configuration",
        match &files.settings {
            Some(path) => format!("no fault, with {}", path.display()),
            None => "no fault, without a file".to_owned(),
        },
    )];
    if !files.exposed.is_empty() {
        let paths: Vec<String> = files.exposed.iter().map(|path| path.display().to_string()).collect();
        findings.push(Finding::warning(
            "secrets",
            format!("every user of this machine can read {}", paths.join(", ")),
            format!("chmod o-r {}", paths.join(" ")),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::fs::Permissions;

    use super::super::finding::Grade;
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_seen() {
        // Not the user's own place for such files, which may be closed to others.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let (key, settings) = (folder.path().join("key"), folder.path().join("outdial.toml"));
        std::fs::write(&key, "secret").unwrap();
        std::fs::write(&settings, "[accounts.eu]\napi_key = \"secret\"\n").unwrap();
        let environment = [("SYNTHFLOW_API_KEY_FILE", &key), ("OUTDIAL_CONFIG", &settings)]
            .map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned()));
        let sources = Sources { environment: environment.into(), ..Sources::default() };

        set_mode(folder.path(), 0o755);
        set_mode(&key, 0o644);
        set_mode(&settings, 0o640);
        let seen = look(&sources);
        assert_eq!(seen.settings.as_ref(), Some(&settings));
        assert_eq!(seen.exposed, BTreeSet::from([key.clone()]));
        set_mode(&settings, 0o644);
        assert_eq!(look(&sources).exposed, BTreeSet::from([key, settings]));
        set_mode(folder.path(), 0o700);
        assert!(look(&sources).exposed.is_empty(), "nobody else can go there");
    }

    #[test]
    fn only_secrets_are_looked_for() {
        assert!(names_a_secret("DATABASE_URL_FILE") && names_a_secret("OUTDIAL__ACCOUNTS__EU__API_KEY_FILE"));
        assert!(!names_a_secret("DATABASE_URL") && !names_a_secret("RUST_LOG_FILE"));
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        assert!(holds_secrets("", &table("[http]\napi_token = \"x\"")));
        assert!(!holds_secrets("", &table("[calls]\npoll = \"5s\"\n[accounts.default]\nbase_url = \"x\"")));
    }

    #[test]
    fn an_exposed_secret_is_a_warning_with_its_mend() {
        let closed = judge(&Files::default());
        assert_eq!(closed, [Finding::ok("configuration", "no fault, without a file")]);
        let open =
            judge(&Files { settings: Some("a.toml".into()), exposed: BTreeSet::from([PathBuf::from("/k")]) });
        assert_eq!(open[0].what, "no fault, with a.toml");
        assert_eq!((open[1].grade, open[1].mend.as_deref()), (Grade::Warning, Some("chmod o-r /k")));
    }
}

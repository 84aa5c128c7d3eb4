//! Whom a server runs as: oneself, or for root an ordinary user, since servers refuse root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{LocalError, Result};

#[derive(Debug, Clone, Copy)]
pub(super) enum RunAs {
    Oneself,
    User { uid: u32, gid: u32 },
}

impl RunAs {
    /// The first of `names` that exists, when this process is root's. `wanted` is the same list, for the message.
    pub(super) fn choose(names: &[&str], wanted: &'static str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Oneself);
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        names.iter().find_map(|name| find(&users, name)).ok_or(LocalError::NoUser(wanted))
    }

    pub(super) fn own(self, path: &Path) -> Result<()> {
        let Self::User { uid, gid } = self else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(|source| LocalError::Folder { path: path.to_owned(), source })
    }

    pub(super) fn apply(self, command: &mut Command) {
        if let Self::User { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }
}

fn find(users: &str, name: &str) -> Option<RunAs> {
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2).map(str::parse);
    Some(RunAs::User { uid: ids.next()?.ok()?, gid: ids.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\npostgresql:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert!(matches!(find(users, "postgres"), Some(RunAs::User { uid: 101, gid: 104 })));
        assert!(find(users, "post").is_none());
        assert!(find("postgres:x:none:1::/:/bin/sh", "postgres").is_none());
    }
}

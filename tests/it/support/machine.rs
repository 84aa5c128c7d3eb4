//! The database's machine, as far as a test may lay hands on it: a clock that steps, and a disk that fills up. Where this
//! machine doesn't let one, there is none, and what would have been done is told as skipped.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use tempfile::{NamedTempFile, TempDir};

const SECOND_US: i64 = 1_000_000;

/// From then on (this machine's microseconds since 1970) the clock was ahead by so much.
#[derive(Debug, Clone, Copy)]
pub struct Offset {
    pub from_us: i64,
    pub ahead_us: i64,
}

/// A clock that differs from this machine's by as much as is wished: libfaketime, preloaded, reads it from a file each time.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: NamedTempFile,
    steps: Mutex<Vec<Offset>>,
    /// Servers that had it: each leaves files behind that nobody else removes.
    servers: Mutex<Vec<u32>>,
}

impl FakeClock {
    /// `None`: libfaketime is not installed.
    pub fn find() -> Option<Self> {
        let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|folder| folder.path());
        let libraries =
            folders.chain([PathBuf::from("/usr/lib")]).map(|f| f.join("faketime/libfaketime.so.1"));
        let library = { libraries }.find(|library| library.is_file())?;
        let file = NamedTempFile::new().unwrap();
        // Another user's processes read it.
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let clock = Self { library, file, steps: Mutex::default(), servers: Mutex::default() };
        clock.step(0);
        Some(clock)
    }

    /// For the server whose clock it is.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(self.file.path())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Only dates step; waiting takes as long as it takes.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// This process has it.
    pub fn is_of(&self, server: Option<u32>) {
        self.servers.lock().unwrap().extend(server);
    }

    /// By so many seconds, at once.
    pub fn step(&self, by_s: i64) {
        let mut steps = self.steps.lock().unwrap();
        let ahead_s = steps.last().map_or(0, |last| last.ahead_us / SECOND_US) + by_s;
        let from_us = outdial::clock::wall().timestamp_micros();
        steps.push(Offset { from_us, ahead_us: ahead_s * SECOND_US });
        // Written beside and moved there: nobody reads half of it.
        let beside = self.file.path().with_extension("next");
        std::fs::write(&beside, format!("{ahead_s:+}\n")).unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::rename(&beside, self.file.path()).unwrap();
    }

    /// What it was ahead of this machine's, since when, in order.
    pub fn offsets(&self) -> Vec<Offset> {
        self.steps.lock().unwrap().clone()
    }
}

impl Drop for FakeClock {
    fn drop(&mut self) {
        for server in self.servers.lock().unwrap().iter() {
            for name in ["faketime_shm", "sem.faketime_sem"] {
                let _ = std::fs::remove_file(format!("/dev/shm/{name}_{server}"));
            }
        }
    }
}

/// A file system of its own, in memory, which can be made as small as what is on it.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

/// More than a run needs; only what is used is taken.
const SIZE: &str = "8g";

impl Disk {
    /// `None`: this process may not mount one.
    pub fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("outdial-disk-").tempdir().unwrap();
        let options = format!("size={SIZE},mode=711");
        let mounted = quietly("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], folder.path());
        mounted.then_some(Self { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Not a byte more goes on it until it is [`Disk::free`] again.
    pub fn fill(&self) {
        let used = rustix::fs::statvfs(self.path()).unwrap();
        let bytes = (used.f_blocks - used.f_bfree) * used.f_frsize;
        self.resize(&bytes.to_string());
    }

    pub fn free(&self) {
        self.resize(SIZE);
    }

    fn resize(&self, size: &str) {
        let done = quietly("mount", &["-o", &format!("remount,size={size}")], self.path());
        // More was written since: then it is small enough in a moment, or was never full.
        if !done && size == SIZE {
            panic!("{} can't be made larger again", self.path().display());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        quietly("umount", &["--lazy"], self.folder.path());
    }
}

fn quietly(program: &str, arguments: &[&str], place: &Path) -> bool {
    let done = Command::new(program).args(arguments).arg(place).output();
    done.is_ok_and(|done| done.status.success())
}

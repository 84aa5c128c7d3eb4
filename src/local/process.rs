//! A folder and the server process that lives in it, neither of which outlives this process.
//!
//! Drop stops the server and removes the folder. For ends that run no Drop (SIGKILL, Ctrl-C, a test binary's exit) there
//! is the keeper: a small shell, started first, in a process group of its own, that reads a pipe whose other end only this
//! process holds. When the pipe closes, for whatever reason, the keeper stops the server's process group and removes the
//! folder. A server begins as a shell that waits for a word before it becomes the server, and gets the word only after the
//! keeper knows its process id: there is no moment at which a server runs and nobody would stop it.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::user::RunAs;
use super::{LocalError, Result};
use crate::clock;

const STOP_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// Lines on its standard input: the process group to stop at the end, or an empty one for none. SIGQUIT is how either
/// server stops at once and takes its children with it; what it hasn't done after some seconds is ended by SIGKILL.
/// A PostgreSQL that was killed leaves a System V memory segment, named in the seventh line of its pid file.
const KEEPER: &str = r#"
folder=$1 group=
trap '' HUP INT TERM
while read -r line; do group=$line; done
if [ -n "$group" ]; then
    kill -s QUIT "$group" 2>/dev/null
    left=200
    while [ "$left" -gt 0 ] && read -r _ _ state _ 2>/dev/null <"/proc/$group/stat" && [ "$state" != Z ]; do
        left=$((left - 1))
        sleep 0.05
    done
    kill -s KILL -- "-$group" 2>/dev/null
fi
if [ -f "$folder/data/postmaster.pid" ]; then
    segment=$(sed -n '7s/.* //p' "$folder/data/postmaster.pid")
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
fi
rm -rf -- "$folder"
[ ! -e "$folder" ] || { sleep 0.5; rm -rf -- "$folder"; }
"#;

pub(super) struct Kept {
    name: &'static str,
    folder: PathBuf,
    user: RunAs,
    keeper: Child,
    to_keeper: Option<ChildStdin>,
    server: Option<Child>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.server.as_ref().map(Child::id);
        f.debug_struct("Kept").field("folder", &self.folder).field("server", &server).finish_non_exhaustive()
    }
}

impl Kept {
    /// Makes a folder of its own inside `parent`, which `user` must be able to reach.
    pub(super) fn new(name: &'static str, parent: &Path, user: RunAs) -> Result<Self> {
        let folder_error = |source| LocalError::Folder { path: parent.to_owned(), source };
        let parent = std::path::absolute(parent).map_err(folder_error)?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("outdial-{name}-"))
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(folder_error)?;
        user.own(folder.path())?;
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "outdial-keeper"]).arg(folder.path());
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .current_dir("/");
        let mut keeper =
            keeper.spawn().map_err(|source| LocalError::Run { program: "/bin/sh".into(), source })?;
        let to_keeper = keeper.stdin.take();
        Ok(Self { name, folder: folder.keep(), user, keeper, to_keeper, server: None })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn write(&self, file: &str, content: &str) -> Result<PathBuf> {
        let path = self.folder.join(file);
        std::fs::write(&path, content).map_err(|source| LocalError::Folder { path: path.clone(), source })?;
        self.user.own(&path)?;
        Ok(path)
    }

    /// A command as the server's user, in the folder, with nothing of our environment but the search path: a stray
    /// `PGDATA` or `RABBITMQ_…` must not lead it elsewhere.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env_clear().env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"));
        command.env("HOME", &self.folder).env("LC_ALL", "C.UTF-8").current_dir(&self.folder);
        self.user.apply(command);
    }

    /// Runs a command to its end; its output goes to the log.
    pub(super) fn run(&self, mut command: Command) -> Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        let (out, err) = self.log_files()?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let status =
            command.status().map_err(|source| LocalError::Run { program: program.clone(), source })?;
        if status.success() {
            return Ok(());
        }
        Err(LocalError::Failed { program, status: status.to_string(), log: self.log_tail() })
    }

    /// Starts the server: `script` is a shell command that ends in `exec`, with `arguments` as `$1`, `$2`, ….
    pub(super) fn start(&mut self, script: &str, arguments: &[&str], env: &[(&str, String)]) -> Result<()> {
        let (out, err) = self.log_files()?;
        let mut command = self.command(Path::new("/bin/sh"));
        let waiting = format!("read -r go && [ \"$go\" = go ] && exec </dev/null && {script}");
        command
            .args(["-c", &waiting, "outdial-server"])
            .args(arguments)
            .envs(env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(out).stderr(err).process_group(0);
        let run = |source| LocalError::Run { program: self.name.into(), source };
        let mut server = command.spawn().map_err(run)?;
        let go = server.stdin.take();
        let group = server.id();
        self.server = Some(server);
        self.tell_keeper(&group.to_string()).map_err(run)?;
        go.map_or(Ok(()), |mut go| go.write_all(b"go\n")).map_err(run)
    }

    fn tell_keeper(&mut self, group: &str) -> std::io::Result<()> {
        match &mut self.to_keeper {
            Some(pipe) => pipe.write_all(format!("{group}\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// Waits until `ready` says so; an error when the server ends first or `limit` has passed.
    pub(super) fn wait_ready(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = clock::monotonic() + limit;
        loop {
            if let Some(status) = self.exited() {
                self.server = None;
                let (program, log) = (self.name.into(), self.log_tail());
                return Err(LocalError::Failed { program, status: status.to_string(), log });
            }
            if ready() {
                return Ok(());
            }
            if clock::monotonic() > end {
                let (program, log) = (self.name.into(), self.log_tail());
                return Err(LocalError::NotReady { program, waited_s: limit.as_secs(), log });
            }
            pause(TICK);
        }
    }

    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.server.as_mut().and_then(|server| server.try_wait().ok().flatten())
    }

    /// The server's process id, which is its group's too.
    pub(super) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Sends `signal` to the server and waits for its end; after `limit`, SIGKILL to all of its process group.
    pub(super) fn end_server(&mut self, signal: Signal, limit: Duration) {
        let Some(mut server) = self.server.take() else { return };
        let Some(group) = i32::try_from(server.id()).ok().and_then(Pid::from_raw) else { return };
        let _ = kill_process(group, signal);
        let end = clock::monotonic() + limit;
        while matches!(server.try_wait(), Ok(None)) {
            if clock::monotonic() > end {
                let _ = kill_process_group(group, Signal::KILL);
            }
            pause(TICK);
        }
        // What the leader left of its group.
        let _ = kill_process_group(group, Signal::KILL);
        // The group is empty or dying; its number must not be signalled again once it can belong to somebody else.
        let _ = self.tell_keeper("");
    }

    fn log_files(&self) -> Result<(Stdio, Stdio)> {
        let path = self.folder.join("log");
        let open = || OpenOptions::new().create(true).append(true).open(&path);
        let both = open().and_then(|out| Ok((out.try_clone()?.into(), out.into())));
        both.map_err(|source| LocalError::Folder { path: path.clone(), source })
    }

    pub(super) fn log_tail(&self) -> String {
        let mut tail = Vec::new();
        if let Ok(mut file) = std::fs::File::open(self.folder.join("log")) {
            let _ = file.seek(SeekFrom::End(-4_000)); // shorter than that: from its start
            let _ = file.take(4_000).read_to_end(&mut tail);
        }
        String::from_utf8_lossy(&tail).trim().to_owned()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end_server(Signal::QUIT, STOP_MAX);
        self.to_keeper = None; // closes the pipe: the keeper removes the folder and ends
        let end = clock::monotonic() + STOP_MAX;
        while matches!(self.keeper.try_wait(), Ok(None)) && clock::monotonic() < end {
            pause(TICK);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this room blocks its thread by contract, and async code keeps it off a runtime's"
)]
pub(super) fn pause(length: Duration) {
    std::thread::sleep(length);
}

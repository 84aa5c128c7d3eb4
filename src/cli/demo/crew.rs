//! The demo's child processes: this same program with other commands, as a user would run them.
//!
//! Each runs under a small shell that reads a pipe from here. When the pipe closes, because the demo wants it or because
//! it died, the shell sends SIGTERM, and SIGKILL to who doesn't heed it: no child outlives the demo, whatever happens to it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::Failure;
use crate::clock;

/// `$0`: tenths of a second between SIGTERM and SIGKILL. The shell ends with the child's status.
const GUARD: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{
    read -r _
    kill -s TERM "$child"
    left=$0
    while [ "$left" -gt 0 ] && kill -s 0 "$child"; do
        left=$((left - 1))
        sleep 0.1
    done
    kill -s KILL "$child"
} <&3 >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait "$child"
status=$?
kill -s KILL "$guard" 2>/dev/null
exit "$status"
"#;
/// Beyond `worker.drain` (25 s) and what comes after it.
const KILL_AFTER: Duration = Duration::from_secs(35);
const TICK: Duration = Duration::from_millis(20);
/// Of a step such as `publish`.
const STEP_MAX: Duration = Duration::from_secs(90);
/// Lines of a log that are told of a failure.
const TOLD_LINES: usize = 12;

/// The children, and what they are given: a folder with their configuration and logs, and an environment.
#[derive(Debug)]
pub struct Crew {
    program: PathBuf,
    folder: PathBuf,
    env: Vec<(&'static str, String)>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Crew {
    /// `folder` holds `outdial.toml`, and takes the logs.
    pub fn new(folder: &Path, env: Vec<(&'static str, String)>) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        Ok(Self { program, folder: folder.to_owned(), env, running: Vec::new() })
    }

    /// Starts `outdial ARGUMENTS`; its output goes to the log of that name.
    pub fn start(&mut self, name: &str, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new("/bin/sh");
        let patience = KILL_AFTER.as_millis() / 100;
        command.args(["-c", GUARD, &patience.to_string()]).arg(&self.program);
        command.arg("--config").arg(self.folder.join("outdial.toml")).args(arguments);
        for (variable, _) in std::env::vars_os() {
            // Settings of whoever runs the demo must not lead a child to other servers, or to the real provider.
            let theirs = ["OUTDIAL", "SYNTHFLOW_", "DATABASE_URL", "AMQP_URL", "OTEL_"];
            if theirs.iter().any(|prefix| variable.to_string_lossy().starts_with(prefix)) {
                command.env_remove(&variable);
            }
        }
        command.envs(self.env.iter().map(|(variable, value)| (variable, value)));
        let log = File::create(self.log(name))?;
        // A group of its own: Ctrl-C is for the demo, which ends its children in order.
        command.process_group(0).stdin(Stdio::piped()).stderr(log.try_clone()?).stdout(log);
        let mut shell = command.spawn().map_err(|error| Failure::from(error).at("/bin/sh"))?;
        let pipe = shell.stdin.take();
        self.running.push(Running { name: name.to_owned(), shell, pipe });
        Ok(())
    }

    /// Runs `outdial ARGUMENTS` to its end: what it printed.
    pub async fn run(&mut self, name: &str, arguments: &[&str]) -> Result<String, Failure> {
        self.start(name, arguments)?;
        let ended = match self.running.last_mut() {
            Some(child) => child.end(STEP_MAX).await?,
            None => None,
        };
        let printed = self.printed(name);
        match ended {
            Some(status) if status.success() => {
                self.running.pop();
                Ok(printed)
            }
            Some(_) => Err(Failure::new(format!("outdial {name} failed:\n{}", tail(&printed)))),
            None => Err(Failure::new(format!("outdial {name} took too long:\n{}", tail(&printed)))),
        }
    }

    /// A failure where a child has ended that was to go on.
    pub fn demand_running(&mut self) -> Result<(), Failure> {
        for child in &mut self.running {
            if let Some(status) = child.shell.try_wait()? {
                let printed = std::fs::read_to_string(self.folder.join(format!("{}.log", child.name)));
                let printed = printed.unwrap_or_default();
                return Err(Failure::new(format!("{} ended ({status}):\n{}", child.name, tail(&printed))));
            }
        }
        Ok(())
    }

    /// SIGTERM to all of them, and waits: those that didn't end with status 0, with their status.
    pub async fn stop(&mut self) -> Vec<String> {
        // All at once, so that they stop side by side.
        self.running.iter_mut().for_each(|child| drop(child.pipe.take()));
        let mut amiss = Vec::new();
        for mut child in self.running.drain(..) {
            match child.end(KILL_AFTER + Duration::from_secs(5)).await {
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => amiss.push(format!("{} ended with {status}", child.name)),
                Ok(None) => amiss.push(format!("{} doesn't end", child.name)),
                Err(failure) => amiss.push(format!("{}: {}", child.name, failure.what())),
            }
        }
        amiss
    }

    /// What a child has printed so far.
    pub fn printed(&self, name: &str) -> String {
        std::fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

impl Running {
    /// Its status, if it ends within `limit`.
    async fn end(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Failure> {
        let started = clock::monotonic();
        loop {
            if let Some(status) = self.shell.try_wait()? {
                return Ok(Some(status));
            }
            if started.elapsed() > limit {
                return Ok(None);
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

fn tail(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().collect();
    let start = lines.len().saturating_sub(TOLD_LINES);
    lines[start..].iter().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// A crew whose program is a shell: `--config FILE` are its first two arguments.
    fn crew(folder: &Path, script: &str) -> Crew {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let env = vec![("GIVEN", "yes".to_owned())];
        Crew { program, folder: folder.to_owned(), env, running: Vec::new() }
    }

    #[tokio::test]
    async fn a_step_gives_what_it_printed_and_fails_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = crew(folder.path(), "echo \"$3 $GIVEN\"; [ \"$3\" = good ]");
        assert_eq!(crew.run("step", &["good"]).await.unwrap(), "good yes\n");
        let failure = crew.run("step", &["bad"]).await.unwrap_err();
        assert!(failure.what().contains("bad yes"), "{failure}");
    }

    #[tokio::test]
    async fn a_child_is_told_to_stop_and_its_status_seen() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap 'echo stopped; exit \"$3\"' TERM; echo up; while :; do sleep 0.05; done";
        let mut crew = crew(folder.path(), script);
        crew.start("one", &["0"]).unwrap();
        crew.start("two", &["3"]).unwrap();
        while ![crew.printed("one"), crew.printed("two")].iter().all(|log| log.contains("up")) {
            tokio::time::sleep(TICK).await;
        }
        crew.demand_running().unwrap();
        assert_eq!(crew.stop().await, ["two ended with exit status: 3"]);
        assert!(crew.printed("one").contains("stopped"));
    }

    #[tokio::test]
    async fn an_early_end_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = crew(folder.path(), "echo no database; exit 1");
        crew.start("worker", &[]).unwrap();
        let failure = loop {
            match crew.demand_running() {
                Ok(()) => tokio::time::sleep(TICK).await,
                Err(failure) => break failure,
            }
        };
        assert!(failure.what().contains("no database"), "{failure}");
    }
}

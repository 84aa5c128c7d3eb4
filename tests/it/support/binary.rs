//! The real `outdial` binary as a child process.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// Killed when dropped.
#[derive(Debug)]
pub struct Outdial {
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Outdial {
    /// Starts `outdial` with these arguments and, of the settings this program knows, only these variables.
    pub fn start(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outdial"));
        for (name, _) in std::env::vars_os() {
            let known = ["OUTDIAL", "SYNTHFLOW_", "DATABASE_URL", "AMQP_URL", "RUST_LOG", "OTEL_"];
            if known.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.args(arguments).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let output = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            read_into(child.stdout.take().expect("piped"), &output),
            read_into(child.stderr.take().expect("piped"), &output),
        ];
        Self { child, output, readers }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far, standard output and error together.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// The first line so far that contains `text`.
    pub fn printed(&self, text: &str) -> Option<String> {
        self.output.lock().unwrap().lines().find(|line| line.contains(text)).map(str::to_owned)
    }

    /// Waits for a printed line that contains `text`, and gives it.
    pub async fn line(&self, limit: Duration, text: &str) -> String {
        let find = async || self.printed(text);
        match tokio::time::timeout(limit, eventually(limit * 2, find)).await {
            Ok(line) => line,
            Err(_) => panic!("no line with {text:?} after {limit:?} in:\n{}", self.output()),
        }
    }

    /// Waits for its own end: its status and everything it printed.
    pub async fn wait(mut self, limit: Duration) -> (ExitStatus, String) {
        let output = self.output.clone();
        let waited =
            tokio::time::timeout(limit, eventually(limit * 2, async || self.child.try_wait().unwrap())).await;
        let Ok(status) = waited else { panic!("still running after {limit:?}:\n{}", output.lock().unwrap()) };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status, self.output())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGTERM, then `wait`.
    pub async fn stop(self, limit: Duration) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.wait(limit).await
    }

    /// SIGKILL; returns when it is dead.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// For SIGSTOP, SIGCONT and the like.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Outdial {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!(
                "--- outdial ({}) printed:\n{}",
                self.child.id(),
                self.output.lock().map(|o| o.clone()).unwrap_or_default()
            );
        }
    }
}

fn read_into(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) -> std::thread::JoinHandle<()> {
    let output = output.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            let mut output = output.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    })
}

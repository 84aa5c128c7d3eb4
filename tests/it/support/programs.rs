//! Programs that a test runs and that may not be on this machine: their own tools are fetched into a folder of the test.

use std::time::Duration;

use tokio::process::Command;

/// Fetching a library from its registry.
pub const FETCH_MAX: Duration = Duration::from_secs(180);

pub struct Ended {
    pub success: bool,
    pub out: String,
    pub err: String,
}

/// Runs a program to its end. `None`: there is no such program.
pub async fn run(command: &mut Command, limit: Duration) -> Option<Ended> {
    let output = command.kill_on_drop(true).output();
    match tokio::time::timeout(limit, output).await.expect("it ends in time") {
        Ok(done) => {
            let [out, err] =
                [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            Some(Ended { success: done.status.success(), out, err })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

/// Whether this machine has what a test needs; where it hasn't, tells that it is skipped.
pub async fn there(program: &str, arguments: &[&str], needed: &str) -> bool {
    let found =
        run(Command::new(program).args(arguments), FETCH_MAX).await.is_some_and(|ended| ended.success);
    if !found {
        eprintln!("skipped: there is no {needed} here");
    }
    found
}

pub async fn fetched(command: &mut Command) {
    let ended = run(command, FETCH_MAX).await.expect("it was there a moment ago");
    assert!(ended.success, "{command:?}:\n{}{}", ended.out, ended.err);
}

//! One file a command.

use std::process::ExitCode;

pub fn main() -> ExitCode {
    ExitCode::from(2)
}

//! `outdial completions`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Context, Failure, output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// bash: `source <(outdial completions bash)`; zsh, fish, elvish, powershell
    shell: Shell,
}

pub async fn run(args: Args, _: &Context) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "outdial", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

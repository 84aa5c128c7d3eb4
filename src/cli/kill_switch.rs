//! `outdial kill-switch`: stops every call of every account, at once, until it is switched off.

use clap::ValueEnum;

use super::output;
use super::{Context, Failure};
use crate::config::Needs;
use crate::store::stops;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `on`: nothing is placed any more, jobs wait; `off`: they go on
    to: To,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    On,
    Off,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (_, pool) = context.ledger(Needs::DATABASE).await?;
    let on = matches!(args.to, To::On);
    let was = stops::set_kill_switch(&pool, on).await?;
    let name = |on| if on { "on" } else { "off" };
    if was == on {
        return output::print(&format!("the kill switch is {} already\n", name(on)));
    }
    output::print(&format!("the kill switch is {} now\n", name(on)))
}

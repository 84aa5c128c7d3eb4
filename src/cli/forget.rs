//! `outdial forget`: erases what is kept of a callee.

use super::output;
use super::suppress::phone;
use super::{Context, Failure};
use crate::config::Needs;
use crate::core::phone::E164;
use crate::store::forget::{self, Forgotten};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// In E.164: +14155552671
    #[arg(value_name = "PHONE", value_parser = phone)]
    phone: E164,
}

/// Jobs that are named where they can't be erased yet.
const NAMED_MAX: usize = 10;

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (config, pool) = context.ledger(Needs::DATABASE).await?;
    let Forgotten { canceled, erased, left } = forget::forget(&pool, &args.phone, config.events).await?;
    output::print(&format!("{erased} records erased, {canceled} of jobs that waited and are canceled\n"))?;
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if left.len() > NAMED_MAX { ", …" } else { "" };
    Err(Failure::new(format!("{} are dialed, or in review: {}{more}", left.len(), names.join(", "))).mend(
        "run it again when their calls are over; outdial review resolve decides on what nobody found out",
    ))
}

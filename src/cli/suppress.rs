//! `outdial suppress`: the list of phones that must not be called.

mod import;

use std::path::PathBuf;

use clap::Subcommand;

use super::output::{self, Output, Table, cell};
use super::{Context, Failure};
use crate::config::Needs;
use crate::core::ids::{Brand, CampaignId};
use crate::core::phone::E164;
use crate::core::suppression::{Prefix, Scope, Suppressed, listed_phone};
use crate::store::{Pool, suppressions};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Phones that nobody may call from now on
    Add {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        scope: ScopeArgs,
        /// Where it comes from; shown in the list
        #[arg(long, value_name = "TEXT", default_value = "suppress add")]
        source: String,
    },
    /// Phones that may be called again
    Remove {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        scope: ScopeArgs,
    },
    /// All phones of a CSV file: its first column, or those named phone, brand and campaign_id
    Import {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        scope: ScopeArgs,
        /// Of the numbers in the file that don't begin with +
        #[arg(long, value_name = "DIGITS", value_parser = calling_code)]
        calling_code: Option<String>,
        /// Where it comes from; shown in the list [default: the file's name]
        #[arg(long, value_name = "TEXT")]
        source: Option<String>,
    },
    /// What stands on the list
    List {
        /// Only what keeps this phone from being called
        #[arg(value_name = "PHONE", value_parser = phone)]
        phone: Option<E164>,
        /// Phones after this one
        #[arg(long, value_name = "PHONE", value_parser = phone)]
        after: Option<E164>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct What {
    /// In E.164: +14155552671
    #[arg(value_name = "PHONE", value_parser = phone)]
    phones: Vec<E164>,
    /// A whole range, by how its numbers begin: +1900; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = |text: &str| Prefix::parse(text))]
    prefixes: Vec<Prefix>,
}

/// For whom it holds; neither: for all.
#[derive(Debug, Clone, clap::Args)]
struct ScopeArgs {
    /// Only calls in this brand's name
    #[arg(long, value_parser = |text: &str| Brand::parse(text), conflicts_with = "campaign")]
    brand: Option<Brand>,
    /// Only calls of this campaign
    #[arg(long, value_name = "CAMPAIGN_ID", value_parser = |text: &str| CampaignId::parse(text))]
    campaign: Option<CampaignId>,
}

impl From<ScopeArgs> for Scope {
    fn from(args: ScopeArgs) -> Self {
        match (args.brand, args.campaign) {
            (Some(brand), _) => Scope::Brand(brand),
            (None, Some(campaign)) => Scope::Campaign(campaign),
            (None, None) => Scope::Everywhere,
        }
    }
}

/// A phone as people give it on the command line; whether anybody has it doesn't matter.
pub fn phone(text: &str) -> Result<E164, String> {
    listed_phone(text, None).map_err(|fault| fault.to_string())
}

fn calling_code(text: &str) -> Result<String, &'static str> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let well_formed = (1..=3).contains(&digits.len())
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !digits.starts_with('0');
    if well_formed { Ok(digits.to_owned()) } else { Err("must be a country's calling code, such as 1 or 44") }
}

impl What {
    fn all(self) -> impl Iterator<Item = Suppressed> {
        let ranges = self.prefixes.into_iter().map(Suppressed::Prefix);
        self.phones.into_iter().map(Suppressed::Phone).chain(ranges)
    }
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (_, pool) = context.ledger(Needs::DATABASE).await?;
    match args.action {
        Action::Add { what, scope, source } => {
            let scope = Scope::from(scope);
            let (mut new, mut known) = (0, 0);
            for one in what.all() {
                let is_new = suppressions::add(&pool, &one, &scope, &source).await?;
                *(if is_new { &mut new } else { &mut known }) += 1;
            }
            output::print(&format!("{new} added, {known} stood there already\n"))
        }
        Action::Remove { what, scope } => {
            let scope = Scope::from(scope);
            let (mut gone, mut unknown) = (0, 0);
            for one in what.all() {
                let was = suppressions::remove(&pool, &one, &scope).await?;
                *(if was { &mut gone } else { &mut unknown }) += 1;
            }
            output::print(&format!("{gone} removed\n"))?;
            match unknown {
                0 => Ok(()),
                _ => Err(Failure::new(format!("{unknown} did not stand on the list for that scope"))
                    .mend("outdial suppress list PHONE shows for whom a phone is suppressed")),
            }
        }
        Action::Import { file, scope, calling_code, source } => {
            let source = source.unwrap_or_else(|| {
                file.file_name().map_or_else(|| "import".into(), |name| name.to_string_lossy().into_owned())
            });
            import::run(&pool, &file, import::Terms { scope: scope.into(), calling_code, source }).await
        }
        Action::List { phone, after, limit, output } => {
            list(&pool, phone.as_ref(), after.as_ref(), limit, output).await
        }
    }
}

async fn list(
    pool: &Pool,
    phone: Option<&E164>,
    after: Option<&E164>,
    limit: u32,
    output: Output,
) -> Result<(), Failure> {
    let rows = suppressions::list(pool, phone, after, limit).await?;
    if output.json {
        return output::print_json(&rows);
    }
    if rows.is_empty() {
        return output::print("nothing\n");
    }
    let columns = ["phone", "prefix", "scope", "added_at", "source"];
    let mut table = Table::new(&columns);
    for row in &rows {
        table.row(columns.map(|column| match (column, cell(&row[column])) {
            ("scope", scope) if scope.is_empty() => "everywhere".to_owned(),
            (_, text) => text,
        }));
    }
    output::print(&table.render())
}

//! `outdial routing`: apply, diff, export, versions, rollback, explain.

mod explain;

use std::io::Read;

use clap::Subcommand;
use serde::Serialize;

use super::output::{self, Output, Table};
use super::{Context, Failure};
use crate::config::{Config, Needs};
use crate::core::ids::RoutingVersion;
use crate::core::rules::{self, Settings, document};
use crate::store::Pool;
use crate::store::routing::{self, Applied};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put a routing file into use, as a new version that replaces all settings
    Apply(Apply),
    /// What a file would change
    Diff(Diff),
    /// Print the file in use, as it was applied
    Export(Export),
    /// Every version, newest first
    Versions(Versions),
    /// Put an earlier version into use again, as a new one
    Rollback(Rollback),
    /// What would become of a job now, and why: every rule, every number
    Explain(explain::Explain),
}

#[derive(Debug, clap::Args)]
struct Apply {
    /// TOML; `-` reads standard input
    file: String,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, clap::Args)]
struct Diff {
    /// TOML; `-` reads standard input
    file: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Export {
    /// Another version than the one in use
    #[arg(long)]
    version: Option<i64>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Versions {
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Rollback {
    version: i64,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, clap::Args)]
struct By {
    /// Who does it, for `routing versions`
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    by: String,
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    // A file with faults is told of before anything is asked of the database.
    match args.action {
        Action::Apply(apply) => {
            let document = Document::read(&apply.file)?;
            let (config, pool) = context.ledger(Needs::DATABASE).await?;
            put_into_use(&pool, &config, document, &apply.by.by).await
        }
        Action::Diff(diff) => {
            let document = Document::read(&diff.file)?;
            let (_, pool) = context.ledger(Needs::DATABASE).await?;
            show_diff(&pool, &document.settings, diff.output).await
        }
        Action::Export(export) => show_source(&context.ledger(Needs::DATABASE).await?.1, &export).await,
        Action::Versions(versions) => list(&context.ledger(Needs::DATABASE).await?.1, &versions).await,
        Action::Explain(asked) => explain::run(asked, context).await,
        Action::Rollback(rollback) => {
            let (config, pool) = context.ledger(Needs::DATABASE).await?;
            let version = RoutingVersion(rollback.version);
            let (_, source) = existing(&pool, Some(version)).await?;
            let name = format!("version {}", rollback.version);
            put_into_use(&pool, &config, Document::understand(name, source)?, &rollback.by.by).await
        }
    }
}

/// A routing file without a fault.
struct Document {
    source: String,
    settings: Settings,
}

impl Document {
    fn read(file: &str) -> Result<Self, Failure> {
        let bytes = read_file(file, document::SOURCE_BYTES_MAX)?;
        let source = String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            Failure::new("the file isn't UTF-8").at(format!("{file}, line {line}"))
        })?;
        Self::understand(file.to_owned(), source)
    }

    fn understand(name: String, source: String) -> Result<Self, Failure> {
        match rules::parse(&source) {
            Ok(settings) => Ok(Self { source, settings }),
            Err(faults) => {
                let count = match faults.len() {
                    1 => "a fault".to_owned(),
                    n => format!("{n} faults"),
                };
                let lines: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
                Err(Failure::new(format!("{name} has {count}; nothing was applied{lines}")))
            }
        }
    }
}

/// A whole file, or standard input for `-`; of one that is longer than allowed, a byte more than that.
fn read_file(file: &str, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let limit = bytes_max as u64 + 1;
    let mut bytes = Vec::new();
    match file {
        "-" => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        _ => std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_end(&mut bytes)),
    }
    .map_err(|error| Failure::new(format!("can't be read: {error}")).at(file))?;
    Ok(bytes)
}

async fn put_into_use(pool: &Pool, config: &Config, document: Document, by: &str) -> Result<(), Failure> {
    let settings = &document.settings;
    // The workers' configuration may know more accounts than this one's.
    for agent in settings.agents.iter().filter(|agent| !config.accounts.contains_key(&agent.account)) {
        eprintln!(
            "warning: agent {} belongs to account {}, which this configuration doesn't have; \
             its jobs wait account_paused on workers that lack it",
            agent.model_id, agent.account
        );
    }
    let counts = format!(
        "{}, {}, {}, {}",
        counted(settings.agents.len(), "agent"),
        counted(settings.numbers.len(), "number"),
        counted(settings.campaigns.len(), "campaign"),
        counted(settings.rules.len(), "rule")
    );
    match routing::apply(pool, &document.source, document.settings, by).await? {
        Applied::New(version) => output::print(&format!("version {} is in use: {counts}\n", version.0)),
        Applied::Unchanged(version) => {
            output::print(&format!("no change: version {} is this document\n", version.0))
        }
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

async fn show_diff(pool: &Pool, now: &Settings, output: Output) -> Result<(), Failure> {
    let was = match routing::source(pool, None).await? {
        Some((version, source)) => Document::understand(format!("version {}", version.0), source)?.settings,
        None => Settings::default(),
    };
    let changes = rules::diff(&was, now);
    if output.json {
        return output::print_json(&changes);
    }
    if changes.is_empty() {
        return output::print("no change\n");
    }
    output::print(&changes.iter().map(|change| format!("{change}\n")).collect::<String>())
}

async fn show_source(pool: &Pool, export: &Export) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Exported {
        version: RoutingVersion,
        settings: Settings,
    }
    let (version, source) = existing(pool, export.version.map(RoutingVersion)).await?;
    if !export.output.json {
        return output::print(&source);
    }
    let settings = Document::understand(format!("version {}", version.0), source)?.settings;
    output::print_json(&Exported { version, settings })
}

async fn existing(pool: &Pool, version: Option<RoutingVersion>) -> Result<(RoutingVersion, String), Failure> {
    routing::source(pool, version).await?.ok_or_else(|| match version {
        Some(version) => Failure::new(format!("there is no version {}", version.0))
            .mend("outdial routing versions lists them"),
        None => Failure::new("no routing is applied yet").mend("outdial routing apply FILE"),
    })
}

async fn list(pool: &Pool, versions: &Versions) -> Result<(), Failure> {
    let found = routing::versions(pool, versions.limit).await?;
    if versions.output.json {
        return output::print_json(&found);
    }
    let mut table = Table::new(&["version", "applied_at", "applied_by", "digest", ""]);
    for version in found {
        table.row([
            version.version.0.to_string(),
            version.applied_at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            version.applied_by,
            version.digest[..12.min(version.digest.len())].to_owned(),
            if version.in_use { "in use" } else { "" }.to_owned(),
        ]);
    }
    output::print(&table.render())
}

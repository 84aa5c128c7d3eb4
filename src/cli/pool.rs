//! `outdial pool`: what an agent may call from: show, sync, attach, detach.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Subcommand;

use super::output::{self, Output, Table};
use super::{Context, Failure};
use crate::config::{Config, Needs};
use crate::core::ids::{AccountName, ModelId};
use crate::core::outcome::ProviderError;
use crate::core::phone::E164;
use crate::engine::pool::{Reader, RulesNow, Synced};
use crate::store::{self, AgentRow, NumberRow, Pool, Pools};
use crate::synthflow::{Client, ClientConfig};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The agent's numbers as outdial knows them: attached or not, state, limits
    Show(Show),
    /// Read the agent's numbers from the provider now
    Sync(One),
    /// Attach numbers to the agent at the provider, then read its numbers
    Attach(Attach),
    /// Detach a number from the agent at the provider, then read its numbers
    Detach(Detach),
}

#[derive(Debug, clap::Args)]
struct Show {
    #[arg(value_name = "MODEL_ID", value_parser = |text: &str| ModelId::parse(text))]
    model: ModelId,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct One {
    #[arg(value_name = "MODEL_ID", value_parser = |text: &str| ModelId::parse(text))]
    model: ModelId,
    /// The account that the agent belongs to [default: as the routing says, else `default`]
    #[arg(long, value_name = "NAME", value_parser = |text: &str| AccountName::parse(text))]
    account: Option<AccountName>,
}

#[derive(Debug, clap::Args)]
struct Attach {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    what: What,
}

/// The provider takes the one or the other, never both.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// In E.164, such as +16286666348; may be repeated
    #[arg(long = "number", value_name = "NUMBER", num_args = 1.., value_parser = number)]
    numbers: Vec<E164>,
    /// The provider's handle of a number, such as 16286666348; may be repeated
    #[arg(long = "slug", value_name = "SLUG", num_args = 1..)]
    slugs: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Detach {
    #[command(flatten)]
    one: One,
    /// The provider's handle of the number, as `pool show` tells it
    #[arg(long, value_name = "SLUG")]
    slug: String,
}

fn number(text: &str) -> Result<E164, String> {
    E164::from_canonical(text)
        .ok_or_else(|| "write it as +16286666348: plus, country code, number, no blanks".to_owned())
}

pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.action {
        Action::Show(show) => {
            let (_, pool) = context.ledger(Needs::DATABASE).await?;
            shown(&pool, &show).await
        }
        Action::Sync(one) => {
            let desk = Desk::open(context, one).await?;
            desk.sync(&BTreeSet::new()).await
        }
        Action::Attach(attach) => {
            let desk = Desk::open(context, attach.one).await?;
            desk.attach(&attach.what).await
        }
        Action::Detach(detach) => {
            let desk = Desk::open(context, detach.one).await?;
            desk.detach(&detach.slug).await
        }
    }
}

async fn shown(pool: &Pool, show: &Show) -> Result<(), Failure> {
    let agent = store::agent(pool, &show.model).await.map_err(Failure::new)?;
    let Some(agent) = agent else {
        return Err(Failure::new(format!("nothing is known of agent {}", show.model))
            .mend(format!("outdial pool sync {}", show.model)));
    };
    if show.output.json {
        return output::print_json(&agent);
    }
    output::print(&page(&agent))
}

fn page(agent: &AgentRow) -> String {
    let name = agent.name.as_deref().unwrap_or("unnamed");
    let mut text =
        format!("agent    {} ({name}), account {}\nstate    {}", agent.model_id, agent.account, agent.state);
    if let Some(why) = &agent.state_reason {
        text.push_str(&format!(": {why}"));
    }
    let time = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map_or("never".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string())
    };
    text.push_str(&format!("\nread     {}, last tried {}\n", time(agent.read_at), time(agent.tried_at)));
    if let Some(error) = &agent.error {
        text.push_str(&format!("note     {error}\n"));
    }
    text.push('\n');
    let mut table = Table::new(&["number", "slug", "sid", "attached", "state", "limits"]);
    for number in &agent.numbers {
        let attached = if number.attached { "yes" } else { "no" };
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            number.number.clone(),
            or_none(&number.slug),
            or_none(&number.sid),
            attached.to_owned(),
            number.state.clone(),
            limits(number),
        ]);
    }
    text.push_str(&table.render());
    text
}

fn limits(number: &NumberRow) -> String {
    let windows = [
        (number.per_second, "/s"),
        (number.per_minute, "/min"),
        (number.per_hour, "/h"),
        (number.per_day, "/day"),
        (number.concurrent, " at once"),
    ];
    let set: Vec<String> = windows.iter().filter_map(|(n, unit)| n.map(|n| format!("{n}{unit}"))).collect();
    if set.is_empty() { "unlimited".to_owned() } else { set.join(", ") }
}

/// An agent, its account and what is needed to read its pool.
struct Desk {
    pool: Pool,
    ledger: Pools,
    client: Client,
    account: AccountName,
    model: ModelId,
    rules: RulesNow,
}

impl Desk {
    async fn open(context: &Context, one: One) -> Result<Self, Failure> {
        let (config, pool) = context.ledger(Needs::PROVIDER).await?;
        let (version, rules) = store::rules_in_use(&pool).await.map_err(Failure::new)?;
        let account = match (one.account, rules.agent(&one.model)) {
            (Some(account), _) => account,
            (None, Some(agent)) => agent.account.clone(),
            (None, None) => {
                let known = store::agent(&pool, &one.model).await.map_err(Failure::new)?;
                known
                    .and_then(|agent| AccountName::parse(&agent.account).ok())
                    .unwrap_or_else(AccountName::default_account)
            }
        };
        let client = client(&config, &account)?;
        let rules = Arc::new(rules);
        let rules = RulesNow::new(move || (version, Arc::clone(&rules)));
        let ledger = Pools::new(pool.clone(), config.events);
        Ok(Self { pool, ledger, client, account, model: one.model, rules })
    }

    async fn attach(&self, what: &What) -> Result<(), Failure> {
        let done = match what.numbers.as_slice() {
            [] => self.client.attach_slugs(&self.model, &what.slugs).await,
            numbers => self.client.attach_numbers(&self.model, numbers).await,
        };
        done.map_err(|error| self.refused(&error, "no number was attached"))?;
        output::print("the provider has attached what was asked for\n")?;
        self.sync(&BTreeSet::new()).await
    }

    async fn detach(&self, slug: &str) -> Result<(), Failure> {
        let agent = store::agent(&self.pool, &self.model).await.map_err(Failure::new)?;
        let known = agent.into_iter().flat_map(|agent| agent.numbers);
        let gone: BTreeSet<E164> = known
            .filter(|number| number.slug.as_deref() == Some(slug))
            .filter_map(|number| E164::from_canonical(&number.number))
            .collect();
        self.client
            .detach_slug(&self.model, slug)
            .await
            .map_err(|error| self.refused(&error, "the number was not detached"))?;
        output::print(&format!("the provider has detached {slug}\n"))?;
        self.sync(&gone).await
    }

    /// Reads the pool and tells what that came to; a reading that has to be agreed to is followed by a second one.
    async fn sync(&self, gone: &BTreeSet<E164>) -> Result<(), Failure> {
        let reader = Reader {
            account: &self.account,
            model: &self.model,
            ledger: &self.ledger,
            provider: &self.client,
            rules: &self.rules,
        };
        let mut synced = reader.sync(gone).await.map_err(Failure::new)?;
        if let Synced::HeldBack { dropped } = synced {
            output::print(&format!(
                "the reading would drop {dropped} numbers, more than half of the pool: reading again\n"
            ))?;
            synced = reader.sync(gone).await.map_err(Failure::new)?;
        }
        match synced {
            Synced::Adopted(change) => {
                let numbers = store::agent(&self.pool, &self.model).await.map_err(Failure::new)?;
                let attached =
                    numbers.map_or(0, |agent| agent.numbers.iter().filter(|number| number.attached).count());
                let mut text = format!("agent {} has {attached} numbers", self.model);
                text.push_str(&match (change.attach.len(), change.detach.len()) {
                    (0, 0) => ": nothing has changed\n".to_owned(),
                    (new, lost) => format!(": {new} new or changed, {lost} no longer attached\n"),
                });
                if let Some(note) = change.note {
                    text.push_str(&format!("note: {note}\n"));
                }
                if attached == 0 {
                    text.push_str(
                        "without numbers its jobs wait (no_eligible_number): outdial pool attach\n",
                    );
                }
                output::print(&text)
            }
            Synced::HeldBack { dropped } => Err(Failure::new(format!(
                "two readings disagree about {dropped} missing numbers; the pool stays as it was"
            ))
            .mend(format!("outdial pool sync {}", self.model))),
            Synced::Unusable(why) => Err(Failure::new(why).at(format!("agent {}", self.model))),
            Synced::Failed(error) => Err(self.refused(&error, "the pool stays as it was")),
            Synced::Unavailable { why } => Err(self.unknown(&why)),
        }
    }

    fn refused(&self, error: &ProviderError, so: &str) -> Failure {
        match error {
            ProviderError::NotFound { .. } => self.unknown(&error.to_string()),
            _ => Failure::new(format!("{error}; {so}"))
                .at(format!("agent {}, account {}", self.model, self.account)),
        }
    }

    fn unknown(&self, why: &str) -> Failure {
        Failure::new(why).at(format!("agent {}, account {}", self.model, self.account)).mend(
            "compare the ids (of the agent, of the number) with the provider's; --account NAME if the agent belongs to another",
        )
    }
}

fn client(config: &Config, account: &AccountName) -> Result<Client, Failure> {
    let configured = config.accounts.get(account);
    let Some((configured, key)) = configured.and_then(|found| Some((found, found.api_key.clone()?))) else {
        let known: Vec<&str> = config.accounts.keys().map(AccountName::as_str).collect();
        return Err(Failure::new(format!("no key is configured for account {account}"))
            .at(format!("[accounts.{account}]; configured are: {}", known.join(", ")))
            .mend("add the account to the configuration, or name another with --account"));
    };
    Client::new(&ClientConfig::new(&configured.base_url, key))
        .map_err(|error| Failure::new(error).at(format!("[accounts.{account}]")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn attaching_takes_numbers_or_slugs_never_both_nor_neither() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("pool attach agent --number +16286666348 --number +16286666349").is_ok());
        assert!(parse("pool attach agent --slug 16286666348 16286666349").is_ok());
        for wrong in [
            "pool attach agent --number +16286666348 --slug 16286666348",
            "pool attach agent",
            "pool attach agent --number 16286666348",
            "pool detach agent",
            "pool detach agent --number +16286666348",
        ] {
            let error = parse(wrong).map(drop).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }
}

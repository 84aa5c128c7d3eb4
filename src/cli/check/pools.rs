//! Agents whose numbers at the provider are others than those in the database. Read, and left as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounts::Reachable;
use super::answer;
use super::finding::Finding;
use crate::clock;
use crate::config::Config;
use crate::core::call::Assistant;
use crate::core::ids::{AccountName, ModelId};
use crate::core::outcome::ProviderError;
use crate::core::phone::E164;
use crate::core::pool::{Handles, Known, Plan, plan};
use crate::store::{self, AgentNumbers, Pool};

/// Agents looked at, those first whose pools were read last.
const AGENTS_MAX: u32 = 50;
/// Requests under way.
const AT_ONCE: usize = 4;
/// For all of them together.
const READ_MAX: Duration = Duration::from_secs(30);
/// Numbers named of one agent, each way.
const NAMED_MAX: usize = 5;

/// What became of the wish to read one agent.
#[derive(Debug)]
enum Read {
    Answer(Result<Assistant, ProviderError>),
    /// No account of that name is configured here.
    NoAccount,
    /// Its account's key didn't work, which is told already.
    NoKey,
    /// There was no time left.
    TooLate,
}

#[derive(Debug)]
struct Compared {
    here: AgentNumbers,
    there: Read,
}

pub async fn look(
    config: &Config,
    pool: &Pool,
    reachable: &BTreeMap<AccountName, Reachable>,
) -> Vec<Finding> {
    let (all, agents) = match answer(store::agents(pool, AGENTS_MAX)).await {
        Ok(agents) => agents,
        Err(why) => {
            let mend = "give this user the right to use schema outdial";
            return vec![Finding::warning("pools", why, mend)];
        }
    };
    let end = clock::monotonic() + READ_MAX;
    let reads = agents.into_iter().map(|here| compare(here, config, reachable, end));
    let compared: Vec<Compared> = futures_util::stream::iter(reads).buffered(AT_ONCE).collect().await;
    judge(all, &compared, config.pool.refresh)
}

async fn compare(
    here: AgentNumbers,
    config: &Config,
    reachable: &BTreeMap<AccountName, Reachable>,
    end: Instant,
) -> Compared {
    let there = match reachable.get(&here.account) {
        Some(account) => read(account, &here.model, end).await,
        None if config.accounts.contains_key(&here.account) => Read::NoKey,
        None => Read::NoAccount,
    };
    Compared { here, there }
}

async fn read(account: &Reachable, model: &ModelId, end: Instant) -> Read {
    let never = CancellationToken::new();
    let reading = tokio::time::timeout_at(end, async {
        account.pace.turn(&never).await;
        account.client.assistant(model).await
    });
    reading.await.map_or(Read::TooLate, Read::Answer)
}

/// `all`: how many agents there are. `refresh`: how often workers read each.
fn judge(all: i64, compared: &[Compared], refresh: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_step = 0;
    let mut too_late = 0;
    let mut strangers: BTreeMap<&AccountName, usize> = BTreeMap::new();
    for Compared { here, there } in compared {
        match there {
            Read::Answer(reading) => match difference(here, reading, refresh) {
                Some(finding) => findings.push(finding),
                None => in_step += 1,
            },
            Read::NoAccount => *strangers.entry(&here.account).or_default() += 1,
            Read::NoKey => {}
            Read::TooLate => too_late += 1,
        }
    }
    for (account, agents) in strangers {
        findings.push(Finding::warning(
            format!("account {account}"),
            format!("not configured here, and {agents} of the agents belong to it: workers like this one can't dial for them"),
            format!("add [accounts.{account}], or correct the agents' account in the routing file"),
        ));
    }
    if too_late > 0 {
        findings.push(Finding::warning(
            "pools",
            format!("{too_late} agents were not read within {}", humantime::format_duration(READ_MAX)),
            "look whether the provider is slow, or raise calls.reads_per_second; outdial pool sync MODEL_ID reads one",
        ));
    }
    findings.insert(0, Finding::ok("pools", in_short(all, compared.len(), in_step)));
    findings
}

fn in_short(all: i64, seen: usize, in_step: usize) -> String {
    if all == 0 {
        return "no agent is known yet".to_owned();
    }
    let of_all = match i64::try_from(seen) {
        Ok(seen) if seen < all => format!("; of {all} agents the {seen} read last were looked at"),
        _ => String::new(),
    };
    format!("with the same numbers as at the provider: {in_step} of {seen} agents{of_all}")
}

/// What is to be said of one agent; none: it is the same here and there.
fn difference(
    here: &AgentNumbers,
    reading: &Result<Assistant, ProviderError>,
    refresh: Duration,
) -> Option<Finding> {
    let subject = format!("agent {}", here.model);
    let change = match plan(&known(&here.attached), reading) {
        Plan::Adopt(change) => change,
        Plan::Unavailable { why } => {
            let mend = "compare its id and account in the routing file with the provider's; its jobs wait agent_unavailable";
            return Some(Finding::warning(subject, why, mend));
        }
        Plan::Keep { error } => {
            let mend = format!("outdial pool sync {}", here.model);
            return Some(Finding::warning(subject, format!("its numbers can't be compared: {error}"), mend));
        }
        // A single look decides nothing here, so all of it counts as doubted before.
        Plan::HoldBack { .. } => return None,
    };
    let new: Vec<&E164> = change
        .attach
        .iter()
        .map(|entry| &entry.number)
        .filter(|number| !here.attached.contains(*number))
        .collect();
    let gone: Vec<&E164> = change.detach.iter().collect();
    let mut parts = Vec::new();
    if !new.is_empty() {
        parts.push(format!("only at the provider: {}", named(&new)));
    }
    if !gone.is_empty() {
        parts.push(format!("only here: {}", named(&gone)));
    }
    let refresh = humantime::format_duration(refresh);
    let mend = format!("outdial pool sync {}; a running worker reads it every {refresh}", here.model);
    (!parts.is_empty()).then(|| Finding::warning(subject, parts.join("; "), mend))
}

/// The pool as it stands; whatever a reading lacks may go, for it is only told.
fn known(attached: &BTreeSet<E164>) -> Known {
    let handles = Handles { slug: None, sid: None };
    Known {
        attached: attached.iter().map(|number| (number.clone(), handles.clone())).collect(),
        doubted: attached.clone(),
    }
}

fn named(numbers: &[&E164]) -> String {
    let mut text = numbers.iter().take(NAMED_MAX).map(|n| n.masked()).collect::<Vec<_>>().join(", ");
    if numbers.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", numbers.len() - NAMED_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::super::finding::Grade;
    use super::*;
    use crate::core::call::PoolNumber;

    const REFRESH: Duration = Duration::from_secs(300);

    fn number(n: u8) -> E164 {
        E164::from_canonical(&format!("+141555501{n:02}")).unwrap()
    }

    fn here(numbers: impl IntoIterator<Item = u8>) -> AgentNumbers {
        AgentNumbers {
            model: ModelId::parse("agent-1").unwrap(),
            account: AccountName::default_account(),
            attached: numbers.into_iter().map(number).collect(),
        }
    }

    fn there(numbers: impl IntoIterator<Item = u8>) -> Read {
        let entry = |n| PoolNumber { number: number(n), slug: "slug".to_owned(), sid: None };
        Read::Answer(Ok(Assistant {
            model_id: ModelId::parse("agent-1").unwrap(),
            name: None,
            kind: Some("outbound".to_owned()),
            pool: Some(numbers.into_iter().map(entry).collect()),
            unreadable: 0,
        }))
    }

    fn failed(error: ProviderError) -> Read {
        Read::Answer(Err(error))
    }

    /// Of one agent: the line about all, and what is said of it.
    fn judged(here: AgentNumbers, there: Read) -> (Finding, Option<Finding>) {
        let mut findings = judge(1, &[Compared { here, there }], REFRESH).into_iter();
        let first = findings.next().unwrap();
        assert_eq!(first.grade, Grade::Ok);
        let second = findings.next();
        assert_eq!(findings.next(), None);
        (first, second)
    }

    #[test]
    fn equal_pools_are_counted_and_not_told() {
        let (all, one) = judged(here(0..3), there(0..3));
        assert_eq!(all.what, "with the same numbers as at the provider: 1 of 1 agents");
        assert_eq!(one, None);
        assert_eq!(judged(here([]), there([])).1, None);
    }

    #[test]
    fn numbers_on_either_side_alone_are_told_masked() {
        let told = judged(here([1, 2, 3]), there([3, 4])).1.unwrap();
        assert_eq!(told.grade, Grade::Warning);
        assert_eq!(told.what, "only at the provider: +*********04; only here: +*********01, +*********02");
        assert_eq!(
            told.mend.as_deref(),
            Some("outdial pool sync agent-1; a running worker reads it every 5m")
        );
    }

    #[test]
    fn a_pool_that_is_gone_whole_is_told_in_short() {
        let told = judged(here(0..20), there([])).1.unwrap();
        assert!(told.what.starts_with("only here: +*********00, "), "{told:?}");
        assert!(told.what.ends_with("+*********04 and 15 more"), "{told:?}");
    }

    #[test]
    fn an_agent_that_cannot_be_read_is_no_drift() {
        let gone = judged(here(0..3), failed(ProviderError::NotFound { text: None })).1.unwrap();
        assert!(gone.what.contains("404"), "{gone:?}");
        let busy = judged(here(0..3), failed(ProviderError::RateLimited { retry_after: None })).1.unwrap();
        assert!(busy.what.starts_with("its numbers can't be compared"), "{busy:?}");
    }

    #[test]
    fn what_was_not_read_is_told_once_for_all() {
        assert_eq!(judged(here([1]), Read::NoKey).1, None);
        let stranger = judged(here([1]), Read::NoAccount).1.unwrap();
        assert_eq!((stranger.grade, stranger.subject.as_str()), (Grade::Warning, "account default"));
        let compared = [1, 2].map(|n| Compared { here: here([n]), there: Read::TooLate });
        let found = judge(70, &compared, REFRESH);
        assert!(
            found[0].what.ends_with("0 of 2 agents; of 70 agents the 2 read last were looked at"),
            "{found:?}"
        );
        assert_eq!(found.len(), 2);
        assert!(found[1].what.starts_with("2 agents were not read within 30s"), "{found:?}");
        assert_eq!(judge(0, &[], REFRESH), [Finding::ok("pools", "no agent is known yet")]);
    }
}

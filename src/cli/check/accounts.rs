//! Accounts at the provider: address, limits, and whether the key works.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::future::join_all;

use super::finding::Finding;
use crate::config::{Account, Config, HOSTS};
use crate::core::ids::AccountName;
use crate::core::outcome::ProviderError;
use crate::engine::pace::Pace;
use crate::synthflow::{Client, ClientConfig};

/// An account whose key was seen to work.
#[derive(Debug)]
pub struct Reachable {
    pub client: Client,
    /// Workers ask this account as well.
    pub pace: Pace,
}

/// What was found, and the accounts that can be asked more.
pub async fn look(config: &Config) -> (Vec<Finding>, BTreeMap<AccountName, Reachable>) {
    let asked = join_all(config.accounts.iter().map(|(name, account)| ask(name, account))).await;
    let (mut findings, mut reachable) = (Vec::new(), BTreeMap::new());
    for (name, (told, client)) in config.accounts.keys().zip(asked) {
        findings.extend(told);
        if let Some(client) = client {
            let pace = Pace::of_looks(config.calls.reads_per_second);
            reachable.insert(name.clone(), Reachable { client, pace });
        }
    }
    (findings, reachable)
}

/// One request, which the client gives up after its own time-out.
async fn ask(name: &AccountName, account: &Account) -> (Vec<Finding>, Option<Client>) {
    let mut findings = Vec::new();
    findings.extend(limits(name, account.calls_per_second, account.concurrent_calls));
    findings.extend(address(name, &account.base_url));
    let Some(api_key) = account.api_key.clone() else { return (findings, None) };
    let client = match Client::new(&ClientConfig::new(account.base_url.clone(), api_key)) {
        Ok(client) => client,
        Err(error) => {
            let mend = "correct the account's section";
            findings.push(Finding::problem(subject(name), error.to_string(), mend));
            return (findings, None);
        }
    };
    let probed = client.probe_key().await;
    findings.push(key(name, &account.base_url, &probed));
    (findings, probed.is_ok().then_some(client))
}

fn subject(name: &AccountName) -> String {
    format!("account {name}")
}

fn limits(name: &AccountName, per_second: Option<u32>, at_once: Option<u32>) -> Option<Finding> {
    if per_second.is_some() || at_once.is_some() {
        return None;
    }
    let what = "no limits are set: it dials until the provider answers 429";
    let mend = format!("set accounts.{name}.calls_per_second and concurrent_calls to the account's own");
    Some(Finding::warning(subject(name), what, mend))
}

/// What is to be said of a base URL that isn't one of Synthflow's.
fn address(name: &AccountName, base_url: &str) -> Option<Finding> {
    let url = base_url.to_ascii_lowercase();
    if HOSTS.contains(&url.as_str()) {
        return None;
    }
    if is_here(host(&url)) {
        let what = format!("{base_url} is on this machine: a stand-in, or a proxy");
        return Some(Finding::ok(subject(name), what));
    }
    if url.starts_with("http://") {
        let what = "base_url is http://: the key and the callees' numbers travel readable";
        return Some(Finding::warning(subject(name), what, "https://"));
    }
    let what = format!("base_url {base_url} is none of Synthflow's");
    let mend = format!(
        "one of {}; leave it where it is a proxy of yours that never repeats a POST",
        HOSTS.join(", ")
    );
    Some(Finding::warning(subject(name), what, mend))
}

/// The host of a URL, without port and brackets.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn key(name: &AccountName, base_url: &str, probed: &Result<Option<u64>, ProviderError>) -> Finding {
    match probed {
        Ok(Some(agents)) => {
            Finding::ok(subject(name), format!("the key works at {base_url}, {agents} agents"))
        }
        Ok(None) => Finding::ok(subject(name), format!("the key works at {base_url}")),
        Err(error @ ProviderError::RateLimited { .. }) => Finding::warning(
            subject(name),
            format!("nobody can tell whether the key works: {error}"),
            "check again in a minute; where it stays so, set the account's limits to what its plan allows",
        ),
        Err(error @ ProviderError::Unavailable(_)) => {
            let mend = format!(
                "see whether {base_url} can be reached from here, and whether the provider has an outage"
            );
            Finding::problem(subject(name), error.to_string(), mend)
        }
        Err(error) => {
            let mend = format!("correct accounts.{name}.api_key or base_url ({base_url})");
            Finding::problem(subject(name), error.to_string(), mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::*;

    fn grade_of(base_url: &str) -> Option<Grade> {
        address(&AccountName::default_account(), base_url).map(|finding| finding.grade)
    }

    #[test]
    fn synthflows_own_addresses_need_no_word() {
        for url in HOSTS {
            assert_eq!(grade_of(url), None, "{url}");
        }
        assert_eq!(grade_of("https://API.eu.synthflow.ai/v2"), None);
    }

    #[test]
    fn other_addresses_are_told() {
        for url in ["http://127.0.0.1:8090/v2", "http://localhost/v2", "http://[::1]:80/v2"] {
            assert_eq!(grade_of(url), Some(Grade::Ok), "{url}");
        }
        for url in [
            "http://api.us.synthflow.ai/v2",
            "http://127.example.com/v2",
            "http://localhost.example.com:80/v2",
            "https://api.synthflow.example/v2",
            "https://api.us.synthflow.ai.example/v2",
        ] {
            assert_eq!(grade_of(url), Some(Grade::Warning), "{url}");
        }
    }

    #[test]
    fn an_account_without_any_limit_is_a_warning() {
        let name = AccountName::default_account();
        assert!(limits(&name, None, None).is_some_and(|finding| finding.grade == Grade::Warning));
        assert_eq!(limits(&name, Some(1), None), None);
        assert_eq!(limits(&name, None, Some(5)), None);
    }

    #[test]
    fn a_key_is_refused_only_where_the_provider_says_so() {
        let name = AccountName::default_account();
        let grade = |probed| key(&name, HOSTS[0], &probed).grade;
        assert_eq!(grade(Ok(Some(3))), Grade::Ok);
        assert_eq!(grade(Ok(None)), Grade::Ok);
        assert_eq!(grade(Err(ProviderError::RateLimited { retry_after: None })), Grade::Warning);
        assert_eq!(grade(Err(ProviderError::Unauthorized { status: 401, text: None })), Grade::Problem);
        assert_eq!(grade(Err(ProviderError::Unavailable("no route".to_owned()))), Grade::Problem);
    }
}

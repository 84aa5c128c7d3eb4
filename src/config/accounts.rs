//! `[accounts.NAME]`: workspaces at the provider. `default` is the one of the `SYNTHFLOW_*` variables.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;

use super::given::{Bad, Given, Reading};
use super::reader::Reader;
use crate::core::ids::AccountName;
use crate::core::phone::E164;

/// The provider's hosts: a key belongs to one of them, and the wrong one answers 401.
pub const HOSTS: &[&str] =
    &["https://api.us.synthflow.ai/v2", "https://api.eu.synthflow.ai/v2", "https://api.synthflow.ai/v2"];

#[derive(Debug)]
pub struct Account {
    /// With the version path, without a slash at its end; paths are appended to it.
    pub base_url: String,
    /// `None` only where the command doesn't need it.
    pub api_key: Option<SecretString>,
    /// What the provider signs webhooks with; `None`: none are taken.
    pub webhook_secret: Option<SecretString>,
    /// Call attempts per second; `None`: unlimited.
    pub calls_per_second: Option<u32>,
    /// Calls at once; `None`: unlimited.
    pub concurrent_calls: Option<u32>,
    /// For staging: any other callee is refused. `None`: everybody may be called; empty: nobody.
    pub only_phones: Option<BTreeSet<E164>>,
}

/// Every account that anything was given for; `default` also where nothing was.
pub(super) fn read(r: &mut Reader, needed: bool) -> BTreeMap<AccountName, Account> {
    let mut names = r.accounts_given();
    if names.is_empty() {
        names.insert("default".to_owned());
    }
    let mut accounts = BTreeMap::new();
    for name in names {
        let account = Account::read(r, &name, needed);
        match AccountName::parse(&name) {
            Ok(name) => drop(accounts.insert(name, account)),
            Err(error) => {
                let what = format!("the account's name {error}");
                let origin = super::Origin::Nowhere;
                r.fault(&format!("accounts.{name}"), origin, Bad::new(what, "rename the section"));
            }
        }
    }
    accounts
}

impl Account {
    fn read(r: &mut Reader, name: &str, needed: bool) -> Self {
        let key = |last: &str| format!("accounts.{name}.{last}");
        let api_key = r.secret(&key("api_key"), api_key);
        if needed && api_key.is_none() {
            let mend = match name {
                "default" => "set SYNTHFLOW_API_KEY (or SYNTHFLOW_API_KEY_FILE)".to_owned(),
                _ => {
                    let upper = name.to_uppercase().replace('-', "_");
                    format!(
                        "set OUTDIAL__ACCOUNTS__{upper}__API_KEY (or …_API_KEY_FILE), or remove the account"
                    )
                }
            };
            r.demand(&key("api_key"), &mend);
        }
        Self {
            base_url: r.or(&key("base_url"), HOSTS[0].to_owned(), base_url),
            api_key,
            webhook_secret: r.secret(&key("webhook_secret"), webhook_secret),
            calls_per_second: r.optional(&key("calls_per_second"), |v| v.whole_u32(1..=1_000_000)),
            concurrent_calls: r.optional(&key("concurrent_calls"), |v| v.whole_u32(1..=1_000_000)),
            only_phones: r.optional(&key("only_phones"), phones),
        }
    }
}

fn api_key(given: &Given) -> Reading<&str> {
    let takes = "the key as the provider shows it, without quotes or blanks";
    let text = given.text(takes)?;
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text);
    }
    Err(Bad::new("has blanks or characters that a header can't carry", takes))
}

fn webhook_secret(given: &Given) -> Reading<&str> {
    let takes = "the secret as the workspace's settings show it, without blanks at its ends";
    let text = given.text(takes)?;
    if !text.trim().is_empty() && text.trim() == text {
        return Ok(text);
    }
    Err(Bad::new("is empty, or has blanks at its ends", takes))
}

fn base_url(given: &Given) -> Reading<String> {
    let takes =
        format!("one of {} (the key's region), or another address that ends in /v2", HOSTS.join(", "));
    let url = given.web_address(&takes)?;
    match url.split_once("://") {
        Some((_, rest)) if rest.ends_with("/v2") => Ok(url.to_owned()),
        _ => Err(Bad::new(format!("{url:?} doesn't end in /v2"), takes)),
    }
}

/// A fault names the entry's place, not the number: it is a person's.
fn phones(given: &Given) -> Reading<BTreeSet<E164>> {
    let takes = "a list of numbers such as +14155550123: plus, country code, number, no blanks";
    let mut phones = BTreeSet::new();
    for (place, text) in given.list(takes)?.iter().enumerate() {
        let bad = || Bad::new(format!("entry {} is not a number in E.164", place + 1), takes);
        phones.insert(E164::from_canonical(text).ok_or_else(bad)?);
    }
    Ok(phones)
}

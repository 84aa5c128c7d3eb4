//! Routing at work: rules in, jobs in, and which number the provider's stand-in was asked to call from.

mod change;
mod dates;
mod events;
mod explained;
mod rules;
mod sticky;
mod strategies;

use serde_json::{Value, json};

use crate::support::stage::job;

/// A job without an agent of its own.
fn bare(id: &str, campaign: &str, phone: &str) -> Value {
    json!({ "job_id": id, "campaign_id": campaign, "phone": phone, "name": "Ada" })
}

/// A job with more fields.
fn with(mut job: Value, more: Value) -> Value {
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

/// Jobs of a campaign, one to each callee; a job's id is its callee's number without the plus.
fn to<'a>(campaign: &str, phones: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    phones.into_iter().map(|phone| job(&format!("{campaign}-{}", &phone[1..]), campaign, phone)).collect()
}

/// A rule for the campaign of its name.
fn rule_for(campaign: &str, uses: &[&str], more: &str) -> String {
    format!(
        "[[rule]]\nname = \"{campaign}\"\nmatch = {{ campaign = [\"{campaign}\"] }}\nuse = {{ numbers = {uses:?} }}\n{more}\n"
    )
}

/// A number's entry.
fn entry(number: &str, more: &str) -> String {
    format!("[[number]]\nnumber = \"{number}\"\n{more}\n")
}

/// On a machine that does much else a slot may pass unused, and its job then goes from the next number in turn: these
/// workers take their time, so that what is counted is what was chosen.
const PATIENT: (&str, &str) = ("OUTDIAL__LIMITS__SLACK_MS", "900");

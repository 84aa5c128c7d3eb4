//! Who may call whom from where, and how often: told to the workers as a routing file, to the sandbox as its pool, and
//! to the oracle as what must hold.

use std::collections::BTreeMap;

use super::faults::webhook_faults;
use super::ground::WEBHOOK_SECRET;
use crate::support::stage::{AGENT, KEY, number};

/// For so many jobs a second, with room to catch up.
#[derive(Debug, Clone)]
pub struct Routes {
    pub jobs_per_second: usize,
}

/// Calls in seconds, wherever the window is laid.
pub type Windows = Vec<(u64, usize)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub windows: Windows,
    pub concurrent: Option<usize>,
}

/// The campaign that has numbers and limits of its own.
const OWN: &str = "spring";
pub const CAMPAIGNS: [&str; 3] = [OWN, "summer", "autumn"];
/// Room for its calls, and for those of which nobody knows for a while whether they were placed.
const OWN_CONCURRENT: usize = 120;
/// Seconds of a call's life that pass in one.
pub const TIME_SCALE: f64 = 100.0;

impl Routes {
    fn own_numbers(&self) -> usize {
        (self.jobs_per_second / 4).max(2)
    }

    fn numbers(&self) -> usize {
        self.own_numbers() * 3
    }

    pub fn number_limits(&self) -> Limits {
        Limits { windows: vec![(1, 4), (60, 150)], concurrent: Some(12) }
    }

    /// The account's calls a second, three times what comes in.
    pub fn account_limits(&self) -> Limits {
        Limits { windows: vec![(1, self.jobs_per_second * 3)], concurrent: None }
    }

    pub fn campaign_limits(&self, campaign: &str) -> Option<Limits> {
        let own =
            Limits { windows: vec![(1, self.jobs_per_second * 3 / 4)], concurrent: Some(OWN_CONCURRENT) };
        (campaign == OWN).then_some(own)
    }

    /// Whether this campaign's calls may come from this number.
    pub fn allows(&self, campaign: &str, from: &str) -> bool {
        let own = (0..self.own_numbers()).any(|n| number(n) == from);
        let shared = (self.own_numbers()..self.numbers()).any(|n| number(n) == from);
        if campaign == OWN { own } else { shared }
    }

    pub fn file(&self) -> String {
        let list = |from: usize, to: usize| {
            let quoted: Vec<String> = (from..to).map(|n| format!("{:?}", number(n))).collect();
            quoted.join(", ")
        };
        let own = self.campaign_limits(OWN).expect("it has some");
        format!(
            "[defaults]\ncalling_rules = \"none\"\n\
             number_limits = {{ per_second = 4, per_minute = 150, concurrent = 12 }}\n\
             [[campaign]]\nid = \"{OWN}\"\nlimits = {{ per_second = {}, concurrent = {OWN_CONCURRENT} }}\n\
             [[rule]]\nname = \"own\"\nmatch = {{ campaign = [\"{OWN}\"] }}\nuse = {{ numbers = [{}] }}\n\
             [[rule]]\nname = \"shared\"\nuse = {{ numbers = [{}] }}\n",
            own.windows[0].1,
            list(0, self.own_numbers()),
            list(self.own_numbers(), self.numbers()),
        )
    }

    /// `webhooks`: where they go. Answers take long enough for some to be under way whenever a worker dies.
    pub fn sandbox(&self, seed: u64, webhooks: &str) -> String {
        let pool: Vec<String> = (0..self.numbers()).map(|n| format!("{:?}", number(n))).collect();
        let faults = toml::to_string(&BTreeMap::from([("fault", webhook_faults())])).unwrap();
        format!(
            "seed = {seed}\ntime_scale = {TIME_SCALE:.1}\nlatency_ms = {{ min = 20, max = 200 }}\n\
             [[account]]\nname = \"default\"\nkey = \"{KEY}\"\nwebhook_secret = \"{WEBHOOK_SECRET}\"\n\
             [[agent]]\nmodel_id = \"{AGENT}\"\nname = \"Agent\"\naccount = \"default\"\nnumbers = [{}]\n\
             external_webhook_url = \"{webhooks}\"\n{}",
            pool.join(", "),
            faults,
        )
    }
}

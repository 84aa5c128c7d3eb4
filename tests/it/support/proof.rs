//! What must hold whatever happened, read from the sandbox's ledger and from what workers printed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use outdial::synthflow::sandbox::LedgerEntry;
use rustix::process::Signal;
use serde_json::Value;

use super::Outdial;
use super::stage::{NAME, Stage};

const SOON: Duration = Duration::from_secs(60);

/// The POSTs of each callee, in order of arrival.
pub fn posts_by_phone(posts: &[LedgerEntry]) -> HashMap<&str, Vec<&LedgerEntry>> {
    let mut by_phone: HashMap<&str, Vec<&LedgerEntry>> = HashMap::new();
    for post in posts {
        by_phone.entry(post.phone.as_deref().expect("every POST has a phone")).or_default().push(post);
    }
    by_phone
}

/// Seconds between one arrival and the next.
pub fn gaps_s(posts: &[LedgerEntry]) -> Vec<f64> {
    posts.windows(2).map(|two| (two[1].mono_us - two[0].mono_us) as f64 / 1e6).collect()
}

/// No callee's number, in any writing that keeps its digits together, and no callee's name.
pub fn assert_discreet(printed: &str, posts: &[LedgerEntry]) {
    let phones = posts.iter().filter_map(|post| post.phone.as_deref());
    let secret: HashSet<&str> = phones.flat_map(|phone| [&phone[1..], &phone[2..]]).collect();
    let written = printed.split(|c: char| !c.is_ascii_digit()).find(|digits| secret.contains(digits));
    assert_eq!(written, None, "a callee's number stands in:\n{printed}");
    assert!(!printed.contains(NAME), "a callee's name stands in:\n{printed}");
}

impl Stage {
    /// SIGTERM: it ends with 0 and has told nothing of any callee.
    pub async fn stopped(&self, worker: Outdial) -> String {
        worker.signal(Signal::TERM);
        let (status, printed) = worker.wait(SOON).await;
        assert!(status.success(), "{status}\n{printed}");
        assert_discreet(&printed, &self.posts());
        printed
    }

    /// Every one of these jobs is done, and the provider was asked for each callee exactly once.
    pub async fn each_done_once(&self, jobs: &[Value], limit: Duration) {
        self.jobs("done", None, jobs.len() as i64, limit).await;
        self.each_placed_once(jobs);
        assert_eq!(self.posts().len(), jobs.len());
    }

    /// The same, beside others: `all` POSTs in all.
    pub async fn each_done_once_of(&self, jobs: &[Value], all: usize, limit: Duration) {
        self.jobs("done", None, all as i64, limit).await;
        let posts = self.posts();
        assert_eq!(posts.len(), all);
        let by_phone = posts_by_phone(&posts);
        for job in jobs {
            assert_eq!(by_phone[job["phone"].as_str().unwrap()].len(), 1, "{job}");
        }
    }

    /// The provider accepted each of these callees exactly once, whatever it answered before.
    pub fn each_placed_once(&self, jobs: &[Value]) {
        let posts = self.posts();
        let by_phone = posts_by_phone(&posts);
        for job in jobs {
            let phone = job["phone"].as_str().unwrap();
            let accepted =
                by_phone.get(phone).map_or(0, |p| p.iter().filter(|p| p.status == Some(200)).count());
            assert_eq!(accepted, 1, "{}: {:?}", job["job_id"], by_phone.get(phone));
        }
    }

    /// No place of any limit is taken.
    pub async fn nothing_in_use(&self) {
        assert_eq!(self.count("select coalesce(sum(abs(in_use)), 0)::bigint from outdial.limits").await, 0);
    }

    /// Nothing is held by anybody any more.
    pub async fn nothing_held(&self) {
        for rest in [
            "select coalesce(sum(abs(in_use)), 0)::bigint from outdial.limits",
            "select count(*) from outdial.reservations",
            "select count(*) from outdial.live",
        ] {
            assert_eq!(self.count(rest).await, 0, "{rest}");
        }
    }
}

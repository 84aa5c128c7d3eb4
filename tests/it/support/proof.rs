//! What must hold whatever happened, read from the sandbox's ledger and from what workers printed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use outdial::synthflow::sandbox::LedgerEntry;
use rustix::process::Signal;
use serde_json::Value;

use super::Outdial;
use super::stage::{NAME, Stage, most_in_window};

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

/// `limits.slack_ms`, as it is by default.
const SLACK_US: i64 = 100_000;

/// A callee has a second POST only where each before it is known not to have placed a call.
fn nobody_is_rung_twice(posts: &[LedgerEntry]) {
    for (_, posts) in posts_by_phone(posts) {
        let (_, before) = posts.split_last().unwrap();
        let not_placed = |post: &&LedgerEntry| {
            post.call_id.is_none() && post.status.is_some_and(|s| (400..500).contains(&s))
        };
        assert!(
            before.iter().all(not_placed),
            "rung again although the last may have been placed: {posts:?}"
        );
    }
}

/// The number that a call was made from.
pub fn from_number(post: &LedgerEntry) -> Option<&str> {
    post.from_phone_number.as_deref()
}

/// How long after its slot a call arrived, in microseconds; 0 where it has none.
fn after_slot(post: &LedgerEntry, slots: &HashMap<String, i64>) -> i64 {
    let slot = post.attempt_id.as_ref().and_then(|attempt| slots.get(attempt));
    slot.map_or(0, |slot| post.at_us - slot)
}

/// Nothing that `of` names made more calls in any window, wherever it is laid over the arrivals. A machine that is full may hold
/// a request up for longer than the slack, which nobody can help: a call that came so late counts for when its slot was.
fn within<'a>(
    posts: impl IntoIterator<Item = &'a LedgerEntry>,
    of: impl Fn(&'a LedgerEntry) -> Option<&'a str>,
    slots: &HashMap<String, i64>,
    windows: &[(u64, usize)],
) {
    let mut by_thing: HashMap<Option<&str>, Vec<(u64, i64)>> = HashMap::new();
    for post in posts {
        let late = after_slot(post, slots);
        let back = if late > SLACK_US { late } else { 0 };
        let at = post.mono_us.saturating_sub(back.unsigned_abs());
        by_thing.entry(of(post)).or_default().push((at, late));
    }
    for (thing, mut calls) in by_thing {
        calls.sort_unstable();
        for (seconds, allowed) in windows {
            let most = most_in_window(calls.iter().map(|call| call.0), *seconds);
            assert!(
                most <= *allowed,
                "{thing:?} made {most} calls in {seconds} s, and may make {allowed}; when, and how long after the slot: {calls:?}"
            );
        }
    }
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
        self.prove(jobs, &[]).await;
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

    /// The oracle: what must hold at any moment when nothing is under way, whatever happened before. Its truth is what
    /// was published with a confirm and what the provider received; our own tables are held against that.
    ///
    /// `windows`: (seconds, calls), the limits of every number.
    pub async fn prove(&self, published: &[Value], windows: &[(u64, usize)]) {
        let posts = self.posts();
        self.every_publish_is_seen(published).await;
        nobody_is_rung_twice(&posts);
        within(&posts, from_number, &self.slots().await, windows);
        self.every_post_is_recorded(&posts).await;
        self.counters_are_right().await;
        self.views_count_as_records_do().await;
    }

    /// Of [`Stage::prove`], what must hold also while jobs are under way: nobody is rung twice.
    pub fn never_twice(&self) {
        nobody_is_rung_twice(&self.posts());
    }

    /// Likewise, the limits of every number.
    pub async fn within(&self, windows: &[(u64, usize)]) {
        within(&self.posts(), from_number, &self.slots().await, windows);
    }

    /// The machine held up some calls, as far as it may; a worker that minds no slot has all of them late.
    pub async fn most_in_time(&self) {
        let late = self.late_by(&self.posts()).await;
        let (late, all) = (late.iter().filter(|us| **us > SLACK_US).count(), late.len());
        assert!(late * 4 <= all, "{late} of {all} arrived later after their slots than the slack");
    }

    /// The limits of whatever `of` names, over these calls.
    pub async fn within_by<'a>(
        &self,
        posts: impl IntoIterator<Item = &'a LedgerEntry>,
        of: impl Fn(&'a LedgerEntry) -> Option<&'a str>,
        windows: &[(u64, usize)],
    ) {
        within(posts, of, &self.slots().await, windows);
    }

    /// How long after its slot each of these calls arrived, in microseconds.
    pub async fn late_by(&self, posts: &[LedgerEntry]) -> Vec<i64> {
        let slots = self.slots().await;
        posts.iter().map(|post| after_slot(post, &slots)).collect()
    }

    /// Of each attempt, in microseconds of the wall clock.
    async fn slots(&self) -> HashMap<String, i64> {
        let query =
            "select attempt_id::text, (extract(epoch from slot) * 1000000)::bigint from outdial.attempts";
        let rows: Vec<(String, i64)> = sqlx::query_as(query).fetch_all(&self.db).await.unwrap();
        rows.into_iter().collect()
    }

    /// Every job that was published has one record, in a state that a person can see, and stands where that state says.
    async fn every_publish_is_seen(&self, published: &[Value]) {
        let rows: Vec<(String, String, Option<String>, i64)> = sqlx::query_as(
            "select r.job_id, r.state, r.reason,
                    (select count(*) from outdial.work w where w.job_no = j.job_no)
                    + (select count(*) from outdial.reservations v where v.job_no = j.job_no)
                    + (select count(*) from outdial.live l where l.job_no = j.job_no)
             from reporting.jobs r join outdial.jobs j using (job_id)",
        )
        .fetch_all(&self.db)
        .await
        .unwrap();
        let mut missing: BTreeSet<&str> =
            published.iter().map(|job| job["job_id"].as_str().unwrap()).collect();
        for (job, state, reason, places) in &rows {
            let (seen, right_places) = match state.as_str() {
                "waiting" => (reason.is_some(), 1),
                "dialing" => (reason.as_deref() == Some("unconfirmed"), 1),
                "placed" => (true, 1),
                "review" => (true, *places),
                "refused" => (reason.is_some(), 0),
                "done" | "expired" | "canceled" => (true, 0),
                _ => (false, 0),
            };
            assert!(seen, "{job} is {state} {reason:?}: nobody can see why");
            assert_eq!(*places, right_places, "{job} is {state} {reason:?} and stands in {places} places");
            assert!(missing.remove(job.as_str()), "{job} is recorded twice, or was never published");
        }
        assert!(missing.is_empty(), "published, confirmed, and lost: {missing:?}");
    }

    /// Each POST is an attempt of ours, by the number we chose for it, and what we say became of it can be so.
    async fn every_post_is_recorded(&self, posts: &[LedgerEntry]) {
        type Attempt = (String, String, Option<String>, String, Option<String>);
        let rows: Vec<Attempt> = sqlx::query_as(
            "select attempt_id::text, phone, from_phone_number, state, call_id from outdial.attempts",
        )
        .fetch_all(&self.db)
        .await
        .unwrap();
        let attempts: HashMap<&str, &Attempt> = rows.iter().map(|a| (a.0.as_str(), a)).collect();
        let mut sent = HashSet::new();
        for post in posts {
            let id = post.attempt_id.as_deref().expect("every POST names its attempt");
            assert!(sent.insert(id), "attempt {id} was sent twice");
            let Some((_, phone, number, state, call_id)) = attempts.get(id) else {
                panic!("a POST without a record: {post:?}")
            };
            assert_eq!(post.phone.as_ref(), Some(phone), "{id}: another callee");
            assert_eq!(&post.from_phone_number, number, "{id}: another number than was chosen");
            let known = call_id.is_none() || *call_id == post.call_id;
            assert!(known, "{id} is recorded as call {call_id:?}, and is {:?}", post.call_id);
            let closed_wrongly = state == "not_placed" && post.call_id.is_some();
            assert!(!closed_wrongly, "{id} is recorded as not placed, and was: {post:?}");
        }
        let unsent =
            rows.iter().find(|a| ["placed", "ended"].contains(&a.3.as_str()) && !sent.contains(&*a.0));
        assert_eq!(unsent, None, "recorded as placed, and never sent");
        let miscounted = "select count(*) from outdial.jobs j where j.attempts <>
            (select count(*) from outdial.attempts a where a.job_no = j.job_no)";
        assert_eq!(self.count(miscounted).await, 0, "jobs whose attempts are miscounted");
        let miscounted =
            "select count(*) from outdial.jobs j where j.placed <> (select count(*) from outdial.attempts a
            where a.job_no = j.job_no and a.state in ('placed', 'ended'))";
        assert_eq!(self.count(miscounted).await, 0, "jobs whose placed calls are miscounted");
    }

    /// What is in use is what reservations and open calls use.
    async fn counters_are_right(&self) {
        // Counted here and not by the ledger's own audit, which might be wrong as the counters are. What is in review
        // holds no place.
        let wrong: Vec<(String, i32, i64)> = sqlx::query_as(
            "select l.key, l.in_use, u.n from outdial.limits l cross join lateral (
                 select (select count(*) from outdial.reservations r
                         where l.thing_no in (r.number_thing, r.campaign_thing, r.account_thing))
                        + (select count(*) from outdial.live v where v.state <> 'review'
                           and l.thing_no in (v.number_thing, v.campaign_thing, v.account_thing)) as n) u
             where l.in_use <> u.n",
        )
        .fetch_all(&self.db)
        .await
        .unwrap();
        assert!(wrong.is_empty(), "(thing, in use, recounted): {wrong:?}");
    }

    /// What views tell by counts kept beside the records is what the records tell.
    pub async fn views_count_as_records_do(&self) {
        let campaigns = "select to_jsonb(v), to_jsonb(j) || to_jsonb(a) from reporting.campaigns v
             cross join lateral (
                 select count(*) filter (where state = 'waiting') as waiting, count(*) filter (where state = 'dialing') as dialing,
                        count(*) filter (where state = 'placed') as placed, count(*) filter (where state = 'done') as done,
                        count(*) filter (where state = 'refused') as refused, count(*) filter (where state = 'expired') as expired,
                        count(*) filter (where state = 'canceled') as canceled, count(*) filter (where state = 'review') as review
                 from outdial.jobs where campaign_id = v.campaign_id) j
             cross join lateral (
                 select count(*) filter (where disposition = 'answered') as answered,
                        round(count(*) filter (where disposition = 'answered')::numeric / nullif(count(*) filter (where state = 'ended'), 0), 4)
                            as answer_rate,
                        max(placed_at) as last_placed_at
                 from outdial.attempts where campaign_id = v.campaign_id) a
             where not to_jsonb(v) @> (to_jsonb(j) || to_jsonb(a))";
        let numbers = "select to_jsonb(v), to_jsonb(a) || to_jsonb(g) from reporting.numbers v
             cross join lateral (
                 select count(*) filter (where g.slot > now() - interval '1 second') as used_second,
                        count(*) filter (where g.slot > now() - interval '1 minute') as used_minute,
                        count(*) filter (where g.slot > now() - interval '1 hour') as used_hour,
                        count(*) filter (where g.slot > now() - interval '1 day') as used_day
                 from outdial.limits l join outdial.grants g using (thing_no) where l.kind = 3 and l.key = v.number) g
             cross join lateral (
                 select count(placed_at) as placed_last_day,
                        round(count(*) filter (where disposition = 'answered')::numeric / nullif(count(*) filter (where state = 'ended'), 0), 4)
                            as answer_rate
                 from outdial.attempts where from_phone_number = v.number and submitted_at > now() - interval '1 day') a
             where not to_jsonb(v) @> (to_jsonb(a) || to_jsonb(g))";
        for view in [campaigns, numbers] {
            let wrong: Vec<(Value, Value)> = sqlx::query_as(view).fetch_all(&self.db).await.unwrap();
            assert!(wrong.is_empty(), "(told, counted): {wrong:?}");
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

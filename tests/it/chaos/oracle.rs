//! What must hold when a run is over. The truth is what was published with a confirm and what the provider received; our
//! own records are held against that, never believed.

use std::collections::{HashMap, HashSet};

use super::evidence::{Attempt, Evidence, Post};
use super::load::Published;
use super::routes::Routes;
use super::windows::Lateness;

/// Something that must not be, and the job that shows it.
#[derive(Debug)]
pub struct Breach {
    pub what: String,
    pub job: Option<String>,
}

/// Figures in the order in which they are told, and what must not be.
#[derive(Debug, Default)]
pub struct Verdict {
    pub figures: Vec<(String, u64)>,
    pub breaches: Vec<Breach>,
}

impl Verdict {
    pub fn figure(&mut self, what: impl Into<String>, n: usize) {
        self.figures.push((what.into(), n as u64));
    }

    pub fn breach(&mut self, job: Option<&str>, what: String) {
        self.breaches.push(Breach { what, job: job.map(str::to_owned) });
    }

    /// Counts them, and each is a breach.
    fn none(&mut self, what: &str, found: Vec<(Option<&str>, String)>) {
        self.figure(what, found.len());
        for (job, how) in found {
            self.breach(job, format!("{what}: {how}"));
        }
    }

    pub fn of(found: &Evidence, published: &Published, routes: &Routes, lateness: &Lateness) -> Self {
        let mut verdict = Self::default();
        verdict.figure("publishes confirmed: jobs", published.jobs.len());
        verdict.figure("publishes confirmed: duplicates on purpose", published.duplicates as usize);
        verdict.figure("publishes confirmed: poison", published.poison.len());
        verdict.figure("publishes confirmed: conflicting copies", published.conflicts.len());
        verdict.figure("publishes repeated, unconfirmed", published.repeated as usize);
        verdict.figure("POSTs received", found.posts.len());
        verdict.figure("calls placed", found.posts.iter().filter(|p| p.entry.placed).count());
        verdict.never_twice(found);
        verdict.never_lost(found, published);
        verdict.dead_letters(found, published);
        verdict.each_post_is_recorded(found);
        verdict.caller_ids(found, routes);
        verdict.counters(found);
        lateness.judge(found, routes, &mut verdict);
        verdict.events(found);
        verdict.proves_something(found, published);
        verdict
    }

    /// A run in which nothing of this happened proves nothing.
    fn proves_something(&mut self, found: &Evidence, published: &Published) {
        let unknown = found.events.get("call.unknown").map_or(0, HashMap::len);
        for (what, n) in [
            ("duplicates", published.duplicates as usize),
            ("poison", published.poison.len()),
            ("unknown attempts", unknown),
        ] {
            if n == 0 {
                self.breach(None, format!("the run proves nothing: there were no {what}"));
            }
        }
    }

    fn never_twice(&mut self, found: &Evidence) {
        let mut seen = HashSet::new();
        let again = found.posts.iter().filter(|p| !seen.insert(p.entry.attempt_id.as_deref()));
        let again = again.map(|p| (found.job_of(p), format!("{:?}", p.entry))).collect();
        self.none("attempts POSTed twice", again);

        let mut by_callee: HashMap<&str, Vec<&Post>> = HashMap::new();
        for post in &found.posts {
            by_callee.entry(post.entry.phone.as_deref().unwrap_or_default()).or_default().push(post);
        }
        let (mut rung, mut risked) = (Vec::new(), Vec::new());
        for posts in by_callee.values() {
            if posts.iter().filter(|p| p.entry.placed).count() > 1 {
                rung.push((found.job_of(posts[0]), format!("{posts:?}")));
            }
            // Only a clear refusal, or a person's word, lets the next attempt begin.
            let refused = |p: &&Post| {
                let told = p.entry.attempt_id.as_ref().is_some_and(|id| found.resolved.contains(id));
                p.call.is_none() && (told || p.entry.status.is_some_and(|s| (400..500).contains(&s)))
            };
            if !posts[..posts.len() - 1].iter().all(refused) {
                risked.push((found.job_of(posts[0]), format!("{posts:?}")));
            }
        }
        self.none("callees rung twice", rung);
        self.none("POSTs after one that may have placed a call", risked);
    }

    fn never_lost(&mut self, found: &Evidence, published: &Published) {
        let mut lost = Vec::new();
        for (id, (campaign, phone)) in &published.jobs {
            match found.jobs.get(id) {
                None => lost.push((Some(id.as_str()), "confirmed, and nowhere".to_owned())),
                Some(job) if job.campaign_id != *campaign || job.phone != *phone => {
                    lost.push((Some(id.as_str()), format!("recorded as {job:?}")));
                }
                Some(_) => {}
            }
        }
        self.none("jobs lost", lost);
        let invented = found.jobs.keys().filter(|id| !published.jobs.contains_key(*id));
        let invented = invented.map(|id| (Some(id.as_str()), "never published".to_owned())).collect();
        self.none("jobs invented", invented);

        let standing = found.jobs.values().filter_map(|job| {
            let right = match job.state.as_str() {
                "done" => job.places == 0,
                "review" => job.places <= 1,
                _ => false,
            };
            (!right).then(|| (Some(job.job_id.as_str()), format!("{job:?}")))
        });
        let standing = standing.collect();
        self.none("jobs that stand still or in two places", standing);
        for state in ["done", "review"] {
            let n = found.jobs.values().filter(|job| job.state == state).count();
            self.figure(format!("jobs that are {state}"), n);
        }
    }

    fn dead_letters(&mut self, found: &Evidence, published: &Published) {
        let dead = &found.dead;
        let wrong = published.poison.iter().filter_map(|(id, reason)| {
            let told = dead.reasons.get(id).map(String::as_str);
            (told != Some(reason)).then(|| (None, format!("{id} is {reason}, told is {told:?}")))
        });
        let wrong = wrong.collect();
        self.none("poisoned messages without their reason", wrong);
        let swallowed = published.conflicts.iter().filter(|id| !dead.conflicts.contains(*id));
        let swallowed = swallowed.map(|id| (Some(id.as_str()), String::new())).collect();
        self.none("conflicting copies that are not told", swallowed);
        let innocent = dead
            .reasons
            .iter()
            .filter(|(id, reason)| *reason != "conflict" && !published.poison.contains_key(*id));
        let innocent = innocent.map(|(id, reason)| (None, format!("{id}: {reason}"))).collect();
        self.none("innocent messages dead-lettered", innocent);
        self.none("messages that the broker gave up on", vec![(None, String::new()); dead.given_up]);
        self.figure("dead letters that came again", dead.again);
    }

    fn each_post_is_recorded(&mut self, found: &Evidence) {
        let (mut unrecorded, mut other, mut wrong, mut misheard) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut sent = HashSet::new();
        for post in &found.posts {
            let entry = &post.entry;
            let Some(attempt) = found.attempt_of(post) else {
                unrecorded.push((None, format!("{entry:?}")));
                continue;
            };
            sent.insert(attempt.attempt_id.as_str());
            let job = Some(attempt.job_id.as_str());
            let told = |what: &str| format!("{what}: {attempt:?} is {entry:?}");
            if entry.phone.as_ref() != Some(&attempt.phone) {
                other.push((job, told("another callee")));
            }
            if attempt.call_id.is_some() && attempt.call_id != entry.call_id {
                other.push((job, told("another call")));
            }
            if attempt.state == "not_placed" && entry.call_id.is_some() {
                wrong.push((job, told("not placed")));
            }
            // Whatever webhooks said of it.
            if attempt.provider_status.is_some() && attempt.provider_status != post.end_status {
                misheard.push((job, told("another end")));
            }
        }
        self.none("ends that are not the provider's", misheard);
        self.none("POSTs without a record", unrecorded);
        self.none("POSTs recorded as another's", other);
        let says_sent = |a: &&Attempt| ["placed", "ended"].contains(&a.state.as_str());
        let unsent =
            found.attempts.values().filter(says_sent).filter(|a| !sent.contains(a.attempt_id.as_str()));
        wrong.extend(unsent.map(|a| (Some(a.job_id.as_str()), format!("never sent: {a:?}"))));
        self.none("unknowns wrongly closed", wrong);
        let in_review =
            |p: &&Post| found.attempt_of(p).is_some_and(|a| a.state == "unknown" || a.state == "review");
        let placed = found.posts.iter().filter(in_review).filter(|p| p.entry.placed).count();
        self.figure("calls in review that were placed", placed);
    }

    fn caller_ids(&mut self, found: &Evidence, routes: &Routes) {
        let (mut wrong, mut untold, mut told) = (Vec::new(), Vec::new(), 0);
        for post in &found.posts {
            let Some(attempt) = found.attempt_of(post) else { continue };
            let job = Some(attempt.job_id.as_str());
            let from = &post.entry.from_phone_number;
            let allowed = from.as_ref().is_some_and(|from| routes.allows(&attempt.campaign_id, from));
            if *from != attempt.from_phone_number || !allowed {
                wrong.push((job, format!("{attempt:?} went from {from:?}")));
            }
            let other = post.entry.faults.iter().any(|fault| format!("{fault:?}") == "OtherCaller");
            match attempt.caller_id_verified {
                Some(true) if other => untold.push((job, format!("{attempt:?}"))),
                Some(false) if other => told += 1,
                Some(false) => wrong.push((job, format!("{attempt:?} is taken for another's"))),
                _ => {}
            }
        }
        self.none("calls from a wrong number", wrong);
        self.none("numbers changed by the provider, and not noticed", untold);
        self.figure("numbers changed by the provider, and noticed", told);
    }

    fn counters(&mut self, found: &Evidence) {
        let wrong = found.miscounted.iter().map(|of| (None, format!("(thing, in use, recounted) = {of:?}")));
        let mut wrong: Vec<_> = wrong.collect();
        if found.held != 0 {
            wrong.push((None, format!("{} places are held by nobody", found.held)));
        }
        self.none("counters of places that are off", wrong);
    }

    fn events(&mut self, found: &Evidence) {
        let of = |kind: &str| found.events.get(kind);
        let heard = |kind: &str, job: &str| of(kind).is_some_and(|subjects| subjects.contains_key(job));
        let done = found.jobs.values().filter(|job| job.state == "done");
        let untold =
            done.filter(|job| !heard("job.done", &job.job_id) || !heard("job.accepted", &job.job_id));
        let untold = untold.map(|job| (Some(job.job_id.as_str()), format!("{job:?}"))).collect();
        self.none("jobs done without their events", untold);
        self.figure("events that came again", found.events_again);
        let mut kinds: Vec<(&String, usize)> =
            found.events.iter().map(|(k, of)| (k, of.values().sum())).collect();
        kinds.sort();
        for (kind, n) in kinds {
            self.figure(format!("events {kind}"), n);
        }
    }
}

impl Evidence {
    pub fn attempt_of(&self, post: &Post) -> Option<&Attempt> {
        self.attempts.get(post.entry.attempt_id.as_deref()?)
    }

    fn job_of(&self, post: &Post) -> Option<&str> {
        self.attempt_of(post).map(|attempt| attempt.job_id.as_str())
    }
}

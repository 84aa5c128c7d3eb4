//! A batch of messages, put in order before any statement: decoded, cut into runs, and each job id once.

use std::collections::HashMap;

use crate::core::ids::JobId;
use crate::core::job::{DeadLetter, Digest16, Job, JobOptions, Order, decode_order};
use crate::engine::ports::{IntakeTerms, Message, NewJob};

/// Messages that are dealt with together. Runs keep the order of receipt, so that a cancel message finds the job that
/// was sent before it, and not the one sent after.
pub enum Run<M> {
    Jobs(Vec<Pending<M>>),
    Cancels(Vec<(M, JobId)>),
}

/// What the messages of a batch are.
pub struct Sorted<M> {
    pub dead: Vec<(M, DeadLetter)>,
    pub runs: Vec<Run<M>>,
}

/// A message that is a job.
pub struct Pending<M> {
    pub message: M,
    pub job: NewJob,
    content: Digest16,
}

/// The messages of one job id.
pub struct Group<M> {
    pub first: M,
    /// With the first's content.
    pub same: Vec<M>,
    /// With other content.
    pub other: Vec<Pending<M>>,
}

/// Decodes the messages and cuts them into runs.
pub fn sort<M: Message>(
    messages: impl Iterator<Item = M>,
    options: &JobOptions,
    terms: &impl IntakeTerms,
) -> Sorted<M> {
    let now = terms.now();
    let mut dead = Vec::new();
    let mut runs = Vec::new();
    for message in messages {
        match decode_order(message.body(), message.kind(), message.message_id(), now, options) {
            Err(why) => dead.push((message, why)),
            Ok(Order::Cancel(id)) => match runs.last_mut() {
                Some(Run::Cancels(run)) => run.push((message, id)),
                _ => runs.push(Run::Cancels(vec![(message, id)])),
            },
            Ok(Order::Dial(job)) => {
                let pending = Pending::new(message, *job, terms);
                match runs.last_mut() {
                    Some(Run::Jobs(run)) => run.push(pending),
                    _ => runs.push(Run::Jobs(vec![pending])),
                }
            }
        }
    }
    Sorted { dead, runs }
}

impl<M: Message> Pending<M> {
    fn new(message: M, job: Job, terms: &impl IntakeTerms) -> Self {
        let expires_at = job.expires_at.unwrap_or_else(|| {
            let after = terms.expires_after(&job.campaign_id);
            job.received_at.checked_add_signed(after).unwrap_or(chrono::DateTime::<chrono::Utc>::MAX_UTC)
        });
        let traceparent = message.traceparent();
        Self { message, content: job.content_digest(), job: NewJob { job, traceparent, expires_at } }
    }
}

/// Each job id once, in order of receipt; the i-th group is that of the i-th job.
pub fn distinct<M>(jobs: Vec<Pending<M>>) -> (Vec<Group<M>>, Vec<NewJob>) {
    let mut at: HashMap<JobId, usize> = HashMap::with_capacity(jobs.len());
    let mut contents: Vec<Digest16> = Vec::with_capacity(jobs.len());
    let mut groups: Vec<Group<M>> = Vec::with_capacity(jobs.len());
    let mut batch = Vec::with_capacity(jobs.len());
    for pending in jobs {
        match at.get(&pending.job.job.job_id) {
            Some(&i) if contents[i] == pending.content => groups[i].same.push(pending.message),
            Some(&i) => groups[i].other.push(pending),
            None => {
                at.insert(pending.job.job.job_id.clone(), groups.len());
                contents.push(pending.content);
                groups.push(Group { first: pending.message, same: Vec::new(), other: Vec::new() });
                batch.push(pending.job);
            }
        }
    }
    (groups, batch)
}

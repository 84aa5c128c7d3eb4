//! What intake has done, for metrics. Totals since the start of the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::core::job::DeadReason;

#[derive(Debug, Default)]
pub struct IntakeCounts {
    accepted: AtomicU64,
    duplicates: AtomicU64,
    canceled: AtomicU64,
    retries: AtomicU64,
    batches: AtomicU64,
    batch_micros: AtomicU64,
    dead: [AtomicU64; DeadReason::ALL.len()],
}

/// A reading of [`IntakeCounts`], or what is added to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New jobs.
    pub accepted: u64,
    /// Messages dropped because the job was there already.
    pub duplicates: u64,
    /// Jobs canceled by control messages.
    pub canceled: u64,
    /// Statements tried again because the database was away.
    pub retries: u64,
    pub batches: u64,
    /// Time spent on batches, from the first decoded to the last settled.
    pub batch_micros: u64,
}

impl IntakeCounts {
    pub(super) fn add(&self, more: Counts) {
        let add = |to: &AtomicU64, n: u64| to.fetch_add(n, Ordering::Relaxed);
        add(&self.accepted, more.accepted);
        add(&self.duplicates, more.duplicates);
        add(&self.canceled, more.canceled);
        add(&self.retries, more.retries);
        add(&self.batches, more.batches);
        add(&self.batch_micros, more.batch_micros);
    }

    pub(super) fn batch(&self, took: Duration) {
        let batch_micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.add(Counts { batches: 1, batch_micros, ..Counts::default() });
    }

    pub(super) fn dead(&self, reason: DeadReason) {
        self.dead[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counts {
        let read = |from: &AtomicU64| from.load(Ordering::Relaxed);
        Counts {
            accepted: read(&self.accepted),
            duplicates: read(&self.duplicates),
            canceled: read(&self.canceled),
            retries: read(&self.retries),
            batches: read(&self.batches),
            batch_micros: read(&self.batch_micros),
        }
    }

    /// Messages dead-lettered, by reason.
    pub fn dead_letters(&self) -> impl Iterator<Item = (DeadReason, u64)> + '_ {
        DeadReason::ALL.iter().map(|&reason| (reason, self.dead[reason as usize].load(Ordering::Relaxed)))
    }
}

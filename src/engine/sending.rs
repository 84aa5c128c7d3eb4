//! What dispatch and placing tell each other: how many calls are between slot and POST, and how that goes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock;
use crate::core::flow::Flow;

#[derive(Debug)]
pub struct Sending {
    flow: Mutex<Flow>,
    unsent: AtomicUsize,
    /// Dispatch had jobs and no room for them.
    starved: AtomicBool,
    /// Rung when there may be something new to dial, or new room for it.
    pub bell: Notify,
}

/// A call between slot and POST.
#[derive(Debug)]
pub struct Unsent(Arc<Sending>);

impl Sending {
    /// `most`: the most calls that may be under way at once; `slack`: how long a slot lasts.
    pub fn new(most: usize, slack: Duration) -> Self {
        Self {
            flow: Mutex::new(Flow::new(most, slack)),
            unsent: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
            bell: Notify::new(),
        }
    }

    /// How many more may get a slot now.
    pub fn room(&self) -> usize {
        self.flow().window().saturating_sub(self.unsent.load(Ordering::Acquire))
    }

    /// How far ahead a slot has to be.
    pub fn lead(&self) -> Duration {
        self.flow().lead()
    }

    /// One more has a slot, until what this gives is dropped.
    pub fn begin(self: &Arc<Self>) -> Unsent {
        self.unsent.fetch_add(1, Ordering::AcqRel);
        Unsent(Arc::clone(self))
    }

    pub fn leave_took(&self, took: Duration) {
        self.flow().leave_took(took);
    }

    pub fn met(&self) {
        self.flow().met();
    }

    pub fn missed(&self) {
        self.flow().missed(clock::uptime());
    }

    /// Dispatch found no room: the next that is freed is to wake it.
    pub fn starve(&self) {
        self.starved.store(true, Ordering::Release);
    }

    /// Room was freed.
    pub fn freed(&self) {
        if self.starved.swap(false, Ordering::AcqRel) {
            self.bell.notify_one();
        }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.unsent.fetch_sub(1, Ordering::AcqRel);
        self.0.freed();
    }
}

//! The sandbox's own account of every POST it received: what tests and the demo take as the truth.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One POST to `/v2/calls`, as it arrived. Never changed once written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// From 1, without gaps.
    pub seq: u64,
    /// When its bytes were read off the connection: microseconds since the sandbox's start, on the monotonic clock.
    pub mono_us: u64,
    /// The same moment in microseconds since 1970, by the wall clock at the sandbox's start.
    pub at_us: i64,
    /// Whose key it carried; `None`: nobody's.
    pub account: Option<String>,
    pub model_id: Option<String>,
    pub phone: Option<String>,
    pub from_phone_number: Option<String>,
    /// The custom variable `outdial_attempt_id`.
    pub attempt_id: Option<String>,
    /// The whole body; a string where it was not JSON.
    pub body: Value,
    /// The status answered; `None`: no answer was given.
    pub status: Option<u16>,
    /// The call that was made of it, whatever was answered.
    pub call_id: Option<String>,
    /// Why it was answered so, in a word.
    pub why: String,
}

#[derive(Debug)]
pub struct Ledger {
    entries: VecDeque<Arc<LedgerEntry>>,
    memory_max: usize,
    next_seq: u64,
    file: Option<File>,
}

impl Ledger {
    pub fn new(memory_max: usize, file: Option<&Path>) -> std::io::Result<Self> {
        let file = file.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        Ok(Self { entries: VecDeque::new(), memory_max: memory_max.max(1), next_seq: 1, file })
    }

    /// Gives the entry its number and keeps it; on disk before it returns.
    pub fn append(&mut self, mut entry: LedgerEntry) {
        entry.seq = self.next_seq;
        self.next_seq += 1;
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_vec(&entry).unwrap_or_default();
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                // A ledger with holes is worse than one that ends.
                tracing::error!(%error, seq = entry.seq, "sandbox: the ledger's file can't be written, it ends here");
                self.file = None;
            }
        }
        if self.entries.len() == self.memory_max {
            self.entries.pop_front();
        }
        self.entries.push_back(Arc::new(entry));
    }

    /// At most `limit` entries with a number above `after`, in order.
    pub fn after(&self, after: u64, limit: usize) -> Vec<Arc<LedgerEntry>> {
        let first = self.entries.front().map_or(0, |entry| entry.seq);
        let skip = (after + 1).saturating_sub(first) as usize;
        self.entries.iter().skip(skip).take(limit).cloned().collect()
    }

    /// How many POSTs were received.
    pub fn received(&self) -> u64 {
        self.next_seq - 1
    }
}

//! The sandbox's own account of every POST it received: what tests and the demo take as the truth.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::calls::Made;
use super::faults::FaultKind;

/// One POST to `/v2/calls`, as it arrived. Never changed once written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// From 1, without gaps.
    pub seq: u64,
    /// When its bytes were read off the connection: microseconds since the ledger's start, on the monotonic clock.
    pub mono_us: u64,
    /// The same moment in microseconds since 1970, by the wall clock at the ledger's start.
    pub at_us: i64,
    /// Whose key it carried; `None`: nobody's.
    pub account: Option<String>,
    pub model_id: Option<String>,
    pub phone: Option<String>,
    pub from_phone_number: Option<String>,
    /// The custom variable `outdial_attempt_id`.
    pub attempt_id: Option<String>,
    /// The header of that name.
    #[serde(default)]
    pub traceparent: Option<String>,
    /// The whole body; a string where it was not JSON.
    pub body: Value,
    /// The status answered; `None`: no answer was given.
    pub status: Option<u16>,
    /// The call that was made of it, whatever was answered.
    pub call_id: Option<String>,
    /// Whether that call was dialed, so that somebody's phone rings.
    #[serde(default)]
    pub placed: bool,
    /// Why it was answered so, in a word.
    pub why: String,
    /// What struck it and its call, of the table of faults and of overrides.
    #[serde(default)]
    pub faults: Vec<FaultKind>,
}

/// A line of the file: the entry, and what a sandbox that comes back needs to know of its call.
#[derive(Debug, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    pub entry: LedgerEntry,
    #[serde(default)]
    pub call: Option<Made>,
}

#[derive(Serialize)]
struct LineOut<'a> {
    #[serde(flatten)]
    entry: &'a LedgerEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a Made>,
}

#[derive(Debug)]
pub struct Ledger {
    entries: VecDeque<Arc<LedgerEntry>>,
    memory_max: usize,
    next_seq: u64,
    file: Option<File>,
}

impl Ledger {
    /// In memory only, until a file is opened.
    pub fn new(memory_max: usize) -> Self {
        Self { entries: VecDeque::new(), memory_max: memory_max.max(1), next_seq: 1, file: None }
    }

    /// Takes up the lines that are in the file, and appends to it from now on. A last line that was broken off, as by
    /// a death in the middle of it, goes: it was never answered.
    pub fn open(
        &mut self,
        path: &Path,
        mut known: impl FnMut(&Arc<LedgerEntry>, Option<Made>),
    ) -> io::Result<()> {
        let file = File::options().create(true).append(true).read(true).open(path)?;
        let mut reader = BufReader::new(&file);
        let (mut line, mut whole_bytes) = (Vec::new(), 0);
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                break;
            }
            whole_bytes += length as u64;
            let Line { entry, call } = serde_json::from_slice(&line).map_err(|fault| {
                let text = format!(
                    "after entry {} comes a line that is none ({fault}); name another file",
                    self.received()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            self.next_seq = entry.seq + 1;
            let entry = Arc::new(entry);
            known(&entry, call);
            self.keep(entry);
        }
        file.set_len(whole_bytes)?;
        self.file = Some(file);
        Ok(())
    }

    /// Gives the entry its number and keeps it; in the file before it returns.
    pub fn append(&mut self, mut entry: LedgerEntry, call: Option<&Made>) {
        entry.seq = self.next_seq;
        self.next_seq += 1;
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_vec(&LineOut { entry: &entry, call }).unwrap_or_default();
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                // A ledger with holes is worse than one that ends.
                tracing::error!(%error, seq = entry.seq, "sandbox: the ledger's file can't be written, it ends here");
                self.file = None;
            }
        }
        self.keep(Arc::new(entry));
    }

    fn keep(&mut self, entry: Arc<LedgerEntry>) {
        if self.entries.len() == self.memory_max {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
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

    /// The number of the one to come.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }
}

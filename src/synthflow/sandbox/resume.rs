//! Coming back from the ledger's file: what was received is known again, and calls go on as if nothing had happened.
//!
//! Forgotten are what tests have changed at run time, the arrivals of the last second (calls a second), and webhooks
//! that were waiting or fell due while the sandbox was away.

use std::io;
use std::path::Path;

use serde_json::Value;

use super::calls::{Call, Made};
use super::ledger::{Ledger, LedgerEntry};
use super::place::variables_of;
use super::timeline::Timeline;
use super::world::World;

impl World {
    /// Takes up what the file holds, if anything, and writes to it from now on.
    pub fn resume(&mut self, path: &Path) -> io::Result<()> {
        let mut ledger = Ledger::new(self.config.ledger_memory_max);
        let mut last_us = 0;
        ledger.open(path, |entry, made| {
            if entry.mono_us >= last_us {
                last_us = entry.mono_us;
                let start_wall_us = entry.at_us.saturating_sub_unsigned(entry.mono_us);
                self.timeline = Timeline::resume(self.config.time_scale, start_wall_us, last_us);
            }
            if let (Some(call_id), Some(made)) = (&entry.call_id, made) {
                self.recall(call_id.clone(), entry, made);
            }
        })?;
        self.faults.since_us = self.timeline.now_us();
        self.ledger = ledger;
        Ok(())
    }

    fn recall(&mut self, call_id: String, entry: &LedgerEntry, made: Made) {
        let text = |field: &str| entry.body.get(field).and_then(Value::as_str).map(str::to_owned);
        let variables = entry.body.get("custom_variables").and_then(|given| variables_of(given, true));
        let account = entry.account.as_deref().and_then(|name| self.accounts.get_mut(name));
        let call = Call {
            call_id,
            model_id: entry.model_id.clone().unwrap_or_default(),
            name: text("name").unwrap_or_default(),
            phone: entry.phone.clone().unwrap_or_default(),
            variables: variables.unwrap_or_default(),
            received_us: entry.mono_us,
            received_wall_ms: (entry.at_us / 1000).max(self.calls.last_wall_ms()),
            began_ms: self.timeline.call_ms(made.began_us),
            redacted: account.as_ref().is_some_and(|account| account.config.redact_pii),
            webhook_url: text("external_webhook_url"),
            made,
        };
        if !call.has_ended(self.timeline.call_ms(self.timeline.now_us())) {
            self.webhooks.call_will_end(call.ends_ms(), self.calls.next_ordinal());
            if let Some(account) = account {
                account.occupy(call.ends_ms(), false);
            }
        }
        self.calls.push(call);
    }
}

//! A campaign's calling window, in the callee's local time.

use chrono::Weekday;
use serde::{Deserialize, Serialize};

/// Days and hours in which a campaign may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub days: Vec<Weekday>,
    pub from_minute: u16,
    pub to_minute: u16,
}

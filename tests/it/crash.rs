//! The crash table of the design: each row a test that ends the process, stops it or loses an answer at that very point,
//! against real workers and servers, with the provider's ledger as the truth.
//!
//! | row | the point | the tests |
//! |---|---|---|
//! | 1, 2, 9 | between delivery and ack | `intake` |
//! | 3–8 | between a slot and what became of its call | `sending` |
//! | 10, 11 | a server goes away | `servers` |
//! | 12 | a worker sleeps and wakes late | `sleepers` |
//! | 13 | the provider is heard elsewhere before our own write | `sending` |
//! | 14, 15 | orderly stops, and deaths of those who look after the rest | `keepers` |
//!
//! Every row is played `OUTDIAL_CRASH_TIMES` times (3 by default; `make crash` plays 200), at another moment of the
//! worker's life each time.

mod intake;
mod keepers;
mod round;
mod sending;
mod servers;
mod sleepers;

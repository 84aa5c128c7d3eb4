//! What the integration tests share: a server pair, databases, virtual hosts, the binary, and a way to wait.

mod binary;
mod cores;
pub mod far;
mod figures;
pub mod ledger;
mod listener;
pub mod machine;
pub mod programs;
mod proof;
mod shared;
pub mod stage;

pub use binary::Outdial;
pub use cores::{busy, quiet};
pub use figures::{Figures, page};
pub use listener::Listener;
pub use proof::{assert_discreet, from_number, gaps_s, posts_by_phone};
pub use shared::Database;
pub use shared::Vhost;
pub use shared::{
    database, database_on, empty_database_on, given_vhost, own_postgres, own_postgres_with, own_rabbit,
    own_rabbit_with, vhost,
};

use std::future::Future;
use std::time::Duration;

use outdial::clock;

/// Asks again and again until there is an answer; fails the test after `limit`. For tests on the real clock.
#[track_caller]
pub fn eventually<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let end = clock::monotonic() + limit;
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(clock::monotonic() < end, "{place}: still not so after {limit:?}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

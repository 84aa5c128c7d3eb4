//! Points at which a test ends this process, stops it, holds it up, or loses an answer: the rows of the crash table.
//!
//! `OUTDIAL_FAILPOINT=AfterAccept:3=kill` ends the process when it comes there for the third time (several are separated
//! by commas). A release build has none of this: there [`at`] is empty and the variable isn't read.

/// Where it can happen. Each names a step; `After` one the step is done, and its answer on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(debug_assertions, derive(serde::Deserialize))]
pub enum Point {
    /// A batch of messages has been decoded, and is to be written down.
    BeforeAccept,
    AfterAccept,
    /// Messages have been written down, and are to be acked.
    BeforeAck,
    AfterReserve,
    BeforeAuthorise,
    AfterAuthorise,
    /// A call has leave, and no byte of it is sent.
    BeforePost,
    /// The last check of its deadline is passed, and its bytes are to be written: nothing can be held up or lost here.
    BeforeWrite,
    /// The provider's answer has been read.
    AfterPost,
    /// What became of a call is to be written down.
    BeforeSettle,
    AfterSettle,
    BeforeFinish,
    AfterFinish,
    /// Events are published, and not struck off.
    AfterPublish,
    BeforeTakeOver,
    AfterTakeOver,
    /// A call was found at the provider that nobody knew of, and is to be written down.
    BeforeFound,
    AfterFound,
    /// An attempt was sought long enough in vain.
    BeforeGiveUp,
    AfterGiveUp,
}

/// The step's answer got lost: whether it was done is not known.
#[derive(Debug, thiserror::Error)]
#[error("the answer got lost at a failpoint")]
pub struct Lost;

/// Nothing, unless a test chose this point.
///
/// # Errors
/// [`Lost`], if that is what the test chose.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub async fn at(_: Point) -> Result<(), Lost> {
    Ok(())
}

#[cfg(debug_assertions)]
pub use armed::at;

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::{Lost, Point};

    const VARIABLE: &str = "OUTDIAL_FAILPOINT";

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        /// As `kill -9` does: nothing is flushed, nothing is told.
        Kill,
        /// As `kill -STOP` does, until somebody wakes it.
        Stop,
        Hold(Duration),
        Lose,
    }

    #[derive(Debug)]
    struct Plan {
        point: Point,
        /// From 1.
        hit: u64,
        action: Action,
        hits: AtomicU64,
    }

    /// What a test chose for this point at this moment.
    ///
    /// # Errors
    /// [`Lost`], if that is it.
    pub async fn at(point: Point) -> Result<(), Lost> {
        static PLANS: OnceLock<Vec<Plan>> = OnceLock::new();
        for plan in PLANS.get_or_init(plans) {
            if plan.point != point || plan.hits.fetch_add(1, Ordering::Relaxed) + 1 != plan.hit {
                continue;
            }
            eprintln!("failpoint {point:?} {:?}", plan.action);
            match plan.action {
                Action::Kill => signal(Signal::KILL),
                Action::Stop => signal(Signal::STOP),
                Action::Hold(time) => tokio::time::sleep(time).await,
                Action::Lose => return Err(Lost),
            }
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "nothing is to go on from here")]
    fn signal(signal: Signal) {
        let _ = kill_process(getpid(), signal);
        // Another thread may have taken the signal, and this one would go on for the moment that it takes to stop it.
        std::thread::sleep(Duration::from_millis(20));
    }

    fn plans() -> Vec<Plan> {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let plans = text.split(',').filter(|plan| !plan.is_empty()).map(|plan| {
            parse(plan).unwrap_or_else(|| {
                eprintln!("{VARIABLE}: {plan:?} is not of the form POINT[:HIT]=kill|stop|lose|hold:MS");
                std::process::exit(2)
            })
        });
        plans.collect()
    }

    fn parse(text: &str) -> Option<Plan> {
        let (place, action) = text.split_once('=')?;
        let (point, hit) = match place.split_once(':') {
            Some((point, hit)) => (point, hit.parse().ok()?),
            None => (place, 1),
        };
        let action = match action {
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            "lose" => Action::Lose,
            action => Action::Hold(Duration::from_millis(action.strip_prefix("hold:")?.parse().ok()?)),
        };
        let point = serde_json::from_value(point.into()).ok()?;
        Some(Plan { point, hit, action, hits: AtomicU64::new(0) })
    }
}

//! When the next call may be let through: the mathematics of the ledger's limits, which `outdial.reserve` follows in
//! SQL, as the reference that it is tested against.
//!
//! A limited thing numbers its grants. For each of its windows of N calls in W, the grant after the last N can't come
//! before the slot of the N-th last + W + slack: a call decided for a slot arrives within the slack after it, so that
//! the N-th last has arrived by then, and the next arrives no earlier than its slot. That is exact, for any N, and
//! lets the whole N go as one burst.

/// At most so many calls in any so long a time, in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    /// From 1.
    pub calls: usize,
    pub length_us: i64,
}

/// The next `count` slots in µs, ascending, given those granted before (ascending too; older ones than the largest N
/// may be left out).
///
/// Reads of the log only what was there before a batch of at most the smallest N, as one statement of the ledger does.
pub fn next_slots(
    granted: &[i64],
    windows: &[SlidingWindow],
    slack_us: i64,
    now_us: i64,
    count: usize,
) -> Vec<i64> {
    let batch_max = windows.iter().map(|window| window.calls.max(1)).min().unwrap_or(count).max(1);
    let mut log = granted.to_vec();
    while log.len() < granted.len() + count {
        let batch = batch_max.min(granted.len() + count - log.len());
        let known = log.len();
        let mut slot = log.last().copied().unwrap_or(now_us).max(now_us);
        for place in 0..batch {
            let earliest = windows.iter().filter_map(|window| {
                let nth_last = (known + place).checked_sub(window.calls.max(1))?;
                Some(log.get(nth_last)? + window.length_us + slack_us)
            });
            slot = earliest.fold(slot, i64::max);
            log.push(slot);
        }
    }
    log.split_off(granted.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    /// One grant after the other, by the definition alone: the earliest time at which no window is exceeded, whenever
    /// within the slack each call arrives.
    fn one_by_one(
        granted: &[i64],
        windows: &[SlidingWindow],
        slack: i64,
        now: i64,
        count: usize,
    ) -> Vec<i64> {
        let mut log = granted.to_vec();
        for _ in 0..count {
            let mut slot = now.max(log.last().copied().unwrap_or(now));
            for window in windows {
                // As long as the window before the slot is full, it moves to where its oldest call has left it.
                loop {
                    let inside = log.iter().rev().take_while(|&&at| at + slack + window.length_us > slot);
                    let inside: Vec<i64> = inside.copied().collect();
                    if inside.len() < window.calls {
                        break;
                    }
                    slot = inside[window.calls - 1] + slack + window.length_us;
                }
            }
            log.push(slot);
        }
        log.split_off(granted.len())
    }

    fn windows() -> impl Strategy<Value = Vec<SlidingWindow>> {
        let window = |seconds: i64| {
            proptest::option::of(1usize..40).prop_map(move |calls| {
                calls.map(|calls| SlidingWindow { calls, length_us: seconds * SECOND })
            })
        };
        (window(1), window(60), window(3_600), window(86_400))
            .prop_map(|(a, b, c, d)| [a, b, c, d].into_iter().flatten().collect())
    }

    proptest! {
        #[test]
        fn batches_equal_the_one_by_one_recursion(
            windows in windows(),
            slack in 0..SECOND / 2,
            asks in proptest::collection::vec((0..3 * SECOND, 1usize..60), 1..6),
        ) {
            let (mut fast, mut slow, mut now) = (Vec::new(), Vec::new(), 0);
            for (pause, count) in asks {
                now += pause;
                fast.extend(next_slots(&fast, &windows, slack, now, count));
                slow.extend(one_by_one(&slow, &windows, slack, now, count));
            }
            prop_assert_eq!(fast, slow);
        }

        /// By brute force over the arrivals, wherever in its slack each call arrives.
        #[test]
        fn no_window_is_ever_exceeded(
            windows in windows(),
            slack in 1..SECOND / 2,
            count in 1usize..200,
            delays in proptest::collection::vec(0.0..=1.0f64, 200),
        ) {
            let slots = next_slots(&[], &windows, slack, 0, count);
            let mut arrivals: Vec<i64> =
                slots.iter().zip(&delays).map(|(slot, delay)| slot + (slack as f64 * delay) as i64).collect();
            arrivals.sort_unstable();
            for window in &windows {
                for (start, &first) in arrivals.iter().enumerate() {
                    let inside = arrivals[start..].iter().filter(|&&at| at < first + window.length_us).count();
                    prop_assert!(inside <= window.calls, "{inside} in {window:?}");
                }
            }
        }

        /// Against the most that any schedule could send from idle, which is the same recursion without slack: each
        /// call as early as can be.
        #[test]
        fn the_allowance_is_used(windows in windows(), rounds in 2i64..30) {
            prop_assume!(!windows.is_empty());
            let (slack, shortest) = (SECOND / 10, windows.iter().map(|w| w.length_us).min().unwrap_or(SECOND));
            let until = rounds * shortest;
            let sent = |slack| {
                next_slots(&[], &windows, slack, 0, 2_000).iter().filter(|&&slot| slot < until).count()
            };
            let (ours, most) = (sent(slack), sent(0));
            let share = if shortest >= 60 * SECOND { 0.98 } else { 0.85 };
            prop_assert!(ours as f64 >= share * most as f64, "{ours} of {most}");
        }
    }

    #[test]
    fn the_whole_allowance_goes_as_a_burst() {
        let three_a_second = [SlidingWindow { calls: 3, length_us: SECOND }];
        assert_eq!(
            next_slots(&[], &three_a_second, 100_000, 0, 7),
            [0, 0, 0, 1_100_000, 1_100_000, 1_100_000, 2_200_000]
        );
        assert_eq!(next_slots(&[5, 5], &[], 100_000, 0, 2), [5, 5], "without a window only the order holds");
    }
}

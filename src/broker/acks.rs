//! Which tags to ack so that few frames do for many messages.

use std::collections::BTreeMap;

/// One ack: of one tag, or of every tag up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub tag: u64,
    pub multiple: bool,
}

/// What was settled on one channel. Tags count from 1 without gaps.
#[derive(Debug, Default)]
pub struct Acks {
    /// Every tag up to here is acked.
    upto: u64,
    /// Settled tags above `upto`, and whether they are acked already.
    ahead: BTreeMap<u64, bool>,
}

impl Acks {
    /// The acks to send now that these are settled too. Messages behind one that is still being dealt with are acked
    /// one by one: it must not hold up theirs.
    pub fn settled(&mut self, tags: impl IntoIterator<Item = u64>) -> Vec<Ack> {
        self.ahead.extend(tags.into_iter().map(|tag| (tag, false)));
        let mut acks = Vec::new();
        let mut last_unacked = None;
        while let Some(acked) = self.ahead.remove(&(self.upto + 1)) {
            self.upto += 1;
            if !acked {
                last_unacked = Some(self.upto);
            }
        }
        // The broker refuses an ack that names a tag acked before, so the last one that isn't stands for the run.
        acks.extend(last_unacked.map(|tag| Ack { tag, multiple: true }));
        for (&tag, acked) in self.ahead.iter_mut().filter(|(_, acked)| !**acked) {
            *acked = true;
            acks.push(Ack { tag, multiple: false });
        }
        acks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_run_is_one_ack_and_a_hole_holds_up_nobody() {
        let mut acks = Acks::default();
        assert_eq!(acks.settled([3, 1, 2]), [Ack { tag: 3, multiple: true }]);
        assert_eq!(acks.settled([5, 6]), [Ack { tag: 5, multiple: false }, Ack { tag: 6, multiple: false }]);
        // 5 and 6 are acked: naming 6 again would close the channel.
        assert_eq!(acks.settled([4]), [Ack { tag: 4, multiple: true }]);
        assert_eq!(acks.settled([7, 8]), [Ack { tag: 8, multiple: true }]);
    }

    proptest! {
        /// Played against a broker that closes the channel at an unknown tag: exactly what is settled is acked.
        #[test]
        fn exactly_what_is_settled_is_acked(
            order in (1..60_u64).prop_flat_map(|n| Just((1..=n).collect::<Vec<_>>()).prop_shuffle()),
            size in 1..8_usize,
        ) {
            let mut unacked: BTreeSet<u64> = order.iter().copied().collect();
            let mut settled = BTreeSet::new();
            let mut acks = Acks::default();
            for chunk in order.chunks(size) {
                settled.extend(chunk.iter().copied());
                for ack in acks.settled(chunk.iter().copied()) {
                    prop_assert!(unacked.contains(&ack.tag), "unknown delivery tag {}", ack.tag);
                    unacked.retain(|&tag| if ack.multiple { tag > ack.tag } else { tag != ack.tag });
                }
                prop_assert!(unacked.is_disjoint(&settled));
                prop_assert_eq!(unacked.len() + settled.len(), order.len());
            }
        }
    }
}

//! The numbers that a rule may use: one list for all the classes that the rule speaks for.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::core::ids::ModelId;
use crate::core::phone::E164;
use crate::core::place::{AreaCode, Country, Place, Region};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub number: E164,
    pub weight: u32,
    /// As the file has it, else by its digits.
    pub place: Place,
}

/// Sorted by number; read as a slice. Empty only for [`super::TierSource::AgentDefault`].
#[derive(Debug, Default)]
pub struct Candidates {
    all: Box<[Candidate]>,
    /// See [`super::brief()`]: counted when first asked for.
    pub(super) excluded: OnceLock<BTreeMap<&'static str, usize>>,
    /// Where those of each place stand: sorted when first asked for.
    by_ring: OnceLock<HashMap<Ring, Box<[u32]>>>,
}

impl Candidates {
    pub(in crate::core) fn new(all: Vec<Candidate>) -> Self {
        Self { all: all.into(), ..Self::default() }
    }

    /// Where the candidates of a ring stand, in their order.
    pub(super) fn within(&self, ring: Ring) -> impl Iterator<Item = u32> + '_ {
        let (everywhere, near) = match ring {
            Ring::Everywhere => (0..u32::try_from(self.all.len()).unwrap_or(u32::MAX), None),
            _ => (0..0, self.by_ring.get_or_init(|| by_ring(&self.all)).get(&ring)),
        };
        everywhere.chain(near.into_iter().flatten().copied())
    }
}

impl Deref for Candidates {
    type Target = [Candidate];
    fn deref(&self) -> &[Candidate] {
        &self.all
    }
}

impl PartialEq for Candidates {
    /// What was counted and sorted of them meanwhile is no difference.
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

fn by_ring(all: &[Candidate]) -> HashMap<Ring, Box<[u32]>> {
    let mut rings: HashMap<Ring, Vec<u32>> = HashMap::new();
    for (at, candidate) in (0..).zip(all) {
        for ring in Ring::around(&candidate.place).filter(|ring| *ring != Ring::Everywhere) {
            rings.entry(ring).or_default().push(at);
        }
    }
    rings.into_iter().map(|(ring, places)| (ring, places.into())).collect()
}

/// Those that share something with a place. Each is part of the next for most places, and whoever looks into them in
/// their order meets every number first where it is nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ring {
    Area(AreaCode),
    Region(Region),
    Country(Country),
    Everywhere,
}

impl Ring {
    /// From the nearest on.
    pub(super) fn around(place: &Place) -> impl Iterator<Item = Ring> + use<> {
        let Place { area, region, country } = *place;
        [area.map(Ring::Area), region.map(Ring::Region), country.map(Ring::Country), Some(Ring::Everywhere)]
            .into_iter()
            .flatten()
    }
}

/// 0 same area code, 1 region, 2 country, 3 elsewhere.
pub(super) fn nearness(callee: &Place, number: &Place) -> u8 {
    if callee.area.is_some() && callee.area == number.area {
        0
    } else if callee.region.is_some() && callee.region == number.region {
        1
    } else if callee.country.is_some() && callee.country == number.country {
        2
    } else {
        3
    }
}

/// The lists that were made already. They are good for one world, and spare those who decide thousands of classes in it from
/// reading the same pools for each.
#[derive(Debug, Default)]
pub struct Lists {
    /// By the agent and the rule's place in the file.
    made: HashMap<(ModelId, usize), Arc<Candidates>>,
}

impl Lists {
    pub(super) fn of_rule(
        &mut self,
        model: &ModelId,
        rule: usize,
        make: impl FnOnce() -> Vec<Candidate>,
    ) -> Arc<Candidates> {
        let made = self.made.entry((model.clone(), rule));
        Arc::clone(made.or_insert_with(|| Arc::new(Candidates::new(make()))))
    }
}

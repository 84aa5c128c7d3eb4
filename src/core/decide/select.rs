//! Which of an agent's numbers a rule may use.

use std::collections::BTreeSet;

use super::{Candidate, Pool, PoolNumber, World};
use crate::core::phone::E164;
use crate::core::place::{Place, Region};
use crate::core::rules::{Rule, Use};
use crate::core::states::words;

words!(
    /// Why a number is not among a rule's candidates: the first that holds.
    Exclusion {
        NotAttached = "not_attached",
        /// Resting, quarantined or retired.
        State = "state",
        Numbers = "numbers",
        Brand = "brand",
        Region = "region",
        Tags = "tags",
    }
);

/// None: the rule may use the number. The one predicate that selection and `explain` share.
pub fn excluded(world: &World, pool: &Pool, uses: &Use, number: &E164) -> Option<Exclusion> {
    let Some(attached) = pool.get(number) else { return Some(Exclusion::NotAttached) };
    if !world.number_state(number).is_eligible() {
        return Some(Exclusion::State);
    }
    if !uses.numbers.is_empty() && !uses.numbers.contains(number) {
        return Some(Exclusion::Numbers);
    }
    let entry = world.rules.number(number);
    let brand = entry.and_then(|e| e.brand.as_ref());
    if !uses.brand.is_empty() && !brand.is_some_and(|b| uses.brand.contains(b)) {
        return Some(Exclusion::Brand);
    }
    let region = region_of(world, attached);
    if !uses.region.is_empty() && !region.is_some_and(|r| uses.region.iter().any(|wanted| wanted.covers(&r)))
    {
        return Some(Exclusion::Region);
    }
    let has_tag = |tag: &String| entry.is_some_and(|e| e.tags.contains(tag));
    if !uses.tags.iter().all(has_tag) {
        return Some(Exclusion::Tags);
    }
    None
}

/// The rule's candidates, sorted by number.
pub fn candidates(world: &World, pool: &Pool, rule: &Rule) -> Vec<Candidate> {
    let numbers = narrowed(world, pool, &rule.uses).into_iter();
    let usable = numbers.filter(|number| excluded(world, pool, &rule.uses, number).is_none());
    let weight = |number| world.rules.number(number).map_or(1, |entry| entry.weight);
    usable.filter_map(|number| Some(candidate(world, pool.get(number)?, weight(number)))).collect()
}

pub fn candidate(world: &World, attached: &PoolNumber, weight: u32) -> Candidate {
    let region = region_of(world, attached);
    let place = Place { country: region.map(|r| r.country()), region, area: attached.place.area };
    Candidate { number: attached.number.clone(), weight, place }
}

/// At least the numbers that the rule may use, sorted, without reading a large pool where the rule names few.
fn narrowed<'a>(world: &'a World, pool: &'a Pool, uses: &'a Use) -> BTreeSet<&'a E164> {
    if !uses.numbers.is_empty() {
        uses.numbers.iter().collect()
    } else if !uses.brand.is_empty() {
        uses.brand.iter().flat_map(|brand| world.rules.with_brand(brand)).collect()
    } else if let Some(tag) = uses.tags.first() {
        world.rules.with_tag(tag).iter().collect()
    } else if !uses.region.is_empty() {
        let derived = uses.region.iter().flat_map(|region| pool.in_region(region)).map(|n| &n.number);
        let written = uses.region.iter().flat_map(|region| world.rules.with_region(region));
        derived.chain(written).collect()
    } else {
        pool.numbers().iter().map(|n| &n.number).collect()
    }
}

/// As the file has it, else derived.
pub fn region_of(world: &World, number: &PoolNumber) -> Option<Region> {
    world.rules.number(&number.number).and_then(|entry| entry.region).or(number.place.region)
}

//! The hits of exact LRU, and of the optimum that knows the future.

use std::collections::{BTreeMap, HashMap};

use super::Trace;

/// Returns the hits of a cache that evicts the entry whose last access is the longest ago.
pub(crate) fn lru(trace: &Trace, capacity: u64) -> u64 {
    evict(trace, capacity, |at| at, BTreeMap::pop_first)
}

/// Returns the hits of a cache that evicts the entry whose next access is the furthest away: Bélády's
/// algorithm, for caches that must take each new entry.
pub(crate) fn optimum(trace: &Trace, capacity: u64) -> u64 {
    let mut next = vec![0; trace.len()];
    let mut later = HashMap::new();
    for (at, key) in trace.requests().iter().enumerate().rev() {
        // Keys that are not accessed again differ, so that each has a place of its own.
        next[at] = later.insert(*key, at).unwrap_or(trace.len() + at);
    }
    evict(trace, capacity, |at| next[at], BTreeMap::pop_last)
}

/// Returns the hits of a cache that ranks each entry at its access, and evicts by rank. Ranks are
/// unique.
fn evict(
    trace: &Trace,
    capacity: u64,
    rank: impl Fn(usize) -> usize,
    victim: impl Fn(&mut BTreeMap<usize, u64>) -> Option<(usize, u64)>,
) -> u64 {
    let (mut by_rank, mut ranks, mut hits) = (BTreeMap::new(), HashMap::new(), 0);
    for (at, key) in trace.requests().iter().copied().enumerate() {
        if let Some(old) = ranks.insert(key, rank(at)) {
            by_rank.remove(&old);
            hits += 1;
        } else if by_rank.len() as u64 == capacity
            && let Some((_, evicted)) = victim(&mut by_rank)
        {
            ranks.remove(&evicted);
        }
        by_rank.insert(rank(at), key);
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_those_of_the_textbook() {
        // The reference string of many textbooks on paging, with three frames.
        let trace = Trace::of(&[7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1]);
        assert_eq!((lru(&trace, 3), optimum(&trace, 3)), (20 - 12, 20 - 9));
        assert_eq!((lru(&trace, 100), optimum(&trace, 100)), (14, 14), "all but the first access of each key");
    }
}

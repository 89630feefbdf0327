//! The segments of a store: each has a part of the keys, a part of the budget and a stretto cache.

pub(crate) mod capture;
mod index;
mod ledger;
pub(crate) mod row;
pub(crate) mod segment;
mod value;

use std::sync::Arc;

use cache_core::{Error, ErrorKind, Result, backend::Fingerprint};

use self::{ledger::Ledger, segment::Segment};
use crate::reaper::Reaper;

/// The segments, a power of two.
pub(crate) struct Segments<V: Send + Sync + 'static>(Box<[Segment<V>]>);

impl<V: Send + Sync + 'static> Segments<V> {
    /// Starts `count` segments, a power of two. Together they admit `budget`, hold at most `limit`,
    /// and have `counters` counters.
    pub(crate) fn start(count: u32, budget: u64, limit: u64, counters: usize, reaper: &Reaper) -> Result<Self> {
        let (count, counters) = (u64::from(count), counters / count as usize);
        let part = |whole: u64, nth: u64| whole / count + u64::from(nth < whole % count);
        (0..count)
            .map(|nth| {
                let budget = part(budget, nth);
                let ledger = Arc::new(Ledger::new(budget, part(limit, nth), reaper.clone()));
                Segment::start(ledger, budget, counters)
            })
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|error| Error::with_source(ErrorKind::Backend, "stretto cannot be started", error))
    }

    /// Returns the number of the segment that holds the key with this fingerprint.
    #[inline]
    pub(crate) fn number_of(&self, fingerprint: Fingerprint) -> usize {
        // Stretto takes its shard from the low eight bits, and the bucket and the tag in its map from
        // bits 25 to 63; the fence takes its stripe from the low twelve.
        (fingerprint.0 >> 12) as usize & (self.0.len() - 1)
    }

    /// Returns the segment that holds the key with this fingerprint.
    #[inline]
    pub(crate) fn of(&self, fingerprint: Fingerprint) -> &Segment<V> {
        &self.0[self.number_of(fingerprint)]
    }

    pub(crate) fn nth(&self, number: usize) -> Option<&Segment<V>> {
        self.0.get(number)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Segment<V>> {
        self.0.iter()
    }
}

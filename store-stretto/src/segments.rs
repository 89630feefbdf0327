//! The stretto caches among which the rows are divided.

use cache_core::{Error, ErrorKind, Fingerprint, Result};
use stretto::{Cache, CacheBuilder, DefaultCacheCallback, DefaultCoster, DefaultUpdateValidator};

use crate::{
    builder::SWEEP,
    index::{HandThrough, Index, Spread},
    row::Held,
};

pub(crate) type Rows<V> = Cache<
    Index,
    Held<V>,
    HandThrough,
    DefaultCoster<Held<V>>,
    DefaultUpdateValidator<Held<V>>,
    DefaultCacheCallback<Held<V>>,
    Spread,
>;

/// Several stretto caches, each with its part of the keys and its part of the budget. Empty once taken.
pub(crate) struct Segments<V: Send + Sync + 'static>(Box<[Rows<V>]>);

impl<V: Send + Sync + 'static> Segments<V> {
    /// Starts `count` of them, a power of two, that admit `budget` together and count with `counters` together.
    pub(crate) fn start(count: u32, budget: u64, counters: usize) -> Result<Self> {
        let (count, counters) = (u64::from(count), counters / count as usize);
        (0..count)
            .map(|nth| {
                let part = budget / count + u64::from(nth < budget % count);
                CacheBuilder::new_with_key_builder(counters, part.cast_signed(), HandThrough)
                    .set_hasher(Spread)
                    .set_cleanup_duration(SWEEP)
                    .finalize()
            })
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|error| Error::with_source(ErrorKind::Backend, "cannot set up stretto", error))
    }

    /// The one with the key of this fingerprint.
    pub(crate) fn of(&self, fingerprint: Fingerprint) -> &Rows<V> {
        // From the second half, as the first is the index within the segment; not its low bits, which choose the stripe.
        let nth = (fingerprint.low >> 32) as usize & (self.0.len() - 1);
        &self.0[nth]
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Rows<V>> {
        self.0.iter()
    }

    /// All of them, to be dropped elsewhere.
    pub(crate) fn take(&mut self) -> Self {
        Self(std::mem::take(&mut self.0))
    }
}

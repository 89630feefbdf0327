//! What `quick_cache` is told of the rows: their weight, and where evicted ones go.

use std::{marker::PhantomData, sync::Arc};

use cache_core::backend::{BuildFingerprintHasher, Fingerprint, MemoryRow};
use quick_cache::{Lifecycle, Weighter, sync};
use smallvec::SmallVec;

/// The cache: rows by the fingerprint of their key.
pub(crate) type Rows<V> = sync::Cache<Fingerprint, Arc<Row<V>>, ByRow, BuildFingerprintHasher, Hand<V>>;

/// Rows that were replaced, evicted or refused.
pub(crate) type Displaced<V> = SmallVec<[Arc<Row<V>>; 2]>;

/// A row with its weight.
pub(crate) struct Row<V> {
    pub(crate) row: MemoryRow<V>,
    pub(crate) weight: u64,
}

/// Rows know their weight.
#[derive(Clone)]
pub(crate) struct ByRow;

impl<V> Weighter<Fingerprint, Arc<Row<V>>> for ByRow {
    #[inline]
    fn weight(&self, _: &Fingerprint, row: &Arc<Row<V>>) -> u64 {
        row.weight
    }
}

/// Hands displaced rows to the caller, who drops them when no lock is held.
pub(crate) struct Hand<V>(PhantomData<fn() -> V>);

impl<V> Lifecycle<Fingerprint, Arc<Row<V>>> for Hand<V> {
    type RequestState = Displaced<V>;

    #[inline]
    fn on_evict(&self, displaced: &mut Displaced<V>, _: Fingerprint, row: Arc<Row<V>>) {
        displaced.push(row);
    }
}

impl<V> Default for Hand<V> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<V> Clone for Hand<V> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

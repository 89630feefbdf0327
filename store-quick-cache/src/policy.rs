//! The weigher and the lifecycle hooks of `quick_cache`.

use std::{marker::PhantomData, sync::Arc};

use cache_core::backend::{BuildFingerprintHasher, Fingerprint, MemoryRow};
use quick_cache::{Lifecycle, Weighter, sync};
use smallvec::SmallVec;

/// The cache: rows by the fingerprint of their key.
pub(crate) type Rows<V> =
    sync::Cache<Fingerprint, Arc<Row<V>>, RowWeighter, BuildFingerprintHasher, CollectDisplaced<V>>;

/// Rows that were replaced, evicted or refused.
pub(crate) type DisplacedRows<V> = SmallVec<[Arc<Row<V>>; 2]>;

/// A row with its weight.
pub(crate) struct Row<V> {
    pub(crate) row: MemoryRow<V>,
    pub(crate) weight: u64,
}

/// Rows know their weight.
#[derive(Clone)]
pub(crate) struct RowWeighter;

impl<V> Weighter<Fingerprint, Arc<Row<V>>> for RowWeighter {
    #[inline]
    fn weight(&self, _: &Fingerprint, row: &Arc<Row<V>>) -> u64 {
        row.weight
    }
}

/// Collects displaced rows for the caller, who drops them when no lock is held.
pub(crate) struct CollectDisplaced<V>(PhantomData<fn() -> V>);

impl<V> Lifecycle<Fingerprint, Arc<Row<V>>> for CollectDisplaced<V> {
    type RequestState = DisplacedRows<V>;

    #[inline]
    fn on_evict(&self, displaced: &mut DisplacedRows<V>, _: Fingerprint, row: Arc<Row<V>>) {
        displaced.push(row);
    }
}

impl<V> Default for CollectDisplaced<V> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<V> Clone for CollectDisplaced<V> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

//! What `quick_cache` is told of the rows: their hash, their weight, and where evicted ones go.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    marker::PhantomData,
    sync::Arc,
};

use cache_core::backend::{Fingerprint, MemoryRow};
use quick_cache::{Lifecycle, Weighter, sync};
use smallvec::SmallVec;

/// The cache: rows by the fingerprint of their key.
pub(crate) type Rows<V> = sync::Cache<Id, Arc<Row<V>>, ByRow, BuildHasherDefault<Identity>, Hand<V>>;

/// Rows that were replaced, evicted or refused.
pub(crate) type Displaced<V> = SmallVec<[Arc<Row<V>>; 2]>;

/// The name of a row in the cache. Its hash is a half of it: fingerprints are hashes already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(Fingerprint);

impl From<Fingerprint> for Id {
    #[inline]
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint)
    }
}

impl Hash for Id {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.high);
    }
}

/// Returns the number that is hashed.
#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    /// An `Id` writes one `u64`.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// A row with its weight.
pub(crate) struct Row<V> {
    pub(crate) row: MemoryRow<V>,
    pub(crate) weight: u64,
}

/// Rows know their weight.
#[derive(Clone)]
pub(crate) struct ByRow;

impl<V> Weighter<Id, Arc<Row<V>>> for ByRow {
    #[inline]
    fn weight(&self, _: &Id, row: &Arc<Row<V>>) -> u64 {
        row.weight
    }
}

/// Hands displaced rows to the caller, who drops them when no lock is held.
pub(crate) struct Hand<V>(PhantomData<fn() -> V>);

impl<V> Lifecycle<Id, Arc<Row<V>>> for Hand<V> {
    type RequestState = Displaced<V>;

    #[inline]
    fn on_evict(&self, displaced: &mut Displaced<V>, _: Id, row: Arc<Row<V>>) {
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

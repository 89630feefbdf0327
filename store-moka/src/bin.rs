//! Rows that moka has let go of.
//!
//! Moka drops values under its own locks, and through a garbage collector that all caches of the
//! process share: any thread may drop them at any time, also one that writes to another store under
//! the lock of a fence. The `Drop` of a value is code of the application, which must not run there.
//! So what moka drops goes into a bin, which the next writer of the store empties after all locks.

use std::sync::{Arc, Mutex};

use cache_core::backend::{MemoryRow, lock};

/// The rows of one store that are to be dropped.
pub(crate) struct Bin<V>(Mutex<Vec<Arc<MemoryRow<V>>>>);

/// A row as moka keeps it. Dropped, it goes into the bin.
pub(crate) struct Kept<V> {
    /// `None` only while this is dropped.
    row: Option<Arc<MemoryRow<V>>>,
    pub(crate) weight: u32,
    bin: Arc<Bin<V>>,
}

impl<V> Default for Bin<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V> Bin<V> {
    /// Takes all rows, to be dropped when no lock is held.
    pub(crate) fn empty(&self) -> Vec<Arc<MemoryRow<V>>> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl<V> Kept<V> {
    pub(crate) fn new(row: MemoryRow<V>, weight: u64, bin: &Arc<Bin<V>>) -> Self {
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        Self { row: Some(Arc::new(row)), weight, bin: Arc::clone(bin) }
    }

    #[inline]
    pub(crate) fn row(&self) -> &MemoryRow<V> {
        self.row.as_deref().expect("only `drop` takes the row")
    }
}

impl<V> Drop for Kept<V> {
    fn drop(&mut self) {
        lock(&self.bin.0).extend(self.row.take());
    }
}

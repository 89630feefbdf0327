//! Rows that moka has let go of.
//!
//! Moka drops values under its own locks, and through a garbage collector that all caches of the
//! process share: any thread may drop them at any time, also one that writes to another store under
//! the lock of a fence. The `Drop` of a value is code of the application, which must not run there.
//! So what moka drops goes into a bin, which the next writer of any such store empties after all
//! locks.

use std::{
    any::Any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use cache_core::{
    Displaced,
    backend::{MemoryRow, lock},
};

/// The rows that are to be dropped.
static BIN: Mutex<Vec<Arc<dyn Any + Send + Sync>>> = Mutex::new(Vec::new());

/// `true` if there may be any.
static IS_FILLED: AtomicBool = AtomicBool::new(false);

/// The most rows that one write drops.
const BATCH: usize = 64;

/// Takes some rows out of the bin, to be dropped when no lock is held.
pub(crate) fn take() -> Displaced {
    if !IS_FILLED.load(SeqCst) {
        return Displaced::nothing();
    }
    let mut bin = lock(&BIN);
    let rest = bin.len().saturating_sub(BATCH);
    // Under the lock, under which it is set as well.
    IS_FILLED.store(rest > 0, SeqCst);
    bin.drain(rest..).collect()
}

/// Drops all rows in the bin. No lock may be held.
pub(crate) fn empty() {
    let rows = std::mem::take(&mut *lock(&BIN));
    drop(rows);
}

/// Empties the bin when dropped.
pub(crate) struct EmptyOnDrop;

impl Drop for EmptyOnDrop {
    fn drop(&mut self) {
        empty();
    }
}

/// A row as moka keeps it. Dropped, it goes into the bin.
pub(crate) struct BinnedRow<V: Send + Sync + 'static> {
    /// `None` only while this is dropped.
    row: Option<Arc<MemoryRow<V>>>,
    pub(crate) weight: u32,
    /// The number of times that the store was cleared before.
    pub(crate) generation: u64,
}

impl<V: Send + Sync + 'static> BinnedRow<V> {
    pub(crate) fn new(row: MemoryRow<V>, weight: u64, generation: u64) -> Self {
        Self { row: Some(Arc::new(row)), weight: u32::try_from(weight).unwrap_or(u32::MAX), generation }
    }

    #[inline]
    pub(crate) fn row(&self) -> &MemoryRow<V> {
        self.row.as_deref().expect("a row that is not being dropped is there")
    }
}

impl<V: Send + Sync + 'static> Drop for BinnedRow<V> {
    fn drop(&mut self) {
        let mut bin = lock(&BIN);
        bin.extend(self.row.take().map(|row| row as Arc<dyn Any + Send + Sync>));
        IS_FILLED.store(true, SeqCst);
    }
}

//! The values that stretto holds.

use std::{mem::needs_drop, sync::Arc};

use cache_core::backend::Fingerprint;

use super::{
    capture::capture,
    ledger::{Charge, Ledger},
    row::Row,
};

/// The value that stretto holds: a row, or a tombstone if the row was taken out and stretto's entry
/// could not be removed yet.
///
/// The weight is charged to the ledger until the row is dropped or a caller of the store holds it.
/// Stretto drops a `CacheValue` on any thread, sometimes under its own lock. So this `Drop` runs no
/// code of the application: it gives the row to the open
/// [`CaptureSlot`](super::capture::CaptureSlot) of the thread, or else to the reaper.
pub(super) struct CacheValue<V: Send + Sync + 'static> {
    row: Option<Arc<Row<V>>>,
    pub(super) weight: u64,
    slot: u32,
    ledger: Arc<Ledger<V>>,
}

impl<V: Send + Sync + 'static> CacheValue<V> {
    /// Creates the value for a new row, whose weight has been charged to the ledger.
    pub(super) fn new(row: Arc<Row<V>>, weight: u64, ledger: &Arc<Ledger<V>>) -> Self {
        let slot = ledger.add(&row, weight);
        Self { row: Some(row), weight, slot, ledger: Arc::clone(ledger) }
    }

    /// Returns the row, or `None` for a tombstone.
    #[inline]
    pub(super) fn row(&self) -> Option<&Arc<Row<V>>> {
        self.row.as_ref()
    }

    /// Replaces the row by one of the same weight and displaces the old one.
    pub(super) fn replace(&mut self, row: &Arc<Row<V>>) {
        let old = self.row.replace(Arc::clone(row));
        self.ledger.replace(self.slot, row, old.is_none());
        self.displace(old);
    }

    /// Displaces the row and leaves a tombstone.
    pub(super) fn make_tombstone(&mut self, fingerprint: Fingerprint) {
        if let Some(row) = self.row.take() {
            self.ledger.note_tombstone(self.slot, fingerprint);
            self.displace(Some(row));
        }
    }

    fn displace(&self, row: Option<Arc<Row<V>>>) {
        // Stretto's entry stays, and so does the weight that is charged for it.
        if let Some(row) = row.and_then(|row| capture(row, 0)) {
            self.ledger.reaper().defer_drop(row);
        }
    }
}

impl<V: Send + Sync + 'static> Drop for CacheValue<V> {
    fn drop(&mut self) {
        let row = self.row.take();
        self.ledger.remove(self.slot, self.weight, row.is_some());
        let Some(row) = row else { return self.ledger.release(self.weight) };
        let Some(row) = capture(row, self.weight) else { return };
        let charge = Charge { ledger: Arc::clone(&self.ledger), weight: self.weight };
        // If another handle of the row exists, its owner drops the row later, outside of all locks.
        if let Some(row) = Arc::into_inner(row)
            && needs_drop::<V>()
        {
            // The weight stays charged until the row is dropped, which bounds the rows that await
            // their drop as well.
            self.ledger.reaper().defer_drop((row, charge));
        }
    }
}

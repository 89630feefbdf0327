//! Rows, one for each key in the store.

use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
};

use cache_core::backend::MemoryRow;

/// A key and its entry. The row holds the key because stretto keeps no keys.
pub(crate) struct Row<V> {
    row: MemoryRow<V>,
    was_read: AtomicBool,
}

impl<V> Row<V> {
    pub(crate) fn new(row: MemoryRow<V>) -> Self {
        Self { row, was_read: AtomicBool::new(false) }
    }

    /// Marks the row as read.
    #[inline]
    pub(crate) fn mark_read(&self) {
        if !self.was_read() {
            self.was_read.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn was_read(&self) -> bool {
        self.was_read.load(Ordering::Relaxed)
    }

    /// Clears the mark and returns whether it was set.
    pub(super) fn clear_read(&self) -> bool {
        self.was_read() && self.was_read.swap(false, Ordering::Relaxed)
    }
}

impl<V> Deref for Row<V> {
    type Target = MemoryRow<V>;

    #[inline]
    fn deref(&self) -> &MemoryRow<V> {
        &self.row
    }
}

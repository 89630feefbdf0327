//! Rows, one for each key in the store.

use std::{
    mem::needs_drop,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering},
};

use cache_core::{Entry, Key, Moment, backend::IdleDeadline};

/// A key and its entry. The row holds the key because stretto keeps no keys.
///
/// A row can be dropped by a thread that writes another key. A panic in the `Drop` of its value is
/// therefore caught here, after the panic hook has reported it.
pub(crate) struct Row<V> {
    pub(crate) key: Key,
    /// `None` only while the row is dropped.
    entry: Option<Entry<V>>,
    was_read: AtomicBool,
    /// Never past, unless the store has a time to idle.
    pub(crate) idle_deadline: IdleDeadline,
}

impl<V> Row<V> {
    pub(crate) fn new(key: Key, entry: Entry<V>, idle_deadline: IdleDeadline) -> Self {
        Self { key, entry: Some(entry), was_read: AtomicBool::new(false), idle_deadline }
    }

    #[inline]
    pub(crate) fn entry(&self) -> &Entry<V> {
        self.entry.as_ref().expect("only `drop` takes the entry")
    }

    /// Returns `true` if the entry has expired or is idle.
    #[inline]
    pub(crate) fn is_expired(&self, now: Moment) -> bool {
        self.entry().expiry().is_past(now) || self.idle_deadline.is_past(now)
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

impl<V> Drop for Row<V> {
    fn drop(&mut self) {
        let entry = self.entry.take();
        if needs_drop::<V>() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(entry)));
        }
    }
}

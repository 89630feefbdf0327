//! Rows of stores in memory.

use std::{
    mem::needs_drop,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::IdleDeadline;
use crate::{Entry, Key, Moment, SharedClock};

/// A key and its entry, as a store in memory keeps them.
///
/// A row can be dropped by a thread that writes another key. A panic in the `Drop` of its value is
/// therefore caught, after the panic hook has reported it.
///
/// # Examples
///
/// ```
/// use cache_core::{Entry, Expiry, Key, ManualClock, Moment, backend::MemoryRow};
///
/// fn main() -> cache_core::Result<()> {
///     let clock = ManualClock::new();
///     let row = MemoryRow::new(Key::new("k")?, Entry::new("v", Expiry::Never), clock.shared().now(), None);
///     let entry = row.read(&Key::new("k")?, &clock.shared(), None);
///     assert_eq!(entry.and_then(Entry::into_value), Some("v"));
///     assert!(row.read(&Key::new("other")?, &clock.shared(), None).is_none());
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct MemoryRow<V> {
    key: Key,
    /// `None` only while the row is dropped.
    entry: Option<Entry<V>>,
    /// Never past, unless the store has a time to idle.
    idle_deadline: IdleDeadline,
}

impl<V> MemoryRow<V> {
    /// Creates the row of an entry that is written at `now` in a store with this time to idle.
    pub fn new(key: Key, entry: Entry<V>, now: Moment, time_to_idle: Option<Duration>) -> Self {
        Self { key, entry: Some(entry), idle_deadline: IdleDeadline::new(now, time_to_idle) }
    }

    /// Returns the key.
    #[inline]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the entry.
    #[inline]
    #[allow(clippy::missing_panics_doc, reason = "only `drop` takes the entry")]
    pub fn entry(&self) -> &Entry<V> {
        self.entry.as_ref().expect("a row that is not being dropped has its entry")
    }

    /// Returns `true` if the entry has expired or is idle.
    #[inline]
    pub fn is_expired(&self, now: Moment) -> bool {
        self.entry().expiry().is_past(now) || self.idle_deadline.is_past(now)
    }

    /// Returns the entry, unless the row is that of another key or has expired. With a time to
    /// idle, moves its deadline. Reads the clock only if the row can expire.
    ///
    /// Clones the value, so call it when no lock is held.
    #[inline]
    pub fn read(&self, key: &Key, clock: &SharedClock, time_to_idle: Option<Duration>) -> Option<Entry<V>>
    where
        V: Clone,
    {
        let is_served = self.key.as_bytes() == key.as_bytes() && self.is_live(clock, time_to_idle);
        is_served.then(|| self.entry().clone())
    }

    #[inline]
    fn is_live(&self, clock: &SharedClock, time_to_idle: Option<Duration>) -> bool {
        let Some(time_to_idle) = time_to_idle else {
            return !self.entry().expiry().has_passed(&**clock);
        };
        let now = clock.now();
        let is_live = !self.is_expired(now);
        if is_live {
            self.idle_deadline.extend(now, time_to_idle);
        }
        is_live
    }
}

impl<V> Drop for MemoryRow<V> {
    fn drop(&mut self) {
        let entry = self.entry.take();
        if needs_drop::<V>() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(entry)));
        }
    }
}

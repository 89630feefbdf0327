//! The store.

use std::{fmt, sync::Arc};

use cache_core::{
    Displaced, Entry, Error, ErrorKind, Fence, Key, LocalStore, Profile, Result, Usage,
    backend::{Fingerprint, MemoryRow, MemorySettings},
};
use stretto::CacheError;

use crate::{
    flusher::Flusher,
    segments::{
        Segments,
        capture::CaptureSlot,
        row::Row,
        segment::{NewRow, Segment},
    },
};

/// A store in memory on [stretto](https://docs.rs/stretto): `TinyLFU` admission, sampled LFU
/// eviction, bounded by a number of entries or by their weight.
///
/// Clones share one store. The [crate's documentation](crate) lists the guarantees and the limits.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::DelegateCache;
/// use store_stretto::StrettoStore;
///
/// #[tokio::main]
/// async fn main() -> cache_core::Result<()> {
///     let store = StrettoStore::<String>::new(100_000)?;
///
///     // Alone, or as the first tier of a chain: `ChainCache::builder().tier(store).tier(redis)`.
///     let users = DelegateCache::new(store.clone());
///     users.set_with_ttl(42, "Ada".to_owned(), Duration::from_secs(60)).await?;
///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
///     assert_eq!((store.len(), store.capacity()), (1, 100_000));
///     Ok(())
/// }
/// ```
pub struct StrettoStore<V: Clone + Send + Sync + 'static> {
    inner: Arc<Inner<V>>,
}

pub(crate) struct Inner<V: Send + Sync + 'static> {
    /// Declared, and so dropped, before the flusher's handle: the flusher's thread then drops the
    /// segments.
    pub(crate) segments: Arc<Segments<V>>,
    pub(crate) flusher: Flusher,
    pub(crate) fence: Fence,
    pub(crate) settings: MemorySettings<V>,
}

impl<V: Clone + Send + Sync + 'static> StrettoStore<V> {
    pub(crate) fn from_inner(inner: Inner<V>) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Returns the number of entries, including expired ones that have not been swept yet.
    pub fn len(&self) -> u64 {
        self.inner.segments.all().map(|segment| segment.ledger().rows()).sum()
    }

    /// Returns `true` if the store holds no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the total weight of the entries, including those that await admission. Without a
    /// weigher, each entry weighs 1.
    pub fn weight(&self) -> u64 {
        self.inner.segments.all().map(|segment| segment.ledger().weight()).sum()
    }

    /// Returns the largest number of entries, or with a weigher their largest total weight.
    pub fn capacity(&self) -> u64 {
        self.inner.settings.capacity
    }
}

impl<V: Clone + Send + Sync + 'static> LocalStore for StrettoStore<V> {
    type Value = V;

    fn profile(&self) -> Profile {
        self.inner.settings.profile("stretto")
    }

    fn fence(&self) -> &Fence {
        &self.inner.fence
    }

    fn usage(&self) -> Option<Usage> {
        Some(Usage::new(self.len(), self.weight()))
    }

    #[inline]
    fn get(&self, key: &Key) -> Option<Entry<V>> {
        let row = self.inner.segments.of(key.fingerprint()).get(key.fingerprint())?;
        row.mark_read();
        // No lock is held here, so the value's `Clone` and `Drop` may call the store.
        row.read(key, &self.inner.settings.clock, self.inner.settings.time_to_idle)
    }

    fn holds(&self, key: &Key) -> bool {
        self.inner.segments.of(key.fingerprint()).holds(key.fingerprint())
    }

    fn weigh(&self, key: &Key, entry: &Entry<V>) -> u64 {
        self.inner.settings.weigh(key, entry)
    }

    fn insert(&self, key: &Key, entry: Entry<V>, weight: u64) -> Result<Displaced> {
        self.inner.insert(key, key.fingerprint(), entry, weight)
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        self.inner.remove(key.fingerprint())
    }

    fn clear(&self) -> Result<()> {
        self.inner.segments.all().try_for_each(Segment::clear).map_err(broken)
    }

    fn wait(&self) -> Result<()> {
        self.inner.segments.all().try_for_each(Segment::wait).map_err(broken)
    }
}

#[cfg(test)]
impl<V: Clone + Send + Sync + 'static> StrettoStore<V> {
    pub(crate) fn segments(&self) -> &Segments<V> {
        &self.inner.segments
    }
}

impl<V: Send + Sync + 'static> Inner<V> {
    /// Takes the fingerprint as a parameter so that a test can make two keys collide.
    fn insert(&self, key: &Key, fingerprint: Fingerprint, entry: Entry<V>, weight: u64) -> Result<Displaced> {
        let now = self.settings.clock.now();
        let row = Arc::new(Row::new(MemoryRow::new(key.clone(), entry, now, self.settings.time_to_idle)));
        let is_expired = row.entry().expiry().is_past(now);
        let slot = CaptureSlot::open();
        let segment = self.segments.of(fingerprint);
        let stored = if is_expired {
            segment.remove(fingerprint, &slot)
        } else {
            segment.insert(&NewRow { fingerprint, row: &row, weight: weight.max(1), now }, &slot)
        };
        // The new row is returned even if it was stored: it may have been evicted already, and this
        // may be its last handle.
        self.finish(fingerprint, slot, Some(row), stored)
    }

    fn remove(&self, fingerprint: Fingerprint) -> Result<Displaced> {
        let slot = CaptureSlot::open();
        let removed = self.segments.of(fingerprint).remove(fingerprint, &slot);
        self.finish(fingerprint, slot, None, removed)
    }

    fn finish(
        &self,
        fingerprint: Fingerprint,
        slot: CaptureSlot,
        new: Option<Arc<Row<V>>>,
        result: Result<(), CacheError>,
    ) -> Result<Displaced> {
        let segment = self.segments.of(fingerprint);
        let displaced = slot.close(new);
        if segment.needs_flush() {
            self.flusher.request(self.segments.number_of(fingerprint));
        }
        match result {
            Ok(()) => Ok(displaced),
            Err(error) => {
                segment.ledger().reaper().defer_drop(displaced);
                Err(broken(error))
            }
        }
    }
}

fn broken(error: CacheError) -> Error {
    let kind = match error {
        CacheError::SendError(_) | CacheError::RecvError(_) | CacheError::ChannelError(_) => ErrorKind::Closed,
        _ => ErrorKind::Backend,
    };
    Error::with_source(kind, "the store in memory has failed", error)
}

impl<V: Clone + Send + Sync + 'static> Clone for StrettoStore<V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<V: Clone + Send + Sync + 'static> fmt::Debug for StrettoStore<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrettoStore")
            .field("len", &self.len())
            .field("weight", &self.weight())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cache_core::{Clock as _, Expiry, ManualClock};

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn entry(value: &'static str) -> Entry<&'static str> {
        Entry::new(value, Expiry::Never)
    }

    fn value(store: &StrettoStore<&'static str>, key: &Key) -> Option<&'static str> {
        store.get(key).and_then(Entry::into_value)
    }

    #[test]
    fn two_keys_of_one_fingerprint_do_not_alias() {
        let store = StrettoStore::new(100).unwrap();
        let (a, b) = (key("a"), key("b"));
        drop(store.inner.insert(&a, b.fingerprint(), entry("of a"), 1).unwrap());
        assert_eq!(
            store.inner.segments.of(b.fingerprint()).get(b.fingerprint()).unwrap().entry().value(),
            Some(&"of a"),
            "it is there"
        );
        assert_eq!(value(&store, &b), None, "and it is not the value of b");
        drop(store.insert(&b, entry("of b"), 1).unwrap());
        assert_eq!(value(&store, &b), Some("of b"));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_miss_of_another_key_with_the_same_fingerprint_is_no_read() {
        let clock = ManualClock::new();
        let idle = Duration::from_secs(10);
        let store = StrettoStore::builder().capacity(100).clock(clock.shared()).time_to_idle(idle).build().unwrap();
        let (a, b) = (key("a"), key("b"));
        drop(store.inner.insert(&a, b.fingerprint(), entry("of a"), 1).unwrap());
        clock.advance(idle / 2);
        assert_eq!(value(&store, &b), None);
        let row = store.inner.segments.of(b.fingerprint()).get(b.fingerprint()).unwrap();
        clock.advance(idle / 2);
        assert!(row.is_expired(clock.now()));
    }

    /// Stretto keeps a map for each second in which rows expire, until that second.
    #[test]
    fn stretto_is_told_no_ttl_and_expired_rows_are_reclaimed() {
        let clock = ManualClock::new();
        let store = StrettoStore::builder().capacity(100).clock(clock.shared()).build().unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        for n in 0..50 {
            let entry = Entry::new("v", Expiry::At(clock.now().plus(day)));
            drop(store.insert(&Key::new(&n).unwrap(), entry, 1).unwrap());
        }
        for segment in store.inner.segments.all() {
            assert_eq!(segment.ttls(&[0, 1, 49].map(|n| Key::new(&n).unwrap().fingerprint())), [Duration::MAX; 3]);
        }
        clock.advance(day);
        for n in 0..50 {
            drop(store.insert(&Key::new(&("new", n)).unwrap(), entry("v"), 1).unwrap());
        }
        assert_eq!(store.len(), 50, "two are swept for each that is inserted");
    }

    /// Insertions and removals never fill stretto's channel, where a removal waits and an insertion
    /// is lost.
    #[test]
    fn bulk_removals_leave_nothing_behind() {
        let store = StrettoStore::builder().capacity(10_000).build().unwrap();
        let keys: Vec<Key> = (0..5000).map(|n| Key::new(&n).unwrap()).collect();
        for chunk in keys.chunks(200) {
            for key in chunk {
                drop(store.insert(key, entry("v"), 1).unwrap());
            }
            store.wait().unwrap();
        }
        assert_eq!(store.len(), 5000);
        for key in &keys {
            drop(store.remove(key).unwrap());
        }
        assert_eq!(store.len(), 0);
        let charged = || store.inner.segments.all().map(|segment| segment.ledger().charged()).sum::<u64>();
        while charged() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_last_handle_leaves_the_end_of_stretto_to_another_thread() {
        #[derive(Clone)]
        struct Tell(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Teller>);
        struct Teller(std::sync::mpsc::Sender<std::thread::ThreadId>);
        impl Drop for Teller {
            fn drop(&mut self) {
                let _ = self.0.send(std::thread::current().id());
            }
        }
        let store = StrettoStore::new(100).unwrap();
        let (teller, dropped_by) = std::sync::mpsc::channel();
        drop(store.insert(&key("k"), Entry::new(Tell(Arc::new(Teller(teller))), Expiry::Never), 1).unwrap());
        drop(store);
        assert_ne!(dropped_by.recv().unwrap(), std::thread::current().id());
    }
}

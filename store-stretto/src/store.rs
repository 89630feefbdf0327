//! The store itself.

use std::{fmt, sync::Arc, time::Duration};

use cache_core::{
    Displaced, Entry, Error, ErrorKind, Expiry, Fence, Fingerprint, Key, LocalStore, Profile, Result, SharedClock,
};
use stretto::CacheError;

use crate::{
    StrettoBuilder,
    builder::Weigher,
    index::Index,
    row::{Held, Holdings, Row, Tray},
    segments::{Rows, Segments},
};

/// How much longer than our deadline stretto keeps a row. Stretto measures by the wall clock: a step forward by up to
/// this much loses no row, a larger one makes misses. What it keeps too long is never served.
const SLACK: Duration = Duration::from_secs(5);

/// How long stretto keeps a tombstone. Zero would mean "for ever".
const BRIEFLY: Duration = Duration::from_millis(1);

/// A store in memory on [stretto](https://docs.rs/stretto): `TinyLFU` admission, sampled LFU eviction, bounded by a number
/// of entries or by their weight.
///
/// A clone is the same store. See the [crate's documentation](crate) for what it promises and what not.
pub struct StrettoStore<V: Clone + Send + Sync + 'static> {
    inner: Arc<Inner<V>>,
}

pub(crate) struct Inner<V: Send + Sync + 'static> {
    pub(crate) segments: Segments<V>,
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) fence: Fence,
    pub(crate) clock: SharedClock,
    pub(crate) weigher: Option<Weigher<V>>,
    pub(crate) capacity: u64,
    /// The most that one row may weigh.
    pub(crate) heaviest: u64,
}

impl<V: Clone + Send + Sync + 'static> StrettoStore<V> {
    /// A store of at most `capacity` entries, on the system's clock.
    ///
    /// # Errors
    ///
    /// As [`StrettoBuilder::build`].
    ///
    /// # Examples
    ///
    /// ```
    /// let store = store_stretto::StrettoStore::<String>::new(100_000)?;
    /// assert_eq!(store.capacity(), 100_000);
    /// # Ok::<(), cache_core::Error>(())
    /// ```
    pub fn new(capacity: u64) -> Result<Self> {
        Self::builder().capacity(capacity).build()
    }

    /// Sets up a store.
    pub fn builder() -> StrettoBuilder<V> {
        StrettoBuilder::new()
    }

    pub(crate) fn from_inner(inner: Inner<V>) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// How many entries it holds, counting those that have expired and have not been swept yet.
    pub fn len(&self) -> u64 {
        self.inner.holdings.rows()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the entries weigh together, counting what awaits admission: their number, or by the weigher.
    pub fn weight(&self) -> u64 {
        self.inner.holdings.weight()
    }

    /// How many entries it may hold, or what they may weigh if there is a weigher.
    pub fn capacity(&self) -> u64 {
        self.inner.capacity
    }
}

impl<V: Clone + Send + Sync + 'static> LocalStore for StrettoStore<V> {
    type Value = V;

    fn profile(&self) -> Profile {
        Profile::new("stretto").ttl_resolution(Duration::from_nanos(1))
    }

    fn fence(&self) -> &Fence {
        &self.inner.fence
    }

    fn get(&self, key: &Key) -> Option<Entry<V>> {
        let row = self.inner.row(key.fingerprint())?;
        // From here on no lock is held, so the value's `Clone` and `Drop` may do what they like.
        (row.key.as_bytes() == key.as_bytes() && !self.inner.is_expired(&row.entry)).then(|| row.entry.clone())
    }

    fn weigh(&self, key: &Key, entry: &Entry<V>) -> u64 {
        match (&self.inner.weigher, entry.value()) {
            (Some(weigher), Some(value)) => weigher(key, value),
            _ => 1,
        }
    }

    fn insert(&self, key: &Key, entry: Entry<V>, weight: u64) -> Result<Displaced> {
        self.inner.insert(key, key.fingerprint(), entry, weight)
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        let tray = Tray::hold_out();
        let removed = self.inner.entomb(key.fingerprint());
        self.inner.displaced(tray, None, removed)
    }

    fn clear(&self) -> Result<()> {
        self.inner.segments.all().try_for_each(Rows::clear).map_err(broken)
    }

    fn wait(&self) -> Result<()> {
        self.inner.segments.all().try_for_each(Rows::wait).map_err(broken)
    }
}

impl<V: Send + Sync + 'static> Inner<V> {
    fn row(&self, fingerprint: Fingerprint) -> Option<Arc<Row<V>>> {
        // Stretto's reference holds a lock; it ends with this statement.
        self.segments.of(fingerprint).get(&Index(fingerprint))?.value().get().cloned()
    }

    fn is_expired(&self, entry: &Entry<V>) -> bool {
        match entry.expiry() {
            Expiry::Never => false,
            expiry @ Expiry::At(_) => expiry.is_past(self.clock.now()),
        }
    }

    /// The fingerprint comes on its own so that a test can make two keys collide.
    fn insert(&self, key: &Key, fingerprint: Fingerprint, entry: Entry<V>, weight: u64) -> Result<Displaced> {
        let row = Arc::new(Row { key: key.clone(), entry });
        let tray = Tray::hold_out();
        let placed = self.place(fingerprint, &row, weight.max(1), &tray);
        // The new row goes along even if it was stored: it may have been evicted already, and this be its last handle.
        self.displaced(tray, Some(row), placed)
    }

    /// Stores the row, or leaves its key absent.
    fn place(&self, fingerprint: Fingerprint, row: &Arc<Row<V>>, weight: u64, tray: &Tray) -> Result<(), CacheError> {
        let (Some(cost), Some(keep)) = (self.cost(weight), self.keep(row.entry.expiry())) else {
            return self.entomb(fingerprint);
        };
        // Stretto never evicts for a row that grows in place. So see what the old one weighed, and refuse a heavier one
        // for which there is no room.
        let replaces = self.weigher.is_some() && self.entomb_if_present(fingerprint)?;
        let held = Held::row(Arc::clone(row), weight, &self.holdings);
        if replaces && weight > tray.weight() && self.holdings.weight() > self.capacity {
            drop(held);
            return self.entomb(fingerprint);
        }
        if self.segments.of(fingerprint).try_insert_with_ttl(Index(fingerprint), held, cost, keep)? {
            Ok(())
        } else {
            // Not stored, for want of buffer or because a `clear` is under way. The old row must not outlive its successor.
            self.entomb(fingerprint)
        }
    }

    /// How long stretto shall keep a row, unless it has expired already. Zero is "for ever".
    fn keep(&self, expiry: Expiry) -> Option<Duration> {
        match expiry {
            Expiry::Never => Some(Duration::ZERO),
            Expiry::At(_) => {
                let rest = expiry.remaining(self.clock.now()).as_duration().filter(|rest| !rest.is_zero())?;
                Some(rest.saturating_add(SLACK))
            }
        }
    }

    /// The weight as stretto counts it, unless the row can have no place.
    fn cost(&self, weight: u64) -> Option<i64> {
        if weight > self.heaviest { None } else { i64::try_from(weight).ok() }
    }

    /// Puts a tombstone where a row is, if there is one.
    ///
    /// Stretto's own removal sends a message to the processor and waits while that is busy; measured, 10 ms. And a row that
    /// is inserted before the message is processed escapes admission. Replacing does neither.
    fn entomb(&self, fingerprint: Fingerprint) -> Result<(), CacheError> {
        if self.entomb_if_present(fingerprint)? {
            // A second time, as only this call takes a TTL: it lets the sweep find the tombstone.
            let tombstone = Held::tombstone(&self.holdings);
            self.segments.of(fingerprint).try_insert_with_ttl(Index(fingerprint), tombstone, 1, BRIEFLY)?;
        }
        Ok(())
    }

    /// Whether there was a row, expired or not; now there is a tombstone, to be overwritten or put up again with a TTL.
    fn entomb_if_present(&self, fingerprint: Fingerprint) -> Result<bool, CacheError> {
        let tombstone = Held::tombstone(&self.holdings);
        self.segments.of(fingerprint).try_insert_if_present(Index(fingerprint), tombstone, 1)
    }

    fn displaced(&self, tray: Tray, new: Option<Arc<Row<V>>>, result: Result<(), CacheError>) -> Result<Displaced> {
        let old = tray.take();
        match result {
            Ok(()) => Ok(Displaced::rows(old, new)),
            Err(error) => {
                self.holdings.reaper().bury((old, new));
                Err(broken(error))
            }
        }
    }
}

/// Stretto's last handle joins its thread, which first works off what is buffered; the reaper waits for that.
impl<V: Send + Sync + 'static> Drop for Inner<V> {
    fn drop(&mut self) {
        self.holdings.reaper().bury(self.segments.take());
    }
}

fn broken(error: CacheError) -> Error {
    let kind = match error {
        CacheError::SendError(_) | CacheError::RecvError(_) | CacheError::ChannelError(_) => ErrorKind::Closed,
        _ => ErrorKind::Backend,
    };
    Error::with_source(kind, "the store in memory has broken down", error)
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
    use cache_core::{Clock as _, ManualClock, Moment};

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
        assert_eq!(store.inner.row(b.fingerprint()).unwrap().entry.value(), Some(&"of a"), "it is there");
        assert_eq!(value(&store, &b), None, "and it is not the value of b");
        drop(store.insert(&b, entry("of b"), 1).unwrap());
        assert_eq!(value(&store, &b), Some("of b"));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn two_keys_of_one_index_do_not_disturb_each_other() {
        let store = StrettoStore::new(100).unwrap();
        let (a, b) = (key("a"), key("b"));
        let clash = Fingerprint { high: a.fingerprint().high, low: b.fingerprint().low };
        drop(store.insert(&a, entry("of a"), 1).unwrap());
        let displaced = store.inner.insert(&b, clash, entry("of b"), 1).unwrap();
        assert_eq!(format!("{displaced:?}"), "Displaced { old: true, refused: true }", "stretto refuses the second");
        assert!(store.inner.row(clash).is_none());
        store.inner.entomb(clash).unwrap();
        store.wait().unwrap();
        assert_eq!(value(&store, &a), Some("of a"));
        assert_eq!((store.len(), store.weight()), (1, 1));
    }

    #[test]
    fn stretto_keeps_a_row_longer_than_its_life_and_for_ever_only_if_it_has_no_end() {
        let clock = ManualClock::new();
        clock.advance(Duration::from_secs(7));
        let store = StrettoStore::<u8>::builder().capacity(1).clock(clock.shared()).build().unwrap();
        let after = |ttl| store.inner.keep(Expiry::At(clock.now().plus(ttl)));
        assert_eq!(store.inner.keep(Expiry::Never), Some(Duration::ZERO));
        assert_eq!(after(Duration::from_nanos(1)), Some(Duration::new(5, 1)));
        assert_eq!(after(Duration::from_millis(999)), Some(Duration::from_millis(5999)));
        assert_eq!(after(Duration::ZERO), None);
        assert_eq!(store.inner.keep(Expiry::At(Moment::from_nanos(0))), None);
        assert!(after(Duration::MAX).unwrap() < Duration::from_secs(600 * 365 * 24 * 60 * 60));
    }
    /// The reaper is held up here, so what has been dropped was dropped by this thread.
    #[test]
    fn the_last_handle_leaves_the_end_of_stretto_to_the_reaper() {
        struct Gate(std::sync::mpsc::Receiver<()>);
        impl Drop for Gate {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        let store = StrettoStore::new(100).unwrap();
        drop(store.insert(&key("k"), entry("v"), 1).unwrap());
        let holdings = Arc::clone(&store.inner.holdings);
        let (open, gate) = std::sync::mpsc::channel();
        holdings.reaper().bury(Gate(gate));
        drop(store);
        assert_eq!(holdings.rows(), 1);
        drop(open);
        while holdings.rows() > 0 {
            std::thread::yield_now();
        }
    }
}

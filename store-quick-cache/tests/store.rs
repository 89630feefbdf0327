//! The guarantees of the store.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use allocation_counter::measure;
use cache_core::{Clock as _, Entry, Expiry, Key, LocalStore, ManualClock};
use store_quick_cache::QuickCacheStore;

fn key(name: impl cache_core::CacheKey) -> Key {
    Key::new(&name).unwrap()
}

/// Inserts a value with the weight that the store gives it, as core does.
fn put<V: Clone + Send + Sync + 'static>(store: &QuickCacheStore<V>, name: impl cache_core::CacheKey, value: V) {
    let (key, entry) = (key(name), Entry::new(value, Expiry::Never));
    let weight = store.weigh(&key, &entry);
    drop(store.insert(&key, entry, weight).unwrap());
}

fn value<V: Clone + Send + Sync + 'static>(store: &QuickCacheStore<V>, name: impl cache_core::CacheKey) -> Option<V> {
    LocalStore::get(store, &key(name)).and_then(Entry::into_value)
}

fn weighed(capacity: u64) -> QuickCacheStore<u64> {
    QuickCacheStore::builder().capacity(capacity).weigher(|_, &weight| weight).build().unwrap()
}

#[test]
fn the_bound_holds_after_each_insertion() {
    for (capacity, shards) in [(1, 1), (7, 8), (103, 4), (10_000, 1)] {
        let store = QuickCacheStore::builder().capacity(capacity).shards(shards).build().unwrap();
        for n in 0..3 * capacity {
            put(&store, n, n);
            assert!(store.len() <= capacity, "{store:?}");
        }
        assert!(store.len() + u64::from(shards) > capacity, "{store:?}");
        let present = (0..3 * capacity).filter(|&n| value(&store, n) == Some(n)).count() as u64;
        assert_eq!((present, store.weight()), (store.len(), store.len()));
        LocalStore::clear(&store).unwrap();
        assert!(store.is_empty() && store.weight() == 0);
    }
}

#[test]
fn weights_are_counted_when_rows_grow_shrink_and_go() {
    let store = weighed(1000);
    for n in 0..2000 {
        put(&store, n % 150, 1 + n % 40);
        if n % 7 == 0 {
            drop(LocalStore::remove(&store, &key(n % 90)).unwrap());
        }
        assert!(store.weight() <= 1000, "{store:?}");
    }
    let weights: u64 = (0..150_u64).filter_map(|n| value(&store, n)).sum();
    assert_eq!(weights, store.weight());
    for heavy in [971, 1001, u64::MAX] {
        put(&store, "k", 7);
        put(&store, "k", heavy);
        assert_eq!(value(&store, "k"), None, "{heavy}");
    }
    put(&store, "k", 970);
    assert_eq!(value(&store, "k"), Some(970));
}

#[test]
fn an_entry_of_no_weight_weighs_one() {
    let store = weighed(100);
    for n in 0..1000 {
        put(&store, n, 0);
    }
    assert_eq!((store.len(), store.weight()), (100, 100));
}

#[test]
fn an_idle_entry_expires_and_a_read_extends_its_life() {
    let (clock, idle) = (ManualClock::new(), std::time::Duration::from_secs(60));
    let store = QuickCacheStore::builder().capacity(100).time_to_idle(idle).clock(clock.shared()).build().unwrap();
    let short = Entry::new(1, Expiry::At(clock.now().plus(idle * 2)));
    drop(store.insert(&key("short"), short, 1).unwrap());
    put(&store, "read", 2);
    put(&store, "idle", 3);
    for _ in 0..3 {
        clock.advance(idle - std::time::Duration::from_nanos(1));
        assert_eq!(value(&store, "read"), Some(2));
        let _ = value(&store, "short");
    }
    assert_eq!((value(&store, "idle"), value(&store, "short")), (None, None), "a read does not lengthen the TTL");
}

/// A value that calls its store, and panics, when it is dropped.
#[derive(Clone)]
struct Hostile(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Guard>);

struct Guard(&'static OnceLock<QuickCacheStore<Hostile>>, Arc<AtomicU64>);

impl Drop for Guard {
    fn drop(&mut self) {
        let store = self.0.get().unwrap();
        let _ = (LocalStore::get(store, &key("other")), store.len());
        drop(LocalStore::remove(store, &key("other")).unwrap());
        self.1.fetch_add(1, SeqCst);
        std::panic::resume_unwind(Box::new("a hostile value"));
    }
}

/// The values are replaced, removed, evicted, refused and cleared.
#[test]
fn values_are_dropped_when_no_lock_is_held() {
    static STORE: OnceLock<QuickCacheStore<Hostile>> = OnceLock::new();
    let dropped = Arc::new(AtomicU64::new(0));
    let store =
        QuickCacheStore::builder().capacity(10).weigher(|key, _| if *key == self::key("heavy") { 11 } else { 1 });
    let store = STORE.get_or_init(|| store.build().unwrap());
    let counter = Arc::clone(&dropped);
    let hostile = move || Hostile(Arc::new(Guard(&STORE, Arc::clone(&counter))));
    let test = thread::spawn(move || {
        put(store, "k", hostile());
        put(store, "k", hostile());
        put(store, "heavy", hostile());
        drop(LocalStore::remove(store, &key("k")).unwrap());
        (0..30).for_each(|n| put(store, n, hostile()));
        LocalStore::clear(store).unwrap();
    });
    test.join().unwrap();
    assert!(store.is_empty());
    assert_eq!(dropped.load(SeqCst), 33);
}

#[test]
fn a_hit_allocates_nothing() {
    let store = QuickCacheStore::<Arc<str>>::new(100).unwrap();
    put(&store, ("users", 42), "value".into());
    let (store, key): (&dyn LocalStore<Value = Arc<str>>, _) = (&store, key(("users", 42)));
    for _ in 0..1000 {
        let hit = measure(|| assert_eq!(&**store.get(&key).unwrap().value().unwrap(), "value"));
        assert_eq!(hit.count_total, 0);
    }
}

#[test]
fn a_store_has_no_threads() {
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let before = threads();
    let stores: Vec<_> = (0..50).map(|_| QuickCacheStore::<u8>::new(1_000_000).unwrap()).collect();
    // Other tests of this file may start some.
    assert!(threads() < before + stores.len());
}

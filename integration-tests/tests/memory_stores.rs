//! The guarantees of the stores in memory that have no threads. Those of stretto are tested in its
//! crate.

use std::{
    any::Any,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use allocation_counter::measure;
use cache_core::{Clock as _, Entry, Expiry, LocalStore, ManualClock, SystemClock};
use integration_tests::{Bound, Memory, Moka, QuickCache, key};

const IDLE: Duration = Duration::from_secs(60);

fn store<M: Memory>(bound: Bound) -> M::Store<u64> {
    M::store(bound, SystemClock::shared(), |_, &weight| weight)
}

/// Inserts a value with the weight that the store gives it, as core does.
fn put<V>(store: &impl LocalStore<Value = V>, name: impl cache_core::CacheKey, value: V) {
    let (key, entry) = (key(name), Entry::new(value, Expiry::Never));
    let weight = store.weigh(&key, &entry);
    drop(store.insert(&key, entry, weight).unwrap());
}

fn value<V>(store: &impl LocalStore<Value = V>, name: impl cache_core::CacheKey) -> Option<V> {
    LocalStore::get(store, &key(name)).and_then(Entry::into_value)
}

/// There are never more entries than the bound that the store documents for a single writer.
fn the_bound_holds_after_each_insertion<M: Memory>(bound: fn(u64) -> u64) {
    for capacity in [1, 7, 103, 1000, 10_000] {
        let store = store::<M>(Bound::Entries(capacity));
        for n in 0..3 * capacity {
            put(&store, n, n);
            if capacity < 1000 || n % 997 == 0 {
                let held = (0..=n).filter(|n| store.holds(&key(*n))).count() as u64;
                assert!(held <= bound(capacity), "{held} of {capacity}");
            }
        }
        LocalStore::wait(&store).unwrap();
        let present = (0..3 * capacity).filter(|&n| value(&store, n) == Some(n)).count() as u64;
        assert_eq!(M::size(&store), (present, present));
        assert!(present <= capacity && present * 100 >= capacity * 97, "{present} of {capacity}");
        LocalStore::clear(&store).unwrap();
        assert_eq!(M::size(&store), (0, 0));
        assert!((0..3 * capacity).all(|n| value(&store, n).is_none()));
    }
}

fn weights_are_counted_when_rows_grow_shrink_and_go<M: Memory>() {
    let store = store::<M>(Bound::Weight(1000));
    for n in 0..2000 {
        put(&store, n % 150, 1 + n % 40);
        if n % 7 == 0 {
            drop(LocalStore::remove(&store, &key(n % 90)).unwrap());
        }
        assert!(M::size(&store).1 <= 1000, "{store:?}");
    }
    LocalStore::wait(&store).unwrap();
    let weights: u64 = (0..150_u64).filter_map(|n| value(&store, n)).sum();
    assert_eq!(weights, M::size(&store).1);
    let others = M::size(&store).0;
    for heavy in [1001, u64::from(u32::MAX) + 1, u64::MAX] {
        put(&store, "k", 7);
        put(&store, "k", heavy);
        assert_ne!(value(&store, "k"), Some(7), "{heavy}");
        LocalStore::wait(&store).unwrap();
        assert_eq!(value(&store, "k"), None, "{heavy}");
    }
    assert!(M::size(&store).0 * 2 > others, "it was not stored at the cost of the others");
}

/// A replaced entry is not evicted.
fn the_usage_is_that_of_the_rows<M: Memory>() {
    let store = store::<M>(Bound::Weight(1000));
    for n in [1, 1, 2, 3] {
        put(&store, n, 10 * n);
    }
    let usage = LocalStore::usage(&store).unwrap();
    assert_eq!((usage.entries, usage.weight, usage.evictions.unwrap_or(0)), (3, 60, 0));
    (10..200).for_each(|n| put(&store, n, 10));
    LocalStore::wait(&store).unwrap();
    let usage = LocalStore::usage(&store).unwrap();
    assert_eq!((usage.entries, usage.weight), M::size(&store));
    let gone = 193 - usage.entries;
    assert!(gone > 0 && usage.evictions.is_none_or(|evictions| 0 < evictions && evictions <= gone), "{usage:?}");
}

fn an_entry_of_no_weight_weighs_one<M: Memory>() {
    let store = store::<M>(Bound::Weight(100));
    for n in 0..1000 {
        put(&store, n, 0);
    }
    assert_eq!(M::size(&store), (100, 100));
}

fn an_idle_entry_expires_and_a_read_extends_its_life<M: Memory>() {
    let clock = ManualClock::new();
    let store = M::store(Bound::Idle(100, IDLE), clock.shared(), |_, _| 1);
    let short = Entry::new(1, Expiry::At(clock.now().plus(IDLE * 2)));
    drop(store.insert(&key("short"), short, 1).unwrap());
    put(&store, "read", 2);
    put(&store, "idle", 3);
    for _ in 0..3 {
        clock.advance(IDLE * 3 / 4);
        assert_eq!(value(&store, "read"), Some(2));
        let _ = value(&store, "short");
    }
    assert_eq!((value(&store, "idle"), value(&store, "short")), (None, None), "a read does not lengthen the TTL");
}

/// The name of the thread that writes hostile values.
const WRITER: &str = "the writer of hostile values";

/// A value that calls its store, and panics, when it is dropped.
#[derive(Clone)]
struct Hostile(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Guard>);

struct Guard(Arc<dyn Fn() + Send + Sync>);

impl Drop for Guard {
    fn drop(&mut self) {
        (self.0)();
        std::panic::resume_unwind(Box::new("a hostile value"));
    }
}

/// The values are replaced, removed, evicted, refused and cleared.
fn values_are_dropped_when_no_lock_is_held<M: Memory>() {
    let dropped = Arc::new(AtomicU64::new(0));
    let clock = SystemClock::shared();
    let weigh =
        |key: &cache_core::Key, _: &Hostile| if key.as_bytes() == self::key("heavy").as_bytes() { 11 } else { 1 };
    let store = M::store(Bound::Weight(10), clock, weigh);
    // The values call the store, which they do not keep alive.
    let handle = Arc::new(OnceLock::<Box<dyn Any + Send + Sync>>::new());
    assert!(handle.set(Box::new(store.clone())).is_ok());
    let on_drop: Arc<dyn Fn() + Send + Sync> = {
        let (handle, dropped) = (Arc::downgrade(&handle), Arc::clone(&dropped));
        Arc::new(move || {
            dropped.fetch_add(1, SeqCst);
            let Some(handle) = handle.upgrade() else { return };
            let store = handle.get().unwrap().downcast_ref::<M::Store<Hostile>>().unwrap();
            // A write takes the same locks as the one that drops the value. On the thread of another
            // test, which drops moka's garbage as well, this would void the writes below.
            if thread::current().name() == Some(WRITER) {
                store.fence().void_all();
            }
            let _ = (LocalStore::get(store, &key("other")), M::size(store));
            drop(LocalStore::remove(store, &key("other")).unwrap());
        })
    };
    let hostile = move || Hostile(Arc::new(Guard(Arc::clone(&on_drop))));
    let write_all = move || {
        let set = |name: &str| {
            let write = cache_core::Write::new(
                key(name),
                Entry::new(hostile(), Expiry::Never),
                store.fence().lease(&key(name)),
            );
            cache_core::testkit::block_on(cache_core::Store::set(&store, write)).unwrap();
        };
        set("k");
        set("k");
        set("heavy");
        drop(LocalStore::remove(&store, &key("k")).unwrap());
        (0..30).for_each(|n| set(&n.to_string()));
        LocalStore::clear(&store).unwrap();
        LocalStore::wait(&store).unwrap();
        M::size(&store)
    };
    let writer = thread::Builder::new().name(WRITER.to_owned()).spawn(write_all).unwrap();
    assert_eq!(writer.join().unwrap(), (0, 0));
    drop(handle);
    // Moka's garbage collector serves all caches of the process.
    while dropped.load(SeqCst) < 33 {
        drop(M::store::<u64>(Bound::Entries(1), SystemClock::shared(), |_, _| 1));
        thread::yield_now();
    }
    assert_eq!(dropped.load(SeqCst), 33);
}

fn a_hit_allocates_little<M: Memory>(allowed: u64) {
    let store = M::store::<Arc<str>>(Bound::Entries(100), SystemClock::shared(), |_, _| 1);
    put(&store, ("users", 42), "value".into());
    let (store, key): (&dyn LocalStore<Value = Arc<str>>, _) = (&store, key(("users", 42)));
    let hit = || measure(|| assert_eq!(&**store.get(&key).unwrap().value().unwrap(), "value")).count_total;
    let allocations: u64 = (0..6400).map(|_| hit()).sum();
    assert!(allocations <= allowed, "{allocations}");
}

macro_rules! tests {
    ($($kind:ident in $module:ident, $bound:expr, $allocations:literal;)*) => {
        $(mod $module {
            use super::$kind;

            tests! { $kind:
                weights_are_counted_when_rows_grow_shrink_and_go
                an_entry_of_no_weight_weighs_one
                the_usage_is_that_of_the_rows
                an_idle_entry_expires_and_a_read_extends_its_life
                values_are_dropped_when_no_lock_is_held
            }

            #[test]
            fn the_bound_holds_after_each_insertion() {
                super::the_bound_holds_after_each_insertion::<$kind>($bound);
            }

            #[test]
            fn a_hit_allocates_little() {
                super::a_hit_allocates_little::<$kind>($allocations);
            }
        })*
    };
    ($kind:ident: $($test:ident)*) => {
        $(#[test]
        fn $test() {
            super::$test::<$kind>();
        })*
    };
}

tests! {
    QuickCache in quick_cache, |capacity| capacity, 0;
    // Its buffers of reads allocate.
    Moka in moka, |capacity| capacity + capacity / 32 + 1, 200;
}

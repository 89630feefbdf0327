//! Idle expiry: an entry that is not read expires before its TTL.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use cache_core::{Clock, Entry, ErrorKind, Expiry, LocalStore, ManualClock, Moment, Ttl};
use store_stretto::StrettoStore;
use support::{eventually, key};

const IDLE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn store<V: Clone + Send + Sync + 'static>(clock: &ManualClock) -> StrettoStore<V> {
    StrettoStore::builder().capacity(100).clock(clock.shared()).time_to_idle(IDLE).build().unwrap()
}

fn put<V: Clone + Send + Sync + 'static>(store: &StrettoStore<V>, name: &str, entry: Entry<V>) {
    drop(store.insert(&key(name), entry, 1).unwrap());
    LocalStore::wait(store).unwrap();
}

fn value<V: Clone + Send + Sync + 'static>(store: &StrettoStore<V>, name: &str) -> Option<V> {
    LocalStore::get(store, &key(name)).and_then(Entry::into_value)
}

fn living(clock: &ManualClock, seconds: u64) -> Expiry {
    Expiry::after(clock.now(), Ttl::After(Duration::from_secs(seconds)))
}

#[test]
fn the_time_counts_from_the_last_read() {
    let clock = ManualClock::new();
    let store = store(&clock);
    put(&store, "read", Entry::new(1, Expiry::Never));
    put(&store, "unread", Entry::new(2, Expiry::Never));
    for _ in 0..5 {
        clock.advance(IDLE.saturating_sub(Duration::from_nanos(1)));
        assert_eq!(value(&store, "read"), Some(1));
    }
    assert_eq!(value(&store, "unread"), None);
    clock.advance(IDLE);
    assert_eq!(value(&store, "read"), None);
    // A miss is no read.
    assert_eq!((value(&store, "read"), value(&store, "unread")), (None, None));
}

#[test]
fn the_ttl_is_the_upper_limit_however_often_an_entry_is_read() {
    let clock = ManualClock::new();
    let store = store(&clock);
    put(&store, "k", Entry::new(1, living(&clock, 60)));
    for second in 1..60 {
        clock.advance(SECOND);
        let found = LocalStore::get(&store, &key("k")).unwrap();
        assert_eq!(found.remaining(clock.now()), Ttl::After(Duration::from_secs(60 - second)));
    }
    clock.advance(SECOND);
    assert_eq!(value(&store, "k"), None);
    // A TTL that is shorter than the time to idle ends first.
    put(&store, "short", Entry::new(2, living(&clock, 5)));
    clock.advance(5 * SECOND);
    assert_eq!(value(&store, "short"), None);
}

#[test]
fn writing_an_entry_anew_starts_anew() {
    let clock = ManualClock::new();
    let store = store(&clock);
    put(&store, "replaced", Entry::new(1, Expiry::Never));
    put(&store, "removed", Entry::new(1, Expiry::Never));
    clock.advance(9 * SECOND);
    put(&store, "replaced", Entry::new(2, Expiry::Never));
    drop(LocalStore::remove(&store, &key("removed")).unwrap());
    put(&store, "removed", Entry::new(2, Expiry::Never));
    clock.advance(9 * SECOND);
    assert_eq!((value(&store, "replaced"), value(&store, "removed")), (Some(2), Some(2)));
    // And what was read until now is idle ten seconds after its last write.
    put(&store, "replaced", Entry::new(3, Expiry::Never));
    clock.advance(IDLE);
    assert_eq!((value(&store, "replaced"), value(&store, "removed")), (None, None));
    // An idle entry does not stand in the way of a new one.
    put(&store, "replaced", Entry::new(4, Expiry::Never));
    assert_eq!(value(&store, "replaced"), Some(4));
}

#[test]
fn an_idle_entry_is_a_miss_also_within_its_stale_window() {
    let clock = ManualClock::new();
    let store = store(&clock);
    for name in ["read", "unread"] {
        put(&store, name, Entry::new(1, living(&clock, 100)).fresh_until(living(&clock, 5)));
    }
    clock.advance(6 * SECOND);
    // A stale entry that is read is in use.
    assert!(LocalStore::get(&store, &key("read")).unwrap().is_stale(clock.now()));
    clock.advance(4 * SECOND);
    assert_eq!((value(&store, "read"), value(&store, "unread")), (Some(1), None));
    // The news that there is no value ages likewise.
    put(&store, "absent", Entry::absent(living(&clock, 100)));
    clock.advance(IDLE);
    assert!(LocalStore::get(&store, &key("absent")).is_none());
}

#[test]
fn the_memory_of_idle_entries_is_freed() {
    let clock = ManualClock::new();
    let store = store(&clock);
    let used = Arc::new(());
    for n in 0..50 {
        drop(store.insert(&key(n), Entry::new(Arc::clone(&used), Expiry::Never), 1).unwrap());
    }
    LocalStore::wait(&store).unwrap();
    clock.advance(IDLE);
    assert!((0..50).all(|n| LocalStore::get(&store, &key(n)).is_none()), "misses before anything is swept");
    // By insertions, two of which each sweeps, or by the store's thread, once a second.
    for n in 0..50 {
        drop(store.insert(&key(("new", n)), Entry::new(Arc::default(), Expiry::Never), 1).unwrap());
    }
    assert_eq!(store.len(), 50);
    clock.advance(IDLE);
    eventually("the idle entries are dropped", || store.is_empty() && Arc::strong_count(&used) == 1);
}

#[tokio::test]
async fn a_batch_reads_each_of_its_keys() {
    use cache_core::Store as _;
    let clock = ManualClock::new();
    let store = store(&clock);
    put(&store, "a", Entry::new(1, Expiry::Never));
    put(&store, "b", Entry::new(2, Expiry::Never));
    clock.advance(9 * SECOND);
    assert_eq!(store.get_many(&[key("a"), key("b")]).await.len(), 2);
    clock.advance(9 * SECOND);
    assert_eq!((value(&store, "a"), value(&store, "b")), (Some(1), Some(2)));
}

#[test]
fn a_time_of_zero_is_refused_and_the_longest_is_no_limit() {
    let error = StrettoStore::<u8>::builder().capacity(100).time_to_idle(Duration::ZERO).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("time_to_idle"), "{error}");
    let clock = ManualClock::new();
    let builder = StrettoStore::builder().capacity(100).clock(clock.shared());
    let store = builder.time_to_idle(Duration::MAX).build().unwrap();
    put(&store, "k", Entry::new(1, Expiry::Never));
    for _ in 0..2 {
        clock.advance(cache_core::MAX_TTL);
        assert_eq!(value(&store, "k"), Some(1));
    }
}

/// Counts how often it is read.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<AtomicU64>);

impl Clock for Counting {
    fn now(&self) -> Moment {
        self.0.fetch_add(1, Ordering::SeqCst);
        Moment::from_nanos(0)
    }
}

#[test]
fn a_hit_reads_the_clock_once_and_only_if_the_time_matters() {
    for (time_to_idle, never, expires) in [(None, 0, 1), (Some(IDLE), 1, 1)] {
        let clock = Counting::default();
        let mut builder = StrettoStore::builder().capacity(100).clock(Arc::new(clock.clone()));
        if let Some(time) = time_to_idle {
            builder = builder.time_to_idle(time);
        }
        let store = builder.build().unwrap();
        put(&store, "never", Entry::new(1, Expiry::Never));
        put(&store, "expires", Entry::new(2, Expiry::At(Moment::from_nanos(1))));
        for (name, reads) in [("never", never), ("expires", expires)] {
            // The store's thread reads it now and then.
            let counts = (0..100).map(|_| {
                let before = clock.0.load(Ordering::SeqCst);
                assert!(value(&store, name).is_some());
                clock.0.load(Ordering::SeqCst) - before
            });
            assert_eq!(counts.min(), Some(reads), "{name} with {time_to_idle:?}");
        }
    }
}

#[test]
fn concurrent_readers_keep_an_entry_alive() {
    let clock = ManualClock::new();
    let store = store(&clock);
    put(&store, "k", Entry::new(1, Expiry::Never));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    clock.advance(Duration::from_micros(100));
                    assert_eq!(value(&store, "k"), Some(1));
                }
            });
        }
    });
    clock.advance(IDLE);
    assert_eq!(value(&store, "k"), None);
}

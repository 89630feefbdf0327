//! The drop of values: it may be slow, panic or call the store, and is counted until it has ended.

mod support;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use cache_core::{Key, LocalStore, Store, Ticket};
use store_stretto::StrettoStore;
use support::{eventually, forever, key, put, ready, watched, write};

/// A value that counts those alive.
#[derive(Clone)]
struct Counted(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Alive>);

struct Alive(Arc<AtomicU64>);

impl Counted {
    fn new(alive: &Arc<AtomicU64>, most: &Arc<AtomicU64>) -> Self {
        most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(Arc::new(Alive(Arc::clone(alive))))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Values that await admission or their drop count as well: at no instant are more values alive
/// than 1.1 times the capacity, those in the writers' hands included.
#[test]
fn at_no_instant_are_more_values_alive_than_the_bound() {
    watched(|| {
        for capacity in [100, 1000] {
            let (alive, most) = (Arc::default(), Arc::default());
            let store = StrettoStore::new(capacity).unwrap();
            let threads: Vec<_> = (0..4_u64)
                .map(|thread| {
                    let (store, alive, most) = (store.clone(), Arc::clone(&alive), Arc::clone(&most));
                    thread::spawn(move || {
                        for n in 0..20_000_u64 {
                            let key = key((thread, n % 3000));
                            put(&store, &key, forever(Counted::new(&alive, &most)));
                            if n % 7 == 0 {
                                drop(LocalStore::remove(&store, &key).unwrap());
                            }
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            let most = most.load(Ordering::SeqCst);
            // The writers have up to eight of them: each its new value and the one that makes room
            // for it.
            assert!(most >= capacity && most <= capacity + capacity / 10, "{most} of {capacity}");
            drop(store);
            eventually("all are dropped", || alive.load(Ordering::SeqCst) == 0);
        }
    });
}

/// A value whose `Drop` uses the store that holds it, under the same key.
#[derive(Clone)]
struct Meddler(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Meddling>);

struct Meddling(Key);

static MEDDLED: OnceLock<StrettoStore<Meddler>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Meddler {
    fn new(key: &Key) -> Self {
        Self(Arc::new(Meddling(key.clone())))
    }
}

impl Drop for Meddling {
    fn drop(&mut self) {
        let store = MEDDLED.get().unwrap();
        let _ = LocalStore::get(store, &self.0);
        let nth = DROPPED.fetch_add(1, Ordering::Relaxed);
        ready(Store::del(store, &self.0)).unwrap();
        // Not every time, or there would be no end.
        if nth.is_multiple_of(16) {
            LocalStore::wait(store).unwrap();
            ready(store.set(write(&self.0, Meddler::new(&self.0), Ticket::unconditional()))).unwrap();
        }
        if nth.is_multiple_of(64) {
            ready(Store::clear(store)).unwrap();
        }
    }
}

#[test]
fn a_value_may_use_the_store_while_it_is_dropped() {
    watched(|| {
        let store = MEDDLED.get_or_init(|| StrettoStore::new(10).unwrap());
        let key = key("k");
        // Replaced, removed, refused for its ticket, installed by a fill, and cleared.
        let void = store.fence().lease(&key);
        for _ in 0..20 {
            ready(store.set(write(&key, Meddler::new(&key), Ticket::unconditional()))).unwrap();
            ready(store.set(write(&key, Meddler::new(&key), Ticket::unconditional()))).unwrap();
            ready(Store::del(store, &key)).unwrap();
            ready(store.set(write(&key, Meddler::new(&key), void))).unwrap();
            assert!(!ready(store.fill(write(&key, Meddler::new(&key), void))).unwrap());
            let ticket = store.fence().lease(&key);
            ready(store.fill(write(&key, Meddler::new(&key), ticket))).unwrap();
            ready(Store::clear(store)).unwrap();
        }
        // Evicted or refused by the admission policy.
        let before = DROPPED.load(Ordering::Relaxed);
        for n in 0..500 {
            let key = Key::new(&n).unwrap();
            ready(store.set(write(&key, Meddler::new(&key), Ticket::unconditional()))).unwrap();
        }
        ready(Store::wait(store)).unwrap();
        eventually("what was evicted is dropped", || DROPPED.load(Ordering::Relaxed) >= before + 490);
    });
}

/// A value whose `Drop` waits for the gate to open.
#[derive(Clone)]
struct Gated(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Gate>);

struct Gate {
    open: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl Gated {
    fn new(open: &Arc<AtomicBool>, dropped: &Arc<AtomicU64>) -> Self {
        Self(Arc::new(Gate { open: Arc::clone(open), dropped: Arc::clone(dropped) }))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        while !self.open.load(Ordering::Acquire) {
            thread::yield_now();
        }
        self.dropped.fetch_add(1, Ordering::Release);
    }
}

/// The caller of an insertion drops the values that make room for it. Values that wait for their
/// drop count against the capacity.
#[test]
fn values_that_are_slow_to_drop_hold_up_neither_wait_nor_clear() {
    watched(|| {
        let (open, dropped) = (Arc::default(), Arc::default());
        let store = StrettoStore::new(10).unwrap();
        let mut displaced = Vec::new();
        for n in 0..1000 {
            displaced.push(store.insert(&key(n), forever(Gated::new(&open, &dropped)), 1).unwrap());
        }
        LocalStore::wait(&store).unwrap();
        assert!(store.len() <= 10);
        LocalStore::clear(&store).unwrap();
        assert_eq!((store.len(), dropped.load(Ordering::Acquire)), (0, 0));
        open.store(true, Ordering::Release);
        drop(displaced);
        eventually("all are dropped", || dropped.load(Ordering::Acquire) == 1000);
    });
}

/// Values that the store's own thread does not get to drop cannot pile up: insertions then push out
/// what is stored, or leave their key absent.
#[test]
fn what_awaits_its_drop_counts_against_the_capacity() {
    /// A value that any thread but one waits to drop until the gate opens.
    #[derive(Clone)]
    struct Stuck(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Brake>);
    struct Brake(thread::ThreadId, Arc<AtomicBool>, Arc<AtomicU64>);
    impl Drop for Brake {
        fn drop(&mut self) {
            while thread::current().id() != self.0 && !self.1.load(Ordering::Acquire) {
                thread::yield_now();
            }
            self.2.fetch_sub(1, Ordering::SeqCst);
        }
    }
    watched(|| {
        let (open, alive) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let store = StrettoStore::new(1000).unwrap();
        for n in 0..5000 {
            alive.fetch_add(1, Ordering::SeqCst);
            let value = Stuck(Arc::new(Brake(thread::current().id(), Arc::clone(&open), Arc::clone(&alive))));
            put(&store, &key(n), forever(value));
            let alive = alive.load(Ordering::SeqCst);
            assert!(alive <= 1100, "{alive} after {n}");
            if n % 10 == 0 {
                // Has stretto evict, which leaves the rows to the store's own thread.
                LocalStore::wait(&store).unwrap();
            }
        }
        let waiting = alive.load(Ordering::SeqCst) - store.len();
        assert!(waiting > 0, "the test needs values that await their drop");
        open.store(true, Ordering::Release);
        eventually("those that waited are dropped", || alive.load(Ordering::SeqCst) == store.len());
        drop(store);
        eventually("all are dropped", || alive.load(Ordering::SeqCst) == 0);
    });
}

/// Neither stretto's thread, which the last handle joins, nor the values hold up the thread of a
/// runtime.
#[test]
fn dropping_the_last_handle_does_not_block_a_runtime() {
    watched(|| {
        let (open, dropped) = (Arc::default(), Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let displaced = runtime.block_on(async {
            let store = StrettoStore::new(100).unwrap();
            // Writers drop the values that make room, so these are kept from being dropped here.
            let displaced: Vec<_> =
                (0..1000).map(|n| store.insert(&key(n), forever(Gated::new(&open, &dropped)), 1).unwrap()).collect();
            drop(store);
            displaced
        });
        assert_eq!(dropped.load(Ordering::Acquire), 0);
        open.store(true, Ordering::Release);
        drop(displaced);
        eventually("all are dropped", || dropped.load(Ordering::Acquire) == 1000);
    });
}

#[test]
fn a_value_that_panics_when_dropped_does_not_break_the_store() {
    #[derive(Clone)]
    struct Bomb(#[allow(dead_code, reason = "it is there for its `Drop`")] Arc<Fuse>);
    struct Fuse(Arc<AtomicU64>);
    impl Drop for Fuse {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Release);
            // Like a panic, without its message on the test's output.
            std::panic::resume_unwind(Box::new("boom"));
        }
    }
    watched(|| {
        let store = StrettoStore::new(10).unwrap();
        let dropped = Arc::new(AtomicU64::new(0));
        for round in 1..=3 {
            for n in 0..500 {
                put(&store, &key(n), forever(Bomb(Arc::new(Fuse(Arc::clone(&dropped))))));
            }
            LocalStore::wait(&store).unwrap();
            assert_eq!(store.len(), 10);
            LocalStore::clear(&store).unwrap();
            assert_eq!(store.len(), 0);
            eventually("all are dropped", || dropped.load(Ordering::Acquire) == round * 500);
        }
    });
}

//! The guarantees of the store, and the pitfalls of stretto that it avoids.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use cache_core::{Clock, Entry, Expiry, Key, LocalStore, ManualClock, Store, Ticket, Ttl, Write};
use store_stretto::StrettoStore;

fn key(name: impl cache_core::CacheKey) -> Key {
    Key::new(&name).unwrap()
}

fn forever<V>(value: V) -> Entry<V> {
    Entry::new(value, Expiry::Never)
}

/// Inserts by the weight that the store gives it, as core does.
fn put<V: Clone + Send + Sync + 'static>(store: &StrettoStore<V>, key: &Key, entry: Entry<V>) {
    let weight = store.weigh(key, &entry);
    drop(store.insert(key, entry, weight).unwrap());
}

fn value<V: Clone + Send + Sync + 'static>(store: &StrettoStore<V>, key: &Key) -> Option<V> {
    LocalStore::get(store, key).and_then(Entry::into_value)
}

/// The result of a future of a local store, which never waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a local store does not wait"),
    }
}

fn write<V>(key: &Key, value: V, ticket: Ticket) -> Write<V> {
    Write::new(key.clone(), forever(value), ticket)
}

/// Fails if `test` hangs. The bound is for liveness only.
fn watched<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = mpsc::channel();
    let thread = thread::spawn(move || done.send(test()));
    match outcome.recv_timeout(Duration::from_secs(60)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().expect_err("it panicked")),
    }
}

/// Waits until `condition` holds; fails if it never does.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

#[test]
fn an_insertion_is_visible_at_once_and_a_removal_too() {
    let store = StrettoStore::new(100).unwrap();
    put(&store, &key("k"), forever(1));
    assert_eq!(value(&store, &key("k")), Some(1));
    put(&store, &key("k"), forever(2));
    assert_eq!(value(&store, &key("k")), Some(2));
    assert_eq!((store.len(), store.weight()), (1, 1));
    drop(LocalStore::remove(&store, &key("k")).unwrap());
    assert_eq!(value(&store, &key("k")), None);
    assert!(store.is_empty());
    drop(LocalStore::remove(&store, &key("k")).unwrap());
    put(&store, &key("k"), forever(3));
    LocalStore::wait(&store).unwrap();
    assert_eq!(value(&store, &key("k")), Some(3), "no buffered removal comes after it");
}

#[test]
fn a_clone_is_the_same_store() {
    let store = StrettoStore::new(100).unwrap();
    put(&store.clone(), &key("k"), forever(1));
    assert_eq!(value(&store, &key("k")), Some(1));
}

#[test]
fn removing_what_is_absent_leaves_nothing_behind() {
    let store = StrettoStore::<u8>::new(100).unwrap();
    drop(LocalStore::remove(&store, &key("k")).unwrap());
    assert_eq!((store.len(), store.weight()), (0, 0));
}

#[test]
fn a_removal_leaves_nothing_behind() {
    let store = StrettoStore::new(100).unwrap();
    put(&store, &key("k"), forever(1));
    drop(LocalStore::remove(&store, &key("k")).unwrap());
    assert_eq!((store.len(), store.weight()), (0, 0));
}

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

/// What awaits admission and what awaits its drop count as well: at no instant are more values
/// alive than 1.1 times the capacity, those in the writers' hands included.
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

#[test]
fn wait_makes_the_admission_visible() {
    let store = StrettoStore::new(100).unwrap();
    for n in 0..1000 {
        put(&store, &key(n), forever(n));
    }
    LocalStore::wait(&store).unwrap();
    assert_eq!((store.len(), store.weight()), (100, 100));
    let present = (0..1000).filter(|&n| value(&store, &key(n)) == Some(n)).count();
    assert_eq!(present, 100);
}

#[test]
fn segments_share_the_capacity() {
    let store = StrettoStore::builder().capacity(103).segments(4).build().unwrap();
    for n in 0..2000 {
        put(&store, &key(n), forever(n));
    }
    LocalStore::wait(&store).unwrap();
    assert_eq!((store.len(), store.weight(), store.capacity()), (103, 103, 103));
    let present = (0..2000).filter(|&n| value(&store, &key(n)) == Some(n)).count();
    assert_eq!(present, 103);
    LocalStore::clear(&store).unwrap();
    assert_eq!((store.len(), store.weight()), (0, 0));
}

#[test]
fn clear_removes_everything_and_the_store_goes_on() {
    let store = StrettoStore::new(100).unwrap();
    for n in 0..50 {
        put(&store, &key(n), forever(n));
    }
    LocalStore::clear(&store).unwrap();
    assert_eq!((store.len(), store.weight()), (0, 0));
    put(&store, &key("k"), forever(1));
    LocalStore::wait(&store).unwrap();
    assert_eq!(value(&store, &key("k")), Some(1));
}

#[test]
fn clear_among_insertions_leaves_no_row_that_an_earlier_one_wrote() {
    watched(|| {
        let store = StrettoStore::new(10_000).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (store, stop) = (store.clone(), Arc::clone(&stop));
                thread::spawn(move || {
                    for n in (0_u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                        put(&store, &key((writer, n % 100)), forever(n));
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            ready(Store::clear(&store)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
        ready(Store::clear(&store)).unwrap();
        assert_eq!((store.len(), store.weight()), (0, 0));
        put(&store, &key("k"), forever(1));
        LocalStore::wait(&store).unwrap();
        assert_eq!(value(&store, &key("k")), Some(1));
        assert_eq!(store.len(), 1);
    });
}

#[test]
fn every_life_ends_at_its_deadline_by_our_clock() {
    let ten_years = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    for ttl in [1, 999, 1000, 1001].map(Duration::from_millis).into_iter().chain([ten_years]) {
        let clock = ManualClock::new();
        let store = StrettoStore::builder().capacity(100).clock(clock.shared()).build().unwrap();
        put(&store, &key("k"), Entry::new(1, Expiry::after(clock.now(), Ttl::After(ttl))));
        LocalStore::wait(&store).unwrap();

        clock.advance(ttl.saturating_sub(Duration::from_nanos(1)));
        let last = LocalStore::get(&store, &key("k")).unwrap();
        assert_eq!(last.remaining(clock.now()), Ttl::After(Duration::from_nanos(1)), "{ttl:?}");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(value(&store, &key("k")), None, "{ttl:?}");
    }
}

#[test]
fn no_end_is_no_end_and_the_longest_life_does_not_panic() {
    let clock = ManualClock::new();
    let store = StrettoStore::builder().capacity(100).clock(clock.shared()).build().unwrap();
    let longest = Expiry::after(clock.now(), Ttl::After(Duration::MAX));
    put(&store, &key("never"), forever(1));
    put(&store, &key("longest"), Entry::new(2, longest));
    put(&store, &key("end of the line"), Entry::new(3, Expiry::At(cache_core::Moment::from_nanos(u64::MAX))));
    LocalStore::wait(&store).unwrap();
    assert_eq!(LocalStore::get(&store, &key("never")).unwrap().expiry(), Expiry::Never);
    assert_eq!(LocalStore::get(&store, &key("longest")).unwrap().expiry(), longest);
    clock.advance(cache_core::MAX_TTL);
    assert_eq!(value(&store, &key("never")), Some(1));
    assert_eq!(value(&store, &key("longest")), None);
    assert_eq!(value(&store, &key("end of the line")), Some(3));
}

/// The wall clock moves on by itself while ours stands still: a life of a nanosecond lasts as long
/// as our clock says.
#[test]
fn the_wall_clock_is_not_asked() {
    let clock = ManualClock::new();
    let store = StrettoStore::builder().capacity(100).clock(clock.shared()).build().unwrap();
    let soon = Expiry::after(clock.now(), Ttl::After(Duration::from_nanos(1)));
    put(&store, &key("k"), Entry::new(1, soon));
    LocalStore::wait(&store).unwrap();
    assert_eq!(value(&store, &key("k")), Some(1));
    clock.advance(Duration::from_nanos(1));
    assert_eq!(value(&store, &key("k")), None);
}

#[test]
fn an_overwrite_that_has_expired_already_leaves_the_key_absent() {
    let clock = ManualClock::new();
    let store = StrettoStore::builder().capacity(100).clock(clock.shared()).build().unwrap();
    put(&store, &key("k"), forever(1));
    put(&store, &key("k"), Entry::new(2, Expiry::after(clock.now(), Ttl::After(Duration::ZERO))));
    assert_eq!(value(&store, &key("k")), None);
    assert_eq!(store.len(), 0);
}

fn weighed(capacity: u64) -> StrettoStore<u64> {
    StrettoStore::builder().capacity(capacity).weigher(|_, &weight| weight).build().unwrap()
}

#[test]
fn an_overwrite_too_heavy_for_the_store_leaves_the_key_absent() {
    let store = weighed(1000);
    for heavy in [901, 1000, i64::MAX as u64, u64::MAX] {
        put(&store, &key("k"), forever(7));
        put(&store, &key("k"), forever(heavy));
        assert_eq!(value(&store, &key("k")), None, "{heavy}");
        LocalStore::wait(&store).unwrap();
        assert_eq!(store.len(), 0);
    }
    put(&store, &key("k"), forever(900));
    LocalStore::wait(&store).unwrap();
    assert_eq!(value(&store, &key("k")), Some(900));
}

#[test]
fn what_weighs_nothing_weighs_one() {
    let store = weighed(100);
    for n in 0..1000 {
        put(&store, &key(n), forever(0));
    }
    LocalStore::wait(&store).unwrap();
    assert_eq!((store.len(), store.weight()), (90, 90));
}

#[test]
fn the_weight_stays_bounded_when_rows_grow_in_place() {
    let store = weighed(1000);
    for n in 0..100 {
        put(&store, &key(n), forever(1));
    }
    LocalStore::wait(&store).unwrap();
    assert_eq!((store.len(), store.weight()), (100, 100));
    for n in 0..100 {
        put(&store, &key(n), forever(500));
        assert_ne!(value(&store, &key(n)), Some(1), "the old value is gone");
    }
    LocalStore::wait(&store).unwrap();
    assert!((500..=1000).contains(&store.weight()), "{store:?}");
}

#[test]
fn the_weight_stays_bounded_when_rows_are_removed_and_come_back_heavier() {
    let store = weighed(1000);
    for weight in [1, 10, 100, 500] {
        for n in 0..100 {
            drop(LocalStore::remove(&store, &key(n)).unwrap());
            put(&store, &key(n), forever(weight));
        }
        LocalStore::wait(&store).unwrap();
        assert!(store.weight() <= 1000, "{store:?}");
    }
}

#[test]
fn a_row_grows_and_shrinks_where_there_is_room() {
    let store = weighed(1000);
    for weight in [1, 500, 900, 2, 1] {
        put(&store, &key("k"), forever(weight));
        LocalStore::wait(&store).unwrap();
        assert_eq!(value(&store, &key("k")), Some(weight));
        assert_eq!((store.len(), store.weight()), (1, weight));
    }
}

#[test]
fn a_weigher_may_call_the_store() {
    watched(|| {
        static STORE: OnceLock<StrettoStore<u64>> = OnceLock::new();
        let store = StrettoStore::builder()
            .capacity(1000)
            .weigher(|key, &value| {
                let store = STORE.get().unwrap();
                let old = LocalStore::get(store, key).and_then(Entry::into_value).unwrap_or(0);
                ready(Store::del(store, key)).unwrap();
                old + value
            })
            .build()
            .unwrap();
        let store = STORE.get_or_init(|| store);
        let key = key("k");
        ready(store.set(write(&key, 2, Ticket::unconditional()))).unwrap();
        ready(store.set(write(&key, 3, Ticket::unconditional()))).unwrap();
        assert_eq!(value(store, &key), Some(3));
        assert_eq!(store.weight(), 5);
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

/// What makes room for an insertion is dropped by its caller; what waits for its drop counts
/// against the capacity.
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
            // What makes room is dropped by its writer, so it is kept from being dropped here.
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

#[test]
fn debug_shows_no_value() {
    let store = StrettoStore::builder().capacity(100).weigher(|_, _: &&str| 5).build().unwrap();
    put(&store, &key("k"), forever("secret"));
    assert_eq!(format!("{store:?}"), "StrettoStore { len: 1, weight: 5, capacity: 100, .. }");
}

#[test]
fn concurrent_writers_and_readers_see_whole_rows_and_the_latest_own_write_or_none() {
    watched(|| {
        let store = StrettoStore::new(50).unwrap();
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                let store = store.clone();
                thread::spawn(move || {
                    for n in 0..20_000_u64 {
                        let key = key((thread, n % 40));
                        ready(store.set(write(&key, (thread, n), Ticket::unconditional()))).unwrap();
                        let read = value(&store, &key);
                        assert!(read.is_none() || read == Some((thread, n)), "{read:?} after {n}");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        LocalStore::wait(&store).unwrap();
        assert!(store.len() <= 50, "{store:?}");
    });
}

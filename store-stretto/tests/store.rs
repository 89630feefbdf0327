//! The guarantees of the store, and the pitfalls of stretto that it avoids.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cache_core::{Clock, Entry, Expiry, LocalStore, ManualClock, Store, Ticket, Ttl};
use store_stretto::StrettoStore;
use support::{forever, key, put, ready, value, watched, write};

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

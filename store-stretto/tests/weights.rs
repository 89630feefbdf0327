//! The weights of entries, and the weigher of the application.

mod support;

use std::sync::OnceLock;

use cache_core::{Entry, LocalStore, Store, Ticket};
use store_stretto::StrettoStore;
use support::{forever, key, put, ready, value, watched, write};

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

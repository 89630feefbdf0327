//! Allocations of a hit: only those of stretto itself, one small buffer every 64 reads.

use std::sync::Arc;

use allocation_counter::measure;
use cache_core::{Entry, Expiry, Key, LocalStore};
use store_stretto::StrettoStore;

/// How many allocations each of 6400 calls made on this thread.
fn allocations(mut call: impl FnMut()) -> Vec<u64> {
    (0..6400).map(|_| measure(&mut call).count_total).collect()
}

#[test]
fn a_hit_allocates_no_more_than_stretto_does() {
    let store = StrettoStore::<Arc<str>>::new(100).unwrap();
    let key = Key::new(&("users", 42)).unwrap();
    drop(store.insert(&key, Entry::new("value".into(), Expiry::Never), 1).unwrap());
    store.wait().unwrap();
    let store: &dyn LocalStore<Value = Arc<str>> = &store;
    let ours = allocations(|| assert_eq!(&**store.get(&key).unwrap().value().unwrap(), "value"));

    let plain = stretto::Cache::<u64, Arc<str>>::new(1024, 100).unwrap();
    plain.insert(42, "value".into(), 1);
    plain.wait().unwrap();
    let theirs = allocations(|| assert_eq!(&**plain.get(&42).unwrap().value(), "value"));

    assert_eq!(ours.iter().sum::<u64>(), theirs.iter().sum::<u64>());
    assert_eq!(ours.iter().filter(|&&count| count > 0).count(), 100, "one call in 64 hands a full buffer on");
}

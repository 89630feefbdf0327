//! Helpers that the tests of the store share.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use cache_core::{Entry, Expiry, Key, LocalStore, Ticket, Write};
use store_stretto::StrettoStore;

pub(crate) fn key(name: impl cache_core::CacheKey) -> Key {
    Key::new(&name).unwrap()
}

pub(crate) fn forever<V>(value: V) -> Entry<V> {
    Entry::new(value, Expiry::Never)
}

/// Inserts an entry with the weight that the store gives it, as core does.
pub(crate) fn put<V: Clone + Send + Sync + 'static>(store: &StrettoStore<V>, key: &Key, entry: Entry<V>) {
    let weight = store.weigh(key, &entry);
    drop(store.insert(key, entry, weight).unwrap());
}

pub(crate) fn value<V: Clone + Send + Sync + 'static>(store: &StrettoStore<V>, key: &Key) -> Option<V> {
    LocalStore::get(store, key).and_then(Entry::into_value)
}

/// Returns the result of a future of a local store, which never waits.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a local store does not wait"),
    }
}

pub(crate) fn write<V>(key: &Key, value: V, ticket: Ticket) -> Write<V> {
    Write::new(key.clone(), forever(value), ticket)
}

/// Fails if `test` hangs. The bound is for liveness only.
pub(crate) fn watched<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = mpsc::channel();
    let thread = thread::spawn(move || done.send(test()));
    match outcome.recv_timeout(Duration::from_secs(60)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().expect_err("it panicked")),
    }
}

/// Waits until `condition` holds; fails if it never does.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

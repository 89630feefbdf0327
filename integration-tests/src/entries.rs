//! Keys and entries in few words.

use std::time::Duration;

use cache_core::{CacheKey, Clock, Entry, Expiry, Key, Store, SystemClock, Ticket, Ttl, Write};

/// The key of `key`.
pub fn key(key: impl CacheKey) -> Key {
    Key::new(&key).expect("a valid key")
}

/// A write of a value that does not expire.
pub fn never<V>(key: &Key, value: V, ticket: Ticket) -> Write<V> {
    Write::new(key.clone(), Entry::new(value, Expiry::Never), ticket)
}

/// An unconditional write of a value that lives for `ttl`.
pub fn living<V>(key: &Key, value: V, ttl: Duration) -> Write<V> {
    let expiry = Expiry::after(SystemClock.now(), Ttl::After(ttl));
    Write::new(key.clone(), Entry::new(value, expiry), Ticket::unconditional())
}

/// What remains of an entry that expires.
pub fn remaining<V>(entry: &Entry<V>) -> Duration {
    entry.remaining(SystemClock.now()).as_duration().expect("an entry that expires")
}

/// A ticket that was never drawn.
pub fn void() -> Ticket {
    Ticket::at(0)
}

/// What the parts of a batch gave, all of which must be good.
pub fn all<T>(results: Vec<cache_core::Result<T>>) -> Vec<T> {
    results.into_iter().map(|result| result.expect("a good result")).collect()
}

/// Reads the value of a key, `None` if there is none.
pub async fn value<S: Store>(store: &S, key: &Key) -> Option<S::Value> {
    store.get(key).await.expect("a read").and_then(Entry::into_value)
}

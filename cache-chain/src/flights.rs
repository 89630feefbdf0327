//! The flights that are under way, by key.

use std::{collections::HashMap, fmt, sync::Arc};

use cache_core::Key;

use crate::{
    flight::{Flight, Waiter, Work, left_out},
    sync::{Mutex, MutexGuard, lock},
};

/// The flights that are under way, at most one per key. A clone is the same.
pub(crate) struct Flights<T>(Arc<[Shard<T>]>);

type Shard<T> = Mutex<HashMap<Key, Arc<Flight<T>>>>;

const SHARDS: usize = 32;

impl<T: Send + Sync + 'static> Flights<T> {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Arc<Flight<T>>>> {
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits are used")]
        let low = key.fingerprint().low as usize;
        lock(&self.0[low % SHARDS])
    }

    /// Joins the flight of the key, or starts one with this work; whether it was started.
    pub(crate) fn join(&self, key: &Key, work: impl FnOnce() -> Work<T>) -> (Waiter<T>, bool) {
        // `work` is dropped after the lock if it is not wanted: it holds code of the application.
        let mut flights = self.shard(key);
        if let Some(waiter) = flights.get(key).and_then(Flight::board) {
            return (waiter, false);
        }
        let (flight, waiter) = Flight::start(work(), Some((self.clone(), key.clone())));
        flights.insert(key.clone(), flight);
        (waiter, true)
    }

    /// Lets nobody join the flight of the key any more: what it brings is older than what was just written.
    pub(crate) fn detach(&self, key: &Key) {
        let detached = self.shard(key).remove(key);
        drop(detached);
    }

    /// As [`detach`](Self::detach) for all keys.
    pub(crate) fn detach_all(&self) {
        for shard in &*self.0 {
            let detached = std::mem::take(&mut *lock(shard));
            drop(detached);
        }
    }

    /// How many keys have a flight.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Takes the flight off the list, if it is on it.
    pub(crate) fn unlist(&self, key: &Key, flight: &Arc<Flight<T>>) {
        let mut flights = self.shard(key);
        // Another one may have taken its place.
        let unlisted = match flights.get(key) {
            Some(listed) if Arc::ptr_eq(listed, flight) || left_out!(OthersUnlisted) => flights.remove(key),
            _ => None,
        };
        drop(flights);
        drop(unlisted);
    }
}

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

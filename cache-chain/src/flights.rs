//! The flights in progress, by key.

use std::{collections::HashMap, fmt, sync::Arc};

use cache_core::Key;
use tokio::sync::Semaphore;

use crate::{
    flight::{Flight, Waiter, Work},
    left_out::left_out,
    nesting::{ChainId, Node},
    runtime::RuntimeHandle,
    sync::{Mutex, MutexGuard, lock},
};

/// Starts the flights of one chain.
#[derive(Clone, Debug)]
pub(crate) struct Starter {
    runtime: RuntimeHandle,
    chain: ChainId,
    /// Room for lookups that go on without waiters.
    room: Arc<Semaphore>,
}

/// How many lookups of a chain may go on without waiters. The breaker learns from them that a tier does not answer, although
/// no caller has that much time; more of them would tell nothing new.
const LOOKUPS_WITHOUT_WAITERS: usize = 64;

impl Starter {
    pub(crate) fn new(runtime: RuntimeHandle) -> Self {
        Self { runtime, chain: ChainId::new(), room: Arc::new(Semaphore::new(LOOKUPS_WITHOUT_WAITERS)) }
    }

    /// A list of flights that look up keys. They may go on without waiters.
    pub(crate) fn lookups<T: Send + Sync + 'static>(&self) -> Flights<T> {
        Flights::new(self.clone(), Some(Arc::clone(&self.room)))
    }

    /// A list of flights that load keys. They are aborted when the last waiter leaves.
    pub(crate) fn loads<T: Send + Sync + 'static>(&self) -> Flights<T> {
        Flights::new(self.clone(), None)
    }

    /// Starts a lookup of several keys, which nobody can join.
    pub(crate) fn batch_lookup<T: Send + Sync + 'static>(&self, work: Work<T>) -> Waiter<T> {
        self.start(Node::of_batch_lookup(self.chain), Some(Arc::clone(&self.room)), work)
    }

    /// Starts a load of several keys, which nobody can join.
    pub(crate) fn batch_load<T: Send + Sync + 'static>(&self, work: Work<T>) -> Waiter<T> {
        self.start(Node::new(self.chain, None), None, work)
    }

    fn start<T: Send + Sync + 'static>(&self, node: Node, room: Option<Arc<Semaphore>>, work: Work<T>) -> Waiter<T> {
        let (flight, waiter) = Flight::new(node, None, room);
        flight.spawn(&self.runtime, work);
        waiter
    }
}

/// The flights in progress, at most one per key. A clone is the same list.
pub(crate) struct Flights<T>(Arc<List<T>>);

struct List<T> {
    shards: Box<[Shard<T>]>,
    starter: Starter,
    room: Option<Arc<Semaphore>>,
}

type Shard<T> = Mutex<HashMap<Key, Arc<Flight<T>>>>;

const SHARDS: usize = 32;

impl<T: Send + Sync + 'static> Flights<T> {
    fn new(starter: Starter, room: Option<Arc<Semaphore>>) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self(Arc::new(List { shards, starter, room }))
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Arc<Flight<T>>>> {
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits are used")]
        let low = key.fingerprint().low as usize;
        lock(&self.0.shards[low % SHARDS])
    }

    /// Joins the flight of the key, or starts one with this work. Returns whether it was started.
    pub(crate) fn join(&self, key: &Key, work: impl FnOnce() -> Work<T>) -> (Waiter<T>, bool) {
        let List { starter, room, .. } = &*self.0;
        // `work` holds code of the application: it is called and dropped when the lock is released. So is the task spawned,
        // because a runtime that has ended drops it at once.
        let (flight, waiter) = {
            let mut flights = self.shard(key);
            if let Some(waiter) = flights.get(key).and_then(Flight::join) {
                return (waiter, false);
            }
            let node = Node::new(starter.chain, Some(key.clone()));
            let (flight, waiter) = Flight::new(node, Some(self.clone()), room.clone());
            flights.insert(key.clone(), Arc::clone(&flight));
            (flight, waiter)
        };
        flight.spawn(&starter.runtime, work());
        (waiter, true)
    }

    /// Takes the flight of the key off the list, so that no later caller joins it: its outcome may be older than what was just
    /// written.
    pub(crate) fn detach(&self, key: &Key) {
        let detached = self.shard(key).remove(key);
        drop(detached);
    }

    /// As [`detach`](Self::detach), for all keys.
    pub(crate) fn detach_all(&self) {
        for shard in &self.0.shards {
            let detached = std::mem::take(&mut *lock(shard));
            drop(detached);
        }
    }

    /// How many keys have a flight.
    pub(crate) fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| lock(shard).len()).sum()
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

//! Flights: concurrent calls for one key share one execution of the work (single-flight).
//!
//! A flight is one task on the chain's runtime; callers only wait for it. So the work depends
//! neither on a waiter being polled nor on the runtime of a waiter. An event in the work wakes one
//! task, and the end of the work wakes each waiter once.
//!
//! Shuttle checks the protocol, and that the checks find each [`Fault`](crate::util::fault).

#[cfg(all(test, shuttle))]
mod model;
pub(crate) mod nesting;
mod shared;
mod sync;
#[cfg(all(test, shuttle))]
mod tasks;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use cache_core::{Error, ErrorKind, Key, Result};
use tokio::sync::Semaphore;

use self::{
    nesting::{ChainId, Node, Wait, scope},
    shared::Shared,
    sync::{Mutex, MutexGuard, lock, spawn},
};
use crate::util::{
    fault::injected,
    panics::caught,
    runtime::{RuntimeHandle, closed},
};

pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The largest number of lookups of a chain that may go on without waiters. From them the breaker
/// learns that a tier does not answer, although no caller has that much time. More of them would
/// tell nothing new.
const LOOKUPS_WITHOUT_WAITERS: usize = 64;

/// Starts the flights of one chain.
#[derive(Clone, Debug)]
pub(crate) struct FlightStarter {
    runtime: RuntimeHandle,
    chain: ChainId,
    /// Slots for lookups that go on without waiters.
    background: Arc<Semaphore>,
}

impl FlightStarter {
    pub(crate) fn new(runtime: RuntimeHandle) -> Self {
        Self { runtime, chain: ChainId::new(), background: Arc::new(Semaphore::new(LOOKUPS_WITHOUT_WAITERS)) }
    }

    /// Returns an empty group of lookups, which may go on without waiters.
    pub(crate) fn lookups<T: Send + Sync + 'static>(&self) -> FlightGroup<T> {
        FlightGroup::new(self.clone(), Some(Arc::clone(&self.background)))
    }

    /// Returns an empty group of loads, which are aborted when the last waiter leaves.
    pub(crate) fn loads<T: Send + Sync + 'static>(&self) -> FlightGroup<T> {
        FlightGroup::new(self.clone(), None)
    }

    /// Starts a lookup of several keys. No other caller can join it.
    pub(crate) fn batch_lookup<T: Send + Sync + 'static>(&self, work: Work<T>) -> Waiter<T> {
        self.start(Node::of_batch_lookup(self.chain), Some(Arc::clone(&self.background)), work)
    }

    /// Starts a load of several keys. No other caller can join it.
    pub(crate) fn batch_load<T: Send + Sync + 'static>(&self, work: Work<T>) -> Waiter<T> {
        self.start(Node::new(self.chain, None), None, work)
    }

    fn start<T>(&self, node: Node, background: Option<Arc<Semaphore>>, work: Work<T>) -> Waiter<T>
    where
        T: Send + Sync + 'static,
    {
        let (flight, waiter) = Flight::new(node, None, background);
        Driver(flight).spawn(&self.runtime, work);
        waiter
    }
}

/// Flights by key, at most one per key. A clone is the same group.
pub(crate) struct FlightGroup<T>(Arc<Group<T>>);

struct Group<T> {
    shards: Box<[Shard<T>]>,
    /// The number of flights that have ended, by buckets of keys.
    ended: Box<[AtomicU32]>,
    starter: FlightStarter,
    background: Option<Arc<Semaphore>>,
}

type Shard<T> = Mutex<HashMap<Key, Arc<Flight<T>>>>;

const SHARDS: usize = 32;

const BUCKETS: usize = 1024;

/// A moment in the order in which the flights of a key end; see [`FlightGroup::mark`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u32);

impl<T: Send + Sync + 'static> FlightGroup<T> {
    fn new(starter: FlightStarter, background: Option<Arc<Semaphore>>) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        let ended = (0..BUCKETS).map(|_| AtomicU32::new(0)).collect();
        Self(Arc::new(Group { shards, ended, starter, background }))
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Arc<Flight<T>>>> {
        lock(&self.0.shards[low(key) % SHARDS])
    }

    /// Joins the flight of the key, or starts one with this work. Returns `true` if it was started.
    pub(crate) fn join(&self, key: &Key, work: impl FnOnce() -> Work<T>) -> (Waiter<T>, bool) {
        let Group { starter, background, .. } = &*self.0;
        // `work` holds code of the application, so it is called and dropped outside of the lock. So
        // is the task spawned, because a runtime that has ended drops it at once.
        let (flight, waiter) = {
            let mut flights = self.shard(key);
            if let Some(waiter) = flights.get(key).and_then(Waiter::join) {
                return (waiter, false);
            }
            let node = Node::new(starter.chain, Some(key.clone()));
            let (flight, waiter) = Flight::new(node, Some(self.clone()), background.clone());
            flights.insert(key.clone(), Arc::clone(&flight));
            (flight, waiter)
        };
        // If `work` panics, the driver ends the flight, which others may have joined.
        let driver = Driver(flight);
        let work = work();
        driver.spawn(&starter.runtime, work);
        (waiter, true)
    }

    /// Returns a mark for [`has_ended_since`](Self::has_ended_since).
    #[inline]
    pub(crate) fn mark(&self, key: &Key) -> Mark {
        Mark(self.0.ended[low(key) % BUCKETS].load(Ordering::Acquire))
    }

    /// Returns `true` if a flight of the key may have ended since the mark. Keys share buckets, so
    /// it may be that of another key.
    pub(crate) fn has_ended_since(&self, key: &Key, mark: Mark) -> bool {
        self.mark(key).0 != mark.0
    }

    /// Returns `true` if the key has a flight.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.shard(key).contains_key(key)
    }

    /// Returns the number of keys that have a flight.
    pub(crate) fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn ended(&self, key: &Key, flight: &Arc<Flight<T>>) {
        self.0.ended[low(key) % BUCKETS].fetch_add(1, Ordering::Release);
        if !injected!(EndedListed) {
            self.unlist(key, flight);
        }
    }

    fn unlist(&self, key: &Key, flight: &Arc<Flight<T>>) {
        let mut flights = self.shard(key);
        // A newer flight of the key may be listed.
        let unlisted = match flights.get(key) {
            Some(listed) if Arc::ptr_eq(listed, flight) || injected!(OthersUnlisted) => flights.remove(key),
            _ => None,
        };
        drop(flights);
        drop(unlisted);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "only the low bits are used")]
fn low(key: &Key) -> usize {
    key.fingerprint().0 as usize
}

impl<T> Clone for FlightGroup<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Flights that can be forgotten, so that later callers do not join them (as `Forget` of Go's
/// singleflight). Their outcome may be older than what was just written.
pub(crate) trait Forget: Send + Sync {
    fn forget(&self, key: &Key);
    fn forget_all(&self);
}

impl<T: Send + Sync + 'static> Forget for FlightGroup<T> {
    fn forget(&self, key: &Key) {
        let forgotten = self.shard(key).remove(key);
        drop(forgotten);
    }

    fn forget_all(&self) {
        for shard in &self.0.shards {
            let forgotten = std::mem::take(&mut *lock(shard));
            drop(forgotten);
        }
    }
}

struct Flight<T> {
    node: Arc<Node>,
    group: Option<FlightGroup<T>>,
    shared: Shared<T>,
}

impl<T: Send + Sync + 'static> Flight<T> {
    fn new(node: Node, group: Option<FlightGroup<T>>, background: Option<Arc<Semaphore>>) -> (Arc<Self>, Waiter<T>) {
        let flight = Arc::new(Self { node: Arc::new(node), group, shared: Shared::new(background) });
        let waiter = Waiter { flight: Arc::clone(&flight), id: 0, wait: None };
        (flight, waiter)
    }

    fn listed(&self) -> Option<(&FlightGroup<T>, &Key)> {
        self.group.as_ref().zip(self.node.key.as_ref())
    }

    fn end(self: &Arc<Self>, outcome: Result<Arc<T>>) {
        let Some(wakers) = self.shared.end(outcome) else { return };
        if let Some((group, key)) = self.listed() {
            group.ended(key, self);
        }
        for waker in wakers {
            // A waker that panics must not keep the others from being woken.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

/// Ends the flight when it is dropped: the work has ended, has panicked, or the task was dropped.
struct Driver<T: Send + Sync + 'static>(Arc<Flight<T>>);

impl<T: Send + Sync + 'static> Driver<T> {
    fn spawn(self, runtime: &RuntimeHandle, work: Work<T>) {
        let flight = Arc::clone(&self.0);
        // If the runtime has ended, the task is dropped at once.
        flight.shared.set_task(spawn(runtime, self.drive(work)));
    }

    async fn drive(self, work: Work<T>) {
        let outcome = caught(scope(Arc::clone(&self.0.node), work)).await;
        self.0.end(outcome.map(Arc::new).ok_or_else(panicked));
    }
}

impl<T: Send + Sync + 'static> Drop for Driver<T> {
    fn drop(&mut self) {
        if !injected!(DroppedSilently) {
            // Has no effect if the flight has ended.
            self.0.end(Err(if std::thread::panicking() { panicked() } else { closed() }));
        }
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Panicked, "code of the application panicked during a lookup or a load")
}

/// Waits for the outcome of a flight: the result of the work, an error of kind `Panicked` if it
/// panicked, or one of kind `Closed` if the runtime has ended.
///
/// # Cancel safety
///
/// Dropped, it leaves the flight to the other waiters. The last one aborts the work, unless that
/// goes on in the background.
pub(crate) struct Waiter<T: Send + Sync + 'static> {
    flight: Arc<Flight<T>>,
    id: u64,
    /// The wait of the flight whose code waits here, if there is one.
    wait: Option<Wait>,
}

impl<T: Send + Sync + 'static> Waiter<T> {
    /// Joins the flight, or returns `None` if its work is aborted.
    fn join(flight: &Arc<Flight<T>>) -> Option<Self> {
        let id = flight.shared.join()?;
        Some(Self { flight: Arc::clone(flight), id, wait: None })
    }

    /// Adds this wait to the graph of nested calls. To be called before the first poll.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`Cycle`](ErrorKind::Cycle) if the flight waits for the one whose
    /// code waits here.
    pub(crate) fn begin_wait(&mut self) -> Result<()> {
        self.wait = Wait::begin(&self.flight.node)?;
        Ok(())
    }

    /// Leaves the flight, which goes on to its end.
    pub(crate) fn leave_in_background(self) {
        self.flight.shared.keep_running();
    }

    /// Returns another waiter of the same flight, or `None` if its work is aborted.
    pub(crate) fn another(&self) -> Option<Self> {
        Self::join(&self.flight)
    }
}

impl<T: Send + Sync + 'static> Future for Waiter<T> {
    type Output = Result<Arc<T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.flight.shared.poll(self.id, context)
    }
}

impl<T: Send + Sync + 'static> Drop for Waiter<T> {
    fn drop(&mut self) {
        let Some(abandoned) = self.flight.shared.leave(self.id) else { return };
        if let Some((group, key)) = self.flight.listed()
            && !injected!(LeftListed)
        {
            group.unlist(key, &self.flight);
        }
        abandoned.abort();
    }
}

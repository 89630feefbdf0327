//! Backfills: entries that are copied into the tiers above the one that had them.
//!
//! A backfill is queued and applied by one task per chain, so that no read waits for it. Its
//! tickets were taken before the entry was read, so a tier refuses it if the key was written since.

mod queue;
mod worker;

use std::{any::Any, sync::Arc};

use cache_core::{Entry, Error, ErrorKind, Key, Result, SharedClock, Ticket};
use smallvec::SmallVec;
use tokio::sync::watch;

pub(crate) use self::queue::Limits;
use self::queue::{Queue, Queued};
use crate::{
    coherence::Draw,
    stats::{BackfillCounters, BackfillStats},
    tier::{Tier, read::Each},
    util::runtime::RuntimeHandle,
};

/// The leases of one key, each with the place of its tier.
pub(crate) type Tickets = SmallVec<[(usize, Ticket); 3]>;

/// The bytes that a value allocates.
pub(crate) type Weigher<V> = Arc<dyn Fn(&Key, &V) -> usize + Send + Sync>;

/// An entry to be filled into tiers.
pub(crate) struct Backfill<V> {
    pub(crate) key: Key,
    pub(crate) entry: Entry<V>,
    /// The leases of the tiers to fill.
    pub(crate) tickets: Tickets,
    /// The place of the tier that had the entry; the number of tiers if it was loaded.
    pub(crate) found_in: usize,
    /// Dropped when the entry has been filled, or when the backfill is given up.
    pub(crate) held: Option<Held>,
    /// Its stamp is that of the entry. Dropped as `held` is.
    draw: Option<Draw>,
}

impl<V> Backfill<V> {
    /// Creates the backfill of an entry that was found or loaded after the stamp was drawn.
    pub(crate) fn new(key: Key, entry: Entry<V>, tickets: Tickets, found_in: usize, draw: Option<Draw>) -> Self {
        let places = tickets.iter().map(|(place, _)| *place);
        let entry = match &draw {
            Some(draw) if draw.covers(found_in, places) => entry.stamped(draw.stamp()),
            // An entry of a first tier keeps its own stamp, which is older. Any other has none.
            _ => entry,
        };
        Self { key, entry, tickets, found_in, held: None, draw }
    }

    /// Returns a backfill of the same entry with these of its tickets.
    pub(crate) fn part(&self, tickets: Tickets) -> Self
    where
        V: Clone,
    {
        let Self { key, entry, found_in, draw, .. } = self;
        Self { key: key.clone(), entry: entry.clone(), tickets, found_in: *found_in, held: None, draw: draw.clone() }
    }
}

/// Something that lasts as long as a backfill, such as a claim.
pub(crate) type Held = Box<dyn Any + Send + Sync>;

/// The largest number of backfills that are queued under one lock. Those that the queue has no room
/// for exist until then.
const TOGETHER: usize = 64;

/// The backfill queue of a chain and its task.
pub(crate) struct Backfills<V> {
    queue: Arc<Queue<V>>,
    /// The position up to which the queue has been drained.
    drained: watch::Receiver<u64>,
    tiers: Arc<[Tier<V>]>,
    clock: SharedClock,
    weigher: Weigher<V>,
}

impl<V: Clone + Send + Sync + 'static> Backfills<V> {
    /// Spawns the task that drains the queue.
    pub(crate) fn start(
        tiers: Arc<[Tier<V>]>,
        clock: SharedClock,
        limits: Limits,
        weigher: Weigher<V>,
        runtime: &RuntimeHandle,
    ) -> Self {
        let queue = Arc::new(Queue::new(limits));
        let (applied, drained) = watch::channel(0);
        runtime.spawn(worker::drain(Arc::clone(&queue), Arc::clone(&tiers), Arc::clone(&clock), applied));
        Self { queue, drained, tiers, clock, weigher }
    }

    /// Queues a backfill, or drops it if the queue is full or closed. Returns `true` if it was
    /// queued. Never waits.
    pub(crate) fn enqueue(&self, backfill: Backfill<V>) -> bool {
        self.enqueue_all([backfill]) == 1
    }

    /// Queues backfills, and drops those for which the queue has no room, or all if it is closed.
    /// Returns how many were queued. Never waits.
    pub(crate) fn enqueue_all(&self, backfills: impl IntoIterator<Item = Backfill<V>>) -> usize {
        let mut weighed = backfills.into_iter().map(|backfill| {
            let weight = backfill.entry.value().map_or(0, |value| (self.weigher)(&backfill.key, value));
            Queued::new(backfill, weight)
        });
        let mut count = 0;
        loop {
            // Weighed before the queue is locked, because that is code of the application.
            let some: Each<Queued<V>> = weighed.by_ref().take(TOGETHER).collect();
            if some.is_empty() {
                return count;
            }
            count += self.queue.push(some);
        }
    }

    /// Applies a backfill at once.
    pub(crate) async fn apply(&self, backfill: Backfill<V>) {
        worker::apply(vec![backfill], &self.tiers, &self.clock, self.queue.counters()).await;
    }

    /// Waits until all backfills that are queued now have been applied.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Closed` if the runtime has ended before.
    pub(crate) async fn wait(&self) -> Result<()> {
        let end = self.queue.end();
        let mut drained = self.drained.clone();
        if drained.wait_for(|position| *position >= end).await.is_err() && self.stats().items > 0 {
            return Err(Error::new(ErrorKind::Closed, "the runtime in which the chain was built has ended"));
        }
        Ok(())
    }
}

impl<V> Backfills<V> {
    pub(crate) fn counters(&self) -> &BackfillCounters {
        self.queue.counters()
    }

    pub(crate) fn stats(&self) -> BackfillStats {
        self.queue.stats()
    }

    /// Accepts no more backfills. Those in the queue are still applied.
    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// Drops the backfills in the queue.
    pub(crate) fn discard(&self) {
        self.queue.discard();
    }
}

impl<V> Drop for Backfills<V> {
    fn drop(&mut self) {
        self.close();
        self.discard();
    }
}

//! The backfill queue, a bounded channel that keeps one entry per key, and the task that drains it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cache_core::{Entry, Key, SharedClock, Ticket, Write};
use smallvec::SmallVec;
use tokio::sync::{Notify, watch};

use crate::{
    panics::caught,
    stats::{BackfillCounters, BackfillStats},
    tier::Tier,
};

/// Which tiers missed, each with the lease that was taken before anything below was read.
pub(crate) type Tickets = SmallVec<[(usize, Ticket); 3]>;

/// An entry on its way up.
pub(crate) struct Job<V> {
    pub(crate) key: Key,
    pub(crate) entry: Entry<V>,
    pub(crate) tickets: Tickets,
    /// The place of the tier that had it; that of no tier if it was loaded.
    pub(crate) found_in: usize,
    pub(crate) bytes: usize,
}

impl<V> Job<V> {
    /// What a job takes besides what the value allocated: itself, and its key once more in the index.
    pub(crate) fn overhead(key: &Key) -> usize {
        size_of::<Self>() + 2 * key.memory()
    }
}

/// The bounds of the queue. What is being applied counts until it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

pub(crate) struct Queue<V> {
    state: Mutex<State<V>>,
    ready: Notify,
    limits: Limits,
    counters: BackfillCounters,
}

struct State<V> {
    /// In the order of their keys' first arrival. The first job's position is `first`.
    jobs: VecDeque<Job<V>>,
    first: u64,
    positions: HashMap<Key, u64>,
    held: Limits,
    closed: bool,
}

/// Jobs taken from the queue, and the position after the last of them.
struct Batch<V> {
    jobs: Vec<Job<V>>,
    end: u64,
    held: Limits,
}

/// Enough to make a round trip worth while, few enough to keep its latency and memory small.
const BATCH: usize = 256;

impl<V> Queue<V> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                first: 0,
                positions: HashMap::new(),
                held: Limits { items: 0, bytes: 0 },
                closed: false,
            }),
            ready: Notify::new(),
            limits,
            counters: BackfillCounters::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the job, or drops it if there is no room; whether it took it. A job of the same key gives way to the newer one.
    /// Never waits.
    pub(crate) fn push(&self, job: Job<V>) -> bool {
        // What is not kept is dropped after the lock: a value's `Drop` is the application's code.
        let (taken, not_kept) = self.admit(job);
        if taken && not_kept.is_none() {
            self.ready.notify_one();
        }
        taken
    }

    /// Whether the job was taken, and what was not kept: it or the one in whose place it came.
    fn admit(&self, job: Job<V>) -> (bool, Option<Job<V>>) {
        let mut state = self.state();
        let State { jobs, first, positions, held, closed } = &mut *state;
        let queued = positions.get(&job.key).and_then(|position| {
            let at = usize::try_from(position - *first).ok()?;
            jobs.get_mut(at)
        });
        let replaced = queued.as_ref().map_or(0, |old| old.bytes);
        // A weigher may give the largest number, to say that a value is never to be queued.
        let bytes = (held.bytes - replaced).saturating_add(job.bytes);
        let no_room = bytes > self.limits.bytes || (queued.is_none() && held.items >= self.limits.items);
        if *closed || no_room {
            self.counters.dropped.one();
            return (false, Some(job));
        }
        held.bytes = bytes;
        self.counters.queued.one();
        if let Some(old) = queued {
            self.counters.coalesced.one();
            return (true, Some(std::mem::replace(old, job)));
        }
        held.items += 1;
        positions.insert(job.key.clone(), *first + jobs.len() as u64);
        jobs.push_back(job);
        (true, None)
    }

    /// The position after the last job.
    pub(crate) fn end(&self) -> u64 {
        let state = self.state();
        state.first + state.jobs.len() as u64
    }

    pub(crate) fn counters(&self) -> &BackfillCounters {
        &self.counters
    }

    pub(crate) fn stats(&self) -> BackfillStats {
        let held = self.state().held;
        self.counters.snapshot(held.items, held.bytes)
    }

    /// Takes no more jobs. Those in the queue are still applied.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.ready.notify_one();
    }

    /// Throws away what is queued.
    pub(crate) fn discard(&self) {
        let jobs = {
            let mut state = self.state();
            let jobs = std::mem::take(&mut state.jobs);
            state.positions.clear();
            state.first += jobs.len() as u64;
            state.held.items -= jobs.len();
            state.held.bytes -= jobs.iter().map(|job| job.bytes).sum::<usize>();
            jobs
        };
        self.counters.dropped.add(jobs.len());
    }

    /// The next jobs; `None` when the queue is closed and empty.
    async fn next(&self) -> Option<Batch<V>> {
        loop {
            {
                let mut state = self.state();
                let count = state.jobs.len().min(BATCH);
                if count > 0 {
                    let jobs: Vec<_> = state.jobs.drain(..count).collect();
                    for job in &jobs {
                        state.positions.remove(&job.key);
                    }
                    state.first += count as u64;
                    let bytes = jobs.iter().map(|job| job.bytes).sum();
                    return Some(Batch { jobs, end: state.first, held: Limits { items: count, bytes } });
                }
                if state.closed {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    fn release(&self, held: Limits) {
        let mut state = self.state();
        state.held.items -= held.items;
        state.held.bytes -= held.bytes;
    }
}

/// Drains the queue until it is closed; tells through `applied` up to which position.
pub(crate) async fn drain<V: Clone + Send + Sync + 'static>(
    queue: Arc<Queue<V>>,
    tiers: Arc<[Tier<V>]>,
    clock: SharedClock,
    applied: watch::Sender<u64>,
) {
    while let Some(Batch { jobs, end, held }) = queue.next().await {
        let count = jobs.len();
        // A store or a value that panics must not end all backfilling.
        if caught(apply(jobs, &tiers, &clock, &queue.counters)).await.is_none() {
            queue.counters.failed.add(count);
        }
        queue.release(held);
        applied.send_replace(end);
        // Local tiers never wait; others on this thread must get their turn.
        tokio::task::yield_now().await;
    }
}

/// Offers the jobs to every tier that missed them, the first tier first: it is the fastest and serves most.
pub(crate) async fn apply<V: Clone + Send + Sync + 'static>(
    jobs: Vec<Job<V>>,
    tiers: &[Tier<V>],
    clock: &SharedClock,
    counters: &BackfillCounters,
) {
    let mut jobs: Vec<_> = jobs.into_iter().map(Some).collect();
    for (at, tier) in tiers.iter().enumerate() {
        let now = clock.now();
        let mut writes = Vec::new();
        for slot in &mut jobs {
            let Some(job) = slot else { continue };
            if job.entry.is_expired(now) {
                counters.expired.one();
                *slot = None;
                continue;
            }
            let Some((_, ticket)) = job.tickets.iter().copied().find(|(missed, _)| *missed == at) else { continue };
            // No tier keeps a value longer than the tiers below that hold it.
            let below = &tiers[at..job.found_in];
            let expiry = below.iter().rev().fold(job.entry.expiry(), |expiry, tier| tier.expiry(expiry, now));
            // The last tier takes the entry itself, so that no more is held than the queue counts.
            let is_last = job.tickets.iter().all(|(missed, _)| *missed <= at);
            let (key, entry) = match slot.take_if(|_| is_last) {
                Some(job) => (job.key, job.entry),
                None => match slot {
                    Some(job) => (job.key.clone(), job.entry.clone()),
                    None => continue,
                },
            };
            writes.push(Write { key, entry: entry.expiring_by(expiry), ticket });
        }
        for filled in tier.fill_many(writes).await {
            match filled {
                Ok(true) => counters.applied.one(),
                Ok(false) => counters.refused.one(),
                Err(_) => counters.failed.one(),
            }
        }
    }
}

//! The backfill queue: bounded in items and bytes, with one entry per key.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::Notify;

use super::Backfill;
use crate::{
    stats::{BackfillCounters, BackfillStats},
    tier::read::Each,
    util::{key_map::KeyMap, sync::lock, throttle::Throttle},
};

/// The bounds of the queue. A backfill counts until it has been applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

pub(super) struct Queue<V> {
    state: Mutex<State<V>>,
    ready: Notify,
    limits: Limits,
    counters: BackfillCounters,
    /// Limits the reports of dropped backfills.
    reports: Throttle,
}

struct State<V> {
    /// In the order in which their keys arrived. The position of the first is `first`.
    queued: VecDeque<Queued<V>>,
    first: u64,
    positions: KeyMap<u64>,
    held: Limits,
    closed: bool,
}

/// A backfill and the bytes that it takes.
pub(super) struct Queued<V> {
    backfill: Backfill<V>,
    bytes: usize,
}

impl<V> Queued<V> {
    /// Creates the queued form of a backfill whose value allocates `weight` bytes.
    pub(super) fn new(backfill: Backfill<V>, weight: usize) -> Self {
        // Besides the value: the backfill itself, and its key, which is in the index as well.
        let overhead = size_of::<Self>() + 2 * backfill.key.memory();
        Self { backfill, bytes: weight.saturating_add(overhead) }
    }
}

/// Backfills taken from the queue, and the position after the last of them.
pub(super) struct Batch<V> {
    pub(super) backfills: Vec<Backfill<V>>,
    pub(super) end: u64,
    pub(super) held: Limits,
}

/// Large enough to be worth a round trip, small enough to keep latency and memory low.
const BATCH: usize = 256;

impl<V> Queue<V> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                queued: VecDeque::new(),
                first: 0,
                positions: KeyMap::default(),
                held: Limits { items: 0, bytes: 0 },
                closed: false,
            }),
            ready: Notify::new(),
            limits,
            counters: BackfillCounters::default(),
            reports: Throttle::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        lock(&self.state)
    }

    /// Queues backfills, each in place of an older one of the same key. Returns how many were
    /// queued. Never waits.
    pub(super) fn push(&self, mut backfills: Each<Queued<V>>) -> usize {
        let (offered, mut count, mut is_longer) = (backfills.len(), 0, false);
        // Those that are not kept are dropped outside of the lock, because the `Drop` of a value is
        // code of the application.
        let mut not_kept = Each::new();
        let is_closed = {
            let mut state = self.state();
            for backfill in backfills.drain(..) {
                let (is_queued, rest) = self.admit(&mut state, backfill);
                count += usize::from(is_queued);
                is_longer |= is_queued && rest.is_none();
                not_kept.extend(rest);
            }
            state.closed
        };
        if is_longer {
            self.ready.notify_one();
        }
        if count < offered
            && !is_closed
            && let Some(suppressed) = self.reports.pass()
        {
            let Limits { items, bytes } = self.limits;
            tracing::warn!(items, bytes, suppressed, "the backfill queue is full, and backfills are dropped");
        }
        count
    }

    /// Queues the backfill if there is room. Returns `true` if it was queued, with the backfill
    /// that is not kept: this one, or the one that it has replaced.
    fn admit(&self, state: &mut State<V>, new: Queued<V>) -> (bool, Option<Queued<V>>) {
        let State { queued, first, positions, held, closed } = state;
        let old = positions.get(&new.backfill.key).and_then(|position| {
            let at = usize::try_from(position - *first).ok()?;
            queued.get_mut(at)
        });
        let replaced = old.as_ref().map_or(0, |old| old.bytes);
        // A weigher may return the largest number, so that a value is never queued.
        let bytes = (held.bytes - replaced).saturating_add(new.bytes);
        let is_full = bytes > self.limits.bytes || (old.is_none() && held.items >= self.limits.items);
        if *closed || is_full {
            self.counters.dropped.increment();
            return (false, Some(new));
        }
        held.bytes = bytes;
        self.counters.queued.increment();
        if let Some(old) = old {
            self.counters.coalesced.increment();
            return (true, Some(std::mem::replace(old, new)));
        }
        held.items += 1;
        positions.insert(new.backfill.key.clone(), *first + queued.len() as u64);
        queued.push_back(new);
        (true, None)
    }

    /// The position after the last backfill.
    pub(super) fn end(&self) -> u64 {
        let state = self.state();
        state.first + state.queued.len() as u64
    }

    pub(super) fn counters(&self) -> &BackfillCounters {
        &self.counters
    }

    pub(super) fn stats(&self) -> BackfillStats {
        let held = self.state().held;
        self.counters.snapshot(held.items, held.bytes)
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.ready.notify_one();
    }

    pub(super) fn discard(&self) {
        let discarded = {
            let mut state = self.state();
            let discarded = std::mem::take(&mut state.queued);
            state.positions.clear();
            state.first += discarded.len() as u64;
            state.held.items -= discarded.len();
            state.held.bytes -= discarded.iter().map(|queued| queued.bytes).sum::<usize>();
            discarded
        };
        self.counters.dropped.add(discarded.len());
    }

    /// Waits for the next backfills. Returns `None` when the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<Batch<V>> {
        loop {
            {
                let mut state = self.state();
                let count = state.queued.len().min(BATCH);
                if count > 0 {
                    let mut bytes = 0;
                    let mut backfills = Vec::with_capacity(count);
                    let State { queued, positions, .. } = &mut *state;
                    for queued in queued.drain(..count) {
                        positions.remove(&queued.backfill.key);
                        bytes += queued.bytes;
                        backfills.push(queued.backfill);
                    }
                    state.first += count as u64;
                    return Some(Batch { backfills, end: state.first, held: Limits { items: count, bytes } });
                }
                if state.closed {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Makes room: a batch has been applied.
    pub(super) fn release(&self, held: Limits) {
        let mut state = self.state();
        state.held.items -= held.items;
        state.held.bytes -= held.bytes;
    }
}

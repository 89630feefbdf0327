//! The accounting of one segment: what its rows weigh, and which rows there are.
//!
//! Stretto bounds only what it has admitted. The ledger also counts what awaits admission and what has left stretto and has
//! not been dropped yet, and it refuses what would exceed the limit.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cache_core::{Moment, backend::Fingerprint};

use crate::{reaper::Reaper, row::Row};

/// How many rows the search for a victim visits at most.
const MAX_VISITS: usize = 64;

pub(crate) struct Ledger<V> {
    /// What the rows weigh that are not dropped yet, wherever they are.
    charged: AtomicU64,
    /// The number and weight of the rows in the store.
    rows: AtomicU64,
    weight: AtomicU64,
    limit: u64,
    /// How many rows there may be that await admission.
    window: usize,
    directory: Mutex<Directory<V>>,
    reaper: Reaper,
}

/// The rows of a segment by slot. Stretto cannot list its rows.
struct Directory<V> {
    slots: Vec<Option<Arc<Row<V>>>>,
    free: Vec<u32>,
    /// The slots of the latest insertions, oldest first.
    recent: VecDeque<u32>,
    /// Keys whose row was taken out of stretto's entry, which itself must still be removed.
    holes: Vec<Fingerprint>,
    /// The slot at which the next search begins.
    hand: usize,
}

impl<V> Ledger<V> {
    /// A ledger that lets rows weigh `limit` together, of which stretto admits `budget`.
    pub(crate) fn new(budget: u64, limit: u64, reaper: Reaper) -> Self {
        let directory =
            Directory { slots: Vec::new(), free: Vec::new(), recent: VecDeque::new(), holes: Vec::new(), hand: 0 };
        Self {
            charged: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            weight: AtomicU64::new(0),
            limit,
            window: usize::try_from((limit - budget).min(4096)).unwrap_or(0),
            directory: Mutex::new(directory),
            reaper,
        }
    }

    /// The number of rows in the store.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// What the rows in the store weigh.
    pub(crate) fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(crate) fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// Charges `weight` in exchange for `credit`, which has been charged before. Returns whether the sum stays within the
    /// limit; if it does not, nothing changes.
    pub(crate) fn charge(&self, weight: u64, credit: u64) -> bool {
        let exchange =
            |charged: u64| charged.saturating_sub(credit).checked_add(weight).filter(|&sum| sum <= self.limit);
        self.charged.fetch_update(Ordering::AcqRel, Ordering::Relaxed, exchange).is_ok()
    }

    /// Gives back what was charged.
    pub(crate) fn release(&self, weight: u64) {
        self.charged.fetch_sub(weight, Ordering::AcqRel);
    }

    /// Whether more is charged than stretto keeps in the long run.
    pub(crate) fn is_over(&self, budget: u64) -> bool {
        self.charged.load(Ordering::Relaxed) > budget
    }

    /// Notes a new row and returns its slot.
    pub(crate) fn enter(&self, row: &Arc<Row<V>>, weight: u64) -> u32 {
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.weight.fetch_add(weight, Ordering::Relaxed);
        let row = Some(Arc::clone(row));
        let mut directory = self.directory();
        let slot = if let Some(slot) = directory.free.pop() {
            directory.slots[slot as usize] = row;
            slot
        } else {
            directory.slots.push(row);
            u32::try_from(directory.slots.len() - 1).expect("a segment holds fewer than 2^32 rows")
        };
        if self.window > 0 {
            if directory.recent.len() >= self.window {
                directory.recent.pop_front();
            }
            directory.recent.push_back(slot);
        }
        slot
    }

    /// Puts another row, of the same weight, into the slot. The caller holds the old row, or there is none.
    pub(crate) fn replace(&self, slot: u32, row: &Arc<Row<V>>, fills_hole: bool) {
        if fills_hole {
            self.rows.fetch_add(1, Ordering::Relaxed);
        }
        self.directory().slots[slot as usize] = Some(Arc::clone(row));
    }

    /// Notes that the row was taken out of stretto's entry, which remains and stays charged. The caller holds the row.
    pub(crate) fn hollow(&self, slot: u32, fingerprint: Fingerprint) {
        self.rows.fetch_sub(1, Ordering::Relaxed);
        let mut directory = self.directory();
        directory.slots[slot as usize] = None;
        directory.holes.push(fingerprint);
    }

    /// Notes that stretto's entry is gone. The caller holds the row, if there was one.
    pub(crate) fn leave(&self, slot: u32, weight: u64, had_row: bool) {
        self.weight.fetch_sub(weight, Ordering::Relaxed);
        if had_row {
            self.rows.fetch_sub(1, Ordering::Relaxed);
        }
        let mut directory = self.directory();
        directory.slots[slot as usize] = None;
        directory.free.push(slot);
    }

    /// The key of the row that makes room: of the latest insertions the oldest that was not read, or else by a clock over
    /// all rows.
    ///
    /// What was inserted last awaits admission, most likely. To take from there keeps a burst of new keys from pushing out
    /// what stretto has found worth keeping.
    pub(crate) fn victim(&self, now: Moment) -> Option<Fingerprint> {
        let mut directory = self.directory();
        let directory = &mut *directory;
        while let Some(slot) = directory.recent.pop_front() {
            if let Some(row) = &directory.slots[slot as usize]
                && !row.was_read()
            {
                return Some(row.key.fingerprint());
            }
        }
        let mut victim = None;
        for _ in 0..MAX_VISITS.min(2 * directory.slots.len()) {
            let Some(row) = directory.advance() else { continue };
            victim = Some(row.key.fingerprint());
            if row.entry().expiry().is_past(now) || !row.forget_read() {
                break;
            }
        }
        victim
    }

    /// Keys of expired rows among the next `visits`.
    pub(crate) fn expired(&self, now: Moment, visits: usize) -> Vec<Fingerprint> {
        let mut directory = self.directory();
        let mut expired = Vec::new();
        for _ in 0..visits.min(directory.slots.len()) {
            if let Some(row) = directory.advance()
                && row.entry().expiry().is_past(now)
            {
                expired.push(row.key.fingerprint());
            }
        }
        expired
    }

    /// Takes up to `count` of the keys whose emptied entries are still in stretto.
    pub(crate) fn take_holes(&self, count: usize) -> Vec<Fingerprint> {
        let mut directory = self.directory();
        let kept = directory.holes.len().saturating_sub(count);
        let taken = directory.holes.split_off(kept);
        if kept == 0 {
            directory.holes = Vec::new();
        }
        taken
    }

    /// Gives the directory's memory back if there are no rows.
    pub(crate) fn shrink(&self) {
        let mut directory = self.directory();
        if directory.free.len() == directory.slots.len() {
            directory.slots = Vec::new();
            directory.free = Vec::new();
            directory.recent = VecDeque::new();
        }
    }

    /// No code of the application runs under this lock. It may be taken under stretto's locks, never the other way round.
    fn directory(&self) -> MutexGuard<'_, Directory<V>> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }
}

impl<V> Directory<V> {
    /// The row under the hand, which moves on.
    fn advance(&mut self) -> Option<&Row<V>> {
        let slot = self.hand % self.slots.len();
        self.hand = slot + 1;
        self.slots[slot].as_deref()
    }
}

/// A weight that is charged until this is dropped.
pub(crate) struct Charge<V> {
    pub(crate) ledger: Arc<Ledger<V>>,
    pub(crate) weight: u64,
}

impl<V> Drop for Charge<V> {
    fn drop(&mut self) {
        self.ledger.release(self.weight);
    }
}

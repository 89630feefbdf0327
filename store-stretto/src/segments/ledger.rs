//! The accounting of one segment: the weight of its rows, and a list of them.
//!
//! Stretto bounds only the rows that it has admitted. The ledger also counts the rows that await
//! admission and those that have left stretto and are not dropped yet, and it refuses rows that
//! would exceed the limit.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use cache_core::{
    Moment,
    backend::{Fingerprint, lock},
};

use super::row::Row;
use crate::reaper::Reaper;

/// The largest number of rows that the search for a victim visits.
const MAX_VISITS: usize = 64;

pub(crate) struct Ledger<V> {
    /// The weight of all rows that are not dropped yet, in the store or outside.
    charged: AtomicU64,
    /// The number and weight of the rows in the store.
    rows: AtomicU64,
    weight: AtomicU64,
    limit: u64,
    /// The largest number of rows that may await admission.
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
    /// The keys of the tombstones: stretto's entries without a row, which must still be removed.
    tombstones: Vec<Fingerprint>,
    /// The hand of the clock algorithm: the slot at which the next search begins.
    hand: usize,
}

impl<V> Ledger<V> {
    /// Creates a ledger for rows of a total weight of `limit`, of which stretto admits `budget`.
    pub(crate) fn new(budget: u64, limit: u64, reaper: Reaper) -> Self {
        let directory =
            Directory { slots: Vec::new(), free: Vec::new(), recent: VecDeque::new(), tombstones: Vec::new(), hand: 0 };
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

    /// Returns the number of rows in the store.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Returns the weight of the rows in the store.
    pub(crate) fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(crate) fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// Charges `weight` in exchange for `credit`, which is charged already. Returns `true` if the
    /// sum stays within the limit; if not, nothing changes.
    pub(crate) fn charge(&self, weight: u64, credit: u64) -> bool {
        let exchange =
            |charged: u64| charged.saturating_sub(credit).checked_add(weight).filter(|&sum| sum <= self.limit);
        self.charged.fetch_update(Ordering::AcqRel, Ordering::Relaxed, exchange).is_ok()
    }

    /// Releases a charged weight.
    pub(crate) fn release(&self, weight: u64) {
        self.charged.fetch_sub(weight, Ordering::AcqRel);
    }

    /// Returns `true` if more is charged than stretto keeps in the long run.
    pub(crate) fn is_over(&self, budget: u64) -> bool {
        self.charged.load(Ordering::Relaxed) > budget
    }

    /// Adds a new row and returns its slot.
    pub(crate) fn add(&self, row: &Arc<Row<V>>, weight: u64) -> u32 {
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

    /// Replaces the row in the slot by one of the same weight. The caller holds the old row, unless
    /// it was a tombstone.
    pub(crate) fn replace(&self, slot: u32, row: &Arc<Row<V>>, was_tombstone: bool) {
        if was_tombstone {
            self.rows.fetch_add(1, Ordering::Relaxed);
        }
        self.directory().slots[slot as usize] = Some(Arc::clone(row));
    }

    /// Notes that stretto's entry has become a tombstone, which stays charged. The caller holds the
    /// row.
    pub(crate) fn note_tombstone(&self, slot: u32, fingerprint: Fingerprint) {
        self.rows.fetch_sub(1, Ordering::Relaxed);
        let mut directory = self.directory();
        directory.slots[slot as usize] = None;
        directory.tombstones.push(fingerprint);
    }

    /// Removes the row from the list after stretto has removed its entry. The caller holds the row,
    /// unless it was a tombstone.
    pub(crate) fn remove(&self, slot: u32, weight: u64, had_row: bool) {
        self.weight.fetch_sub(weight, Ordering::Relaxed);
        if had_row {
            self.rows.fetch_sub(1, Ordering::Relaxed);
        }
        let mut directory = self.directory();
        directory.slots[slot as usize] = None;
        directory.free.push(slot);
    }

    /// Returns the key of the row to be removed to make room: the oldest of the latest insertions
    /// that was not read, or else one chosen by a clock algorithm over all rows.
    ///
    /// The latest insertions most likely await admission. Removing these first protects the rows
    /// that stretto has admitted from a burst of new keys.
    pub(crate) fn choose_victim(&self, now: Moment) -> Option<Fingerprint> {
        let mut directory = self.directory();
        let directory = &mut *directory;
        while let Some(slot) = directory.recent.pop_front() {
            if let Some(row) = &directory.slots[slot as usize]
                && !row.was_read()
            {
                return Some(row.key().fingerprint());
            }
        }
        let mut victim = None;
        for _ in 0..MAX_VISITS.min(2 * directory.slots.len()) {
            let Some(row) = directory.advance() else { continue };
            victim = Some(row.key().fingerprint());
            if row.is_expired(now) || !row.clear_read() {
                break;
            }
        }
        victim
    }

    /// Returns the keys of the expired rows among the next `visits` rows.
    pub(crate) fn find_expired(&self, now: Moment, visits: usize) -> Vec<Fingerprint> {
        let mut directory = self.directory();
        let mut expired = Vec::new();
        for _ in 0..visits.min(directory.slots.len()) {
            if let Some(row) = directory.advance()
                && row.is_expired(now)
            {
                expired.push(row.key().fingerprint());
            }
        }
        expired
    }

    /// Takes the keys of up to `count` tombstones.
    pub(crate) fn take_tombstones(&self, count: usize) -> Vec<Fingerprint> {
        let mut directory = self.directory();
        let kept = directory.tombstones.len().saturating_sub(count);
        let taken = directory.tombstones.split_off(kept);
        if kept == 0 {
            directory.tombstones = Vec::new();
        }
        taken
    }

    /// Frees the directory's memory if there are no rows.
    pub(crate) fn shrink(&self) {
        let mut directory = self.directory();
        if directory.free.len() == directory.slots.len() {
            directory.slots = Vec::new();
            directory.free = Vec::new();
            directory.recent = VecDeque::new();
        }
    }

    /// No code of the application runs under this lock. It may be taken under stretto's locks,
    /// never the other way round.
    fn directory(&self) -> MutexGuard<'_, Directory<V>> {
        lock(&self.directory)
    }

    #[cfg(test)]
    pub(crate) fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }
}

impl<V> Directory<V> {
    /// Returns the row under the hand and moves the hand on.
    fn advance(&mut self) -> Option<&Row<V>> {
        let slot = self.hand % self.slots.len();
        self.hand = slot + 1;
        self.slots[slot].as_deref()
    }
}

/// A charged weight, which is released on drop.
pub(super) struct Charge<V> {
    pub(crate) ledger: Arc<Ledger<V>>,
    pub(crate) weight: u64,
}

impl<V> Drop for Charge<V> {
    fn drop(&mut self) {
        self.ledger.release(self.weight);
    }
}

//! One stretto cache and its accounting.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use cache_core::{Moment, backend::Fingerprint};
use stretto::{Cache, CacheBuilder, CacheError, DefaultCacheCallback, DefaultCoster, DefaultUpdateValidator};

use super::{
    capture::CaptureSlot,
    index::{BuildSpreadHasher, PassThroughKeyBuilder},
    ledger::{Charge, Ledger},
    row::Row,
    value::CacheValue,
};

type Rows<V> = Cache<
    Fingerprint,
    CacheValue<V>,
    PassThroughKeyBuilder,
    DefaultCoster<CacheValue<V>>,
    DefaultUpdateValidator<CacheValue<V>>,
    DefaultCacheCallback<CacheValue<V>>,
    BuildSpreadHasher,
>;

/// The largest number of unconfirmed messages to stretto's processor. Stretto's channel holds 2048
/// batches; if it were full, a removal would wait and an insertion would be lost.
const MAX_UNCONFIRMED: u64 = 1024;

/// The number of tombstones that a flush removes before it waits for the processor again.
const TOMBSTONE_BATCH: usize = 512;

/// The number of rows that an insertion checks for expiry.
const SWEPT_BY_INSERTION: usize = 2;

/// The largest number of rows that an insertion removes to make room.
const MAX_VICTIMS: usize = 16;

/// One stretto cache and its accounting.
///
/// Rows are written so that stretto is never told of a change: a row of the same weight is replaced
/// in place, any other row is removed and inserted. When stretto is busy it drops messages about
/// changes and then no longer counts the row. It is told no TTL either, because it keeps a map for
/// each second in which rows expire.
pub(crate) struct Segment<V: Send + Sync + 'static> {
    rows: Rows<V>,
    ledger: Arc<Ledger<V>>,
    budget: u64,
    /// The number of messages sent to the processor.
    sent: AtomicU64,
    /// The number of messages that the processor is known to have processed.
    confirmed: AtomicU64,
    /// `true` if a flush has been requested and has not begun.
    flush_requested: AtomicBool,
    /// `true` if there may be tombstones that no flush has removed.
    has_tombstones: AtomicBool,
}

/// A row to be inserted.
pub(crate) struct NewRow<'a, V> {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) row: &'a Arc<Row<V>>,
    pub(crate) weight: u64,
    pub(crate) now: Moment,
}

impl<V: Send + Sync + 'static> Segment<V> {
    /// Starts a stretto cache that admits `budget`.
    pub(super) fn start(ledger: Arc<Ledger<V>>, budget: u64, counters: usize) -> Result<Self, CacheError> {
        let rows = CacheBuilder::new_with_key_builder(counters, budget.cast_signed(), PassThroughKeyBuilder)
            .set_hasher(BuildSpreadHasher)
            .finalize()?;
        Ok(Self {
            rows,
            ledger,
            budget,
            sent: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            flush_requested: AtomicBool::new(false),
            has_tombstones: AtomicBool::new(false),
        })
    }

    #[inline]
    pub(crate) fn get(&self, fingerprint: Fingerprint) -> Option<Arc<Row<V>>> {
        // Stretto's reference holds a lock; it ends with this statement.
        self.rows.get(&fingerprint)?.value().row().cloned()
    }

    /// Returns `true` if there is a row. To stretto it is a read.
    ///
    /// Stretto's `get_ttl` would not be one, but it locks its shard for reading twice, one inside the
    /// other, and a writer that waits in between blocks both for ever.
    pub(crate) fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.get(fingerprint).is_some()
    }

    /// Stores the row, or leaves the key absent.
    pub(crate) fn insert(&self, new: &NewRow<'_, V>, slot: &CaptureSlot) -> Result<(), CacheError> {
        let inserted = self.try_insert(new, slot);
        self.ledger.release(slot.take_credit());
        inserted
    }

    fn try_insert(&self, new: &NewRow<'_, V>, slot: &CaptureSlot) -> Result<(), CacheError> {
        let &NewRow { fingerprint, row, weight, now } = new;
        if self.replace(fingerprint, row, weight) {
            return Ok(());
        }
        // The old row has another weight, so stretto must be told that it is removed.
        self.try_remove(fingerprint, slot)?;
        for expired in self.ledger.find_expired(now, SWEPT_BY_INSERTION) {
            self.try_remove(expired, slot)?;
        }
        // A row that cannot be stored must neither displace others nor be charged.
        let Some(cost) = self.cost(weight) else { return Ok(()) };
        if !self.may_send() || !self.make_room(weight, now, slot)? {
            return Ok(());
        }
        let value = CacheValue::new(Arc::clone(row), weight, &self.ledger);
        // Stretto refuses the value during a `clear`, or if another key has the same index. A
        // refused value is dropped and its weight released, so nothing is left behind.
        self.rows.try_insert(fingerprint, value, cost)?;
        self.sent.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Replaces the row of this key if it has the same weight. Returns `true` if it did.
    fn replace(&self, fingerprint: Fingerprint, row: &Arc<Row<V>>, weight: u64) -> bool {
        let Some(mut current) = self.rows.get_mut(&fingerprint) else { return false };
        let fits = current.value().weight == weight;
        if fits {
            current.value_mut().replace(row);
        }
        fits
    }

    /// Removes the row of this key, if there is one. Does not wait.
    pub(crate) fn remove(&self, fingerprint: Fingerprint, slot: &CaptureSlot) -> Result<(), CacheError> {
        let removed = self.try_remove(fingerprint, slot);
        self.ledger.release(slot.take_credit());
        removed
    }

    /// As [`remove`](Self::remove), but the row's weight stays charged, as credit in the slot.
    fn try_remove(&self, fingerprint: Fingerprint, slot: &CaptureSlot) -> Result<(), CacheError> {
        if self.may_send() {
            let before = slot.len();
            self.rows.try_remove(&fingerprint)?;
            // Stretto sends no message if there was nothing to remove. A tombstone gives no row,
            // but it is rare.
            if slot.len() > before {
                self.sent.fetch_add(1, Ordering::AcqRel);
            }
        } else if let Some(mut current) = self.rows.get_mut(&fingerprint) {
            current.value_mut().make_tombstone(fingerprint);
            drop(current);
            // A flush that has just ended did not see it, and confirmed so much that no other would
            // be due.
            self.has_tombstones.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Charges `weight`, and removes other rows if there is no room. Returns `true` if it
    /// succeeded.
    fn make_room(&self, weight: u64, now: Moment, slot: &CaptureSlot) -> Result<bool, CacheError> {
        for _ in 0..MAX_VICTIMS {
            if self.charge(weight, slot) {
                return Ok(true);
            }
            let Some(victim) = self.ledger.choose_victim(now).filter(|_| self.may_send()) else { return Ok(false) };
            self.try_remove(victim, slot)?;
        }
        Ok(self.charge(weight, slot))
    }

    /// Charges `weight` in exchange for the credit in the slot. Returns `true` if it succeeded.
    fn charge(&self, weight: u64, slot: &CaptureSlot) -> bool {
        let charged = self.ledger.charge(weight, slot.credit());
        if charged {
            slot.take_credit();
        }
        charged
    }

    /// Returns `true` if the processor's channel is sure to have room.
    fn may_send(&self) -> bool {
        self.unconfirmed() < MAX_UNCONFIRMED
    }

    fn unconfirmed(&self) -> u64 {
        let confirmed = self.confirmed.load(Ordering::Acquire);
        self.sent.load(Ordering::Acquire).saturating_sub(confirmed)
    }

    /// Returns the weight as stretto counts it, or `None` if the row is too heavy to be stored.
    fn cost(&self, weight: u64) -> Option<i64> {
        if weight > self.budget { None } else { i64::try_from(weight).ok() }
    }

    /// Returns `true` if a flush is due and has not been requested yet. The caller then requests
    /// it.
    pub(crate) fn needs_flush(&self) -> bool {
        let due = self.unconfirmed() >= MAX_UNCONFIRMED / 2
            || self.ledger.is_over(self.budget)
            || self.has_tombstones.load(Ordering::Acquire);
        due && !self.flush_requested.swap(true, Ordering::AcqRel)
    }

    /// Waits until the processor has processed all messages, and removes the tombstones.
    pub(crate) fn flush(&self) -> Result<(), CacheError> {
        self.flush_requested.store(false, Ordering::Release);
        // Before the tombstones are taken: one that is made later is left to the next flush.
        self.has_tombstones.store(false, Ordering::Release);
        loop {
            self.wait()?;
            let tombstones = self.ledger.take_tombstones(TOMBSTONE_BATCH);
            if tombstones.is_empty() {
                return Ok(());
            }
            for fingerprint in tombstones {
                // A new row may have replaced it in the meantime.
                let current = self.rows.get_mut(&fingerprint);
                let is_tombstone = current.is_some_and(|current| current.value().row().is_none());
                if is_tombstone {
                    self.rows.try_remove(&fingerprint)?;
                    self.sent.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
    }

    /// Removes the expired rows among the next `visits` rows. The reaper drops them.
    pub(crate) fn sweep(&self, now: Moment, visits: usize) -> Result<(), CacheError> {
        let expired = self.ledger.find_expired(now, visits);
        if expired.is_empty() {
            return Ok(());
        }
        let slot = CaptureSlot::open();
        let swept = expired.into_iter().try_for_each(|expired| self.try_remove(expired, &slot));
        // Their weight stays charged until they are dropped.
        let charge = Charge { ledger: Arc::clone(&self.ledger), weight: slot.take_credit() };
        self.ledger.reaper().defer_drop((slot.close::<V>(None), charge));
        swept
    }

    /// Waits until the processor has processed the messages that were sent before.
    pub(crate) fn wait(&self) -> Result<(), CacheError> {
        let sent = self.sent.load(Ordering::Acquire);
        self.rows.wait()?;
        self.confirmed.fetch_max(sent, Ordering::AcqRel);
        Ok(())
    }

    pub(crate) fn clear(&self) -> Result<(), CacheError> {
        self.rows.clear()?;
        self.ledger.shrink();
        Ok(())
    }

    /// Returns the TTLs that stretto has for these keys. No other thread may write meanwhile:
    /// `get_ttl` locks twice.
    #[cfg(test)]
    pub(crate) fn ttls<const N: usize>(&self, of: &[Fingerprint; N]) -> [std::time::Duration; N] {
        of.map(|fingerprint| self.rows.get_ttl(&fingerprint).unwrap())
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger<V>> {
        &self.ledger
    }
}

#[cfg(test)]
mod tests {
    use cache_core::{Entry, Expiry, Key, LocalStore};

    use super::*;
    use crate::StrettoStore;

    /// The removal finds the channel full, and a flush that does not see its tombstone ends before
    /// the removal asks for one.
    #[test]
    fn a_tombstone_makes_a_flush_due() {
        let store = StrettoStore::<u8>::new(100).unwrap();
        let key = Key::new("k").unwrap();
        drop(LocalStore::insert(&store, &key, Entry::new(1, Expiry::Never), 1).unwrap());
        LocalStore::wait(&store).unwrap();
        let segment = store.segments().of(key.fingerprint());
        assert!(!segment.needs_flush());
        segment.sent.fetch_add(MAX_UNCONFIRMED, Ordering::AcqRel);
        let slot = CaptureSlot::open();
        segment.remove(key.fingerprint(), &slot).unwrap();
        drop(slot.close::<u8>(None));
        segment.wait().unwrap();
        assert_eq!(segment.unconfirmed(), 0);
        assert!(segment.needs_flush());
        assert_eq!(segment.ledger.charged(), 1);
        segment.flush().unwrap();
        segment.wait().unwrap();
        assert!(!segment.needs_flush());
        assert_eq!(segment.ledger.charged(), 0);
    }
}

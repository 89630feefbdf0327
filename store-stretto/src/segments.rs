//! The stretto caches among which a store divides its rows.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use cache_core::{Error, ErrorKind, Moment, Result, backend::Fingerprint};
use stretto::{Cache, CacheBuilder, CacheError, DefaultCacheCallback, DefaultCoster, DefaultUpdateValidator};

use crate::{
    index::{HandThrough, Index, Spread},
    ledger::{Charge, Ledger},
    reaper::Reaper,
    row::{Held, Row, Tray},
};

type Rows<V> = Cache<
    Index,
    Held<V>,
    HandThrough,
    DefaultCoster<Held<V>>,
    DefaultUpdateValidator<Held<V>>,
    DefaultCacheCallback<Held<V>>,
    Spread,
>;

/// How many messages to stretto's processor may be unconfirmed. Stretto's channel takes 2048 batches: where it is full, a
/// removal waits and an insertion is lost, which this much does not reach.
const MAX_UNCONFIRMED: u64 = 1024;

/// How many emptied entries a flush removes before it waits for the processor again.
const HOLES_AT_ONCE: usize = 512;

/// How many rows an insertion looks at to find expired ones.
const SWEPT_BY_INSERTION: usize = 2;

/// How many rows an insertion may push out to find room.
const MAX_VICTIMS: usize = 16;

/// One stretto cache and its accounting.
///
/// The rows are written in such a way that stretto never has to be told of a change: a row of the same weight is replaced in
/// place, anything else is removed and inserted. Stretto drops messages about changes when it is busy, and then no longer
/// counts the row. It is told no TTL either, because it keeps a map for each second in which rows expire.
pub(crate) struct Segment<V: Send + Sync + 'static> {
    rows: Rows<V>,
    ledger: Arc<Ledger<V>>,
    budget: u64,
    /// Messages sent to the processor, and how many of those are known to have been processed.
    sent: AtomicU64,
    confirmed: AtomicU64,
    /// Whether a flush has been requested and has not begun.
    flush_requested: AtomicBool,
}

impl<V: Send + Sync + 'static> Segment<V> {
    pub(crate) fn get(&self, fingerprint: Fingerprint) -> Option<Arc<Row<V>>> {
        // Stretto's reference holds a lock; it ends with this statement.
        self.rows.get(&Index(fingerprint))?.value().get().cloned()
    }

    /// Stores the row, or leaves the key absent.
    pub(crate) fn insert(
        &self,
        fingerprint: Fingerprint,
        row: &Arc<Row<V>>,
        weight: u64,
        now: Moment,
        tray: &Tray,
    ) -> Result<(), CacheError> {
        let inserted = self.try_insert(fingerprint, row, weight, now, tray);
        self.ledger.release(tray.take_credit());
        inserted
    }

    fn try_insert(
        &self,
        fingerprint: Fingerprint,
        row: &Arc<Row<V>>,
        weight: u64,
        now: Moment,
        tray: &Tray,
    ) -> Result<(), CacheError> {
        if self.replace(fingerprint, row, weight) {
            return Ok(());
        }
        // A row of another weight, whose removal stretto has to be told.
        self.try_remove(fingerprint, tray)?;
        for expired in self.ledger.expired(now, SWEPT_BY_INSERTION) {
            self.try_remove(expired, tray)?;
        }
        // A row that has no place must not push others out, nor be charged.
        let Some(cost) = self.cost(weight) else { return Ok(()) };
        if !self.may_send() || !self.make_room(weight, now, tray)? {
            return Ok(());
        }
        let held = Held::new(Arc::clone(row), weight, &self.ledger);
        // Refused while a `clear` is under way, or as another key has the same index. Nothing is left behind then, because a
        // refused value is dropped and its weight released.
        self.rows.try_insert(Index(fingerprint), held, cost)?;
        self.sent.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Puts the row in the place of one of the same weight.
    fn replace(&self, fingerprint: Fingerprint, row: &Arc<Row<V>>, weight: u64) -> bool {
        let Some(mut held) = self.rows.get_mut(&Index(fingerprint)) else { return false };
        let fits = held.value().weight == weight;
        if fits {
            held.value_mut().replace(row);
        }
        fits
    }

    /// Removes the row, if there is one. It does not wait.
    pub(crate) fn remove(&self, fingerprint: Fingerprint, tray: &Tray) -> Result<(), CacheError> {
        let removed = self.try_remove(fingerprint, tray);
        self.ledger.release(tray.take_credit());
        removed
    }

    /// As [`remove`](Self::remove), but what the row weighed stays charged and is on the tray.
    fn try_remove(&self, fingerprint: Fingerprint, tray: &Tray) -> Result<(), CacheError> {
        if self.may_send() {
            let before = tray.len();
            self.rows.try_remove(&Index(fingerprint))?;
            // Stretto sends no message if there was nothing to remove. A hole gives no row, but it is rare.
            if tray.len() > before {
                self.sent.fetch_add(1, Ordering::AcqRel);
            }
        } else if let Some(mut held) = self.rows.get_mut(&Index(fingerprint)) {
            held.value_mut().hollow(fingerprint);
        }
        Ok(())
    }

    /// Charges `weight`, pushing out what is in the way. Returns whether it succeeded.
    fn make_room(&self, weight: u64, now: Moment, tray: &Tray) -> Result<bool, CacheError> {
        for _ in 0..MAX_VICTIMS {
            if self.charge(weight, tray) {
                return Ok(true);
            }
            let Some(victim) = self.ledger.victim(now).filter(|_| self.may_send()) else { return Ok(false) };
            self.try_remove(victim, tray)?;
        }
        Ok(self.charge(weight, tray))
    }

    /// Charges `weight` in exchange for the credit on the tray.
    fn charge(&self, weight: u64, tray: &Tray) -> bool {
        let charged = self.ledger.charge(weight, tray.credit());
        if charged {
            tray.take_credit();
        }
        charged
    }

    /// Whether the processor's channel surely has room.
    fn may_send(&self) -> bool {
        self.unconfirmed() < MAX_UNCONFIRMED
    }

    fn unconfirmed(&self) -> u64 {
        let confirmed = self.confirmed.load(Ordering::Acquire);
        self.sent.load(Ordering::Acquire).saturating_sub(confirmed)
    }

    /// The weight as stretto counts it, unless the row can have no place.
    fn cost(&self, weight: u64) -> Option<i64> {
        if weight > self.budget { None } else { i64::try_from(weight).ok() }
    }

    /// Whether a flush has become due that has not been requested yet. The caller then requests it.
    pub(crate) fn needs_flush(&self) -> bool {
        let due = self.unconfirmed() >= MAX_UNCONFIRMED / 2 || self.ledger.is_over(self.budget);
        due && !self.flush_requested.swap(true, Ordering::AcqRel)
    }

    /// Has the processor work off what was sent, and removes what could not be removed before.
    pub(crate) fn flush(&self) -> Result<(), CacheError> {
        self.flush_requested.store(false, Ordering::Release);
        loop {
            self.wait()?;
            let holes = self.ledger.take_holes(HOLES_AT_ONCE);
            if holes.is_empty() {
                return Ok(());
            }
            for fingerprint in holes {
                // It may have been filled again in the meantime.
                let is_hole = self.rows.get_mut(&Index(fingerprint)).is_some_and(|held| held.value().get().is_none());
                if is_hole {
                    self.rows.try_remove(&Index(fingerprint))?;
                    self.sent.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
    }

    /// Removes the expired rows among the next `visits` and leaves it to the reaper to drop them.
    pub(crate) fn sweep(&self, now: Moment, visits: usize) -> Result<(), CacheError> {
        let expired = self.ledger.expired(now, visits);
        if expired.is_empty() {
            return Ok(());
        }
        let tray = Tray::hold_out();
        let swept = expired.into_iter().try_for_each(|expired| self.try_remove(expired, &tray));
        // What they weigh stays charged until they are dropped.
        let charge = Charge { ledger: Arc::clone(&self.ledger), weight: tray.take_credit() };
        self.ledger.reaper().bury((tray.take::<V>(None), charge));
        swept
    }

    /// Returns when the processor has worked off what was sent before.
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

    /// The TTLs that stretto knows of. No other thread may write meanwhile: `get_ttl` locks twice.
    #[cfg(test)]
    pub(crate) fn ttls<const N: usize>(&self, of: &[Fingerprint; N]) -> [std::time::Duration; N] {
        of.map(|fingerprint| self.rows.get_ttl(&Index(fingerprint)).unwrap())
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger<V>> {
        &self.ledger
    }
}

/// Several segments, each with its part of the keys and its part of the budget.
pub(crate) struct Segments<V: Send + Sync + 'static>(Box<[Segment<V>]>);

impl<V: Send + Sync + 'static> Segments<V> {
    /// Starts `count` of them, a power of two, that admit `budget` together, hold `limit` together at most, and count with
    /// `counters` together.
    pub(crate) fn start(count: u32, budget: u64, limit: u64, counters: usize, reaper: &Reaper) -> Result<Self> {
        let (count, counters) = (u64::from(count), counters / count as usize);
        let part = |whole: u64, nth: u64| whole / count + u64::from(nth < whole % count);
        (0..count)
            .map(|nth| {
                let budget = part(budget, nth);
                let rows = CacheBuilder::new_with_key_builder(counters, budget.cast_signed(), HandThrough)
                    .set_hasher(Spread)
                    .finalize()?;
                Ok(Segment {
                    rows,
                    ledger: Arc::new(Ledger::new(budget, part(limit, nth), reaper.clone())),
                    budget,
                    sent: AtomicU64::new(0),
                    confirmed: AtomicU64::new(0),
                    flush_requested: AtomicBool::new(false),
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|error: CacheError| Error::with_source(ErrorKind::Backend, "cannot set up stretto", error))
    }

    /// The number of the segment with the key of this fingerprint.
    pub(crate) fn number(&self, fingerprint: Fingerprint) -> usize {
        // From the second half, as the first is the index within the segment; not its low bits, which choose the stripe.
        (fingerprint.low >> 32) as usize & (self.0.len() - 1)
    }

    /// The segment with the key of this fingerprint.
    pub(crate) fn of(&self, fingerprint: Fingerprint) -> &Segment<V> {
        &self.0[self.number(fingerprint)]
    }

    pub(crate) fn nth(&self, number: usize) -> Option<&Segment<V>> {
        self.0.get(number)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Segment<V>> {
        self.0.iter()
    }
}

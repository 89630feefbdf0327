//! Stamps: whether an entry of a first tier was current in the shared tier at most W ago.
//!
//! A stamp is a number of one sequence. A reader draws one *before* it asks the shared tier, and
//! stores it with the entry. A notice of a change takes the next number and leaves it in the slot of
//! the key. An entry is current if its stamp is not below the number in its slot, not below the
//! floor, which rises when notices may have been lost, and if the stream has proven lately that it
//! is alive. A hit reads three words and a coarse clock; it takes no lock.
//!
//! An entry that is not current is *suspect*: it is not served until the shared tier has confirmed
//! it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cache_core::{Key, backend::Fingerprint};

use super::sync::{
    AtomicU32, AtomicU64, Mutex,
    Ordering::{Acquire, Release, SeqCst},
    lock,
};
use crate::util::fault::injected;

/// The stamps that are drawn in this process. Chains may share a store in memory, and then each
/// compares the stamps that the others have drawn.
pub(crate) struct Draws {
    /// The last number of the sequence.
    sequence: Padded,
    /// The number of stamps for the keys of each slot whose entries may still be stored.
    pending: Box<[AtomicU32]>,
}

impl Draws {
    /// Creates the stamps of a process, with so many slots, a power of two.
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        let pending = (0..slots).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self { sequence: Padded(AtomicU64::new(1)), pending })
    }

    fn pending(&self, key: &Key) -> &AtomicU32 {
        &self.pending[slot(key.fingerprint(), self.pending.len())]
    }

    /// Draws a stamp for an entry of the key that is about to be read or written below.
    pub(crate) fn draw(self: &Arc<Self>, key: &Key) -> Stamp {
        let pending = self.pending(key);
        // Before anything is asked: a notice that comes afterwards is not skipped.
        pending.fetch_add(1, SeqCst);
        let slot = slot(key.fingerprint(), self.pending.len());
        Stamp { draws: Arc::clone(self), slot, number: self.sequence.0.load(SeqCst) }
    }

    fn next(&self) -> u64 {
        self.sequence.0.fetch_add(1, SeqCst) + 1
    }
}

fn slot(fingerprint: Fingerprint, slots: usize) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "a slot needs only the low bits")]
    let low = fingerprint.0 as usize;
    low & (slots - 1)
}

/// The stamps as one chain sees them.
pub(crate) struct Stamps {
    draws: Arc<Draws>,
    /// Read by each hit, and written only when the stream proves something.
    hot: Hot,
    /// The number of the last notice for the keys of each slot.
    changed: Box<[AtomicU64]>,
    cold: Mutex<Cold>,
    /// W, less the resolution of the clock.
    window: u64,
}

#[repr(align(128))]
struct Padded(AtomicU64);

#[repr(align(128))]
struct Hot {
    /// The moment of the coarse clock until which entries are trusted. `u64::MAX` before the first
    /// proof.
    trusted_until: AtomicU64,
    /// Entries with a lower stamp are suspect.
    floor: AtomicU64,
}

#[derive(Default)]
struct Cold {
    epoch: u64,
    mode: Option<&'static str>,
    /// The floor of the epoch, which counts when its first proof has come.
    begun: u64,
    /// The last proof of the current epoch: the moment since which changes are not proven.
    proven: Option<u64>,
    /// The moment of the last proof of any epoch.
    last_proof: Option<Instant>,
    /// The last epoch with a proof before this one: its floor, and its last proof.
    last: Option<(u64, u64)>,
    /// The number of the last notice of all keys.
    wiped: u64,
}

/// Why an entry is suspect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Suspicion {
    /// A change of its key was announced.
    Changed,
    /// Notices may have been lost since this moment of the coarse clock, as far as it is known.
    Unproven(Option<u64>),
}

/// The state of the stream, for statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamState {
    pub(crate) mode: Option<&'static str>,
    pub(crate) epoch: u64,
    pub(crate) proven: Option<Instant>,
    pub(crate) trusted: bool,
}

impl Stamps {
    /// Creates the stamps for about so many entries. `window` is W, and `resolution` that of the
    /// clock.
    pub(crate) fn new(draws: Arc<Draws>, entries: u64, window: Duration, resolution: Duration) -> Self {
        let slots = usize::try_from(entries).unwrap_or(usize::MAX).clamp(MIN_SLOTS, MAX_SLOTS).next_power_of_two();
        Self {
            draws,
            hot: Hot { trusted_until: AtomicU64::new(u64::MAX), floor: AtomicU64::new(0) },
            changed: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            cold: Mutex::default(),
            window: nanos(window.saturating_sub(resolution)),
        }
    }

    #[inline]
    fn changed(&self, key: &Key) -> &AtomicU64 {
        &self.changed[slot(key.fingerprint(), self.changed.len())]
    }

    /// Returns `true` if the entry of the key with this stamp is current.
    ///
    /// The order of the reads matters. The thread may be suspended between any two of them, while
    /// the stream proves that it is alive: what was proven must be read before the clock and before
    /// the changes that the proof covers.
    #[inline]
    pub(crate) fn is_current(&self, key: &Key, stamp: u64, now: impl FnOnce() -> u64) -> bool {
        let changed = self.changed(key);
        if injected!(ChangesReadFirst) {
            let is_unchanged = stamp >= changed.load(Acquire);
            return self.is_proven(stamp, now) && is_unchanged;
        }
        self.is_proven(stamp, now) && stamp >= changed.load(Acquire)
    }

    /// Returns `true` if an entry with this stamp is current unless its key has changed.
    #[inline]
    pub(crate) fn is_proven(&self, stamp: u64, now: impl FnOnce() -> u64) -> bool {
        let until = self.hot.trusted_until.load(Acquire);
        (until == u64::MAX || now() <= until) && stamp >= self.hot.floor.load(Acquire)
    }

    /// Returns `true` if the stream has proven once that it works.
    pub(crate) fn is_trusted(&self) -> bool {
        self.hot.trusted_until.load(Acquire) != u64::MAX
    }

    /// Draws a stamp; see [`Draws::draw`].
    pub(crate) fn draw(&self, key: &Key) -> Stamp {
        self.draws.draw(key)
    }

    /// Makes the entry of a key suspect. `is_held` tells whether any first tier may hold one.
    /// Returns `false` if there is none and none can be under way.
    pub(crate) fn change(&self, key: &Key, is_held: impl FnOnce() -> bool) -> bool {
        let is_pending = || self.draws.pending(key).load(SeqCst) > 0;
        // In this order: an entry is stored before its stamp is dropped.
        #[allow(clippy::if_same_then_else, reason = "the order differs")]
        let is_needed =
            if injected!(HeldBeforePending) { is_held() || is_pending() } else { is_pending() || is_held() };
        if !is_needed {
            return false;
        }
        self.changed(key).fetch_max(self.draws.next(), Release);
        true
    }

    /// Makes the entry of a key with this stamp suspect, and those with lower stamps. An entry with
    /// the `newer` stamp is not, if that is higher.
    pub(crate) fn outdate(&self, key: &Key, stamp: u64, newer: Option<u64>) {
        let is_higher = newer.is_some_and(|newer| newer > stamp);
        let number = if is_higher { stamp + 1 } else { self.draws.next() };
        self.changed(key).fetch_max(number, Release);
    }

    /// Makes all entries suspect: any of their keys may have changed.
    pub(crate) fn change_all(&self) {
        let mut cold = lock(&self.cold);
        cold.wiped = self.draws.next();
        // Also before the first proof.
        self.hot.floor.fetch_max(cold.wiped, Release);
    }

    /// Begins an epoch: notices before it may have been lost, and those after it are not.
    pub(crate) fn begin(&self, mode: &'static str) {
        let mut cold = lock(&self.cold);
        if let Some(proven) = cold.proven.take() {
            cold.last = Some((cold.begun, proven));
        }
        cold.epoch += 1;
        cold.mode = Some(mode);
        cold.begun = self.draws.next();
        // Before the first proof ever, entries count as before there was a stream.
        if cold.last.is_some() {
            self.hot.floor.fetch_max(cold.begun, Release);
        }
    }

    /// Notices may have been lost: begins another epoch of the same stream.
    pub(crate) fn gap(&self) {
        let mode = lock(&self.cold).mode;
        if let Some(mode) = mode {
            self.begin(mode);
        }
    }

    /// Extends the trust: all changes before `moment`, `moment_coarse` by the coarse clock, have
    /// been announced.
    pub(crate) fn prove(&self, moment: Instant, moment_coarse: u64) {
        let mut cold = lock(&self.cold);
        if cold.epoch == 0 {
            return;
        }
        cold.proven = Some(moment_coarse);
        cold.last_proof = Some(moment);
        self.hot.floor.fetch_max(cold.begun, Release);
        self.hot.trusted_until.store(moment_coarse.saturating_add(self.window), Release);
    }

    /// The stream has ended. Entries are trusted until their last proof is too old.
    pub(crate) fn end(&self) {
        lock(&self.cold).mode = None;
    }

    /// Returns why the entry of the key with this stamp is suspect, if it is.
    pub(crate) fn suspicion(&self, key: &Key, stamp: u64, now: impl FnOnce() -> u64) -> Option<Suspicion> {
        if self.is_current(key, stamp, now) {
            return None;
        }
        let cold = lock(&self.cold);
        let changed = self.changed(key).load(Acquire).max(cold.wiped);
        if stamp < changed || stamp == 0 {
            return Some(Suspicion::Changed);
        }
        let since = match (cold.proven, cold.last) {
            (Some(proven), _) if stamp >= cold.begun => Some(proven),
            (_, Some((floor, proven))) if stamp >= floor => Some(proven),
            _ => None,
        };
        Some(Suspicion::Unproven(since))
    }

    pub(crate) fn state(&self, now: u64) -> StreamState {
        let cold = lock(&self.cold);
        let until = self.hot.trusted_until.load(Acquire);
        StreamState {
            mode: cold.mode,
            epoch: cold.epoch,
            proven: cold.last_proof,
            trusted: until != u64::MAX && now <= until,
        }
    }
}

/// The least and the most slots of changes. 8 bytes each.
const MIN_SLOTS: usize = 1 << 10;
const MAX_SLOTS: usize = 1 << 21;

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A stamp for entries of one key that may be stored in the first tiers. While it exists, no notice
/// for the key is skipped.
pub(crate) struct Stamp {
    draws: Arc<Draws>,
    slot: usize,
    number: u64,
}

impl Stamp {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Clone for Stamp {
    fn clone(&self) -> Self {
        self.draws.pending[self.slot].fetch_add(1, SeqCst);
        Self { draws: Arc::clone(&self.draws), slot: self.slot, number: self.number }
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        self.draws.pending[self.slot].fetch_sub(1, SeqCst);
    }
}

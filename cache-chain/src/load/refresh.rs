//! Refreshes: a value that is stale or about to expire is served, and loaded again in the
//! background.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Expiry, Key, Moment};

use super::{LoadFn, LoadResult, Loader};
use crate::{
    flight::{Mark, Waiter},
    outcome::Found,
    read::Lookup,
};

/// Why a key is loaded.
pub(super) enum Reason<V> {
    /// No tier has a fresh entry.
    Missing(Arc<Lookup<V>>),
    /// The first tier has this stale entry. A tier below may have a fresh one.
    Stale(Entry<V>),
    /// The entry is fresh and about to expire.
    ExpiresSoon,
}

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Whether the entry is to be loaded again: it is stale, or chance has it that it will be soon.
    #[inline]
    pub(super) fn is_due(&self, entry: &Entry<V>) -> bool {
        self.may_be_due(entry) && self.is_due_at(entry, self.reader.clock.now())
    }

    /// Whether it depends on the time that the entry is due. Most hits need no clock.
    #[inline]
    fn may_be_due(&self, entry: &Entry<V>) -> bool {
        entry.turns_stale() || (self.settings.early_refresh.is_some() && !entry.load_time().is_zero())
    }

    fn is_due_at(&self, entry: &Entry<V>, now: Moment) -> bool {
        // `XFetch`: a gap that grows with the time of a load, and with a random number that is
        // seldom large.
        let beta = self.settings.early_refresh.unwrap_or_default();
        let gap = entry.load_time().as_secs_f64() * beta * -(1.0 - fastrand::f64()).ln();
        let gap = Duration::try_from_secs_f64(gap).unwrap_or_default();
        entry.stale_at() != Expiry::Never && entry.is_stale(now.plus(gap))
    }

    /// Serves an entry that is due, and starts to load it again in the background.
    pub(super) fn refresh(
        self: &Arc<Self>,
        (key, mark): (&Key, Mark),
        (place, entry): (usize, Entry<V>),
        lookup: Option<Arc<Lookup<V>>>,
        load: LoadFn<V>,
    ) -> Found<V> {
        let now = self.reader.clock.now();
        if !self.cooldowns.holds(key, now) {
            let reason = match lookup {
                _ if !entry.is_stale(now) => Reason::ExpiresSoon,
                Some(lookup) => Reason::Missing(lookup),
                None => Reason::Stale(entry.clone()),
            };
            let (waiter, was_started) = self.begin((key, mark), reason, load);
            self.leave_refresh(waiter, was_started);
        }
        self.record_served(place, entry)
    }

    /// Lets a refresh go on in the background. It stores what it loads, and counts its failure.
    pub(super) fn leave_refresh(&self, waiter: Waiter<LoadResult<V>>, was_started: bool) {
        self.counters.refreshes.add(usize::from(was_started));
        waiter.leave_in_background();
    }

    /// Returns the detailed result for an entry of a tier, and counts it if it is stale.
    pub(super) fn record_served(&self, place: usize, entry: Entry<V>) -> Found<V> {
        let found = self.reader.found(Some(place), entry);
        self.counters.stale_served.add(usize::from(found.stale));
        found
    }
}

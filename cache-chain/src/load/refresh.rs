//! Refreshes: a value that is stale or about to expire is loaded again.

use std::{pin::pin, sync::Arc, time::Duration};

use cache_core::{Entry, Expiry, Key, Moment, Result};

use super::{LoadCall, LoadFn, LoadOutcome, LoadResult, Loader, Reason, config::ServeStale};
use crate::{
    flight::{Mark, Waiter},
    outcome::Found,
    read::Lookup,
    util::deadline::{Deadline, after},
};

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Returns `true` if the entry is to be loaded again: it is stale, or chosen for an early
    /// refresh.
    #[inline]
    pub(super) fn is_due(&self, entry: &Entry<V>) -> bool {
        self.may_be_due(entry) && self.is_due_at(entry, self.reader.clock.now())
    }

    /// Returns `true` if [`is_due`](Self::is_due) depends on the time. Most hits need no clock.
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

    /// Returns when a call without options gets a stale value of the key, or `None` if it gets it
    /// without a load, because a load has failed a moment ago.
    pub(crate) fn serves_stale(&self, key: &Key) -> Option<ServeStale> {
        (!self.cooldowns.holds(key, self.reader.clock.now())).then_some(self.settings.serve_stale)
    }

    /// Returns `true` if a load of the key is in flight in this process.
    pub(crate) fn is_loading(&self, key: &Key) -> bool {
        self.loads.has(key)
    }

    /// Returns `true` if a call waits for the load of another process.
    pub(crate) fn waits_for_peers(&self) -> bool {
        self.settings.time_for_peers().is_some()
    }

    /// Loads an entry that is due again. Returns the old entry at once, or the new one if the call
    /// waits for it.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        (key, mark): (&Key, Mark),
        (place, entry): (usize, Entry<V>),
        lookup: Option<Arc<Lookup<V>>>,
        (load, call): (LoadFn<V>, &LoadCall),
        deadline: Deadline,
    ) -> Result<Found<V>> {
        let now = self.reader.clock.now();
        if self.cooldowns.holds(key, now) {
            return Ok(self.record_served(place, entry));
        }
        let is_stale = entry.is_stale(now);
        let reason = match lookup {
            _ if !is_stale => Reason::ExpiresSoon(entry.clone()),
            Some(lookup) => Reason::Missing(lookup),
            None => Reason::Stale(entry.clone()),
        };
        let wait = match call.serve_stale {
            Some(ServeStale::After(time)) if is_stale => Some(time),
            Some(ServeStale::IfLoadFails) if is_stale => Some(Duration::MAX),
            _ => None,
        };
        let span = |key: &Key| {
            let (spans, keys) = (&self.reader.spans, std::slice::from_ref(key));
            if wait.is_some() { spans.load(keys) } else { spans.background_load(keys) }
        };
        let (waiter, was_started) = self.begin((key, mark), reason, (load, call), span);
        let Some(wait) = wait else {
            self.leave_refresh(waiter, was_started);
            return Ok(self.record_served(place, entry));
        };
        self.counters.refreshes.add(usize::from(was_started));
        self.counters.joined.add(usize::from(!was_started));
        self.wait_or_serve((key, place), waiter, wait, deadline).await
    }

    /// Waits at most for `wait` for a load. If it fails or takes longer, returns the stale value,
    /// unless the key was deleted meanwhile.
    async fn wait_or_serve(
        &self,
        (key, place): (&Key, usize),
        mut waiter: Waiter<LoadResult<V>>,
        wait: Duration,
        deadline: Deadline,
    ) -> Result<Found<V>> {
        let limit = self.time_before_stale((key, place), deadline);
        let until = after(limit);
        let outcome = match waiter.begin_wait() {
            Ok(()) => self.reader.runtime.timeout_at(after(wait).min(until), &mut waiter).await,
            // A read that would wait for itself gets the stale value.
            Err(cycle) => Some(Err(cycle)),
        };
        let stale = match &outcome {
            Some(Ok(loaded)) if loaded.is_ok() => None,
            _ => self.read_again(key, place, deadline).await,
        };
        if let Some((place, entry)) = stale {
            if outcome.is_none() {
                waiter.leave_in_background();
            }
            return Ok(self.record_served(place, entry));
        }
        let LoadOutcome { entry, place, .. } = match outcome {
            Some(outcome) => LoadResult::clone(&*outcome?)?,
            // The key was deleted meanwhile, so it is missing.
            None => self.wait_until((limit, until), waiter).await?,
        };
        Ok(self.reader.found(place, entry))
    }

    /// Returns the longest time that a call waits for a load if the tier of this place has a stale
    /// value. A remote tier needs time to be read again.
    pub(super) fn time_before_stale(&self, (key, place): (&Key, usize), deadline: Deadline) -> Duration {
        let parts = if self.reader.is_read_at_once(key, place) { 1 } else { 2 };
        deadline.share(parts, self.settings.soft_timeout)
    }

    /// Returns the stale entry of the tier of this place and the place where it was read, unless it
    /// was deleted meanwhile or cannot be read before the deadline.
    pub(super) async fn read_again(&self, key: &Key, place: usize, deadline: Deadline) -> Option<(usize, Entry<V>)> {
        let read = pin!(async { Ok(self.reader.read_again(key, place).await) });
        deadline.bound(&self.reader.runtime, read).await.ok()?
    }

    /// Lets a refresh go on in the background. It stores what it loads, and counts its failure.
    pub(super) fn leave_refresh(&self, waiter: Waiter<LoadResult<V>>, was_started: bool) {
        self.counters.refreshes.add(usize::from(was_started));
        waiter.leave_in_background();
    }

    /// Returns the detailed result for an entry of a tier, and counts it if it is stale.
    pub(super) fn record_served(&self, place: usize, entry: Entry<V>) -> Found<V> {
        let is_stale = entry.is_stale(self.reader.clock.now());
        if is_stale {
            self.reader.count_stale(place, &entry);
        }
        self.reader.found(Some(place), entry)
    }
}

//! Loads: what no tier has is loaded by the application's loader, once per key.

mod batch;
mod claim;
mod commit;
mod config;
mod cooldown;
mod loaded;
mod refresh;

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Error, ErrorKind, Key, Result};
use tokio::{sync::Semaphore, time::Instant};

pub(crate) use self::loaded::{LoadFn, load_fn};
use self::{
    claim::{ClaimOutcome, acquire_claim},
    cooldown::Cooldowns,
    refresh::Reason,
};
pub use self::{
    config::ReadThrough,
    loaded::{Load, Loaded},
};
use crate::{
    backfill::Backfill,
    flight::{FlightGroup, Forget, Mark, Waiter, nesting},
    lifetime::Lifetimes,
    outcome::Found,
    read::{Lookup, Purpose, Reader},
    stats::{LoadCounters, LoadStats},
    tier::read::Peeked,
    util::{
        deadline::{Deadline, after},
        panics::caught,
        runtime::closed,
    },
};

/// Reads through a chain to the application's loaders.
pub(crate) struct Loader<V> {
    reader: Arc<Reader<V>>,
    settings: ReadThrough,
    lifetimes: Lifetimes,
    /// The loads in flight.
    loads: FlightGroup<LoadResult<V>>,
    permits: Semaphore,
    cooldowns: Cooldowns,
    counters: LoadCounters,
}

/// The entry that a load brought.
#[derive(Clone)]
pub(crate) struct LoadOutcome<V> {
    pub(crate) entry: Entry<V>,
    /// The place of the tier that had it, `None` if it was loaded.
    pub(crate) place: Option<usize>,
}

pub(crate) type LoadResult<V> = Result<LoadOutcome<V>>;

/// What the first tier answered to a call, before anything else is asked.
pub(crate) struct Start<V> {
    /// Drawn before the tier was asked.
    pub(crate) mark: Mark,
    pub(crate) peeked: Option<Entry<V>>,
}

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    pub(crate) fn new(reader: Arc<Reader<V>>, settings: ReadThrough, lifetimes: Lifetimes) -> Self {
        let permits = Semaphore::new(settings.concurrent_loads.min(Semaphore::MAX_PERMITS));
        let loads = reader.flights.loads();
        let (cooldowns, counters) = (Cooldowns::default(), LoadCounters::default());
        Self { reader, settings, lifetimes, loads, permits, cooldowns, counters }
    }

    pub(crate) fn stats(&self) -> LoadStats {
        self.counters.snapshot(self.loads.len())
    }

    /// The loads in flight, for writes to forget.
    pub(crate) fn to_forget(&self) -> Box<dyn Forget> {
        Box::new(self.loads.clone())
    }

    /// Asks the first tier, if it is local.
    #[inline]
    pub(crate) fn start(&self, key: &Key) -> Start<V> {
        Start { mark: self.loads.mark(key), peeked: self.reader.peek(key) }
    }

    /// Returns the entry for a hit of the first tier, and counts it, unless it is due to be loaded.
    #[inline]
    pub(crate) fn hit(&self, start: Start<V>) -> Result<Entry<V>, Start<V>> {
        match start.peeked {
            Some(entry) if !self.is_due(&entry) => {
                self.reader.tiers[0].count_hit();
                Ok(entry)
            }
            peeked => Err(Start { peeked, ..start }),
        }
    }

    /// Returns the value of the key: a value of the first tier that is due, that of another tier
    /// or, if none has one, what the loader brings.
    pub(crate) async fn get(self: &Arc<Self>, key: Key, start: Start<V>, load: LoadFn<V>) -> Result<Found<V>> {
        let Start { mark, peeked } = start;
        if let Some(entry) = peeked {
            self.reader.tiers[0].count_hit();
            return Ok(self.refresh((&key, mark), (0, entry), None, load));
        }
        let deadline = Deadline::after(self.reader.timeout);
        let lookup = self.reader.look_up(&key, Peeked { entry: None, is_counted: false }, deadline, Purpose::Load);
        let lookup = deadline.bound(&self.reader.runtime, lookup).await?;
        // A stale entry is served at once, and is not filled into the tiers above.
        let found = lookup.hit.clone().or_else(|| lookup.stale.clone());
        // It may have expired since: while a tier below was asked, or because this future was not
        // polled.
        if let Some((place, entry)) = found.filter(|(_, entry)| !self.reader.has_expired(entry)) {
            if self.is_due(&entry) {
                return Ok(self.refresh((&key, mark), (place, entry), Some(lookup), load));
            }
            return Ok(self.record_served(place, entry));
        }
        let (waiter, was_started) = self.begin((&key, mark), Reason::Missing(lookup), load);
        if !was_started {
            self.counters.joined.increment();
        }
        let LoadOutcome { entry, place } = self.wait_for(waiter, deadline).await?;
        Ok(self.reader.found(place, entry))
    }

    /// Joins the load of the key, or starts it.
    fn begin(
        self: &Arc<Self>,
        (key, mark): (&Key, Mark),
        reason: Reason<V>,
        load: LoadFn<V>,
    ) -> (Waiter<LoadResult<V>>, bool) {
        self.loads.join(key, || {
            let (loader, key) = (Arc::clone(self), key.clone());
            Box::pin(async move { loader.run((&key, mark), reason, load).await })
        })
    }

    /// Waits for a load, at most for the soft timeout. After that the load goes on in the
    /// background.
    async fn wait_for(&self, mut waiter: Waiter<LoadResult<V>>, deadline: Deadline) -> LoadResult<V> {
        waiter.begin_wait()?;
        let limit = deadline.share(1, self.settings.soft_timeout);
        let until = after(limit);
        match self.reader.runtime.timeout_at(until, &mut waiter).await {
            Some(outcome) => LoadResult::clone(&*outcome?),
            None => Err(self.abandon(waiter, limit, until)),
        }
    }

    /// Stops waiting for a load, and returns the error for the caller.
    fn abandon(&self, waiter: Waiter<LoadResult<V>>, limit: Duration, until: Instant) -> Error {
        if Instant::now() < until {
            // The timer was dropped with the runtime.
            return closed();
        }
        self.counters.abandoned.increment();
        waiter.leave_in_background();
        let message = format!("the load did not end within {limit:?}; it goes on in the background");
        Error::new(ErrorKind::Timeout, message)
    }

    /// Runs a load from beginning to end.
    async fn run(self: &Arc<Self>, (key, mark): (&Key, Mark), reason: Reason<V>, load: LoadFn<V>) -> LoadResult<V> {
        let reader = &self.reader;
        // A load that has ended since the caller asked the first tier may have filled the tiers.
        let is_outdated = self.loads.has_ended_since(key, mark);
        // Asked here, too, because the lookup below may join one that began before that.
        if is_outdated && let Some((place, entry)) = reader.peek_all(key) {
            return Ok(LoadOutcome { entry, place: Some(place) });
        }
        let lookup = match reason {
            Reason::ExpiresSoon => None,
            Reason::Missing(lookup) if lookup.hit.is_none() && !is_outdated => Some(lookup),
            Reason::Stale(entry) if !is_outdated => Some(self.look_up_again(key, Some(entry)).await?),
            Reason::Missing(_) | Reason::Stale(_) => Some(self.look_up_again(key, reader.peek(key)).await?),
        };
        if let Some((place, entry)) = lookup.as_ref().and_then(|lookup| lookup.hit.clone()) {
            return Ok(LoadOutcome { entry, place: Some(place) });
        }
        // Returned when they go out of scope, unless they were used.
        let mut leases = match &lookup {
            Some(lookup) => lookup.leases.share(),
            None => reader.returns.none_of(key),
        };
        let claim = match &lookup {
            Some(lookup) if lookup.stale.is_none() => {
                acquire_claim(reader, key, lookup, &mut leases, self.settings.peer_wait).await
            }
            // A store grants claims for absent keys.
            _ => ClaimOutcome::Load(None),
        };
        let claim = match claim {
            ClaimOutcome::Load(claim) => claim,
            ClaimOutcome::LoadedByPeer(place, entry) => {
                self.counters.loaded_by_peer.increment();
                let mut tickets = leases.take();
                tickets.retain(|(of, _)| *of < place);
                if !tickets.is_empty() {
                    let (key, entry) = (key.clone(), entry.clone());
                    reader.backfills.enqueue(Backfill { key, entry, tickets, found_in: place });
                }
                return Ok(LoadOutcome { entry, place: Some(place) });
            }
        };
        // Without a lookup there is an entry to replace.
        let replaces = lookup.as_ref().is_none_or(|lookup| lookup.stale.is_some());
        let has_failed = |place| lookup.as_ref().is_some_and(|lookup| lookup.has_failed(place));
        let (keys, of_key) = (std::slice::from_ref(key), std::slice::from_mut(&mut leases));
        reader.lease_rest(keys, of_key, |_, place| has_failed(place)).await;
        let (loaded, load_time) = self.call_loader(async { load().await }).await;
        let (entry, is_stored) = self.commit(key, loaded, load_time, leases, replaces).await?;
        if let (Some(claim), true) = (claim, is_stored) {
            claim.fulfil();
        }
        Ok(LoadOutcome { entry, place: None })
    }

    async fn look_up_again(&self, key: &Key, peeked: Option<Entry<V>>) -> Result<Arc<Lookup<V>>> {
        let peeked = Peeked { entry: peeked, is_counted: true };
        self.reader.look_up(key, peeked, Deadline::after(self.reader.timeout), Purpose::Load).await
    }

    /// Calls a loader when there is a permit. Returns its result and how long it took.
    async fn call_loader<T>(&self, work: impl Future<Output = Result<T>>) -> (Result<T>, Duration) {
        self.counters.started.increment();
        let limit = self.settings.hard_timeout;
        let clock = &self.reader.clock;
        let call = async {
            let _permit = nesting::admission(&self.permits).await;
            let started = clock.now();
            let loaded = caught(work).await;
            (loaded, clock.now().since(started))
        };
        let (loaded, time) = match tokio::time::timeout(limit, call).await {
            Ok((Some(loaded), time)) => (loaded, time),
            Ok((None, time)) => (Err(Error::new(ErrorKind::Panicked, "the loader panicked")), time),
            Err(_) => (Err(Error::new(ErrorKind::Timeout, format!("the load did not end within {limit:?}"))), limit),
        };
        let count = if loaded.is_ok() { &self.counters.loaded } else { &self.counters.failed };
        count.increment();
        (loaded, time)
    }
}

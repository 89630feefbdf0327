//! Loads: what no tier has is loaded by the application's loader, once per key.

mod batch;
mod claim;
mod commit;
mod config;
mod cooldown;
mod loaded;
mod refresh;
mod reload;
mod wait;

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use cache_core::{Entry, Error, ErrorKind, Key, Result, Ttl};
use tokio::sync::Semaphore;

pub(crate) use self::loaded::{LoadFn, load_fn};
use self::{
    claim::{ClaimOutcome, acquire_claim, acquire_refresh, renewed_during},
    commit::Commit,
    cooldown::Cooldowns,
};
pub use self::{
    config::{ReadThrough, ServeStale},
    loaded::{Load, LoadContext, Loaded, Previous},
};
use crate::{
    backfill::Backfill,
    flight::{FlightGroup, Forget, Mark, Waiter, nesting},
    lifetime::Lifetimes,
    metrics::Durations,
    outcome::Found,
    read::{Leases, Lookup, Purpose, Query, Reader},
    repair::Repairer,
    spans::Active,
    stats::{LoadCounters, LoadStats},
    tier::read::Peeked,
    util::{deadline::Deadline, panics::caught},
};

/// Reads through a chain to the application's loaders.
pub(crate) struct Loader<V> {
    reader: Arc<Reader<V>>,
    settings: ReadThrough,
    lifetimes: Lifetimes,
    /// The loads in flight.
    loads: FlightGroup<LoadResult<V>>,
    permits: Semaphore,
    cooldowns: Arc<Cooldowns>,
    counters: Arc<LoadCounters>,
    durations: Durations,
    repairer: Arc<Repairer<V>>,
    /// Counts the calls that want a new value, to tell which loads began after them.
    begun: AtomicU64,
}

/// The entry that a load brought.
#[derive(Clone)]
pub(crate) struct LoadOutcome<V> {
    pub(crate) entry: Entry<V>,
    /// The place of the tier that had it, `None` if it was loaded.
    pub(crate) place: Option<usize>,
    /// When it began to load, in the order of [`Loader::begun`]; 0, before all calls, if a tier had
    /// it.
    began: u64,
}

impl<V> LoadOutcome<V> {
    fn of_tier(place: usize, entry: Entry<V>) -> Self {
        Self { entry, place: Some(place), began: 0 }
    }
}

pub(crate) type LoadResult<V> = Result<LoadOutcome<V>>;

/// The options of one call that loads.
#[derive(Clone, Debug)]
pub(crate) struct LoadCall {
    pub(crate) query: Query,
    /// The TTL of the loaded value, unless the loader sets one; `Never` for the default.
    pub(crate) ttl: Ttl,
    /// When the call gets a stale value, `None` if never.
    pub(crate) serve_stale: Option<ServeStale>,
    /// `true` if the call gets no value that was cached or began to load before it.
    pub(crate) reload: bool,
}

impl LoadCall {
    /// Returns `true` if the load of another caller, or the entry of a tier, may be too old for the
    /// call.
    fn wants_new(&self) -> bool {
        self.reload || self.query.max_age.is_some()
    }
}

/// Why a key is loaded.
enum Reason<V> {
    /// No tier has a fresh entry.
    Missing(Arc<Lookup<V>>),
    /// The first tier has this stale entry. A tier below may have a fresh one.
    Stale(Entry<V>),
    /// The entry is fresh and about to expire.
    ExpiresSoon(Entry<V>),
    /// The caller wants a new value, whatever the tiers have. This is the old one, as far as known.
    Reload(Option<Entry<V>>),
}

/// The answer of the first tier to a call, before anything else is asked.
pub(crate) struct Start<V> {
    /// Drawn before the tier was asked.
    pub(crate) mark: Mark,
    pub(crate) peeked: Option<Entry<V>>,
}

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    pub(crate) fn new(
        reader: Arc<Reader<V>>,
        settings: ReadThrough,
        lifetimes: Lifetimes,
        repairer: Arc<Repairer<V>>,
        durations: Durations,
    ) -> Self {
        let permits = Semaphore::new(settings.concurrent_loads.min(Semaphore::MAX_PERMITS));
        let loads = reader.flights.loads();
        let (cooldowns, counters) = (Arc::default(), Arc::clone(&reader.load_counters));
        let begun = AtomicU64::new(0);
        Self { reader, settings, lifetimes, loads, permits, cooldowns, counters, durations, repairer, begun }
    }

    pub(crate) fn stats(&self) -> LoadStats {
        self.counters.snapshot(self.loads.len())
    }

    /// The loads in flight and the failures of those that have ended, for writes to forget.
    pub(crate) fn to_forget(&self) -> [Box<dyn Forget>; 2] {
        [Box::new(self.loads.clone()), Box::new(Arc::clone(&self.cooldowns))]
    }

    /// Asks the first tier, if it is local.
    #[inline]
    pub(crate) fn start(&self, key: &Key) -> Start<V> {
        Start { mark: self.loads.mark(key), peeked: self.reader.peek(key) }
    }

    /// Returns `true` if this answer of the first tier is an entry that is not due to be loaded, and
    /// counts the hit.
    #[inline]
    pub(crate) fn is_hit(&self, peeked: Option<&Entry<V>>) -> bool {
        let is_hit = peeked.is_some_and(|entry| !self.is_due(entry));
        if is_hit {
            self.reader.tiers[0].count_hit();
        }
        is_hit
    }

    /// The settings of a call without options.
    pub(crate) fn call(&self) -> LoadCall {
        LoadCall {
            query: Query::new(Purpose::Load),
            ttl: Ttl::Never,
            serve_stale: Some(self.settings.serve_stale),
            reload: false,
        }
    }

    /// Returns the value of the key: a value of the first tier that is due, that of another tier
    /// or, if none has one, what the loader brings.
    pub(crate) async fn get(
        self: &Arc<Self>,
        key: Key,
        start: Start<V>,
        load: LoadFn<V>,
        call: &LoadCall,
    ) -> Result<Found<V>> {
        let Start { mark, peeked } = start;
        let deadline = Deadline::after(self.reader.timeout);
        if call.reload {
            return self.load_new((&key, mark), Reason::Reload(peeked), (load, call), deadline).await;
        }
        if let Some(entry) = peeked.as_ref().filter(|entry| self.may_serve(entry, call)) {
            self.reader.tiers[0].count_hit();
            return self.refresh((&key, mark), (0, entry.clone()), None, (load, call), deadline).await;
        }
        let peeked = Peeked { entry: peeked, is_counted: false };
        let lookup = pin!(self.reader.look_up(&key, Some(peeked), deadline, &call.query));
        let lookup = deadline.bound(&self.reader.runtime, lookup).await?;
        // A stale entry is not filled into the tiers above.
        let stale = self.reader.stale_of(&key, &lookup).filter(|(_, entry)| self.may_serve(entry, call));
        // It may have expired since: while a tier below was asked, or because this future was not
        // polled.
        let found = lookup.hit.clone().or(stale).filter(|(_, entry)| !self.reader.has_expired(entry));
        if let Some((place, entry)) = found {
            if self.is_due(&entry) {
                return self.refresh((&key, mark), (place, entry), Some(lookup), (load, call), deadline).await;
            }
            return Ok(self.record_served(place, entry));
        }
        if call.wants_new() {
            let old = || lookup.stale.clone().map(|(_, entry)| entry);
            let reason = if lookup.is_outdated { Reason::Reload(old()) } else { Reason::Missing(lookup) };
            return self.load_new((&key, mark), reason, (load, call), deadline).await;
        }
        let span = |key: &Key| self.reader.spans.load(std::slice::from_ref(key));
        let (waiter, was_started) = self.begin((&key, mark), Reason::Missing(lookup), (load, call), span);
        if !was_started {
            self.counters.joined.increment();
        }
        let LoadOutcome { entry, place, .. } = self.wait_for(waiter, deadline).await?;
        Ok(self.reader.found(place, entry))
    }

    /// As [`get`](Self::get), with options that concern the first tier as well.
    pub(crate) async fn get_with(self: &Arc<Self>, key: Key, load: LoadFn<V>, call: &LoadCall) -> Result<Found<V>> {
        let mark = self.loads.mark(&key);
        let peeked = if call.query.unread.contains(&0) { None } else { self.reader.peek(&key) };
        let is_young = |entry: &Entry<V>| call.query.accepts_age(entry, || self.reader.clock.now());
        match peeked {
            Some(entry) if !call.reload && is_young(&entry) && !self.is_due(&entry) => {
                self.reader.tiers[0].count_hit();
                Ok(self.reader.found(Some(0), entry))
            }
            peeked => self.get(key, Start { mark, peeked }, load, call).await,
        }
    }

    /// Returns `true` if the call may get this entry: it is young enough, and fresh or allowed to
    /// be stale.
    fn may_serve(&self, entry: &Entry<V>, call: &LoadCall) -> bool {
        let now = self.reader.clock.now();
        call.query.accepts_age(entry, || now) && (call.serve_stale.is_some() || !entry.is_stale(now))
    }

    /// Joins the load of the key, or starts it within a span.
    fn begin(
        self: &Arc<Self>,
        (key, mark): (&Key, Mark),
        reason: Reason<V>,
        (load, call): (LoadFn<V>, &LoadCall),
        span: impl FnOnce(&Key) -> Active,
    ) -> (Waiter<LoadResult<V>>, bool) {
        self.loads.join(key, || {
            let (loader, key, call, span) = (Arc::clone(self), key.clone(), call.clone(), span(key));
            Box::pin(async move { span.load(pin!(loader.run((&key, mark), reason, load, &call))).await })
        })
    }

    /// Runs a load from beginning to end.
    async fn run(
        self: &Arc<Self>,
        (key, mark): (&Key, Mark),
        reason: Reason<V>,
        load: LoadFn<V>,
        call: &LoadCall,
    ) -> LoadResult<V> {
        let reader = &self.reader;
        let began = self.began();
        let is_reload = matches!(reason, Reason::Reload(_));
        // A load that has ended since the caller asked the first tier may have filled the tiers.
        let is_outdated = !is_reload && self.loads.has_ended_since(key, mark);
        // Asked here, too, because the lookup below may join one that began before that.
        if is_outdated
            && call.query.is_plain()
            && let Some((place, entry)) = reader.peek_all(key)
        {
            return Ok(LoadOutcome::of_tier(place, entry));
        }
        let (lookup, old) = match reason {
            Reason::ExpiresSoon(entry) => (None, Some(entry)),
            Reason::Reload(old) => (None, old),
            Reason::Missing(lookup) if lookup.hit.is_none() && !is_outdated => (Some(lookup), None),
            Reason::Stale(entry) if !is_outdated => (Some(self.look_up_again(key, Some(entry), call).await?), None),
            Reason::Missing(_) | Reason::Stale(_) => {
                (Some(self.look_up_again(key, reader.peek(key), call).await?), None)
            }
        };
        if let Some((place, entry)) = lookup.as_ref().and_then(|lookup| lookup.hit.clone()) {
            return Ok(LoadOutcome::of_tier(place, entry));
        }
        let old = old.or_else(|| lookup.as_ref().and_then(|lookup| Some(lookup.stale.clone()?.1)));
        // Returned when they go out of scope, unless they were used.
        let mut leases = match &lookup {
            Some(lookup) => lookup.leases.share(),
            None => reader.no_leases(key),
        };
        let has_failed = |place| lookup.as_ref().is_some_and(|lookup| lookup.has_failed(place));
        if lookup.is_none() {
            self.lease_rest(key, &mut leases, has_failed, call).await;
        }
        let is_left_out = |place| has_failed(place) || call.query.leaves_out(place);
        let (of_key, peer_wait) = ((key, &call.query), self.settings.time_for_peers());
        let claim = match (&lookup, &old) {
            _ if is_reload => ClaimOutcome::Load(None),
            (_, Some(old)) => acquire_refresh(reader, of_key, old, is_left_out, peer_wait).await,
            (_, None) => acquire_claim(reader, of_key, &mut leases, is_left_out, peer_wait).await,
        };
        let claim = match claim {
            ClaimOutcome::Load(claim) => claim,
            ClaimOutcome::LoadedByPeer(place, entry) => return Ok(self.loaded_by_peer(key, leases, place, entry)),
        };
        if lookup.is_some() {
            self.lease_rest(key, &mut leases, has_failed, call).await;
        }
        let context = LoadContext::new(key, old.as_ref(), reader.clock.now());
        let work = self.call_loader(async { load(context).await });
        let (loaded, load_time) = renewed_during(claim.iter(), work).await;
        let commit = Commit::new(key, load_time, leases, old, call.ttl).reload(is_reload).claimed(claim);
        Ok(LoadOutcome { entry: self.commit(loaded, commit).await?, place: None, began })
    }

    /// Returns the outcome of a load that a peer has made, and backfills the tiers above the one
    /// that has its entry.
    fn loaded_by_peer(&self, key: &Key, mut leases: Leases, place: usize, entry: Entry<V>) -> LoadOutcome<V> {
        self.counters.loaded_by_peer.increment();
        let (draw, tickets) = (leases.draw(), leases.take_above(place));
        if !tickets.is_empty() {
            self.reader.backfills.enqueue(Backfill::new(key.clone(), entry.clone(), tickets, place, draw));
        }
        LoadOutcome::of_tier(place, entry)
    }

    /// Takes the leases that a load lacks.
    async fn lease_rest(&self, key: &Key, leases: &mut Leases, has_failed: impl Fn(usize) -> bool, call: &LoadCall) {
        let (keys, of_key) = (std::slice::from_ref(key), std::slice::from_mut(leases));
        let is_left_out = |_, place| has_failed(place) || call.query.unwritten.contains(&place);
        self.reader.lease_rest(keys, of_key, is_left_out).await;
    }

    async fn look_up_again(&self, key: &Key, peeked: Option<Entry<V>>, call: &LoadCall) -> Result<Arc<Lookup<V>>> {
        let peeked = Peeked { entry: peeked, is_counted: true };
        self.reader.look_up(key, Some(peeked), Deadline::after(self.reader.timeout), &call.query).await
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
        self.durations.record(time, loaded.is_ok());
        let count = if loaded.is_ok() { &self.counters.loaded } else { &self.counters.failed };
        count.increment();
        (loaded, time)
    }
}

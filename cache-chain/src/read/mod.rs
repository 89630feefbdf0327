//! Reads: the first tier, and lookups that go down from there.

mod leases;
mod lookup;
mod query;
mod recheck;

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_core::{Entry, Key, Result, SharedClock};

pub(crate) use self::{
    leases::{LeaseReturns, Leases},
    lookup::Lookup,
    query::{Purpose, Query},
};
use crate::{
    backfill::Backfills,
    coherence::FirstTiers,
    flight::{FlightGroup, FlightStarter, Forget},
    outcome::{Found, Source},
    spans::{Active, Spans},
    stats::LoadCounters,
    tier::{Tier, read::Peeked},
    util::{deadline::Deadline, pending::Pending, runtime::RuntimeHandle, sync::lock},
};

/// Reads the tiers of a chain.
pub(crate) struct Reader<V> {
    pub(crate) tiers: Arc<[Tier<V>]>,
    pub(crate) clock: SharedClock,
    pub(crate) runtime: RuntimeHandle,
    pub(crate) flights: FlightStarter,
    pub(crate) backfills: Backfills<V>,
    pub(crate) returns: LeaseReturns,
    /// The claims that are being returned.
    pub(crate) released_claims: Arc<Pending>,
    /// Limits one call of the chain.
    pub(crate) timeout: Option<Duration>,
    /// The statistics of loads. Those of stale values count plain reads as well.
    pub(crate) load_counters: Arc<LoadCounters>,
    pub(crate) spans: Spans,
    /// The time limit of a load, for which its leases are needed.
    load_timeout: Duration,
    /// The lookups in flight. With a timeout, those that leave time for a loader are apart.
    lookups: [FlightGroup<Lookup<V>>; 2],
}

/// The number of times that a caller repeats a lookup that it joined when the time of the caller
/// that started it was nearly over.
const REPEATS: usize = 3;

impl<V: Clone + Send + Sync + 'static> Reader<V> {
    pub(crate) fn new(
        (tiers, clock): (Arc<[Tier<V>]>, SharedClock),
        (runtime, flights): (RuntimeHandle, FlightStarter),
        (backfills, spans): (Backfills<V>, Spans),
        (timeout, load_timeout): (Option<Duration>, Duration),
    ) -> Self {
        let returns = LeaseReturns::start(&tiers, &runtime);
        let lookups = [flights.lookups(), flights.lookups()];
        let (released_claims, load_counters) = (Arc::default(), Arc::default());
        Self {
            tiers,
            clock,
            runtime,
            flights,
            backfills,
            returns,
            released_claims,
            timeout,
            load_counters,
            spans,
            load_timeout,
            lookups,
        }
    }

    /// The lookups in flight, for writes to forget.
    pub(crate) fn to_forget(&self) -> impl Iterator<Item = Box<dyn Forget>> {
        self.lookups.iter().map(|lookups| Box::new(lookups.clone()) as Box<dyn Forget>)
    }

    /// Returns the state of the first tiers, if they follow a shared one.
    pub(crate) fn first(&self) -> Option<&Arc<FirstTiers>> {
        self.tiers[0].first()
    }

    /// Returns the place of the first tier that is not in this process, `None` if all are.
    pub(crate) fn shared(&self) -> Option<usize> {
        self.tiers.iter().position(|tier| !tier.is_local())
    }

    /// Returns no leases of this key yet, and draws a stamp for what will be filled with them.
    pub(crate) fn no_leases(&self, key: &Key) -> Leases {
        Leases::none(self.tiers[0].draw(key))
    }

    /// Returns the entry of the first tier, fresh or stale, if that tier is local. It is not
    /// counted.
    #[inline]
    pub(crate) fn peek(&self, key: &Key) -> Option<Entry<V>> {
        self.tiers[0].peek(key)
    }

    /// Returns the fresh entry of the first local tier that has one, and its place. It is not
    /// counted.
    pub(crate) fn peek_all(&self, key: &Key) -> Option<(usize, Entry<V>)> {
        self.tiers.iter().enumerate().find_map(|(place, tier)| {
            let entry = tier.peek(key).filter(|entry| tier.is_fresh(entry))?;
            Some((place, entry))
        })
    }

    /// Returns `true` if this answer of the first tier is a fresh entry, and counts the hit.
    ///
    /// Hits are told by reference, because moving an entry costs as much as all else that a hit does
    /// here.
    #[inline]
    pub(crate) fn is_hit(&self, peeked: Option<&Entry<V>>) -> bool {
        let is_hit = peeked.is_some_and(|entry| self.tiers[0].is_fresh(entry));
        if is_hit {
            self.tiers[0].count_hit();
        }
        is_hit
    }

    /// Returns the fresh entry of the key and the place of its tier, after the first tier has
    /// answered `peeked`.
    pub(crate) async fn get(
        self: &Arc<Self>,
        key: &Key,
        peeked: Option<Entry<V>>,
    ) -> Result<Option<(usize, Entry<V>)>> {
        let deadline = Deadline::after(self.timeout);
        let peeked = Peeked { entry: peeked, is_counted: false };
        let query = Query::new(Purpose::Get);
        let lookup = pin!(self.look_up(key, Some(peeked), deadline, &query));
        let found = deadline.bound(&self.runtime, lookup).await?.fresh()?;
        Ok(found.filter(|found| self.is_served(found)))
    }

    /// Returns the entry of the key and the place of its tier, as the query asks for it. Without a
    /// fresh entry returns a stale one, if that is allowed.
    pub(crate) async fn get_with(
        self: &Arc<Self>,
        key: &Key,
        query: &Query,
        allows_stale: bool,
    ) -> Result<Option<(usize, Entry<V>)>> {
        let deadline = Deadline::after(self.timeout);
        let lookup = pin!(self.look_up(key, None, deadline, query));
        let lookup = deadline.bound(&self.runtime, lookup).await?;
        self.found_or_stale(key, &lookup, query, allows_stale)
    }

    /// Returns the values of the keys, without those that are stale.
    pub(crate) async fn get_many(self: &Arc<Self>, keys: &[Key]) -> Result<Vec<Option<V>>> {
        self.get_many_with(keys, &Query::new(Purpose::Get), false).await
    }

    /// Returns the values of the keys, as the query asks for them. A stale value is returned only
    /// if that is allowed and there is no fresh one.
    pub(crate) async fn get_many_with(
        self: &Arc<Self>,
        keys: &[Key],
        query: &Query,
        allows_stale: bool,
    ) -> Result<Vec<Option<V>>> {
        let deadline = Deadline::after(self.timeout);
        let lookups = pin!(self.look_up_many(keys, deadline, query));
        let lookups = deadline.bound(&self.runtime, lookups).await?;
        let value = |(key, lookup): (&Key, Lookup<V>)| {
            let found = self.found_or_stale(key, &lookup, query, allows_stale)?;
            Ok(found.and_then(|(_, entry)| entry.into_value()))
        };
        keys.iter().zip(lookups).map(value).collect()
    }

    /// Returns the stale entry that a lookup has found, unless its key has changed since: the tiers
    /// below may have taken long. If the shared tier has failed, the entry may be in grace.
    pub(crate) fn stale_of(&self, key: &Key, lookup: &Lookup<V>) -> Option<(usize, Entry<V>)> {
        let (place, entry) = lookup.stale.as_ref()?;
        let may_serve = self.first().is_none_or(|first| {
            let is_in_grace = || lookup.has_failed(first.shared) && first.is_in_grace(key, entry);
            *place >= first.shared || first.is_current(key, entry) || is_in_grace()
        });
        may_serve.then(|| (*place, entry.clone()))
    }

    /// Counts a stale entry of the tier of this place that is served.
    pub(crate) fn count_stale(&self, place: usize, entry: &Entry<V>) {
        self.load_counters.stale_served.increment();
        if let Some(first) = self.first()
            && place < first.shared
        {
            first.counters.served_in_grace.add(usize::from(!first.is_proven(entry.stamp())));
        }
    }

    fn found_or_stale(
        &self,
        key: &Key,
        lookup: &Lookup<V>,
        query: &Query,
        allows_stale: bool,
    ) -> Result<Option<(usize, Entry<V>)>> {
        let stale = self.stale_of(key, lookup);
        let stale = stale.filter(|(_, entry)| {
            allows_stale && !self.has_expired(entry) && query.accepts_age(entry, || self.clock.now())
        });
        match (lookup.fresh(), stale) {
            (Ok(Some(found)), _) if self.is_served(&found) => Ok(Some(found)),
            (_, Some((place, entry))) => {
                self.count_stale(place, &entry);
                Ok(Some((place, entry)))
            }
            (fresh, None) => fresh.map(|found| found.filter(|found| self.is_served(found))),
        }
    }

    /// Looks up a key. Concurrent plain lookups of one key are coalesced. `peeked` is what the
    /// first tier has answered already.
    pub(crate) async fn look_up(
        self: &Arc<Self>,
        key: &Key,
        peeked: Option<Peeked<V>>,
        deadline: Deadline,
        query: &Query,
    ) -> Result<Arc<Lookup<V>>> {
        let mut peeked = peeked.map(|peeked| vec![peeked]);
        if self.tiers.iter().all(Tier::is_local) {
            // Boxed, as the work of a flight is, so that the future of a call stays small.
            let mut lookups = Box::pin(self.descend(std::slice::from_ref(key), peeked, deadline, query)).await;
            return Ok(Arc::new(lookups.pop().unwrap_or_else(|| self.nothing_of(key))));
        }
        if !query.is_plain() {
            let lookups = self.descend_alone(vec![key.clone()], peeked, deadline, query).await?;
            return Ok(Arc::new(lookups.into_iter().next().unwrap_or_else(|| self.nothing_of(key))));
        }
        // A lookup that leaves no time for a loader is of no use to a caller that needs some.
        let purpose = query.purpose;
        let group = &self.lookups[usize::from(purpose == Purpose::Load && self.timeout.is_some())];
        let mut repeats = REPEATS;
        loop {
            let (mut waiter, was_started) = group
                .join(key, || Box::pin(Arc::clone(self).look_up_alone(key.clone(), peeked.take(), deadline, purpose)));
            waiter.begin_wait()?;
            let lookup = waiter.await?;
            let is_cut_short = lookup.cut_short && lookup.hit.is_none();
            if was_started || !is_cut_short || repeats == 0 || deadline.has_passed() {
                return Ok(lookup);
            }
            repeats -= 1;
        }
    }

    /// The work of a flight: looks up one key.
    #[allow(clippy::manual_async_fn, reason = "an async function has room for two of each argument")]
    pub(crate) fn look_up_alone(
        self: Arc<Self>,
        key: Key,
        peeked: Option<Vec<Peeked<V>>>,
        deadline: Deadline,
        purpose: Purpose,
    ) -> impl Future<Output = Lookup<V>> {
        let span = self.spans.lookup(std::slice::from_ref(&key));
        async move {
            let query = Query::new(purpose);
            let descent = pin!(self.descend(std::slice::from_ref(&key), peeked, deadline, &query));
            let lookups = span.enclose(descent).await;
            let lookup = lookups.into_iter().next().unwrap_or_else(|| self.nothing_of(&key));
            self.trace(&span, &lookup);
            lookup
        }
    }

    /// Looks up several keys; each tier is asked once.
    pub(crate) async fn look_up_many(
        self: &Arc<Self>,
        keys: &[Key],
        deadline: Deadline,
        query: &Query,
    ) -> Result<Vec<Lookup<V>>> {
        let peeked: Option<Vec<Peeked<V>>> = (self.tiers[0].is_local() && !query.unread.contains(&0)).then(|| {
            let peek = |key| Peeked { entry: self.peek(key), is_counted: false };
            keys.iter().map(peek).collect()
        });
        let is_found = |peeked: &Peeked<V>| {
            let mut entries = peeked.entry.iter();
            entries.any(|entry| self.accepts(&self.tiers[0], entry, query))
        };
        let is_all_found = peeked.as_ref().is_some_and(|peeked| peeked.iter().all(is_found));
        if is_all_found || self.tiers.iter().all(Tier::is_local) {
            return Ok(self.descend(keys, peeked, deadline, query).await);
        }
        self.descend_alone(keys.to_vec(), peeked, deadline, query).await
    }

    /// Runs a lookup that no other caller can join.
    async fn descend_alone(
        self: &Arc<Self>,
        keys: Vec<Key>,
        peeked: Option<Vec<Peeked<V>>>,
        deadline: Deadline,
        query: &Query,
    ) -> Result<Vec<Lookup<V>>> {
        let (reader, query, span) = (Arc::clone(self), query.clone(), self.spans.lookup(&keys));
        let mut waiter = self.flights.batch_lookup(Box::pin(async move {
            let lookups = span.enclose(pin!(reader.descend(&keys, peeked, deadline, &query))).await;
            reader.trace_all(&span, &lookups);
            Mutex::new(lookups)
        }));
        waiter.begin_wait()?;
        // No other caller waits for it.
        Ok(std::mem::take(&mut *lock(&*waiter.await?)))
    }

    /// Records how the lookup of several keys has ended: a hit if all were found.
    fn trace_all(&self, span: &Active, lookups: &[Lookup<V>]) {
        if let [lookup] = lookups {
            return self.trace(span, lookup);
        }
        let missing = lookups.iter().filter(|lookup| lookup.hit.is_none());
        let failed = missing.clone().find_map(|lookup| lookup.failed.first());
        let outcome = if missing.count() == 0 { "hit" } else { "miss" };
        span.outcome(failed.map_or(Ok(&()), |(_, error)| Err(error)), outcome);
    }

    /// Records how a lookup has ended.
    fn trace(&self, span: &Active, lookup: &Lookup<V>) {
        match (&lookup.hit, lookup.failed.first()) {
            (Some((place, _)), _) => span.hit(self.tiers[*place].title()),
            (None, failed) => span.outcome(failed.map_or(Ok(&()), |(_, error)| Err(error)), "miss"),
        }
    }

    /// Returns `true` if an entry of this tier is acceptable to the query.
    pub(crate) fn accepts(&self, tier: &Tier<V>, entry: &Entry<V>, query: &Query) -> bool {
        tier.is_fresh(entry) && query.accepts_age(entry, || self.clock.now())
    }

    /// Lets no later caller join a lookup of the key that is in flight.
    pub(crate) fn forget(&self, key: &Key) {
        for lookups in &self.lookups {
            lookups.forget(key);
        }
    }

    /// Returns `true` if an entry of this tier is fresh. It may have turned stale while its caller
    /// was not polled.
    pub(crate) fn is_served(&self, (place, entry): &(usize, Entry<V>)) -> bool {
        self.tiers[*place].is_fresh(entry) && !self.has_expired(entry)
    }

    pub(crate) fn has_expired(&self, entry: &Entry<V>) -> bool {
        entry.expiry().has_passed(&*self.clock)
    }

    /// The detailed result of a read that found this entry; `place` is that of its tier, `None` if
    /// it was loaded.
    pub(crate) fn found(&self, place: Option<usize>, entry: Entry<V>) -> Found<V> {
        let now = self.clock.now();
        let is_suspect = |first: &Arc<FirstTiers>| {
            place.is_some_and(|place| place < first.shared) && !first.is_proven(entry.stamp())
        };
        let source = place.map_or(Source::Loaded, |place| Source::Tier(Arc::clone(self.tiers[place].title())));
        Found {
            stale: place.is_some() && entry.is_stale(now),
            in_grace: self.first().is_some_and(is_suspect),
            source,
            age: entry.created().map(|created| now.since(created)),
            ttl: entry.remaining(now),
            value: entry.into_value(),
            coherence: None,
        }
    }

    /// Completes the detailed result of a read.
    pub(crate) fn detailed(&self, found: Found<V>) -> Found<V> {
        Found { coherence: self.first().map(|first| Box::new(first.stats())), ..found }
    }
}

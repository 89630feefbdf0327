//! Reads: the first tier, and lookups that go down from there.

mod leases;
mod lookup;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_core::{Entry, Expiry, Key, Result, SharedClock};

pub(crate) use self::{
    leases::{LeaseReturns, Leases},
    lookup::Lookup,
};
use crate::{
    backfill::Backfills,
    flight::{FlightGroup, FlightStarter, Forget},
    outcome::{Found, Source},
    tier::{
        Tier,
        read::{Each, Peeked},
    },
    util::{deadline::Deadline, runtime::RuntimeHandle, sync::lock},
};

/// Reads the tiers of a chain.
pub(crate) struct Reader<V> {
    pub(crate) tiers: Arc<[Tier<V>]>,
    pub(crate) clock: SharedClock,
    pub(crate) runtime: RuntimeHandle,
    pub(crate) flights: FlightStarter,
    pub(crate) backfills: Backfills<V>,
    pub(crate) returns: LeaseReturns,
    /// Limits one call of the chain.
    pub(crate) timeout: Option<Duration>,
    /// How long a load may take, for which its leases are needed.
    load_timeout: Duration,
    /// The lookups in flight. With a timeout, those that leave time for a loader are apart.
    lookups: [FlightGroup<Lookup<V>>; 2],
}

/// What a lookup is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Get,
    /// If the lookup finds nothing, a loader runs.
    Load,
}

/// How often a caller repeats a lookup that it joined when the time of the caller that started it
/// was nearly over.
const REPEATS: usize = 3;

impl<V: Clone + Send + Sync + 'static> Reader<V> {
    pub(crate) fn new(
        (tiers, clock): (Arc<[Tier<V>]>, SharedClock),
        (runtime, flights): (RuntimeHandle, FlightStarter),
        backfills: Backfills<V>,
        (timeout, load_timeout): (Option<Duration>, Duration),
    ) -> Self {
        let returns = LeaseReturns::start(&tiers, &runtime);
        let lookups = [flights.lookups(), flights.lookups()];
        Self { tiers, clock, runtime, flights, backfills, returns, timeout, load_timeout, lookups }
    }

    /// The lookups in flight, for writes to forget.
    pub(crate) fn to_forget(&self) -> impl Iterator<Item = Box<dyn Forget>> {
        self.lookups.iter().map(|lookups| Box::new(lookups.clone()) as Box<dyn Forget>)
    }

    /// Returns the entry of the first tier, fresh or stale, if that tier is local. It is not
    /// counted.
    #[inline]
    pub(crate) fn peek(&self, key: &Key) -> Option<Entry<V>> {
        self.tiers[0].local()?.get(key)
    }

    /// Returns the fresh entry of the first local tier that has one, and its place. It is not
    /// counted.
    pub(crate) fn peek_all(&self, key: &Key) -> Option<(usize, Entry<V>)> {
        self.tiers.iter().enumerate().find_map(|(place, tier)| {
            let entry = tier.local()?.get(key).filter(|entry| tier.is_fresh(entry))?;
            Some((place, entry))
        })
    }

    /// Returns the entry for a hit of the first tier, and counts it. Gives back an entry that is
    /// stale.
    #[inline]
    pub(crate) fn hit(&self, peeked: Option<Entry<V>>) -> Result<Entry<V>, Option<Entry<V>>> {
        match peeked {
            Some(entry) if self.tiers[0].is_fresh(&entry) => {
                self.tiers[0].count_hit();
                Ok(entry)
            }
            peeked => Err(peeked),
        }
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
        let lookup = self.look_up(key, peeked, deadline, Purpose::Get);
        let found = deadline.bound(&self.runtime, lookup).await?.fresh()?;
        Ok(found.filter(|found| self.is_served(found)))
    }

    /// Returns the values of the keys, without those that are stale.
    pub(crate) async fn get_many(self: &Arc<Self>, keys: &[Key]) -> Result<Vec<Option<V>>> {
        let deadline = Deadline::after(self.timeout);
        let lookups = deadline.bound(&self.runtime, self.look_up_many(keys, deadline, Purpose::Get)).await?;
        let value = |lookup: Lookup<V>| {
            let found = lookup.fresh()?.filter(|found| self.is_served(found));
            Ok(found.and_then(|(_, entry)| entry.into_value()))
        };
        lookups.into_iter().map(value).collect()
    }

    /// Looks up a key. Concurrent lookups of one key are coalesced.
    pub(crate) async fn look_up(
        self: &Arc<Self>,
        key: &Key,
        peeked: Peeked<V>,
        deadline: Deadline,
        purpose: Purpose,
    ) -> Result<Arc<Lookup<V>>> {
        let mut peeked = Some(peeked);
        if self.tiers.iter().all(Tier::is_local) {
            let mut lookups = self.descend(std::slice::from_ref(key), peeked.map(one), deadline, purpose).await;
            return Ok(Arc::new(lookups.pop().unwrap_or_else(|| self.nothing_of(key))));
        }
        // A lookup that leaves no time for a loader is of no use to a caller that needs some.
        let group = &self.lookups[usize::from(purpose == Purpose::Load && self.timeout.is_some())];
        let mut repeats = REPEATS;
        loop {
            let (mut waiter, was_started) = group.join(key, || {
                let (reader, key, peeked) = (Arc::clone(self), key.clone(), peeked.take().map(one));
                Box::pin(async move {
                    let lookups = reader.descend(std::slice::from_ref(&key), peeked, deadline, purpose).await;
                    lookups.into_iter().next().unwrap_or_else(|| reader.nothing_of(&key))
                })
            });
            waiter.begin_wait()?;
            let lookup = waiter.await?;
            let is_cut_short = lookup.cut_short && lookup.hit.is_none();
            if was_started || !is_cut_short || repeats == 0 || deadline.has_passed() {
                return Ok(lookup);
            }
            repeats -= 1;
        }
    }

    /// Looks up several keys; each tier is asked once.
    pub(crate) async fn look_up_many(
        self: &Arc<Self>,
        keys: &[Key],
        deadline: Deadline,
        purpose: Purpose,
    ) -> Result<Vec<Lookup<V>>> {
        let peeked: Option<Each<Peeked<V>>> = self.tiers[0].is_local().then(|| {
            let peek = |key| Peeked { entry: self.peek(key), is_counted: false };
            keys.iter().map(peek).collect()
        });
        let is_fresh = |peeked: &Peeked<V>| peeked.entry.as_ref().is_some_and(|entry| self.tiers[0].is_fresh(entry));
        let is_all_fresh = peeked.as_ref().is_some_and(|peeked| peeked.iter().all(is_fresh));
        if is_all_fresh || self.tiers.iter().all(Tier::is_local) {
            return Ok(self.descend(keys, peeked, deadline, purpose).await.into_vec());
        }
        let (reader, keys) = (Arc::clone(self), keys.to_vec());
        let mut waiter = self.flights.batch_lookup(Box::pin(async move {
            Mutex::new(reader.descend(&keys, peeked, deadline, purpose).await.into_vec())
        }));
        waiter.begin_wait()?;
        // No other caller waits for it.
        Ok(std::mem::take(&mut *lock(&*waiter.await?)))
    }

    /// Whether an entry of this tier is fresh. It may have turned stale while its caller was not
    /// polled.
    pub(crate) fn is_served(&self, (place, entry): &(usize, Entry<V>)) -> bool {
        self.tiers[*place].is_fresh(entry) && !self.has_expired(entry)
    }

    pub(crate) fn has_expired(&self, entry: &Entry<V>) -> bool {
        entry.expiry() != Expiry::Never && entry.is_expired(self.clock.now())
    }

    /// The detailed result of a read that found this entry; `place` is that of its tier, `None` if
    /// it was loaded.
    pub(crate) fn found(&self, place: Option<usize>, entry: Entry<V>) -> Found<V> {
        let now = self.clock.now();
        let source = place.map_or(Source::Loaded, |place| Source::Tier(Arc::clone(self.tiers[place].title())));
        Found {
            stale: place.is_some() && entry.is_stale(now),
            source,
            age: entry.created().map(|created| now.since(created)),
            ttl: entry.remaining(now),
            value: entry.into_value(),
        }
    }
}

fn one<T>(item: T) -> Each<T> {
    Each::from_iter([item])
}

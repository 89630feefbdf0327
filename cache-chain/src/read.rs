//! Reads: down from the first tier to the first hit.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cache_core::{Entry, Error, ErrorKind, Expiry, Key, Result};
use tokio::time::Instant;

use crate::{
    backfill::{Job, Tickets},
    budget::{Budget, after},
    chain::Inner,
    leases::Leases,
    tier::Tier,
};

/// What the tiers have of a key.
pub(crate) struct Looked<V> {
    /// A fresh entry, and the place of its tier. The tiers above are being backfilled.
    pub(crate) hit: Option<(usize, Entry<V>)>,
    /// The first stale entry above that, if there was one.
    pub(crate) stale: Option<(usize, Entry<V>)>,
    /// Of the tiers that have nothing fresh, the last excepted.
    pub(crate) tickets: Leases,
    /// The tiers that failed.
    pub(crate) failed: Vec<(usize, Error)>,
    /// Whether a tier was late that would have had more time if the caller's budget had not been short.
    pub(crate) cut_short: bool,
}

/// How often a caller looks again where the budget of the caller that it joined was spent.
const LOOKS_AGAIN: usize = 3;

impl<V: Clone> Looked<V> {
    /// The fresh entry, if there is one. Without one, "not found" would be a guess where a tier has failed.
    pub(crate) fn fresh(&self) -> Result<Option<(usize, Entry<V>)>> {
        match (&self.hit, self.failed.first()) {
            (Some(hit), _) => Ok(Some(hit.clone())),
            (None, Some((_, error))) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    /// The first tier's answer if it is local and has one. A miss is not counted: [`look`](Self::look) asks it again.
    #[inline]
    pub(crate) fn first(&self, key: &Key) -> Option<Entry<V>> {
        let tier = &self.tiers[0];
        let entry = tier.local()?.get(key)?;
        tier.hit();
        Some(entry)
    }

    /// As [`first`](Self::first), if it is fresh. What is stale is not counted either.
    #[inline]
    pub(crate) fn first_fresh(&self, key: &Key) -> Option<Entry<V>> {
        let entry = self.peek(key)?;
        self.tiers[0].hit();
        Some(entry)
    }

    /// What the tiers have of the key, together with all who look for it now. `loading` says whether there is a loader to
    /// leave time for.
    pub(crate) async fn look(self: &Arc<Self>, key: &Key, budget: Budget, loading: bool) -> Result<Arc<Looked<V>>> {
        if self.tiers.iter().all(|tier| tier.local().is_some()) {
            return Ok(Arc::new(self.look_down(key, budget, loading).await));
        }
        // A lookup that leaves no time for a loader is of no use to a caller that needs some.
        let reads = &self.reads[usize::from(loading && self.deadline.is_some())];
        let mut again = LOOKS_AGAIN;
        loop {
            let (mut waiter, began) = reads.join(key, || {
                let (inner, key) = (Arc::clone(self), key.clone());
                Box::pin(async move { inner.look_down(&key, budget, loading).await })
            });
            waiter.begin_wait()?;
            let looked = waiter.await?;
            // The budget is that of the caller that began the lookup. This one may have joined it near its end.
            let is_spent = looked.cut_short && looked.hit.is_none();
            if began || !is_spent || again == 0 || budget.is_spent() {
                return Ok(looked);
            }
            again -= 1;
        }
    }

    /// What the tiers have of each of the keys.
    pub(crate) async fn look_many(
        self: &Arc<Self>,
        keys: &[Key],
        budget: Budget,
        loading: bool,
    ) -> Result<Vec<Looked<V>>> {
        if self.tiers.iter().all(|tier| tier.local().is_some()) {
            return Ok(self.look_for_many(keys, budget, loading).await);
        }
        if let Some(found) = keys.iter().map(|key| self.peek(key)).collect::<Option<Vec<_>>>() {
            let hit = |(key, entry)| Looked { hit: Some((0, entry)), ..self.nothing_of(key) };
            return Ok(keys.iter().zip(found).inspect(|_| self.tiers[0].hit()).map(hit).collect());
        }
        let (inner, keys) = (Arc::clone(self), keys.to_vec());
        let mut waiter = self
            .flights
            .batch_lookup(Box::pin(async move { Mutex::new(inner.look_for_many(&keys, budget, loading).await) }));
        waiter.begin_wait()?;
        // Nobody else waits for it.
        Ok(std::mem::take(&mut *waiter.await?.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The fresh entry of the first tier, if that is local. It is not counted.
    fn peek(&self, key: &Key) -> Option<Entry<V>> {
        let tier = &self.tiers[0];
        tier.local()?.get(key).filter(|entry| tier.is_fresh(entry))
    }

    /// What `get` finds: the fresh entry of the key, and the place of its tier.
    pub(crate) async fn read(self: &Arc<Self>, key: Key) -> Result<Option<(usize, Entry<V>)>> {
        let budget = Budget::new(self.deadline);
        let found = budget.bound(&self.ground.runtime, self.look(&key, budget, false)).await?.fresh()?;
        Ok(found.filter(|found| self.is_good(found)))
    }

    /// As [`read`](Self::read) for several keys; the values alone.
    pub(crate) async fn read_many(self: &Arc<Self>, keys: Vec<Key>) -> Result<Vec<Option<V>>> {
        let budget = Budget::new(self.deadline);
        let looked = budget.bound(&self.ground.runtime, self.look_many(&keys, budget, false)).await?;
        let good = |found: &(usize, Entry<V>)| self.is_good(found);
        let value = |looked: Looked<V>| Ok(looked.fresh()?.filter(good).and_then(|(_, entry)| entry.into_value()));
        looked.into_iter().map(value).collect()
    }

    /// The first fresh entry from the first tier down. Before a tier is read, the leases of those above are taken.
    async fn look_down(&self, key: &Key, budget: Budget, loading: bool) -> Looked<V> {
        let last = self.tiers.len() - 1;
        let mut looked = self.nothing_of(key);
        for (at, tier) in self.tiers.iter().enumerate() {
            let limit = budget.share(self.parts(at, loading), tier.read_timeout);
            let lease = (at < last).then(|| self.life_of_lease(at + 1, limit, budget, loading));
            match tier.look_up(key, lease, limit).await {
                Ok(seen) => {
                    match seen.entry {
                        Some(entry) if tier.is_fresh(&entry) => {
                            looked.hit = self.found(at, key, entry, &mut looked).map(|entry| (at, entry));
                            return looked;
                        }
                        Some(entry) if looked.stale.is_none() && self.may_be_served_stale(&entry) => {
                            looked.stale = Some((at, entry));
                        }
                        _ => {}
                    }
                    if let Some(ticket) = seen.ticket {
                        looked.tickets.push(at, ticket);
                    }
                }
                Err(error) => {
                    looked.cut_short |= error.kind() == ErrorKind::Timeout && limit < tier.read_timeout;
                    looked.failed.push((at, error));
                }
            }
        }
        looked
    }

    /// Over how many parts the time is to be divided from this tier on: the tiers that take any, and a loader.
    fn parts(&self, from: usize, loading: bool) -> usize {
        self.tiers[from..].iter().filter(|tier| tier.local().is_none()).count() + usize::from(loading)
    }

    fn nothing_of(&self, key: &Key) -> Looked<V> {
        let tickets = Leases::new(self.releases.as_ref(), key);
        Looked { hit: None, stale: None, tickets, failed: Vec::new(), cut_short: false }
    }

    /// For how long a lease is needed: for what remains of the limit of its tier, for the tiers from `next` on and, if there is
    /// one, for the loader.
    pub(crate) fn life_of_lease(&self, next: usize, limit: Duration, budget: Budget, loading: bool) -> Duration {
        let remote = self.tiers[next..].iter().filter(|tier| tier.local().is_none());
        let lookup = remote.fold(limit, |sum, tier| sum.saturating_add(tier.read_timeout));
        let load = if loading { self.read_through.hard_timeout } else { Duration::ZERO };
        budget.share(1, lookup).saturating_add(load)
    }

    /// What the tiers have of each of the keys, each tier being asked once, for what the tiers above lack.
    pub(crate) async fn look_for_many(&self, keys: &[Key], budget: Budget, loading: bool) -> Vec<Looked<V>> {
        let last = self.tiers.len() - 1;
        let mut looked: Vec<Looked<V>> = keys.iter().map(|key| self.nothing_of(key)).collect();
        let mut lacking: Vec<usize> = (0..keys.len()).collect();
        for (place, tier) in self.tiers.iter().enumerate() {
            if lacking.is_empty() {
                break;
            }
            let asked: Vec<Key> = lacking.iter().map(|&at| keys[at].clone()).collect();
            let limit = budget.share(self.parts(place, loading), tier.read_timeout);
            let until = after(limit);
            let (mut missed, mut passed_over) = (Vec::new(), Vec::new());
            for (at, found) in lacking.into_iter().zip(tier.get_many(&asked, limit).await) {
                let of = &mut looked[at];
                match found {
                    Ok(Some(entry)) if tier.is_fresh(&entry) => {
                        of.hit = self.found(place, &keys[at], entry, of).map(|entry| (place, entry));
                    }
                    Ok(entry) => {
                        let entry = entry.filter(|entry| self.may_be_served_stale(entry));
                        of.stale = of.stale.take().or(entry.map(|entry| (place, entry)));
                        missed.push(at);
                    }
                    Err(error) => {
                        of.failed.push((place, error));
                        passed_over.push(at);
                    }
                }
            }
            if place < last {
                // Question and lease share the time.
                let rest = until.saturating_duration_since(Instant::now());
                let life = self.life_of_lease(place + 1, rest, budget, loading);
                self.lease((tier, place), (rest, life), keys, &missed, &mut looked).await;
            }
            missed.append(&mut passed_over);
            lacking = missed;
        }
        looked
    }

    /// Takes the leases of one tier for the keys at these places, and returns how many it did not give.
    pub(crate) async fn lease<W>(
        &self,
        (tier, place): (&Tier<V>, usize),
        (limit, life): (Duration, Duration),
        keys: &[Key],
        at: &[usize],
        looked: &mut [Looked<W>],
    ) -> usize {
        let leased: Vec<Key> = at.iter().map(|&at| keys[at].clone()).collect();
        let mut failed = 0;
        for (&at, ticket) in at.iter().zip(tier.lease_many(&leased, limit, life).await) {
            match ticket {
                Ok(ticket) => looked[at].tickets.push(place, ticket),
                Err(_) => failed += 1,
            }
        }
        failed
    }

    /// Has the tiers above backfilled. What expired on the way is a miss. A tier that answered and gave no lease cannot be
    /// backfilled, which counts as a failed backfill.
    fn found(&self, place: usize, key: &Key, entry: Entry<V>, looked: &mut Looked<V>) -> Option<Entry<V>> {
        if self.has_expired(&entry) {
            return None;
        }
        let tickets = looked.tickets.take();
        let without_lease = place.saturating_sub(tickets.len() + looked.failed.len());
        self.queue.counters().failed.add(without_lease);
        if !tickets.is_empty() {
            self.queue.push(self.job(key.clone(), entry.clone(), tickets, place));
        }
        Some(entry)
    }

    /// Whether an entry that is not fresh may still be served by a load. Absence is not: a loader may have found a value since.
    fn may_be_served_stale(&self, entry: &Entry<V>) -> bool {
        !entry.is_absent() && !self.has_expired(entry)
    }

    /// Whether an entry of this tier is fresh, and has not expired either, which who was not polled for long has not seen.
    pub(crate) fn is_good(&self, (place, entry): &(usize, Entry<V>)) -> bool {
        self.tiers[*place].is_fresh(entry) && !self.has_expired(entry)
    }

    pub(crate) fn has_expired(&self, entry: &Entry<V>) -> bool {
        entry.expiry() != Expiry::Never && entry.is_expired(self.clock.now())
    }

    pub(crate) fn job(&self, key: Key, entry: Entry<V>, tickets: Tickets, found_in: usize) -> Job<V> {
        let weight = entry.value().map_or(0, |value| (self.weigher)(&key, value));
        let bytes = weight.saturating_add(Job::<V>::overhead(&key));
        Job { key, entry, tickets, found_in, bytes }
    }
}

//! Loads of several keys by one call of a loader: a flight per key, and one for the batch that they share.

use std::{
    cell::LazyCell, collections::HashMap, error::Error as StdError, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use cache_core::{CacheKey, Error, ErrorKind, Key, Result};
use tokio::sync::oneshot;

use crate::{
    budget::{Budget, after},
    chain::Inner,
    flight::Waiter,
    leases::Leases,
    load::{Landed, Landing},
    loaded::{Load, Loaded, failed},
    outcome::Source,
    read::Looked,
};

/// Which keys to load.
struct Order<K> {
    wanted: Vec<K>,
    keys: Vec<Key>,
    looked: Vec<Looked<()>>,
}

/// What a batch brought.
struct Batch<V> {
    loaded: HashMap<Key, Loaded<V>>,
    tickets: HashMap<Key, Leases>,
    time: Duration,
}

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    /// The values of the keys: from the tiers, from loads that are under way or, what remains, from one call of the loader.
    pub(crate) async fn through_many<K, T, E, I, Fut>(
        self: &Arc<Self>,
        wanted: Vec<K>,
        load: impl FnOnce(Vec<K>) -> Fut + Send + 'static,
    ) -> Result<Vec<Option<V>>>
    where
        K: CacheKey + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let keys: Vec<Key> = wanted.iter().map(|key| Key::new(key)).collect::<Result<_>>()?;
        let limit = self.read_through.soft_timeout;
        let budget = Budget::new(Some(self.deadline.map_or(limit, |deadline| deadline.min(limit))));
        let looked = budget.bound(&self.ground.runtime, self.look_many(&keys, budget, true)).await?;

        let (place_order, order) = oneshot::channel();
        // Started with the first key that is to be loaded.
        let batch = LazyCell::new(|| self.batch(order, load));
        let mut values = Vec::with_capacity(keys.len());
        let mut awaited = Vec::new();
        let mut ordered = Order { wanted: Vec::new(), keys: Vec::new(), looked: Vec::new() };
        for (at, ((want, key), looked)) in wanted.into_iter().zip(&keys).zip(looked).enumerate() {
            let Looked { hit, stale, tickets, failed, .. } = looked;
            let found = hit.or(stale).filter(|(_, entry)| !self.has_expired(entry));
            let is_due = |entry| self.is_due(entry) && !self.pauses.hold(key, self.clock.now());
            let refresh = found.as_ref().is_some_and(|(_, entry)| is_due(entry));
            if found.is_none() || refresh {
                let (waiter, began) = self.begin_of(key, || batch.another(), refresh);
                if began {
                    ordered.wanted.push(want);
                    ordered.keys.push(key.clone());
                    ordered.looked.push(Looked { hit: None, stale: None, tickets, failed, cut_short: false });
                } else if !refresh {
                    self.load_counters.joined.one();
                }
                if refresh {
                    self.refreshing(waiter, began);
                } else {
                    awaited.push((at, waiter));
                }
            }
            let served = found.map(|(place, entry)| self.served(Landed { entry, source: Source::Tier(place) }));
            values.push(served.and_then(|outcome| outcome.value));
        }
        // Nothing was awaited since the first flight was listed, so none is left without its order.
        let _ = place_order.send(ordered);
        drop(batch);
        for (at, landing) in self.wait_for_all(awaited, budget).await {
            values[at] = landing?.entry.into_value();
        }
        Ok(values)
    }

    /// Waits for all of these loads together, as one may hold what another waits for; in their order. Those that take too long
    /// go on in the background.
    async fn wait_for_all<P: Copy + Ord>(
        &self,
        mut waiting: Vec<(P, Waiter<Landing<V>>)>,
        budget: Budget,
    ) -> Vec<(P, Landing<V>)> {
        let patience = budget.share(1, self.read_through.soft_timeout);
        let until = after(patience);
        let mut landed = Vec::with_capacity(waiting.len());
        waiting.retain_mut(|(place, waiter)| match waiter.begin_wait() {
            Ok(()) => true,
            Err(error) => {
                landed.push((*place, Err(error)));
                false
            }
        });
        let all = std::future::poll_fn(|context| {
            waiting.retain_mut(|(place, waiter)| match Pin::new(waiter).poll(context) {
                Poll::Ready(landing) => {
                    landed.push((*place, landing.and_then(|landing| Landing::clone(&landing))));
                    false
                }
                Poll::Pending => true,
            });
            if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        // Those that are late are still waiting.
        let _ = self.ground.runtime.timeout_at(until, all).await;
        landed.extend(waiting.into_iter().map(|(place, waiter)| (place, Err(self.late(waiter, patience, until)))));
        landed.sort_by_key(|(place, _)| *place);
        landed
    }

    /// The flight that all keys of the order share.
    fn batch<K, T, E, I, Fut>(
        self: &Arc<Self>,
        order: oneshot::Receiver<Order<K>>,
        load: impl FnOnce(Vec<K>) -> Fut + Send + 'static,
    ) -> Waiter<Result<Batch<V>>>
    where
        K: CacheKey + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let inner = Arc::clone(self);
        self.flights.batch_load(Box::pin(async move {
            let Ok(Order { wanted, keys, mut looked }) = order.await else { return Err(lost()) };
            inner.lease_rest_of_many(&keys, &mut looked).await;
            let loading = async {
                let brought = load(wanted).await.map_err(failed)?;
                brought.into_iter().map(|(key, loaded)| Ok((Key::new(&key)?, loaded.into_loaded()))).collect()
            };
            let (loaded, time) = inner.load(loading).await;
            let tickets = keys.into_iter().zip(looked.into_iter().map(|looked| looked.tickets)).collect();
            Ok(Batch { loaded: loaded?, tickets, time })
        }))
    }

    /// Joins the load of the key, or begins one as a part of the batch; `refresh` says whether a tier has an entry already.
    fn begin_of(
        self: &Arc<Self>,
        key: &Key,
        batch: impl FnOnce() -> Option<Waiter<Result<Batch<V>>>>,
        refresh: bool,
    ) -> (Waiter<Landing<V>>, bool) {
        self.loads.join(key, || {
            let (inner, key, batch) = (Arc::clone(self), key.clone(), batch());
            Box::pin(async move {
                let Some(mut batch) = batch else { return Err(lost()) };
                batch.begin_wait()?;
                let brought = batch.await?;
                let none = || Leases::new(inner.releases.as_ref(), &key);
                let (loaded, time, tickets) = match &*brought {
                    Ok(batch) => {
                        // What the loader does not mention is not there.
                        let loaded = batch.loaded.get(&key).cloned().unwrap_or_else(Loaded::absent);
                        (Ok(loaded), batch.time, batch.tickets.get(&key).map_or_else(none, Leases::share))
                    }
                    Err(error) => (Err(error.clone()), Duration::ZERO, none()),
                };
                let (entry, _) = inner.keep(&key, loaded, time, tickets, refresh).await?;
                Ok(Landed { entry, source: Source::Loaded })
            })
        })
    }

    /// Takes the leases that are still missing, each tier by one call, but for tiers that have just failed. A tier that gives none
    /// cannot be filled.
    async fn lease_rest_of_many(&self, keys: &[Key], looked: &mut [Looked<()>]) {
        let life = self.life_of_lease(self.tiers.len(), Duration::ZERO, Budget::new(None), true);
        for (at, tier) in self.tiers.iter().enumerate() {
            let lacks = |looked: &Looked<()>| {
                looked.tickets.iter().all(|(place, _)| *place != at)
                    && looked.failed.iter().all(|(place, _)| *place != at)
            };
            let places: Vec<usize> = (0..keys.len()).filter(|&place| lacks(&looked[place])).collect();
            let failed = self.lease((tier, at), (tier.read_timeout, life), keys, &places, looked).await;
            self.queue.counters().failed.add(failed);
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Closed, "the load of several keys was lost before it began")
}

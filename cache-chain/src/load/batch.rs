//! Loads of several keys by one loader call: a flight per key, and one flight for the call that
//! they share.

use std::{
    cell::LazyCell, collections::HashMap, error::Error as StdError, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use cache_core::{CacheKey, Error, ErrorKind, Key, Result};
use tokio::sync::oneshot;

use super::{
    LoadOutcome, LoadResult, Loader,
    loaded::{Load, Loaded, loader_error},
};
use crate::{
    flight::Waiter,
    read::{Leases, Lookup, Purpose},
    util::deadline::{Deadline, after},
};

/// The keys to load by one call.
struct Request<K> {
    /// The keys as the application has given them.
    ids: Vec<K>,
    keys: Vec<Key>,
    leases: Vec<Leases>,
    /// For each key, the places of the tiers that failed its lookup.
    failed: Vec<Vec<usize>>,
}

/// What one call has loaded.
struct Batch<V> {
    loaded: HashMap<Key, Loaded<V>>,
    leases: HashMap<Key, Leases>,
    time: Duration,
}

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Returns the values of the keys: from the tiers, from loads in flight, and from one call of
    /// the loader for the rest.
    pub(crate) async fn get_many<K, T, E, I, Fut>(
        self: &Arc<Self>,
        ids: Vec<K>,
        load: impl FnOnce(Vec<K>) -> Fut + Send + 'static,
    ) -> Result<Vec<Option<V>>>
    where
        K: CacheKey + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let keys: Vec<Key> = ids.iter().map(|id| Key::new(id)).collect::<Result<_>>()?;
        let reader = &self.reader;
        let limit = self.settings.soft_timeout;
        let deadline = Deadline::after(Some(reader.timeout.map_or(limit, |timeout| timeout.min(limit))));
        let lookups = deadline.bound(&reader.runtime, reader.look_up_many(&keys, deadline, Purpose::Load)).await?;

        let (send_request, request) = oneshot::channel();
        // Started with the first key that is to be loaded.
        let batch = LazyCell::new(|| self.start_batch(request, load));
        let mut values = Vec::with_capacity(keys.len());
        let mut awaited = Vec::new();
        let mut requested = Request { ids: Vec::new(), keys: Vec::new(), leases: Vec::new(), failed: Vec::new() };
        for (at, ((id, key), lookup)) in ids.into_iter().zip(&keys).zip(lookups).enumerate() {
            let Lookup { hit, stale, leases, failed, .. } = lookup;
            let found = hit.or(stale).filter(|(_, entry)| !reader.has_expired(entry));
            let is_due = |entry| self.is_due(entry) && !self.cooldowns.holds(key, reader.clock.now());
            let refresh = found.as_ref().is_some_and(|(_, entry)| is_due(entry));
            if found.is_none() || refresh {
                let (waiter, was_started) = self.begin_in_batch(key, || batch.another(), refresh);
                if was_started {
                    requested.ids.push(id);
                    requested.keys.push(key.clone());
                    requested.leases.push(leases);
                    requested.failed.push(failed.into_iter().map(|(place, _)| place).collect());
                } else if !refresh {
                    self.counters.joined.increment();
                }
                if refresh {
                    self.leave_refresh(waiter, was_started);
                } else {
                    awaited.push((at, waiter));
                }
            }
            let served = found.map(|(place, entry)| self.record_served(place, entry));
            values.push(served.and_then(|found| found.value));
        }
        // Nothing was awaited since the first flight was listed, so every flight gets its request.
        let _ = send_request.send(requested);
        drop(batch);
        for (at, outcome) in self.wait_for_all(awaited, deadline).await {
            values[at] = outcome?.entry.into_value();
        }
        Ok(values)
    }

    /// Waits for loads, and returns their results in order. They are polled together, because one
    /// load may hold what another waits for. Loads that take too long go on in the background.
    async fn wait_for_all(
        &self,
        mut waiting: Vec<(usize, Waiter<LoadResult<V>>)>,
        deadline: Deadline,
    ) -> Vec<(usize, LoadResult<V>)> {
        let limit = deadline.share(1, self.settings.soft_timeout);
        let until = after(limit);
        let mut results = Vec::with_capacity(waiting.len());
        waiting.retain_mut(|(at, waiter)| match waiter.begin_wait() {
            Ok(()) => true,
            Err(error) => {
                results.push((*at, Err(error)));
                false
            }
        });
        let all = std::future::poll_fn(|context| {
            waiting.retain_mut(|(at, waiter)| match Pin::new(waiter).poll(context) {
                Poll::Ready(outcome) => {
                    results.push((*at, outcome.and_then(|outcome| LoadResult::clone(&outcome))));
                    false
                }
                Poll::Pending => true,
            });
            if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        // At the timeout, the remaining ones are abandoned.
        let _ = self.reader.runtime.timeout_at(until, all).await;
        results.extend(waiting.into_iter().map(|(at, waiter)| (at, Err(self.abandon(waiter, limit, until)))));
        results.sort_by_key(|(at, _)| *at);
        results
    }

    /// Starts the flight of the loader call.
    fn start_batch<K, T, E, I, Fut>(
        self: &Arc<Self>,
        request: oneshot::Receiver<Request<K>>,
        load: impl FnOnce(Vec<K>) -> Fut + Send + 'static,
    ) -> Waiter<Result<Batch<V>>>
    where
        K: CacheKey + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let this = Arc::clone(self);
        self.reader.flights.batch_load(Box::pin(async move {
            let Ok(Request { ids, keys, mut leases, failed }) = request.await else { return Err(lost()) };
            this.reader.lease_rest(&keys, &mut leases, |at, place| failed[at].contains(&place)).await;
            let loading = async {
                let loaded = load(ids).await.map_err(loader_error)?;
                loaded.into_iter().map(|(id, loaded)| Ok((Key::new(&id)?, loaded.into_loaded()))).collect()
            };
            let (loaded, time) = this.call_loader(loading).await;
            Ok(Batch { loaded: loaded?, leases: keys.into_iter().zip(leases).collect(), time })
        }))
    }

    /// Joins the load of the key, or starts one as a part of the batch. `replaces` says whether a
    /// tier has an entry already.
    fn begin_in_batch(
        self: &Arc<Self>,
        key: &Key,
        batch: impl FnOnce() -> Option<Waiter<Result<Batch<V>>>>,
        replaces: bool,
    ) -> (Waiter<LoadResult<V>>, bool) {
        self.loads.join(key, || {
            let (this, key, batch) = (Arc::clone(self), key.clone(), batch());
            Box::pin(async move {
                let Some(mut batch) = batch else { return Err(lost()) };
                batch.begin_wait()?;
                let batch = batch.await?;
                let none = || this.reader.returns.none_of(&key);
                let (loaded, time, leases) = match &*batch {
                    Ok(batch) => {
                        // A key that the loader does not return is absent.
                        let loaded = batch.loaded.get(&key).cloned().unwrap_or_else(Loaded::absent);
                        (Ok(loaded), batch.time, batch.leases.get(&key).map_or_else(none, Leases::share))
                    }
                    Err(error) => (Err(error.clone()), Duration::ZERO, none()),
                };
                let (entry, _) = this.commit(&key, loaded, time, leases, replaces).await?;
                Ok(LoadOutcome { entry, place: None })
            })
        })
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Closed, "the load of several keys was dropped before it began")
}

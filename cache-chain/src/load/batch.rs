//! Loads of several keys by one loader call: a flight per key, and one flight for the call that
//! they share.

use std::{
    cell::LazyCell,
    collections::{HashMap, HashSet},
    error::Error as StdError,
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use cache_core::{CacheKey, Entry, Error, ErrorKind, Key, Result};
use tokio::{sync::oneshot, time::Instant};

use super::{
    LoadCall, LoadFn, LoadOutcome, LoadResult, Loader, Reason,
    claim::{BatchClaim, ClaimGuard, claim_batch, renewed_during},
    commit::Commit,
    config::ServeStale,
    loaded::{Load, Loaded, loader_error},
};
use crate::{
    flight::{Mark, Waiter},
    read::{Leases, Lookup},
    util::{
        deadline::{Deadline, after},
        sync::lock,
    },
};

/// A key to load by one call.
struct Requested<K, V> {
    /// The key as the application has given it.
    id: K,
    key: Key,
    leases: Leases,
    /// The places of the tiers that failed its lookup.
    failed: Vec<usize>,
    /// The entry that is loaded again.
    old: Option<Entry<V>>,
}

/// The results of one call: the part of each key, which the flight of the key takes. A key that a
/// peer is loading has none.
type Batch<V> = Mutex<HashMap<Key, Part<V>>>;

enum Part<V: Clone + Send + Sync + 'static> {
    Loaded { loaded: Result<Loaded<V>>, leases: Leases, claim: Option<ClaimGuard<V>>, time: Duration },
    ByPeer { place: usize, entry: Entry<V>, leases: Leases },
}

/// A key that no tier has, or that is loaded again.
struct Wanted<V: Clone + Send + Sync + 'static> {
    key: Key,
    mark: Mark,
    lookup: Arc<Lookup<V>>,
    /// The entry that is loaded again.
    old: Option<Entry<V>>,
    /// Loads the key alone.
    load: LoadFn<V>,
}

/// A key whose load the call waits for.
struct Awaited<V: Clone + Send + Sync + 'static> {
    /// Where its value goes.
    at: usize,
    waiter: Waiter<LoadResult<V>>,
    /// The place of the tier that has a stale entry, which is served if the load fails.
    stale: Option<usize>,
}

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Returns the values of the keys: from the tiers, from loads in flight, and from one call of
    /// the loader for the rest. The keys that a peer was loading and did not load are loaded one by
    /// one.
    pub(crate) async fn get_many<K, T, E, I, F, Fut>(
        self: &Arc<Self>,
        ids: Vec<K>,
        load: F,
        call: &LoadCall,
    ) -> Result<Vec<Option<V>>>
    where
        K: CacheKey + Clone + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        F: FnOnce(Vec<K>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let keys: Vec<Key> = ids.iter().map(|id| Key::new(id)).collect::<Result<_>>()?;
        let reader = &self.reader;
        let limit = self.settings.soft_timeout;
        let deadline = Deadline::after(Some(reader.timeout.map_or(limit, |timeout| timeout.min(limit))));
        let marks: Vec<Mark> = keys.iter().map(|key| self.loads.mark(key)).collect();
        let lookups = deadline.bound(&reader.runtime, reader.look_up_many(&keys, deadline, &call.query)).await?;

        let (send_request, request) = oneshot::channel();
        // Started with the first key that is to be loaded.
        let (of_all, options) = (load.clone(), call.clone());
        let batch = LazyCell::new(move || self.start_batch(request, of_all, options));
        let mut values = Vec::with_capacity(keys.len());
        let (mut awaited, mut requested, mut reloaded) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (((id, key), lookup), mark)) in ids.into_iter().zip(&keys).zip(lookups).zip(marks).enumerate() {
            let stale = lookup.stale.clone().filter(|(_, entry)| self.may_serve(entry, call));
            let found = lookup.hit.clone().or(stale).filter(|(_, entry)| !call.reload && !reader.has_expired(entry));
            let is_cooling = || self.cooldowns.holds(key, reader.clock.now());
            let is_refresh = found.as_ref().is_some_and(|(_, entry)| self.is_due(entry) && !is_cooling());
            let stale_place = found.as_ref().map(|(place, _)| *place);
            let mut is_awaited = false;
            if found.is_none() || is_refresh {
                let old = found.as_ref().or(lookup.stale.as_ref()).or(lookup.hit.as_ref());
                let old = old.map(|(_, entry)| entry.clone());
                let request = Requested {
                    id: id.clone(),
                    key: key.clone(),
                    leases: lookup.leases.share(),
                    failed: lookup.failed.iter().map(|(place, _)| *place).collect(),
                    old: old.clone(),
                };
                let load = load_one(id, load.clone());
                let mut wanted = Some(Wanted { key: key.clone(), mark, lookup: Arc::new(lookup), old, load });
                let (waiter, was_started, is_in_batch) = self.begin_in_batch(&mut wanted, || batch.another(), call);
                if was_started {
                    requested.extend(is_in_batch.then_some(request));
                } else if let Some(wanted) = wanted.filter(|_| call.wants_new()) {
                    // The load that was joined may bring an older value.
                    reloaded.push((at, wanted));
                }
                is_awaited = !is_refresh || self.waits_for_fresh(found.as_ref().map(|(_, entry)| entry), call);
                if is_awaited {
                    self.counters.joined.add(usize::from(!was_started));
                    self.counters.refreshes.add(usize::from(is_refresh && was_started));
                    self.counters.reloads.add(usize::from(call.reload && was_started));
                    awaited.push(Awaited { at, waiter, stale: stale_place });
                } else {
                    self.leave_refresh(waiter, was_started);
                }
            }
            let served = found.filter(|_| !is_awaited).map(|(place, entry)| self.record_served(place, entry));
            values.push(served.and_then(|found| found.value));
        }
        // Nothing was awaited since the first flight was listed, so every flight gets its request.
        let _ = send_request.send(requested);
        drop(batch);
        let is_reloaded: HashSet<usize> = reloaded.iter().map(|(at, _)| *at).collect();
        for (at, value) in self.wait_for_all(&keys, awaited, call, deadline).await {
            if !is_reloaded.contains(&at) {
                values[at] = value?;
            }
        }
        for (at, Wanted { key, mark, old, load, .. }) in reloaded {
            values[at] = self.reload(&key, mark, old, (load, call), deadline).await?.value;
        }
        Ok(values)
    }

    /// Returns `true` if a call waits for the load that replaces this entry.
    fn waits_for_fresh(&self, entry: Option<&Entry<V>>, call: &LoadCall) -> bool {
        let is_stale = entry.is_none_or(|entry| entry.is_stale(self.reader.clock.now()));
        is_stale && matches!(call.serve_stale, Some(ServeStale::After(_) | ServeStale::IfLoadFails))
    }

    /// Waits for loads, and returns their values in order. They are polled together, because one
    /// load may hold what another waits for. Loads that take too long go on in the background, and
    /// a stale value takes their place if there is one.
    async fn wait_for_all(
        &self,
        keys: &[Key],
        mut waiting: Vec<Awaited<V>>,
        call: &LoadCall,
        deadline: Deadline,
    ) -> Vec<(usize, Result<Option<V>>)> {
        let limit = deadline.share(1, self.settings.soft_timeout);
        let mut ended: Vec<(usize, Option<usize>, LoadResult<V>)> = Vec::with_capacity(waiting.len());
        waiting.retain_mut(|awaited| match awaited.waiter.begin_wait() {
            Ok(()) => true,
            Err(error) => {
                ended.push((awaited.at, awaited.stale, Err(error)));
                false
            }
        });
        let until = after(limit);
        if let Some(ServeStale::After(time)) = call.serve_stale
            && waiting.iter().any(|awaited| awaited.stale.is_some())
        {
            self.wait_until(after(time).min(until), &mut waiting, &mut ended).await;
            // Those with a stale value wait no longer.
            let (stale, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|awaited| awaited.stale.is_some());
            waiting = others;
            for Awaited { at, waiter, stale } in stale {
                waiter.leave_in_background();
                ended.push((at, stale, Err(late(time))));
            }
        }
        self.wait_until(until, &mut waiting, &mut ended).await;
        // At the timeout, the remaining ones are abandoned.
        for Awaited { at, waiter, stale } in waiting {
            ended.push((at, stale, Err(self.abandon(waiter, limit, until))));
        }
        let mut values = Vec::with_capacity(ended.len());
        for (at, stale, result) in ended {
            let value = match (result, stale) {
                (Ok(outcome), _) => Ok(outcome.entry.into_value()),
                (Err(error), None) => Err(error),
                // As long as the key was not deleted meanwhile.
                (Err(error), Some(place)) => match self.reader.read_again(&keys[at], place).await {
                    Some(entry) => Ok(self.record_served(place, entry).value),
                    None => Err(error),
                },
            };
            values.push((at, value));
        }
        values.sort_by_key(|(at, _)| *at);
        values
    }

    /// Moves the loads that end before this moment from `waiting` to `ended`.
    async fn wait_until(
        &self,
        until: Instant,
        waiting: &mut Vec<Awaited<V>>,
        ended: &mut Vec<(usize, Option<usize>, LoadResult<V>)>,
    ) {
        let all = std::future::poll_fn(|context| {
            waiting.retain_mut(|Awaited { at, waiter, stale }| match Pin::new(waiter).poll(context) {
                Poll::Ready(outcome) => {
                    ended.push((*at, *stale, outcome.and_then(|outcome| LoadResult::clone(&outcome))));
                    false
                }
                Poll::Pending => true,
            });
            if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = self.reader.runtime.timeout_at(until, all).await;
    }

    /// Starts the flight of the loader call.
    fn start_batch<K, T, E, I, Fut>(
        self: &Arc<Self>,
        request: oneshot::Receiver<Vec<Requested<K, V>>>,
        load: impl FnOnce(Vec<K>) -> Fut + Send + 'static,
        call: LoadCall,
    ) -> Waiter<Batch<V>>
    where
        K: CacheKey + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let this = Arc::clone(self);
        self.reader.flights.batch_load(Box::pin(async move {
            // Without a request, every flight of the batch has been given up.
            let requested = request.await.unwrap_or_default();
            this.run_batch(requested, load, &call).await
        }))
    }

    /// Claims the keys, and calls the loader for those that no peer loads.
    async fn run_batch<K, T, E, I, Fut>(
        self: &Arc<Self>,
        requested: Vec<Requested<K, V>>,
        load: impl FnOnce(Vec<K>) -> Fut + Send + 'static,
        call: &LoadCall,
    ) -> Batch<V>
    where
        K: CacheKey + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let mut parts = HashMap::new();
        let mut own =
            Own { ids: Vec::new(), keys: Vec::new(), leases: Vec::new(), failed: Vec::new(), claims: Vec::new() };
        for (requested, claim) in self.claim_all(requested, call).await {
            let Requested { id, key, leases, failed, .. } = requested;
            match claim {
                BatchClaim::Load(claim) => own.push(id, key, leases, failed, claim),
                BatchClaim::LoadedByPeer(place, entry) => {
                    parts.insert(key, Part::ByPeer { place, entry, leases });
                }
                BatchClaim::InFlight => {}
            }
        }
        if own.keys.is_empty() {
            return Mutex::new(parts);
        }
        let Own { ids, keys, mut leases, failed, claims } = own;
        let is_left_out = |at: usize, place| failed[at].contains(&place) || call.query.unwritten.contains(&place);
        self.reader.lease_rest(&keys, &mut leases, is_left_out).await;
        let loading = async {
            let loaded = load(ids).await.map_err(loader_error)?;
            loaded.into_iter().map(|(id, loaded)| Ok((Key::new(&id)?, loaded.into_loaded()))).collect()
        };
        let (mut loaded, time): (Result<HashMap<Key, Loaded<V>>>, _) =
            renewed_during(claims.iter().flatten(), self.call_loader(loading)).await;
        for ((key, leases), claim) in keys.into_iter().zip(leases).zip(claims) {
            let loaded = match &mut loaded {
                // A key that the loader does not return is absent.
                Ok(loaded) => Ok(loaded.remove(&key).unwrap_or_else(Loaded::absent)),
                Err(error) => Err(error.clone()),
            };
            parts.insert(key, Part::Loaded { loaded, leases, claim, time });
        }
        Mutex::new(parts)
    }

    /// Claims the keys, unless peers do not matter.
    async fn claim_all<K>(
        self: &Arc<Self>,
        mut requested: Vec<Requested<K, V>>,
        call: &LoadCall,
    ) -> Vec<(Requested<K, V>, BatchClaim<V>)> {
        if call.wants_new() || self.settings.time_for_peers().is_none() {
            return requested.into_iter().map(|requested| (requested, BatchClaim::Load(None))).collect();
        }
        let keys: Vec<Key> = requested.iter().map(|requested| requested.key.clone()).collect();
        let old: Vec<Option<Entry<V>>> = requested.iter_mut().map(|requested| requested.old.take()).collect();
        let failed: Vec<Vec<usize>> = requested.iter().map(|requested| requested.failed.clone()).collect();
        let mut leases: Vec<&mut Leases> = requested.iter_mut().map(|requested| &mut requested.leases).collect();
        let has_failed = |at: usize, place| failed[at].contains(&place);
        let claims = claim_batch(&self.reader, &keys, &old, &mut leases, has_failed).await;
        requested.into_iter().zip(claims).collect()
    }

    /// Joins the load of the key, or starts one and takes `wanted`. Returns whether it was started,
    /// and whether it is a part of the batch then.
    fn begin_in_batch(
        self: &Arc<Self>,
        wanted: &mut Option<Wanted<V>>,
        batch: impl FnOnce() -> Option<Waiter<Batch<V>>>,
        call: &LoadCall,
    ) -> (Waiter<LoadResult<V>>, bool, bool) {
        let Some(key) = wanted.as_ref().map(|wanted| wanted.key.clone()) else { unreachable!("it is taken below") };
        let mut is_in_batch = true;
        let (waiter, was_started) = self.loads.join(&key, || {
            let (this, call, wanted) = (Arc::clone(self), call.clone(), wanted.take());
            // A load that has ended since the lookup may have filled the tiers.
            is_in_batch =
                call.wants_new() || wanted.as_ref().is_none_or(|wanted| !self.loads.has_ended_since(&key, wanted.mark));
            let batch = if is_in_batch { batch() } else { None };
            Box::pin(async move {
                match (batch, wanted) {
                    (Some(batch), Some(wanted)) => this.run_in_batch(wanted, batch, &call).await,
                    (None, Some(wanted)) if !is_in_batch => this.run_alone(wanted, &call).await,
                    _ => Err(lost()),
                }
            })
        });
        (waiter, was_started, is_in_batch)
    }

    /// Runs the load of one key by a loader call of its own.
    async fn run_alone(
        self: &Arc<Self>,
        Wanted { key, mark, lookup, old, load }: Wanted<V>,
        call: &LoadCall,
    ) -> LoadResult<V> {
        let reason = match old {
            Some(old) if lookup.hit.is_some() => Reason::ExpiresSoon(old),
            _ => Reason::Missing(lookup),
        };
        self.run((&key, mark), reason, load, call).await
    }

    /// Runs the load of one key of a batch, until its entry is stored.
    async fn run_in_batch(
        self: &Arc<Self>,
        wanted: Wanted<V>,
        mut batch: Waiter<Batch<V>>,
        call: &LoadCall,
    ) -> LoadResult<V> {
        let began = self.began();
        batch.begin_wait()?;
        let batch = batch.await?;
        let part = lock(&*batch).remove(&wanted.key);
        // Without a part, a peer is loading it.
        let Some(part) = part else { return self.run_alone(wanted, call).await };
        let Wanted { key, old, .. } = wanted;
        match part {
            Part::Loaded { loaded, leases, claim, time } => {
                let commit = Commit::new(&key, time, leases, old, call.ttl).reload(call.reload).claimed(claim);
                Ok(LoadOutcome { entry: self.commit(loaded, commit).await?, place: None, began })
            }
            Part::ByPeer { place, entry, leases } => Ok(self.loaded_by_peer(&key, leases, place, entry)),
        }
    }
}

/// The keys that this process loads.
struct Own<K, V: Clone + Send + Sync + 'static> {
    ids: Vec<K>,
    keys: Vec<Key>,
    leases: Vec<Leases>,
    failed: Vec<Vec<usize>>,
    claims: Vec<Option<ClaimGuard<V>>>,
}

impl<K, V: Clone + Send + Sync + 'static> Own<K, V> {
    fn push(&mut self, id: K, key: Key, leases: Leases, failed: Vec<usize>, claim: Option<ClaimGuard<V>>) {
        self.ids.push(id);
        self.keys.push(key);
        self.leases.push(leases);
        self.failed.push(failed);
        self.claims.push(claim);
    }
}

/// A loader of one key that calls the loader of several.
fn load_one<V, K, T, E, I, Fut>(id: K, load: impl FnOnce(Vec<K>) -> Fut + Send + 'static) -> LoadFn<V>
where
    V: Clone + Send + Sync + 'static,
    K: CacheKey + Send + 'static,
    T: Load<V>,
    E: Into<Box<dyn StdError + Send + Sync>>,
    I: IntoIterator<Item = (K, T)>,
    Fut: Future<Output = Result<I, E>> + Send + 'static,
{
    Box::new(|context| {
        Box::pin(async move {
            let loaded = load(vec![id]).await.map_err(loader_error)?;
            for (id, loaded) in loaded {
                if Key::new(&id)? == context.key {
                    return Ok(loaded.into_loaded());
                }
            }
            Ok(Loaded::absent())
        })
    })
}

fn late(time: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the load did not end within {time:?}; it goes on in the background"))
}

fn lost() -> Error {
    Error::new(ErrorKind::Closed, "the load of several keys was dropped before it began")
}

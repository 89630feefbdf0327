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
    is_reload: bool,
}

/// The results of one call: the part of each key, which the flight of the key takes. A key that a
/// peer is loading has none.
type Batch<V> = Mutex<HashMap<Key, Part<V>>>;

enum Part<V: Clone + Send + Sync + 'static> {
    Loaded(LoadedPart<V>),
    ByPeer { place: usize, entry: Entry<V>, leases: Leases },
}

struct LoadedPart<V: Clone + Send + Sync + 'static> {
    loaded: Result<Loaded<V>>,
    leases: Leases,
    claim: Option<ClaimGuard<V>>,
    time: Duration,
    /// When the call began, in the order of [`Loader::begun`].
    began: u64,
}

/// A key that no tier has, or that is loaded again.
struct Wanted<V: Clone + Send + Sync + 'static> {
    key: Key,
    mark: Mark,
    lookup: Arc<Lookup<V>>,
    /// The entry that is loaded again.
    old: Option<Entry<V>>,
    /// `true` if it is loaded again although the tiers have a fresh entry.
    is_reload: bool,
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
    /// `true` if this call has started the load.
    is_own: bool,
}

/// A key whose load has ended.
struct Ended<V> {
    at: usize,
    stale: Option<usize>,
    /// `true` if the load began too early for a call that wants new values.
    is_too_early: bool,
    result: LoadResult<V>,
}

/// A call for several keys. One that wants new values has a second round, for the keys whose loads
/// had begun before.
#[derive(Clone, Copy)]
struct Round {
    /// When the call began, in the order of [`Loader::begun`].
    called: u64,
    is_first: bool,
    /// When the call must end.
    deadline: Deadline,
    /// When it stops waiting for loads.
    wait_deadline: Deadline,
}

/// The value of a key after a round, `None` if it is to be loaded in the next one.
type Answer<V> = Option<Result<Option<V>>>;

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
        let deadline = Deadline::after(self.reader.timeout);
        let wait_deadline = deadline.within(self.settings.soft_timeout);
        let (called, again) = if call.wants_new() { (self.call_began(), ids.clone()) } else { (0, Vec::new()) };
        let mut round = Round { called, is_first: true, deadline, wait_deadline };
        let mut answers = self.get_round(ids, &keys, load.clone(), call, round).await?;
        loop {
            let rest: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].is_none()).collect();
            if rest.is_empty() {
                return answers.into_iter().flatten().collect();
            }
            round.is_first = false;
            let (ids, keys): (Vec<K>, Vec<Key>) = rest.iter().map(|&at| (again[at].clone(), keys[at].clone())).unzip();
            let of_rest = self.get_round(ids, &keys, load.clone(), call, round).await?;
            for (at, answer) in rest.into_iter().zip(of_rest) {
                answers[at] = answer;
            }
        }
    }

    /// Looks the keys up, loads those that are missing or due, and waits for the loads.
    async fn get_round<K, T, E, I, F, Fut>(
        self: &Arc<Self>,
        ids: Vec<K>,
        keys: &[Key],
        load: F,
        call: &LoadCall,
        round: Round,
    ) -> Result<Vec<Answer<V>>>
    where
        K: CacheKey + Clone + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        F: FnOnce(Vec<K>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let (reader, deadline) = (&self.reader, round.wait_deadline);
        let marks: Vec<Mark> = keys.iter().map(|key| self.loads.mark(key)).collect();
        let lookups = deadline.bound(&reader.runtime, reader.look_up_many(keys, deadline, &call.query)).await?;

        let (send_request, request) = oneshot::channel();
        // Started with the first key that is to be loaded.
        let (of_all, options) = (load.clone(), call.clone());
        let batch = LazyCell::new(move || self.start_batch(request, of_all, options));
        let mut answers = Vec::with_capacity(keys.len());
        let (mut awaited, mut requested, mut own) = (Vec::new(), Vec::new(), HashSet::new());
        for (at, (((id, key), lookup), mark)) in ids.into_iter().zip(keys).zip(lookups).zip(marks).enumerate() {
            let stale = lookup.stale.clone().filter(|(_, entry)| self.may_serve(entry, call));
            let found = lookup.hit.clone().or(stale).filter(|(_, entry)| !call.reload && !reader.has_expired(entry));
            let is_cooling = || self.cooldowns.holds(key, reader.clock.now());
            let is_refresh = found.as_ref().is_some_and(|(_, entry)| self.is_due(entry) && !is_cooling());
            let mut is_awaited = false;
            if found.is_none() || is_refresh {
                let old = found.as_ref().or(lookup.stale.as_ref()).or(lookup.hit.as_ref());
                let old = old.map(|(_, entry)| entry.clone());
                let is_reload = call.reload || (found.is_none() && lookup.is_outdated);
                let request = Requested {
                    id: id.clone(),
                    key: key.clone(),
                    leases: lookup.leases.share(),
                    failed: lookup.failed.iter().map(|(place, _)| *place).collect(),
                    old: old.clone(),
                    is_reload,
                };
                let load = load_one(id, load.clone());
                let wanted = Wanted { key: key.clone(), mark, lookup: Arc::new(lookup), old, is_reload, load };
                let (waiter, was_started, is_in_batch) = self.begin_in_batch(wanted, || batch.another(), call);
                if was_started && is_in_batch {
                    requested.push(request);
                }
                // The same key may occur again.
                let is_own = was_started || own.contains(key);
                if call.wants_new() && was_started {
                    own.insert(key);
                }
                is_awaited = !is_refresh || self.waits_for_fresh(found.as_ref().map(|(_, entry)| entry), call);
                if is_awaited {
                    self.counters.joined.add(usize::from(!was_started));
                    self.counters.refreshes.add(usize::from(is_refresh && was_started));
                    self.counters.reloads.add(usize::from(is_reload && was_started));
                    awaited.push(Awaited { at, waiter, stale: found.as_ref().map(|(place, _)| *place), is_own });
                } else {
                    self.leave_refresh(waiter, was_started);
                }
            }
            let served = found.filter(|_| !is_awaited).map(|(place, entry)| self.record_served(place, entry));
            answers.push(Some(Ok(served.and_then(|found| found.value))));
        }
        // Nothing was awaited since the first flight was listed, so every flight gets its request.
        let _ = send_request.send(requested);
        drop(batch);
        self.wait_for_all(keys, awaited, (call, round), &mut answers).await;
        Ok(answers)
    }

    /// Returns `true` if a call waits for the load that replaces this entry.
    fn waits_for_fresh(&self, entry: Option<&Entry<V>>, call: &LoadCall) -> bool {
        let is_stale = entry.is_none_or(|entry| entry.is_stale(self.reader.clock.now()));
        is_stale && matches!(call.serve_stale, Some(ServeStale::After(_) | ServeStale::IfLoadFails))
    }

    /// Waits for loads, and enters their values. They are polled together, because one load may
    /// hold what another waits for. Loads that take too long go on in the background, and a stale
    /// value takes their place if there is one.
    async fn wait_for_all(
        &self,
        keys: &[Key],
        mut waiting: Vec<Awaited<V>>,
        (call, round): (&LoadCall, Round),
        answers: &mut [Answer<V>],
    ) {
        let limit = round.wait_deadline.share(1, self.settings.soft_timeout);
        let until = after(limit);
        let mut ended: Vec<Ended<V>> = Vec::with_capacity(waiting.len());
        waiting.retain_mut(|Awaited { at, waiter, stale, .. }| match waiter.begin_wait() {
            Ok(()) => true,
            Err(error) => {
                ended.push(Ended { at: *at, stale: *stale, is_too_early: false, result: Err(error) });
                false
            }
        });
        let places = waiting.iter().filter_map(|awaited| awaited.stale);
        let before_stale = places.map(|place| self.time_before_stale(place, round.deadline)).min();
        if let Some(time) = before_stale {
            let until = after(time).min(until);
            let quick =
                if let Some(ServeStale::After(time)) = call.serve_stale { after(time).min(until) } else { until };
            self.wait_until_any(quick, &mut waiting, &mut ended, (call, round), |_| false).await;
            // No longer, unless other keys of the call are waited for anyway.
            let have_stale = |waiting: &[Awaited<V>]| waiting.iter().all(|awaited| awaited.stale.is_some());
            self.wait_until_any(until, &mut waiting, &mut ended, (call, round), have_stale).await;
            let mut missing = Vec::new();
            for Awaited { at, waiter, stale, is_own } in waiting {
                match self.serve_again(&keys[at], stale, round.deadline).await {
                    Some(value) => {
                        waiter.leave_in_background();
                        answers[at] = Some(Ok(value));
                    }
                    // The key was deleted meanwhile, or was missing from the start.
                    None => missing.push(Awaited { at, waiter, stale: None, is_own }),
                }
            }
            waiting = missing;
        }
        self.wait_until_any(until, &mut waiting, &mut ended, (call, round), |_| false).await;
        // At the timeout, the remaining ones are abandoned.
        for Awaited { at, waiter, .. } in waiting {
            answers[at] = Some(Err(self.abandon(waiter, limit, until)));
        }
        for Ended { at, stale, is_too_early, result } in ended {
            answers[at] = match result {
                _ if is_too_early => None,
                Ok(outcome) => Some(Ok(outcome.entry.into_value())),
                Err(error) => Some(self.serve_again(&keys[at], stale, round.deadline).await.ok_or(error)),
            };
        }
    }

    /// Returns the stale value of a key, unless there is none or it was deleted meanwhile.
    async fn serve_again(&self, key: &Key, stale: Option<usize>, deadline: Deadline) -> Option<Option<V>> {
        let place = stale?;
        let entry = self.read_again(key, place, deadline).await?;
        Some(self.record_served(place, entry).value)
    }

    /// Moves the loads that end before this moment from `waiting` to `ended`, until all have ended
    /// or the rest is not waited for.
    async fn wait_until_any(
        &self,
        until: Instant,
        waiting: &mut Vec<Awaited<V>>,
        ended: &mut Vec<Ended<V>>,
        (call, round): (&LoadCall, Round),
        suffices: impl Fn(&[Awaited<V>]) -> bool,
    ) {
        let all = std::future::poll_fn(|context| {
            waiting.retain_mut(|Awaited { at, waiter, stale, is_own }| match Pin::new(waiter).poll(context) {
                Poll::Ready(outcome) => {
                    let result = outcome.and_then(|outcome| LoadResult::clone(&outcome));
                    let is_too_early =
                        call.wants_new() && !*is_own && self.is_too_early(&result, round.is_first, round.called, call);
                    ended.push(Ended { at: *at, stale: *stale, is_too_early, result });
                    false
                }
                Poll::Pending => true,
            });
            if waiting.is_empty() || suffices(waiting) { Poll::Ready(()) } else { Poll::Pending }
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
        let began = self.began();
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
            parts.insert(key, Part::Loaded(LoadedPart { loaded, leases, claim, time, began }));
        }
        Mutex::new(parts)
    }

    /// Claims the keys, unless they are reloaded or peers do not matter.
    async fn claim_all<K>(
        self: &Arc<Self>,
        mut requested: Vec<Requested<K, V>>,
        call: &LoadCall,
    ) -> Vec<(Requested<K, V>, BatchClaim<V>)> {
        if self.settings.time_for_peers().is_none() {
            return requested.into_iter().map(|requested| (requested, BatchClaim::Load(None))).collect();
        }
        let keys: Vec<Key> = requested.iter().map(|requested| requested.key.clone()).collect();
        let old: Vec<Option<Entry<V>>> = requested.iter_mut().map(|requested| requested.old.take()).collect();
        let failed: Vec<Vec<usize>> = requested.iter().map(|requested| requested.failed.clone()).collect();
        let reloaded: Vec<bool> = requested.iter().map(|requested| requested.is_reload).collect();
        let mut leases: Vec<&mut Leases> = requested.iter_mut().map(|requested| &mut requested.leases).collect();
        let is_left_out =
            |at: usize, place| reloaded[at] || failed[at].contains(&place) || call.query.leaves_out(place);
        let claims = claim_batch(&self.reader, (&keys, &call.query), &old, &mut leases, is_left_out).await;
        requested.into_iter().zip(claims).collect()
    }

    /// Joins the load of the key, or starts one. Returns whether it was started, and whether it is a
    /// part of the batch then.
    fn begin_in_batch(
        self: &Arc<Self>,
        wanted: Wanted<V>,
        batch: impl FnOnce() -> Option<Waiter<Batch<V>>>,
        call: &LoadCall,
    ) -> (Waiter<LoadResult<V>>, bool, bool) {
        let mut is_in_batch = true;
        let (waiter, was_started) = self.loads.join(&wanted.key.clone(), || {
            let (this, call) = (Arc::clone(self), call.clone());
            // A load that has ended since the lookup may have filled the tiers.
            is_in_batch = wanted.is_reload || !self.loads.has_ended_since(&wanted.key, wanted.mark);
            let batch = if is_in_batch { batch() } else { None };
            Box::pin(async move {
                match batch {
                    Some(batch) => this.run_in_batch(wanted, batch, &call).await,
                    None if is_in_batch => Err(lost()),
                    None => this.run_alone(wanted, &call).await,
                }
            })
        });
        (waiter, was_started, is_in_batch)
    }

    /// Runs the load of one key by a loader call of its own.
    async fn run_alone(
        self: &Arc<Self>,
        Wanted { key, mark, lookup, old, is_reload, load }: Wanted<V>,
        call: &LoadCall,
    ) -> LoadResult<V> {
        let reason = match old {
            old if is_reload => Reason::Reload(old),
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
        batch.begin_wait()?;
        let batch = batch.await?;
        let part = lock(&*batch).remove(&wanted.key);
        match part {
            Some(Part::Loaded(LoadedPart { loaded, leases, claim, time, began })) => {
                let Wanted { key, old, is_reload, .. } = wanted;
                let commit = Commit::new(&key, time, leases, old, call.ttl).reload(is_reload).claimed(claim);
                Ok(LoadOutcome { entry: self.commit(loaded, commit).await?, place: None, began })
            }
            Some(Part::ByPeer { place, entry, leases }) => Ok(self.loaded_by_peer(&wanted.key, leases, place, entry)),
            // A peer is loading it.
            None => self.run_alone(wanted, call).await,
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

fn lost() -> Error {
    Error::new(ErrorKind::Closed, "the load of several keys was dropped before it began")
}

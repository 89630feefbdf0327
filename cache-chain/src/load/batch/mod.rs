//! Loads of several keys by one loader call: a flight per key, and one flight for the call that
//! they share.

mod call;
mod wait;

use std::{cell::LazyCell, collections::HashSet, error::Error as StdError, pin::pin, sync::Arc};

use cache_core::{CacheKey, Entry, Error, ErrorKind, Key, Result};
use tokio::sync::oneshot;

use self::{
    call::{Batch, LoadedPart, Part, Requested},
    wait::{Answer, Awaited, Round},
};
use super::{
    LoadCall, LoadFn, LoadOutcome, LoadResult, Loader, Reason,
    commit::Commit,
    loaded::{Load, Loaded, loader_error},
};
use crate::{
    flight::{Mark, Waiter},
    read::Lookup,
    util::{deadline::Deadline, sync::lock},
};

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
        let lookups = pin!(reader.look_up_many(keys, deadline, &call.query));
        let lookups = deadline.bound(&reader.runtime, lookups).await?;

        let (send_request, request) = oneshot::channel();
        // Started with the first key that is to be loaded.
        let (of_all, options) = (load.clone(), call.clone());
        let batch = LazyCell::new(move || self.start_batch(request, of_all, options));
        let mut answers = Vec::with_capacity(keys.len());
        let (mut awaited, mut requested, mut own) = (Vec::new(), Vec::new(), HashSet::new());
        for (at, (((id, key), lookup), mark)) in ids.into_iter().zip(keys).zip(lookups).zip(marks).enumerate() {
            let stale = reader.stale_of(key, &lookup).filter(|(_, entry)| self.may_serve(entry, call));
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
        let span = self.reader.spans.load(std::slice::from_ref(&key));
        span.load(pin!(self.run((&key, mark), reason, load, call))).await
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

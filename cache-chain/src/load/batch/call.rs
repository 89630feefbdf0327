//! The loader call that several keys share.

use std::{
    collections::HashMap,
    error::Error as StdError,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_core::{CacheKey, Entry, Key, Result};
use tokio::sync::oneshot;

use crate::{
    flight::Waiter,
    load::{
        Load, LoadCall, Loaded, Loader,
        claim::{BatchClaim, ClaimGuard, claim_batch, renewed_during},
        loaded::loader_error,
    },
    read::Leases,
    util::sync::lock,
};

/// A key to load by one call.
pub(super) struct Requested<K, V> {
    /// The key as the application has given it.
    pub(super) id: K,
    pub(super) key: Key,
    pub(super) leases: Leases,
    /// The places of the tiers that failed its lookup.
    pub(super) failed: Vec<usize>,
    /// The entry that is loaded again.
    pub(super) old: Option<Entry<V>>,
    pub(super) is_reload: bool,
}

/// The results of one call: the part of each key, which the flight of the key takes. A key that a
/// peer is loading has none.
pub(super) type Batch<V> = Mutex<HashMap<Key, Part<V>>>;

pub(super) enum Part<V: Clone + Send + Sync + 'static> {
    Loaded(LoadedPart<V>),
    ByPeer { place: usize, entry: Entry<V>, leases: Leases },
}

pub(super) struct LoadedPart<V: Clone + Send + Sync + 'static> {
    pub(super) loaded: Result<Loaded<V>>,
    pub(super) leases: Leases,
    pub(super) claim: Option<ClaimGuard<V>>,
    pub(super) time: Duration,
    /// When the call began, in the order of [`Loader::begun`].
    pub(super) began: u64,
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

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Starts the flight of the loader call.
    pub(super) fn start_batch<K, T, E, I, Fut>(
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
        let (this, span) = (Arc::clone(self), self.reader.spans.batch_load());
        self.reader.flights.batch_load(Box::pin(async move {
            // Without a request, every flight of the batch has been given up.
            let requested = request.await.unwrap_or_default();
            span.keys(requested.len());
            let batch = span.enclose(pin!(this.run_batch(requested, load, &call))).await;
            let failure = lock(&batch).values().find_map(|part| match part {
                Part::Loaded(LoadedPart { loaded: Err(error), .. }) => Some(error.clone()),
                _ => None,
            });
            span.outcome(failure.as_ref().map_or(Ok(&()), Err), "loaded");
            batch
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
}

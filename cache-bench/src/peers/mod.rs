//! The caches that are timed, behind one trait.

mod layered;
mod ours;
mod plain;

use std::{
    future::ready,
    hash::Hash,
    hint::black_box,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use cache_core::CacheKey;

use self::{
    layered::{Amalgam, MultiTier},
    ours::{Alone, on_map},
    plain::{AtOnce, Foyer, LockedMap, Moka, QuickCache, SipHash, Stretto, TinyUfo},
};

pub(crate) use self::ours::Chain;

/// The values of most measurements.
pub(crate) type Text = Arc<str>;

/// A loop that runs in a task.
pub(crate) type Loop<'a, T = ()> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A cache that is timed. The loops are compiled for each cache, so a call costs no dispatch.
pub(crate) trait Peer<K, V>: Send + Sync {
    /// Returns `true` if there is a value and it is returned without waiting.
    fn get(&self, key: &K) -> bool;

    /// Reads the keys at these places. Returns the number of hits.
    fn get_each(&self, keys: &[K], order: &[u32]) -> usize {
        order.iter().filter(|at| self.get(&keys[**at as usize])).count()
    }

    /// Reads the keys, and waits for each. Returns the number of hits.
    fn ask_each<'a>(&'a self, keys: &'a [K]) -> Loop<'a, usize>;

    /// Sets the keys, and waits for each.
    fn set_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a>;

    /// Waits until writes that are buffered have been applied.
    fn settle(&self) -> Loop<'_> {
        Box::pin(ready(()))
    }
}

/// A cache that loads what it does not have.
pub(crate) trait Loader<K, V>: Peer<K, V> {
    /// Reads the key, which is present.
    fn get_or_load(&self, key: &K, value: &V) -> bool;

    fn get_or_load_each(&self, keys: &[K], order: &[u32], value: &V) -> usize {
        order.iter().filter(|at| self.get_or_load(&keys[**at as usize], value)).count()
    }

    /// Loads this value, which is ready, for each key.
    fn load_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a>;
}

/// A key of any cache here.
pub(crate) trait AnyKey: CacheKey + Hash + Eq + Clone + Send + Sync + 'static {}

impl<K: CacheKey + Hash + Eq + Clone + Send + Sync + 'static> AnyKey for K {}

/// A value of any cache here.
pub(crate) trait AnyValue: Clone + Send + Sync + 'static {}

impl<V: Clone + Send + Sync + 'static> AnyValue for V {}

/// The name of a cache, and how to create it with a capacity. It is called within a runtime.
pub(crate) type Recipe<K, V> = (&'static str, fn(u64) -> Box<dyn Peer<K, V>>);

/// Like [`Recipe`], for caches that load.
pub(crate) type LoaderRecipe<K, V> = (&'static str, fn(u64) -> Box<dyn Loader<K, V>>);

/// The name of the cache with which the others are compared.
pub(crate) const QUICK_CACHE: &str = "quick_cache";

/// The name of the map that evicts nothing.
pub(crate) const UNBOUNDED: &str = "HashMap in a Mutex";

/// The caches in memory, without tiers.
pub(crate) fn plain<K: AnyKey, V: AnyValue>() -> Vec<Recipe<K, V>> {
    vec![
        (QUICK_CACHE, |n| Box::new(AtOnce(QuickCache::<K, V>::new(n)))),
        ("quick_cache, SipHash", |n| Box::new(AtOnce(QuickCache::<K, V, SipHash>::new(n)))),
        ("stretto", |n| Box::new(AtOnce(Stretto::<K, V>::new(n, None)))),
        ("moka", |n| Box::new(AtOnce(Moka::<K, V>::new(n, None)))),
        ("foyer", |n| Box::new(AtOnce(Foyer::<K, V>::new(n)))),
        ("TinyUFO", |n| Box::new(AtOnce(TinyUfo::<K, V>::new(n)))),
        (UNBOUNDED, |_| Box::new(AtOnce(LockedMap::<K, V>::default()))),
    ]
}

/// Our stores, without a chain.
pub(crate) fn stores<K: AnyKey, V: AnyValue>() -> Vec<Recipe<K, V>> {
    vec![
        ("store-quick-cache", |n| Box::new(AtOnce(Alone::new(ours::quick::<V>(n))))),
        ("store-stretto", |n| Box::new(AtOnce(Alone::new(ours::stretto::<V>(n))))),
        ("store-moka", |n| Box::new(AtOnce(Alone::new(ours::moka::<V>(n))))),
    ]
}

/// Our chains of a store and a map below it.
pub(crate) fn chains<K: AnyKey, V: AnyValue>() -> Vec<Recipe<K, V>> {
    vec![
        ("chain on quick_cache", |n| Box::new(on_map(ours::quick::<V>(n), None))),
        ("chain on stretto", |n| Box::new(on_map(ours::stretto::<V>(n), None))),
        ("chain on moka", |n| Box::new(on_map(ours::moka::<V>(n), None))),
    ]
}

/// Our chain of quick_cache and a map, with metrics and spans.
pub(crate) fn observed<K: AnyKey, V: AnyValue>() -> Recipe<K, V> {
    ("the same with metrics and spans", |n| Box::new(ours::observed(ours::quick::<V>(n))))
}

/// Caches of large values.
pub(crate) fn of_bytes() -> Vec<Recipe<u64, Vec<u8>>> {
    vec![
        (QUICK_CACHE, |n| Box::new(AtOnce(QuickCache::<u64, Vec<u8>>::new(n)))),
        ("chain of quick_cache alone", |n| Box::new(Chain::of(ours::quick::<Vec<u8>>(n)))),
        ("moka", |n| Box::new(AtOnce(Moka::<u64, Vec<u8>>::new(n, None)))),
    ]
}

/// Our chains of one tier.
pub(crate) fn chains_of_one<K: AnyKey, V: AnyValue>() -> Vec<Recipe<K, V>> {
    vec![
        ("chain of quick_cache alone", |n| Box::new(Chain::of(ours::quick::<V>(n)))),
        ("chain of stretto alone", |n| Box::new(Chain::of(ours::stretto::<V>(n)))),
        ("chain of moka alone", |n| Box::new(Chain::of(ours::moka::<V>(n)))),
    ]
}

/// The layered caches of others, which take strings as keys.
pub(crate) fn layered() -> Vec<Recipe<String, Text>> {
    [amalgam(false), amalgam(true), multi_tier()].concat()
}

/// amalgam-cache, in memory alone or over a map.
pub(crate) fn amalgam(on_map: bool) -> Vec<Recipe<String, Text>> {
    if on_map {
        vec![("amalgam-cache, memory over a map", |n| Box::new(Amalgam::new(n, true)))]
    } else {
        vec![("amalgam-cache, memory", |n| Box::new(Amalgam::new(n, false)))]
    }
}

/// multi-tier-cache, in its usual configuration.
pub(crate) fn multi_tier() -> Vec<Recipe<String, Text>> {
    vec![("multi-tier-cache, moka over a map", |n| Box::new(MultiTier::new(n)))]
}

/// Our chains and stores whose entries expire, and the caches that have a TTL.
pub(crate) fn expiring<K: AnyKey>() -> Vec<Recipe<K, Text>> {
    vec![
        ("chain on quick_cache, never", |n| Box::new(on_map(ours::quick::<Text>(n), None))),
        ("chain on quick_cache, in an hour", |n| Box::new(on_map(ours::quick::<Text>(n), Some(HOUR)))),
        ("chain on stretto, never", |n| Box::new(on_map(ours::stretto::<Text>(n), None))),
        ("chain on stretto, in an hour", |n| Box::new(on_map(ours::stretto::<Text>(n), Some(HOUR)))),
        ("chain on moka, never", |n| Box::new(on_map(ours::moka::<Text>(n), None))),
        ("chain on moka, in an hour", |n| Box::new(on_map(ours::moka::<Text>(n), Some(HOUR)))),
        ("stretto, never", |n| Box::new(AtOnce(Stretto::<K, Text>::new(n, None)))),
        ("stretto, in an hour", |n| Box::new(AtOnce(Stretto::<K, Text>::new(n, Some(HOUR))))),
        ("moka, never", |n| Box::new(AtOnce(Moka::<K, Text>::new(n, None)))),
        ("moka, in an hour", |n| Box::new(AtOnce(Moka::<K, Text>::new(n, Some(HOUR))))),
    ]
}

/// The caches that load.
pub(crate) fn loaders() -> Vec<LoaderRecipe<String, Text>> {
    vec![
        (QUICK_CACHE, |n| Box::new(AtOnce(QuickCache::<String, Text>::new(n)))),
        ("chain on quick_cache", |n| Box::new(on_map(ours::quick::<Text>(n), None))),
        ("chain on stretto", |n| Box::new(on_map(ours::stretto::<Text>(n), None))),
        ("chain on moka", |n| Box::new(on_map(ours::moka::<Text>(n), None))),
        ("chain of quick_cache alone", |n| Box::new(Chain::of(ours::quick::<Text>(n)))),
        ("moka", |n| Box::new(AtOnce(Moka::<String, Text>::new(n, None)))),
        ("foyer", |n| Box::new(AtOnce(Foyer::<String, Text>::new(n)))),
        ("amalgam-cache, memory", |n| Box::new(Amalgam::new(n, false))),
        ("amalgam-cache, memory over a map", |n| Box::new(Amalgam::new(n, true))),
        ("multi-tier-cache, moka over a map", |n| Box::new(MultiTier::new(n))),
    ]
}

const HOUR: std::time::Duration = std::time::Duration::from_hours(1);

/// Sets the keys; see [`fill`].
pub(crate) async fn filled<K, V>(cache: Box<dyn Peer<K, V>>, keys: &[K], value: &V) -> Box<dyn Peer<K, V>>
where
    K: AnyKey,
{
    fill(&*cache, keys, value).await;
    cache
}

/// Sets the keys. A cache may refuse entries while many are written, so missing ones are set again.
pub(crate) async fn fill<K: AnyKey, V>(cache: &(impl Peer<K, V> + ?Sized), keys: &[K], value: &V) {
    for _ in 0..5 {
        let missing: Vec<K> = keys.iter().filter(|key| !cache.get(key)).cloned().collect();
        for keys in missing.chunks(1_000) {
            cache.set_each(keys, value).await;
            cache.settle().await;
        }
        if missing.is_empty() {
            return;
        }
    }
}

/// Runs a call that does not wait. Returns `None` if it does.
fn at_once<T>(call: impl Future<Output = T>) -> Option<T> {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Drops what was found, and returns whether there was something.
fn found<T>(found: Option<T>) -> bool {
    black_box(found).is_some()
}

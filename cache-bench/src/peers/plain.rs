//! Caches in memory, each as its documentation creates it.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use quick_cache::{DefaultHashBuilder, UnitWeighter, sync};

use super::{AnyKey, AnyValue, Loader, Loop, Peer, at_once, found};

/// A cache whose calls do not wait.
pub(super) trait Waitless<K, V>: Send + Sync {
    fn get(&self, key: &K) -> bool;

    fn set(&self, key: &K, value: &V);

    /// Applies writes that are buffered.
    fn flush(&self) {}
}

/// Makes a peer of a cache whose calls do not wait.
pub(super) struct AtOnce<P>(pub(super) P);

impl<K: AnyKey, V: AnyValue, P: Waitless<K, V>> Peer<K, V> for AtOnce<P> {
    fn get(&self, key: &K) -> bool {
        self.0.get(key)
    }

    fn ask_each<'a>(&'a self, keys: &'a [K]) -> Loop<'a, usize> {
        Box::pin(async move { keys.iter().filter(|key| self.0.get(key)).count() })
    }

    fn set_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                self.0.set(key, value);
            }
        })
    }

    fn settle(&self) -> Loop<'_> {
        Box::pin(async move { self.0.flush() })
    }
}

/// The hasher of the standard library.
pub(crate) type SipHash = RandomState;

/// `quick_cache` with its default hasher, unless another is named.
pub(crate) struct QuickCache<K, V, H = DefaultHashBuilder>(sync::Cache<K, V, UnitWeighter, H>);

impl<K: AnyKey, V: AnyValue, H: BuildHasher + Clone + Default> QuickCache<K, V, H> {
    pub(crate) fn new(capacity: u64) -> Self {
        let entries = size(capacity);
        Self(sync::Cache::with(entries, capacity, UnitWeighter, H::default(), sync::DefaultLifecycle::default()))
    }
}

impl<K: AnyKey, V: AnyValue, H: BuildHasher + Clone + Send + Sync> Waitless<K, V> for QuickCache<K, V, H> {
    fn get(&self, key: &K) -> bool {
        found(self.0.get(key))
    }

    fn set(&self, key: &K, value: &V) {
        self.0.insert(key.clone(), value.clone());
    }
}

impl<K: AnyKey, V: AnyValue, H: BuildHasher + Clone + Send + Sync> Loader<K, V> for AtOnce<QuickCache<K, V, H>> {
    fn get_or_load(&self, key: &K, value: &V) -> bool {
        found(at_once(self.0.0.get_or_insert_async(key, async { Ok::<_, Infallible>(value.clone()) })))
    }

    fn load_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                let load = async { Ok::<_, Infallible>(value.clone()) };
                assert!(found(self.0.0.get_or_insert_async(key, load).await.ok()));
            }
        })
    }
}

pub(crate) struct Stretto<K: AnyKey, V: AnyValue>(stretto::Cache<K, V>, Option<Duration>);

impl<K: AnyKey, V: AnyValue> Stretto<K, V> {
    pub(crate) fn new(capacity: u64, ttl: Option<Duration>) -> Self {
        let cost = i64::try_from(capacity).expect("a small number");
        let builder = stretto::CacheBuilder::new(10 * size(capacity), cost);
        Self(builder.set_ignore_internal_cost(true).finalize().expect("valid sizes"), ttl)
    }
}

impl<K: AnyKey, V: AnyValue> Waitless<K, V> for Stretto<K, V> {
    fn get(&self, key: &K) -> bool {
        found(self.0.get(key).map(|value| value.value().clone()))
    }

    fn set(&self, key: &K, value: &V) {
        match self.1 {
            Some(ttl) => self.0.insert_with_ttl(key.clone(), value.clone(), 1, ttl),
            None => self.0.insert(key.clone(), value.clone(), 1),
        };
    }

    fn flush(&self) {
        self.0.wait().expect("it runs");
    }
}

/// `moka::sync`.
pub(crate) struct Moka<K, V>(moka::sync::Cache<K, V>);

impl<K: AnyKey, V: AnyValue> Moka<K, V> {
    pub(crate) fn new(capacity: u64, ttl: Option<Duration>) -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(capacity);
        Self(match ttl {
            Some(ttl) => builder.time_to_live(ttl).build(),
            None => builder.build(),
        })
    }
}

impl<K: AnyKey, V: AnyValue> Waitless<K, V> for Moka<K, V> {
    fn get(&self, key: &K) -> bool {
        found(self.0.get(key))
    }

    fn set(&self, key: &K, value: &V) {
        self.0.insert(key.clone(), value.clone());
    }

    fn flush(&self) {
        self.0.run_pending_tasks();
    }
}

impl<K: AnyKey, V: AnyValue> Loader<K, V> for AtOnce<Moka<K, V>> {
    fn get_or_load(&self, key: &K, value: &V) -> bool {
        found(Some(self.0.0.get_with_by_ref(key, || value.clone())))
    }

    fn load_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                assert!(self.get_or_load(key, value));
            }
        })
    }
}

/// foyer's cache in memory.
pub(crate) struct Foyer<K: AnyKey, V: AnyValue>(foyer::Cache<K, V>);

impl<K: AnyKey, V: AnyValue> Foyer<K, V> {
    pub(crate) fn new(capacity: u64) -> Self {
        Self(foyer::CacheBuilder::new(size(capacity)).build())
    }
}

impl<K: AnyKey, V: AnyValue> Waitless<K, V> for Foyer<K, V> {
    fn get(&self, key: &K) -> bool {
        found(self.0.get(key).map(|entry| entry.value().clone()))
    }

    fn set(&self, key: &K, value: &V) {
        self.0.insert(key.clone(), value.clone());
    }
}

impl<K: AnyKey, V: AnyValue> Loader<K, V> for AtOnce<Foyer<K, V>> {
    fn get_or_load(&self, key: &K, value: &V) -> bool {
        let value = value.clone();
        let fetch = || async { Ok::<V, std::io::Error>(value) };
        found(at_once(self.0.0.get_or_fetch(key, fetch)).map(|entry| entry.map(|entry| entry.value().clone()).ok()))
    }

    fn load_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                let value = value.clone();
                let fetch = || async { Ok::<V, std::io::Error>(value) };
                assert!(found(self.0.0.get_or_fetch(key, fetch).await.ok().map(|entry| entry.value().clone())));
            }
        })
    }
}

/// Pingora's cache. It keeps hashes of the keys alone.
pub(crate) struct TinyUfo<K, V>(tinyufo::TinyUfo<K, V>);

impl<K: AnyKey, V: AnyValue> TinyUfo<K, V> {
    pub(crate) fn new(capacity: u64) -> Self {
        Self(tinyufo::TinyUfo::new(size(capacity), size(capacity)))
    }
}

impl<K: AnyKey, V: AnyValue> Waitless<K, V> for TinyUfo<K, V> {
    fn get(&self, key: &K) -> bool {
        found(self.0.get(key))
    }

    fn set(&self, key: &K, value: &V) {
        drop(self.0.put(key.clone(), value.clone(), 1));
    }
}

/// A map behind a lock, without eviction: what there is without a cache.
pub(crate) struct LockedMap<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for LockedMap<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: AnyKey, V: AnyValue> Waitless<K, V> for LockedMap<K, V> {
    fn get(&self, key: &K) -> bool {
        found(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn set(&self, key: &K, value: &V) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), value.clone());
    }
}

fn size(capacity: u64) -> usize {
    usize::try_from(capacity).expect("a small number")
}

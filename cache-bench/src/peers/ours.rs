//! Our stores and chains.

use std::{convert::Infallible, time::Duration};

use cache_chain::{ChainBuilder, ChainCache};
use cache_core::{DelegateCache, LocalStore, Store, testkit::MapStore};
use store_moka::MokaStore;
use store_quick_cache::QuickCacheStore;
use store_stretto::StrettoStore;

use super::{AnyKey, AnyValue, Loader, Loop, Peer, at_once, found, plain::Waitless};

pub(super) fn quick<V: AnyValue>(capacity: u64) -> QuickCacheStore<V> {
    QuickCacheStore::new(capacity).expect("a valid capacity")
}

pub(super) fn stretto<V: AnyValue>(capacity: u64) -> StrettoStore<V> {
    StrettoStore::new(capacity).expect("a valid capacity")
}

pub(super) fn moka<V: AnyValue>(capacity: u64) -> MokaStore<V> {
    MokaStore::new(capacity).expect("a valid capacity")
}

/// A store without a chain.
pub(crate) struct Alone<S>(DelegateCache<S>);

impl<S: Store> Alone<S> {
    pub(crate) fn new(store: S) -> Self {
        Self(DelegateCache::new(store))
    }
}

/// A local store answers without waiting.
impl<K: AnyKey, S: LocalStore> Waitless<K, S::Value> for Alone<S> {
    fn get(&self, key: &K) -> bool {
        at_once(self.0.get(key)).is_some_and(|answer| found(answer.expect("an answer")))
    }

    fn set(&self, key: &K, value: &S::Value) {
        at_once(self.0.set(key, value.clone())).expect("it does not wait").expect("it is set");
    }

    fn flush(&self) {
        LocalStore::wait(self.0.store()).expect("it runs");
    }
}

/// A chain.
pub(crate) struct Chain<V: AnyValue>(ChainCache<V>);

impl<V: AnyValue> Chain<V> {
    pub(crate) fn new(builder: ChainBuilder<V>) -> Self {
        Self(builder.build().expect("a valid chain"))
    }

    /// A chain of one tier.
    pub(crate) fn of(store: impl LocalStore<Value = V>) -> Self {
        Self::new(ChainCache::builder().tier(store))
    }
}

/// A chain of this store over a map. Entries expire after the TTL, if there is one.
pub(crate) fn on_map<V: AnyValue>(store: impl LocalStore<Value = V>, ttl: Option<Duration>) -> Chain<V> {
    let builder = ChainCache::builder().tier(store).tier(MapStore::new());
    Chain::new(ttl.into_iter().fold(builder, ChainBuilder::default_ttl))
}

/// A chain of this store over a map, with metrics and spans.
pub(crate) fn observed<V: AnyValue>(store: impl LocalStore<Value = V>) -> Chain<V> {
    Chain::new(ChainCache::builder().tier(store).tier(MapStore::new()).metrics("bench").tracing("bench"))
}

impl<K: AnyKey, V: AnyValue> Peer<K, V> for Chain<V> {
    fn get(&self, key: &K) -> bool {
        at_once(self.0.get(key)).is_some_and(|answer| found(answer.expect("an answer")))
    }

    fn ask_each<'a>(&'a self, keys: &'a [K]) -> Loop<'a, usize> {
        Box::pin(async move {
            let mut hits = 0;
            for key in keys {
                hits += usize::from(found(self.0.get(key).await.expect("an answer")));
            }
            hits
        })
    }

    fn set_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                self.0.set(key, value.clone()).await.expect("it is set");
            }
        })
    }

    fn settle(&self) -> Loop<'_> {
        Box::pin(async move { self.0.wait().await.expect("it runs") })
    }
}

impl<K: AnyKey, V: AnyValue> Loader<K, V> for Chain<V> {
    fn get_or_load(&self, key: &K, value: &V) -> bool {
        let value = value.clone();
        let load = move || async { Ok::<V, Infallible>(value) };
        at_once(self.0.get_or_load(key, load)).is_some_and(|answer| found(answer.ok()))
    }

    fn load_each<'a>(&'a self, keys: &'a [K], value: &'a V) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                let value = value.clone();
                let load = move || async { Ok::<V, Infallible>(value) };
                assert!(found(self.0.get_or_load(key, load).await.ok()));
            }
        })
    }
}

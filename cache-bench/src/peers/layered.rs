//! Caches with tiers, of other projects.

use std::{sync::Arc, time::Duration};

use amalgam::{
    Cache, EntryOptions,
    provider::{InMemoryDistributedCache, JsonSerializer, SystemClock},
};
use multi_tier_cache::{Bytes, CacheManager, CacheStrategy, DashMapCache, L1Cache, MokaCacheConfig};

use super::{Loader, Loop, Peer, Text, at_once, found};

const HOUR: Duration = Duration::from_hours(1);

/// amalgam-cache. What is below the memory takes bytes: JSON.
pub(crate) struct Amalgam(Cache<Text>);

impl Amalgam {
    pub(crate) fn new(capacity: u64, on_map: bool) -> Self {
        let builder = Cache::builder().max_capacity(capacity).default_options(EntryOptions::new(HOUR));
        let cache = if on_map {
            let lower = Arc::new(InMemoryDistributedCache::new(Arc::new(SystemClock)));
            builder.distributed(lower).serializer(Arc::new(JsonSerializer)).try_build()
        } else {
            builder.try_build()
        };
        Self(cache.expect("a valid cache"))
    }
}

impl Peer<String, Text> for Amalgam {
    fn get(&self, key: &String) -> bool {
        at_once(async { self.0.try_get(key).await }).is_some_and(|answer| found(answer.expect("an answer")))
    }

    fn ask_each<'a>(&'a self, keys: &'a [String]) -> Loop<'a, usize> {
        Box::pin(async move {
            let mut hits = 0;
            for key in keys {
                hits += usize::from(found(self.0.try_get(key).await.expect("an answer")));
            }
            hits
        })
    }

    fn set_each<'a>(&'a self, keys: &'a [String], value: &'a Text) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                self.0.set(key, Arc::clone(value)).await.expect("it is set");
            }
        })
    }

    fn settle(&self) -> Loop<'_> {
        Box::pin(async move { self.0.flush_pending().await.expect("it runs") })
    }
}

impl Loader<String, Text> for Amalgam {
    fn get_or_load(&self, key: &String, value: &Text) -> bool {
        let value = Arc::clone(value);
        let load = move |_| async { Ok::<Text, std::io::Error>(value) };
        at_once(async { self.0.get_or_set(key, load).await }).is_some_and(|answer| found(answer.ok()))
    }

    fn load_each<'a>(&'a self, keys: &'a [String], value: &'a Text) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                let value = Arc::clone(value);
                let load = move |_| async { Ok::<Text, std::io::Error>(value) };
                assert!(found(self.0.get_or_set(key, load).await.ok()));
            }
        })
    }
}

/// multi-tier-cache. Its values are bytes.
pub(crate) struct MultiTier(CacheManager, Bytes);

impl MultiTier {
    pub(crate) fn new(capacity: u64) -> Self {
        let config = MokaCacheConfig { max_capacity: capacity, time_to_live: HOUR, time_to_idle: HOUR };
        let memory = Arc::new(L1Cache::new(config).expect("a valid capacity"));
        let lower = Arc::new(DashMapCache::new());
        let manager = CacheManager::new_with_backends(memory, lower, None);
        Self(manager.expect("two tiers are valid"), Bytes::from_static(b"value"))
    }
}

impl Peer<String, Text> for MultiTier {
    fn get(&self, key: &String) -> bool {
        at_once(self.0.get(key)).is_some_and(|answer| found(answer.expect("an answer")))
    }

    fn ask_each<'a>(&'a self, keys: &'a [String]) -> Loop<'a, usize> {
        Box::pin(async move {
            let mut hits = 0;
            for key in keys {
                hits += usize::from(found(self.0.get(key).await.expect("an answer")));
            }
            hits
        })
    }

    fn set_each<'a>(&'a self, keys: &'a [String], _: &'a Text) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                let set = self.0.set_with_strategy(key, self.1.clone(), CacheStrategy::MediumTerm);
                set.await.expect("it is set");
            }
        })
    }
}

impl Loader<String, Text> for MultiTier {
    fn get_or_load(&self, key: &String, _: &Text) -> bool {
        let compute = || async { Ok(self.1.clone()) };
        let call = self.0.get_or_compute_with(key, CacheStrategy::MediumTerm, compute);
        at_once(call).is_some_and(|answer| found(answer.ok()))
    }

    fn load_each<'a>(&'a self, keys: &'a [String], _: &'a Text) -> Loop<'a> {
        Box::pin(async move {
            for key in keys {
                let compute = || async { Ok(self.1.clone()) };
                let call = self.0.get_or_compute_with(key, CacheStrategy::MediumTerm, compute);
                assert!(found(call.await.ok()));
            }
        })
    }
}

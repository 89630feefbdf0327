use std::{pin::Pin, sync::Arc, time::Duration};

use multi_tier_cache::{
    Bytes, CacheBackend, CacheError, CacheManager, CacheResult, CacheStrategy, DashMapCache, L1Cache, L2CacheBackend,
    MokaCacheConfig,
};

use crate::subject::{Answer, KEY, Load, Stop, Subject, Write};

#[derive(Clone)]
pub(crate) struct MultiTier(Arc<CacheManager>);

impl Subject for MultiTier {
    const NAME: &'static str = "multi-tier-cache";
    const TIERED: bool = true;

    fn caches<const N: usize>(reads: &Stop) -> [Self; N] {
        let lower = Arc::new(Lower(DashMapCache::new(), reads.clone()));
        [(); N].map(|()| {
            let memory = L1Cache::new(MokaCacheConfig::default()).expect("the defaults are valid");
            let manager = CacheManager::new_with_backends(Arc::new(memory), lower.clone(), None);
            Self(Arc::new(manager.expect("two tiers are valid")))
        })
    }

    async fn load(&self, load: Load) -> Answer {
        let compute =
            || async { load.run().await.map(Bytes::from).map_err(|error| CacheError::BackendError(error.to_string())) };
        let bytes = self.0.get_or_compute_with(KEY, CacheStrategy::Default, compute).await;
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into()).map_err(|error| error.to_string())
    }

    async fn write(&self, write: Write) -> Result<(), String> {
        let written = match write {
            Write::Set(value) => self.0.set_with_strategy(KEY, value.into(), CacheStrategy::Default).await,
            Write::Del => self.0.invalidate(KEY).await,
            Write::Clear => self.0.invalidate_pattern("*").await,
        };
        written.map_err(|error| error.to_string())
    }
}

/// The lower tier: one of its own, whose reads can be held.
struct Lower(DashMapCache, Stop);

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl CacheBackend for Lower {
    fn get<'a>(&'a self, key: &'a str) -> Boxed<'a, Option<Bytes>> {
        Box::pin(async { Some(self.get_with_ttl(key).await?.0) })
    }

    fn set_with_ttl<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Boxed<'a, CacheResult<()>> {
        self.0.set_with_ttl(key, value, ttl)
    }

    fn remove<'a>(&'a self, key: &'a str) -> Boxed<'a, CacheResult<()>> {
        self.0.remove(key)
    }

    fn health_check(&self) -> Boxed<'_, bool> {
        self.0.health_check()
    }

    fn remove_pattern<'a>(&'a self, pattern: &'a str) -> Boxed<'a, CacheResult<()>> {
        self.0.remove_pattern(pattern)
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }
}

impl L2CacheBackend for Lower {
    fn get_with_ttl<'a>(&'a self, key: &'a str) -> Boxed<'a, Option<(Bytes, Option<Duration>)>> {
        Box::pin(async {
            let found = self.0.get_with_ttl(key).await?;
            self.1.pass().await;
            Some(found)
        })
    }
}

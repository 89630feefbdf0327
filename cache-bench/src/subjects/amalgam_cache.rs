use std::{sync::Arc, time::Duration};

use amalgam::{
    Cache, ClearMode,
    provider::{
        DistributedBytes, DistributedCache, InMemoryDistributedCache, InProcessBackplane, InvalidationStore,
        JsonSerializer, SystemClock,
    },
};

use crate::subject::{Answer, KEY, Load, Stop, Subject, Write};

#[derive(Clone)]
pub(crate) struct Amalgam(Cache<String>);

impl Subject for Amalgam {
    const NAME: &'static str = "amalgam-cache";
    const TIERED: bool = true;

    fn caches<const N: usize>(reads: &Stop) -> [Self; N] {
        let lower = Arc::new(Lower(InMemoryDistributedCache::new(Arc::new(SystemClock)), reads.clone()));
        let backplane = Arc::new(InProcessBackplane::default());
        [(); N].map(|()| {
            let cache = Cache::builder().distributed(lower.clone()).serializer(Arc::new(JsonSerializer));
            Self(cache.backplane(backplane.clone()).try_build().expect("the defaults are valid"))
        })
    }

    async fn load(&self, load: Load) -> Answer {
        self.0.get_or_set(KEY, |_| load.run()).await.map_err(|error| error.to_string())
    }

    async fn write(&self, write: Write) -> Result<(), String> {
        let written = match write {
            Write::Set(value) => self.0.set(KEY, value.to_owned()).await,
            Write::Del => self.0.remove(KEY).await,
            Write::Clear => self.0.clear(ClearMode::Remove).await,
        };
        written.map_err(|error| error.to_string())
    }

    async fn settled(&self) -> Result<(), String> {
        self.0.flush_pending().await.map_err(|error| error.to_string())
    }
}

/// The lower tier: one of its own, whose reads can be held.
struct Lower(InMemoryDistributedCache, Stop);

#[async_trait::async_trait]
impl DistributedCache for Lower {
    async fn get(&self, key: &str) -> amalgam::Result<Option<DistributedBytes>> {
        let found = self.0.get(key).await;
        if let Ok(Some(_)) = found {
            self.1.pass().await;
        }
        found
    }

    async fn set(&self, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> amalgam::Result<()> {
        self.0.set(key, value, ttl).await
    }

    async fn remove(&self, key: &str) -> amalgam::Result<()> {
        self.0.remove(key).await
    }

    fn invalidation_store(&self) -> Option<Arc<dyn InvalidationStore>> {
        self.0.invalidation_store()
    }
}

//! The contract of `Store`, kept by the store in memory.

use std::{sync::Arc, time::Duration};

use cache_core::{
    LocalStore, ManualClock, SharedClock,
    testkit::{Harness, Reentrant, block_on},
};
use store_stretto::StrettoStore;

#[derive(Default)]
struct ByEntries(ManualClock);

impl Harness for ByEntries {
    type Store = StrettoStore<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.0.shared()
    }

    async fn store(&self) -> Self::Store {
        StrettoStore::builder().capacity(10_000).clock(self.0.shared()).build().unwrap()
    }

    async fn pass(&self, time: Duration) {
        self.0.advance(time);
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        Some(Arc::new(StrettoStore::builder().capacity(10_000).clock(self.0.shared()).build().unwrap()))
    }
}

/// With a weigher there is something that the store has no room for.
#[derive(Default)]
struct ByBytes(ByEntries);

const ROOM: usize = 16 << 20;

impl Harness for ByBytes {
    type Store = StrettoStore<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn store(&self) -> Self::Store {
        StrettoStore::builder()
            .capacity(ROOM as u64)
            .weigher(|key, value: &String| (key.memory() + value.len()) as u64)
            .clock(self.clock())
            .build()
            .unwrap()
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        Some(Arc::new(StrettoStore::builder().capacity(10_000).weigher(|_, _| 1).clock(self.clock()).build().unwrap()))
    }

    fn oversized(&self) -> Option<String> {
        Some("v".repeat(ROOM + 1))
    }
}

/// Idle expiry breaks no clause.
#[derive(Default)]
struct WithIdleExpiry(ByEntries);

const IDLE: Duration = Duration::from_secs(60);

impl Harness for WithIdleExpiry {
    type Store = StrettoStore<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn store(&self) -> Self::Store {
        StrettoStore::builder().capacity(10_000).time_to_idle(IDLE).clock(self.clock()).build().unwrap()
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        Some(Arc::new(StrettoStore::builder().capacity(10_000).time_to_idle(IDLE).clock(self.clock()).build().unwrap()))
    }
}

mod by_entries {
    cache_core::store_contract!(super::ByEntries::default());
}

mod with_idle_expiry {
    cache_core::store_contract!(super::WithIdleExpiry::default());
}

mod by_bytes {
    cache_core::store_contract!(super::ByBytes::default());
}

//! The contract of `Store`, kept by the stores in memory.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use cache_core::{
    LocalStore, ManualClock, SharedClock,
    testkit::{Harness, Reentrant, block_on},
};
use integration_tests::{Bound, Memory};

const ENTRIES: Bound = Bound::Entries(10_000);
const IDLE: Bound = Bound::Idle(10_000, Duration::from_secs(60));
const BYTES: Bound = Bound::Weight(16 << 20);

struct InMemory<M> {
    bound: Bound,
    clock: ManualClock,
    kind: PhantomData<M>,
}

impl<M> InMemory<M> {
    fn with(bound: Bound) -> Self {
        Self { bound, clock: ManualClock::new(), kind: PhantomData }
    }
}

impl<M: Memory> Harness for InMemory<M> {
    type Store = M::Store<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.clock.shared()
    }

    async fn store(&self) -> Self::Store {
        M::store(self.bound, self.clock.shared(), |key, value| (key.memory() + value.len()) as u64)
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        Some(Arc::new(M::store(self.bound, self.clock.shared(), |_, _| 1)))
    }

    /// With a weigher there is something that the store has no room for.
    fn oversized(&self) -> Option<String> {
        let Bound::Weight(capacity) = self.bound else { return None };
        Some("v".repeat(usize::try_from(capacity).unwrap() + 1))
    }
}

macro_rules! contract {
    ($($module:ident: $kind:ident, $bound:ident;)*) => {
        $(mod $module {
            cache_core::store_contract!(super::InMemory::<integration_tests::$kind>::with(super::$bound));
        })*
    };
}

contract! {
    moka_by_entries: Moka, ENTRIES;
    moka_with_idle_expiry: Moka, IDLE;
    moka_by_bytes: Moka, BYTES;
    quick_cache_by_entries: QuickCache, ENTRIES;
    quick_cache_with_idle_expiry: QuickCache, IDLE;
    quick_cache_by_bytes: QuickCache, BYTES;
    stretto_by_entries: Stretto, ENTRIES;
    stretto_with_idle_expiry: Stretto, IDLE;
    stretto_by_bytes: Stretto, BYTES;
}

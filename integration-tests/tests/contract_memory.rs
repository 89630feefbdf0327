//! The contract of `Store`, kept by the stores in memory.

use std::{fmt::Debug, marker::PhantomData, sync::Arc, time::Duration};

use cache_core::{
    LocalStore, ManualClock, SharedClock,
    testkit::{Harness, Reentrant, block_on},
};
use store_quick_cache::QuickCacheStore;
use store_stretto::StrettoStore;

const ENTRIES: u64 = 10_000;
const BYTES: usize = 16 << 20;
const IDLE: Duration = Duration::from_secs(60);

/// What bounds a store, and how its entries expire.
#[derive(Clone, Copy)]
enum Settings {
    Entries,
    Idle,
    Bytes,
}

/// A kind of store in memory.
trait Memory: Send + Sync + 'static {
    type Store<V: Clone + Send + Sync + 'static>: LocalStore<Value = V> + Clone + Debug;

    /// Creates a store. `weigh` is the weigher of a store that is bounded by bytes.
    fn store<V: Clone + Send + Sync + 'static>(
        settings: Settings,
        clock: SharedClock,
        weigh: fn(&V) -> usize,
    ) -> Self::Store<V>;
}

/// Defines a kind of store by its builder, which all have the same methods.
macro_rules! memory {
    ($kind:ident, $store:ident) => {
        struct $kind;

        impl Memory for $kind {
            type Store<V: Clone + Send + Sync + 'static> = $store<V>;

            fn store<V: Clone + Send + Sync + 'static>(
                settings: Settings,
                clock: SharedClock,
                weigh: fn(&V) -> usize,
            ) -> $store<V> {
                let builder = $store::builder().clock(clock);
                let builder = match settings {
                    Settings::Entries => builder.capacity(ENTRIES),
                    Settings::Idle => builder.capacity(ENTRIES).time_to_idle(IDLE),
                    Settings::Bytes => {
                        builder.capacity(BYTES as u64).weigher(move |key, value| (key.memory() + weigh(value)) as u64)
                    }
                };
                builder.build().unwrap()
            }
        }
    };
}

memory!(Stretto, StrettoStore);
memory!(QuickCache, QuickCacheStore);

struct InMemory<M> {
    settings: Settings,
    clock: ManualClock,
    kind: PhantomData<M>,
}

impl<M> InMemory<M> {
    fn with(settings: Settings) -> Self {
        Self { settings, clock: ManualClock::new(), kind: PhantomData }
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
        M::store(self.settings, self.clock.shared(), String::len)
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        Some(Arc::new(M::store(self.settings, self.clock.shared(), |_| 1)))
    }

    /// With a weigher there is something that the store has no room for.
    fn oversized(&self) -> Option<String> {
        matches!(self.settings, Settings::Bytes).then(|| "v".repeat(BYTES + 1))
    }
}

macro_rules! contract {
    ($($module:ident: $kind:ident, $settings:ident;)*) => {
        $(mod $module {
            use super::{InMemory, Settings};

            cache_core::store_contract!(InMemory::<super::$kind>::with(Settings::$settings));
        })*
    };
}

contract! {
    stretto_by_entries: Stretto, Entries;
    stretto_with_idle_expiry: Stretto, Idle;
    stretto_by_bytes: Stretto, Bytes;
    quick_cache_by_entries: QuickCache, Entries;
    quick_cache_with_idle_expiry: QuickCache, Idle;
    quick_cache_by_bytes: QuickCache, Bytes;
}

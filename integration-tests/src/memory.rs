//! The stores in memory.

use std::{fmt::Debug, time::Duration};

use cache_core::{Key, LocalStore, SharedClock};
use store_moka::MokaStore;
use store_quick_cache::QuickCacheStore;
use store_stretto::StrettoStore;

/// What bounds a store, and how its entries expire.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// So many entries.
    Entries(u64),
    /// So many entries, which expire if they are not read for this time.
    Idle(u64, Duration),
    /// So much weight.
    Weight(u64),
}

/// A kind of store in memory.
pub trait Memory: Send + Sync + 'static {
    /// The store.
    type Store<V: Clone + Send + Sync + 'static>: LocalStore<Value = V> + Clone + Debug;

    /// Creates a store. `weigh` is the weigher of one that is bounded by weight.
    fn store<V: Clone + Send + Sync + 'static>(
        bound: Bound,
        clock: SharedClock,
        weigh: fn(&Key, &V) -> u64,
    ) -> Self::Store<V>;

    /// Returns the number of entries and their weight.
    fn size<V: Clone + Send + Sync + 'static>(store: &Self::Store<V>) -> (u64, u64);
}

/// Defines a kind of store. The builders of all kinds have the same methods.
macro_rules! memory {
    ($(#[$doc:meta] $kind:ident: $store:ident;)*) => {
        $(
            #[$doc]
            #[derive(Debug)]
            pub struct $kind;

            impl Memory for $kind {
                type Store<V: Clone + Send + Sync + 'static> = $store<V>;

                fn store<V: Clone + Send + Sync + 'static>(
                    bound: Bound,
                    clock: SharedClock,
                    weigh: fn(&Key, &V) -> u64,
                ) -> $store<V> {
                    let builder = $store::builder().clock(clock);
                    let builder = match bound {
                        Bound::Entries(capacity) => builder.capacity(capacity),
                        Bound::Idle(capacity, time) => builder.capacity(capacity).time_to_idle(time),
                        Bound::Weight(capacity) => builder.capacity(capacity).weigher(weigh),
                    };
                    builder.build().expect("the settings are valid")
                }

                fn size<V: Clone + Send + Sync + 'static>(store: &$store<V>) -> (u64, u64) {
                    (store.len(), store.weight())
                }
            }
        )*
    };
}

memory! {
    /// `MokaStore`.
    Moka: MokaStore;
    /// `QuickCacheStore`.
    QuickCache: QuickCacheStore;
    /// `StrettoStore`.
    Stretto: StrettoStore;
}

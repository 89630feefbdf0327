//! Helpers that the tests of the chain share.
#![allow(dead_code, reason = "each test file uses its part")]

use cache_chain::{ChainBuilder, ChainCache, Tier};
use cache_core::{
    Entry, Expiry, Key, LocalStore, ManualClock, Store, Ticket, Write,
    testkit::{MapStore, ScriptedStore, block_on},
};

pub(crate) type Scripted = ScriptedStore<MapStore<String>>;

/// A chain of scripted stores on a manual clock.
pub(crate) struct Rig {
    pub(crate) chain: ChainCache<String>,
    pub(crate) stores: Vec<Scripted>,
    pub(crate) clock: ManualClock,
}

impl Rig {
    pub(crate) fn new(tiers: usize) -> Self {
        Self::with(tiers, |_, tier| tier)
    }

    /// With settings per tier.
    pub(crate) fn with(tiers: usize, settings: impl Fn(usize, Tier<String>) -> Tier<String>) -> Self {
        Self::built(tiers, settings, |builder| builder)
    }

    /// With settings per tier and of the chain.
    pub(crate) fn built(
        tiers: usize,
        settings: impl Fn(usize, Tier<String>) -> Tier<String>,
        of_chain: impl FnOnce(ChainBuilder<String>) -> ChainBuilder<String>,
    ) -> Self {
        let clock = ManualClock::new();
        let stores: Vec<Scripted> =
            (0..tiers).map(|_| ScriptedStore::new(MapStore::with_clock(clock.shared()))).collect();
        let mut builder = ChainCache::builder().clock(clock.shared());
        for (at, store) in stores.iter().enumerate() {
            builder = builder.tier(settings(at, Tier::new(store.clone())));
        }
        Self { chain: of_chain(builder).build().unwrap(), stores, clock }
    }

    /// What a tier holds.
    pub(crate) fn held(&self, tier: usize, key: &str) -> Option<Entry<String>> {
        LocalStore::get(self.stores[tier].inner(), &Key::new(key).unwrap())
    }

    pub(crate) fn value(&self, tier: usize, key: &str) -> Option<String> {
        self.held(tier, key).and_then(Entry::into_value)
    }

    /// Puts a value into one tier only.
    pub(crate) fn put(&self, tier: usize, key: &str, value: &str, expiry: Expiry) {
        let entry = Entry::new(value.to_owned(), expiry);
        let write = Write::new(Key::new(key).unwrap(), entry, Ticket::unconditional());
        block_on(self.stores[tier].inner().set(write)).unwrap();
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Lets every other task on this thread go on as far as it can.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Polls the future once. Returns its output if it is ready.
pub(crate) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

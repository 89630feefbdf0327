//! A chain of memory over a remote store, with loads that count.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use cache_chain::ChainCache;
use cache_core::{
    Entry, Expiry, LocalStore, ManualClock, Store, Ticket, Write,
    testkit::{MapStore, ScriptedStore},
};

use super::key;

/// A chain of memory, "L1 map", over a remote store, "L2 map".
pub(crate) struct RemoteRig {
    pub(crate) chain: ChainCache<usize>,
    pub(crate) memory: MapStore<usize>,
    pub(crate) lower: ScriptedStore<MapStore<usize>>,
    pub(crate) clock: ManualClock,
    pub(crate) loads: Arc<AtomicUsize>,
}

impl RemoteRig {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let memory = MapStore::with_clock(clock.shared());
        let lower = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let chain = ChainCache::builder().clock(clock.shared()).tier(memory.clone()).tier(lower.clone());
        Self { chain: chain.build().unwrap(), memory, lower, clock, loads: Arc::default() }
    }

    /// Returns a loader of the number of the load, from 100 on.
    pub(crate) fn loader(&self) -> impl FnOnce() -> std::future::Ready<io::Result<usize>> + Clone + Send + use<> {
        let loads = Arc::clone(&self.loads);
        move || std::future::ready(Ok(100 + loads.fetch_add(1, SeqCst)))
    }

    pub(crate) fn in_memory(&self) -> Option<usize> {
        LocalStore::get(&self.memory, &key("k")).and_then(Entry::into_value)
    }

    pub(crate) fn below(&self) -> Option<usize> {
        LocalStore::get(self.lower.inner(), &key("k")).and_then(Entry::into_value)
    }

    /// Puts a value that was made now into the lower tier alone.
    pub(crate) async fn put_below(&self, value: usize) {
        let entry = Entry::new(value, Expiry::Never).created_at(cache_core::Clock::now(&self.clock));
        let write = Write::new(key("k"), entry, Ticket::unconditional());
        Store::set(self.lower.inner(), write).await.unwrap();
    }
}

//! A chain with a stale value, and loads that take a given time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{CallOptions, ChainCache, Found, LoadStats, ReadThrough, ServeStale};
use cache_core::{
    ManualClock, Result,
    testkit::{MapStore, ScriptedStore},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A chain of memory over a remote store, and a value that is stale.
pub(crate) struct StaleRig {
    pub(crate) chain: ChainCache<String>,
    pub(crate) lower: ScriptedStore<MapStore<String>>,
    pub(crate) clock: ManualClock,
    pub(crate) calls: Arc<AtomicUsize>,
}

/// The end of a load, and the time until then by tokio's clock.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    Brings(&'static str, Duration),
    Fails(Duration),
}

impl StaleRig {
    pub(crate) async fn new(mode: ServeStale) -> Self {
        Self::with(ReadThrough::new().serve_stale(mode)).await
    }

    /// Sets "k" to "old", which is stale now and for another hour.
    pub(crate) async fn with(settings: ReadThrough) -> Self {
        let clock = ManualClock::new();
        let lower = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let chain = ChainCache::builder()
            .clock(clock.shared())
            .tier(MapStore::with_clock(clock.shared()))
            .tier(lower.clone())
            .read_through(settings.stale_for(60 * MINUTE))
            .build()
            .unwrap();
        chain.set_with_ttl("k", "old".to_owned(), MINUTE).await.unwrap();
        clock.advance(MINUTE);
        Self { chain, lower, clock, calls: Arc::default() }
    }

    /// Loads "k".
    pub(crate) async fn get(&self, load: Load) -> Result<Found<String>> {
        let calls = Arc::clone(&self.calls);
        self.chain.get_or_load_detailed("k", move || run(calls, load)).await
    }

    pub(crate) async fn get_with(&self, options: &CallOptions, load: Load) -> Result<Found<String>> {
        let calls = Arc::clone(&self.calls);
        self.chain.with(options).get_or_load_detailed("k", move || run(calls, load)).await
    }

    pub(crate) fn stats(&self) -> LoadStats {
        self.chain.stats().loads
    }
}

async fn run(calls: Arc<AtomicUsize>, load: Load) -> io::Result<String> {
    calls.fetch_add(1, SeqCst);
    match load {
        Load::Brings(value, time) => {
            tokio::time::sleep(time).await;
            Ok(value.to_owned())
        }
        Load::Fails(time) => {
            tokio::time::sleep(time).await;
            Err(io::Error::other("down"))
        }
    }
}

pub(crate) fn value_of(found: &Found<String>) -> (Option<&str>, bool) {
    (found.value.as_deref(), found.stale)
}

/// Builds a chain of one remote store, whose value of "k", "old", is stale now and for a minute.
pub(crate) async fn stale_remote(
    timeout: Option<Duration>,
) -> (ChainCache<String>, ScriptedStore<MapStore<String>>, ManualClock) {
    let clock = ManualClock::new();
    let remote = ScriptedStore::new(MapStore::with_clock(clock.shared()));
    let settings = ReadThrough::new().stale_for(MINUTE).serve_stale(ServeStale::IfLoadFails);
    let builder = ChainCache::<String>::builder().clock(clock.shared()).tier(remote.clone()).read_through(settings);
    let builder = if let Some(timeout) = timeout { builder.timeout(timeout) } else { builder };
    let chain = builder.build().unwrap();
    let second = Duration::from_secs(1);
    chain.set_with_ttl("k", "old".to_owned(), second).await.unwrap();
    clock.advance(second);
    (chain, remote, clock)
}

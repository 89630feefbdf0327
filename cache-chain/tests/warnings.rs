//! The warnings of a chain about its coherence. They are in a program of their own, because `tracing`
//! remembers for the whole process which events somebody listens to.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_chain::{ChainCache, Tier};
use cache_core::testkit::{MapStore, ScriptedStore, SharedMap};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};

/// Collects the events of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Log {
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.clone());
        (log, guard)
    }

    fn warnings(&self) -> Vec<String> {
        let log = self.0.lock().unwrap();
        log.iter().filter(|(level, _)| *level == Level::WARN).map(|(_, text)| text.clone()).collect()
    }
}

fn memory() -> Tier<u32> {
    Tier::new(MapStore::new()).name("memory")
}

/// A shared tier without a stream.
fn shared() -> Tier<u32> {
    Tier::new(ScriptedStore::new(MapStore::new())).name("shared")
}

#[tokio::test]
async fn memory_above_a_shared_tier_without_a_stream_is_warned_about_once() {
    let (log, _guard) = Log::start();
    let chain: ChainCache<u32> = ChainCache::builder().tier(memory()).tier(shared()).build().unwrap();
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in ["memory=memory", "shared=shared", "Tier::max_ttl"] {
        assert!(warnings[0].contains(part), "{warnings:?}");
    }
    chain.set("k", 1).await.unwrap();
    chain.get("k").await.unwrap();
    assert_eq!(chain.stats().coherence, cache_chain::CoherenceStats::default());
    assert_eq!(log.warnings().len(), 1);
}

#[tokio::test]
async fn chains_that_are_coherent_or_limited_are_not_warned_about() {
    let (log, _guard) = Log::start();
    let limited = || memory().max_ttl(Duration::from_secs(30));
    let build = |upper: Tier<u32>, lower: Tier<u32>| ChainCache::builder().tier(upper).tier(lower).build().unwrap();
    drop(build(limited(), shared()));
    drop(build(memory(), SharedMap::new().into()));
    drop(build(memory(), Tier::new(MapStore::new())));
    drop(build(shared(), Tier::new(ScriptedStore::new(MapStore::new())).name("below")));
    drop(ChainCache::builder().tier(memory()).tier(shared()).no_coherence().build().unwrap());
    assert_eq!(log.warnings(), Vec::<String>::new());
    // The stream is ignored on purpose, and nothing limits the memory.
    drop(build(memory(), Tier::new(SharedMap::new()).no_invalidations()));
    assert_eq!(log.warnings().len(), 1);
}

/// A stream that ends again and again is reported once until it has begun again.
#[tokio::test]
async fn the_end_of_a_stream_is_reported_once() {
    let (log, _guard) = Log::start();
    let map = SharedMap::new();
    let chain: ChainCache<u32> = ChainCache::builder().tier(memory()).tier(map.clone()).build().unwrap();
    let epoch = async |number| {
        while chain.stats().coherence.epoch < number {
            tokio::task::yield_now().await;
        }
    };
    epoch(1).await;
    map.cut_streams();
    epoch(2).await;
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("the stream was cut"), "{warnings:?}");
}

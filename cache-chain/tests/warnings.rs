//! The events that a chain reports. They are in a program of their own, because `tracing` remembers
//! for the whole process which events somebody listens to.

use std::{
    fmt::Write as _,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{Breaker, ChainCache, Tier};
use cache_core::{
    Entry, Error, ErrorKind, Expiry, Invalidation, InvalidationSink, InvalidationStream, Key, Store, Ticket, Write,
    testkit::{MapStore, Operation, ScriptedStore, SharedMap},
};
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
        self.at(Level::WARN)
    }

    fn at(&self, wanted: Level) -> Vec<String> {
        let log = self.0.lock().unwrap();
        log.iter().filter(|(level, _)| *level == wanted).map(|(_, text)| text.clone()).collect()
    }

    /// Takes the only warning, which has all these parts.
    fn warned(&self, parts: &[&str]) {
        let warnings = self.warnings();
        self.0.lock().unwrap().clear();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in parts {
            assert!(warnings[0].contains(part), "{warnings:?} without {part:?}");
        }
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

/// A stream that loses events twice.
#[derive(Debug)]
struct Lossy(Arc<AtomicBool>);

impl InvalidationStream for Lossy {
    fn timeout(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn run(
        self: Arc<Self>,
        _: Duration,
        sink: Arc<dyn InvalidationSink>,
    ) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        Box::pin(async move {
            sink.apply(Invalidation::Begin("lossy"));
            sink.apply(Invalidation::Gap);
            sink.apply(Invalidation::Gap);
            self.0.store(true, SeqCst);
            std::future::pending().await
        })
    }
}

#[tokio::test]
async fn gaps_of_a_stream_are_reported_once_a_minute() {
    let (log, _guard) = Log::start();
    let has_run = Arc::new(AtomicBool::new(false));
    let shared = shared().invalidations(Lossy(Arc::clone(&has_run)));
    let chain: ChainCache<u32> = ChainCache::builder().tier(memory()).tier(shared).build().unwrap();
    while !has_run.load(SeqCst) {
        tokio::task::yield_now().await;
    }
    assert_eq!(chain.stats().coherence.gaps, 2);
    while log.at(Level::INFO).is_empty() {
        tokio::task::yield_now().await;
    }
    let gaps = log.at(Level::INFO);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    for part in ["tier=shared", "suppressed=0", "may have lost events"] {
        assert!(gaps[0].contains(part), "{gaps:?}");
    }
    assert_eq!(log.warnings(), Vec::<String>::new());
}

/// A chain of two tiers that are not in this process, and their stores.
fn remote(
    settings: impl Fn(Tier<u32>) -> Tier<u32>,
) -> (cache_chain::ChainBuilder<u32>, [ScriptedStore<MapStore<u32>>; 2]) {
    let stores = [(); 2].map(|()| ScriptedStore::new(MapStore::new()));
    let tier = |at: usize, name: &str| settings(Tier::new(stores[at].clone()).name(name));
    let chain = ChainCache::builder().tier(tier(0, "upper")).tier(tier(1, "lower")).no_coherence();
    (chain, stores)
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_or_closes_is_reported_and_one_that_stays_open_is_not() {
    let (log, _guard) = Log::start();
    let breaker = Breaker::new().failures(2).probe_interval(Duration::from_secs(1));
    let (chain, [_, lower]) = remote(|tier| tier.breaker(breaker));
    let chain = chain.build().unwrap();
    lower.fail(Operation::Get, ErrorKind::Unavailable);
    chain.get("k").await.unwrap_err();
    assert_eq!(log.warnings(), Vec::<String>::new());
    chain.get("k").await.unwrap_err();
    log.warned(&["tier=lower", "failures=2", "has opened"]);
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(1)).await;
        chain.get("k").await.unwrap_err();
    }
    assert_eq!(log.warnings(), Vec::<String>::new());
    lower.heal();
    tokio::time::advance(Duration::from_secs(1)).await;
    chain.get("k").await.unwrap();
    let closed = log.at(Level::INFO);
    assert!(closed.len() == 1 && closed[0].contains("lower") && closed[0].contains("has closed"), "{closed:?}");
}

/// Puts values into a store, as another process does.
async fn put(store: &ScriptedStore<MapStore<u32>>, keys: std::ops::Range<u32>) {
    for key in keys {
        let write = Write::new(Key::new(&key).unwrap(), Entry::new(1, Expiry::Never), Ticket::unconditional());
        Store::set(store.inner(), write).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn failed_backfills_are_reported_once_a_minute() {
    let (log, _guard) = Log::start();
    let (chain, [upper, lower]) = remote(Tier::no_breaker);
    let chain = chain.build().unwrap();
    put(&lower, 0..6).await;
    upper.fail(Operation::Fill, ErrorKind::Unavailable);
    let read = async |keys: std::ops::Range<u32>| {
        for key in keys {
            assert_eq!(chain.get(key).await.unwrap(), Some(1));
        }
        chain.wait().await.unwrap();
    };
    read(0..3).await;
    log.warned(&["tier=upper", "suppressed=0", "could not be copied"]);
    read(3..5).await;
    assert_eq!(log.warnings(), Vec::<String>::new());
    tokio::time::advance(Duration::from_secs(60)).await;
    read(5..6).await;
    log.warned(&["suppressed=4"]);
    assert_eq!(chain.stats().backfill.failed, 6);
}

#[tokio::test(start_paused = true)]
async fn a_full_backfill_queue_is_reported_and_a_closed_one_is_not() {
    let (log, _guard) = Log::start();
    let (chain, [upper, lower]) = remote(Tier::no_breaker);
    let chain = chain.backfill_items(1).build().unwrap();
    put(&lower, 0..4).await;
    let gate = upper.stall(Operation::Fill);
    for key in 0..3 {
        chain.get(key).await.unwrap();
    }
    log.warned(&["items=1", "the backfill queue is full"]);
    gate.open();
    chain.shutdown(Duration::from_secs(1)).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    chain.get(3).await.unwrap();
    assert_eq!(log.warnings(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_fails_is_reported() {
    let (log, _guard) = Log::start();
    let (chain, [upper, _lower]) = remote(Tier::no_breaker);
    let chain = chain.build().unwrap();
    upper.fail(Operation::Del, ErrorKind::Unavailable);
    chain.del(1).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(5)).await;
    log.warned(&["tier=upper", "keys=1", "could not be deleted"]);
}

#[tokio::test]
async fn records_that_do_not_decode_are_reported() {
    let (log, _guard) = Log::start();
    let (chain, [upper, _lower]) = remote(Tier::no_breaker);
    let chain = chain.build().unwrap();
    upper.fail(Operation::Get, ErrorKind::Codec);
    for key in 0..3 {
        assert_eq!(chain.get(key).await.unwrap(), None);
    }
    log.warned(&["tier=upper", "do not decode"]);
}

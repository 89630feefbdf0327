//! First tiers that follow the changes of a shared one.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{
    Action, CallOptions, ChainCache, Clock as _, Coherence, ErrorKind, FreshnessToken, ManualClock, Origin,
    ReadThrough, ServeStale, Source, Tier, Trust,
};
use cache_core::{
    Displaced, Entry, Error, Expiry, Fence, Invalidation, InvalidationSink, InvalidationStream, Key, LocalStore,
    Profile, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, Phase, ScriptedStore, SharedMap, StreamMistake},
};

use crate::support::settle;

/// One instance of a service.
struct Instance {
    memory: MapStore<u32>,
    chain: ChainCache<u32>,
}

impl Instance {
    async fn over(shared: &SharedMap<u32>) -> Self {
        Self::with(shared, Coherence::new()).await
    }

    async fn with(shared: &SharedMap<u32>, coherence: Coherence) -> Self {
        let memory = MapStore::new();
        let tiers = ChainCache::builder().tier(Tier::new(memory.clone()).name("memory")).tier(shared.clone());
        let chain = tiers.coherence(coherence).build().unwrap();
        let instance = Self { memory, chain };
        instance.until(|stats| stats.trusted).await;
        instance
    }

    async fn until(&self, is_so: impl Fn(&cache_chain::CoherenceStats) -> bool) {
        while !is_so(&self.chain.stats().coherence) {
            tokio::task::yield_now().await;
        }
    }

    /// Reads until the entry is stored in memory. Returns its value.
    async fn warm(&self, key: &str) -> Option<u32> {
        let value = self.chain.get(key).await.unwrap();
        self.chain.wait().await.unwrap();
        value
    }

    async fn source(&self, key: &str) -> Source {
        self.chain.get_detailed(key).await.unwrap().source
    }
}

fn memory() -> Source {
    Source::Tier("memory".into())
}

/// Sets a value as another process does.
async fn set(shared: &impl Store<Value = u32>, key: &str, value: u32) {
    let write = Write::new(Key::new(key).unwrap(), Entry::new(value, Expiry::Never), Ticket::unconditional());
    shared.set(write).await.unwrap();
}

async fn del(shared: &impl Store<Value = u32>, key: &str) {
    shared.del(&Key::new(key).unwrap()).await.unwrap();
}

#[tokio::test]
async fn g2_a_change_elsewhere_is_seen_at_the_next_read() {
    let shared = SharedMap::new();
    let (a, b) = (Instance::over(&shared).await, Instance::over(&shared).await);
    a.chain.set("k", 1).await.unwrap();
    assert_eq!(b.warm("k").await, Some(1));
    assert_eq!(b.source("k").await, memory());
    a.chain.set("k", 2).await.unwrap();
    assert_eq!(b.chain.get("k").await.unwrap(), Some(2));
    b.warm("k").await;
    a.chain.del("k").await.unwrap();
    assert_eq!(b.chain.get("k").await.unwrap(), None);
    b.warm("k").await;
    set(&shared, "k", 3).await;
    assert_eq!(b.warm("k").await, Some(3));
    a.chain.clear().await.unwrap();
    assert_eq!(b.chain.get("k").await.unwrap(), None);
    let stats = b.chain.stats().coherence;
    assert_eq!((stats.mode, stats.epoch, stats.gaps, stats.unknown), (Some("map"), 1, 0, 0));
}

#[tokio::test]
async fn a_suspect_entry_is_confirmed_replaced_or_gone() {
    let shared = SharedMap::new();
    let instance = Instance::over(&shared).await;
    for key in ["same", "other", "gone"] {
        set(&shared, key, 1).await;
        instance.warm(key).await;
    }
    shared.cut_streams();
    instance.until(|stats| stats.epoch == 2 && stats.trusted).await;
    set(&shared, "other", 2).await;
    del(&shared, "gone").await;
    let values = instance.chain.get_many(["same", "other", "gone"]).await.unwrap();
    assert_eq!(values, [Some(1), Some(2), None]);
    let stats = instance.chain.stats().coherence;
    assert_eq!((stats.checks_unchanged, stats.checks_changed, stats.checks_gone), (1, 1, 1));
    instance.chain.wait().await.unwrap();
    assert_eq!([instance.source("same").await, instance.source("other").await], [memory(), memory()]);
}

/// After a `del` on any instance, no instance serves the value, not even as stale while loading
/// fails.
#[tokio::test]
async fn g2_a_stale_value_that_was_deleted_elsewhere_is_not_served() {
    let shared = SharedMap::new();
    let (memory, other) = (MapStore::new(), Instance::over(&shared).await);
    let settings = ReadThrough::new().stale_for(Duration::from_secs(3600)).no_failure_cooldown();
    let tiers = ChainCache::builder().tier(memory.clone()).tier(shared.clone()).read_through(settings);
    let chain: ChainCache<u32> = tiers.build().unwrap();
    let load = |value: Result<u32, &'static str>| move || async move { value };
    while !chain.stats().coherence.trusted {
        tokio::task::yield_now().await;
    }
    chain.set_with_ttl("k", 1, Duration::from_nanos(1)).await.unwrap();
    assert_eq!(chain.get_or_load("k", load(Err("down"))).await.unwrap(), 1, "stale");
    other.chain.del("k").await.unwrap();
    assert!(LocalStore::get(&memory, &Key::new("k").unwrap()).is_some(), "it is still there");
    let failed = chain.get_or_load("k", load(Err("down"))).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Loader);
    assert_eq!(chain.get_or_load("k", load(Ok(2))).await.unwrap(), 2);
}

#[tokio::test]
async fn keys_that_are_not_held_cost_no_hits() {
    let shared = SharedMap::new();
    let instance = Instance::over(&shared).await;
    for n in 0..100 {
        set(&shared, &n.to_string(), n).await;
        instance.warm(&n.to_string()).await;
    }
    let before = instance.chain.stats();
    for n in 0..50_000_u32 {
        set(&shared, &format!("foreign {n}"), n).await;
        let key = (n % 100).to_string();
        assert_eq!(instance.chain.get(&key).await.unwrap(), Some(n % 100));
    }
    let after = instance.chain.stats();
    let hits = after.tiers[0].hits - before.tiers[0].hits;
    assert!(hits >= 49_500, "{hits} of 50,000 in memory");
    // Some share a slot with keys of other tests.
    let unheld = after.coherence.events_unheld - before.coherence.events_unheld;
    assert!((49_900..=50_000).contains(&unheld), "{unheld}");
}

/// A notice for a key that is not held yet counts if its entry is on the way.
#[tokio::test]
async fn g2_a_change_while_the_entry_is_on_its_way_is_not_missed() {
    let shared = SharedMap::new();
    let instance = Instance::over(&shared).await;
    let (other, memory) = (shared.clone(), instance.memory.clone());
    let load = || async move {
        let key = Key::new("k").unwrap();
        set(&other, "k", 2).await;
        Ok::<_, std::io::Error>(u32::from(!memory.holds(&key)))
    };
    assert_eq!(instance.chain.get_or_load("k", load).await.unwrap(), 1, "not held when it changes");
    instance.chain.wait().await.unwrap();
    let held = LocalStore::get(&instance.memory, &Key::new("k").unwrap()).and_then(Entry::into_value);
    assert_eq!(held, Some(1), "it was stored afterwards");
    assert_eq!(instance.chain.get("k").await.unwrap(), Some(2));
}

/// Two chains of one process share the memory. One of them stores an entry that the other has not
/// asked for.
#[tokio::test]
async fn g2_chains_that_share_a_memory_do_not_trust_what_the_other_has_missed() {
    let (shared, memory) = (SharedMap::new(), MapStore::new());
    let build = || ChainCache::builder().tier(memory.clone()).tier(shared.clone()).build().unwrap();
    let (one, other) = (build(), build());
    for chain in [&one, &other] {
        while !chain.stats().coherence.trusted {
            tokio::task::yield_now().await;
        }
    }
    // So that the chains have seen different numbers of changes.
    for n in 0..100 {
        set(&shared, "held", n).await;
        assert_eq!(one.get("held").await.unwrap(), Some(n));
    }
    let changing = shared.clone();
    let load = || async move {
        set(&changing, "k", 2).await;
        Ok::<_, std::io::Error>(1)
    };
    assert_eq!(one.get_or_load("k", load).await.unwrap(), 1);
    one.wait().await.unwrap();
    assert!(memory.holds(&Key::new("k").unwrap()));
    for chain in [&other, &one] {
        assert_eq!(chain.get("k").await.unwrap(), Some(2));
    }
}

/// A stream that the test plays.
#[derive(Clone, Default)]
struct Played(Arc<Mutex<Option<Arc<dyn InvalidationSink>>>>);

impl std::fmt::Debug for Played {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Played")
    }
}

impl InvalidationStream for Played {
    fn timeout(&self) -> Duration {
        Duration::ZERO
    }

    fn run(
        self: Arc<Self>,
        _: Duration,
        sink: Arc<dyn InvalidationSink>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Error> + Send>> {
        *self.0.lock().unwrap() = Some(sink);
        Box::pin(std::future::pending())
    }
}

impl Played {
    async fn sink(&self) -> Arc<dyn InvalidationSink> {
        loop {
            if let Some(sink) = self.0.lock().unwrap().clone() {
                return sink;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A chain over a shared tier whose stream the test plays.
async fn played(coherence: Coherence) -> (Instance, SharedMap<u32>, Arc<dyn InvalidationSink>) {
    let (shared, stream, memory) = (SharedMap::new(), Played::default(), MapStore::new());
    let tiers = ChainCache::builder()
        .tier(Tier::new(memory.clone()).name("memory"))
        .tier(Tier::new(shared.clone()).invalidations(stream.clone()));
    let chain = tiers.coherence(coherence).build().unwrap();
    (Instance { memory, chain }, shared, stream.sink().await)
}

/// The shared tier announces the marker of the load's own claim, so the entry in memory is suspect
/// while the shared tier is still being filled.
#[tokio::test]
async fn a_value_that_was_loaded_is_found_before_the_shared_tier_is_filled() {
    let (shared, stream) = (ScriptedStore::new(SharedMap::new()), Played::default());
    let tiers =
        ChainCache::builder().tier(MapStore::new()).tier(Tier::new(shared.clone()).invalidations(stream.clone()));
    let settings = ReadThrough::new().stale_for(Duration::from_secs(3600)).no_failure_cooldown();
    let chain: ChainCache<u32> = tiers.read_through(settings).build().unwrap();
    let sink = stream.sink().await;
    sink.apply(Invalidation::Begin("played"));
    sink.apply(Invalidation::Proven(std::time::Instant::now()));

    let load = |value| move || async move { Ok::<_, std::io::Error>(value) };
    let again = || async { Err::<u32, _>(std::io::Error::other("loaded again")) };
    for call in ["get", "get_many", "get_or_load", "contains", "touch", "expire", "take"] {
        let filled = shared.stall(Operation::Fill);
        assert_eq!(chain.get_or_load(call, load(1)).await.unwrap(), 1);
        sink.apply(Invalidation::Key(call.as_bytes()));
        let find = async {
            match call {
                "get" => chain.get(call).await.unwrap(),
                "get_many" => chain.get_many([call]).await.unwrap()[0],
                "get_or_load" => chain.get_or_load(call, again).await.ok(),
                "contains" => chain.contains(call).await.unwrap().then_some(1),
                "touch" => chain.touch(call, Duration::from_secs(1)).await.unwrap().then_some(1),
                "take" => chain.take(call).await.unwrap(),
                _ => {
                    chain.expire(call).await.unwrap();
                    assert_eq!(chain.get(call).await.unwrap(), None);
                    chain.get_or_load(call, again).await.ok()
                }
            }
        };
        let opened = async {
            settle().await;
            filled.open();
        };
        assert_eq!(tokio::join!(find, opened).0, Some(1), "{call}");
        chain.wait().await.unwrap();
        let held = chain.get(call).await.unwrap();
        assert_eq!(held.is_none(), ["expire", "take"].contains(&call), "{call}");
        shared.heal();
    }
}

#[tokio::test]
async fn before_the_first_proof_memory_serves_as_without_a_stream() {
    let (instance, shared, sink) = played(Coherence::new()).await;
    set(&shared, "k", 1).await;
    instance.warm("k").await;
    set(&shared, "k", 2).await;
    assert_eq!((instance.chain.get("k").await.unwrap(), instance.source("k").await), (Some(1), memory()));
    sink.apply(Invalidation::Begin("played"));
    assert_eq!(instance.chain.get("k").await.unwrap(), Some(1), "it has proven nothing yet");
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    assert_eq!(instance.chain.get("k").await.unwrap(), Some(2));
}

/// Memory in which something happens just before the next insertion.
#[derive(Clone)]
struct Interrupted {
    memory: MapStore<u32>,
    before: Arc<Mutex<Option<Interruption>>>,
}

type Interruption = Box<dyn FnOnce() + Send>;

impl LocalStore for Interrupted {
    type Value = u32;

    fn profile(&self) -> Profile {
        LocalStore::profile(&self.memory)
    }

    fn fence(&self) -> &Fence {
        self.memory.fence()
    }

    fn get(&self, key: &Key) -> Option<Entry<u32>> {
        LocalStore::get(&self.memory, key)
    }

    fn insert(&self, key: &Key, entry: Entry<u32>, weight: u64) -> cache_core::Result<Displaced> {
        if let Some(before) = self.before.lock().unwrap().take() {
            before();
        }
        self.memory.insert(key, entry, weight)
    }

    fn remove(&self, key: &Key) -> cache_core::Result<Displaced> {
        self.memory.remove(key)
    }

    fn clear(&self) -> cache_core::Result<()> {
        LocalStore::clear(&self.memory)
    }

    fn wait(&self) -> cache_core::Result<()> {
        LocalStore::wait(&self.memory)
    }
}

/// A backfill is on its way until it has been stored.
#[tokio::test]
async fn g2_a_change_just_before_a_backfill_is_stored_is_not_missed() {
    // No other test has an entry of this key on its way.
    let key = "changed just before it is stored";
    let (shared, stream) = (SharedMap::new(), Played::default());
    let memory = Interrupted { memory: MapStore::new(), before: Arc::default() };
    let tiers =
        ChainCache::builder().tier(memory.clone()).tier(Tier::new(shared.clone()).invalidations(stream.clone()));
    let chain = tiers.build().unwrap();
    let sink = stream.sink().await;
    sink.apply(Invalidation::Begin("played"));
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    set(&shared, key, 1).await;
    let announce = Arc::clone(&sink);
    *memory.before.lock().unwrap() = Some(Box::new(move || announce.apply(Invalidation::Key(key.as_bytes()))));
    assert_eq!(chain.get(key).await.unwrap(), Some(1));
    chain.wait().await.unwrap();
    assert!(LocalStore::get(&memory, &Key::new(key).unwrap()).is_some(), "it has been stored");
    set(&shared, key, 2).await;
    assert_eq!(chain.get(key).await.unwrap(), Some(2));
}

#[tokio::test]
async fn after_w_without_a_proof_every_read_is_checked() {
    let heartbeat = Duration::from_millis(20);
    let (instance, shared, sink) = played(Coherence::new().heartbeat(heartbeat)).await;
    assert_eq!(instance.chain.stats().coherence.window, 2 * heartbeat);
    sink.apply(Invalidation::Begin("played"));
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    set(&shared, "k", 1).await;
    instance.warm("k").await;
    // The message is lost, and so are those after it.
    set(&shared, "k", 2).await;
    instance.until(|stats| !stats.trusted).await;
    assert_eq!(instance.chain.get("k").await.unwrap(), Some(2));
    assert_eq!(instance.chain.stats().coherence.checks_changed, 1);
    // A proof of a moment that is too long ago, as after a suspension, proves nothing.
    sink.apply(Invalidation::Proven(std::time::Instant::now().checked_sub(2 * heartbeat).unwrap()));
    assert!(!instance.chain.stats().coherence.trusted);
}

#[tokio::test]
async fn after_a_gap_entries_are_checked_once() {
    let (instance, shared, sink) = played(Coherence::new()).await;
    sink.apply(Invalidation::Begin("played"));
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    set(&shared, "k", 1).await;
    instance.warm("k").await;
    sink.apply(Invalidation::Gap);
    assert_eq!(instance.warm("k").await, Some(1));
    assert_eq!(instance.source("k").await, memory());
    let stats = instance.chain.stats().coherence;
    assert_eq!((stats.gaps, stats.epoch, stats.checks_unchanged), (1, 2, 1));
}

/// Whatever a stream receives only makes entries suspect.
#[tokio::test]
async fn foreign_and_broken_events_are_counted_and_harmless() {
    let (instance, shared, sink) = played(Coherence::new()).await;
    sink.apply(Invalidation::Begin("played"));
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    // No other test, of those that run in the same process, has an entry of this key on its way.
    set(&shared, "own", 1).await;
    instance.warm("own").await;
    let long = vec![b'k'; Key::MAX_LEN + 1];
    for notice in [Invalidation::Key(b""), Invalidation::Key(&long), Invalidation::Unknown] {
        sink.apply(notice);
    }
    sink.apply(Invalidation::Key(b"\xff\x00\xfe"));
    (0..100_000_u32).for_each(|n| sink.apply(Invalidation::Key(&n.to_le_bytes())));
    let stats = instance.chain.stats().coherence;
    assert_eq!((stats.unknown, stats.events + stats.events_unheld), (3, 100_001));
    // Some share a slot with keys of other tests.
    assert!(stats.events < 100, "{stats:?}");
    assert_eq!(instance.source("own").await, memory());
    sink.apply(Invalidation::Everything);
    assert_ne!(instance.source("own").await, memory());
}

#[tokio::test]
async fn a_grace_serves_what_cannot_be_checked_but_nothing_that_has_changed() {
    let heartbeat = Duration::from_millis(20);
    let settings = Coherence::new().heartbeat(heartbeat).grace(Duration::from_secs(3600));
    let (memory_store, stream) = (MapStore::new(), Played::default());
    let (shared, fails) = (SharedMap::new(), Arc::new(AtomicBool::new(false)));
    let failing = Failing { inner: shared.clone(), fails: Arc::clone(&fails) };
    let tiers = ChainCache::builder()
        .tier(Tier::new(memory_store.clone()).name("memory"))
        .tier(Tier::new(failing).invalidations(stream.clone()).no_breaker());
    let chain = tiers.coherence(settings).build().unwrap();
    let instance = Instance { memory: memory_store, chain };
    let sink = stream.sink().await;
    sink.apply(Invalidation::Begin("played"));
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    for key in ["kept", "changed"] {
        set(&shared, key, 1).await;
        instance.warm(key).await;
    }
    set(&shared, "replaced", 1).await;
    instance.warm("replaced").await;
    sink.apply(Invalidation::Key(b"changed"));
    instance.until(|stats| !stats.trusted).await;
    // A read finds the change, and leaves the old value in memory.
    set(&shared, "replaced", 2).await;
    let skip = CallOptions::new().skip_write("memory");
    assert_eq!(instance.chain.with(&skip).get("replaced").await.unwrap(), Some(2));
    let suspect = instance.chain.explain("kept").await.unwrap();
    assert_eq!(suspect.tiers[0].trust, Trust::Suspect { in_grace: true });
    assert_eq!(suspect.get.action, Action::Serve { tier: "L2 map".to_owned() }, "{}", suspect.get.reason);
    assert_eq!(suspect.get.reason, "its value is fresh; memory: what it holds is suspect");
    fails.store(true, SeqCst);
    let in_grace = instance.chain.explain("kept").await.unwrap();
    assert_eq!(in_grace.get.action, Action::Serve { tier: "memory".to_owned() }, "{}", in_grace.get.reason);
    let changed = instance.chain.explain("changed").await.unwrap();
    assert_eq!(changed.tiers[0].trust, Trust::Suspect { in_grace: false });
    assert_eq!(changed.get.action, Action::Fail(ErrorKind::Unavailable), "{}", changed.get.reason);
    let found = instance.chain.get_detailed("kept").await.unwrap();
    assert_eq!((found.value, found.in_grace, found.source), (Some(1), true, memory()));
    let coherence = found.coherence.unwrap();
    assert_eq!((coherence.mode, coherence.epoch, coherence.served_in_grace), (Some("played"), 1, 1));
    assert_eq!((coherence.checks_changed, coherence.trusted), (1, false));
    for key in ["changed", "replaced"] {
        assert_eq!(instance.chain.get(key).await.unwrap_err().kind(), ErrorKind::Unavailable, "{key}");
    }
    assert_eq!(instance.chain.stats().coherence.served_in_grace, 1);
}

/// The shared tier is down, and so is the source of the data.
#[tokio::test]
async fn a_grace_serves_stale_values_in_every_mode() {
    let heartbeat = Duration::from_millis(20);
    let grace = Coherence::new().heartbeat(heartbeat).grace(Duration::from_secs(3600));
    let (clock, second) = (ManualClock::new(), Duration::from_secs(1));
    let (memory_store, stream) = (MapStore::with_clock(clock.shared()), Played::default());
    let (shared, fails) = (SharedMap::with_clock(clock.shared()), Arc::new(AtomicBool::new(false)));
    let failing = Failing { inner: shared.clone(), fails: Arc::clone(&fails) };
    let settings = ReadThrough::new().stale_for(3600 * second).no_failure_cooldown();
    let tiers = ChainCache::builder()
        .clock(clock.shared())
        .tier(Tier::new(memory_store.clone()).name("memory"))
        .tier(Tier::new(failing).invalidations(stream.clone()).no_breaker());
    let chain = tiers.coherence(grace).read_through(settings).build().unwrap();
    let instance = Instance { memory: memory_store, chain };
    let sink = stream.sink().await;
    sink.apply(Invalidation::Begin("played"));
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    for key in ["kept", "changed", "told", "deleted"] {
        instance.chain.set_with_ttl(key, 1, second).await.unwrap();
        instance.warm(key).await;
    }
    clock.advance(2 * second);

    // Suspect, but the shared tier still has it.
    let down = || async { Err::<u32, _>(std::io::Error::other("down")) };
    let notify = Arc::clone(&sink);
    let suspect = || async move {
        notify.apply(Invalidation::Key(b"changed"));
        Err::<u32, _>(std::io::Error::other("down"))
    };
    let if_load_fails = CallOptions::new().serve_stale(ServeStale::IfLoadFails);
    let found = instance.chain.with(&if_load_fails).get_or_load_detailed("changed", suspect).await.unwrap();
    assert_eq!((found.value, found.stale, found.in_grace), (Some(1), true, false));
    assert_ne!(found.source, memory());

    // Suspect, and the shared tier can no longer tell.
    let (notify, breaks) = (Arc::clone(&sink), Arc::clone(&fails));
    let told = || async move {
        notify.apply(Invalidation::Key(b"told"));
        breaks.store(true, SeqCst);
        Err::<u32, _>(std::io::Error::other("down"))
    };
    sink.apply(Invalidation::Proven(std::time::Instant::now()));
    let failed = instance.chain.with(&if_load_fails).get_or_load("told", told).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Loader);

    instance.until(|stats| !stats.trusted).await;
    let explanation = instance.chain.explain("kept").await.unwrap();
    assert_eq!(explanation.get_or_load.action, Action::ServeStale { tier: "memory".to_owned() }, "{explanation}");
    assert_eq!(explanation.get.action, Action::Fail(ErrorKind::Unavailable), "{explanation}");
    assert_eq!(instance.chain.explain("changed").await.unwrap().get_or_load.action, Action::Load);
    let mut served = 0;
    for mode in [ServeStale::AtOnce, ServeStale::After(Duration::from_millis(5)), ServeStale::IfLoadFails] {
        let stale = CallOptions::new().serve_stale(mode);
        let chain = instance.chain.with(&stale);
        let loaded = chain.get_or_load_detailed("kept", down).await.unwrap();
        let read = chain.get_detailed("kept").await.unwrap();
        for found in [loaded, read] {
            assert_eq!((found.value, found.stale, found.in_grace), (Some(1), true, true), "{mode:?}");
            assert_eq!(found.source, memory());
        }
        assert_eq!(chain.get_many(["kept"]).await.unwrap(), [Some(1)]);
        assert_eq!(
            chain
                .get_or_load_many(["kept"], move |_| async move { down().await.map(|n| [("kept", n)]) })
                .await
                .unwrap(),
            [Some(1)]
        );
        served += 4;
        assert_eq!(instance.chain.stats().coherence.served_in_grace, served);

        for result in [chain.get("changed").await, chain.get_or_load("changed", down).await.map(Some)] {
            assert!(result.is_err(), "{result:?}");
        }
    }
    for result in
        [instance.chain.get("kept").await, instance.chain.with(&CallOptions::new().no_stale()).get("kept").await]
    {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // Deleted by this instance while a call waits for a fresh value.
    let deleting = instance.chain.clone();
    let delete = || async move {
        deleting.del("deleted").await.unwrap_err();
        Err::<u32, _>(std::io::Error::other("down"))
    };
    let failed = instance.chain.with(&if_load_fails).get_or_load("deleted", delete).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Loader);
}

/// A shared store that can fail.
#[derive(Clone)]
struct Failing {
    inner: SharedMap<u32>,
    fails: Arc<AtomicBool>,
}

impl Failing {
    fn check(&self) -> cache_core::Result<()> {
        let fails = self.fails.load(SeqCst);
        if fails { Err(Error::new(ErrorKind::Unavailable, "down")) } else { Ok(()) }
    }
}

impl Store for Failing {
    type Value = u32;

    fn profile(&self) -> cache_core::Profile {
        Store::profile(&self.inner)
    }

    async fn get(&self, key: &Key) -> cache_core::Result<Option<Entry<u32>>> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn lease(&self, key: &Key) -> cache_core::Result<Ticket> {
        self.check()?;
        self.inner.lease(key).await
    }

    async fn fill(&self, write: Write<u32>) -> cache_core::Result<bool> {
        self.check()?;
        self.inner.fill(write).await
    }

    async fn set(&self, write: Write<u32>) -> cache_core::Result<()> {
        self.check()?;
        self.inner.set(write).await
    }

    async fn del(&self, key: &Key) -> cache_core::Result<()> {
        self.check()?;
        self.inner.del(key).await
    }

    async fn clear(&self) -> cache_core::Result<()> {
        self.check()?;
        self.inner.clear().await
    }

    async fn wait(&self) -> cache_core::Result<()> {
        Ok(())
    }
}

/// A stream that does not announce deletions is what the auditor is for.
#[tokio::test]
async fn the_auditor_finds_what_no_stream_has_announced() {
    let audited = Coherence::new().heartbeat(Duration::from_millis(10)).audit(1);
    let right = SharedMap::new();
    let wrong = SharedMap::with_mistake(StreamMistake::N3);
    for (shared, disagrees) in [(&right, false), (&wrong, true)] {
        let instance = Instance::with(shared, audited.clone()).await;
        set(shared, "k", 1).await;
        instance.warm("k").await;
        assert_eq!(instance.source("k").await, memory());
        del(shared, "k").await;
        while instance.chain.stats().coherence.audited == 0 {
            shared.prove();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(instance.chain.stats().coherence.disagreed, u64::from(disagrees));
    }
}

#[tokio::test]
async fn invalidate_leaves_the_applications_own_data_alone() {
    let data = Arc::new(Mutex::new(vec![]));
    let deleted = Arc::clone(&data);
    let origin = Origin::new(|_: Key| async { Ok::<_, std::io::Error>(Some(1)) }).del_through(move |key: Key| {
        deleted.lock().unwrap().push(key);
        async { Ok::<_, std::io::Error>(()) }
    });
    let (memory, shared) = (MapStore::new(), SharedMap::new());
    let tiers = ChainCache::builder().tier(memory.clone()).tier(shared.clone()).tier(origin);
    let chain: ChainCache<u32> = tiers.build().unwrap();
    let keys = [Key::new("a").unwrap(), Key::new("b").unwrap()];
    for all in [false, true] {
        assert_eq!(chain.get_many(["a", "b"]).await.unwrap(), [Some(1); 2]);
        chain.wait().await.unwrap();
        assert!(keys.iter().all(|key| memory.holds(key)));
        if all { chain.invalidate_all().await } else { chain.invalidate(["a", "b"]).await }.unwrap();
        for key in &keys {
            assert!(!memory.holds(key) && shared.get(key).await.unwrap().is_none());
        }
    }
    assert!(data.lock().unwrap().is_empty());
    assert_eq!((chain.stats().writes.invalidated, chain.stats().writes.cleared), (2, 1));
    chain.del("a").await.unwrap();
    assert_eq!(*data.lock().unwrap(), keys[..1]);
}

#[tokio::test]
async fn a_token_of_a_chain_without_a_clock_asks_the_shared_tier() {
    let shared = SharedMap::new();
    let (a, b) = (Instance::over(&shared).await, Instance::over(&shared).await);
    let token = a.chain.set_with_token("k", 1).await.unwrap();
    assert_eq!(token.to_string(), "0");
    b.warm("k").await;
    let hits = |instance: &Instance| instance.chain.stats().tiers.iter().map(|tier| tier.hits).collect::<Vec<_>>();
    let before = hits(&b);
    assert_eq!(b.chain.get_at_least("k", token).await.unwrap(), Some(1));
    assert_eq!(hits(&b), [before[0], before[1] + 1]);
    let token: FreshnessToken = a.chain.del_with_token("k").await.unwrap();
    assert_eq!(b.chain.get_at_least("k", token).await.unwrap(), None);
}

/// A lookup that began before the write of the token may have read the value before it.
#[tokio::test]
async fn a_read_with_a_token_joins_no_earlier_lookup() {
    let shared = SharedMap::new();
    let scripted = ScriptedStore::new(shared.clone());
    let chain: ChainCache<u32> = ChainCache::builder().tier(scripted.clone()).build().unwrap();
    set(&shared, "k", 1).await;
    let (gate, has_read) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let (held, is_first) = (gate.clone(), Arc::clone(&has_read));
    scripted.at_every_step(move |operation, phase| {
        let is_held = (operation, phase) == (Operation::Get, Phase::After) && !is_first.swap(true, SeqCst);
        let gate = held.clone();
        async move {
            if is_held {
                gate.passed().await;
            }
        }
    });
    let earlier = tokio::spawn({
        let chain = chain.clone();
        async move { chain.get("k").await }
    });
    while !has_read.load(SeqCst) {
        tokio::task::yield_now().await;
    }
    set(&shared, "k", 2).await;
    let token = "0".parse().unwrap();
    assert_eq!(chain.get_at_least("k", token).await.unwrap(), Some(2));
    gate.open();
    assert_eq!(earlier.await.unwrap().unwrap(), Some(1), "it has waited meanwhile");
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    for (settings, what) in [
        (Coherence::new().heartbeat(Duration::ZERO), "heartbeat"),
        (Coherence::new().heartbeat(Duration::MAX), "heartbeat"),
        (Coherence::new().audit(0), "audit"),
    ] {
        let chain = ChainCache::<u32>::builder().tier(MapStore::new()).coherence(settings).build();
        let error = chain.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(what), "{error}");
    }
}

/// A chain of memory, a shared tier and a database. Others change the database.
#[tokio::test]
async fn a_stream_far_below_deletes_from_shared_tiers_if_it_is_told_to() {
    for is_told in [false, true] {
        let (shared, database, memory) = (SharedMap::new(), SharedMap::new(), MapStore::new());
        let lowest = Tier::new(database.clone()).name("database");
        let lowest = if is_told { lowest.invalidates_shared_tiers() } else { lowest };
        let tiers = ChainCache::builder().tier(memory).tier(Tier::new(shared.clone()).name("shared")).tier(lowest);
        let chain: ChainCache<u32> = tiers.build().unwrap();
        while !chain.stats().coherence.trusted {
            tokio::task::yield_now().await;
        }
        set(&database, "k", 1).await;
        assert_eq!(chain.get("k").await.unwrap(), Some(1));
        chain.wait().await.unwrap();
        let key = Key::new("k").unwrap();
        assert!(shared.get(&key).await.unwrap().is_some());
        set(&database, "k", 2).await;
        assert_eq!(chain.get("k").await.unwrap(), Some(if is_told { 2 } else { 1 }));
        chain.wait().await.unwrap();
        assert_eq!(shared.get(&key).await.unwrap().and_then(Entry::into_value), Some(if is_told { 2 } else { 1 }));
    }
}

/// Nobody announces the deletion of a key that the shared tier does not hold.
#[tokio::test]
async fn g2_what_the_shared_tier_does_not_get_is_not_trusted() {
    let (shared, memory) = (SharedMap::new(), MapStore::new());
    let tiers = ChainCache::builder().tier(memory.clone()).tier(Tier::new(shared.clone()).name("shared"));
    let chain: ChainCache<u32> = tiers.build().unwrap();
    while !chain.stats().coherence.trusted {
        tokio::task::yield_now().await;
    }
    let skip = CallOptions::new().skip_write("shared");
    let load = || async { Ok::<_, std::io::Error>(1) };
    assert_eq!(chain.with(&skip).get_or_load("k", load).await.unwrap(), 1);
    chain.wait().await.unwrap();
    assert!(memory.holds(&Key::new("k").unwrap()));
    assert_eq!(chain.get("k").await.unwrap(), None);
}

/// A stale value is found in memory, is deleted elsewhere while the tiers below take their time, and
/// is not served then.
#[tokio::test]
async fn g2_a_stale_value_that_changes_during_the_lookup_is_not_served() {
    let clock = ManualClock::new();
    let shared = SharedMap::with_clock(clock.shared());
    let (scripted, memory) = (ScriptedStore::new(shared.clone()), MapStore::with_clock(clock.shared()));
    let tiers = ChainCache::builder().clock(clock.shared()).tier(Tier::new(memory).name("memory"));
    let tiers = tiers.tier(Tier::new(scripted.clone()).name("shared"));
    let tiers = tiers.read_through(ReadThrough::new().stale_for(Duration::from_secs(3600)));
    let chain: ChainCache<u32> = tiers.build().unwrap();
    while !chain.stats().coherence.trusted {
        tokio::task::yield_now().await;
    }
    let fresh_until = Expiry::At(clock.now().plus(Duration::from_secs(1)));
    let entry = Entry::new(1, Expiry::At(clock.now().plus(Duration::from_secs(3600)))).fresh_until(fresh_until);
    shared.set(Write::new(Key::new("k").unwrap(), entry, Ticket::unconditional())).await.unwrap();
    assert_eq!(chain.get("k").await.unwrap(), Some(1));
    chain.wait().await.unwrap();
    clock.advance(Duration::from_secs(2));
    let lenient = CallOptions::new().serve_stale(ServeStale::AtOnce);
    let found = chain.with(&lenient).get_detailed("k").await.unwrap();
    assert_eq!((found.value, found.stale, found.source), (Some(1), true, Source::Tier("memory".into())));
    scripted.at_every_step(move |operation, phase| {
        let shared = shared.clone();
        async move {
            if (operation, phase) == (Operation::Get, Phase::Before) {
                del(&shared, "k").await;
            }
        }
    });
    assert_eq!(chain.with(&lenient).get("k").await.unwrap(), None);
}

//! Options of single calls: TTL, age, reload, tiers left out.

mod support;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded, Source, Tier, Ttl};
use cache_core::{
    Entry, Expiry, LocalStore, ManualClock, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, ScriptedStore},
};
use support::{key, settle};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A chain of memory, "L1 map", over a remote store, "L2 map".
struct Rig {
    chain: ChainCache<usize>,
    memory: MapStore<usize>,
    lower: ScriptedStore<MapStore<usize>>,
    clock: ManualClock,
    loads: Arc<AtomicUsize>,
}

impl Rig {
    fn new() -> Self {
        let clock = ManualClock::new();
        let memory = MapStore::with_clock(clock.shared());
        let lower = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let chain = ChainCache::builder().clock(clock.shared()).tier(memory.clone()).tier(lower.clone());
        Self { chain: chain.build().unwrap(), memory, lower, clock, loads: Arc::default() }
    }

    /// Loads the number of the load, from 100 on.
    fn loader(&self) -> impl FnOnce() -> std::future::Ready<io::Result<usize>> + Clone + Send + use<> {
        let loads = Arc::clone(&self.loads);
        move || std::future::ready(Ok(100 + loads.fetch_add(1, SeqCst)))
    }

    fn in_memory(&self) -> Option<usize> {
        LocalStore::get(&self.memory, &key("k")).and_then(Entry::into_value)
    }

    fn below(&self) -> Option<usize> {
        LocalStore::get(self.lower.inner(), &key("k")).and_then(Entry::into_value)
    }

    /// Puts a value that was made now into the lower tier alone.
    async fn put_below(&self, value: usize) {
        let entry = Entry::new(value, Expiry::Never).created_at(cache_core::Clock::now(&self.clock));
        let write = Write::new(key("k"), entry, Ticket::unconditional());
        Store::set(self.lower.inner(), write).await.unwrap();
    }
}

#[tokio::test]
async fn the_ttl_of_a_call_applies_to_what_it_sets_and_loads() {
    let rig = Rig::new();
    let minute = CallOptions::new().ttl(MINUTE);
    rig.chain.with(&minute).set("set", 1).await.unwrap();
    rig.chain.with(&minute).set_many([("many", 1)]).await.unwrap();
    rig.chain.with(&minute).get_or_load("loaded", rig.loader()).await.unwrap();
    let load = |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 1))) };
    rig.chain.with(&minute).get_or_load_many(["batch"], load).await.unwrap();
    for key in ["set", "many", "loaded", "batch"] {
        assert_eq!(rig.chain.get_with_ttl(key).await.unwrap().unwrap().1, Ttl::After(MINUTE), "{key}");
    }
    // The loader knows better.
    let own = || async { Ok::<_, io::Error>(Loaded::new(1).ttl(SECOND)) };
    rig.chain.with(&minute).get_or_load("own", own).await.unwrap();
    assert_eq!(rig.chain.get_with_ttl("own").await.unwrap().unwrap().1, Ttl::After(SECOND));
    rig.chain.with(&minute).set_with_ttl("own", 2, 2 * SECOND).await.unwrap();
    assert_eq!(rig.chain.get_with_ttl("own").await.unwrap().unwrap().1, Ttl::After(2 * SECOND));
    // The news that there is no value keeps its own TTL.
    let absent = || async { Ok::<_, io::Error>(None::<usize>) };
    rig.chain.with(&minute).get_or_load("absent", absent).await.unwrap();
    let entry = LocalStore::get(&rig.memory, &key("absent")).unwrap();
    assert_eq!(entry.remaining(cache_core::Clock::now(&rig.clock)), Ttl::After(5 * SECOND));
    let zero = CallOptions::new().ttl(Duration::ZERO);
    assert_eq!(rig.chain.with(&zero).set("k", 1).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_value_that_is_too_old_is_looked_for_below_and_loaded() {
    let rig = Rig::new();
    let recent = CallOptions::new().max_age(5 * SECOND);
    rig.chain.set("k", 1).await.unwrap();
    rig.clock.advance(5 * SECOND);
    assert_eq!(rig.chain.with(&recent).get("k").await.unwrap(), Some(1), "exactly that old");
    assert_eq!(rig.chain.with(&recent).get_or_load("k", rig.loader()).await.unwrap(), 1);
    rig.clock.advance(SECOND);
    assert_eq!(rig.chain.with(&recent).get("k").await.unwrap(), None);
    assert_eq!(rig.chain.with(&recent).get_many(["k"]).await.unwrap(), [None]);
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(1), "others still get it");
    // A younger one below is found, and fills memory.
    rig.put_below(2).await;
    assert_eq!(rig.chain.with(&recent).get("k").await.unwrap(), Some(2));
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.in_memory(), Some(2));
    rig.clock.advance(6 * SECOND);
    let found = rig.chain.with(&recent).get_or_load_detailed("k", rig.loader()).await.unwrap();
    assert_eq!((found.value, found.source, found.age), (Some(100), Source::Loaded, Some(Duration::ZERO)));
    assert_eq!((rig.in_memory(), rig.below()), (Some(100), Some(100)));
    rig.clock.advance(6 * SECOND);
    let load = |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) };
    assert_eq!(rig.chain.with(&recent).get_or_load_many(["k"], load).await.unwrap(), [Some(7)]);
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(7));
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.reloads), (2, 1));
}

#[tokio::test]
async fn if_a_value_that_is_too_old_cannot_be_loaded_it_stays_for_others() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.clock.advance(MINUTE);
    let recent = CallOptions::new().max_age(SECOND);
    let down = || async { Err::<usize, _>(io::Error::other("down")) };
    assert_eq!(rig.chain.with(&recent).get_or_load("k", down).await.unwrap_err().kind(), ErrorKind::Loader);
    assert_eq!((rig.in_memory(), rig.below()), (Some(1), Some(1)));
}

/// Without the time at which it was made, a value may be older than anything.
#[tokio::test]
async fn a_value_of_unknown_age_is_too_old() {
    let rig = Rig::new();
    let write = Write::new(key("k"), Entry::new(1, Expiry::Never), Ticket::unconditional());
    Store::set(&rig.memory, write).await.unwrap();
    let recent = CallOptions::new().max_age(Duration::MAX);
    assert_eq!(rig.chain.with(&recent).get("k").await.unwrap(), None);
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_reload_replaces_the_value_in_every_tier() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    let reload = CallOptions::new().reload().ttl(MINUTE);
    let found = rig.chain.with(&reload).get_or_load_detailed("k", rig.loader()).await.unwrap();
    assert_eq!((found.value, found.source, found.ttl), (Some(100), Source::Loaded, Ttl::After(MINUTE)));
    assert_eq!((rig.in_memory(), rig.below()), (Some(100), Some(100)));
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.reloads, stats.joined), (1, 1, 0));
    let load = |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) };
    assert_eq!(rig.chain.with(&reload).get_or_load_many(["k"], load).await.unwrap(), [Some(7)]);
    assert_eq!((rig.in_memory(), rig.below()), (Some(7), Some(7)));
    // What is not to be cached leaves nothing older behind.
    let uncached = || async { Ok::<_, io::Error>(Loaded::new(8).uncached()) };
    assert_eq!(rig.chain.with(&reload).get_or_load("k", uncached).await.unwrap(), Some(8));
    assert_eq!((rig.in_memory(), rig.below()), (None, None));
    // A reload that fails changes nothing.
    rig.chain.set("k", 1).await.unwrap();
    let down = || async { Err::<usize, _>(io::Error::other("down")) };
    assert_eq!(rig.chain.with(&reload).get_or_load("k", down).await.unwrap_err().kind(), ErrorKind::Loader);
    assert_eq!((rig.in_memory(), rig.below()), (Some(1), Some(1)));
}

/// A load that began before the call may have read what was replaced since.
#[tokio::test]
async fn reloads_share_a_load_that_begins_after_them_and_no_other() {
    let rig = Rig::new();
    let gate = Gate::default();
    let old = {
        let (chain, gate) = (rig.chain.clone(), gate.clone());
        let load = move || async move {
            gate.passed().await;
            Ok::<_, io::Error>(1)
        };
        tokio::spawn(async move { chain.get_or_load("k", load).await })
    };
    settle().await;
    let reloads: Vec<_> = (0..10)
        .map(|_| {
            let (chain, load) = (rig.chain.clone(), rig.loader());
            tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load("k", load).await })
        })
        .collect();
    settle().await;
    assert_eq!(rig.loads.load(SeqCst), 0);
    gate.open();
    assert_eq!(old.await.unwrap().unwrap(), 1);
    for reload in reloads {
        assert_eq!(reload.await.unwrap().unwrap(), 100);
    }
    assert_eq!((rig.loads.load(SeqCst), rig.in_memory(), rig.below()), (1, Some(100), Some(100)));
}

/// Another process began to load before the reload, and ends after it.
#[tokio::test]
async fn an_older_load_of_another_process_does_not_undo_a_reload() {
    let rig = Rig::new();
    let gate = Gate::default();
    let other = ChainCache::builder().clock(rig.clock.shared()).tier(rig.lower.clone()).build().unwrap();
    let old = {
        let (other, gate) = (other.clone(), gate.clone());
        let load = move || async move {
            gate.passed().await;
            Ok::<_, io::Error>(1)
        };
        tokio::spawn(async move { other.get_or_load("k", load).await })
    };
    settle().await;
    let reload = CallOptions::new().reload();
    assert_eq!(rig.chain.with(&reload).get_or_load("k", rig.loader()).await.unwrap(), 100);
    gate.open();
    assert_eq!(old.await.unwrap().unwrap(), 1);
    other.wait().await.unwrap();
    assert_eq!(rig.below(), Some(100));
}

/// The write is newer than what the reload has read.
#[tokio::test]
async fn a_reload_does_not_undo_a_write() {
    let rig = Rig::new();
    let gate = Gate::default();
    let reload = {
        let (chain, gate) = (rig.chain.clone(), gate.clone());
        let load = move || async move {
            gate.passed().await;
            Ok::<_, io::Error>(1)
        };
        tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load("k", load).await })
    };
    settle().await;
    rig.chain.set("k", 2).await.unwrap();
    gate.open();
    assert_eq!(reload.await.unwrap().unwrap(), 1);
    assert!(rig.in_memory().is_none_or(|value| value == 2), "{:?}", rig.in_memory());
    assert!(rig.below().is_none_or(|value| value == 2), "{:?}", rig.below());
}

/// Where the tier below failed, it is not known what it holds, so the tiers above hold nothing.
#[tokio::test]
async fn a_reload_whose_write_fails_below_leaves_nothing_above() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.lower.fail(Operation::Set, ErrorKind::Unavailable);
    let reload = CallOptions::new().reload();
    assert_eq!(rig.chain.with(&reload).get_or_load("k", rig.loader()).await.unwrap(), 100);
    assert_eq!(rig.in_memory(), None);
    rig.lower.heal();
    assert_eq!(rig.chain.get("k").await.unwrap(), None, "the old value is not read");
}

#[tokio::test]
async fn a_tier_that_is_not_read_is_still_filled() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.put_below(2).await;
    let below = CallOptions::new().skip_read("L1 map");
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(1));
    let found = rig.chain.with(&below).get_detailed("k").await.unwrap();
    assert_eq!((found.value, found.source), (Some(2), Source::Tier("L2 map".into())));
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.in_memory(), Some(2));
    rig.put_below(3).await;
    assert_eq!(rig.chain.with(&below).get_many(["k"]).await.unwrap(), [Some(3)]);
    rig.put_below(4).await;
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 4);
    // The other way round: nothing but memory is asked.
    let memory = CallOptions::new().skip_read("L2 map");
    let asked = rig.lower.calls_of(Operation::Get);
    assert_eq!(rig.chain.with(&memory).get("absent").await.unwrap(), None);
    assert_eq!(rig.lower.calls_of(Operation::Get), asked);
}

#[tokio::test]
async fn a_tier_that_is_not_written_holds_nothing_older() {
    let rig = Rig::new();
    let below = CallOptions::new().skip_write("L1 map");
    rig.chain.set("k", 1).await.unwrap();
    rig.chain.with(&below).set("k", 2).await.unwrap();
    assert_eq!((rig.in_memory(), rig.below()), (None, Some(2)));
    assert_eq!(rig.chain.with(&below).get("k").await.unwrap(), Some(2));
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 2);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.in_memory(), None, "it is not filled");
    rig.chain.del("k").await.unwrap();
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 100);
    let load = |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) };
    assert_eq!(rig.chain.with(&below).get_or_load_many(["other"], load).await.unwrap(), [Some(7)]);
    rig.chain.wait().await.unwrap();
    assert_eq!((rig.in_memory(), rig.below()), (None, Some(100)));
    assert_eq!(LocalStore::get(&rig.memory, &key("other")), None);
    let backfill = rig.chain.stats().backfill;
    assert_eq!((backfill.applied, backfill.failed), (2, 0), "and that is no failure");
    // Memory alone.
    let memory = CallOptions::new().skip_write("L2 map");
    rig.chain.with(&memory).set("k", 3).await.unwrap();
    assert_eq!((rig.in_memory(), rig.below()), (Some(3), None));
}

#[tokio::test]
async fn an_origin_that_is_not_written_is_left_alone() {
    let calls = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&calls);
    let origin = cache_core::Origin::new(|_| async { Ok::<_, io::Error>(Some(1_usize)) })
        .write_through(move |_, _| {
            written.fetch_add(1, SeqCst);
            std::future::ready(Ok::<_, io::Error>(()))
        })
        .del_through(|_| async { Err(io::Error::other("must not be called")) });
    let chain = ChainCache::builder().tier(MapStore::new()).tier(Tier::new(origin).name("table")).build().unwrap();
    chain.with(&CallOptions::new().skip_write("table")).set("k", 2).await.unwrap();
    assert_eq!((calls.load(SeqCst), chain.get("k").await.unwrap()), (0, Some(2)));
    // A reload does not write it either.
    let load = || async { Ok::<_, io::Error>(3) };
    assert_eq!(chain.with(&CallOptions::new().reload()).get_or_load("k", load).await.unwrap(), 3);
    assert_eq!((calls.load(SeqCst), chain.get("k").await.unwrap()), (0, Some(3)));
}

#[tokio::test]
async fn an_unknown_tier_is_an_error_that_names_those_there_are() {
    let rig = Rig::new();
    for options in [CallOptions::new().skip_read("redis"), CallOptions::new().skip_write("redis")] {
        let error = rig.chain.with(&options).get("k").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), r#"no tier of the chain is named "redis"; the tiers are ["L1 map", "L2 map"]"#);
        assert!(rig.chain.with(&options).set("k", 1).await.is_err());
        assert!(rig.chain.with(&options).get_or_load("k", rig.loader()).await.is_err());
    }
}

//! Options of single calls: TTL, age, reload, tiers left out.

mod support;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded, ReadThrough, ServeStale, Source, Tier, Ttl};
use cache_core::{
    Entry, Expiry, LocalStore, ManualClock, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, Phase, ScriptedStore},
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
    assert_eq!((stats.started, stats.reloads), (2, 2));
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
    // An uncached result removes the older value.
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

/// The content of a tier that failed is unknown, so the tiers above it hold nothing.
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

/// If the value in memory is stale, the tiers below are read again, as the options say.
#[tokio::test]
async fn tiers_are_left_out_of_a_refresh_as_well() {
    let stale_rig = async || {
        let mut rig = Rig::new();
        let settings = ReadThrough::new().stale_for(MINUTE).serve_stale(ServeStale::IfLoadFails);
        let chain = ChainCache::builder().clock(rig.clock.shared()).tier(rig.memory.clone()).tier(rig.lower.clone());
        rig.chain = chain.read_through(settings).build().unwrap();
        rig.chain.set_with_ttl("k", 1, SECOND).await.unwrap();
        rig.clock.advance(SECOND);
        rig.put_below(2).await;
        rig
    };
    let rig = stale_rig().await;
    let memory = CallOptions::new().skip_read("L2 map");
    let asked = rig.lower.calls_of(Operation::Get);
    assert_eq!(rig.chain.with(&memory).get_or_load("k", rig.loader()).await.unwrap(), 100);
    assert_eq!(rig.lower.calls_of(Operation::Get), asked);

    let rig = stale_rig().await;
    let below = CallOptions::new().skip_write("L1 map");
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 2);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.in_memory(), Some(1), "it is not filled");
}

/// The loader has read the origin before the caller comes, and the flight of the key begins after
/// that.
#[tokio::test]
async fn a_reload_does_not_get_what_a_batch_had_read_before() {
    let rig = Rig::new();
    let memory = ChainCache::builder().clock(rig.clock.shared()).tier(rig.memory.clone()).build().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let (chain, reload) = (memory.clone(), rig.loader());
    let load = move |keys: Vec<&'static str>| {
        // On a thread of its own, it is no call of this loader.
        let call = move || {
            let mut call: Pin<Box<dyn Future<Output = _> + Send>> =
                Box::pin(async move { chain.with(&CallOptions::new().reload()).get_or_load("k", reload).await });
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(call.as_mut().poll(&mut context).is_pending());
            send.send(call).unwrap();
        };
        std::thread::spawn(call).join().unwrap();
        async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 1))) }
    };
    assert_eq!(memory.get_or_load_many(["k"], load).await.unwrap(), [Some(1)]);
    assert_eq!(receive.recv().unwrap().await.unwrap(), 100);
}

#[tokio::test]
async fn a_batch_that_names_a_key_twice_reloads_it_once() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.clock.advance(MINUTE);
    for options in [CallOptions::new().reload(), CallOptions::new().max_age(SECOND)] {
        let calls = Arc::new(AtomicUsize::new(0));
        for fails in [false, true] {
            let counted = Arc::clone(&calls);
            let load = move |keys: Vec<&'static str>| async move {
                counted.fetch_add(keys.len(), SeqCst);
                if fails { Err(io::Error::other("down")) } else { Ok(keys.into_iter().map(|key| (key, 7))) }
            };
            let found = rig.chain.with(&options).get_or_load_many(["k", "k"], load).await;
            let found = found.map_err(|error| error.kind());
            assert_eq!(found, if fails { Err(ErrorKind::Loader) } else { Ok(vec![Some(7); 2]) });
            rig.clock.advance(MINUTE);
        }
        assert_eq!(calls.load(SeqCst), 2);
    }
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.reloads, stats.joined), (4, 4, 4));
}

/// One call for all keys whose loads had begun before, not one for each.
#[tokio::test(start_paused = true)]
async fn a_batch_reloads_what_others_were_loading_by_one_call() {
    let rig = Rig::new();
    let gate = Gate::default();
    let calls: Arc<std::sync::Mutex<Vec<Vec<&str>>>> = Arc::default();
    let load = |value: usize, gate: &Gate, fails: bool| {
        let (gate, calls) = (gate.clone(), Arc::clone(&calls));
        move |keys: Vec<&'static str>| async move {
            calls.lock().unwrap().push(keys.clone());
            gate.passed().await;
            let loaded = keys.into_iter().map(|key| {
                if fails && key == "a" { (key, Loaded::new(0).ttl(Duration::ZERO)) } else { (key, Loaded::new(value)) }
            });
            Ok::<_, io::Error>(loaded.collect::<Vec<_>>())
        }
    };
    let old = {
        let (chain, load) = (rig.chain.clone(), load(1, &gate, false));
        tokio::spawn(async move { chain.get_or_load_many(["a", "b"], load).await })
    };
    settle().await;
    let open = Gate::default();
    open.open();
    let reload = CallOptions::new().reload();
    let chain = rig.chain.with(&reload);
    let (found, ()) = tokio::join!(chain.get_or_load_many(["a", "b", "c"], load(2, &open, false)), async {
        tokio::time::sleep(SECOND).await;
        gate.open();
    });
    assert_eq!(found.unwrap(), [Some(2), Some(2), Some(2)]);
    assert_eq!(old.await.unwrap().unwrap(), [Some(1), Some(1)]);
    assert_eq!(std::mem::take(&mut *calls.lock().unwrap()), [vec!["a", "b"], vec!["c"], vec!["a", "b"]]);
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.reloads, stats.joined, stats.in_flight), (3, 2, 0));
    // The first error is returned, and the other keys are loaded nevertheless.
    let gate = Gate::default();
    let old = {
        let (chain, load) = (rig.chain.clone(), load(3, &gate, false));
        tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load_many(["a", "b"], load).await })
    };
    settle().await;
    let (found, ()) = tokio::join!(chain.get_or_load_many(["a", "b"], load(4, &open, true)), async {
        tokio::time::sleep(SECOND).await;
        gate.open();
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(old.await.unwrap().unwrap(), [Some(3), Some(3)]);
    assert_eq!((rig.chain.get("a").await.unwrap(), rig.chain.get("b").await.unwrap()), (Some(3), Some(4)));
}

/// A load that is in flight brings a young value.
#[tokio::test(start_paused = true)]
async fn a_call_for_a_young_value_joins_the_load_in_flight() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.clock.advance(MINUTE);
    let recent = CallOptions::new().max_age(SECOND);
    for is_batch in [false, true] {
        rig.clock.advance(MINUTE);
        let gate = Gate::default();
        let load = |value: usize, gate: &Gate| {
            let gate = gate.clone();
            move |keys: Vec<&'static str>| async move {
                gate.passed().await;
                Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, value)))
            }
        };
        let first = {
            let (chain, load, recent) = (rig.chain.clone(), load(2, &gate), recent.clone());
            tokio::spawn(async move { chain.with(&recent).get_or_load_many(["k"], load).await })
        };
        settle().await;
        let second = async {
            if is_batch {
                rig.chain.with(&recent).get_or_load_many(["k"], load(3, &gate)).await.unwrap()[0].unwrap()
            } else {
                rig.chain.with(&recent).get_or_load("k", rig.loader()).await.unwrap()
            }
        };
        let (second, ()) = tokio::join!(second, async {
            settle().await;
            gate.open();
        });
        assert_eq!((first.await.unwrap().unwrap(), second), (vec![Some(2)], 2), "batch: {is_batch}");
    }
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.reloads, stats.joined), (2, 2, 2));
}

/// The absence is fresh, and too old for the call.
#[tokio::test]
async fn the_news_that_there_is_no_value_ages_as_well() {
    let rig = Rig::new();
    let absent = || async { Ok::<_, io::Error>(None::<usize>) };
    let recent = CallOptions::new().max_age(SECOND);
    let load = |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) };
    for is_batch in [false, true] {
        rig.chain.del("k").await.unwrap();
        assert_eq!(rig.chain.get_or_load("k", absent).await.unwrap(), None);
        rig.chain.wait().await.unwrap();
        rig.clock.advance(2 * SECOND);
        assert_eq!(rig.chain.get_or_load("k", absent).await.unwrap(), None, "others still get it");
        let chain = rig.chain.with(&recent);
        let found = if is_batch {
            chain.get_or_load_many(["k"], load).await.unwrap()[0]
        } else {
            chain.get_or_load("k", || async { Ok::<_, io::Error>(Some(7)) }).await.unwrap()
        };
        assert_eq!((found, rig.in_memory(), rig.below()), (Some(7), Some(7), Some(7)), "batch: {is_batch}");
    }
    assert_eq!(rig.chain.stats().loads.reloads, 2);
}

/// An older load of another process must not undo it, as with a reload.
#[tokio::test]
async fn a_batch_for_young_values_replaces_the_old_ones() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.clock.advance(MINUTE);
    let recent = CallOptions::new().max_age(SECOND);
    let load = |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) };
    let sets = rig.lower.calls_of(Operation::Set);
    assert_eq!(rig.chain.with(&recent).get_or_load_many(["k"], load).await.unwrap(), [Some(7)]);
    assert_eq!(rig.lower.calls_of(Operation::Set), sets + 1);
}

/// The wait for an older load and that for the reload together.
#[tokio::test(start_paused = true)]
async fn a_reload_waits_no_longer_than_for_one_load() {
    let rig = Rig::new();
    let old = {
        let chain = rig.chain.clone();
        let load = || async {
            tokio::time::sleep(8 * SECOND).await;
            Ok::<_, io::Error>(1)
        };
        tokio::spawn(async move { chain.get_or_load("k", load).await })
    };
    settle().await;
    let started = tokio::time::Instant::now();
    let slow = || async {
        tokio::time::sleep(8 * SECOND).await;
        Ok::<_, io::Error>(2)
    };
    let slow_batch = |keys: Vec<&'static str>| async {
        tokio::time::sleep(8 * SECOND).await;
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 2)))
    };
    let reload = CallOptions::new().reload();
    let chain = rig.chain.with(&reload);
    let single = async {
        let result = chain.get_or_load("k", slow).await;
        (result.unwrap_err().kind(), started.elapsed())
    };
    let batch = async {
        let result = chain.get_or_load_many(["k"], slow_batch).await;
        (result.unwrap_err().kind(), started.elapsed())
    };
    let limit = (ErrorKind::Timeout, 10 * SECOND);
    assert_eq!(tokio::join!(single, batch), (limit, limit));
    assert_eq!(old.await.unwrap().unwrap(), 1);
}

/// However an older load ends, the reload is another one.
#[tokio::test]
async fn a_reload_does_not_get_the_failure_of_an_older_load() {
    for is_batch in [false, true] {
        for failure in ["error", "panic", "zero"] {
            let rig = Rig::new();
            let gate = Gate::default();
            let old = {
                let (chain, gate) = (rig.chain.clone(), gate.clone());
                let load = move || async move {
                    gate.passed().await;
                    match failure {
                        "error" => Err(io::Error::other("down")),
                        "panic" => panic!("in the loader"),
                        _ => Ok(Loaded::new(1).ttl(Duration::ZERO)),
                    }
                };
                tokio::spawn(async move { chain.get_or_load("k", load).await })
            };
            settle().await;
            let reload = CallOptions::new().reload();
            let call = async {
                if is_batch {
                    let load =
                        |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 100))) };
                    rig.chain.with(&reload).get_or_load_many(["k"], load).await.map(|values| values[0].unwrap())
                } else {
                    rig.chain.with(&reload).get_or_load("k", rig.loader()).await
                }
            };
            let (found, ()) = tokio::join!(call, async {
                settle().await;
                gate.open();
            });
            assert_eq!(found.unwrap(), 100, "{failure}, batch: {is_batch}");
            assert!(old.await.unwrap().is_err());
        }
    }
}

/// Without another read of that tier: other processes read it.
#[tokio::test(start_paused = true)]
async fn what_a_reload_could_not_replace_is_deleted_in_the_background() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.lower.fail(Operation::Set, ErrorKind::Unavailable);
    let reload = CallOptions::new().reload();
    assert_eq!(rig.chain.with(&reload).get_or_load("k", rig.loader()).await.unwrap(), 100);
    rig.lower.heal();
    assert_eq!(rig.below(), Some(1));
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(rig.below(), None);
}

/// As with a `set`, the tiers do not stay half written.
#[tokio::test]
async fn a_reload_that_has_begun_to_write_is_completed() {
    let rig = Rig::new();
    rig.chain.set("k", 1).await.unwrap();
    let gate = rig.lower.stall(Operation::Set);
    let call = {
        let (chain, load) = (rig.chain.clone(), rig.loader());
        tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load("k", load).await })
    };
    settle().await;
    call.abort();
    settle().await;
    gate.open();
    settle().await;
    assert_eq!((rig.in_memory(), rig.below()), (Some(100), Some(100)));
}

#[tokio::test]
async fn a_flood_of_reloads_costs_two_loads() {
    let rig = Rig::new();
    for options in [CallOptions::new().reload(), CallOptions::new().max_age(SECOND)] {
        rig.chain.set("k", 1).await.unwrap();
        rig.clock.advance(MINUTE);
        let before = rig.loads.load(SeqCst);
        let callers: Vec<_> = (0..10_000)
            .map(|_| {
                let (chain, load, options) = (rig.chain.clone(), rig.loader(), options.clone());
                let load = move || async {
                    tokio::task::yield_now().await;
                    load().await
                };
                tokio::spawn(async move { chain.with(&options).get_or_load("k", load).await })
            })
            .collect();
        for caller in callers {
            assert!(caller.await.unwrap().unwrap() >= 100);
        }
        let loads = rig.loads.load(SeqCst) - before;
        assert!((1..=2).contains(&loads), "{loads} loads");
        assert_eq!(rig.chain.stats().loads.in_flight, 0);
    }
}

/// A load that they share fails for all of them.
#[tokio::test]
async fn reloads_that_fail_are_not_repeated_by_each_caller() {
    let rig = Rig::new();
    let gate = Gate::default();
    let (first, loads) = (gate.clone(), Arc::clone(&rig.loads));
    let load = move || async move {
        first.passed().await;
        loads.fetch_add(1, SeqCst);
        Err::<usize, _>(io::Error::other("down"))
    };
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let (chain, load) = (rig.chain.clone(), load.clone());
            tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load("k", load).await })
        })
        .collect();
    settle().await;
    gate.open();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap_err().kind(), ErrorKind::Loader);
    }
    assert_eq!(rig.loads.load(SeqCst), 2);
}

#[tokio::test]
async fn a_reload_keeps_to_the_limits_of_each_tier() {
    let clock = ManualClock::new();
    let stores = [(); 2].map(|()| MapStore::with_clock(clock.shared()));
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(Tier::new(stores[0].clone()).max_ttl(SECOND))
        .tier(Tier::new(stores[1].clone()).max_ttl(MINUTE))
        .build()
        .unwrap();
    let reload = CallOptions::new().reload();
    chain.with(&reload).get_or_load("k", || async { Ok::<_, io::Error>(1) }).await.unwrap();
    let now = cache_core::Clock::now(&clock);
    let left = stores.map(|store| LocalStore::get(&store, &key("k")).unwrap().remaining(now));
    assert_eq!(left, [Ttl::After(SECOND), Ttl::After(MINUTE)]);
}

/// A tier that has failed the lookup is not asked for leases.
#[tokio::test]
async fn a_batch_asks_a_tier_that_failed_for_nothing_more() {
    let rig = Rig::new();
    rig.lower.fail(Operation::Get, ErrorKind::Unavailable);
    let load = |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) };
    assert_eq!(rig.chain.get_or_load_many(["k"], load).await.unwrap(), [Some(7)]);
    assert_eq!(rig.lower.calls_of(Operation::Lease), 0);
}

/// It looked before the value was there, and is to find it where it looks, which is below.
#[tokio::test]
async fn a_tier_is_not_read_after_another_load_either() {
    let rig = Rig::new();
    let (gate, gets) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let late = gate.clone();
    rig.lower.at_every_step(move |operation, phase| {
        // The first answer is held back.
        let is_late = operation == Operation::Get && phase == Phase::After && gets.fetch_add(1, SeqCst) == 0;
        let late = late.clone();
        async move {
            if is_late {
                late.passed().await;
            }
        }
    });
    let call = {
        let (chain, load) = (rig.chain.clone(), rig.loader());
        let below = CallOptions::new().skip_read("L1 map");
        tokio::spawn(async move { chain.with(&below).get_or_load_detailed("k", load).await })
    };
    settle().await;
    assert_eq!(rig.chain.get_or_load("k", rig.loader()).await.unwrap(), 100);
    rig.chain.wait().await.unwrap();
    gate.open();
    let found = call.await.unwrap().unwrap();
    assert_eq!((found.value, found.source), (Some(100), Source::Tier("L2 map".into())));
}

/// Without a runtime of the caller, also if memory has all keys and is not asked.
#[test]
fn several_keys_are_read_below_memory_on_the_runtime_of_the_chain() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let rig = runtime.block_on(async {
        let rig = Rig::new();
        rig.chain.set("k", 1).await.unwrap();
        rig.put_below(2).await;
        rig
    });
    let below = CallOptions::new().skip_read("L1 map");
    let found = cache_core::testkit::block_on(rig.chain.with(&below).get_many(["k"]));
    assert_eq!(found.unwrap(), [Some(2)]);
}

/// A value whose clone panics, if it is the one that is to.
#[derive(Debug)]
struct Cloned(usize, Arc<AtomicUsize>);

impl Clone for Cloned {
    fn clone(&self) -> Self {
        let left = self.1.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(1))).unwrap_or_default();
        assert!(left != 1, "in the clone");
        Self(self.0, Arc::clone(&self.1))
    }
}

/// The tiers above must not keep an older value than those below.
#[tokio::test]
async fn a_value_that_panics_during_a_reload_leaves_no_older_one_above() {
    let mut failed = 0;
    for clone in 1..8 {
        let stores = [(); 2].map(|()| MapStore::new());
        let chain = ChainCache::builder().tier(stores[0].clone()).tier(stores[1].clone()).build().unwrap();
        let left = Arc::new(AtomicUsize::new(0));
        chain.set("k", Cloned(1, Arc::default())).await.unwrap();
        let value = Cloned(2, Arc::clone(&left));
        left.store(clone, SeqCst);
        let caller = chain.clone();
        // The clone for the caller panics in its own task.
        let call = tokio::spawn(async move {
            let reload = CallOptions::new().reload();
            caller.with(&reload).get_or_load("k", || async { Ok::<_, io::Error>(value) }).await.map(drop)
        });
        failed += usize::from(!matches!(call.await, Ok(Ok(()))));
        left.store(0, SeqCst);
        let values =
            stores.map(|store| LocalStore::get(&store, &key("k")).and_then(Entry::into_value).map(|value| value.0));
        assert!([[Some(1); 2], [Some(2); 2]].contains(&values), "clone {clone}: {values:?}");
        assert_eq!(chain.stats().loads.in_flight, 0);
    }
    assert!(failed > 1, "no clone panicked");
}

/// Also if others have loaded the keys during its lookup.
#[tokio::test]
async fn a_batch_reloads_its_keys_by_one_call() {
    let rig = Rig::new();
    let (gate, gets) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let late = gate.clone();
    rig.lower.at_every_step(move |operation, phase| {
        // The first answer is held back.
        let is_late = operation == Operation::Get && phase == Phase::After && gets.fetch_add(1, SeqCst) == 0;
        let late = late.clone();
        async move {
            if is_late {
                late.passed().await;
            }
        }
    });
    let batch = {
        let (chain, loads) = (rig.chain.clone(), Arc::clone(&rig.loads));
        let load = move |keys: Vec<&'static str>| {
            loads.fetch_add(1, SeqCst);
            async move { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) }
        };
        tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load_many(["a", "b"], load).await })
    };
    settle().await;
    for (key, value) in [("a", 100), ("b", 101)] {
        assert_eq!(rig.chain.get_or_load(key, rig.loader()).await.unwrap(), value);
    }
    gate.open();
    assert_eq!(batch.await.unwrap().unwrap(), [Some(7), Some(7)]);
    assert_eq!(rig.loads.load(SeqCst), 3);
}

//! Read-through: one load per key (G3), and the possible results of a loader.

mod support;

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
    time::Duration,
};

use cache_chain::{ChainCache, ErrorKind, Loaded, ReadThrough, Source, Tier, Ttl};
use cache_core::{
    Expiry,
    testkit::{Gate, MapStore, Operation, Phase, ScriptedStore, drop_after, join_all, yield_now},
};
use support::{Rig, settle};

/// A loader that counts its calls, waits at a gate, and brings what it is told to.
#[derive(Clone, Default)]
struct Origin {
    calls: Arc<AtomicUsize>,
    gate: Gate,
}

impl Origin {
    fn open() -> Self {
        let origin = Self::default();
        origin.gate.open();
        origin
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// A loader that brings this.
    fn loads<T: Send + 'static>(&self, outcome: T) -> impl FnOnce() -> Loading<T> + Send + use<T> {
        let origin = self.clone();
        move || {
            Box::pin(async move {
                origin.calls.fetch_add(1, SeqCst);
                origin.gate.passed().await;
                Ok(outcome)
            })
        }
    }
}

type Loading<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

fn owned(value: &str) -> String {
    value.to_owned()
}

#[tokio::test]
async fn g3_a_thousand_callers_of_a_cold_key_are_one_load_and_one_read_of_each_tier() {
    let (rig, origin) = (Rig::new(3), Origin::default());
    let reading = rig.stores[2].stall(Operation::Get);
    let callers = (0..1000).map(|_| rig.chain.get_or_load("k", origin.loads(owned("v"))));
    let all = async {
        tokio::join!(join_all(callers), async {
            settle().await;
            reading.open();
            settle().await;
            assert_eq!(rig.chain.stats().loads.in_flight, 1);
            origin.gate.open();
        })
        .0
    };
    for value in all.await {
        assert_eq!(value.unwrap(), "v");
    }
    assert_eq!(origin.calls(), 1);
    for store in &rig.stores {
        assert_eq!(store.calls_of(Operation::Get), 1);
    }
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.loaded, stats.joined, stats.in_flight), (1, 1, 999, 0));
    rig.chain.wait().await.unwrap();
    assert_eq!([0, 1, 2].map(|tier| rig.value(tier, "k")), [(); 3].map(|()| Some(owned("v"))), "every tier is filled");
}

/// A caller that goes on late finds what another load has filled into memory, although a lookup is
/// in flight that began before.
#[tokio::test]
async fn g3_a_late_caller_does_not_load_what_has_been_loaded_meanwhile() {
    let (below, origin) = (ScriptedStore::new(MapStore::new()), Origin::default());
    let chain: ChainCache<String> = ChainCache::builder().tier(MapStore::new()).tier(below.clone()).build().unwrap();
    let _not_below = below.stall(Operation::Fill);
    let call = || Box::pin(chain.get_or_load("k", origin.loads(owned("v"))));
    let (mut late, mut prompt, mut other) = (call(), call(), call());
    let reading = below.stall(Operation::Get);
    assert!(is_pending(late.as_mut()) && is_pending(prompt.as_mut()));
    settle().await;
    reading.open();
    settle().await;
    assert!(is_pending(prompt.as_mut()), "it loads");
    settle().await;
    let reading = below.stall(Operation::Get);
    assert!(is_pending(other.as_mut()), "it looks");
    settle().await;
    origin.gate.open();
    settle().await;
    assert!(is_pending(late.as_mut()));
    settle().await;
    reading.open();
    for call in [late, prompt, other] {
        assert_eq!(call.await.unwrap(), "v");
    }
    assert_eq!(origin.calls(), 1);
}

fn is_pending(call: Pin<&mut impl Future>) -> bool {
    call.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn g3_a_thousand_gets_of_a_cold_key_are_one_read_of_the_tier_below() {
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    let gate = rig.stores[1].stall(Operation::Get);
    let gets = (0..1000).map(|_| rig.chain.get("k"));
    let all = async {
        tokio::join!(join_all(gets), async {
            settle().await;
            gate.open();
        })
        .0
    };
    for value in all.await {
        assert_eq!(value.unwrap().as_deref(), Some("v"));
    }
    assert_eq!([0, 1].map(|tier| rig.stores[tier].calls_of(Operation::Get)), [1, 1]);
    assert_eq!(rig.stores[0].calls_of(Operation::Lease), 1);
}

/// Callers who come later find the value in the first tier, though the queue has not been drained
/// yet.
#[tokio::test]
async fn g3_who_comes_after_a_load_finds_it_in_a_local_tier() {
    let (memory, shared) = (MapStore::new(), MapStore::new());
    let shared = cache_core::testkit::ScriptedStore::new(shared);
    shared.stall(Operation::Fill);
    let chain: ChainCache<String> = ChainCache::builder().tier(memory).tier(shared.clone()).build().unwrap();
    let origin = Origin::open();
    for _ in 0..3 {
        assert_eq!(chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap(), "v");
    }
    assert_eq!(origin.calls(), 1);
    assert_eq!(shared.calls_of(Operation::Get), 1);
}

/// Dropped at every await, the first caller leaves the load to the second, which goes on where it
/// is.
#[tokio::test]
async fn g3_a_caller_that_goes_away_holds_up_nobody() {
    for polls in 0..48 {
        let (rig, calls) = (Rig::new(2), Arc::new(AtomicUsize::new(0)));
        for store in &rig.stores {
            store.at_every_step(|_, _| yield_now());
        }
        let counted = Arc::clone(&calls);
        let load = || async move {
            counted.fetch_add(1, SeqCst);
            for _ in 0..3 {
                yield_now().await;
            }
            Ok::<_, io::Error>(owned("v"))
        };
        let ((), second) =
            tokio::join!(drop_after(polls, rig.chain.get_or_load("k", load.clone())), rig.chain.get_or_load("k", load));
        assert_eq!(second.unwrap(), "v", "dropped after {polls} polls");
        assert_eq!(calls.load(SeqCst), 1, "dropped after {polls} polls");
        assert_eq!(rig.chain.stats().loads.in_flight, 0);
    }
}

#[tokio::test]
async fn g3_a_million_cancelled_flights_leave_nothing_behind() {
    let chain: ChainCache<String> = ChainCache::builder().tier(MapStore::new()).build().unwrap();
    let (million, origin) = (1_000_000, Origin::default());
    for number in 0..million {
        // As far as into the loader, which waits at a gate that is never opened.
        let mut flight = Box::pin(chain.get_or_load(number % 100, origin.loads(owned("v"))));
        assert!(flight.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        while origin.calls() == number {
            tokio::task::yield_now().await;
        }
        drop(flight);
    }
    settle().await;
    assert_eq!(origin.calls(), million);
    assert_eq!(Arc::strong_count(&origin.calls), 1, "a future of a loader is left");
    assert_eq!(chain.stats().loads.in_flight, 0);
    let open = Origin::open();
    assert_eq!(chain.get_or_load(7, open.loads(owned("v"))).await.unwrap(), "v");
}

#[tokio::test]
async fn g3_a_panic_reaches_all_who_wait_and_nothing_is_left() {
    let (rig, gate) = (Rig::new(2), Gate::default());
    let passed = gate.clone();
    let load = || async move {
        passed.passed().await;
        // Not known to the compiler, who would warn of what comes after.
        assert!(std::hint::black_box(false), "planned");
        Ok::<_, io::Error>(owned("never"))
    };
    let callers = (0..10).map(|_| rig.chain.get_or_load("k", load.clone()));
    let (outcomes, ()) = tokio::join!(join_all(callers), async {
        settle().await;
        gate.open();
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(!format!("{error:?}").contains("planned"), "a message of the application may hold a value");
    }
    // The closure itself may panic, too.
    let at_once = rig.chain.get_or_load("k", || -> std::future::Ready<io::Result<String>> { panic!("planned") });
    assert_eq!(at_once.await.unwrap_err().kind(), ErrorKind::Panicked);
    assert_eq!(rig.chain.stats().loads.in_flight, 0);
    let origin = Origin::open();
    assert_eq!(rig.chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap(), "v");
}

#[tokio::test]
async fn a_loaders_error_is_shared_and_can_be_taken_back_and_is_not_cached() {
    let (rig, calls, gate) = (Rig::new(2), Arc::new(AtomicUsize::new(0)), Gate::default());
    let passed = gate.clone();
    let load = move || async move {
        let number = calls.fetch_add(1, SeqCst);
        passed.passed().await;
        Err::<String, _>(Lost(number))
    };
    let callers = (0..3).map(|_| rig.chain.get_or_load("k", load.clone()));
    let (outcomes, ()) = tokio::join!(join_all(callers), async {
        settle().await;
        gate.open();
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Loader);
        assert_eq!(error.source_as::<Lost>(), Some(&Lost(0)), "all share the one error");
    }
    let error = rig.chain.get_or_load("k", load).await.unwrap_err();
    assert_eq!(error.source_as::<Lost>(), Some(&Lost(1)));
    let text = rig.chain.get_or_load("k", || async { Err::<String, _>("only text") }).await.unwrap_err();
    assert_eq!(std::error::Error::source(&text).unwrap().to_string(), "only text");
    assert_eq!([0, 1].map(|tier| rig.value(tier, "k")), [None, None]);
}

#[derive(Debug, PartialEq)]
struct Lost(usize);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lost {}", self.0)
    }
}

impl std::error::Error for Lost {}

#[tokio::test]
async fn absence_is_remembered_and_is_no_value() {
    let clock = cache_core::ManualClock::new();
    let memory = MapStore::with_clock(clock.shared());
    let chain: ChainCache<Option<String>> = ChainCache::builder()
        .clock(clock.shared())
        .tier(memory)
        .read_through(ReadThrough::new().negative_ttl(Duration::from_secs(5)))
        .build()
        .unwrap();
    let origin = Origin::open();
    // The type of the values has a `None` of its own: that is a value, and absence is not.
    for _ in 0..3 {
        assert_eq!(chain.get_or_load("absent", origin.loads(None::<Option<String>>)).await.unwrap(), None);
        assert_eq!(chain.get_or_load("none", origin.loads(Some(None::<String>))).await.unwrap(), Some(None));
    }
    assert_eq!(origin.calls(), 2);
    assert_eq!((chain.get("absent").await.unwrap(), chain.get("none").await.unwrap()), (None, Some(None)));
    assert_eq!(chain.get_with_ttl("absent").await.unwrap(), None);
    assert_eq!(chain.get_many(["absent", "none"]).await.unwrap(), [None, Some(None)]);
    clock.advance(Duration::from_secs(5));
    assert_eq!(
        chain.get_or_load("absent", origin.loads(Some(Some(owned("v"))))).await.unwrap(),
        Some(Some(owned("v")))
    );
    chain.del("absent").await.unwrap();
    assert_eq!(chain.get_or_load("absent", origin.loads(None::<Option<String>>)).await.unwrap(), None);
    chain.set("absent", Some(owned("set"))).await.unwrap();
    assert_eq!(chain.get("absent").await.unwrap(), Some(Some(owned("set"))), "a value takes the place of absence");
}

#[tokio::test]
async fn a_loader_of_plain_values_is_told_of_absence() {
    let (rig, origin) = (Rig::new(1), Origin::open());
    assert_eq!(rig.chain.get_or_load("k", origin.loads(None::<String>)).await.unwrap(), None);
    let error = rig.chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Absent);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_loader_says_how_long_to_keep_what_it_brings() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let (rig, origin) = (Rig::new(2), Origin::open());
    let remaining =
        |tier: usize, key: &str| rig.held(tier, key).map(|entry| entry.remaining(cache_core::Clock::now(&rig.clock)));
    let bring = |key: &'static str, loaded: Loaded<String>| rig.chain.get_or_load(key, origin.loads(loaded));
    assert_eq!(bring("usual", Loaded::new(owned("v"))).await.unwrap().as_deref(), Some("v"));
    assert_eq!(bring("brief", Loaded::new(owned("v")).ttl(second)).await.unwrap().as_deref(), Some("v"));
    assert_eq!(bring("passing", Loaded::new(owned("v")).uncached()).await.unwrap().as_deref(), Some("v"));
    assert_eq!(bring("absent", Loaded::absent().ttl(minute)).await.unwrap(), None);
    rig.chain.wait().await.unwrap();
    for tier in [0, 1] {
        assert_eq!(remaining(tier, "usual"), Some(Ttl::Never));
        assert_eq!(remaining(tier, "brief"), Some(second.into()));
        assert_eq!(remaining(tier, "passing"), None);
        assert_eq!(remaining(tier, "absent"), Some(minute.into()));
        assert!(rig.held(tier, "absent").unwrap().is_absent());
    }
    let error = bring("zero", Loaded::new(owned("v")).ttl(Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(rig.chain.stats().loads.in_flight, 0);
}

#[tokio::test]
async fn the_outcome_tells_where_a_value_came_from() {
    let (rig, origin) = (Rig::new(2), Origin::open());
    let minute = Duration::from_secs(60);
    let detailed = || rig.chain.get_or_load_detailed("k", origin.loads(Loaded::new(owned("v")).ttl(minute)));
    let nowhere = rig.chain.get_detailed("k").await.unwrap();
    assert_eq!((nowhere.value, nowhere.source, nowhere.age), (None, Source::Nowhere, None));
    let loaded = detailed().await.unwrap();
    assert_eq!((loaded.value.as_deref(), loaded.source, loaded.stale), (Some("v"), Source::Loaded, false));
    assert_eq!((loaded.age, loaded.ttl), (Some(Duration::ZERO), minute.into()));
    rig.clock.advance(Duration::from_secs(20));
    let found = detailed().await.unwrap();
    assert_eq!((&found.source, found.age), (&Source::Tier("L1 map".into()), Some(Duration::from_secs(20))));
    assert_eq!(found.ttl, Duration::from_secs(40).into());
    cache_core::testkit::block_on(cache_core::Store::del(rig.stores[0].inner(), &support::key("k"))).unwrap();
    let below = rig.chain.get_detailed("k").await.unwrap();
    assert_eq!((below.value.as_deref(), below.source), (Some("v"), Source::Tier("L2 map".into())));
    assert_eq!(below.age, Some(Duration::from_secs(20)), "a backfill does not make it young");
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.get_detailed("k").await.unwrap().age, Some(Duration::from_secs(20)));
    assert_eq!(origin.calls(), 1);
    assert!(!format!("{found:?}").contains("\"v\""));
}

#[tokio::test]
async fn a_tier_that_fails_does_not_keep_a_loader_from_loading() {
    let (rig, origin) = (Rig::new(3), Origin::open());
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    assert_eq!(rig.chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap(), "v");
    rig.chain.wait().await.unwrap();
    assert_eq!([0, 1, 2].map(|tier| rig.value(tier, "k")), [Some(owned("v")), None, Some(owned("v"))]);
}

#[tokio::test]
async fn an_empty_key_is_refused_and_nothing_is_loaded() {
    let (rig, origin) = (Rig::new(1), Origin::open());
    let refused = rig.chain.get_or_load("", origin.loads(owned("v"))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let load = |_: Vec<&'static str>| async { Ok::<HashMap<&str, String>, io::Error>(HashMap::new()) };
    assert_eq!(rig.chain.get_or_load_many(["k", ""], load).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(origin.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_so_long_and_the_load_goes_on() {
    let second = Duration::from_secs(1);
    let rig = Rig::built(2, |_, tier| tier, |chain| chain.read_through(ReadThrough::new().soft_timeout(second)));
    let origin = Origin::default();
    let started = tokio::time::Instant::now();
    let late = rig.chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap_err();
    assert_eq!((late.kind(), started.elapsed()), (ErrorKind::Timeout, second));
    assert!(late.to_string().contains("in the background"), "{late}");
    let again = rig.chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Timeout);
    assert_eq!((origin.calls(), rig.chain.stats().loads.abandoned), (1, 2), "the second waited for the same load");
    origin.gate.open();
    settle().await;
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("v"));
    assert_eq!(rig.chain.stats().loads.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_load_takes_so_long_and_no_longer() {
    let settings = ReadThrough::new().hard_timeout(Duration::from_secs(2));
    let rig = Rig::built(1, |_, tier| tier, |chain| chain.read_through(settings));
    let origin = Origin::default();
    let late = rig.chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap_err();
    assert!(late.kind() == ErrorKind::Timeout && late.to_string().contains("did not end within 2s"), "{late}");
    assert_eq!(Arc::strong_count(&origin.calls), 1, "the loader's future is gone");
    assert_eq!(rig.chain.stats().loads.in_flight, 0);
}

#[tokio::test]
async fn so_many_loads_run_at_once_and_the_others_wait_for_their_turn() {
    let rig = Rig::built(1, |_, tier| tier, |chain| chain.read_through(ReadThrough::new().concurrent_loads(3)));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let loads = (0..20).map(|number| {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        rig.chain.get_or_load(number, move || async move {
            most.fetch_max(1 + running.fetch_add(1, SeqCst), SeqCst);
            for _ in 0..10 {
                yield_now().await;
            }
            running.fetch_sub(1, SeqCst);
            Ok::<_, io::Error>(number.to_string())
        })
    });
    for (number, value) in join_all(loads).await.into_iter().enumerate() {
        assert_eq!(value.unwrap(), number.to_string());
    }
    assert_eq!(most.load(SeqCst), 3);
}

#[tokio::test]
async fn many_loads_what_is_missing_by_one_call() {
    let rig = Rig::new(2);
    rig.chain.set("a", owned("cached")).await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let load = || {
        let asked = Arc::clone(&asked);
        move |missing: Vec<&'static str>| async move {
            asked.lock().unwrap().push(missing.clone());
            let found = missing.into_iter().filter(|key| *key != "nothing");
            Ok::<_, io::Error>(found.map(|key| (key, format!("loaded {key}"))).collect::<HashMap<_, _>>())
        }
    };
    let expected = [Some(owned("loaded b")), Some(owned("cached")), None, Some(owned("loaded b"))];
    for _ in 0..2 {
        let values = rig.chain.get_or_load_many(["b", "a", "nothing", "b"], load()).await.unwrap();
        assert_eq!(values, expected);
    }
    assert_eq!(*asked.lock().unwrap(), [["b", "nothing"]], "one call, and what it did not mention is remembered");
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(1, "b").as_deref(), Some("loaded b"));
    assert_eq!(rig.chain.get_or_load_many(Vec::<&str>::new(), load()).await.unwrap(), [None::<String>; 0]);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn many_waits_for_a_load_that_is_under_way_and_others_wait_for_its_own() {
    let (rig, single, batch) = (Rig::new(1), Origin::default(), Gate::default());
    let many = rig.chain.get_or_load_many(["a", "b"], {
        let batch = batch.clone();
        move |missing: Vec<&'static str>| async move {
            assert_eq!(missing, ["b"], "the other is being loaded");
            batch.passed().await;
            Ok::<_, io::Error>([("b", owned("by the batch"))])
        }
    });
    let never = Origin::open();
    let (a, values, b, ()) = tokio::join!(
        rig.chain.get_or_load("a", single.loads(owned("by itself"))),
        async {
            settle().await;
            many.await
        },
        async {
            settle().await;
            settle().await;
            rig.chain.get_or_load("b", never.loads(owned("not"))).await
        },
        async {
            for _ in 0..4 {
                settle().await;
            }
            single.gate.open();
            batch.open();
        }
    );
    assert_eq!(a.unwrap(), "by itself");
    assert_eq!(values.unwrap(), [Some(owned("by itself")), Some(owned("by the batch"))]);
    assert_eq!(b.unwrap(), "by the batch");
    assert_eq!(never.calls(), 0);
}

/// The batch goes on for another who waits for one of its keys.
#[tokio::test]
async fn g3_a_batch_whose_caller_goes_away_holds_up_nobody() {
    for polls in 0..24 {
        let (rig, calls) = (Rig::new(2), Arc::new(AtomicUsize::new(0)));
        for store in &rig.stores {
            store.at_every_step(|_, _| yield_now());
        }
        let counted = Arc::clone(&calls);
        let many = rig.chain.get_or_load_many(["a", "b"], move |missing: Vec<&'static str>| async move {
            counted.fetch_add(1, SeqCst);
            yield_now().await;
            Ok::<_, io::Error>(missing.into_iter().map(|key| (key, owned("v"))).collect::<Vec<_>>())
        });
        let origin = Origin::open();
        let ((), b) = tokio::join!(drop_after(polls, many), rig.chain.get_or_load("b", origin.loads(owned("v"))));
        assert_eq!(b.unwrap(), "v", "dropped after {polls} polls");
        settle().await;
        assert_eq!(rig.chain.stats().loads.in_flight, 0);
    }
}

#[tokio::test]
async fn a_batch_that_fails_fails_for_each_of_its_keys() {
    let rig = Rig::new(1);
    let load = |_: Vec<u32>| async { Err::<Vec<(u32, String)>, _>(io::Error::other("down")) };
    let error = rig.chain.get_or_load_many([1, 2], load).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Loader);
    assert_eq!(error.source_as::<io::Error>().unwrap().to_string(), "down");
    assert_eq!(rig.chain.stats().loads.in_flight, 0);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused() {
    let built = |settings| {
        ChainCache::builder()
            .tier(Tier::new(MapStore::<u8>::new()))
            .read_through(settings)
            .build()
            .map(drop)
            .unwrap_err()
    };
    for (settings, what) in [
        (ReadThrough::new().negative_ttl(Duration::ZERO), "no_negative_caching"),
        (ReadThrough::new().soft_timeout(Duration::ZERO), "soft"),
        (ReadThrough::new().hard_timeout(Duration::ZERO), "hard"),
        (ReadThrough::new().concurrent_loads(0), "concurrent"),
        (ReadThrough::new().stale_for(Duration::ZERO), "stale_for"),
        (ReadThrough::new().failure_cooldown(Duration::ZERO), "no_failure_cooldown"),
        (ReadThrough::new().peer_wait(Duration::ZERO), "no_peer_wait"),
        (ReadThrough::new().early_refresh(0.0), "early"),
        (ReadThrough::new().early_refresh(-1.0), "early"),
        (ReadThrough::new().early_refresh(f64::NAN), "early"),
    ] {
        let error = built(settings);
        assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(what), "{error}");
    }
    for jitter in [-0.1, 1.1, f64::NAN] {
        let refused = ChainCache::builder().tier(MapStore::<u8>::new()).jitter(jitter).build();
        assert!(refused.unwrap_err().to_string().contains("jitter"));
    }
    // The longest of everything is fine.
    let longest = ReadThrough::new()
        .stale_for(Duration::MAX)
        .soft_timeout(Duration::MAX)
        .hard_timeout(Duration::MAX)
        .concurrent_loads(usize::MAX)
        .peer_wait(Duration::MAX);
    let chain = ChainCache::builder().tier(MapStore::<u8>::new()).read_through(longest).timeout(Duration::MAX);
    let chain = chain.default_ttl(Duration::MAX).build().unwrap();
    assert_eq!(chain.get_or_load("k", || async { Ok::<_, io::Error>(7) }).await.unwrap(), 7);
}

/// It looked before the value was there, and wants to load after that.
#[tokio::test]
async fn a_batch_whose_lookup_was_slow_finds_what_was_loaded_meanwhile() {
    for is_local in [true, false] {
        let lower = ScriptedStore::new(MapStore::<String>::new());
        let builder = ChainCache::builder().tier(lower.clone());
        let builder = if is_local { ChainCache::builder().tier(MapStore::new()).tier(lower.clone()) } else { builder };
        let (chain, origin, gate) = (builder.build().unwrap(), Origin::open(), Gate::default());
        let (gets, late) = (Arc::new(AtomicUsize::new(0)), gate.clone());
        lower.at_every_step(move |operation, phase| {
            // The answer to the second lookup is held back.
            let is_late = operation == Operation::Get && phase == Phase::After && gets.fetch_add(1, SeqCst) == 1;
            let late = late.clone();
            async move {
                if is_late {
                    late.passed().await;
                }
            }
        });
        let (looked, go_on) = (Gate::default(), Gate::default());
        let load = |origin: Origin, looked: Gate, go_on: Gate| {
            move |keys: Vec<&'static str>| async move {
                origin.calls.fetch_add(1, SeqCst);
                looked.open();
                go_on.passed().await;
                Ok::<_, io::Error>(keys.into_iter().map(|key| (key, owned("v"))))
            }
        };
        let first = chain.get_or_load_many(["k"], load(origin.clone(), looked.clone(), go_on.clone()));
        let second = async {
            looked.passed().await;
            let second = chain.get_or_load_many(["k"], load(origin.clone(), looked.clone(), go_on.clone()));
            let mut second = Box::pin(second);
            assert!(support::poll_once(&mut second).await.is_none());
            settle().await;
            go_on.open();
            settle().await;
            gate.open();
            second.await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.unwrap(), second.unwrap()), (vec![Some(owned("v"))], vec![Some(owned("v"))]));
        assert_eq!(origin.calls(), 1, "local: {is_local}");
    }
}

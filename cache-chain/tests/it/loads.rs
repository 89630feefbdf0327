//! Read-through: one load per key (G3), its timeouts and its bounds.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::{Rig, origin::Origin, owned, poll_unwoken, settle};
use cache_chain::{ChainCache, ErrorKind, ReadThrough, Tier};
use cache_core::{
    Expiry,
    testkit::{Gate, MapStore, Operation, ScriptedStore, drop_after, join_all, yield_now},
};

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
    assert!(poll_unwoken(late.as_mut()).is_pending() && poll_unwoken(prompt.as_mut()).is_pending());
    settle().await;
    reading.open();
    settle().await;
    assert!(poll_unwoken(prompt.as_mut()).is_pending(), "it loads");
    settle().await;
    let reading = below.stall(Operation::Get);
    assert!(poll_unwoken(other.as_mut()).is_pending(), "it looks");
    settle().await;
    origin.gate.open();
    settle().await;
    assert!(poll_unwoken(late.as_mut()).is_pending());
    settle().await;
    reading.open();
    for call in [late, prompt, other] {
        assert_eq!(call.await.unwrap(), "v");
    }
    assert_eq!(origin.calls(), 1);
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

/// Later callers find the value in the first tier, though the queue has not been drained yet.
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

/// The first caller is dropped at each of its awaits. The second goes on with the load where it is.
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
        assert!(poll_unwoken(flight.as_mut()).is_pending());
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

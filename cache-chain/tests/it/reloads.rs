//! Reloads: they replace the value in every tier, whatever began before.

use std::{io, sync::atomic::Ordering::SeqCst, time::Duration};

use crate::support::{each, key, remote_rig::RemoteRig, settle};
use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded, Source, Tier, Ttl};
use cache_core::{
    LocalStore, ManualClock,
    testkit::{Gate, MapStore, Operation},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_reload_replaces_the_value_in_every_tier() {
    let rig = RemoteRig::new();
    rig.chain.set("k", 1).await.unwrap();
    let reload = CallOptions::new().reload().ttl(MINUTE);
    let found = rig.chain.with(&reload).get_or_load_detailed("k", rig.loader()).await.unwrap();
    assert_eq!((found.value, found.source, found.ttl), (Some(100), Source::Loaded, Ttl::After(MINUTE)));
    assert_eq!((rig.in_memory(), rig.below()), (Some(100), Some(100)));
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.reloads, stats.joined), (1, 1, 0));
    assert_eq!(rig.chain.with(&reload).get_or_load_many(["k"], each(7)).await.unwrap(), [Some(7)]);
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
    let rig = RemoteRig::new();
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
    let rig = RemoteRig::new();
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
    let rig = RemoteRig::new();
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

/// The limit covers the wait for an older load and the wait for the reload together.
#[tokio::test(start_paused = true)]
async fn a_reload_waits_no_longer_than_for_one_load() {
    let rig = RemoteRig::new();
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

/// As with a `set`, the tiers do not stay half written.
#[tokio::test]
async fn a_reload_that_has_begun_to_write_is_completed() {
    let rig = RemoteRig::new();
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
    let rig = RemoteRig::new();
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

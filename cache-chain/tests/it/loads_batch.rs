//! Loads of several keys by one call.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use crate::support::{Rig, each, hold_back_get, origin::Origin, owned, remote_rig::RemoteRig, settle};
use cache_chain::{ChainCache, ErrorKind};
use cache_core::testkit::{Gate, MapStore, Operation, ScriptedStore, drop_after, yield_now};

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

/// The batch goes on for another caller that waits for one of its keys.
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

/// The batch looked before the value was there, and begins to load after that.
#[tokio::test]
async fn a_batch_whose_lookup_was_slow_finds_what_was_loaded_meanwhile() {
    for is_local in [true, false] {
        let lower = ScriptedStore::new(MapStore::<String>::new());
        let builder = ChainCache::builder().tier(lower.clone());
        let builder = if is_local { ChainCache::builder().tier(MapStore::new()).tier(lower.clone()) } else { builder };
        let (chain, origin) = (builder.build().unwrap(), Origin::open());
        // The second lookup is late: its result is held back.
        let gate = hold_back_get(&lower, 1);
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
            assert!(crate::support::poll_once(&mut second).await.is_none());
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

/// A tier that has failed the lookup is not asked for leases.
#[tokio::test]
async fn a_batch_asks_a_tier_that_failed_for_nothing_more() {
    let rig = RemoteRig::new();
    rig.lower.fail(Operation::Get, ErrorKind::Unavailable);
    assert_eq!(rig.chain.get_or_load_many(["k"], each(7)).await.unwrap(), [Some(7)]);
    assert_eq!(rig.lower.calls_of(Operation::Lease), 0);
}

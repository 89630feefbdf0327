//! Calls for a value that is not older than a given age.

use std::{io, time::Duration};

use crate::support::{each, key, remote_rig::RemoteRig, settle};
use cache_chain::{CallOptions, ErrorKind, Source};
use cache_core::{
    Entry, Expiry, Store, Ticket, Write,
    testkit::{Gate, Operation},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_value_that_is_too_old_is_looked_for_below_and_loaded() {
    let rig = RemoteRig::new();
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
    assert_eq!(rig.chain.with(&recent).get_or_load_many(["k"], each(7)).await.unwrap(), [Some(7)]);
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(7));
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.reloads), (2, 2));
}

#[tokio::test]
async fn if_a_value_that_is_too_old_cannot_be_loaded_it_stays_for_others() {
    let rig = RemoteRig::new();
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
    let rig = RemoteRig::new();
    let write = Write::new(key("k"), Entry::new(1, Expiry::Never), Ticket::unconditional());
    Store::set(&rig.memory, write).await.unwrap();
    let recent = CallOptions::new().max_age(Duration::MAX);
    assert_eq!(rig.chain.with(&recent).get("k").await.unwrap(), None);
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(1));
}

/// A load that is in flight brings a young value.
#[tokio::test(start_paused = true)]
async fn a_call_for_a_young_value_joins_the_load_in_flight() {
    let rig = RemoteRig::new();
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
    let rig = RemoteRig::new();
    let absent = || async { Ok::<_, io::Error>(None::<usize>) };
    let recent = CallOptions::new().max_age(SECOND);
    for is_batch in [false, true] {
        rig.chain.del("k").await.unwrap();
        assert_eq!(rig.chain.get_or_load("k", absent).await.unwrap(), None);
        rig.chain.wait().await.unwrap();
        rig.clock.advance(2 * SECOND);
        assert_eq!(rig.chain.get_or_load("k", absent).await.unwrap(), None, "others still get it");
        let chain = rig.chain.with(&recent);
        let found = if is_batch {
            chain.get_or_load_many(["k"], each(7)).await.unwrap()[0]
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
    let rig = RemoteRig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.clock.advance(MINUTE);
    let recent = CallOptions::new().max_age(SECOND);
    let sets = rig.lower.calls_of(Operation::Set);
    assert_eq!(rig.chain.with(&recent).get_or_load_many(["k"], each(7)).await.unwrap(), [Some(7)]);
    assert_eq!(rig.lower.calls_of(Operation::Set), sets + 1);
}

//! Reloads whose load, write or value fails.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::{each, key, remote_rig::RemoteRig, settle};
use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded};
use cache_core::{
    Entry, LocalStore,
    testkit::{Gate, MapStore, Operation},
};

const SECOND: Duration = Duration::from_secs(1);

/// The content of a tier that failed is unknown, so the tiers above it hold nothing.
#[tokio::test]
async fn a_reload_whose_write_fails_below_leaves_nothing_above() {
    let rig = RemoteRig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.lower.fail(Operation::Set, ErrorKind::Unavailable);
    let reload = CallOptions::new().reload();
    assert_eq!(rig.chain.with(&reload).get_or_load("k", rig.loader()).await.unwrap(), 100);
    assert_eq!(rig.in_memory(), None);
    rig.lower.heal();
    assert_eq!(rig.chain.get("k").await.unwrap(), None, "the old value is not read");
}

/// The reload is another load, however the older one ends.
#[tokio::test]
async fn a_reload_does_not_get_the_failure_of_an_older_load() {
    for is_batch in [false, true] {
        for failure in ["error", "panic", "zero"] {
            let rig = RemoteRig::new();
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
                    rig.chain.with(&reload).get_or_load_many(["k"], each(100)).await.map(|values| values[0].unwrap())
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
    let rig = RemoteRig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.lower.fail(Operation::Set, ErrorKind::Unavailable);
    let reload = CallOptions::new().reload();
    assert_eq!(rig.chain.with(&reload).get_or_load("k", rig.loader()).await.unwrap(), 100);
    rig.lower.heal();
    assert_eq!(rig.below(), Some(1));
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(rig.below(), None);
}

/// A load that they share fails for all of them.
#[tokio::test]
async fn reloads_that_fail_are_not_repeated_by_each_caller() {
    let rig = RemoteRig::new();
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

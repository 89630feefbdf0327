//! `take`.

use std::time::Duration;

use crate::support::{Rig, settle, stale_rig};
use cache_chain::{ChainCache, ErrorKind};
use cache_core::{
    Expiry,
    testkit::{MapStore, Operation},
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn take_returns_the_value_once_and_deletes_it_everywhere() {
    let rig = Rig::new(3);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    assert_eq!(rig.chain.take("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!((0..3).map(|tier| rig.value(tier, "k")).collect::<Vec<_>>(), [None, None, None]);
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    // Another process has taken it, and this one does not know.
    rig.put(0, "k", "v", Expiry::Never);
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    assert_eq!(rig.value(0, "k"), None);
}

#[tokio::test]
async fn take_returns_no_stale_value() {
    let rig = stale_rig();
    rig.chain.set_with_ttl("k", "v".to_owned(), SECOND).await.unwrap();
    rig.clock.advance(SECOND);
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    assert_eq!((rig.held(0, "k"), rig.held(1, "k")), (None, None));
}

#[tokio::test]
async fn of_many_takers_one_gets_the_value() {
    let shared = MapStore::<String>::new();
    for round in 0..200 {
        let chains: Vec<ChainCache<String>> =
            (0..4).map(|_| ChainCache::builder().tier(MapStore::new()).tier(shared.clone()).build().unwrap()).collect();
        chains[0].set("k", round.to_string()).await.unwrap();
        let takers: Vec<_> = chains
            .into_iter()
            .map(|chain| std::thread::spawn(move || cache_core::testkit::block_on(chain.take("k"))))
            .collect();
        // The threads wait for tasks of this runtime.
        let taken = tokio::task::spawn_blocking(move || {
            takers.into_iter().filter_map(|taker| taker.join().unwrap().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(taken.await.unwrap(), [round.to_string()]);
    }
}

/// The backfill read the value before it was taken.
#[tokio::test]
async fn a_backfill_does_not_bring_a_taken_value_back() {
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    settle().await;
    assert_eq!(rig.chain.take("k").await.unwrap().as_deref(), Some("v"));
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k"), None);
}

#[tokio::test]
async fn a_value_that_awaits_its_deletion_is_not_taken() {
    let rig = Rig::new(2);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Del, ErrorKind::Backend);
    assert!(rig.chain.del("k").await.unwrap_err().will_be_repaired());
    assert_eq!(rig.value(1, "k").as_deref(), Some("v"));
    rig.stores[1].heal();
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    assert_eq!(rig.value(1, "k"), None);
}

#[tokio::test]
async fn a_take_that_fails_says_so_and_the_value_is_not_read_again() {
    let rig = Rig::new(2);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    let error = rig.chain.take("k").await.unwrap_err();
    assert!(error.will_be_repaired(), "{error:#}");
    assert_eq!(rig.value(0, "k"), None);
    assert!(rig.chain.get("k").await.is_err(), "the value that may have been taken is not served");
}

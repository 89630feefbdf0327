//! The end of a chain: `shutdown`, and the drop of its last handle.

use std::{sync::Arc, time::Duration};

use crate::support::{Rig, settle};
use cache_chain::ChainCache;
use cache_core::{
    Expiry,
    testkit::{MapStore, Operation},
};

/// `shutdown` and `wait` wait for writes that go on without their callers.
#[tokio::test(start_paused = true)]
async fn shutdown_finishes_the_writes_that_were_begun() {
    let rig = Rig::new(2);
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    let gate = rig.stores[0].stall(Operation::Set);
    let chain = rig.chain.clone();
    let caller = tokio::spawn(async move { chain.set("k", "new".to_owned()).await });
    settle().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(rig.value(1, "k").as_deref(), Some("new"), "begun");
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.open();
    });
    rig.chain.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("new"), "shut down, and the process ends with half a write");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_came_too_late_leaves_nothing_behind() {
    let rig = Rig::with(2, |_, tier| tier.timeout(Duration::from_secs(60)));
    rig.stores[0].stall(Operation::Fill);
    for key in ["a", "b", "c"] {
        rig.put(1, key, "v", Expiry::Never);
        rig.chain.get(key).await.unwrap();
        settle().await; // "a" is being applied, the others queue.
    }
    let waiter = tokio::spawn({
        let chain = rig.chain.clone();
        async move { chain.wait().await }
    });
    settle().await;
    rig.chain.shutdown(Duration::from_secs(1)).await.unwrap_err();
    let stats = rig.chain.stats().backfill;
    assert_eq!((stats.items, stats.dropped), (1, 2), "what is being applied is held until it is");
    rig.stores[0].heal();
    waiter.await.unwrap().unwrap();
    rig.chain.wait().await.unwrap();
    let stats = rig.chain.stats().backfill;
    assert_eq!((stats.items, stats.bytes, stats.applied), (0, 0, 1));
    assert_eq!([rig.value(0, "b"), rig.value(0, "c")], [None, None]);
}

#[tokio::test]
async fn the_last_handle_ends_the_task_and_drops_what_is_queued() {
    let clock: cache_core::SharedClock = Arc::new(cache_core::SystemClock);
    let idle = ChainCache::builder().clock(Arc::clone(&clock)).tier(MapStore::<u8>::new()).build().unwrap();
    settle().await;
    drop(idle);
    settle().await;
    assert_eq!(Arc::strong_count(&clock), 1, "the task of a dropped chain goes on");

    let Rig { chain, stores, .. } = {
        let rig = Rig::new(2);
        rig.stores[0].stall(Operation::Fill);
        for key in ["applied", "queued"] {
            rig.put(1, key, "v", Expiry::Never);
            rig.chain.get(key).await.unwrap();
            settle().await;
        }
        rig
    };
    drop(chain);
    stores[0].heal();
    settle().await;
    assert_eq!(stores[0].inner().len(), 1, "only what was being applied");
}

//! Backfills: their lifetimes, their queue and its bounds.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::support::{Rig, settle};
use cache_chain::ChainCache;
use cache_core::{
    Entry, Expiry, Key, LocalStore, Store,
    testkit::{MapStore, Operation, Phase, ScriptedStore, yield_now},
};

#[tokio::test]
async fn a_backfilled_tier_keeps_nothing_longer_than_the_tier_below() {
    let minute = Duration::from_secs(60);
    let rig = Rig::with(3, |at, tier| if at == 1 { tier.max_ttl(minute) } else { tier });
    rig.put(2, "k", "v", Expiry::Never);
    rig.chain.get("k").await.unwrap();
    rig.chain.wait().await.unwrap();
    let [above, below] = [0, 1].map(|tier| rig.held(tier, "k").unwrap().expiry());
    assert_eq!(above.min(below), above, "L1 {above:?} above L2 {below:?}");
}

#[tokio::test]
async fn a_default_ttl_below_bounds_what_is_backfilled_above() {
    let rig = Rig::with(3, |at, tier| if at == 1 { tier.default_ttl(Duration::from_secs(60)) } else { tier });
    rig.put(2, "k", "v", Expiry::Never);
    rig.chain.get("k").await.unwrap();
    rig.chain.wait().await.unwrap();
    assert_ne!(rig.held(0, "k").unwrap().expiry(), Expiry::Never, "a set would have given 60 s");
}

/// A weigher may say "never queue this" by the largest number.
#[tokio::test]
async fn a_weigher_may_give_the_largest_number() {
    let upper = ScriptedStore::new(MapStore::new());
    let lower = MapStore::new();
    let chain = ChainCache::builder()
        .tier(upper.clone())
        .tier(lower.clone())
        .weigher(|_, value: &u64| if *value == 1 { usize::MAX } else { 0 })
        .build()
        .unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    below.set_many([("small", 0), ("huge", 1)]).await.unwrap();
    upper.stall(Operation::Fill);
    chain.get("small").await.unwrap();
    assert_eq!(chain.get("huge").await.unwrap(), Some(1));
    assert_eq!(chain.stats().backfill.dropped, 1);
}

/// The queue holds an entry that is being applied once.
#[tokio::test]
async fn backfills_stay_within_their_bytes() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    struct Large;
    impl Large {
        fn new() -> Self {
            LIVE.fetch_add(1000, Ordering::SeqCst);
            Self
        }
    }
    impl Clone for Large {
        fn clone(&self) -> Self {
            Self::new()
        }
    }
    impl Drop for Large {
        fn drop(&mut self) {
            LIVE.fetch_sub(1000, Ordering::SeqCst);
        }
    }
    let upper = ScriptedStore::new(MapStore::new());
    let lower = MapStore::new();
    let limit = 100_000;
    let chain = ChainCache::builder()
        .tier(upper.clone())
        .tier(lower.clone())
        .backfill_bytes(limit)
        .weigher(|_, _: &Large| 1000)
        .build()
        .unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    below.set_many((0..200_u64).map(|at| (at, Large::new()))).await.unwrap();
    let at_rest = LIVE.load(Ordering::SeqCst);
    upper.stall(Operation::Fill);
    for at in 0..200_u64 {
        chain.get(at).await.unwrap();
    }
    settle().await;
    let held = LIVE.load(Ordering::SeqCst) - at_rest;
    assert!(
        held <= limit,
        "{held} bytes of values are held, {limit} may be; it counts {}",
        chain.stats().backfill.bytes
    );
}

#[tokio::test]
async fn the_queue_counts_keys_and_itself() {
    let rig = Rig::new(2);
    let key = "k".repeat(10_000);
    rig.put(1, &key, "v", Expiry::Never);
    rig.stores[0].stall(Operation::Fill);
    rig.chain.get(&key).await.unwrap();
    let bytes = rig.chain.stats().backfill.bytes;
    assert!(bytes >= 20_000 + 2 * size_of::<Key>() + size_of::<Entry<String>>(), "{bytes}");
}

#[tokio::test]
async fn a_full_queue_takes_the_newer_entry_of_a_key() {
    let upper = ScriptedStore::new(MapStore::new());
    let lower = MapStore::new();
    let chain = ChainCache::builder().tier(upper.clone()).tier(lower.clone()).backfill_items(2).build().unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    upper.stall(Operation::Fill);
    below.set_many([("first", 0), ("k", 0), ("l", 0)]).await.unwrap();
    chain.get("first").await.unwrap();
    settle().await;
    chain.get("k").await.unwrap();
    chain.get("k").await.unwrap();
    chain.get("l").await.unwrap();
    let stats = chain.stats().backfill;
    assert_eq!((stats.queued, stats.coalesced, stats.dropped, stats.items), (3, 1, 1, 2));
}

#[tokio::test]
async fn draining_lets_others_on_its_thread_have_their_turn() {
    let lower = MapStore::new();
    let chain = ChainCache::builder().tier(MapStore::new()).tier(lower.clone()).build().unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    yield_now().await;
    below.set_many((0..1000_u64).map(|at| (at, at))).await.unwrap();
    for at in 0..1000_u64 {
        chain.get(at).await.unwrap();
    }
    let seen = tokio::spawn({
        let chain = chain.clone();
        async move { chain.stats().backfill.applied }
    });
    assert!(seen.await.unwrap() < 1000, "the whole queue was drained in one turn");
    chain.wait().await.unwrap();
    assert_eq!(chain.stats().backfill.applied, 1000);
}

#[tokio::test]
async fn what_expires_between_two_tiers_is_not_offered_to_the_second() {
    let rig = Rig::new(3);
    let due = Expiry::after(cache_core::Clock::now(&rig.clock), Duration::from_secs(1).into());
    rig.put(2, "k", "v", due);
    let clock = rig.clock.clone();
    rig.stores[0].at_every_step(move |operation, phase| {
        if (operation, phase) == (Operation::Fill, Phase::After) {
            clock.advance(Duration::from_secs(2));
        }
        std::future::ready(())
    });
    rig.chain.get("k").await.unwrap();
    rig.chain.wait().await.unwrap();
    assert_eq!((rig.stores[0].calls_of(Operation::Fill), rig.stores[1].calls_of(Operation::Fill)), (1, 0));
}

#[tokio::test]
async fn the_first_tier_is_filled_first() {
    let rig = Rig::new(3);
    rig.put(2, "k", "v", Expiry::Never);
    rig.stores[1].stall(Operation::Fill);
    rig.chain.get("k").await.unwrap();
    settle().await;
    assert_eq!(rig.value(0, "k").as_deref(), Some("v"), "while the second hangs");
}

/// The first tier is local, as in production: the chain asks its fence without a future.
#[tokio::test]
async fn g1_a_late_backfill_into_a_local_tier_is_refused() {
    for batch in [false, true] {
        let (upper, lower) = (MapStore::new(), ScriptedStore::new(MapStore::new()));
        let chain = ChainCache::builder().tier(upper.clone()).tier(lower.clone()).build().unwrap();
        chain.set("k", 1).await.unwrap();
        let key = Key::new("k").unwrap();
        upper.del(&key).await.unwrap();
        let gate = cache_core::testkit::Gate::default();
        let held = gate.clone();
        lower.at_every_step(move |operation, phase| {
            let gate = held.clone();
            async move {
                if (operation, phase) == (Operation::Get, Phase::After) {
                    gate.passed().await;
                }
            }
        });
        let reader = tokio::spawn({
            let chain = chain.clone();
            async move { if batch { chain.get_many(["k"]).await.unwrap()[0] } else { chain.get("k").await.unwrap() } }
        });
        settle().await;
        chain.del("k").await.unwrap();
        gate.open();
        assert_eq!(reader.await.unwrap(), Some(1), "it began before the del");
        chain.wait().await.unwrap();
        assert_eq!(chain.stats().backfill.refused, 1);
        assert!(LocalStore::get(&upper, &key).is_none());
        assert_eq!(chain.get("k").await.unwrap(), None);
    }
}

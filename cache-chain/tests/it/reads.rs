//! Reads: the calls that they make, their time, and what counts as a hit.

use std::{
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use crate::support::Rig;
use cache_chain::{ChainCache, Error, ErrorKind};
use cache_core::{
    Expiry, Key, Store,
    testkit::{MapStore, Operation, Phase, block_on},
};

/// A tier costs a read one timeout, its lease included.
#[tokio::test(start_paused = true)]
async fn a_tier_costs_a_read_at_most_its_timeout() {
    let limit = Duration::from_millis(100);
    let rig = Rig::with(2, |_, tier| tier.timeout(limit));
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].at_every_step(|operation, phase| async move {
        if (operation, phase) == (Operation::Get, Phase::Before) {
            tokio::time::sleep(Duration::from_millis(90)).await;
        }
    });
    rig.stores[0].stall(Operation::Lease);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert!(started.elapsed() <= limit, "{:?}", started.elapsed());
}

/// An entry that expired on the way up is not served.
#[tokio::test]
async fn what_expired_on_its_way_is_a_miss() {
    let rig = Rig::new(2);
    rig.chain.set_with_ttl("k", "v".to_owned(), Duration::from_secs(1)).await.unwrap();
    block_on(Store::del(rig.stores[0].inner(), &Key::new("k").unwrap())).unwrap();
    let clock = rig.clock.clone();
    rig.stores[1].at_every_step(move |operation, phase| {
        if (operation, phase) == (Operation::Get, Phase::After) {
            clock.advance(Duration::from_secs(2));
        }
        std::future::ready(())
    });
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_read_asks_and_queues_no_more_than_it_must() {
    let rig = Rig::new(2);
    assert_eq!(rig.chain.get("absent").await.unwrap(), None);
    assert_eq!(rig.chain.get_many(["absent", "absent too"]).await.unwrap(), [None, None]);
    assert_eq!((rig.stores[0].calls_of(Operation::Lease), rig.stores[1].calls_of(Operation::Lease)), (2, 0));
    let asked = rig.stores[1].calls_of(Operation::Get);
    rig.put(0, "k", "v", Expiry::Never);
    assert!(rig.chain.get("k").await.unwrap().is_some());
    assert_eq!(rig.chain.get_many(["k", "k"]).await.unwrap(), [Some("v".to_owned()), Some("v".to_owned())]);
    assert_eq!(rig.stores[1].calls_of(Operation::Get), asked, "all were found above");
    assert_eq!(rig.chain.stats().backfill.queued, 0, "there is nothing above to fill");
}

#[tokio::test]
async fn a_hit_of_a_local_first_tier_is_counted_and_asks_it_once() {
    let chain = ChainCache::builder().tier(MapStore::new()).tier(MapStore::new()).build().unwrap();
    chain.set("k", 1).await.unwrap();
    // Ready at the first poll, and counted once.
    let mut hit = pin!(chain.get("k"));
    assert!(hit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!((chain.stats().tiers[0].hits, chain.stats().tiers[0].misses), (1, 0));
    assert_eq!(chain.get("absent").await.unwrap(), None);
    assert_eq!((chain.stats().tiers[0].hits, chain.stats().tiers[0].misses), (1, 1));
}

#[tokio::test]
async fn bytes_that_do_not_decode_are_counted_as_a_miss() {
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].fail(Operation::Get, ErrorKind::Codec);
    rig.chain.get("k").await.unwrap();
    let tier = &rig.chain.stats().tiers[0];
    assert_eq!((tier.undecodable, tier.misses, tier.errors, tier.hits), (1, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_call_of_a_tier_that_hangs_is_given_up_in_time() {
    let limit = Duration::from_millis(100);
    let hanging = |operation| {
        let rig = Rig::with(2, |_, tier| tier.timeout(limit));
        rig.stores[0].stall(operation);
        rig
    };
    let late = |error: Error| assert_eq!((error.kind(), error.failures().len()), (ErrorKind::Timeout, 1));
    let many = || [("k", "v".to_owned()), ("l", "w".to_owned())];
    for operation in [Operation::Lease, Operation::Set] {
        let rig = hanging(operation);
        let started = tokio::time::Instant::now();
        late(rig.chain.set("k", "v".to_owned()).await.unwrap_err());
        late(rig.chain.set_many(many()).await.unwrap_err());
        assert_eq!(started.elapsed(), 2 * limit, "{operation:?}");
        assert_eq!(rig.chain.stats().tiers[0].timeouts, 3);
        assert_eq!(rig.value(1, "k").as_deref(), Some("v"));
    }
    let rig = hanging(Operation::Del);
    let started = tokio::time::Instant::now();
    late(rig.chain.del("k").await.unwrap_err());
    late(rig.chain.del_many(["k", "l"]).await.unwrap_err());
    assert_eq!(started.elapsed(), 2 * limit);
    let rig = hanging(Operation::Get);
    rig.put(1, "k", "v", Expiry::Never);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [Some("v".to_owned())]);
    assert_eq!(started.elapsed(), limit);
    let rig = hanging(Operation::Lease);
    rig.put(1, "k", "v", Expiry::Never);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(rig.chain.get_many(["k", "l"]).await.unwrap(), [Some("v".to_owned()), None]);
    assert_eq!(started.elapsed(), 2 * limit);
}

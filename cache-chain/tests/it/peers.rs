//! The faults of gocache's chain (eko/gocache, lib/cache/chain.go). This chain has none of them.

use std::time::Duration;

use crate::support::{Rig, settle};
use cache_chain::{ChainCache, ErrorKind, Ttl};
use cache_core::{
    Expiry,
    testkit::{MapStore, Operation, ScriptedStore},
};

/// There, every hit below the first tier sends to a channel, and a full one blocks the reader.
#[tokio::test(start_paused = true)]
async fn g5_reads_never_wait_for_a_backfill_that_hangs() {
    let clock = cache_core::SystemClock::shared();
    let upper = ScriptedStore::new(MapStore::<u64>::new());
    let lower = MapStore::<u64>::new();
    let chain =
        ChainCache::builder().clock(clock).tier(upper.clone()).tier(lower.clone()).backfill_items(100).build().unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    below.set_many((0..10_000_u64).map(|at| (at, at))).await.unwrap();
    upper.stall(Operation::Fill);

    // Time is paused: were a read to wait for the queue, only the tier's timeout would let it go
    // on, and time would pass.
    let started = tokio::time::Instant::now();
    for at in 0..10_000_u64 {
        assert_eq!(chain.get(at).await.unwrap(), Some(at));
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    let stats = chain.stats().backfill;
    assert_eq!(stats.items, 100, "the queue holds what it may");
    assert_eq!(stats.queued + stats.dropped, 10_000);
    assert_eq!(stats.queued, 100);

    // The target recovers, and so does backfilling.
    upper.heal();
    chain.wait().await.unwrap();
    let refilled = chain.get(9_999_u64).await.unwrap();
    assert_eq!(refilled, Some(9_999));
    chain.wait().await.unwrap();
    let hits = chain.stats().tiers[0].hits;
    assert_eq!(chain.get(9_999_u64).await.unwrap(), Some(9_999));
    assert_eq!(chain.stats().tiers[0].hits, hits + 1);
}

/// There, a value without a TTL is never backfilled.
#[tokio::test]
async fn a_key_without_a_ttl_is_backfilled() {
    let rig = Rig::new(3);
    rig.put(2, "k", "v", Expiry::Never);
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), Some(("v".to_owned(), Ttl::Never)));
    rig.chain.wait().await.unwrap();
    for tier in 0..2 {
        let entry = rig.held(tier, "k").expect("backfilled");
        assert_eq!((entry.value().unwrap().as_str(), entry.expiry()), ("v", Expiry::Never));
    }
}

/// There, a backfill that was queued before a delete runs after it.
#[tokio::test]
async fn g1_a_backfill_queued_before_a_del_is_refused() {
    let rig = Rig::new(2);
    rig.put(1, "k", "old", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
    settle().await;
    rig.chain.del("k").await.unwrap();
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k"), None);
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(rig.chain.stats().backfill.refused, 1);
}

#[tokio::test]
async fn g1_a_backfill_queued_before_a_set_is_refused() {
    let rig = Rig::new(2);
    rig.put(1, "k", "old", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
    settle().await;
    rig.chain.set("k", "new".to_owned()).await.unwrap();
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("new"));
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
    assert_eq!(rig.chain.stats().backfill.refused, 1);
}

/// A reader that is late below, not in the queue.
#[tokio::test]
async fn g1_a_read_that_resumes_after_a_clear_backfills_nothing() {
    let rig = Rig::new(2);
    rig.put(1, "k", "old", Expiry::Never);
    let turnstile = cache_core::testkit::Gate::default();
    let held = turnstile.clone();
    rig.stores[1].at_every_step(move |operation, phase| {
        let gate = held.clone();
        async move {
            if (operation, phase) == (Operation::Get, cache_core::testkit::Phase::After) {
                gate.passed().await;
            }
        }
    });
    let reader = tokio::spawn({
        let chain = rig.chain.clone();
        async move { chain.get("k").await.unwrap() }
    });
    settle().await;
    rig.chain.clear().await.unwrap();
    turnstile.open();
    assert_eq!(reader.await.unwrap().as_deref(), Some("old"), "it began before the clear");
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k"), None);
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
}

/// There, `Delete` and `Clear` discard errors.
#[tokio::test]
async fn g7_writes_report_every_tier_that_failed() {
    let rig = Rig::new(3);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[0].fail(Operation::Del, ErrorKind::Unavailable);
    rig.stores[2].fail(Operation::Del, ErrorKind::ReadOnly);
    let error = rig.chain.del("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Partial);
    let named: Vec<_> = error.failures().iter().map(|failure| (failure.name(), failure.error().kind())).collect();
    assert_eq!(named, [("L3 map", ErrorKind::ReadOnly), ("L1 map", ErrorKind::Unavailable)]);
    assert_eq!(rig.value(1, "k"), None, "the tier that works was tried all the same");

    rig.stores[1].fail(Operation::Clear, ErrorKind::Timeout);
    let error = rig.chain.clear().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.failures()[0].name(), "L2 map");
    assert_eq!((rig.value(0, "k"), rig.value(2, "k")), (None, None));
}

/// There, what the store holds of another type reads as the zero value without an error.
#[tokio::test]
async fn a_wrong_type_is_an_error_and_no_default_value() {
    use cache_core::{
        backend::{Binding, Envelope, Life, Opened},
        codec::Bincode,
    };

    let life = Life::new(0, None);
    let binding = Binding::new(b"k", 0);
    let tag = |name| Envelope::schema_tag(name);
    let written = Envelope::new(Bincode, tag("a number")).seal(binding, &7_u64, life, 1).unwrap();
    let read: Result<Opened<u64>, _> = Envelope::new(Bincode, tag("another number")).open(binding.key, &written);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Codec);

    // In a chain it is counted, and a miss; the bytes are replaced by what is below.
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].fail(Operation::Get, ErrorKind::Codec);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("v"));
    assert_eq!(rig.chain.stats().tiers[0].undecodable, 1);
    assert_eq!(rig.chain.get("absent").await.unwrap(), None);
}

//! Tiers that hang, fail or panic (G7), under hostile timing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::{Rig, Scripted, load, owned, settle};
use cache_chain::{Breaker, ChainCache, ErrorKind, Tier};
use cache_core::{
    Expiry, ManualClock,
    testkit::{MapStore, Operation, Phase, ScriptedStore},
};

const SECOND: Duration = Duration::from_secs(1);

/// A load that shares its lookup with a plain `get` still has time for its loader.
#[tokio::test(start_paused = true)]
async fn g7_a_get_does_not_use_up_the_time_of_a_load() {
    let chain_deadline = 4 * SECOND;
    let clock = ManualClock::new();
    let below: Scripted = ScriptedStore::new(MapStore::with_clock(clock.shared()));
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(MapStore::with_clock(clock.shared()))
        .tier(Tier::new(below.clone()).timeout(100 * SECOND))
        .timeout(chain_deadline)
        .build()
        .unwrap();
    below.stall(Operation::Get);
    let slowly = || async {
        tokio::time::sleep(SECOND).await;
        load("v").await
    };
    let (got, loaded) = tokio::join!(chain.get("k"), chain.get_or_load("k", slowly));
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(loaded.unwrap(), "v");
}

/// A store that panics while it makes up for a failed write does not end all repairs.
#[tokio::test(start_paused = true)]
async fn g7_mending_survives_a_panic() {
    let rig = Rig::with(2, |_, tier| tier.no_breaker());
    rig.chain.set("k", owned("old")).await.unwrap();
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    rig.chain.del("k").await.unwrap_err();
    rig.stores[1].heal();
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    rig.stores[1].at_every_step(move |operation, _| {
        let first = operation == Operation::Del && counted.fetch_add(1, SeqCst) == 0;
        async move { assert!(!first, "the store panics once") }
    });
    for _ in 0..3 {
        tokio::time::advance(SECOND).await;
        settle().await;
    }
    assert!(panics.load(SeqCst) > 1);
    assert_eq!(rig.value(1, "k"), None);
}

/// Repairs run where the chain was built, also if the runtime of the failed write has ended.
#[test]
fn g7_repairs_survive_the_runtime_of_the_caller() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let home = runtime();
    let rig = home.block_on(async { Rig::with(2, |_, tier| tier.no_breaker()) });
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let home = std::thread::spawn(move || home.block_on(ended));
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    runtime().block_on(rig.chain.del("k")).unwrap_err();
    rig.stores[1].heal();
    // The paused clock of the chain's runtime advances by itself.
    while rig.chain.stats().tiers[1].pending_deletes > 0 {
        std::thread::yield_now();
    }
    drop(end);
    home.join().unwrap().unwrap_err();
}

/// A key that is not read because it awaits its deletion is no failure of its tier, which answers.
#[tokio::test(start_paused = true)]
async fn g7_a_distrusted_key_does_not_open_the_breaker() {
    let rig = Rig::with(2, |_, tier| tier.breaker(Breaker::new().failures(3).probe_interval(10 * SECOND)));
    rig.put(1, "other", "v", Expiry::Never);
    for operation in [Operation::Set, Operation::Del] {
        rig.stores[1].fail(operation, ErrorKind::ReadOnly);
    }
    rig.chain.set("k", owned("new")).await.unwrap_err();
    for _ in 0..10 {
        rig.chain.get("k").await.unwrap_err();
        rig.chain.get_many(["k"]).await.unwrap_err();
    }
    assert_eq!(rig.chain.get("other").await.unwrap().as_deref(), Some("v"));
    assert_eq!(rig.chain.stats().tiers[1].skipped, 0);
}

/// A tier that hangs costs a batch its timeout once, the lease included.
#[tokio::test(start_paused = true)]
async fn g7_a_lease_that_hangs_takes_what_is_left_of_the_timeout() {
    let rig = Rig::with(2, |_, tier| tier.timeout(SECOND).no_breaker());
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].at_every_step(|operation, _| async move {
        if operation == Operation::Get {
            tokio::time::sleep(SECOND / 4).await;
        }
    });
    rig.stores[0].stall(Operation::Lease);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [Some(owned("v"))]);
    assert_eq!(started.elapsed(), SECOND);
}

/// A store that panics has failed to write.
#[tokio::test(start_paused = true)]
async fn g7_a_write_that_panicked_leaves_its_key_distrusted() {
    let rig = Rig::with(2, |_, tier| tier.no_breaker());
    rig.put(1, "k", "old", Expiry::Never);
    rig.stores[1].at_every_step(|operation, _| async move { assert_ne!(operation, Operation::Del, "it panics") });
    let chain = rig.chain.clone();
    assert!(tokio::spawn(async move { chain.del("k").await }).await.unwrap_err().is_panic());
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 1);
    rig.stores[1].at_every_step(|_, _| async {});
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
}

/// A backfill that was in flight when a deletion failed is not made before the repair.
#[tokio::test(start_paused = true)]
async fn g7_a_backfill_under_way_is_not_made_where_a_write_failed() {
    let rig = Rig::with(3, |_, tier| tier.no_breaker());
    rig.put(2, "k", "old", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
    settle().await;
    rig.stores[1].fail(Operation::Del, ErrorKind::ReadOnly);
    rig.chain.del("k").await.unwrap_err();
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.stores[1].calls_of(Operation::Fill), 0);
}

/// A probe that could not delete an outdated entry of the tier does not close the breaker.
#[tokio::test(start_paused = true)]
async fn g7_a_probe_that_cannot_repair_has_failed() {
    for many in [false, true] {
        let rig =
            Rig::with(
                2,
                |at, tier| if at == 1 { tier.breaker(Breaker::new().failures(1).probe_interval(SECOND)) } else { tier },
            );
        rig.put(1, "other", "v", Expiry::Never);
        rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
        rig.chain.del("k").await.unwrap_err();
        tokio::time::advance(SECOND).await;
        let get = async || {
            if many {
                rig.chain.get_many(["other"]).await.map(|mut values| values.remove(0))
            } else {
                rig.chain.get("other").await
            }
        };
        assert_eq!(get().await.unwrap_err().kind(), ErrorKind::Unavailable);
        let asked = rig.stores[1].calls().len();
        assert_eq!(get().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(rig.stores[1].calls().len(), asked, "many: {many}");
    }
}

/// A lease for which no time was left does not count as a failure of its tier.
#[tokio::test(start_paused = true)]
async fn g7_what_was_not_asked_has_not_failed() {
    let rig =
        Rig::with(2, |_, tier| tier.timeout(SECOND).breaker(Breaker::new().failures(1).probe_interval(10 * SECOND)));
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].at_every_step(|operation, phase| async move {
        if (operation, phase) == (Operation::Get, Phase::Before) {
            tokio::time::sleep(SECOND).await;
        }
    });
    rig.stores[0].stall(Operation::Lease);
    for _ in 0..2 {
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
        assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [Some(owned("v"))]);
    }
    assert_eq!(rig.chain.stats().tiers[0].skipped, 0);
}

#[tokio::test(start_paused = true)]
async fn g7_a_clear_that_was_given_up_does_not_hold_up_writes_for_ever() {
    let rig = Rig::new(2);
    rig.stores[1].stall(Operation::Clear);
    assert!(tokio::time::timeout(SECOND, rig.chain.clear()).await.is_err());
    settle().await;
    assert!(tokio::time::timeout(3600 * SECOND, rig.chain.set("k", owned("v"))).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn stats_of_a_tier_that_is_passed_over() {
    let rig = Rig::with(2, |_, tier| tier.breaker(Breaker::new().failures(1).probe_interval(10 * SECOND)));
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    for _ in 0..10 {
        let _ = rig.chain.get("k").await;
    }
    let stats = &rig.chain.stats().tiers[1];
    assert_eq!((stats.errors, stats.skipped), (1, 9));
}

//! Stale values under hostile timing: they expire, are deleted or are replaced meanwhile.

use std::{future::ready, io, pin::pin, time::Duration};

use crate::support::{Rig, each, key, load, memory_over_scripted, owned, poll_unwoken, settle};
use cache_chain::{ChainCache, Loaded, ReadThrough};
use cache_core::{
    ManualClock, Store,
    testkit::{Gate, MapStore, Operation},
};

const SECOND: Duration = Duration::from_secs(1);

/// A stale entry of an upper tier may expire while a lower tier is asked.
#[tokio::test]
async fn g4_what_expires_while_a_tier_below_is_asked_is_not_served() {
    for many in [false, true] {
        let rig = Rig::built(2, |_, tier| tier, |chain| chain.read_through(ReadThrough::new().stale_for(SECOND)));
        rig.chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
        rig.clock.advance(SECOND + SECOND / 2);
        let gate = rig.stores[1].stall(Operation::Get);
        let get = async {
            if many {
                rig.chain.get_or_load_many(["k"], each(owned("new"))).await.unwrap().remove(0)
            } else {
                Some(rig.chain.get_or_load("k", || load("new")).await.unwrap())
            }
        };
        let (value, ()) = tokio::join!(get, async {
            settle().await;
            rig.clock.advance(SECOND);
            gate.open();
        });
        assert_eq!(value.as_deref(), Some("new"), "many: {many}");
    }
}

/// The reader finds a fresh entry, which is deleted and becomes stale before the reader is polled
/// again. The refresh that begins then must not serve the deleted value to later callers.
#[tokio::test]
async fn g1_a_refresh_does_not_bring_what_was_found_before_a_del() {
    let (chain, memory, below, clock) = memory_over_scripted(ReadThrough::new().stale_for(100 * SECOND));
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    Store::del(&memory, &key("k")).await.unwrap();
    let gate = below.stall(Operation::Get);
    let mut slow = pin!(chain.get_or_load("k", || load("new")));
    assert!(poll_unwoken(slow.as_mut()).is_pending());
    let mut quick = pin!(chain.get("k"));
    assert!(poll_unwoken(quick.as_mut()).is_pending());
    gate.open();
    assert_eq!(quick.await.unwrap().as_deref(), Some("old"));
    chain.del("k").await.unwrap();
    clock.advance(SECOND);
    // It began before the deletion: it may be served what was there then.
    assert!(poll_unwoken(slow.as_mut()).is_ready());
    assert_eq!(chain.get_or_load("k", || load("newest")).await.unwrap(), "new");
}

/// One load begins for all callers that are served a stale value, and one task waits for it.
#[tokio::test]
async fn a_refresh_takes_one_task_and_counts_once() {
    let (chain, _, _, clock) = memory_over_scripted(ReadThrough::new().stale_for(100 * SECOND));
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    clock.advance(SECOND);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (gate, before) = (Gate::default(), tasks());
    for _ in 0..1000 {
        let gate = gate.clone();
        let load = || async move {
            gate.passed().await;
            load("new").await
        };
        assert_eq!(chain.get_or_load("k", load).await.unwrap(), "old");
    }
    settle().await;
    assert_eq!(tasks() - before, 1);
    let stats = chain.stats().loads;
    assert_eq!((stats.refreshes, stats.started, stats.stale_served), (1, 1, 1000));
    gate.open();
    settle().await;
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("new"));
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn a_stale_entry_is_counted_once() {
    let (chain, _, _, clock) = memory_over_scripted(ReadThrough::new().stale_for(100 * SECOND));
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    clock.advance(SECOND);
    let counted = || chain.stats().tiers.iter().map(|tier| (tier.hits, tier.misses)).collect::<Vec<_>>();
    assert_eq!(chain.get("k").await.unwrap(), None);
    assert_eq!(counted(), [(0, 1), (0, 1)], "it is of no use to a plain read");
    assert_eq!(chain.get_or_load("k", || load("new")).await.unwrap(), "old");
    assert_eq!(counted()[0], (1, 1));
}

/// A stale value of a second local tier is loaded anew as well.
#[tokio::test]
async fn a_stale_value_of_a_second_local_tier_is_replaced() {
    let clock = ManualClock::new();
    let [first, second] = [(); 2].map(|()| MapStore::with_clock(clock.shared()));
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(first.clone())
        .tier(second)
        .read_through(ReadThrough::new().stale_for(100 * SECOND))
        .build()
        .unwrap();
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    Store::del(&first, &key("k")).await.unwrap();
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", || load("new")).await.unwrap(), "old");
    settle().await;
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("new"));
}

/// A load that succeeds ends the pause that a failed one began.
#[tokio::test]
async fn a_success_ends_the_pause_after_a_failure() {
    let settings = ReadThrough::new().stale_for(SECOND).failure_cooldown(1000 * SECOND);
    let (chain, _, _, clock) = memory_over_scripted(settings);
    let loading = |value: &'static str| move || ready(Ok::<_, io::Error>(Loaded::new(owned(value)).ttl(SECOND)));
    let failing = || ready(Err::<String, _>(io::Error::other("no")));
    assert_eq!(chain.get_or_load("k", loading("1")).await.unwrap().as_deref(), Some("1"));
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", failing).await.unwrap(), "1");
    settle().await;
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", loading("2")).await.unwrap().as_deref(), Some("2"));
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", loading("3")).await.unwrap().as_deref(), Some("2"));
    settle().await;
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("3"));
}

//! One load for several processes: chains over a store that grants claims.

use std::{io, pin::pin, time::Duration};

use crate::support::{
    claiming::{Claiming, load, load_with, process, process_pair, set_stale, stale_if_load_fails},
    key, open_gate, settle,
};
use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded, ManualClock, ReadThrough};
use cache_core::{
    Entry, LocalStore, Store, Ticket,
    testkit::{Gate, MapStore, Operation, ScriptedStore},
};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_process_waits_for_what_another_loads() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new().peer_wait(Duration::MAX)));
    let (gate, open) = (Gate::default(), open_gate());
    let second = async {
        settle().await;
        load(&two, "two", &open).await
    };
    let (first, second, ()) = tokio::join!(load(&one, "one", &gate), second, async {
        tokio::time::sleep(5 * SECOND).await;
        gate.open();
    });
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "one"));
    let loads = [&one, &two].map(|chain| chain.stats().loads);
    assert_eq!((loads[0].started, loads[0].loaded_by_peer), (1, 0));
    assert_eq!((loads[1].started, loads[1].loaded_by_peer), (0, 1));
    two.wait().await.unwrap();
    assert_eq!(
        two.get_detailed("k").await.unwrap().source,
        cache_chain::Source::Tier("L1 map".into()),
        "it is filled above"
    );
    assert_eq!(shared.claimed(), 0);
}

/// The other process has released its claim by then, so this one is granted.
#[tokio::test]
async fn a_granted_claim_looks_again_unless_the_key_was_vacant() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new());
    let (gate, _open) = (Gate::default(), open_gate());
    *shared.arriving.lock().unwrap() = Some("theirs".to_owned());
    assert_eq!(load(&chain, "ours", &gate).await.unwrap(), "theirs");
    let loads = chain.stats().loads;
    assert_eq!((loads.started, loads.loaded_by_peer), (0, 1));
    settle().await;
    assert_eq!(shared.claimed(), 0, "the claim is returned");
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new().peer_wait(SECOND)));
    let (gate, open) = (Gate::default(), open_gate());
    let started = Instant::now();
    let second = async {
        settle().await;
        let value = load(&two, "two", &open).await;
        let waited = started.elapsed();
        gate.open();
        (value, waited)
    };
    let (first, (second, waited)) = tokio::join!(load(&one, "one", &gate), second);
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "two"));
    assert!(waited > SECOND / 2 && waited <= SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn without_patience_nothing_is_claimed() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new().no_peer_wait());
    let gate = Gate::default();
    let claimed = async {
        settle().await;
        let claimed = shared.claimed();
        gate.open();
        claimed
    };
    let (value, claimed) = tokio::join!(load(&chain, "v", &gate), claimed);
    assert_eq!((value.unwrap().as_str(), claimed), ("v", 0));
}

/// A claim is given back by a load that fails, brings nothing to keep, or is given up.
#[tokio::test(start_paused = true)]
async fn a_claim_is_given_back_where_nothing_comes() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new());
    let failed = chain.get_or_load("k", || async { Err::<String, _>(io::Error::other("no")) }).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Loader);
    settle().await;
    assert_eq!(shared.claimed(), 0);

    let passing = chain.get_or_load("k", || async { Ok::<_, io::Error>(Loaded::new("v".to_owned()).uncached()) });
    assert_eq!(passing.await.unwrap().as_deref(), Some("v"));
    settle().await;
    assert_eq!(shared.claimed(), 0);

    let given_up = tokio::time::timeout(SECOND, load(&chain, "v", &Gate::default())).await;
    assert!(given_up.is_err());
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

/// `wait` covers claims that are being given back, so a process that ends leaves none behind.
#[tokio::test(start_paused = true)]
async fn wait_includes_claims_that_are_given_back() {
    let shared = Claiming::default();
    let remote = ScriptedStore::new(shared.clone());
    let chain = ChainCache::builder().tier(MapStore::new()).tier(remote.clone()).build().unwrap();
    let gate = remote.stall(Operation::Release);
    chain.get_or_load("k", || async { Err::<String, _>(io::Error::other("no")) }).await.unwrap_err();
    let mut wait = pin!(chain.wait());
    assert!(tokio::time::timeout(SECOND / 10, wait.as_mut()).await.is_err());
    assert_eq!(shared.claimed(), 1);
    gate.open();
    wait.await.unwrap();
    assert_eq!(shared.claimed(), 0);
}

/// The claim is granted when the load of another process has just ended, so its value is found.
#[tokio::test]
async fn who_gets_the_claim_looks_again() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new());
    shared.claims.lock().unwrap().insert(key("k"), Ticket::unconditional());
    let other = async {
        settle().await;
        let other = process(&shared, ReadThrough::new().no_peer_wait());
        other.set("k", "theirs".to_owned()).await.unwrap();
        shared.claims.lock().unwrap().clear();
    };
    let open = open_gate();
    let (value, ()) = tokio::join!(load(&chain, "ours", &open), other);
    assert_eq!(value.unwrap(), "theirs");
    settle().await;
    assert_eq!(shared.claimed(), 0, "and gives it back");
}

/// The value that another process has loaded goes to the tiers above the shared one, and not to those
/// below.
#[tokio::test]
async fn what_another_loaded_is_filled_above_alone() {
    let shared = Claiming::default();
    let below = MapStore::new();
    let chain = ChainCache::builder().tier(MapStore::new()).tier(shared.clone()).tier(below.clone()).build().unwrap();
    shared.claims.lock().unwrap().insert(key("k"), Ticket::unconditional());
    let other = async {
        settle().await;
        process(&shared, ReadThrough::new()).set("k", "theirs".to_owned()).await.unwrap();
    };
    let shut = Gate::default();
    let (value, ()) = tokio::join!(load(&chain, "ours", &shut), other);
    assert_eq!(value.unwrap(), "theirs");
    chain.wait().await.unwrap();
    let backfill = chain.stats().backfill;
    assert_eq!((backfill.applied, backfill.refused, backfill.failed), (1, 0, 0));
    assert_eq!(Store::get(&below, &key("k")).await.unwrap(), None);
}

/// By default, a load waits for a peer as long as a load may take: 30 s.
#[tokio::test(start_paused = true)]
async fn a_long_load_runs_once_with_the_default_settings() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new()));
    let (gate, open) = (Gate::default(), open_gate());
    let second = async {
        settle().await;
        load(&two, "two", &open).await
    };
    let (first, second, ()) = tokio::join!(load(&one, "one", &gate), second, async {
        tokio::time::sleep(8 * SECOND).await;
        gate.open();
    });
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "one"));
    assert_eq!((one.stats().loads.started, two.stats().loads.started), (1, 0));
    let renewals = shared.renewals.lock().unwrap().len();
    assert!((7..=8).contains(&renewals), "the claim was renewed {renewals} times");
}

/// A tier that fails takes no part in claims, and keeps no other tier from granting them.
#[tokio::test(start_paused = true)]
async fn a_tier_that_works_grants_claims_beside_one_that_fails() {
    let (shared, failing) = (Claiming::default(), ScriptedStore::new(Claiming::default()));
    failing.fail(Operation::Get, ErrorKind::Unavailable);
    let settings = || ReadThrough::new().peer_wait(Duration::MAX);
    let process = || {
        let chain = ChainCache::builder().tier(failing.clone()).tier(shared.clone()).read_through(settings());
        chain.build().unwrap()
    };
    let [one, two] = [(); 2].map(|()| process());
    let (gate, open) = (Gate::default(), open_gate());
    let later = async {
        while shared.claimed() == 0 {
            tokio::task::yield_now().await;
        }
        load(&two, "two", &open).await
    };
    let (first, second, ()) = tokio::join!(load(&one, "one", &gate), later, async {
        tokio::time::sleep(5 * SECOND).await;
        gate.open();
    });
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "one"));
    assert_eq!((one.stats().loads.started, two.stats().loads.started), (1, 0));
    assert_eq!(failing.calls_of(Operation::Claim), 0);
}

/// A claim is returned wherever its load is dropped: at any await of the caller, who is the last.
#[tokio::test(start_paused = true)]
async fn a_dropped_caller_leaves_no_claim_and_no_load() {
    for is_batch in [false, true] {
        for is_stale in [false, true] {
            for polls in 0..12 {
                let clock = ManualClock::new();
                let shared = Claiming::with_clock(&clock);
                let [one, _] = process_pair(&shared, &clock, &stale_if_load_fails());
                if is_stale {
                    set_stale(&one, &clock).await;
                }
                let (chain, gate) = (one.clone(), Gate::default());
                let call = tokio::spawn(async move {
                    if is_batch {
                        let load = move |_: Vec<&'static str>| async move {
                            gate.passed().await;
                            Ok::<_, io::Error>([("k", "new".to_owned())])
                        };
                        chain.get_or_load_many(["k"], load).await.map(drop)
                    } else {
                        load(&chain, "new", &gate).await.map(drop)
                    }
                });
                for _ in 0..polls {
                    tokio::task::yield_now().await;
                }
                call.abort();
                settle().await;
                assert_eq!(
                    (shared.claimed(), one.stats().loads.in_flight),
                    (0, 0),
                    "batch: {is_batch}, stale: {is_stale}, polls: {polls}"
                );
            }
        }
    }
}

/// The claim is the lease, and the value that is stored ends it.
#[tokio::test]
async fn a_claim_is_neither_leased_nor_returned_as_well() {
    for is_batch in [false, true] {
        let remote = ScriptedStore::new(Claiming::default());
        let below = ScriptedStore::new(MapStore::new());
        let chain = ChainCache::builder().tier(remote.clone()).tier(below.clone()).build().unwrap();
        load_with(&chain, &CallOptions::new(), is_batch, "v").await;
        chain.wait().await.unwrap();
        settle().await;
        let calls = [Operation::Claim, Operation::Release].map(|operation| remote.calls_of(operation));
        assert_eq!(calls, [1, 0], "batch: {is_batch}");
        assert_eq!(LocalStore::get(&remote.inner().map, &key("k")).and_then(Entry::into_value).as_deref(), Some("v"));
    }
    // The lease of the last tier, which a lookup does not take.
    for is_batch in [false, true] {
        let remote = ScriptedStore::new(Claiming::default());
        let chain = ChainCache::builder().tier(remote.clone()).build().unwrap();
        load_with(&chain, &CallOptions::new(), is_batch, "v").await;
        assert_eq!(remote.calls_of(Operation::Lease), 0, "batch: {is_batch}");
    }
}

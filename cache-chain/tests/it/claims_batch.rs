//! Claims of several keys that one call loads.

use std::{io, time::Duration};

use crate::support::{
    claiming::{Claiming, load, load_slowly, process, process_pair, set_stale, stale_if_load_fails},
    each, open_gate, owned, settle,
};
use cache_chain::{ChainCache, ErrorKind, ManualClock, ReadThrough};
use cache_core::{
    Entry, Expiry, Result,
    testkit::{Gate, Operation, ScriptedStore},
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_batch_loads_what_no_peer_loads_and_waits_for_the_rest() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new()));
    let gate = Gate::default();
    let load = |name: &'static str, gate: &Gate| {
        let gate = gate.clone();
        move |keys: Vec<&'static str>| async move {
            gate.passed().await;
            Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, format!("{name} {key}"))))
        }
    };
    let open = open_gate();
    let second = async {
        settle().await;
        two.get_or_load_many(["b", "c"], load("two", &open)).await
    };
    let (first, second, ()) = tokio::join!(one.get_or_load_many(["a", "b"], load("one", &gate)), second, async {
        tokio::time::sleep(3 * SECOND).await;
        gate.open();
    });
    let values =
        |result: Result<Vec<Option<String>>>| result.unwrap().into_iter().map(Option::unwrap).collect::<Vec<_>>();
    assert_eq!(values(first), ["one a", "one b"]);
    assert_eq!(values(second), ["one b", "two c"]);
    let loads = [&one, &two].map(|chain| chain.stats().loads);
    assert_eq!((loads[0].started, loads[1].started, loads[1].loaded_by_peer), (1, 1, 1));
    for chain in [&one, &two] {
        chain.wait().await.unwrap();
    }
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

/// The peer fails, so this process loads the key by a call of its own.
#[tokio::test(start_paused = true)]
async fn a_batch_loads_what_a_peer_failed_to_load() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new()));
    let gate = Gate::default();
    let failing = {
        let gate = gate.clone();
        move |_: Vec<&'static str>| async move {
            gate.passed().await;
            Err::<[(&'static str, String); 0], _>(io::Error::other("down"))
        }
    };
    let load =
        |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, format!("two {key}")))) };
    let second = async {
        settle().await;
        two.get_or_load_many(["b", "c"], load).await
    };
    let (first, second, ()) = tokio::join!(one.get_or_load_many(["b"], failing), second, async {
        tokio::time::sleep(SECOND).await;
        gate.open();
    });
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Loader);
    assert_eq!(second.unwrap(), [Some("two b".to_owned()), Some("two c".to_owned())]);
    assert_eq!(two.stats().loads.started, 2);
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_stale_values_is_loaded_once_by_all_processes() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let [one, two] = process_pair(&shared, &clock, &stale_if_load_fails());
    one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("old"));
    two.wait().await.unwrap();
    clock.advance(SECOND);
    let load = |keys: Vec<&'static str>| async {
        tokio::time::sleep(SECOND).await;
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "new".to_owned())))
    };
    let (first, second) = tokio::join!(one.get_or_load_many(["k"], load), two.get_or_load_many(["k"], load));
    assert_eq!((first.unwrap(), second.unwrap()), (vec![Some("new".to_owned())], vec![Some("new".to_owned())]));
    let loads = [&one, &two].map(|chain| chain.stats().loads);
    assert_eq!(loads[0].started + loads[1].started, 1);
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_granted_claims_beside_a_tier_that_fails() {
    let (shared, failing) = (Claiming::default(), ScriptedStore::new(Claiming::default()));
    failing.fail(Operation::Get, ErrorKind::Unavailable);
    let chain = ChainCache::builder().tier(failing.clone()).tier(shared.clone()).build().unwrap();
    let claims = shared.clone();
    let load = move |keys: Vec<&'static str>| {
        let claimed = claims.claimed();
        async move { Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, claimed.to_string()))) }
    };
    assert_eq!(chain.get_or_load_many(["a", "b"], load).await.unwrap(), [Some("2".to_owned()), Some("2".to_owned())]);
    assert_eq!(failing.calls_of(Operation::Claim), 0);
}

/// Another process was just about to store what it has loaded.
#[tokio::test(start_paused = true)]
async fn a_batch_with_granted_claims_looks_again() {
    for is_stale in [false, true] {
        let clock = ManualClock::new();
        let shared = Claiming::with_clock(&clock);
        let [one, _] = process_pair(&shared, &clock, &stale_if_load_fails());
        if is_stale {
            set_stale(&one, &clock).await;
        }
        shared.store_on_claim(Entry::new(owned("theirs"), Expiry::Never));
        let found = one.get_or_load_many(["k"], each(owned("ours"))).await.unwrap();
        assert_eq!(found, [Some("theirs".to_owned())], "stale: {is_stale}");
        assert_eq!((one.stats().loads.started, one.stats().loads.loaded_by_peer), (0, 1));
        settle().await;
        assert_eq!(shared.claimed(), 0);
    }
}

/// The batch waits in the background for the key that a peer is loading, and fills memory with it.
#[tokio::test(start_paused = true)]
async fn a_batch_fills_memory_with_what_a_peer_has_refreshed() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let [one, two] = process_pair(&shared, &clock, &ReadThrough::new().early_refresh(1e6));
    load_slowly(&one, &clock).await;
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("old"));
    two.wait().await.unwrap();
    clock.advance(30 * SECOND);
    let gate = Gate::default();
    assert_eq!(load(&one, "new", &gate).await.unwrap(), "old");
    settle().await;
    assert_eq!(two.get_or_load_many(["k"], each(owned("never"))).await.unwrap(), [Some("old".to_owned())]);
    settle().await;
    gate.open();
    tokio::time::sleep(SECOND).await;
    two.wait().await.unwrap();
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("new"));
    assert_eq!((two.stats().loads.started, two.stats().loads.loaded_by_peer), (0, 1));
}

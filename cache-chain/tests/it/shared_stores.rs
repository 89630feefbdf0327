//! Several chains over one store, and stores whose writes run code of the application.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::support::{Scripted, key, settle};
use cache_chain::{ChainCache, Tier};
use cache_core::{
    Entry, Expiry, Origin, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, ScriptedStore},
};

const SECOND: Duration = Duration::from_secs(1);

fn owned(value: &str) -> String {
    value.to_owned()
}

fn lease_less() -> Scripted {
    ScriptedStore::new(MapStore::new()).without_leases()
}

/// Chain A has read the old value below and is about to fill it into the store that it shares with
/// chain B. B deletes the key.
#[tokio::test(start_paused = true)]
async fn g1_holds_for_two_chains_over_one_store_without_leases() {
    let (shared, below) = (lease_less(), ScriptedStore::new(MapStore::new()));
    let chain = || ChainCache::<String>::builder().tier(shared.clone()).tier(below.clone()).build().unwrap();
    let (one, two) = (chain(), chain());
    let old = Write::new(key("k"), Entry::new(owned("old"), Expiry::Never), Ticket::unconditional());

    // A has its lease and waits for the store below.
    let gate = below.stall(Operation::Get);
    let reader = one.clone();
    let reading = tokio::spawn(async move { reader.get("k").await });
    settle().await;
    let deleting = tokio::spawn(async move { two.del("k").await.map(|()| two) });
    settle().await;
    let two = deleting.await.unwrap().unwrap();
    // As if the store below had answered before the deletion.
    below.set(old).await.unwrap();
    gate.open();
    assert_eq!(reading.await.unwrap().unwrap().as_deref(), Some("old"), "it began before the deletion");
    below.del(&key("k")).await.unwrap();
    one.wait().await.unwrap();
    assert_eq!(two.get("k").await.unwrap(), None, "the deleted value is back in the shared store");
    assert_eq!(one.get("k").await.unwrap(), None);
}

/// A fill of one chain is in flight when the other chain deletes, or clears: the deletion waits for
/// it.
#[tokio::test(start_paused = true)]
async fn a_deletion_by_one_chain_waits_for_the_fill_of_another() {
    for clears in [false, true] {
        let (shared, below) = (lease_less(), ScriptedStore::new(MapStore::new()));
        let chain = || ChainCache::<String>::builder().tier(shared.clone()).tier(below.clone()).build().unwrap();
        let (one, two) = (chain(), chain());
        one.set("k", owned("old")).await.unwrap();
        shared.inner().del(&key("k")).await.unwrap();
        let gate = shared.stall(Operation::Fill);
        assert_eq!(one.get("k").await.unwrap().as_deref(), Some("old"));
        settle().await;
        assert_eq!(shared.calls_of(Operation::Fill), 1, "the fill has begun");
        let deleter = two.clone();
        let deleting = tokio::spawn(async move { if clears { deleter.clear().await } else { deleter.del("k").await } });
        settle().await;
        gate.open();
        deleting.await.unwrap().unwrap();
        one.wait().await.unwrap();
        assert_eq!(two.get("k").await.unwrap(), None, "the fill came after the deletion, clears: {clears}");
    }
}

/// The closures of an origin may use the chain, for other keys.
#[tokio::test(start_paused = true)]
async fn a_write_through_may_invalidate_and_set_other_keys() {
    let chain: Arc<OnceLock<ChainCache<String>>> = Arc::default();
    let inside = Arc::clone(&chain);
    let origin = Origin::new(|_| async { Ok::<_, io::Error>(None::<String>) })
        .write_through(move |key, value: String| {
            let inside = Arc::clone(&inside);
            async move {
                if let (Some(chain), Some(number)) = (inside.get(), value.strip_prefix("user ")) {
                    let number: u64 = number.parse().map_err(io::Error::other)?;
                    chain.del(("list", number)).await.map_err(io::Error::other)?;
                    chain.set(("name", number), owned("name")).await.map_err(io::Error::other)?;
                }
                drop(key);
                Ok::<_, io::Error>(())
            }
        })
        .del_through(|_| async { Ok::<_, io::Error>(()) });
    let built = ChainCache::builder().tier(MapStore::new()).tier(Tier::new(origin).timeout(SECOND)).build().unwrap();
    chain.set(built.clone()).unwrap();
    for number in 0..2000_u64 {
        let set = built.set(("user", number), format!("user {number}")).await;
        assert!(set.is_ok(), "write {number}: {set:?}");
        assert_eq!(built.get(("name", number)).await.unwrap().as_deref(), Some("name"));
    }
}

/// A slow write-through delays no write of another key.
#[tokio::test(start_paused = true)]
async fn write_throughs_of_different_keys_run_together() {
    let gate = Gate::default();
    let stalled = gate.clone();
    let origin = Origin::new(|_| async { Ok::<_, io::Error>(None::<String>) }).write_through(move |_, _| {
        let stalled = stalled.clone();
        async move {
            stalled.passed().await;
            Ok::<_, io::Error>(())
        }
    });
    let lease_less = lease_less();
    let writes = lease_less.stall(Operation::Set);
    let chain = ChainCache::builder().tier(MapStore::new()).tier(lease_less.clone()).tier(origin).build().unwrap();
    let all: Vec<_> = (0..1000)
        .map(|number| {
            let chain = chain.clone();
            tokio::spawn(async move { chain.set(number, owned("v")).await })
        })
        .collect();
    settle().await;
    gate.open();
    settle().await;
    // Keys that share a stripe void each other's tickets; such a write empties the tier of its key.
    let reached = lease_less.calls_of(Operation::Set) + lease_less.calls_of(Operation::Del);
    assert_eq!(reached, 1000, "every write has reached the store without leases");
    writes.open();
    for set in all {
        set.await.unwrap().unwrap();
    }
}

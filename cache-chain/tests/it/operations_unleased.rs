//! `take` and `touch` on stores without leases.

use std::time::Duration;

use crate::support::{key, settle};
use cache_chain::ChainCache;
use cache_core::{
    Expiry, Store,
    testkit::{MapStore, Operation, ScriptedStore},
};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn stores_without_leases_take_and_touch_as_well() {
    let store = ScriptedStore::new(MapStore::<String>::new()).without_leases();
    let chain = ChainCache::builder().tier(store.clone()).build().unwrap();
    chain.set("k", "v".to_owned()).await.unwrap();
    assert!(chain.touch("k", MINUTE).await.unwrap());
    assert!(Store::get(&store, &key("k")).await.unwrap().unwrap().expiry() != Expiry::Never);
    assert_eq!(chain.take("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(chain.take("k").await.unwrap(), None);
}

/// A store without leases that takes and touches by the default implementations.
#[derive(Clone)]
struct Plain(ScriptedStore<MapStore<String>>);

impl Store for Plain {
    type Value = String;

    forward!(0: profile get lease fill set del clear wait);
}

/// The steps of an operation on one key are not mixed with those of another.
#[tokio::test]
async fn take_and_touch_lock_the_key_of_a_store_without_leases() {
    let store = Plain(ScriptedStore::new(MapStore::new()).without_leases());
    let chain = ChainCache::builder().tier(store.clone()).build().unwrap();
    chain.set("k", "v".to_owned()).await.unwrap();
    let gate = store.0.stall(Operation::Del);
    let takers: Vec<_> = (0..2)
        .map(|_| {
            let chain = chain.clone();
            tokio::spawn(async move { chain.take("k").await.unwrap() })
        })
        .collect();
    settle().await;
    gate.open();
    let mut taken = Vec::new();
    for taker in takers {
        taken.extend(taker.await.unwrap());
    }
    assert_eq!(taken, ["v"]);

    chain.set("k", "old".to_owned()).await.unwrap();
    let gate = store.0.stall(Operation::Fill);
    let toucher = {
        let chain = chain.clone();
        tokio::spawn(async move { chain.touch("k", MINUTE).await.unwrap() })
    };
    settle().await;
    let setter = {
        let chain = chain.clone();
        tokio::spawn(async move { chain.set("k", "new".to_owned()).await.unwrap() })
    };
    settle().await;
    gate.open();
    toucher.await.unwrap();
    setter.await.unwrap();
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("new"));
}

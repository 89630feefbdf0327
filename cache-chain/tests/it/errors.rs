//! Errors of stores, and stores that break their contract.

use std::time::Duration;

use crate::support::Rig;
use cache_chain::{ChainCache, Error, ErrorKind, Result, Tier};
use cache_core::{
    Entry, Key, LocalStore, Profile, Store, Ticket,
    testkit::{MapStore, Operation, ScriptedStore},
};

/// Two tiers of one name would hide each other's failures, so such a chain is refused.
#[tokio::test]
async fn every_tier_that_failed_is_reported_whatever_its_name() {
    let stores = [0, 1].map(|_| ScriptedStore::new(MapStore::<u64>::new()));
    let tier = |at: usize, name: &str| Tier::new(stores[at].clone()).name(name);
    let refused = ChainCache::builder().tier(tier(0, "redis")).tier(tier(1, "redis")).build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(refused.to_string().contains(r#"two tiers are named "redis""#), "{refused}");
    let chain = ChainCache::builder().tier(tier(0, "redis")).tier(tier(1, "replica")).build().unwrap();
    stores[0].fail(Operation::Del, ErrorKind::Unavailable);
    stores[1].fail(Operation::Del, ErrorKind::ReadOnly);
    let error = chain.del("k").await.unwrap_err();
    let failed: Vec<_> = error.failures().iter().map(|failure| (failure.name(), failure.error().kind())).collect();
    assert_eq!(failed, [("replica", ErrorKind::ReadOnly), ("redis", ErrorKind::Unavailable)]);
}

/// A store that returns too few results of a batch.
#[derive(Clone)]
struct Short(MapStore<u64>);

impl Store for Short {
    type Value = u64;

    forward!(0: get lease fill set del clear wait);

    fn profile(&self) -> Profile {
        LocalStore::profile(&self.0)
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<u64>>>> {
        Store::get_many(&self.0, &keys[1..]).await
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        Store::lease_many(&self.0, &keys[1..]).await
    }
}

#[tokio::test]
async fn too_few_results_are_an_error_and_not_a_miss() {
    let short = Short(MapStore::new());
    let chain = ChainCache::builder().tier(short.clone()).build().unwrap();
    chain.set_many([("a", 1), ("b", 2)]).await.unwrap();
    let error = chain.get_many(["a", "b"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.to_string().contains("returned 1 results for 2 keys"), "{error}");
}

#[tokio::test]
async fn too_few_tickets_do_not_leave_the_older_value() {
    let upper = Short(MapStore::new());
    let chain = ChainCache::builder().tier(upper).tier(MapStore::new()).build().unwrap();
    chain.set("a", 1).await.unwrap();
    chain.set("b", 1).await.unwrap();
    let error = chain.set_many([("a", 2), ("b", 2)]).await.unwrap_err();
    let failed: Vec<_> = error.failures().iter().map(|failure| (failure.name(), failure.error().kind())).collect();
    assert_eq!(failed, [("L1 map", ErrorKind::Backend)]);
    // The last tier has the new values, and memory no older ones.
    let found = [chain.get("a").await.unwrap(), chain.get("b").await.unwrap()];
    assert_eq!(found, [Some(2), Some(2)]);
}

/// The cause of a failed write can be followed by `source()`.
#[tokio::test]
async fn the_cause_of_a_failed_write_can_be_followed() {
    #[derive(Clone)]
    struct Broken(MapStore<u64>);
    impl Store for Broken {
        type Value = u64;

        forward!(0: get lease fill set clear wait);

        fn profile(&self) -> Profile {
            Profile::new("broken")
        }

        async fn del(&self, _: &Key) -> Result<()> {
            Err(Error::with_source(
                ErrorKind::Unavailable,
                "cannot reach the server",
                "connection refused (os error 111)",
            ))
        }
    }
    let chain = ChainCache::builder().tier(Broken(MapStore::new())).build().unwrap();
    let error = chain.del("k").await.unwrap_err();
    let mut shown = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        shown = format!("{shown}: {source}");
        cause = source.source();
    }
    assert!(shown.contains("connection refused"), "all that a log shows is: {shown}");
}

/// A store that fails each key of a read in its own way.
#[derive(Clone, Debug)]
struct Picky(MapStore<String>);

impl Picky {
    fn verdict(key: &Key) -> Result<Option<Entry<String>>> {
        match key.as_bytes() {
            b"unavailable" => Err(Error::new(ErrorKind::Unavailable, "gone")),
            b"denied" => Err(Error::new(ErrorKind::Denied, "no")),
            _ => Ok(None),
        }
    }
}

impl Store for Picky {
    type Value = String;

    forward!(0: lease fill set del clear wait);

    fn profile(&self) -> Profile {
        Profile::new("picky")
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        Self::verdict(key)
    }
}

#[tokio::test]
async fn the_error_of_a_read_is_that_of_the_first_tier_and_the_first_key() {
    let rig = Rig::new(2);
    rig.stores[0].fail(Operation::Get, ErrorKind::Unavailable);
    rig.stores[1].fail(Operation::Get, ErrorKind::Denied);
    assert_eq!(rig.chain.get("k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(rig.chain.get_many(["k", "l"]).await.unwrap_err().kind(), ErrorKind::Unavailable);

    let chain = ChainCache::builder().tier(Picky(MapStore::new())).build().unwrap();
    let error = chain.get_many(["absent", "unavailable", "denied"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = chain.get_many(["denied", "unavailable"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test(start_paused = true)]
async fn wait_waits_for_every_tier_and_reports_it() {
    let rig = Rig::with(3, |_, tier| tier.timeout(Duration::from_millis(100)));
    rig.chain.wait().await.unwrap();
    assert_eq!([0, 1, 2].map(|tier: usize| rig.stores[tier].calls_of(Operation::Wait)), [1, 1, 1]);
    rig.stores[0].fail(Operation::Wait, ErrorKind::Unavailable);
    rig.stores[2].stall(Operation::Wait);
    let error = rig.chain.wait().await.unwrap_err();
    let kinds: Vec<_> = error.failures().iter().map(|failure| (failure.name(), failure.error().kind())).collect();
    assert_eq!(kinds, [("L1 map", ErrorKind::Unavailable), ("L3 map", ErrorKind::Timeout)]);
}

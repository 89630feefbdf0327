//! G7: a tier that is down or hangs.

use std::time::Duration;

use crate::support::Rig;
use cache_chain::ErrorKind;
use cache_core::{Expiry, testkit::Operation};

#[tokio::test]
async fn g7_a_read_falls_through_a_tier_that_fails() {
    let rig = Rig::new(3);
    rig.put(2, "k", "v", Expiry::Never);
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(rig.chain.get_many(["k", "k"]).await.unwrap(), [Some("v".to_owned()), Some("v".to_owned())]);
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("v"), "the tier that works is backfilled");
    assert_eq!(rig.value(1, "k"), None, "the one that failed is left alone");
    assert_eq!(rig.stores[1].calls_of(Operation::Lease), 0);
    assert_eq!(rig.chain.stats().tiers[1].errors, 3);
}

#[tokio::test]
async fn g7_an_error_is_never_turned_into_not_found() {
    let rig = Rig::new(3);
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    let error = rig.chain.get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = rig.chain.get_with_ttl("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    rig.put(2, "there", "v", Expiry::Never);
    let error = rig.chain.get_many(["there", "k"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(rig.chain.get_many(["there"]).await.unwrap(), [Some("v".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn g7_a_tier_that_hangs_costs_a_read_its_timeout_once() {
    let timeout = Duration::from_millis(100);
    let rig = Rig::with(3, |at, tier| if at == 1 { tier.timeout(timeout).name("shared") } else { tier });
    rig.put(2, "k", "v", Expiry::Never);
    rig.stores[1].stall(Operation::Get);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(started.elapsed(), timeout);
    let error = rig.chain.get("absent").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("shared") && error.to_string().contains("100ms"), "{error}");
    assert_eq!(rig.chain.stats().tiers[1].timeouts, 2);
}

/// What a tier holds whose write failed is unknown; nothing above it may claim to know.
#[tokio::test]
async fn g7_a_failed_lower_write_empties_the_tiers_above() {
    let rig = Rig::new(3);
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Set, ErrorKind::Full);
    let error = rig.chain.set("k", "new".to_owned()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(error.failures().len(), 1);
    assert_eq!(error.failures()[0].name(), "L2 map");
    assert_eq!(rig.value(2, "k").as_deref(), Some("new"));
    assert_eq!(rig.value(0, "k"), None);
}

#[tokio::test]
async fn g7_a_failed_lease_empties_only_its_own_tier() {
    let rig = Rig::new(3);
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Lease, ErrorKind::Unavailable);
    let error = rig.chain.set("k", "new".to_owned()).await.unwrap_err();
    assert_eq!(error.failures()[0].name(), "L2 map");
    let values = [0, 1, 2].map(|tier| rig.value(tier, "k"));
    assert_eq!(values, [Some("new".to_owned()), None, Some("new".to_owned())]);
}

#[tokio::test]
async fn g7_a_batch_fails_per_key() {
    let rig = Rig::new(2);
    rig.stores[1].fail(Operation::Set, ErrorKind::Full);
    let error = rig.chain.set_many([("a", "1".to_owned()), ("b", "2".to_owned())]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(error.failures().len(), 1, "a tier is named once");
    assert_eq!((rig.value(0, "a"), rig.value(0, "b")), (None, None));
}

/// A hanging backfill target holds up neither `wait` nor the rest for longer than its timeout.
#[tokio::test(start_paused = true)]
async fn g7_wait_outlasts_a_tier_that_hangs() {
    let rig = Rig::new(3);
    rig.put(2, "k", "v", Expiry::Never);
    rig.stores[1].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("v"));
    assert_eq!(rig.chain.stats().backfill.failed, 1);
    assert_eq!(rig.chain.stats().tiers[1].timeouts, 1);
}

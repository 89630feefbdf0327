//! Stale values for reads without a loader.

use std::time::Duration;

use crate::support::stale_value::{StaleRig, value_of};
use cache_chain::{CallOptions, ChainCache, ErrorKind, ServeStale};
use cache_core::testkit::Operation;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn plain_reads_get_stale_values_only_if_asked_to() {
    let rig = StaleRig::new(ServeStale::AtOnce).await;
    let options = CallOptions::new().serve_stale(ServeStale::AtOnce);
    let stale = rig.chain.with(&options);
    let counted = || (rig.chain.stats().loads.stale_served, rig.chain.stats().tiers[0].hits);
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(counted(), (0, 0));
    assert_eq!(stale.get("k").await.unwrap().as_deref(), Some("old"));
    assert_eq!(counted(), (1, 0));
    assert_eq!(stale.get_many(["k", "other"]).await.unwrap(), [Some("old".to_owned()), None]);
    let found = stale.get_detailed("k").await.unwrap();
    assert_eq!((value_of(&found), found.age), ((Some("old"), true), Some(MINUTE)));
    assert_eq!(stale.get_with_ttl("k").await.unwrap().unwrap().1.as_duration(), Some(Duration::ZERO));
    assert_eq!(counted(), (4, 0));
    // A fresh value below comes first.
    let other = ChainCache::builder().clock(rig.clock.shared()).tier(rig.lower.clone()).build().unwrap();
    other.set("k", "fresh".to_owned()).await.unwrap();
    assert_eq!(stale.get("k").await.unwrap().as_deref(), Some("fresh"));
    assert_eq!(counted(), (4, 0));
    // Past the stale window there is nothing.
    let rig = StaleRig::new(ServeStale::AtOnce).await;
    rig.clock.advance(60 * MINUTE);
    assert_eq!(rig.chain.with(&options).get("k").await.unwrap(), None);
}

/// The tier that fails may have a fresh value, and the stale one is better than an error.
#[tokio::test]
async fn a_plain_read_gets_the_stale_value_if_a_tier_fails() {
    let rig = StaleRig::new(ServeStale::AtOnce).await;
    rig.lower.fail(Operation::Get, ErrorKind::Unavailable);
    assert_eq!(rig.chain.get("k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    let options = CallOptions::new().serve_stale(ServeStale::IfLoadFails);
    assert_eq!(rig.chain.with(&options).get("k").await.unwrap().as_deref(), Some("old"));
}

#[tokio::test]
async fn a_plain_read_gets_no_stale_value_that_is_too_old() {
    let rig = StaleRig::new(ServeStale::AtOnce).await;
    let options = CallOptions::new().serve_stale(ServeStale::AtOnce);
    let (old, young) = (options.clone().max_age(MINUTE), options.max_age(59 * SECOND));
    assert_eq!(rig.chain.with(&old).get("k").await.unwrap().as_deref(), Some("old"));
    assert_eq!(rig.chain.with(&young).get("k").await.unwrap(), None);
    assert_eq!(rig.chain.with(&young).get_many(["k"]).await.unwrap(), [None]);
}

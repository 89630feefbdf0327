//! `touch`.

use std::{io, time::Duration};

use crate::support::{Rig, down, key, stale_rig};
use cache_chain::{ChainCache, ErrorKind, Ttl};
use cache_core::{
    Expiry, LocalStore,
    testkit::{MapStore, Operation},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn touch_gives_the_value_a_new_ttl_in_every_tier() {
    let rig = Rig::new(2);
    rig.chain.set_with_ttl("k", "v".to_owned(), SECOND).await.unwrap();
    assert!(rig.chain.touch("k", MINUTE).await.unwrap());
    rig.clock.advance(30 * SECOND);
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), Some(("v".to_owned(), Ttl::After(30 * SECOND))));
    for tier in 0..2 {
        let entry = rig.held(tier, "k").unwrap();
        let now = cache_core::Clock::now(&rig.clock);
        assert_eq!((entry.remaining(now), now.since(entry.created().unwrap())), (Ttl::After(30 * SECOND), 30 * SECOND));
    }
    // Shorter, too.
    assert!(rig.chain.touch("k", SECOND).await.unwrap());
    rig.clock.advance(SECOND);
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert!(!rig.chain.touch("k", SECOND).await.unwrap());
    assert_eq!(rig.chain.touch("k", Duration::ZERO).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn touch_keeps_to_the_limits_of_each_tier() {
    let rig = Rig::with(2, |at, tier| if at == 0 { tier.max_ttl(SECOND) } else { tier });
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    assert!(rig.chain.touch("k", MINUTE).await.unwrap());
    let now = cache_core::Clock::now(&rig.clock);
    let left: Vec<Ttl> = (0..2).map(|tier| rig.held(tier, "k").unwrap().remaining(now)).collect();
    assert_eq!(left, [Ttl::After(SECOND), Ttl::After(MINUTE)]);
}

#[tokio::test]
async fn touch_revives_nothing() {
    let rig = stale_rig();
    rig.chain.set_with_ttl("k", "v".to_owned(), SECOND).await.unwrap();
    rig.clock.advance(SECOND);
    assert!(!rig.chain.touch("k", MINUTE).await.unwrap(), "it is stale");
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    let none = || async { Ok::<_, io::Error>(None::<String>) };
    assert_eq!(rig.chain.get_or_load("none", none).await.unwrap(), None);
    assert!(!rig.chain.touch("none", MINUTE).await.unwrap());
    // Another process has deleted it below.
    rig.put(0, "gone", "v", Expiry::Never);
    assert!(!rig.chain.touch("gone", MINUTE).await.unwrap());
    assert_eq!(rig.value(0, "gone"), None);
}

/// It has no TTL to change, and is not asked for its data.
#[tokio::test]
async fn touch_concerns_the_tiers_above_an_origin() {
    let origin = cache_core::Origin::new(|_| async { Ok::<_, io::Error>(Some("v".to_owned())) });
    let memory = MapStore::new();
    let chain = ChainCache::builder().tier(memory.clone()).tier(origin.clone()).build().unwrap();
    assert!(!chain.touch("k", MINUTE).await.unwrap(), "it is not cached");
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("v"));
    chain.wait().await.unwrap();
    assert!(chain.touch("k", MINUTE).await.unwrap());
    let now = cache_core::SystemClock::shared().now();
    let left = LocalStore::get(&memory, &key("k")).unwrap().remaining(now);
    assert!(left <= Ttl::After(MINUTE) && left > Ttl::After(MINUTE / 2), "{left:?}");
    let alone = ChainCache::builder().tier(origin).build().unwrap();
    assert!(!alone.touch("k", MINUTE).await.unwrap(), "nothing is cached");
}

#[tokio::test]
async fn the_longest_and_the_shortest_ttl_can_be_touched() {
    let rig = stale_rig();
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    assert!(rig.chain.touch("k", Duration::MAX).await.unwrap());
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap().unwrap().1, Ttl::After(cache_core::MAX_TTL));
    assert!(rig.chain.touch("k", Duration::from_nanos(1)).await.unwrap());
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    rig.clock.advance(Duration::from_nanos(1));
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(rig.chain.get_or_load("k", down).await.unwrap(), "v", "it is stale");
    assert!(!rig.chain.touch("k", Duration::MAX).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_touch_could_not_delete_is_deleted_in_the_background() {
    let rig = Rig::new(2);
    rig.put(0, "k", "v", Expiry::Never);
    rig.stores[0].fail(Operation::Del, ErrorKind::Unavailable);
    assert!(rig.chain.touch("k", MINUTE).await.unwrap_err().will_be_repaired());
    rig.stores[0].heal();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(rig.value(0, "k"), None);
}

//! `contains`.

use std::{io, time::Duration};

use crate::support::stale_rig;
use cache_chain::{ChainCache, ErrorKind, ReadThrough};
use cache_core::{
    Expiry,
    testkit::{MapStore, Operation, ScriptedStore},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn contains_looks_at_every_tier_and_leaves_no_trace() {
    let rig = stale_rig();
    assert!(!rig.chain.contains("k").await.unwrap());
    rig.put(1, "k", "v", Expiry::Never);
    assert!(rig.chain.contains("k").await.unwrap());
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k"), None, "nothing is filled");
    assert_eq!((rig.stores[0].calls_of(Operation::Lease), rig.chain.stats().tiers[1].hits), (0, 0));
    // Neither stale values nor the news that there is none.
    rig.chain.set_with_ttl("stale", "v".to_owned(), SECOND).await.unwrap();
    rig.clock.advance(SECOND);
    assert!(!rig.chain.contains("stale").await.unwrap());
    let none = || async { Ok::<_, io::Error>(None::<String>) };
    assert_eq!(rig.chain.get_or_load("none", none).await.unwrap(), None);
    assert!(!rig.chain.contains("none").await.unwrap());
    // A tier that fails may have it.
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    assert_eq!(rig.chain.contains("other").await.unwrap_err().kind(), ErrorKind::Unavailable);
    rig.put(0, "k", "v", Expiry::Never);
    assert!(rig.chain.contains("k").await.unwrap());
    assert_eq!(rig.chain.contains("").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn contains_needs_no_runtime_for_what_memory_has() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let chain = runtime.block_on(async {
        let remote = ScriptedStore::new(MapStore::<String>::new());
        let chain = ChainCache::builder().tier(MapStore::new()).tier(remote).build().unwrap();
        chain.set("k", "v".to_owned()).await.unwrap();
        let none = || async { Ok::<_, io::Error>(None::<String>) };
        chain.get_or_load("none", none).await.unwrap();
        chain
    });
    drop(runtime);
    assert!(cache_core::testkit::block_on(chain.contains("k")).unwrap());
    assert!(!cache_core::testkit::block_on(chain.contains("none")).unwrap());
    assert_eq!(cache_core::testkit::block_on(chain.contains("other")).unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn contains_looks_below_a_stale_value_of_memory() {
    let clock = cache_core::ManualClock::new();
    let (memory, below) = (MapStore::with_clock(clock.shared()), MapStore::with_clock(clock.shared()));
    let settings = ReadThrough::new().stale_for(60 * MINUTE);
    let chain = ChainCache::builder().clock(clock.shared()).tier(memory).tier(ScriptedStore::new(below.clone()));
    let chain = chain.read_through(settings).build().unwrap();
    chain.set_with_ttl("k", "v".to_owned(), SECOND).await.unwrap();
    clock.advance(SECOND);
    assert!(!chain.contains("k").await.unwrap());
    let other = ChainCache::builder().clock(clock.shared()).tier(below).build().unwrap();
    other.set("k", "w".to_owned()).await.unwrap();
    assert!(chain.contains("k").await.unwrap());
}

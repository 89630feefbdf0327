//! The possible results of a loader, and what a caller learns of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::{Rig, origin::Origin, owned, settle};
use cache_chain::{ChainCache, ErrorKind, Loaded, ReadThrough, Source, Ttl};
use cache_core::testkit::{Gate, MapStore, join_all};

#[tokio::test]
async fn a_loaders_error_is_shared_and_can_be_taken_back_and_is_not_cached() {
    let (rig, calls, gate) = (Rig::new(2), Arc::new(AtomicUsize::new(0)), Gate::default());
    let passed = gate.clone();
    let load = move || async move {
        let number = calls.fetch_add(1, SeqCst);
        passed.passed().await;
        Err::<String, _>(Lost(number))
    };
    let callers = (0..3).map(|_| rig.chain.get_or_load("k", load.clone()));
    let (outcomes, ()) = tokio::join!(join_all(callers), async {
        settle().await;
        gate.open();
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Loader);
        assert_eq!(error.source_as::<Lost>(), Some(&Lost(0)), "all share the one error");
    }
    let error = rig.chain.get_or_load("k", load).await.unwrap_err();
    assert_eq!(error.source_as::<Lost>(), Some(&Lost(1)));
    let text = rig.chain.get_or_load("k", || async { Err::<String, _>("only text") }).await.unwrap_err();
    assert_eq!(std::error::Error::source(&text).unwrap().to_string(), "only text");
    assert_eq!([0, 1].map(|tier| rig.value(tier, "k")), [None, None]);
}

#[derive(Debug, PartialEq)]
struct Lost(usize);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lost {}", self.0)
    }
}

impl std::error::Error for Lost {}

#[tokio::test]
async fn absence_is_remembered_and_is_no_value() {
    let clock = cache_core::ManualClock::new();
    let memory = MapStore::with_clock(clock.shared());
    let chain: ChainCache<Option<String>> = ChainCache::builder()
        .clock(clock.shared())
        .tier(memory)
        .read_through(ReadThrough::new().negative_ttl(Duration::from_secs(5)))
        .build()
        .unwrap();
    let origin = Origin::open();
    // The type of the values has a `None` of its own: that is a value, and absence is not.
    for _ in 0..3 {
        assert_eq!(chain.get_or_load("absent", origin.loads(None::<Option<String>>)).await.unwrap(), None);
        assert_eq!(chain.get_or_load("none", origin.loads(Some(None::<String>))).await.unwrap(), Some(None));
    }
    assert_eq!(origin.calls(), 2);
    assert_eq!((chain.get("absent").await.unwrap(), chain.get("none").await.unwrap()), (None, Some(None)));
    assert_eq!(chain.get_with_ttl("absent").await.unwrap(), None);
    assert_eq!(chain.get_many(["absent", "none"]).await.unwrap(), [None, Some(None)]);
    clock.advance(Duration::from_secs(5));
    assert_eq!(
        chain.get_or_load("absent", origin.loads(Some(Some(owned("v"))))).await.unwrap(),
        Some(Some(owned("v")))
    );
    chain.del("absent").await.unwrap();
    assert_eq!(chain.get_or_load("absent", origin.loads(None::<Option<String>>)).await.unwrap(), None);
    chain.set("absent", Some(owned("set"))).await.unwrap();
    assert_eq!(chain.get("absent").await.unwrap(), Some(Some(owned("set"))), "a value takes the place of absence");
}

#[tokio::test]
async fn a_loader_of_plain_values_is_told_of_absence() {
    let (rig, origin) = (Rig::new(1), Origin::open());
    assert_eq!(rig.chain.get_or_load("k", origin.loads(None::<String>)).await.unwrap(), None);
    let error = rig.chain.get_or_load("k", origin.loads(owned("v"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Absent);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_loader_says_how_long_to_keep_what_it_brings() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let (rig, origin) = (Rig::new(2), Origin::open());
    let remaining =
        |tier: usize, key: &str| rig.held(tier, key).map(|entry| entry.remaining(cache_core::Clock::now(&rig.clock)));
    let bring = |key: &'static str, loaded: Loaded<String>| rig.chain.get_or_load(key, origin.loads(loaded));
    assert_eq!(bring("usual", Loaded::new(owned("v"))).await.unwrap().as_deref(), Some("v"));
    assert_eq!(bring("brief", Loaded::new(owned("v")).ttl(second)).await.unwrap().as_deref(), Some("v"));
    assert_eq!(bring("passing", Loaded::new(owned("v")).uncached()).await.unwrap().as_deref(), Some("v"));
    assert_eq!(bring("absent", Loaded::absent().ttl(minute)).await.unwrap(), None);
    rig.chain.wait().await.unwrap();
    for tier in [0, 1] {
        assert_eq!(remaining(tier, "usual"), Some(Ttl::Never));
        assert_eq!(remaining(tier, "brief"), Some(second.into()));
        assert_eq!(remaining(tier, "passing"), None);
        assert_eq!(remaining(tier, "absent"), Some(minute.into()));
        assert!(rig.held(tier, "absent").unwrap().is_absent());
    }
    let error = bring("zero", Loaded::new(owned("v")).ttl(Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(rig.chain.stats().loads.in_flight, 0);
}

#[tokio::test]
async fn the_outcome_tells_where_a_value_came_from() {
    let (rig, origin) = (Rig::new(2), Origin::open());
    let minute = Duration::from_secs(60);
    let detailed = || rig.chain.get_or_load_detailed("k", origin.loads(Loaded::new(owned("v")).ttl(minute)));
    let nowhere = rig.chain.get_detailed("k").await.unwrap();
    assert_eq!((nowhere.value, nowhere.source, nowhere.age), (None, Source::Nowhere, None));
    let loaded = detailed().await.unwrap();
    assert_eq!((loaded.value.as_deref(), loaded.source, loaded.stale), (Some("v"), Source::Loaded, false));
    assert_eq!((loaded.age, loaded.ttl), (Some(Duration::ZERO), minute.into()));
    rig.clock.advance(Duration::from_secs(20));
    let found = detailed().await.unwrap();
    assert_eq!((&found.source, found.age), (&Source::Tier("L1 map".into()), Some(Duration::from_secs(20))));
    assert_eq!(found.ttl, Duration::from_secs(40).into());
    cache_core::testkit::block_on(cache_core::Store::del(rig.stores[0].inner(), &crate::support::key("k"))).unwrap();
    let below = rig.chain.get_detailed("k").await.unwrap();
    assert_eq!((below.value.as_deref(), below.source), (Some("v"), Source::Tier("L2 map".into())));
    assert_eq!(below.age, Some(Duration::from_secs(20)), "a backfill does not make it young");
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.get_detailed("k").await.unwrap().age, Some(Duration::from_secs(20)));
    assert_eq!(origin.calls(), 1);
    assert!(!format!("{found:?}").contains("\"v\""));
}

//! Fresh if quick, else stale: the modes in which a load serves a stale value.

use std::{io, sync::atomic::Ordering::SeqCst, time::Duration};

use crate::support::{
    settle,
    stale_value::{Load, StaleRig, value_of},
};
use cache_chain::{CallOptions, ChainCache, ErrorKind, ReadThrough, ServeStale, Source};
use cache_core::testkit::MapStore;
use tokio::time::Instant;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_quick_load_is_waited_for() {
    for mode in [ServeStale::After(100 * MILLI), ServeStale::IfLoadFails] {
        let rig = StaleRig::new(mode).await;
        let found = rig.get(Load::Brings("new", 10 * MILLI)).await.unwrap();
        assert_eq!((value_of(&found), &found.source), ((Some("new"), false), &Source::Loaded), "{mode:?}");
        let stats = rig.stats();
        assert_eq!((stats.started, stats.refreshes, stats.stale_served, stats.abandoned), (1, 1, 0, 0));
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_given_time_the_stale_value_is_served_and_the_load_goes_on() {
    let rig = StaleRig::new(ServeStale::After(100 * MILLI)).await;
    let started = Instant::now();
    let found = rig.get(Load::Brings("new", SECOND)).await.unwrap();
    assert_eq!((value_of(&found), started.elapsed()), ((Some("old"), true), 100 * MILLI));
    assert_eq!(found.source, Source::Tier("L1 map".into()));
    // A second caller joins the load.
    let second = rig.get(Load::Brings("never", SECOND)).await.unwrap();
    assert_eq!((value_of(&second), rig.calls.load(SeqCst)), ((Some("old"), true), 1));
    tokio::time::sleep(SECOND).await;
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
    let stats = rig.stats();
    assert_eq!((stats.started, stats.joined, stats.stale_served, stats.in_flight), (1, 1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_gives_the_stale_value_and_is_not_repeated_at_once() {
    for mode in [ServeStale::After(SECOND), ServeStale::IfLoadFails] {
        let rig = StaleRig::new(mode).await;
        let started = Instant::now();
        let found = rig.get(Load::Fails(10 * MILLI)).await.unwrap();
        assert_eq!((value_of(&found), started.elapsed()), ((Some("old"), true), 10 * MILLI), "{mode:?}");
        // Within the cooldown it is served without another attempt.
        let found = rig.get(Load::Brings("new", MILLI)).await.unwrap();
        assert_eq!((value_of(&found), rig.calls.load(SeqCst)), ((Some("old"), true), 1));
        rig.clock.advance(SECOND);
        let found = rig.get(Load::Brings("new", MILLI)).await.unwrap();
        assert_eq!((value_of(&found), rig.calls.load(SeqCst)), ((Some("new"), false), 2));
    }
}

/// Its data may be another since.
#[tokio::test]
async fn a_write_ends_the_cooldown() {
    for is_set in [false, true] {
        let settings = ReadThrough::new().serve_stale(ServeStale::IfLoadFails).failure_cooldown(1000 * SECOND);
        let rig = StaleRig::with(settings).await;
        rig.get(Load::Fails(Duration::ZERO)).await.unwrap();
        rig.get(Load::Brings("new", Duration::ZERO)).await.unwrap();
        assert_eq!(rig.calls.load(SeqCst), 1, "it cools down");
        if is_set {
            rig.chain.set_with_ttl("k", "set".to_owned(), SECOND).await.unwrap();
            rig.clock.advance(SECOND);
        } else {
            rig.chain.expire("k").await.unwrap();
        }
        let found = rig.get(Load::Brings("new", Duration::ZERO)).await.unwrap();
        assert_eq!((value_of(&found), rig.calls.load(SeqCst)), ((Some("new"), false), 2));
    }
}

/// A caller waits as long as for a missing key, and gets the stale value instead of an error.
#[tokio::test(start_paused = true)]
async fn if_the_load_takes_too_long_it_counts_as_failed() {
    let settings = ReadThrough::new().serve_stale(ServeStale::IfLoadFails).soft_timeout(2 * SECOND);
    let rig = StaleRig::with(settings).await;
    let started = Instant::now();
    let found = rig.get(Load::Brings("new", 5 * SECOND)).await.unwrap();
    assert_eq!((value_of(&found), started.elapsed()), ((Some("old"), true), 2 * SECOND));
    tokio::time::sleep(3 * SECOND).await;
    settle().await;
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn each_call_can_choose_its_mode() {
    let rig = StaleRig::new(ServeStale::AtOnce).await;
    let wait = CallOptions::new().serve_stale(ServeStale::After(100 * MILLI));
    let found = rig.get_with(&wait, Load::Brings("new", 10 * MILLI)).await.unwrap();
    assert_eq!(value_of(&found), (Some("new"), false));

    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let at_once = CallOptions::new().serve_stale(ServeStale::AtOnce);
    let found = rig.get_with(&at_once, Load::Brings("new", SECOND)).await.unwrap();
    assert_eq!(value_of(&found), (Some("old"), true));

    let rig = StaleRig::new(ServeStale::AtOnce).await;
    let never = CallOptions::new().no_stale();
    let failed = rig.get_with(&never, Load::Fails(MILLI)).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Loader);
    let found = rig.get_with(&never, Load::Brings("new", SECOND)).await.unwrap();
    assert_eq!(value_of(&found), (Some("new"), false));
    assert_eq!(rig.stats().stale_served, 0);
}

#[tokio::test]
async fn a_time_of_zero_is_refused() {
    let settings = ReadThrough::new().serve_stale(ServeStale::After(Duration::ZERO));
    let chain = ChainCache::<String>::builder().tier(MapStore::new()).read_through(settings).build();
    let error = chain.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("use `ServeStale::AtOnce`"), "{error}");
    let chain = ChainCache::<String>::builder().tier(MapStore::new()).build().unwrap();
    let options = CallOptions::new().serve_stale(ServeStale::After(Duration::ZERO));
    assert_eq!(chain.with(&options).get("k").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// The load that the value waits for would wait for itself.
#[tokio::test(start_paused = true)]
async fn a_loader_that_reads_its_own_stale_key_gets_the_stale_value() {
    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let chain = rig.chain.clone();
    let load = move || async move {
        let own = chain.get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await?;
        Ok::<_, cache_chain::Error>(format!("from {own}"))
    };
    assert_eq!(rig.chain.get_or_load("k", load).await.unwrap(), "from old");
}

/// Its caller has left, so the loader is dropped at its next await.
#[tokio::test(start_paused = true)]
async fn a_loader_that_reads_its_own_stale_key_does_not_keep_itself_running() {
    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let chain = rig.chain.clone();
    let load = move || async move {
        chain.get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await?;
        std::future::pending::<()>().await;
        Ok::<_, cache_chain::Error>("never".to_owned())
    };
    assert!(tokio::time::timeout(SECOND, rig.chain.get_or_load("k", load)).await.is_err());
    settle().await;
    assert_eq!(rig.stats().in_flight, 0);
}

/// In each mode, through other keys, and as a reload of the key itself.
#[tokio::test(start_paused = true)]
async fn cycles_of_stale_keys_end() {
    for mode in [ServeStale::AtOnce, ServeStale::After(SECOND), ServeStale::IfLoadFails] {
        let rig = StaleRig::new(mode).await;
        let chain = rig.chain.clone();
        let through_another = move || async move {
            let inner = chain.clone();
            let other = move || async move {
                inner.get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await
            };
            let own = chain.get_or_load("other", other).await?;
            Ok::<_, cache_chain::Error>(format!("from {own}"))
        };
        let started = Instant::now();
        let never = CallOptions::new().no_stale();
        assert_eq!(rig.chain.with(&never).get_or_load("k", through_another).await.unwrap(), "from old", "{mode:?}");
        assert!(started.elapsed() <= SECOND, "{mode:?}");

        let chain = rig.chain.clone();
        let reload = move || async move {
            let options = CallOptions::new().reload();
            chain.with(&options).get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await
        };
        let options = CallOptions::new().reload();
        let error = rig.chain.with(&options).get_or_load("k", reload).await.unwrap_err();
        assert_eq!(error.source_as::<cache_chain::Error>().unwrap().kind(), ErrorKind::Cycle, "{error:#}");
        assert_eq!(rig.stats().in_flight, 0);
    }
}

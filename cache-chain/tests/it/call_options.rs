//! Options of single calls: the TTL, and tiers that a call leaves out.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::{each, hold_back_get, key, remote_rig::RemoteRig, settle};
use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded, ReadThrough, ServeStale, Source, Tier, Ttl};
use cache_core::{
    LocalStore,
    testkit::{MapStore, Operation},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_ttl_of_a_call_applies_to_what_it_sets_and_loads() {
    let rig = RemoteRig::new();
    let minute = CallOptions::new().ttl(MINUTE);
    rig.chain.with(&minute).set("set", 1).await.unwrap();
    rig.chain.with(&minute).set_many([("many", 1)]).await.unwrap();
    rig.chain.with(&minute).get_or_load("loaded", rig.loader()).await.unwrap();
    rig.chain.with(&minute).get_or_load_many(["batch"], each(1)).await.unwrap();
    for key in ["set", "many", "loaded", "batch"] {
        assert_eq!(rig.chain.get_with_ttl(key).await.unwrap().unwrap().1, Ttl::After(MINUTE), "{key}");
    }
    // The loader knows better.
    let own = || async { Ok::<_, io::Error>(Loaded::new(1).ttl(SECOND)) };
    rig.chain.with(&minute).get_or_load("own", own).await.unwrap();
    assert_eq!(rig.chain.get_with_ttl("own").await.unwrap().unwrap().1, Ttl::After(SECOND));
    rig.chain.with(&minute).set_with_ttl("own", 2, 2 * SECOND).await.unwrap();
    assert_eq!(rig.chain.get_with_ttl("own").await.unwrap().unwrap().1, Ttl::After(2 * SECOND));
    // The news that there is no value keeps its own TTL.
    let absent = || async { Ok::<_, io::Error>(None::<usize>) };
    rig.chain.with(&minute).get_or_load("absent", absent).await.unwrap();
    let entry = LocalStore::get(&rig.memory, &key("absent")).unwrap();
    assert_eq!(entry.remaining(cache_core::Clock::now(&rig.clock)), Ttl::After(5 * SECOND));
    let zero = CallOptions::new().ttl(Duration::ZERO);
    assert_eq!(rig.chain.with(&zero).set("k", 1).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_tier_that_is_not_read_is_still_filled() {
    let rig = RemoteRig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.put_below(2).await;
    let below = CallOptions::new().skip_read("L1 map");
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(1));
    let found = rig.chain.with(&below).get_detailed("k").await.unwrap();
    assert_eq!((found.value, found.source), (Some(2), Source::Tier("L2 map".into())));
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.in_memory(), Some(2));
    rig.put_below(3).await;
    assert_eq!(rig.chain.with(&below).get_many(["k"]).await.unwrap(), [Some(3)]);
    rig.put_below(4).await;
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 4);
    // The other way round: nothing but memory is asked.
    let memory = CallOptions::new().skip_read("L2 map");
    let asked = rig.lower.calls_of(Operation::Get);
    assert_eq!(rig.chain.with(&memory).get("absent").await.unwrap(), None);
    assert_eq!(rig.lower.calls_of(Operation::Get), asked);
}

#[tokio::test]
async fn a_tier_that_is_not_written_holds_nothing_older() {
    let rig = RemoteRig::new();
    let below = CallOptions::new().skip_write("L1 map");
    rig.chain.set("k", 1).await.unwrap();
    rig.chain.with(&below).set("k", 2).await.unwrap();
    assert_eq!((rig.in_memory(), rig.below()), (None, Some(2)));
    assert_eq!(rig.chain.with(&below).get("k").await.unwrap(), Some(2));
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 2);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.in_memory(), None, "it is not filled");
    rig.chain.del("k").await.unwrap();
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 100);
    assert_eq!(rig.chain.with(&below).get_or_load_many(["other"], each(7)).await.unwrap(), [Some(7)]);
    rig.chain.wait().await.unwrap();
    assert_eq!((rig.in_memory(), rig.below()), (None, Some(100)));
    assert_eq!(LocalStore::get(&rig.memory, &key("other")), None);
    let backfill = rig.chain.stats().backfill;
    assert_eq!((backfill.applied, backfill.failed), (2, 0), "and that is no failure");
    // Memory alone.
    let memory = CallOptions::new().skip_write("L2 map");
    rig.chain.with(&memory).set("k", 3).await.unwrap();
    assert_eq!((rig.in_memory(), rig.below()), (Some(3), None));
}

#[tokio::test]
async fn an_origin_that_is_not_written_is_left_alone() {
    let calls = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&calls);
    let origin = cache_core::Origin::new(|_| async { Ok::<_, io::Error>(Some(1_usize)) })
        .write_through(move |_, _| {
            written.fetch_add(1, SeqCst);
            std::future::ready(Ok::<_, io::Error>(()))
        })
        .del_through(|_| async { Err(io::Error::other("must not be called")) });
    let chain = ChainCache::builder().tier(MapStore::new()).tier(Tier::new(origin).name("table")).build().unwrap();
    chain.with(&CallOptions::new().skip_write("table")).set("k", 2).await.unwrap();
    assert_eq!((calls.load(SeqCst), chain.get("k").await.unwrap()), (0, Some(2)));
    // A reload does not write it either.
    let load = || async { Ok::<_, io::Error>(3) };
    assert_eq!(chain.with(&CallOptions::new().reload()).get_or_load("k", load).await.unwrap(), 3);
    assert_eq!((calls.load(SeqCst), chain.get("k").await.unwrap()), (0, Some(3)));
}

#[tokio::test]
async fn an_unknown_tier_is_an_error_that_names_those_there_are() {
    let rig = RemoteRig::new();
    for options in [CallOptions::new().skip_read("redis"), CallOptions::new().skip_write("redis")] {
        let error = rig.chain.with(&options).get("k").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), r#"no tier of the chain is named "redis"; the tiers are ["L1 map", "L2 map"]"#);
        assert!(rig.chain.with(&options).set("k", 1).await.is_err());
        assert!(rig.chain.with(&options).get_or_load("k", rig.loader()).await.is_err());
    }
}

/// If the value in memory is stale, the tiers below are read again, as the options say.
#[tokio::test]
async fn tiers_are_left_out_of_a_refresh_as_well() {
    let stale_rig = async || {
        let mut rig = RemoteRig::new();
        let settings = ReadThrough::new().stale_for(MINUTE).serve_stale(ServeStale::IfLoadFails);
        let chain = ChainCache::builder().clock(rig.clock.shared()).tier(rig.memory.clone()).tier(rig.lower.clone());
        rig.chain = chain.read_through(settings).build().unwrap();
        rig.chain.set_with_ttl("k", 1, SECOND).await.unwrap();
        rig.clock.advance(SECOND);
        rig.put_below(2).await;
        rig
    };
    let rig = stale_rig().await;
    let memory = CallOptions::new().skip_read("L2 map");
    let asked = rig.lower.calls_of(Operation::Get);
    assert_eq!(rig.chain.with(&memory).get_or_load("k", rig.loader()).await.unwrap(), 100);
    assert_eq!(rig.lower.calls_of(Operation::Get), asked);

    let rig = stale_rig().await;
    let below = CallOptions::new().skip_write("L1 map");
    assert_eq!(rig.chain.with(&below).get_or_load("k", rig.loader()).await.unwrap(), 2);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.in_memory(), Some(1), "it is not filled");
}

/// It looked before the value was there, and is to find it where it looks, which is below.
#[tokio::test]
async fn a_tier_is_not_read_after_another_load_either() {
    let rig = RemoteRig::new();
    // The lookup is late: its first result is held back.
    let gate = hold_back_get(&rig.lower, 0);
    let call = {
        let (chain, load) = (rig.chain.clone(), rig.loader());
        let below = CallOptions::new().skip_read("L1 map");
        tokio::spawn(async move { chain.with(&below).get_or_load_detailed("k", load).await })
    };
    settle().await;
    assert_eq!(rig.chain.get_or_load("k", rig.loader()).await.unwrap(), 100);
    rig.chain.wait().await.unwrap();
    gate.open();
    let found = call.await.unwrap().unwrap();
    assert_eq!((found.value, found.source), (Some(100), Source::Tier("L2 map".into())));
}

/// Without a runtime of the caller, also if memory has all keys and is not asked.
#[test]
fn several_keys_are_read_below_memory_on_the_runtime_of_the_chain() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let rig = runtime.block_on(async {
        let rig = RemoteRig::new();
        rig.chain.set("k", 1).await.unwrap();
        rig.put_below(2).await;
        rig
    });
    let below = CallOptions::new().skip_read("L1 map");
    let found = cache_core::testkit::block_on(rig.chain.with(&below).get_many(["k"]));
    assert_eq!(found.unwrap(), [Some(2)]);
}

/// The futures do not borrow what they were made of.
#[tokio::test]
async fn calls_with_options_run_together() {
    let chain: ChainCache<String> = ChainCache::builder().tier(MapStore::new()).build().unwrap();
    let options = CallOptions::new().ttl(MINUTE);
    let load = || async { Ok::<_, io::Error>("loaded".to_owned()) };
    let (set, loaded, found, many) = tokio::join!(
        chain.with(&options).set("a", "set".to_owned()),
        chain.with(&options).get_or_load("b", load),
        chain.with(&options).get("c"),
        chain.with(&options).get_many(["c"]),
    );
    set.unwrap();
    assert_eq!((loaded.unwrap().as_str(), found.unwrap(), many.unwrap()), ("loaded", None, vec![None]));
}

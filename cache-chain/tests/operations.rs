//! `contains`, `take`, `touch` and `expire`.

mod support;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{CallOptions, ChainBuilder, ChainCache, ErrorKind, ReadThrough, ServeStale, Ttl};
use cache_core::{
    Entry, Expiry, Key, LocalStore, Profile, Result, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, Phase, ScriptedStore},
};
use support::{Rig, key, settle};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Two tiers whose values stay for an hour after their TTL.
fn stale_rig() -> Rig {
    let stale = |builder: ChainBuilder<String>| {
        builder.read_through(ReadThrough::new().stale_for(60 * MINUTE).serve_stale(ServeStale::IfLoadFails))
    };
    Rig::built(2, |_, tier| tier, stale)
}

async fn down() -> io::Result<String> {
    Err(io::Error::other("down"))
}

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

#[tokio::test]
async fn take_returns_the_value_once_and_deletes_it_everywhere() {
    let rig = Rig::new(3);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    assert_eq!(rig.chain.take("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!((0..3).map(|tier| rig.value(tier, "k")).collect::<Vec<_>>(), [None, None, None]);
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    // Another process has taken it, and this one does not know.
    rig.put(0, "k", "v", Expiry::Never);
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    assert_eq!(rig.value(0, "k"), None);
}

#[tokio::test]
async fn take_returns_no_stale_value() {
    let rig = stale_rig();
    rig.chain.set_with_ttl("k", "v".to_owned(), SECOND).await.unwrap();
    rig.clock.advance(SECOND);
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    assert_eq!((rig.held(0, "k"), rig.held(1, "k")), (None, None));
}

#[tokio::test]
async fn of_many_takers_one_gets_the_value() {
    let shared = MapStore::<String>::new();
    for round in 0..200 {
        let chains: Vec<ChainCache<String>> =
            (0..4).map(|_| ChainCache::builder().tier(MapStore::new()).tier(shared.clone()).build().unwrap()).collect();
        chains[0].set("k", round.to_string()).await.unwrap();
        let takers: Vec<_> = chains
            .into_iter()
            .map(|chain| std::thread::spawn(move || cache_core::testkit::block_on(chain.take("k"))))
            .collect();
        // The threads wait for tasks of this runtime.
        let taken = tokio::task::spawn_blocking(move || {
            takers.into_iter().filter_map(|taker| taker.join().unwrap().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(taken.await.unwrap(), [round.to_string()]);
    }
}

/// The backfill read the value before it was taken.
#[tokio::test]
async fn a_backfill_does_not_bring_a_taken_value_back() {
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    settle().await;
    assert_eq!(rig.chain.take("k").await.unwrap().as_deref(), Some("v"));
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "k"), None);
}

#[tokio::test]
async fn a_value_that_awaits_its_deletion_is_not_taken() {
    let rig = Rig::new(2);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Del, ErrorKind::Backend);
    assert!(rig.chain.del("k").await.unwrap_err().will_be_repaired());
    assert_eq!(rig.value(1, "k").as_deref(), Some("v"));
    rig.stores[1].heal();
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    assert_eq!(rig.value(1, "k"), None);
}

#[tokio::test]
async fn a_take_that_fails_says_so_and_the_value_is_not_read_again() {
    let rig = Rig::new(2);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    let error = rig.chain.take("k").await.unwrap_err();
    assert!(error.will_be_repaired(), "{error:#}");
    assert_eq!(rig.value(0, "k"), None);
    assert!(rig.chain.get("k").await.is_err(), "the value that may have been taken is not served");
}

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

#[tokio::test]
async fn an_expired_value_is_invisible_and_serves_if_the_load_fails() {
    let rig = stale_rig();
    rig.chain.set_with_ttl("k", "v".to_owned(), MINUTE).await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert!(!rig.chain.contains("k").await.unwrap());
    assert_eq!(rig.chain.get_or_load("k", down).await.unwrap(), "v");
    for tier in 0..2 {
        let now = cache_core::Clock::now(&rig.clock);
        let entry = rig.held(tier, "k").unwrap();
        assert!(entry.is_stale(now) && entry.remaining(now) == Ttl::After(60 * MINUTE), "{entry:?}");
    }
    rig.clock.advance(SECOND);
    let new = || async { Ok::<_, io::Error>("new".to_owned()) };
    assert_eq!(rig.chain.get_or_load("k", new).await.unwrap(), "new");
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
}

#[tokio::test]
async fn a_value_without_a_ttl_expires_as_well() {
    let rig = stale_rig();
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    rig.clock.advance(59 * MINUTE);
    assert_eq!(rig.chain.get_or_load("k", down).await.unwrap(), "v");
    rig.clock.advance(MINUTE);
    assert_eq!(rig.chain.get_or_load("k", down).await.unwrap_err().kind(), ErrorKind::Loader);
}

/// To expire it again does not give it a new life.
#[tokio::test]
async fn to_expire_a_stale_value_changes_nothing() {
    let rig = stale_rig();
    rig.chain.set_with_ttl("k", "v".to_owned(), SECOND).await.unwrap();
    rig.clock.advance(30 * MINUTE);
    let before = [rig.held(0, "k"), rig.held(1, "k")];
    rig.chain.expire("k").await.unwrap();
    assert_eq!([rig.held(0, "k"), rig.held(1, "k")], before);
}

#[tokio::test]
async fn without_a_stale_window_to_expire_is_to_delete() {
    let rig = Rig::new(2);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!((rig.held(0, "k"), rig.held(1, "k")), (None, None));
}

#[tokio::test]
async fn the_news_that_there_is_no_value_is_deleted_by_expire() {
    let rig = stale_rig();
    let none = || async { Ok::<_, io::Error>(None::<String>) };
    assert_eq!(rig.chain.get_or_load("k", none).await.unwrap(), None);
    rig.chain.wait().await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!((rig.held(0, "k"), rig.held(1, "k")), (None, None));
}

/// A load or a backfill that began before does not bring the value back as fresh.
#[tokio::test]
async fn what_began_before_it_was_expired_does_not_make_it_fresh() {
    let rig = stale_rig();
    let gate = Gate::default();
    rig.chain.set("loaded", "v".to_owned()).await.unwrap();
    rig.chain.del("loaded").await.unwrap();
    let load = {
        let (chain, gate) = (rig.chain.clone(), gate.clone());
        let load = move || async move {
            gate.passed().await;
            Ok::<_, io::Error>("old".to_owned())
        };
        tokio::spawn(async move { chain.get_or_load("loaded", load).await })
    };
    settle().await;
    rig.chain.expire("loaded").await.unwrap();
    gate.open();
    assert_eq!(load.await.unwrap().unwrap(), "old");
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.get("loaded").await.unwrap(), None);

    rig.put(1, "read", "v", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("read").await.unwrap().as_deref(), Some("v"));
    settle().await;
    rig.chain.expire("read").await.unwrap();
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.get("read").await.unwrap(), None);
}

/// The write came between the read and the write of `expire`, and is newer than what it expires.
#[tokio::test]
async fn expire_does_not_replace_a_newer_value() {
    let rig = stale_rig();
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    let gate = rig.stores[1].stall(Operation::Set);
    let expire = {
        let chain = rig.chain.clone();
        tokio::spawn(async move { chain.expire("k").await })
    };
    settle().await;
    let other = ChainCache::builder().clock(rig.clock.shared()).tier(rig.stores[1].inner().clone()).build().unwrap();
    other.set("k", "new".to_owned()).await.unwrap();
    gate.open();
    expire.await.unwrap().unwrap();
    let below = rig.value(1, "k");
    assert!(below.as_deref().is_none_or(|value| value == "new"), "{below:?}");
    assert_ne!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
}

#[tokio::test]
async fn where_expire_fails_the_key_is_deleted_later() {
    let rig = stale_rig();
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Set, ErrorKind::Unavailable);
    let error = rig.chain.expire("k").await.unwrap_err();
    assert!(error.will_be_repaired(), "{error:#}");
    rig.stores[1].heal();
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(1, "k"), None);
}

/// The data itself is not expired.
#[tokio::test]
async fn an_origin_keeps_its_value() {
    let origin = cache_core::Origin::new(|_| async { Ok::<_, io::Error>(Some("v".to_owned())) })
        .write_through(|_, _: String| async { Err(io::Error::other("must not be called")) })
        .del_through(|_| async { Err(io::Error::other("must not be called")) });
    let memory = MapStore::new();
    let chain = ChainCache::builder()
        .tier(memory.clone())
        .tier(origin)
        .read_through(ReadThrough::new().stale_for(MINUTE))
        .build()
        .unwrap();
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("v"));
    chain.wait().await.unwrap();
    chain.expire("k").await.unwrap();
    let now = cache_core::SystemClock::shared().now();
    assert!(LocalStore::get(&memory, &key("k")).is_none_or(|entry: Entry<String>| entry.is_stale(now)));
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("v"), "from the origin");
}

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

#[tokio::test]
async fn the_statistics_count_writes() {
    let rig = stale_rig();
    rig.chain.set_many([("a", "v".to_owned()), ("b", "v".to_owned()), ("c", "v".to_owned())]).await.unwrap();
    rig.chain.touch("a", MINUTE).await.unwrap();
    rig.chain.touch("none", MINUTE).await.unwrap();
    rig.chain.take("a").await.unwrap();
    rig.chain.take("a").await.unwrap();
    rig.chain.expire("b").await.unwrap();
    rig.chain.del_many(["b", "c"]).await.unwrap();
    rig.chain.clear().await.unwrap();
    let stats = rig.chain.stats();
    let writes = stats.writes;
    assert_eq!((writes.set, writes.touched, writes.taken, writes.expired), (3, 1, 1, 1));
    assert_eq!((writes.deleted, writes.cleared), (2, 1));
    let line = "writes: 3 set, 2 deleted, 1 taken, 1 touched, 1 expired, 1 cleared";
    assert_eq!(stats.to_string().lines().last(), Some(line));
    rig.stores[1].fail(Operation::Set, ErrorKind::Unavailable);
    rig.chain.set("d", "v".to_owned()).await.unwrap_err();
    assert_eq!(rig.chain.stats().writes.set, 3, "a failed write does not count");
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

/// Each call of the store fails or never answers. What the operation returns tells so, and no tier
/// serves an older value afterwards.
#[tokio::test(start_paused = true)]
async fn an_operation_on_a_tier_that_fails_says_so_and_brings_nothing_back() {
    let operations = [Operation::Get, Operation::Lease, Operation::Fill, Operation::Set, Operation::Del];
    for place in 0..2 {
        for operation in operations {
            for stalls in [false, true] {
                for call in ["take", "touch", "expire", "contains"] {
                    let rig = stale_rig();
                    rig.chain.set_with_ttl("k", "v".to_owned(), MINUTE).await.unwrap();
                    if stalls {
                        rig.stores[place].stall(operation);
                    } else {
                        rig.stores[place].fail(operation, ErrorKind::Unavailable);
                    }
                    let case = format!("{call}, tier {place}, {operation:?}, stalls: {stalls}");
                    let result = match call {
                        "take" => {
                            rig.chain.take("k").await.map(|taken| assert_eq!(taken.as_deref(), Some("v"), "{case}"))
                        }
                        "touch" => rig.chain.touch("k", 2 * MINUTE).await.map(|touched| assert!(touched, "{case}")),
                        "expire" => rig.chain.expire("k").await,
                        _ => rig.chain.contains("k").await.map(|found| assert!(found, "{case}")),
                    };
                    let is_write = matches!(call, "take" | "expire");
                    if let Err(error) = &result {
                        let kind = if stalls { ErrorKind::Timeout } else { ErrorKind::Unavailable };
                        assert_eq!((error.kind(), error.will_be_repaired()), (kind, is_write), "{case}: {error:#}");
                    }
                    rig.stores[place].heal();
                    if is_write {
                        // The value that may be there is not read, now or when it has been repaired.
                        let got = rig.chain.get("k").await;
                        assert!(got.as_ref().is_ok_and(Option::is_none) || result.is_err() && got.is_err(), "{case}");
                        tokio::time::sleep(3 * SECOND).await;
                        assert_eq!(rig.chain.get("k").await.unwrap(), None, "{case}");
                    } else {
                        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"), "{case}");
                    }
                    assert!(rig.chain.stats().tiers.iter().all(|tier| tier.pending_deletes == 0), "{case}");
                }
            }
        }
    }
}

/// Dropped at any await, they leave nothing that a later call would wait for.
#[tokio::test]
async fn operations_can_be_dropped_at_any_await() {
    for call in ["take", "touch", "expire", "contains"] {
        for polls in 0..16 {
            let rig = stale_rig();
            rig.chain.set_with_ttl("k", "v".to_owned(), MINUTE).await.unwrap();
            let chain = rig.chain.clone();
            let task = tokio::spawn(async move {
                match call {
                    "take" => chain.take("k").await.map(drop),
                    "touch" => chain.touch("k", 2 * MINUTE).await.map(drop),
                    "expire" => chain.expire("k").await,
                    _ => chain.contains("k").await.map(drop),
                }
            });
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
            task.abort();
            settle().await;
            rig.chain.wait().await.unwrap();
            rig.chain.set("k", "new".to_owned()).await.unwrap();
            assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"), "{call} after {polls} polls");
            assert_eq!(rig.value(1, "k").as_deref(), Some("new"));
        }
    }
}

/// It would be served stale otherwise.
#[tokio::test]
async fn a_value_that_awaits_its_deletion_is_neither_expired_nor_touched() {
    for is_touched in [false, true] {
        let rig = stale_rig();
        rig.chain.set("k", "v".to_owned()).await.unwrap();
        rig.stores[1].fail(Operation::Del, ErrorKind::Backend);
        rig.chain.del("k").await.unwrap_err();
        rig.put(0, "k", "v", Expiry::Never);
        rig.stores[1].heal();
        if is_touched {
            assert!(!rig.chain.touch("k", MINUTE).await.unwrap());
            assert_eq!(rig.held(0, "k"), None);
        } else {
            rig.chain.expire("k").await.unwrap();
            assert_eq!(rig.held(1, "k"), None);
        }
    }
}

/// After an overflow of the list of pending deletes, an entry that was made before may be outdated.
#[tokio::test(start_paused = true)]
async fn a_value_that_may_be_outdated_is_not_taken_touched_or_expired() {
    for call in ["take", "touch", "expire"] {
        let stale = |builder: ChainBuilder<String>| builder.read_through(ReadThrough::new().stale_for(MINUTE));
        let rig = Rig::built(2, |_, tier| tier.pending_deletes(1), stale);
        for key in ["k", "a", "b"] {
            rig.chain.set(key, "v".to_owned()).await.unwrap();
        }
        rig.stores[1].fail(Operation::Del, ErrorKind::Backend);
        for key in ["a", "b"] {
            rig.chain.del(key).await.unwrap_err();
        }
        rig.stores[1].heal();
        rig.clock.advance(SECOND);
        tokio::time::sleep(3 * SECOND).await;
        rig.put(0, "k", "v", Expiry::Never);
        assert!(rig.held(1, "k").is_some());
        match call {
            "take" => assert_eq!(rig.chain.take("k").await.unwrap(), None),
            "touch" => assert!(!rig.chain.touch("k", MINUTE).await.unwrap()),
            _ => {
                rig.chain.expire("k").await.unwrap();
                assert_eq!(rig.held(1, "k"), None);
            }
        }
        if call != "expire" {
            assert_eq!(rig.held(0, "k"), None, "{call}");
        }
        // One that was made since is as good as any.
        rig.clock.advance(SECOND);
        rig.chain.set("k", "new".to_owned()).await.unwrap();
        match call {
            "take" => assert_eq!(rig.chain.take("k").await.unwrap().as_deref(), Some("new")),
            "touch" => assert!(rig.chain.touch("k", MINUTE).await.unwrap()),
            _ => {
                rig.chain.expire("k").await.unwrap();
                assert!(rig.held(1, "k").is_some());
            }
        }
    }
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

/// The lookup has read the value before, and a caller that comes later does not join it.
#[tokio::test]
async fn a_lookup_in_flight_does_not_tell_later_callers_of_an_older_value() {
    for call in ["take", "expire", "reload"] {
        let stale = |builder: ChainBuilder<String>| builder.read_through(ReadThrough::new().stale_for(MINUTE));
        let rig = Rig::built(1, |_, tier| tier, stale);
        rig.chain.set("k", "old".to_owned()).await.unwrap();
        let (gate, gets) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let late = gate.clone();
        rig.stores[0].at_every_step(move |operation, phase| {
            // The first answer is held back.
            let is_late = operation == Operation::Get && phase == Phase::After && gets.fetch_add(1, SeqCst) == 0;
            let late = late.clone();
            async move {
                if is_late {
                    late.passed().await;
                }
            }
        });
        let early = {
            let chain = rig.chain.clone();
            tokio::spawn(async move { chain.get("k").await })
        };
        settle().await;
        let expected = match call {
            "take" => rig.chain.take("k").await.map(|_| None).unwrap(),
            "expire" => rig.chain.expire("k").await.map(|()| None).unwrap(),
            _ => {
                let new = || async { Ok::<_, io::Error>("new".to_owned()) };
                let reload = CallOptions::new().reload();
                Some(rig.chain.with(&reload).get_or_load("k", new).await.unwrap())
            }
        };
        assert_eq!(rig.chain.get("k").await.unwrap(), expected, "{call}");
        gate.open();
        assert_eq!(early.await.unwrap().unwrap().as_deref(), Some("old"));
    }
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

/// Bytes that do not decode are no value, and are removed.
#[tokio::test]
async fn what_does_not_decode_is_taken_and_expired_as_if_it_were_not_there() {
    let rig = stale_rig();
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Del, ErrorKind::Codec);
    assert_eq!(rig.chain.take("k").await.unwrap(), None);
    rig.stores[1].heal();
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Get, ErrorKind::Codec);
    rig.chain.expire("k").await.unwrap();
    assert_eq!(rig.held(1, "k"), None);
}

/// A store without leases that takes and touches by the default implementations.
#[derive(Clone)]
struct Plain(ScriptedStore<MapStore<String>>);

impl Store for Plain {
    type Value = String;

    fn profile(&self) -> Profile {
        Store::profile(&self.0)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        self.0.get(key).await
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        self.0.lease(key).await
    }

    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.0.fill(write).await
    }

    async fn set(&self, write: Write<String>) -> Result<()> {
        self.0.set(write).await
    }

    async fn del(&self, key: &Key) -> Result<()> {
        self.0.del(key).await
    }

    async fn clear(&self) -> Result<()> {
        self.0.clear().await
    }

    async fn wait(&self) -> Result<()> {
        self.0.wait().await
    }
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

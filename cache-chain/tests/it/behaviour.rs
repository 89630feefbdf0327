//! The documented behaviour of a chain, and its edge cases.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::support::{Rig, settle};
use cache_chain::{ChainCache, ErrorKind, MAX_TTL, Tier, Ttl};
use cache_core::{
    Expiry, Key, ManualClock,
    testkit::{MapStore, Operation, ScriptedStore},
};
use proptest::prelude::*;

#[tokio::test]
async fn set_writes_every_tier_from_the_last_up() {
    let rig = Rig::new(3);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    for tier in 0..3 {
        assert_eq!(rig.value(tier, "k").as_deref(), Some("v"));
    }
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(rig.stores[1].calls_of(Operation::Get), 0, "the first hit ends the search");
}

#[tokio::test]
async fn get_returns_the_first_hit_and_backfills_the_tiers_above() {
    let rig = Rig::new(3);
    rig.put(2, "k", "v", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!((rig.value(0, "k"), rig.value(1, "k")), (None, None), "asynchronously");
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!((rig.value(0, "k").as_deref(), rig.value(1, "k").as_deref()), (Some("v"), Some("v")));
    let stats = rig.chain.stats();
    assert_eq!((stats.backfill.queued, stats.backfill.applied), (1, 2));
    assert_eq!(stats.tiers.iter().map(|tier| (tier.hits, tier.misses)).collect::<Vec<_>>(), [(0, 1), (0, 1), (1, 0)]);
    assert!(stats.to_string().starts_with("L1 map: 0 hits, 1 misses\nL2 map"), "{stats}");
}

#[tokio::test]
async fn del_and_clear_remove_from_every_tier() {
    let rig = Rig::new(3);
    rig.chain.set_many([("a", "1".to_owned()), ("b", "2".to_owned()), ("c", "3".to_owned())]).await.unwrap();
    rig.chain.del("a").await.unwrap();
    rig.chain.del_many(["b", "absent"]).await.unwrap();
    for tier in 0..3 {
        assert_eq!((rig.value(tier, "a"), rig.value(tier, "b")), (None, None));
        assert_eq!(rig.value(tier, "c").as_deref(), Some("3"));
    }
    rig.chain.clear().await.unwrap();
    assert_eq!([0, 1, 2].map(|tier| rig.value(tier, "c")), [None, None, None]);
}

#[tokio::test]
async fn a_batch_asks_each_tier_once_for_what_the_tiers_above_lack() {
    let rig = Rig::new(3);
    rig.put(0, "a", "1", Expiry::Never);
    rig.put(1, "b", "2", Expiry::Never);
    rig.put(2, "c", "3", Expiry::Never);
    let found = rig.chain.get_many(["c", "absent", "a", "b", "c"]).await.unwrap();
    let found: Vec<_> = found.iter().map(Option::as_deref).collect();
    assert_eq!(found, [Some("3"), None, Some("1"), Some("2"), Some("3")]);
    let asked = |tier: usize| -> Vec<Vec<Key>> {
        let calls = rig.stores[tier].calls().into_iter();
        calls.filter(|call| call.operation == Operation::Get).map(|call| call.keys).collect()
    };
    let keys = |names: &[&str]| Key::many(names).unwrap();
    assert_eq!(asked(0), [keys(&["c", "absent", "a", "b", "c"])]);
    assert_eq!(asked(1), [keys(&["c", "absent", "b", "c"])]);
    assert_eq!(asked(2), [keys(&["c", "absent", "c"])]);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "b").as_deref(), Some("2"));
    assert_eq!((rig.value(0, "c").as_deref(), rig.value(1, "c").as_deref()), (Some("3"), Some("3")));
    // The backfills went up in one batch per tier.
    assert_eq!(rig.stores[0].calls_of(Operation::Fill), 1);

    rig.chain.set_many([("d", "4".to_owned()), ("e", "5".to_owned())]).await.unwrap();
    for store in &rig.stores {
        assert_eq!(store.calls_of(Operation::Set), 1);
    }
}

/// A store whose tickets are those of single keys would take the second write of a key for that of
/// another writer.
#[tokio::test]
async fn of_a_key_given_twice_the_last_value_is_written_once() {
    let rig = Rig::new(2);
    rig.chain.set_many([("a", "1".to_owned()), ("b", "2".to_owned()), ("a", "3".to_owned())]).await.unwrap();
    for tier in 0..2 {
        assert_eq!((rig.value(tier, "a").as_deref(), rig.value(tier, "b").as_deref()), (Some("3"), Some("2")));
        let set = rig.stores[tier].calls().into_iter().find(|call| call.operation == Operation::Set).unwrap();
        assert_eq!(set.keys, Key::many(["b", "a"]).unwrap());
    }
}

#[tokio::test]
async fn g6_a_backfill_carries_the_remaining_ttl() {
    let rig = Rig::new(3);
    let gate = rig.stores[0].stall(Operation::Fill);
    rig.chain.set_with_ttl("k", "v".to_owned(), Duration::from_secs(10)).await.unwrap();
    let origin = rig.held(2, "k").unwrap().expiry();
    rig.clock.advance(Duration::from_secs(3));
    rig.chain.del("other").await.unwrap();
    for tier in [0, 1] {
        cache_core::testkit::block_on(cache_core::Store::del(rig.stores[tier].inner(), &Key::new("k").unwrap()))
            .unwrap();
    }
    let found = rig.chain.get_with_ttl("k").await.unwrap();
    assert_eq!(found, Some(("v".to_owned(), Ttl::After(Duration::from_secs(7)))));
    // It queues for two seconds more.
    settle().await;
    rig.clock.advance(Duration::from_secs(2));
    gate.open();
    rig.chain.wait().await.unwrap();
    for tier in 0..3 {
        let entry = rig.held(tier, "k").unwrap();
        assert_eq!(entry.expiry(), origin);
        assert_eq!(entry.remaining(cache_core::Clock::now(&rig.clock)), Ttl::After(Duration::from_secs(5)));
    }
}

#[tokio::test]
async fn what_expires_in_the_queue_is_not_applied() {
    let rig = Rig::new(2);
    rig.chain.set_with_ttl("k", "v".to_owned(), Duration::from_secs(1)).await.unwrap();
    cache_core::testkit::block_on(cache_core::Store::del(rig.stores[0].inner(), &Key::new("k").unwrap())).unwrap();
    // The queue's task is busy with another key.
    rig.put(1, "other", "v", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    rig.chain.get("other").await.unwrap();
    settle().await;
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    rig.clock.advance(Duration::from_secs(1));
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!((rig.value(0, "k"), rig.value(0, "other").as_deref()), (None, Some("v")));
    assert_eq!(rig.chain.stats().backfill.expired, 1);
}

#[tokio::test]
async fn tiers_cap_and_default_ttls() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let rig = Rig::with(3, |at, tier| match at {
        0 => tier.max_ttl(second),
        1 => tier.default_ttl(minute),
        _ => tier,
    });
    let ttls = |key: &str| {
        let now = cache_core::Clock::now(&rig.clock);
        [0, 1, 2].map(|tier| rig.held(tier, key).map(|entry| entry.remaining(now)))
    };
    rig.chain.set("default", "v".to_owned()).await.unwrap();
    assert_eq!(ttls("default"), [Some(second.into()), Some(minute.into()), Some(Ttl::Never)]);
    rig.chain.set_with_ttl("long", "v".to_owned(), 2 * minute).await.unwrap();
    assert_eq!(ttls("long"), [Some(second.into()), Some((2 * minute).into()), Some((2 * minute).into())]);
    rig.chain.set_with_ttl("short", "v".to_owned(), second / 2).await.unwrap();
    assert_eq!(ttls("short"), [Some((second / 2).into()); 3]);
    rig.put(2, "below", "v", Expiry::Never);
    rig.chain.get("below").await.unwrap();
    rig.chain.wait().await.unwrap();
    assert_eq!(ttls("below"), [Some(second.into()), Some(minute.into()), Some(Ttl::Never)]);
}

#[tokio::test]
async fn ttls_of_all_sizes() {
    let rig = Rig::new(2);
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    for ttl in [Duration::from_nanos(1), Duration::from_millis(1), Duration::from_millis(999), 10 * year, MAX_TTL] {
        rig.chain.set_with_ttl("k", "v".to_owned(), ttl).await.unwrap();
        assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), Some(("v".to_owned(), Ttl::After(ttl))));
    }
    rig.chain.set_with_ttl("k", "v".to_owned(), Duration::MAX).await.unwrap();
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), Some(("v".to_owned(), Ttl::After(MAX_TTL))));
    let error = rig.chain.set_with_ttl("k", "new".to_owned(), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"), "nothing written is lost by it");
}

#[tokio::test]
async fn g5_the_queue_keeps_one_entry_per_key_within_its_bytes() {
    let clock = ManualClock::new();
    let upper = ScriptedStore::new(MapStore::with_clock(clock.shared()));
    let lower = MapStore::with_clock(clock.shared());
    let below = ChainCache::builder().tier(lower.clone()).build().unwrap();
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(upper.clone())
        .tier(lower)
        .backfill_bytes(10_000)
        .weigher(|_, value: &String| value.len())
        .build()
        .unwrap();
    upper.stall(Operation::Fill);
    below.set("first", "f".to_owned()).await.unwrap();
    chain.get("first").await.unwrap();
    settle().await; // The first is being applied, and hangs; the others queue.
    for round in 0..10 {
        below.set("k", round.to_string()).await.unwrap();
        chain.get("k").await.unwrap();
    }
    assert_eq!((chain.stats().backfill.items, chain.stats().backfill.coalesced), (2, 9));
    for at in 0..10 {
        below.set(at, "v".repeat(1_800)).await.unwrap();
        assert_eq!(chain.get(at).await.unwrap().map(|value| value.len()), Some(1_800));
    }
    let stats = chain.stats().backfill;
    assert!(stats.bytes <= 10_000 && stats.bytes > 8_000, "{stats:?}");
    assert_eq!((stats.items, stats.dropped), (6, 6));
    upper.heal();
    chain.wait().await.unwrap();
    let stats = chain.stats().backfill;
    assert_eq!((stats.items, stats.bytes, stats.applied), (0, 0, 6));
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("9"), "the newest of a key");
}

#[tokio::test]
async fn a_panicking_value_ends_neither_backfilling_nor_waiting() {
    struct Fragile(Arc<AtomicBool>);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(!self.0.load(Ordering::SeqCst), "this value does not clone");
            Self(Arc::clone(&self.0))
        }
    }
    let breaks = Arc::new(AtomicBool::new(false));
    // Two tiers to fill, so that the value is cloned for the first.
    let lower = MapStore::<Fragile>::new();
    let chain = ChainCache::builder().tier(MapStore::new()).tier(MapStore::new()).tier(lower.clone()).build().unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    for key in ["a", "b"] {
        below.set(key, Fragile(Arc::clone(&breaks))).await.unwrap();
    }
    assert!(chain.get("a").await.unwrap().is_some());
    breaks.store(true, Ordering::SeqCst);
    chain.wait().await.unwrap();
    breaks.store(false, Ordering::SeqCst);
    assert_eq!((chain.stats().backfill.failed, chain.stats().backfill.applied), (1, 0));
    assert!(chain.get("b").await.unwrap().is_some());
    chain.wait().await.unwrap();
    assert_eq!(chain.stats().backfill.applied, 2);
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_within_its_deadline() {
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    rig.chain.get("k").await.unwrap();
    rig.chain.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("v"));

    // Reads and writes go on; backfills do not.
    rig.put(1, "l", "w", Expiry::Never);
    assert_eq!(rig.chain.get("l").await.unwrap().as_deref(), Some("w"));
    rig.chain.wait().await.unwrap();
    assert_eq!((rig.value(0, "l"), rig.chain.stats().backfill.dropped), (None, 1));

    let rig = Rig::with(2, |_, tier| tier.timeout(Duration::from_secs(60)));
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].stall(Operation::Fill);
    rig.chain.get("k").await.unwrap();
    let error = rig.chain.shutdown(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn bad_input_is_refused_with_a_clear_error_and_nothing_is_lost() {
    let message = |built: Result<ChainCache<u8>, cache_chain::Error>| {
        let error = built.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    assert!(message(ChainCache::builder().build()).contains("at least one tier"));
    let tier = || Tier::new(MapStore::<u8>::new()).name("memory");
    let built = ChainCache::builder().tier(tier().max_ttl(Duration::ZERO)).build();
    assert_eq!(message(built), "the max_ttl of tier memory is zero; leave it out or set it above zero");
    let built = ChainCache::builder().tier(tier().default_ttl(Duration::ZERO)).build();
    assert!(message(built).contains("default_ttl of tier memory"));
    let built = ChainCache::builder().tier(tier().timeout(Duration::ZERO)).build();
    assert!(message(built).contains("timeout of tier memory"));
    assert!(message(ChainCache::builder().tier(tier()).backfill_items(0).build()).contains("no room"));
    assert!(message(ChainCache::builder().tier(tier()).backfill_bytes(0).build()).contains("no room"));
    let outside = std::thread::spawn(move || ChainCache::builder().tier(tier()).build()).join().unwrap();
    assert!(message(outside).contains("tokio runtime"));

    let rig = Rig::new(2);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    let long = "k".repeat(Key::MAX_LEN + 1);
    for bad in ["", &long] {
        assert_eq!(rig.chain.get(bad).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(rig.chain.set(bad, "v".to_owned()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(rig.chain.del(bad).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(rig.chain.get_many(["k", bad]).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(rig.chain.del_many(["k", bad]).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        let values = [("k", "new".to_owned()), (bad, "v".to_owned())];
        assert_eq!(rig.chain.set_many(values).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
}

#[test]
fn a_chain_whose_runtime_has_ended_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (chain, lower) = runtime.block_on(async {
        let lower = MapStore::<u8>::new();
        let chain = ChainCache::builder().tier(MapStore::new()).tier(lower.clone()).build().unwrap();
        (chain, ChainCache::builder().tier(lower).build().unwrap())
    });
    runtime.block_on(lower.set("k", 7)).unwrap();
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    other.block_on(async {
        assert_eq!(chain.get("k").await.unwrap(), Some(7));
        assert_eq!(chain.wait().await.unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Set(u8),
    SetFor(u8, u64),
    Get(u8),
    Pass(u64),
    Evict(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8).prop_map(Step::Set),
        ((0..3_u8), 1..5_000_000_u64).prop_map(|(key, micros)| Step::SetFor(key, micros)),
        (0..3_u8).prop_map(Step::Get),
        (1..3_000_000_u64).prop_map(Step::Pass),
        ((0..2_u8), (0..3_u8)).prop_map(|(tier, key)| Step::Evict(tier, key)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is done in whatever order, no tier keeps a value beyond the deadline that its
    /// writer gave it, and a value with a deadline never loses it.
    #[test]
    fn g6_no_path_lengthens_a_life(steps in prop::collection::vec(step(), 1..40), cap in 1..5_000_000_u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::with(3, |at, tier| if at == 0 { tier.max_ttl(Duration::from_micros(cap)) } else { tier });
            let mut deadlines = [None; 3];
            for step in steps {
                let now = cache_core::Clock::now(&rig.clock);
                match step {
                    Step::Set(key) => {
                        rig.chain.set(key, "v".to_owned()).await.unwrap();
                        deadlines[usize::from(key)] = Some(Expiry::Never);
                    }
                    Step::SetFor(key, micros) => {
                        let ttl = Duration::from_micros(micros);
                        rig.chain.set_with_ttl(key, "v".to_owned(), ttl).await.unwrap();
                        deadlines[usize::from(key)] = Some(Expiry::At(now.plus(ttl)));
                    }
                    Step::Get(key) => {
                        let found = rig.chain.get_with_ttl(key).await.unwrap();
                        let due = deadlines[usize::from(key)].filter(|expiry: &Expiry| !expiry.is_past(now));
                        prop_assert_eq!(found.is_some(), due.is_some());
                        if let (Some((_, ttl)), Some(due)) = (found, due) {
                            prop_assert_eq!(ttl.min(due.remaining(now)), ttl);
                        }
                    }
                    Step::Pass(micros) => rig.clock.advance(Duration::from_micros(micros)),
                    Step::Evict(tier, key) => {
                        let store = rig.stores[usize::from(tier)].inner();
                        cache_core::Store::del(store, &Key::new(&key).unwrap()).await.unwrap();
                    }
                }
                if !matches!(step, Step::Get(_)) {
                    continue;
                }
                rig.chain.wait().await.unwrap();
                for (key, deadline) in deadlines.iter().enumerate() {
                    for tier in 0..3 {
                        let Some(entry) = rig.held(tier, &key.to_string()) else { continue };
                        let deadline = deadline.expect("written before it is held");
                        prop_assert_eq!(entry.expiry().min(deadline), entry.expiry());
                    }
                }
            }
            Ok(())
        })?;
    }
}

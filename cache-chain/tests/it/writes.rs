//! Writes: batches, values that panic, tiers that fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::support::{Rig, poll_once, poll_unwoken, settle};
use cache_chain::{ChainCache, ErrorKind, ManualClock, Tier};
use cache_core::{
    Displaced, Entry, Fence, Key, LocalStore, Profile, Store,
    testkit::{Gate, MapStore, Operation, Phase, ScriptedStore, yield_now},
};

/// The keys of one batch must not void each other's tickets where they share a stripe.
async fn kept_above<S: Store<Value = u64> + Clone>(upper: S, keys: u64) -> usize {
    let chain = ChainCache::builder().tier(upper.clone()).tier(MapStore::new()).build().unwrap();
    chain.set_many((0..keys).map(|at| (at, at))).await.unwrap();
    chain.wait().await.unwrap();
    let keys = Key::many(0..keys).unwrap();
    upper.get_many(&keys).await.into_iter().filter(|found| matches!(found, Ok(Some(_)))).count()
}

#[tokio::test]
async fn set_many_sets_every_key_in_the_upper_tier_map() {
    assert_eq!(kept_above(MapStore::new(), 1000).await, 1000);
}

#[tokio::test]
async fn set_many_sets_every_key_in_the_upper_tier_guarded() {
    assert_eq!(kept_above(ScriptedStore::new(MapStore::new()).without_leases(), 1000).await, 1000);
}

#[cfg(feature = "stretto")]
#[tokio::test]
async fn set_many_sets_every_key_in_the_upper_tier_stretto() {
    let kept = kept_above(cache_chain::stretto::StrettoStore::<u64>::new(1_000_000).unwrap(), 1000).await;
    assert!(kept >= 999, "stretto's L1 kept {kept} of 1000");
}

/// Tiers in this process need no task, so a write costs no more than in them.
#[tokio::test]
async fn writes_to_memory_end_at_their_first_poll() {
    let chain = ChainCache::builder().tier(MapStore::new()).tier(MapStore::new()).build().unwrap();
    let set = std::pin::pin!(chain.set_many([(1, 10), (2, 20)]));
    assert!(poll_unwoken(set).is_ready());
    assert_eq!(chain.get(2).await.unwrap(), Some(20));
    let take = std::pin::pin!(chain.take(2));
    assert!(matches!(poll_unwoken(take), Poll::Ready(Ok(Some(20)))));
    let del = std::pin::pin!(chain.del(1));
    assert!(poll_unwoken(del).is_ready());
    assert_eq!(chain.get_many([1, 2]).await.unwrap(), [None, None]);
}

/// A write that has begun runs to its end, also if a panic elsewhere in its task drops it.
#[tokio::test]
async fn a_started_set_completes_though_its_caller_panics() {
    let rig = Rig::new(2);
    for store in &rig.stores {
        store.at_every_step(|_, _| yield_now());
    }
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    let chain = rig.chain.clone();
    let caller = tokio::spawn(async move {
        let mut set = Box::pin(chain.set("k", "new".to_owned()));
        // Until the lower tier is written.
        for _ in 0..5 {
            let _ = set.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        panic!("something else in this task");
    });
    assert!(caller.await.unwrap_err().is_panic());
    settle().await;
    assert_eq!(rig.value(1, "k").as_deref(), Some("new"));
    assert_eq!(rig.value(0, "k").as_deref(), Some("new"), "half a write");
}

/// A batch to a store without leases is one call as well.
#[tokio::test(start_paused = true)]
async fn a_batch_to_a_guarded_store_is_one_round_trip() {
    let store = ScriptedStore::new(MapStore::new()).without_leases();
    store.at_every_step(|_, phase| async move {
        if phase == Phase::Before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let chain = ChainCache::builder().tier(store.clone()).build().unwrap();
    let set = chain.set_many((0..300_u64).map(|at| (at, at))).await;
    assert!(set.is_ok(), "300 keys over a round trip of 5 ms: {}", set.unwrap_err());
    assert_eq!(store.calls_of(Operation::Set), 1);
}

/// A `Clone` that panics half-way must not leave the older value above the newer one.
#[tokio::test]
async fn a_panicking_clone_leaves_no_older_value_above() {
    struct Fragile(u64, Arc<AtomicUsize>);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert_ne!(self.1.fetch_sub(1, Ordering::SeqCst), 0, "no more clones");
            Self(self.0, Arc::clone(&self.1))
        }
    }
    let clones = Arc::new(AtomicUsize::new(1000));
    let chain = ChainCache::builder().tier(MapStore::new()).tier(MapStore::new()).build().unwrap();
    chain.set("k", Fragile(1, Arc::clone(&clones))).await.unwrap();
    // One is enough for the lower tier, and not for both.
    clones.store(1, Ordering::SeqCst);
    let writer = tokio::spawn({
        let (chain, clones) = (chain.clone(), Arc::clone(&clones));
        async move { chain.set("k", Fragile(2, clones)).await }
    });
    let _ = writer.await;
    clones.store(1000, Ordering::SeqCst);
    let found = chain.get("k").await.unwrap().map(|value| value.0);
    assert_ne!(found, Some(1), "the first tier serves the older value over the newer one, for ever");
}

#[tokio::test]
async fn everything_above_a_failed_write_is_emptied() {
    let rig = Rig::new(4);
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    rig.stores[3].fail(Operation::Set, ErrorKind::Full);
    assert_eq!(rig.chain.set("k", "new".to_owned()).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!([0, 1, 2].map(|tier| rig.value(tier, "k")), [None, None, None]);
}

#[tokio::test]
async fn a_removal_that_failed_is_reported_and_empties_the_tiers_above() {
    let rig = Rig::new(3);
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Lease, ErrorKind::Unavailable);
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    let error = rig.chain.set("k", "new".to_owned()).await.unwrap_err();
    assert_eq!(error.failures()[0].name(), "L2 map");
    // L2 holds the old value, so L1 may hold nothing.
    assert_eq!([0, 1, 2].map(|tier| rig.value(tier, "k")), [None, Some("old".into()), Some("new".into())]);

    let rig = Rig::new(2);
    rig.stores[1].fail(Operation::Set, ErrorKind::Full);
    rig.stores[0].fail(Operation::Del, ErrorKind::Unavailable);
    let error = rig.chain.set("k", "new".to_owned()).await.unwrap_err();
    let named: Vec<_> = error.failures().iter().map(cache_chain::Failure::name).collect();
    assert_eq!(named, ["L2 map", "L1 map"]);
}

#[tokio::test]
async fn a_set_above_a_capped_tier_is_capped_as_well() {
    let minute = Duration::from_secs(60);
    let rig = Rig::with(3, |at, tier| if at == 1 { tier.max_ttl(minute) } else { tier });
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    assert_eq!(rig.held(0, "k").unwrap().expiry(), rig.held(1, "k").unwrap().expiry());
}

#[test]
fn a_write_that_panicked_is_not_run_again() {
    static RESUMED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    struct Fragile;
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            panic!("this value does not clone")
        }
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.to_string().contains("after panicking") {
            RESUMED.store(true, Ordering::SeqCst);
        }
        hook(info);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let chain = ChainCache::builder().tier(MapStore::new()).tier(MapStore::new()).build().unwrap();
        assert!(tokio::spawn(async move { chain.set("k", Fragile).await }).await.unwrap_err().is_panic());
        settle().await;
    });
    assert!(!RESUMED.load(Ordering::SeqCst), "`async fn` resumed after panicking, in a task of the chain");
}

/// A chain of one tier in this process sets without a task.
#[tokio::test]
async fn a_set_in_the_only_local_tier_has_its_ttl_and_its_limits_and_is_counted() {
    let clock = ManualClock::new();
    let memory = MapStore::with_clock(clock.shared());
    let tier = Tier::new(memory.clone()).max_ttl(Duration::from_secs(10));
    let chain = ChainCache::builder().clock(clock.shared()).tier(tier).default_ttl(Duration::from_secs(5));
    let chain = chain.build().unwrap();
    let ttl = async |key: &str| chain.get_with_ttl(key).await.unwrap().unwrap().1.as_duration().unwrap().as_secs();
    assert!(poll_once(&mut Box::pin(chain.set("default", 1))).await.is_some(), "it is set at once");
    chain.set_with_ttl("long", 1, Duration::from_secs(60)).await.unwrap();
    assert_eq!((ttl("default").await, ttl("long").await), (5, 10));
    chain.set("long", 2).await.unwrap();
    assert_eq!((chain.get("long").await.unwrap(), ttl("long").await), (Some(2), 5));
    assert_eq!((chain.stats().writes.set, LocalStore::usage(&memory).unwrap().entries), (3, 2));
    assert_eq!(chain.set("", 1).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// A load that began before the `set` must not be joined after it: it may return the older value.
#[tokio::test]
async fn after_a_set_in_the_only_local_tier_no_earlier_load_is_joined() {
    let clock = ManualClock::new();
    let tiers = ChainCache::builder().clock(clock.shared()).tier(MapStore::with_clock(clock.shared()));
    let chain = tiers.build().unwrap();
    let (gate, loading) = (Gate::default(), chain.clone());
    let shut = gate.clone();
    let load = move || async move {
        shut.passed().await;
        Ok::<_, std::io::Error>("older".to_owned())
    };
    let older = tokio::spawn(async move { loading.get_or_load("k", load).await });
    settle().await;
    chain.set_with_ttl("k", "set".to_owned(), Duration::from_secs(1)).await.unwrap();
    clock.advance(Duration::from_secs(1));
    let newer = || async { Ok::<_, std::io::Error>("newer".to_owned()) };
    let loaded = tokio::time::timeout(Duration::from_secs(5), chain.get_or_load("k", newer)).await;
    assert_eq!(loaded.expect("it does not wait for the earlier load").unwrap(), "newer");
    gate.open();
    assert_eq!(older.await.unwrap().unwrap(), "older");
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("newer"));
}

/// A store in this process whose `clear` lasts until it is told to end.
#[derive(Clone)]
struct SlowToClear(MapStore<u32>, Arc<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>);

impl LocalStore for SlowToClear {
    type Value = u32;

    fn profile(&self) -> Profile {
        LocalStore::profile(&self.0)
    }

    fn fence(&self) -> &Fence {
        self.0.fence()
    }

    fn get(&self, key: &Key) -> Option<Entry<u32>> {
        LocalStore::get(&self.0, key)
    }

    fn insert(&self, key: &Key, entry: Entry<u32>, weight: u64) -> cache_core::Result<Displaced> {
        self.0.insert(key, entry, weight)
    }

    fn remove(&self, key: &Key) -> cache_core::Result<Displaced> {
        self.0.remove(key)
    }

    fn clear(&self) -> cache_core::Result<()> {
        self.1.lock().unwrap().recv().expect("it is told to end");
        LocalStore::clear(&self.0)
    }

    fn wait(&self) -> cache_core::Result<()> {
        LocalStore::wait(&self.0)
    }
}

/// The paused clock does not advance while a thread is blocked.
#[tokio::test(start_paused = true)]
async fn a_set_in_the_only_local_tier_waits_for_an_abandoned_clear() {
    let (end, ended) = std::sync::mpsc::channel();
    let store = SlowToClear(MapStore::new(), Arc::new(std::sync::Mutex::new(ended)));
    let chain = ChainCache::builder().tier(store).build().unwrap();
    let mut clear = Box::pin(chain.clear());
    assert!(poll_once(&mut clear).await.is_none());
    drop(clear);
    let mut set = Box::pin(chain.set("k", 1));
    assert!(poll_once(&mut set).await.is_none(), "it could be cleared");
    end.send(()).unwrap();
    set.await.unwrap();
    assert_eq!(chain.get("k").await.unwrap(), Some(1));
}

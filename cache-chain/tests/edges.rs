//! Edge cases that were once wrong, and tests of lines that no other test covers.

mod support;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use cache_chain::{Cache, ChainCache, Error, ErrorKind, Result, Tier};
use cache_core::{
    Entry, Expiry, Key, LocalStore, Profile, Store, Ticket, Write,
    testkit::{MapStore, Operation, Phase, ScriptedStore, block_on, yield_now},
};
use support::{Rig, settle};

// The keys of one batch must not void each other's tickets where they share a stripe.

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

// No tier keeps a value longer than the tier below, backfilled or set.

#[tokio::test]
async fn a_backfilled_tier_keeps_nothing_longer_than_the_tier_below() {
    let minute = Duration::from_secs(60);
    let rig = Rig::with(3, |at, tier| if at == 1 { tier.max_ttl(minute) } else { tier });
    rig.put(2, "k", "v", Expiry::Never);
    rig.chain.get("k").await.unwrap();
    rig.chain.wait().await.unwrap();
    let [above, below] = [0, 1].map(|tier| rig.held(tier, "k").unwrap().expiry());
    assert_eq!(above.min(below), above, "L1 {above:?} above L2 {below:?}");
}

#[tokio::test]
async fn a_default_ttl_below_bounds_what_is_backfilled_above() {
    let rig = Rig::with(3, |at, tier| if at == 1 { tier.default_ttl(Duration::from_secs(60)) } else { tier });
    rig.put(2, "k", "v", Expiry::Never);
    rig.chain.get("k").await.unwrap();
    rig.chain.wait().await.unwrap();
    assert_ne!(rig.held(0, "k").unwrap().expiry(), Expiry::Never, "a set would have given 60 s");
}

// A weigher may say "never queue this" by the largest number.

#[tokio::test]
async fn a_weigher_may_give_the_largest_number() {
    let upper = ScriptedStore::new(MapStore::new());
    let lower = MapStore::new();
    let chain = ChainCache::builder()
        .tier(upper.clone())
        .tier(lower.clone())
        .weigher(|_, value: &u64| if *value == 1 { usize::MAX } else { 0 })
        .build()
        .unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    below.set_many([("small", 0), ("huge", 1)]).await.unwrap();
    upper.stall(Operation::Fill);
    chain.get("small").await.unwrap();
    assert_eq!(chain.get("huge").await.unwrap(), Some(1));
    assert_eq!(chain.stats().backfill.dropped, 1);
}

// A started write runs to its end also if somebody else's panic drops it.

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

// Tiers of one name would hide each other's failures.

#[tokio::test]
async fn every_tier_that_failed_is_reported_whatever_its_name() {
    let stores = [0, 1].map(|_| ScriptedStore::new(MapStore::<u64>::new()));
    let tier = |at: usize| Tier::new(stores[at].clone()).name("redis");
    // To refuse such a chain is as good.
    let Ok(chain) = ChainCache::builder().tier(tier(0)).tier(tier(1)).build() else { return };
    stores[0].fail(Operation::Del, ErrorKind::Unavailable);
    stores[1].fail(Operation::Del, ErrorKind::ReadOnly);
    let error = chain.del("k").await.unwrap_err();
    assert_eq!(error.failures().len(), 2, "{error}");
}

// `shutdown` and `wait` wait for writes that go on without their callers.

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_the_writes_that_were_begun() {
    let rig = Rig::new(2);
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    let gate = rig.stores[0].stall(Operation::Set);
    let chain = rig.chain.clone();
    let caller = tokio::spawn(async move { chain.set("k", "new".to_owned()).await });
    settle().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(rig.value(1, "k").as_deref(), Some("new"), "begun");
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.open();
    });
    rig.chain.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(rig.value(0, "k").as_deref(), Some("new"), "shut down, and the process ends with half a write");
}

// A batch to a store without leases is one call as well.

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

// A `Clone` that panics half-way must not leave the older value above the newer one.

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

// A tier costs a read one timeout, its lease included.

#[tokio::test(start_paused = true)]
async fn a_tier_costs_a_read_at_most_its_timeout() {
    let limit = Duration::from_millis(100);
    let rig = Rig::with(2, |_, tier| tier.timeout(limit));
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].at_every_step(|operation, phase| async move {
        if (operation, phase) == (Operation::Get, Phase::Before) {
            tokio::time::sleep(Duration::from_millis(90)).await;
        }
    });
    rig.stores[0].stall(Operation::Lease);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert!(started.elapsed() <= limit, "{:?}", started.elapsed());
}

// Too few results of a store must not read as "not found", nor as writes that were made.

#[derive(Clone)]
struct Short(MapStore<u64>);

impl Store for Short {
    type Value = u64;
    fn profile(&self) -> Profile {
        LocalStore::profile(&self.0)
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry<u64>>> {
        Store::get(&self.0, key).await
    }
    async fn lease(&self, key: &Key) -> Result<Ticket> {
        Store::lease(&self.0, key).await
    }
    async fn fill(&self, write: Write<u64>) -> Result<bool> {
        self.0.fill(write).await
    }
    async fn set(&self, write: Write<u64>) -> Result<()> {
        self.0.set(write).await
    }
    async fn del(&self, key: &Key) -> Result<()> {
        self.0.del(key).await
    }
    async fn clear(&self) -> Result<()> {
        Store::clear(&self.0).await
    }
    async fn wait(&self) -> Result<()> {
        Ok(())
    }
    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<u64>>>> {
        Store::get_many(&self.0, &keys[1..]).await
    }
    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        Store::lease_many(&self.0, &keys[1..]).await
    }
}

#[tokio::test]
async fn too_few_results_are_an_error_and_not_a_miss() {
    let short = Short(MapStore::new());
    let chain = ChainCache::builder().tier(short.clone()).build().unwrap();
    chain.set_many([("a", 1), ("b", 2)]).await.unwrap();
    let found = chain.get_many(["a", "b"]).await;
    assert!(found.is_err(), "both are there, and it says {:?}", found.unwrap());
}

#[tokio::test]
async fn too_few_tickets_do_not_leave_the_older_value() {
    let upper = Short(MapStore::new());
    let chain = ChainCache::builder().tier(upper).tier(MapStore::new()).build().unwrap();
    chain.set("a", 1).await.unwrap();
    chain.set("b", 1).await.unwrap();
    if chain.set_many([("a", 2), ("b", 2)]).await.is_ok() {
        let found = [chain.get("a").await.unwrap(), chain.get("b").await.unwrap()];
        assert_eq!(found, [Some(2), Some(2)], "set_many said Ok");
    }
}

// What is being applied is held once.

#[tokio::test]
async fn backfills_stay_within_their_bytes() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    struct Large;
    impl Large {
        fn new() -> Self {
            LIVE.fetch_add(1000, Ordering::SeqCst);
            Self
        }
    }
    impl Clone for Large {
        fn clone(&self) -> Self {
            Self::new()
        }
    }
    impl Drop for Large {
        fn drop(&mut self) {
            LIVE.fetch_sub(1000, Ordering::SeqCst);
        }
    }
    let upper = ScriptedStore::new(MapStore::new());
    let lower = MapStore::new();
    let limit = 100_000;
    let chain = ChainCache::builder()
        .tier(upper.clone())
        .tier(lower.clone())
        .backfill_bytes(limit)
        .weigher(|_, _: &Large| 1000)
        .build()
        .unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    below.set_many((0..200_u64).map(|at| (at, Large::new()))).await.unwrap();
    let at_rest = LIVE.load(Ordering::SeqCst);
    upper.stall(Operation::Fill);
    for at in 0..200_u64 {
        chain.get(at).await.unwrap();
    }
    settle().await;
    let held = LIVE.load(Ordering::SeqCst) - at_rest;
    assert!(
        held <= limit,
        "{held} bytes of values are held, {limit} may be; it counts {}",
        chain.stats().backfill.bytes
    );
}

// A runtime without a timer, and no runtime at all.

#[test]
fn a_runtime_without_time_is_refused_and_does_not_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let built = ChainCache::builder().tier(ScriptedStore::new(MapStore::<u8>::new())).build();
            match built {
                Ok(chain) => chain.get("k").await.map(|_| ()),
                Err(error) => Err(error),
            }
        })
    }));
    assert!(outcome.is_ok(), "`get` panics");
}

#[test]
fn clear_and_wait_work_where_get_and_set_do() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let chain = runtime.block_on(async { ChainCache::builder().tier(MapStore::<u8>::new()).build().unwrap() });
    block_on(chain.set("k", 1)).unwrap();
    assert_eq!(block_on(chain.get("k")).unwrap(), Some(1));
    let outcome = catch_unwind(AssertUnwindSafe(|| block_on(chain.clear())));
    assert!(outcome.is_ok(), "`clear` panics, though the chain knows its runtime");
}

// An entry that expired on the way up is not served.

#[tokio::test]
async fn what_expired_on_its_way_is_a_miss() {
    let rig = Rig::new(2);
    rig.chain.set_with_ttl("k", "v".to_owned(), Duration::from_secs(1)).await.unwrap();
    block_on(Store::del(rig.stores[0].inner(), &Key::new("k").unwrap())).unwrap();
    let clock = rig.clock.clone();
    rig.stores[1].at_every_step(move |operation, phase| {
        if (operation, phase) == (Operation::Get, Phase::After) {
            clock.advance(Duration::from_secs(2));
        }
        std::future::ready(())
    });
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), None);
}

// The cause of a failed write can be followed by `source()`.

#[tokio::test]
async fn the_cause_of_a_failed_write_can_be_followed() {
    #[derive(Clone)]
    struct Broken(MapStore<u64>);
    impl Store for Broken {
        type Value = u64;
        fn profile(&self) -> Profile {
            Profile::new("broken")
        }
        async fn get(&self, key: &Key) -> Result<Option<Entry<u64>>> {
            Store::get(&self.0, key).await
        }
        async fn lease(&self, key: &Key) -> Result<Ticket> {
            Store::lease(&self.0, key).await
        }
        async fn fill(&self, write: Write<u64>) -> Result<bool> {
            self.0.fill(write).await
        }
        async fn set(&self, write: Write<u64>) -> Result<()> {
            self.0.set(write).await
        }
        async fn del(&self, _: &Key) -> Result<()> {
            Err(Error::with_source(
                ErrorKind::Unavailable,
                "cannot reach the server",
                "connection refused (os error 111)",
            ))
        }
        async fn clear(&self) -> Result<()> {
            Ok(())
        }
        async fn wait(&self) -> Result<()> {
            Ok(())
        }
    }
    let chain = ChainCache::builder().tier(Broken(MapStore::new())).build().unwrap();
    let error = chain.del("k").await.unwrap_err();
    let mut shown = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        shown = format!("{shown}: {source}");
        cause = source.source();
    }
    assert!(shown.contains("connection refused"), "all that a log shows is: {shown}");
}

// A write that was begun on a live runtime is finished, whichever built the chain.

/// The chain works on the runtime in which it was built, whichever runtime its callers are on.
#[test]
fn a_chain_works_on_the_runtime_it_was_built_in() {
    let builder = || {
        let upper = ScriptedStore::new(MapStore::new());
        upper.at_every_step(|_, _| yield_now());
        (ChainCache::builder().tier(upper.clone()).tier(MapStore::new()).build().unwrap(), upper)
    };
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (chain, upper) = first.block_on(async { builder() });
    // Without timers, and only running while it is called.
    let second = tokio::runtime::Builder::new_current_thread().build().unwrap();
    second.block_on(async {
        chain.set("k", 1).await.unwrap();
        // Polled once and dropped; it has begun.
        let _ = pin!(chain.set("k", 2)).poll(&mut Context::from_waker(Waker::noop()));
    });
    // The second runtime is idle, and the write goes on.
    let held = || LocalStore::get(upper.inner(), &Key::new("k").unwrap()).and_then(Entry::into_value);
    cache_core::testkit::block_on(async {
        chain.wait().await.unwrap();
        assert_eq!((held(), chain.get("k").await.unwrap()), (Some(2), Some(2)));
    });
    drop(first);
    second.block_on(async {
        assert_eq!(chain.set("k", 3).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.del("k").await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.clear().await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.wait().await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.shutdown(Duration::from_secs(3600)).await.unwrap_err().kind(), ErrorKind::Closed);
    });
    assert_eq!(held(), Some(2), "nothing was written");
}

#[tokio::test]
async fn api_futures_are_send_in_spawned_tasks() {
    async fn generic<C: Cache<Value = String> + Clone + 'static>(cache: C, ids: Vec<u32>) -> Result<usize> {
        let task = tokio::spawn(async move {
            let name = String::from("name");
            cache.set(&name, "a".into()).await?;
            cache.set(name.as_str(), "a".into()).await?;
            cache.set((&name, 1_u8, "x"), "b".into()).await?;
            cache.set_many(ids.iter().map(|id| (("user", *id), id.to_string()))).await?;
            let found = cache.get_many(ids.iter().map(|id| ("user", *id))).await?;
            cache.del_many(&ids).await?;
            cache.del_many(ids.iter()).await?;
            Ok::<_, Error>(found.into_iter().flatten().count())
        });
        task.await.expect("no panic")
    }
    let chain: ChainCache<String> = ChainCache::builder().tier(Tier::new(MapStore::new())).build().unwrap();
    assert_eq!(generic(chain, vec![1, 2, 3]).await.unwrap(), 3);
}

/// Fails each key of a read in its own way.
#[derive(Clone, Debug)]
struct Picky(MapStore<String>);

impl Picky {
    fn verdict(key: &Key) -> Result<Option<Entry<String>>> {
        match key.as_bytes() {
            b"unavailable" => Err(Error::new(ErrorKind::Unavailable, "gone")),
            b"denied" => Err(Error::new(ErrorKind::Denied, "no")),
            _ => Ok(None),
        }
    }
}

impl Store for Picky {
    type Value = String;
    fn profile(&self) -> Profile {
        Profile::new("picky")
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        Self::verdict(key)
    }
    async fn lease(&self, key: &Key) -> Result<Ticket> {
        Store::lease(&self.0, key).await
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
        Store::clear(&self.0).await
    }
    async fn wait(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_error_of_a_read_is_that_of_the_first_tier_and_the_first_key() {
    let rig = Rig::new(2);
    rig.stores[0].fail(Operation::Get, ErrorKind::Unavailable);
    rig.stores[1].fail(Operation::Get, ErrorKind::Denied);
    assert_eq!(rig.chain.get("k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(rig.chain.get_many(["k", "l"]).await.unwrap_err().kind(), ErrorKind::Unavailable);

    let chain = ChainCache::builder().tier(Picky(MapStore::new())).build().unwrap();
    let error = chain.get_many(["absent", "unavailable", "denied"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = chain.get_many(["denied", "unavailable"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_read_asks_and_queues_no_more_than_it_must() {
    let rig = Rig::new(2);
    assert_eq!(rig.chain.get("absent").await.unwrap(), None);
    assert_eq!(rig.chain.get_many(["absent", "absent too"]).await.unwrap(), [None, None]);
    assert_eq!((rig.stores[0].calls_of(Operation::Lease), rig.stores[1].calls_of(Operation::Lease)), (2, 0));
    let asked = rig.stores[1].calls_of(Operation::Get);
    rig.put(0, "k", "v", Expiry::Never);
    assert!(rig.chain.get("k").await.unwrap().is_some());
    assert_eq!(rig.chain.get_many(["k", "k"]).await.unwrap(), [Some("v".to_owned()), Some("v".to_owned())]);
    assert_eq!(rig.stores[1].calls_of(Operation::Get), asked, "all were found above");
    assert_eq!(rig.chain.stats().backfill.queued, 0, "there is nothing above to fill");
}

#[tokio::test]
async fn a_hit_of_a_local_first_tier_is_counted_and_asks_it_once() {
    let chain = ChainCache::builder().tier(MapStore::new()).tier(MapStore::new()).build().unwrap();
    chain.set("k", 1).await.unwrap();
    // Ready at the first poll, and counted once.
    let mut hit = pin!(chain.get("k"));
    assert!(hit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!((chain.stats().tiers[0].hits, chain.stats().tiers[0].misses), (1, 0));
    assert_eq!(chain.get("absent").await.unwrap(), None);
    assert_eq!((chain.stats().tiers[0].hits, chain.stats().tiers[0].misses), (1, 1));
}

#[tokio::test]
async fn the_queue_counts_keys_and_itself() {
    let rig = Rig::new(2);
    let key = "k".repeat(10_000);
    rig.put(1, &key, "v", Expiry::Never);
    rig.stores[0].stall(Operation::Fill);
    rig.chain.get(&key).await.unwrap();
    let bytes = rig.chain.stats().backfill.bytes;
    assert!(bytes >= 20_000 + 2 * size_of::<Key>() + size_of::<Entry<String>>(), "{bytes}");
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
    // What is in L2 is the old value, so nothing may be above it.
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

#[tokio::test]
async fn a_full_queue_takes_the_newer_entry_of_a_key() {
    let upper = ScriptedStore::new(MapStore::new());
    let lower = MapStore::new();
    let chain = ChainCache::builder().tier(upper.clone()).tier(lower.clone()).backfill_items(2).build().unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    upper.stall(Operation::Fill);
    below.set_many([("first", 0), ("k", 0), ("l", 0)]).await.unwrap();
    chain.get("first").await.unwrap();
    settle().await;
    chain.get("k").await.unwrap();
    chain.get("k").await.unwrap();
    chain.get("l").await.unwrap();
    let stats = chain.stats().backfill;
    assert_eq!((stats.queued, stats.coalesced, stats.dropped, stats.items), (3, 1, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_came_too_late_leaves_nothing_behind() {
    let rig = Rig::with(2, |_, tier| tier.timeout(Duration::from_secs(60)));
    rig.stores[0].stall(Operation::Fill);
    for key in ["a", "b", "c"] {
        rig.put(1, key, "v", Expiry::Never);
        rig.chain.get(key).await.unwrap();
        settle().await; // "a" is being applied, the others queue.
    }
    let waiter = tokio::spawn({
        let chain = rig.chain.clone();
        async move { chain.wait().await }
    });
    settle().await;
    rig.chain.shutdown(Duration::from_secs(1)).await.unwrap_err();
    let stats = rig.chain.stats().backfill;
    assert_eq!((stats.items, stats.dropped), (1, 2), "what is being applied is held until it is");
    rig.stores[0].heal();
    waiter.await.unwrap().unwrap();
    rig.chain.wait().await.unwrap();
    let stats = rig.chain.stats().backfill;
    assert_eq!((stats.items, stats.bytes, stats.applied), (0, 0, 1));
    assert_eq!([rig.value(0, "b"), rig.value(0, "c")], [None, None]);
}

#[tokio::test]
async fn draining_lets_others_on_its_thread_have_their_turn() {
    let lower = MapStore::new();
    let chain = ChainCache::builder().tier(MapStore::new()).tier(lower.clone()).build().unwrap();
    let below = ChainCache::builder().tier(lower).build().unwrap();
    yield_now().await;
    below.set_many((0..1000_u64).map(|at| (at, at))).await.unwrap();
    for at in 0..1000_u64 {
        chain.get(at).await.unwrap();
    }
    let seen = tokio::spawn({
        let chain = chain.clone();
        async move { chain.stats().backfill.applied }
    });
    assert!(seen.await.unwrap() < 1000, "the whole queue was drained in one turn");
    chain.wait().await.unwrap();
    assert_eq!(chain.stats().backfill.applied, 1000);
}

#[tokio::test]
async fn what_expires_between_two_tiers_is_not_offered_to_the_second() {
    let rig = Rig::new(3);
    let due = Expiry::after(cache_core::Clock::now(&rig.clock), Duration::from_secs(1).into());
    rig.put(2, "k", "v", due);
    let clock = rig.clock.clone();
    rig.stores[0].at_every_step(move |operation, phase| {
        if (operation, phase) == (Operation::Fill, Phase::After) {
            clock.advance(Duration::from_secs(2));
        }
        std::future::ready(())
    });
    rig.chain.get("k").await.unwrap();
    rig.chain.wait().await.unwrap();
    assert_eq!((rig.stores[0].calls_of(Operation::Fill), rig.stores[1].calls_of(Operation::Fill)), (1, 0));
}

#[tokio::test]
async fn the_first_tier_is_filled_first() {
    let rig = Rig::new(3);
    rig.put(2, "k", "v", Expiry::Never);
    rig.stores[1].stall(Operation::Fill);
    rig.chain.get("k").await.unwrap();
    settle().await;
    assert_eq!(rig.value(0, "k").as_deref(), Some("v"), "while the second hangs");
}

#[tokio::test]
async fn the_last_handle_ends_the_task_and_drops_what_is_queued() {
    let clock: cache_core::SharedClock = Arc::new(cache_core::SystemClock);
    let idle = ChainCache::builder().clock(Arc::clone(&clock)).tier(MapStore::<u8>::new()).build().unwrap();
    settle().await;
    drop(idle);
    settle().await;
    assert_eq!(Arc::strong_count(&clock), 1, "the task of a dropped chain goes on");

    let Rig { chain, stores, .. } = {
        let rig = Rig::new(2);
        rig.stores[0].stall(Operation::Fill);
        for key in ["applied", "queued"] {
            rig.put(1, key, "v", Expiry::Never);
            rig.chain.get(key).await.unwrap();
            settle().await;
        }
        rig
    };
    drop(chain);
    stores[0].heal();
    settle().await;
    assert_eq!(stores[0].inner().len(), 1, "only what was being applied");
}

#[tokio::test(start_paused = true)]
async fn wait_waits_for_every_tier_and_reports_it() {
    let rig = Rig::with(3, |_, tier| tier.timeout(Duration::from_millis(100)));
    rig.chain.wait().await.unwrap();
    assert_eq!([0, 1, 2].map(|tier: usize| rig.stores[tier].calls_of(Operation::Wait)), [1, 1, 1]);
    rig.stores[0].fail(Operation::Wait, ErrorKind::Unavailable);
    rig.stores[2].stall(Operation::Wait);
    let error = rig.chain.wait().await.unwrap_err();
    let kinds: Vec<_> = error.failures().iter().map(|failure| (failure.name(), failure.error().kind())).collect();
    assert_eq!(kinds, [("L1 map", ErrorKind::Unavailable), ("L3 map", ErrorKind::Timeout)]);
}

#[tokio::test]
async fn bytes_that_do_not_decode_are_counted_as_a_miss() {
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].fail(Operation::Get, ErrorKind::Codec);
    rig.chain.get("k").await.unwrap();
    let tier = &rig.chain.stats().tiers[0];
    assert_eq!((tier.undecodable, tier.misses, tier.errors, tier.hits), (1, 1, 0, 0));
}

/// A local store whose `wait` blocks the thread.
#[derive(Clone)]
struct Blocking(MapStore<u8>, Arc<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>);

impl LocalStore for Blocking {
    type Value = u8;
    fn profile(&self) -> Profile {
        LocalStore::profile(&self.0)
    }
    fn fence(&self) -> &cache_core::Fence {
        self.0.fence()
    }
    fn get(&self, key: &Key) -> Option<Entry<u8>> {
        LocalStore::get(&self.0, key)
    }
    fn insert(&self, key: &Key, entry: Entry<u8>, weight: u64) -> Result<cache_core::Displaced> {
        self.0.insert(key, entry, weight)
    }
    fn remove(&self, key: &Key) -> Result<cache_core::Displaced> {
        self.0.remove(key)
    }
    fn clear(&self) -> Result<()> {
        LocalStore::wait(self)
    }
    fn wait(&self) -> Result<()> {
        let freed = self.1.lock().unwrap().recv_timeout(Duration::from_secs(10));
        freed.map_err(|_| Error::new(ErrorKind::Timeout, "the runtime's thread is blocked"))
    }
}

#[tokio::test]
async fn wait_and_clear_of_a_local_store_do_not_block_the_runtime() {
    let (free, freed) = std::sync::mpsc::channel();
    let store = Blocking(MapStore::new(), Arc::new(std::sync::Mutex::new(freed)));
    let chain = ChainCache::builder().tier(store).build().unwrap();
    tokio::spawn(async move {
        for _ in 0..2 {
            free.send(()).unwrap();
            yield_now().await;
        }
        std::future::pending::<()>().await;
    });
    chain.wait().await.unwrap();
    chain.clear().await.unwrap();
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

#[tokio::test(start_paused = true)]
async fn every_call_of_a_tier_that_hangs_is_given_up_in_time() {
    let limit = Duration::from_millis(100);
    let hanging = |operation| {
        let rig = Rig::with(2, |_, tier| tier.timeout(limit));
        rig.stores[0].stall(operation);
        rig
    };
    let late = |error: Error| assert_eq!((error.kind(), error.failures().len()), (ErrorKind::Timeout, 1));
    let many = || [("k", "v".to_owned()), ("l", "w".to_owned())];
    for operation in [Operation::Lease, Operation::Set] {
        let rig = hanging(operation);
        let started = tokio::time::Instant::now();
        late(rig.chain.set("k", "v".to_owned()).await.unwrap_err());
        late(rig.chain.set_many(many()).await.unwrap_err());
        assert_eq!(started.elapsed(), 2 * limit, "{operation:?}");
        assert_eq!(rig.chain.stats().tiers[0].timeouts, 3);
        assert_eq!(rig.value(1, "k").as_deref(), Some("v"));
    }
    let rig = hanging(Operation::Del);
    let started = tokio::time::Instant::now();
    late(rig.chain.del("k").await.unwrap_err());
    late(rig.chain.del_many(["k", "l"]).await.unwrap_err());
    assert_eq!(started.elapsed(), 2 * limit);
    let rig = hanging(Operation::Get);
    rig.put(1, "k", "v", Expiry::Never);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [Some("v".to_owned())]);
    assert_eq!(started.elapsed(), limit);
    let rig = hanging(Operation::Lease);
    rig.put(1, "k", "v", Expiry::Never);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(rig.chain.get_many(["k", "l"]).await.unwrap(), [Some("v".to_owned()), None]);
    assert_eq!(started.elapsed(), 2 * limit);
}

/// The first tier as it is in production: local, its fence asked without a future.
#[tokio::test]
async fn g1_a_late_backfill_into_a_local_tier_is_refused() {
    for batch in [false, true] {
        let (upper, lower) = (MapStore::new(), ScriptedStore::new(MapStore::new()));
        let chain = ChainCache::builder().tier(upper.clone()).tier(lower.clone()).build().unwrap();
        chain.set("k", 1).await.unwrap();
        let key = Key::new("k").unwrap();
        upper.del(&key).await.unwrap();
        let gate = cache_core::testkit::Gate::default();
        let held = gate.clone();
        lower.at_every_step(move |operation, phase| {
            let gate = held.clone();
            async move {
                if (operation, phase) == (Operation::Get, Phase::After) {
                    gate.passed().await;
                }
            }
        });
        let reader = tokio::spawn({
            let chain = chain.clone();
            async move { if batch { chain.get_many(["k"]).await.unwrap()[0] } else { chain.get("k").await.unwrap() } }
        });
        settle().await;
        chain.del("k").await.unwrap();
        gate.open();
        assert_eq!(reader.await.unwrap(), Some(1), "it began before the del");
        chain.wait().await.unwrap();
        assert_eq!(chain.stats().backfill.refused, 1);
        assert!(LocalStore::get(&upper, &key).is_none());
        assert_eq!(chain.get("k").await.unwrap(), None);
    }
}

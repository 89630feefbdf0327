//! Guarantees that hold under hostile timing, settings and code of the application.

mod support;

use std::{
    future::{Ready, ready},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use cache_chain::{Breaker, ChainCache, ErrorKind, Loaded, ReadThrough, Tier};
use cache_core::{
    Expiry, ManualClock, Store,
    testkit::{Gate, MapStore, Operation, Phase, ScriptedStore},
};
use support::{Rig, Scripted, key, settle};

const SECOND: Duration = Duration::from_secs(1);

fn owned(value: &str) -> String {
    value.to_owned()
}

/// A local tier over a scripted one.
fn local_over_scripted(
    settings: ReadThrough,
    of_second: impl FnOnce(Tier<String>) -> Tier<String>,
) -> (ChainCache<String>, MapStore<String>, Scripted, ManualClock) {
    let clock = ManualClock::new();
    let (memory, below) =
        (MapStore::with_clock(clock.shared()), ScriptedStore::new(MapStore::with_clock(clock.shared())));
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(memory.clone())
        .tier(of_second(Tier::new(below.clone())))
        .read_through(settings)
        .build()
        .unwrap();
    (chain, memory, below, clock)
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn load(value: &'static str) -> Ready<io::Result<String>> {
    ready(Ok(owned(value)))
}

/// What is stale in an upper tier may expire while a lower one is asked.
#[tokio::test]
async fn g4_what_expires_while_a_tier_below_is_asked_is_not_served() {
    for many in [false, true] {
        let rig = Rig::built(2, |_, tier| tier, |chain| chain.read_through(ReadThrough::new().stale_for(SECOND)));
        rig.chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
        rig.clock.advance(SECOND + SECOND / 2);
        let gate = rig.stores[1].stall(Operation::Get);
        let get = async {
            if many {
                let load = |keys: Vec<&'static str>| async move {
                    Ok::<_, io::Error>(keys.into_iter().map(|key| (key, owned("new"))).collect::<Vec<_>>())
                };
                rig.chain.get_or_load_many(["k"], load).await.unwrap().remove(0)
            } else {
                Some(rig.chain.get_or_load("k", || load("new")).await.unwrap())
            }
        };
        let (value, ()) = tokio::join!(get, async {
            settle().await;
            rig.clock.advance(SECOND);
            gate.open();
        });
        assert_eq!(value.as_deref(), Some("new"), "many: {many}");
    }
}

/// A caller that is not polled for long is not served what has expired meanwhile, nor is anything
/// stale got.
#[tokio::test]
async fn g4_what_expires_before_its_reader_is_polled_again_is_not_served() {
    for loading in [false, true] {
        let rig = Rig::new(2);
        rig.chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
        let gate = rig.stores[0].stall(Operation::Get);
        let mut slow: Pin<Box<dyn Future<Output = Option<String>>>> = if loading {
            Box::pin(async { rig.chain.get_or_load("k", || load("new")).await.ok() })
        } else {
            Box::pin(async { rig.chain.get("k").await.unwrap() })
        };
        assert!(poll_once(slow.as_mut()).is_pending());
        let mut quick = pin!(rig.chain.get("k"));
        assert!(poll_once(quick.as_mut()).is_pending());
        gate.open();
        assert_eq!(quick.await.unwrap().as_deref(), Some("old"));
        rig.clock.advance(2 * SECOND);
        let value = slow.await;
        assert_eq!(value.as_deref(), loading.then_some("new"));
    }
}

/// Found fresh, deleted, and stale by the time its reader is polled again: the refresh that begins
/// then must not give what was deleted to those who come after.
#[tokio::test]
async fn g1_a_refresh_does_not_bring_what_was_found_before_a_del() {
    let (chain, memory, below, clock) = local_over_scripted(ReadThrough::new().stale_for(100 * SECOND), |tier| tier);
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    Store::del(&memory, &key("k")).await.unwrap();
    let gate = below.stall(Operation::Get);
    let mut slow = pin!(chain.get_or_load("k", || load("new")));
    assert!(poll_once(slow.as_mut()).is_pending());
    let mut quick = pin!(chain.get("k"));
    assert!(poll_once(quick.as_mut()).is_pending());
    gate.open();
    assert_eq!(quick.await.unwrap().as_deref(), Some("old"));
    chain.del("k").await.unwrap();
    clock.advance(SECOND);
    // It began before the deletion: it may be served what was there then.
    assert!(poll_once(slow.as_mut()).is_ready());
    assert_eq!(chain.get_or_load("k", || load("newest")).await.unwrap(), "new");
}

#[tokio::test]
async fn the_longest_durations_are_no_panic() {
    let rig = Rig::built(
        2,
        |_, tier| tier.timeout(Duration::MAX).breaker(Breaker::new().failures(1).probe_interval(Duration::MAX)),
        |chain| {
            let settings = ReadThrough::new()
                .peer_wait(Duration::MAX)
                .soft_timeout(Duration::MAX)
                .hard_timeout(Duration::MAX)
                .failure_cooldown(Duration::MAX)
                .negative_ttl(Duration::MAX)
                .stale_for(Duration::MAX);
            chain.timeout(Duration::MAX).default_ttl(Duration::MAX).read_through(settings)
        },
    );
    assert_eq!(rig.chain.get_or_load("k", || load("v")).await.unwrap(), "v");
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    assert_eq!(rig.chain.get("l").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(rig.chain.get("l").await.unwrap_err().kind(), ErrorKind::Unavailable);
}

/// The caller of a batch loses patience; every key of the batch is loaded in the background.
#[tokio::test(start_paused = true)]
async fn a_batch_that_takes_too_long_goes_on_for_all_of_its_keys() {
    let chain: ChainCache<String> = ChainCache::builder()
        .tier(MapStore::new())
        .read_through(ReadThrough::new().soft_timeout(SECOND))
        .build()
        .unwrap();
    let gate = Gate::default();
    let opened = gate.clone();
    let load = move |keys: Vec<u32>| async move {
        gate.passed().await;
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, key.to_string())).collect::<Vec<_>>())
    };
    let error = chain.get_or_load_many([1, 2, 3], load).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    opened.open();
    settle().await;
    for key in 1..=3 {
        assert_eq!(chain.get(key).await.unwrap(), Some(key.to_string()));
    }
}

/// One who waits for several loads drives all of them: one may hold what another waits for.
#[tokio::test(start_paused = true)]
async fn g3_a_batch_drives_the_loads_that_it_has_joined() {
    let chain: ChainCache<String> = ChainCache::builder()
        .tier(MapStore::new())
        .read_through(ReadThrough::new().concurrent_loads(1))
        .build()
        .unwrap();
    let gate = Gate::default();
    let passing = gate.clone();
    let mut first = Box::pin(chain.get_or_load("b", || async move {
        passing.passed().await;
        load("b").await
    }));
    assert!(poll_once(first.as_mut()).is_pending());
    let all = |keys: Vec<&'static str>| async move {
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, owned(key))).collect::<Vec<_>>())
    };
    let mut many = Box::pin(chain.get_or_load_many(["a", "b"], all));
    assert!(poll_once(many.as_mut()).is_pending());
    drop(first);
    gate.open();
    assert_eq!(many.await.unwrap(), [Some(owned("a")), Some(owned("b"))]);
}

/// However many are served a stale value, one load is begun for them, and one task waits for it.
#[tokio::test]
async fn a_refresh_takes_one_task_and_counts_once() {
    let (chain, _, _, clock) = local_over_scripted(ReadThrough::new().stale_for(100 * SECOND), |tier| tier);
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    clock.advance(SECOND);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (gate, before) = (Gate::default(), tasks());
    for _ in 0..1000 {
        let gate = gate.clone();
        let load = || async move {
            gate.passed().await;
            load("new").await
        };
        assert_eq!(chain.get_or_load("k", load).await.unwrap(), "old");
    }
    settle().await;
    assert_eq!(tasks() - before, 1);
    let stats = chain.stats().loads;
    assert_eq!((stats.refreshes, stats.started, stats.stale_served), (1, 1, 1000));
    gate.open();
    settle().await;
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("new"));
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn a_stale_entry_is_counted_once() {
    let (chain, _, _, clock) = local_over_scripted(ReadThrough::new().stale_for(100 * SECOND), |tier| tier);
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    clock.advance(SECOND);
    let before = chain.stats().tiers[0].hits;
    assert_eq!(chain.get("k").await.unwrap(), None);
    assert_eq!(chain.stats().tiers[0].hits - before, 1);
}

/// Who reads the tiers together with a plain `get` still has time for its loader.
#[tokio::test(start_paused = true)]
async fn g7_a_get_does_not_use_up_the_time_of_a_load() {
    let chain_deadline = 4 * SECOND;
    let clock = ManualClock::new();
    let below: Scripted = ScriptedStore::new(MapStore::with_clock(clock.shared()));
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(MapStore::with_clock(clock.shared()))
        .tier(Tier::new(below.clone()).timeout(100 * SECOND))
        .timeout(chain_deadline)
        .build()
        .unwrap();
    below.stall(Operation::Get);
    let slowly = || async {
        tokio::time::sleep(SECOND).await;
        load("v").await
    };
    let (got, loaded) = tokio::join!(chain.get("k"), chain.get_or_load("k", slowly));
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(loaded.unwrap(), "v");
}

/// A store that panics while it makes up for a failed write does not end all mending.
#[tokio::test(start_paused = true)]
async fn g7_mending_survives_a_panic() {
    let rig = Rig::with(2, |_, tier| tier.no_breaker());
    rig.chain.set("k", owned("old")).await.unwrap();
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    rig.chain.del("k").await.unwrap_err();
    rig.stores[1].heal();
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    rig.stores[1].at_every_step(move |operation, _| {
        let first = operation == Operation::Del && counted.fetch_add(1, SeqCst) == 0;
        async move { assert!(!first, "the store panics once") }
    });
    for _ in 0..3 {
        tokio::time::advance(SECOND).await;
        settle().await;
    }
    assert!(panics.load(SeqCst) > 1);
    assert_eq!(rig.value(1, "k"), None);
}

/// Repairs run where the chain was built, also if the runtime of the failed write has ended.
#[test]
fn g7_repairs_survive_the_runtime_of_the_caller() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let home = runtime();
    let rig = home.block_on(async { Rig::with(2, |_, tier| tier.no_breaker()) });
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let home = std::thread::spawn(move || home.block_on(ended));
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    runtime().block_on(rig.chain.del("k")).unwrap_err();
    rig.stores[1].heal();
    // The paused clock of the chain's runtime advances by itself.
    while rig.chain.stats().tiers[1].pending_deletes > 0 {
        std::thread::yield_now();
    }
    drop(end);
    home.join().unwrap().unwrap_err();
}

/// That a key is not read yet is no failure of its tier, which answers.
#[tokio::test(start_paused = true)]
async fn g7_a_distrusted_key_does_not_open_the_breaker() {
    let rig = Rig::with(2, |_, tier| tier.breaker(Breaker::new().failures(3).probe_interval(10 * SECOND)));
    rig.put(1, "other", "v", Expiry::Never);
    for operation in [Operation::Set, Operation::Del] {
        rig.stores[1].fail(operation, ErrorKind::ReadOnly);
    }
    rig.chain.set("k", owned("new")).await.unwrap_err();
    for _ in 0..10 {
        rig.chain.get("k").await.unwrap_err();
        rig.chain.get_many(["k"]).await.unwrap_err();
    }
    assert_eq!(rig.chain.get("other").await.unwrap().as_deref(), Some("v"));
    assert_eq!(rig.chain.stats().tiers[1].skipped, 0);
}

/// A tier that hangs costs a batch its timeout once, the lease included.
#[tokio::test(start_paused = true)]
async fn g7_a_lease_that_hangs_takes_what_is_left_of_the_timeout() {
    let rig = Rig::with(2, |_, tier| tier.timeout(SECOND).no_breaker());
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].at_every_step(|operation, _| async move {
        if operation == Operation::Get {
            tokio::time::sleep(SECOND / 4).await;
        }
    });
    rig.stores[0].stall(Operation::Lease);
    let started = tokio::time::Instant::now();
    assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [Some(owned("v"))]);
    assert_eq!(started.elapsed(), SECOND);
}

/// A store that panics has failed to write.
#[tokio::test(start_paused = true)]
async fn g7_a_write_that_panicked_leaves_its_key_distrusted() {
    let rig = Rig::with(2, |_, tier| tier.no_breaker());
    rig.put(1, "k", "old", Expiry::Never);
    rig.stores[1].at_every_step(|operation, _| async move { assert_ne!(operation, Operation::Del, "it panics") });
    let chain = rig.chain.clone();
    assert!(tokio::spawn(async move { chain.del("k").await }).await.unwrap_err().is_panic());
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 1);
    rig.stores[1].at_every_step(|_, _| async {});
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
}

/// A waker that owns its task, as simple executors have them.
struct Owner(#[allow(dead_code, reason = "to be dropped with it")] Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

/// The waker of a caller may be the last to hold the task of another: both are dropped where no
/// lock is held.
#[tokio::test]
async fn g3_a_waker_that_owns_a_caller_is_dropped_without_a_deadlock() {
    for replaced in [true, false] {
        let rig = Rig::new(1);
        let gate = rig.stores[0].stall(Operation::Get);
        let chain = rig.chain.clone();
        let mut other: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move { drop(chain.get("k").await) });
        assert!(poll_once(other.as_mut()).is_pending());
        let owning = Waker::from(Arc::new(Owner(Mutex::new(other))));
        let mut caller = Box::pin(rig.chain.get("k"));
        assert!(caller.as_mut().poll(&mut Context::from_waker(&owning)).is_pending());
        drop(owning);
        if replaced {
            assert!(poll_once(caller.as_mut()).is_pending());
        }
        drop(caller);
        gate.open();
        assert_eq!(rig.chain.get("k").await.unwrap(), None);
    }
}

/// Who comes after a write joins no load and no read that began before it.
#[tokio::test(start_paused = true)]
async fn g1_who_comes_after_a_write_joins_nothing_older() {
    for clear in [false, true] {
        let (rig, gate) = (Rig::new(2), Gate::default());
        let held = gate.clone();
        let older = rig.chain.get_or_load("k", || async move {
            held.passed().await;
            load("old").await
        });
        let newer = async {
            settle().await;
            if clear {
                rig.chain.clear().await.unwrap();
            } else {
                rig.chain.del("k").await.unwrap();
            }
            let newer = rig.chain.get_or_load("k", || load("new"));
            let newer = tokio::time::timeout(SECOND, newer).await;
            gate.open();
            newer.expect("it does not wait for the older load").unwrap()
        };
        let (older, newer) = tokio::join!(older, newer);
        assert_eq!((older.unwrap().as_str(), newer.as_str()), ("old", "new"));
        rig.chain.wait().await.unwrap();
        assert_eq!([0, 1].map(|tier| rig.value(tier, "k")), [(); 2].map(|()| Some(owned("new"))));

        let (rig, gate) = (Rig::new(2), Gate::default());
        rig.put(1, "k", "old", Expiry::Never);
        let (held, gets) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
        rig.stores[1].at_every_step(move |operation, phase| {
            let is_first = operation == Operation::Get && phase == Phase::After && gets.fetch_add(1, SeqCst) == 0;
            let held = held.clone();
            async move {
                if is_first {
                    held.passed().await;
                }
            }
        });
        let newer = async {
            settle().await;
            if clear {
                rig.chain.clear().await.unwrap();
            } else {
                rig.chain.del("k").await.unwrap();
            }
            let newer = tokio::time::timeout(SECOND, rig.chain.get("k")).await;
            gate.open();
            newer.expect("it does not wait for the older read").unwrap()
        };
        let (older, newer) = tokio::join!(rig.chain.get("k"), newer);
        assert_eq!((older.unwrap().as_deref(), newer), (Some("old"), None));
    }
}

/// One who has looked and begins to load later finds what another has loaded meanwhile, in a local
/// tier.
#[tokio::test]
async fn g3_what_was_loaded_since_the_look_is_not_loaded_again() {
    let (chain, _, below, _) = local_over_scripted(ReadThrough::new(), |tier| tier);
    let gate = below.stall(Operation::Get);
    let mut slow = pin!(chain.get_or_load("k", || load("twice")));
    assert!(poll_once(slow.as_mut()).is_pending());
    let mut quick = pin!(chain.get_or_load("k", || load("once")));
    assert!(poll_once(quick.as_mut()).is_pending());
    gate.open();
    assert_eq!(quick.await.unwrap(), "once");
    assert_eq!(slow.await.unwrap(), "once");
    assert_eq!(chain.stats().loads.started, 1);
}

/// What is stale in a second local tier is loaded anew all the same.
#[tokio::test]
async fn a_stale_value_of_a_second_local_tier_is_replaced() {
    let clock = ManualClock::new();
    let [first, second] = [(); 2].map(|()| MapStore::with_clock(clock.shared()));
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(first.clone())
        .tier(second)
        .read_through(ReadThrough::new().stale_for(100 * SECOND))
        .build()
        .unwrap();
    chain.set_with_ttl("k", owned("old"), SECOND).await.unwrap();
    Store::del(&first, &key("k")).await.unwrap();
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", || load("new")).await.unwrap(), "old");
    settle().await;
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("new"));
}

/// Jitter takes off a part, and never all of it.
#[tokio::test]
async fn the_shortest_life_survives_the_largest_jitter() {
    let rig = Rig::built(1, |_, tier| tier, |chain| chain.jitter(1.0));
    for _ in 0..100 {
        rig.chain.set_with_ttl("k", owned("v"), Duration::from_nanos(1)).await.unwrap();
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    }
}

/// A backfill that was under way when a deletion failed is not made before the deletion is made up
/// for.
#[tokio::test(start_paused = true)]
async fn g7_a_backfill_under_way_is_not_made_where_a_write_failed() {
    let rig = Rig::with(3, |_, tier| tier.no_breaker());
    rig.put(2, "k", "old", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
    settle().await;
    rig.stores[1].fail(Operation::Del, ErrorKind::ReadOnly);
    rig.chain.del("k").await.unwrap_err();
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.stores[1].calls_of(Operation::Fill), 0);
}

/// A probe that could not delete what the tier holds wrongly does not close the breaker.
#[tokio::test(start_paused = true)]
async fn g7_a_probe_that_cannot_repair_has_failed() {
    for many in [false, true] {
        let rig =
            Rig::with(
                2,
                |at, tier| if at == 1 { tier.breaker(Breaker::new().failures(1).probe_interval(SECOND)) } else { tier },
            );
        rig.put(1, "other", "v", Expiry::Never);
        rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
        rig.chain.del("k").await.unwrap_err();
        tokio::time::advance(SECOND).await;
        let get = async || {
            if many {
                rig.chain.get_many(["other"]).await.map(|mut values| values.remove(0))
            } else {
                rig.chain.get("other").await
            }
        };
        assert_eq!(get().await.unwrap_err().kind(), ErrorKind::Unavailable);
        let asked = rig.stores[1].calls().len();
        assert_eq!(get().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(rig.stores[1].calls().len(), asked, "many: {many}");
    }
}

/// That no time was left for a lease is not held against its tier.
#[tokio::test(start_paused = true)]
async fn g7_what_was_not_asked_has_not_failed() {
    let rig =
        Rig::with(2, |_, tier| tier.timeout(SECOND).breaker(Breaker::new().failures(1).probe_interval(10 * SECOND)));
    rig.put(1, "k", "v", Expiry::Never);
    rig.stores[0].at_every_step(|operation, phase| async move {
        if (operation, phase) == (Operation::Get, Phase::Before) {
            tokio::time::sleep(SECOND).await;
        }
    });
    rig.stores[0].stall(Operation::Lease);
    for _ in 0..2 {
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
        assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [Some(owned("v"))]);
    }
    assert_eq!(rig.chain.stats().tiers[0].skipped, 0);
}

/// A load that succeeds ends the pause that a failed one began.
#[tokio::test]
async fn a_success_ends_the_pause_after_a_failure() {
    let settings = ReadThrough::new().stale_for(SECOND).failure_cooldown(1000 * SECOND);
    let (chain, _, _, clock) = local_over_scripted(settings, |tier| tier);
    let loading = |value: &'static str| move || ready(Ok::<_, io::Error>(Loaded::new(owned(value)).ttl(SECOND)));
    let failing = || ready(Err::<String, _>(io::Error::other("no")));
    assert_eq!(chain.get_or_load("k", loading("1")).await.unwrap().as_deref(), Some("1"));
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", failing).await.unwrap(), "1");
    settle().await;
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", loading("2")).await.unwrap().as_deref(), Some("2"));
    clock.advance(SECOND);
    assert_eq!(chain.get_or_load("k", loading("3")).await.unwrap().as_deref(), Some("2"));
    settle().await;
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn g5_a_load_does_not_wait_for_a_fill_that_hangs() {
    let rig = Rig::built(1, |_, tier| tier, |chain| chain.timeout(SECOND));
    rig.stores[0].stall(Operation::Fill);
    let value = rig.chain.get_or_load("k", || load("v")).await;
    assert_eq!(value.unwrap(), "v");
}

#[tokio::test(start_paused = true)]
async fn g3_loads_kept_unpolled_do_not_starve_other_keys() {
    let settings = ReadThrough::new().concurrent_loads(1);
    let chain: ChainCache<String> = ChainCache::builder().tier(MapStore::new()).read_through(settings).build().unwrap();
    let gate = Gate::default();
    let passing = gate.clone();
    let mut kept = Box::pin(chain.get_or_load("a", || async move {
        passing.passed().await;
        load("a").await
    }));
    assert!(poll_once(kept.as_mut()).is_pending());
    gate.open();
    assert_eq!(chain.get_or_load("b", || load("b")).await.unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn g7_a_clear_that_was_given_up_does_not_hold_up_writes_for_ever() {
    let rig = Rig::new(2);
    rig.stores[1].stall(Operation::Clear);
    assert!(tokio::time::timeout(SECOND, rig.chain.clear()).await.is_err());
    settle().await;
    assert!(tokio::time::timeout(3600 * SECOND, rig.chain.set("k", owned("v"))).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn stats_of_a_tier_that_is_passed_over() {
    let rig = Rig::with(2, |_, tier| tier.breaker(Breaker::new().failures(1).probe_interval(10 * SECOND)));
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    for _ in 0..10 {
        let _ = rig.chain.get("k").await;
    }
    let stats = &rig.chain.stats().tiers[1];
    assert_eq!((stats.errors, stats.skipped), (1, 9));
}

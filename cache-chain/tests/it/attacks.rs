//! Guarantees that hold under hostile timing, settings and code of the application.

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    time::Duration,
};

use crate::support::{Rig, hold_back_get, load, memory_over_scripted, owned, poll_unwoken, settle};
use cache_chain::{Breaker, ChainCache, ErrorKind, ReadThrough};
use cache_core::{
    Expiry,
    testkit::{Gate, MapStore, Operation},
};

const SECOND: Duration = Duration::from_secs(1);

/// A caller that is not polled for long is served neither an entry that has expired meanwhile nor,
/// by `get`, a stale one.
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
        assert!(poll_unwoken(slow.as_mut()).is_pending());
        let mut quick = pin!(rig.chain.get("k"));
        assert!(poll_unwoken(quick.as_mut()).is_pending());
        gate.open();
        assert_eq!(quick.await.unwrap().as_deref(), Some("old"));
        rig.clock.advance(2 * SECOND);
        let value = slow.await;
        assert_eq!(value.as_deref(), loading.then_some("new"));
    }
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

/// A caller that waits for several loads drives all of them: one may hold the permit that another
/// waits for.
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
    assert!(poll_unwoken(first.as_mut()).is_pending());
    let all = |keys: Vec<&'static str>| async move {
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, owned(key))).collect::<Vec<_>>())
    };
    let mut many = Box::pin(chain.get_or_load_many(["a", "b"], all));
    assert!(poll_unwoken(many.as_mut()).is_pending());
    drop(first);
    gate.open();
    assert_eq!(many.await.unwrap(), [Some(owned("a")), Some(owned("b"))]);
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
        assert!(poll_unwoken(other.as_mut()).is_pending());
        let owning = Waker::from(Arc::new(Owner(Mutex::new(other))));
        let mut caller = Box::pin(rig.chain.get("k"));
        assert!(caller.as_mut().poll(&mut Context::from_waker(&owning)).is_pending());
        drop(owning);
        if replaced {
            assert!(poll_unwoken(caller.as_mut()).is_pending());
        }
        drop(caller);
        gate.open();
        assert_eq!(rig.chain.get("k").await.unwrap(), None);
    }
}

/// A caller that comes after a write joins no load and no read that began before it.
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

        let rig = Rig::new(2);
        rig.put(1, "k", "old", Expiry::Never);
        let gate = hold_back_get(&rig.stores[1], 0);
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

/// A caller that has looked, and begins to load later, finds in a local tier the value that another
/// has loaded meanwhile.
#[tokio::test]
async fn g3_what_was_loaded_since_the_look_is_not_loaded_again() {
    let (chain, _, below, _) = memory_over_scripted(ReadThrough::new());
    let gate = below.stall(Operation::Get);
    let mut slow = pin!(chain.get_or_load("k", || load("twice")));
    assert!(poll_unwoken(slow.as_mut()).is_pending());
    let mut quick = pin!(chain.get_or_load("k", || load("once")));
    assert!(poll_unwoken(quick.as_mut()).is_pending());
    gate.open();
    assert_eq!(quick.await.unwrap(), "once");
    assert_eq!(slow.await.unwrap(), "once");
    assert_eq!(chain.stats().loads.started, 1);
}

/// Jitter shortens a life by a part of it, and never by all of it.
#[tokio::test]
async fn the_shortest_life_survives_the_largest_jitter() {
    let rig = Rig::built(1, |_, tier| tier, |chain| chain.jitter(1.0));
    for _ in 0..100 {
        rig.chain.set_with_ttl("k", owned("v"), Duration::from_nanos(1)).await.unwrap();
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    }
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
    assert!(poll_unwoken(kept.as_mut()).is_pending());
    gate.open();
    assert_eq!(chain.get_or_load("b", || load("b")).await.unwrap(), "b");
}

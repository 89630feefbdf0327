//! Reads and loads whose callers have another runtime, clock or timeout than the chain.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::support::{Rig, Scripted, settle};
use cache_chain::{Breaker, ChainCache, Error, ErrorKind, ReadThrough, Tier};
use cache_core::{
    Expiry,
    testkit::{Gate, MapStore, Operation, ScriptedStore, block_on},
};
use tokio::runtime::{Builder, Runtime};

const SECOND: Duration = Duration::from_secs(1);

fn owned(value: &str) -> String {
    value.to_owned()
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The deadline of a lookup is that of the caller that began it. A caller that joined it late has
/// time to look again.
#[tokio::test(start_paused = true)]
async fn a_caller_that_joins_a_lookup_has_its_own_time() {
    let rig = Rig::built(2, |_, tier| tier.timeout(100 * SECOND), |chain| chain.timeout(SECOND));
    rig.put(1, "k", "v", Expiry::Never);
    let first = rig.stores[0].stall(Operation::Get);
    let started = tokio::time::Instant::now();
    let (early, late, ()) = tokio::join!(
        rig.chain.get("k"),
        async {
            tokio::time::sleep(SECOND * 9 / 20).await;
            rig.stores[1].stall(Operation::Get);
            tokio::time::sleep(SECOND / 2).await;
            rig.chain.get("k").await
        },
        async {
            tokio::time::sleep(SECOND + SECOND / 10).await;
            rig.stores[1].heal();
            first.open();
        }
    );
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(late.unwrap().as_deref(), Some("v"), "after {:?}", started.elapsed());
}

/// A lookup goes on when its caller has left, so that the breaker learns that the tier does not
/// answer; only so many do.
#[tokio::test(start_paused = true)]
async fn lookups_without_callers_tell_the_breaker_and_are_bounded() {
    let rig = Rig::with(2, |_, tier| {
        tier.timeout(10 * SECOND).breaker(Breaker::new().failures(50).probe_interval(1000 * SECOND))
    });
    rig.stores[1].stall(Operation::Get);
    for many in [false, true] {
        for number in 0..50 {
            let left = async {
                if many {
                    rig.chain.get_many([number + 100]).await.map(drop)
                } else {
                    rig.chain.get(number).await.map(drop)
                }
            };
            let mut left = pin!(left);
            assert!(poll_once(left.as_mut()).is_pending());
            settle().await;
        }
    }
    let asked = rig.stores[1].calls_of(Operation::Get);
    assert_eq!(asked, 100);
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(rig.chain.stats().tiers[1].timeouts, 64);
    let error = rig.chain.get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "the breaker is open: {error}");
}

/// A load ends with its last caller; a lookup that has been left can be joined again.
#[tokio::test(start_paused = true)]
async fn a_lookup_that_was_left_can_be_joined() {
    let rig = Rig::new(2);
    rig.put(1, "k", "v", Expiry::Never);
    let gate = rig.stores[1].stall(Operation::Get);
    {
        let mut left = pin!(rig.chain.get("k"));
        assert!(poll_once(left.as_mut()).is_pending());
        settle().await;
    }
    let (found, ()) = tokio::join!(rig.chain.get("k"), async {
        settle().await;
        gate.open();
    });
    assert_eq!(found.unwrap().as_deref(), Some("v"));
    assert_eq!(rig.stores[1].calls_of(Operation::Get), 1);
}

/// A chain on a runtime of its own, with a store below that hangs until the gate is opened.
fn elsewhere(settings: ReadThrough) -> (Runtime, ChainCache<String>, Scripted) {
    let home = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let below: Scripted = ScriptedStore::new(MapStore::new());
    let chain = home.block_on(async {
        let lower = Tier::new(below.clone()).timeout(SECOND / 10).no_breaker();
        ChainCache::builder().tier(MapStore::new()).tier(lower).read_through(settings).build().unwrap()
    });
    (home, chain, below)
}

/// No timer and no task of the chain is one of the caller's runtime, which may have none.
#[test]
fn a_caller_needs_no_timers_and_no_runtime() {
    let (_home, chain, below) = elsewhere(ReadThrough::new().soft_timeout(SECOND / 5));
    below.stall(Operation::Get);
    let bare = Builder::new_current_thread().build().unwrap();
    let all = async || {
        assert_eq!(chain.get("k").await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(chain.get_many(["k"]).await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(chain.get_or_load("l", || async { Ok::<_, Error>(owned("v")) }).await.unwrap(), "v");
        let many = |keys: Vec<&'static str>| async move { Ok::<_, Error>([(keys[0], owned("v"))]) };
        assert_eq!(chain.get_or_load_many(["m"], many).await.unwrap(), [Some(owned("v"))]);
        let hangs = || async {
            std::future::pending::<()>().await;
            Ok::<_, Error>(owned("never"))
        };
        assert_eq!(chain.get_or_load("n", hangs).await.unwrap_err().kind(), ErrorKind::Timeout);
    };
    bare.block_on(all());
    block_on(chain.del_many(["l", "m", "n"])).unwrap();
    block_on(all());
}

/// Work that a caller began goes on although the caller's runtime does not run, or has ended.
#[test]
fn the_callers_runtime_may_be_idle_or_ended() {
    for ends in [false, true] {
        let (_home, chain, below) = elsewhere(ReadThrough::new());
        let gate = Gate::default();
        let (passing, begun) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&begun);
        let other = Builder::new_current_thread().enable_time().build().unwrap();
        let first = chain.clone();
        let caller = other.spawn(async move {
            let load = || async move {
                counted.fetch_add(1, SeqCst);
                passing.passed().await;
                Ok::<_, Error>(owned("first"))
            };
            first.get_or_load("k", load).await
        });
        // As far as to the gate.
        other.block_on(async {
            while begun.load(SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        });
        let expected = if ends {
            // The only caller is gone, and its load with it.
            drop((caller, other));
            "second"
        } else {
            "first"
        };
        gate.open();
        let load = || async { Ok::<_, Error>(owned("second")) };
        assert_eq!(block_on(chain.get_or_load("k", load)).unwrap(), expected);
        assert_eq!(begun.load(SeqCst), 1);
        drop(below);
    }
}

/// The time of a lookup does not stand still while the runtime of the caller that began it does.
#[test]
fn a_lookup_ends_in_time_although_its_first_callers_runtime_is_idle() {
    let (_home, chain, below) = elsewhere(ReadThrough::new());
    below.stall(Operation::Get);
    let idle = Builder::new_current_thread().enable_time().build().unwrap();
    let mut kept = pin!(chain.get("k"));
    idle.block_on(async { assert!(poll_once(kept.as_mut()).is_pending()) });
    // Without a runtime, a hang would be one for ever: the test is run in one with a timer.
    let bound = Builder::new_current_thread().enable_time().build().unwrap();
    let second = bound.block_on(async { tokio::time::timeout(8 * SECOND, chain.get("k")).await });
    assert_eq!(second.expect("it hangs").unwrap_err().kind(), ErrorKind::Timeout);
}

/// When the chain's runtime ends, all waiters are told, as are later callers. The first tier still
/// answers.
#[test]
fn the_end_of_the_chains_runtime_is_an_error_for_its_callers() {
    let (home, chain, below) = elsewhere(ReadThrough::new());
    block_on(chain.set("cached", owned("v"))).unwrap();
    let gate = Gate::default();
    let never = gate.clone();
    below.stall(Operation::Get);
    let mut waiting = pin!(chain.get_or_load("k", || async move {
        never.passed().await;
        Ok::<_, Error>(owned("never"))
    }));
    assert!(poll_once(waiting.as_mut()).is_pending());
    drop(home);
    assert_eq!(block_on(waiting).unwrap_err().kind(), ErrorKind::Closed);
    block_on(async {
        let load = || async { Ok::<_, Error>(owned("v")) };
        let many = |_: Vec<&'static str>| async { Ok::<_, Error>([("k", owned("v"))]) };
        assert_eq!(chain.get("k").await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.get_many(["k"]).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.get_or_load("k", load).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.get_or_load_many(["k"], many).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.get("cached").await.unwrap().as_deref(), Some("v"));
        assert_eq!(chain.stats().loads.in_flight, 0);
    });
}

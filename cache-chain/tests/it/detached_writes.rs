//! Writes whose callers have left: their order, their bounds and the waits for them. Repairs, which
//! do not overwrite newer writes.

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::support::{Rig, settle};
use cache_chain::{Breaker, ErrorKind, Tier};
use cache_core::testkit::Operation;

const SECOND: Duration = Duration::from_secs(1);

fn owned(value: &str) -> String {
    value.to_owned()
}

fn values(rig: &Rig, key: &str) -> [Option<String>; 2] {
    [0, 1].map(|tier| rig.value(tier, key))
}

/// Polls the call once and drops it; what it returned if it was ready.
fn leave<F: Future>(call: F) -> Option<F::Output> {
    match Box::pin(call).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// As a service under load writes one hot key while a tier hangs and the callers do not wait.
#[tokio::test(start_paused = true)]
async fn abandoned_writes_of_one_key_are_bounded_and_the_key_is_writable_at_once_afterwards() {
    let rig = Rig::with(2, |_, tier| tier.timeout(60 * SECOND).no_breaker());
    let gate = rig.stores[1].stall(Operation::Set);
    let mut refused = 0;
    for number in 0..5000 {
        match leave(rig.chain.set("hot", number.to_string())) {
            None => settle().await,
            Some(result) => {
                let error = result.unwrap_err();
                assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("128"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 5000 - 128);
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(values(&rig, "hot"), [None, None], "later writes were refused, so what the line wrote is outdated");
    rig.chain.set("hot", owned("new")).await.unwrap();
    assert_eq!(values(&rig, "hot"), [Some(owned("new")), Some(owned("new"))]);
}

/// Large values of many keys.
#[tokio::test(start_paused = true)]
async fn abandoned_writes_are_bounded_by_their_bytes() {
    let tier = |_, tier: Tier<String>| tier.timeout(60 * SECOND).no_breaker();
    let rig = Rig::built(2, tier, |chain| chain.weigher(|_, value: &String| value.len() << 20));
    let gate = rig.stores[1].stall(Operation::Set);
    for number in 0..7 {
        assert!(leave(rig.chain.set(number, owned("some ten M"))).is_none());
        settle().await;
    }
    let error = leave(rig.chain.set("refused", owned("v"))).unwrap().unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("64 MiB"), "{error}");
    gate.open();
    rig.chain.wait().await.unwrap();
    rig.chain.set("k", owned("v")).await.unwrap();
    assert_eq!(values(&rig, "k"), [Some(owned("v")), Some(owned("v"))]);
}

#[tokio::test]
async fn the_order_of_abandoned_writes_is_kept() {
    let rig = Rig::new(2);
    let gate = rig.stores[1].stall(Operation::Set);
    for number in 0..20 {
        assert!(leave(rig.chain.set("k", number.to_string())).is_none());
        assert!(leave(rig.chain.set_many([("k", number.to_string()), ("l", number.to_string())])).is_none());
        settle().await;
    }
    gate.open();
    rig.chain.wait().await.unwrap();
    for key in ["k", "l"] {
        assert_eq!(values(&rig, key), [Some(owned("19")), Some(owned("19"))]);
    }
    assert_eq!(rig.stores[1].calls_of(Operation::Set), 40);
}

#[tokio::test]
async fn wait_returns_when_all_abandoned_writes_have_ended() {
    let rig = Rig::new(2);
    let gate = rig.stores[1].stall(Operation::Set);
    for key in ["a", "b", "c"] {
        assert!(leave(rig.chain.set(key, owned("v"))).is_none());
    }
    settle().await;
    let mut wait = Box::pin(rig.chain.wait());
    let mut is_pending = || wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
    assert!(is_pending());
    settle().await;
    assert!(is_pending());
    gate.open();
    wait.await.unwrap();
    // The first tier may lack some of them: a write voids the leases of other keys of its stripe.
    for key in ["a", "b", "c"] {
        assert_eq!(rig.value(1, key), Some(owned("v")));
    }
}

/// A `clear` may take minutes.
#[tokio::test(start_paused = true)]
async fn an_abandoned_clear_that_hangs_delays_writes_for_a_second_and_wait_not_at_all() {
    let rig = Rig::new(2);
    let _gate = rig.stores[1].stall(Operation::Clear);
    assert!(leave(rig.chain.clear()).is_none());
    settle().await;
    let started = tokio::time::Instant::now();
    rig.chain.wait().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    rig.chain.set("k", owned("v")).await.unwrap();
    assert_eq!(started.elapsed(), SECOND);
    rig.chain.set("k", owned("w")).await.unwrap();
    assert_eq!(started.elapsed(), SECOND);
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(owned("w")));
}

/// A deletion that is on its way must not remove what was written after it and acknowledged.
#[tokio::test(start_paused = true)]
async fn a_repair_does_not_delete_a_newer_value() {
    let rig = Rig::with(2, |_, tier| tier.timeout(60 * SECOND).no_breaker());
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    rig.chain.del("k").await.unwrap_err();
    rig.stores[1].heal();
    let gate = rig.stores[1].stall(Operation::Del);
    let asked = rig.stores[1].calls_of(Operation::Del);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(rig.stores[1].calls_of(Operation::Del), asked + 1, "the repair is on its way");
    let (set, ()) = tokio::join!(rig.chain.set("k", owned("new")), async {
        settle().await;
        gate.open();
    });
    set.unwrap();
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(values(&rig, "k"), [Some(owned("new")), Some(owned("new"))]);
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_repair_ends_when_its_work_is_done() {
    let rig = Rig::with(2, |_, tier| tier.no_breaker());
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    settle().await;
    let before = alive();
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    rig.chain.del("k").await.unwrap_err();
    rig.stores[1].heal();
    settle().await;
    assert_eq!(alive(), before + 1, "the task that repairs");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!((alive(), rig.chain.stats().tiers[1].pending_deletes), (before, 0));
}

/// Opens the breaker of the second tier, whose reads fail from now on.
async fn opened() -> Rig {
    let rig = Rig::with(3, |at, tier| {
        if at == 1 { tier.breaker(Breaker::new().failures(3).probe_interval(10 * SECOND)) } else { tier.no_breaker() }
    });
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    for number in 0..3 {
        assert!(rig.chain.get(number).await.is_err());
    }
    assert_eq!(rig.stores[1].calls_of(Operation::Get), 3);
    rig
}

#[tokio::test(start_paused = true)]
async fn g7_waiting_for_a_dead_tier_does_not_close_its_breaker() {
    let rig = opened().await;
    tokio::time::advance(10 * SECOND).await;
    rig.chain.wait().await.unwrap();
    for _ in 0..5 {
        assert!(rig.chain.get("k").await.is_err());
    }
    assert_eq!(rig.stores[1].calls_of(Operation::Get), 4, "one probe");
}

/// After a failed `clear` there may be no key to delete.
#[tokio::test(start_paused = true)]
async fn g7_a_repair_that_asks_nothing_does_not_close_the_breaker() {
    let rig = opened().await;
    rig.stores[1].fail(Operation::Clear, ErrorKind::Unavailable);
    tokio::time::advance(10 * SECOND).await;
    rig.chain.clear().await.unwrap_err();
    // The repair runs as soon as the breaker lets it.
    tokio::time::sleep(15 * SECOND).await;
    let asked = rig.stores[1].calls_of(Operation::Get);
    for _ in 0..5 {
        assert!(rig.chain.get("k").await.is_err());
    }
    assert!(rig.stores[1].calls_of(Operation::Get) <= asked + 1, "at most one probe");
}

/// A `clear` takes as long as there are keys to remove. Reads do not wait for its end to use a tier
/// that has recovered.
#[tokio::test(start_paused = true)]
async fn a_clear_that_takes_long_does_not_stay_the_probe() {
    let settings = |at, tier: Tier<String>| {
        if at == 0 { tier.timeout(SECOND).breaker(Breaker::new().failures(1).probe_interval(SECOND)) } else { tier }
    };
    let rig = Rig::with(2, settings);
    rig.stores[0].fail(Operation::Get, ErrorKind::Unavailable);
    rig.chain.get("k").await.unwrap_err();
    rig.stores[0].heal();
    let _gate = rig.stores[0].stall(Operation::Clear);
    tokio::time::advance(SECOND).await;
    let chain = rig.chain.clone();
    let clearing = tokio::spawn(async move { chain.clear().await });
    settle().await;
    assert_eq!(rig.stores[0].calls_of(Operation::Clear), 1, "it is the probe");
    let asked = rig.stores[0].calls_of(Operation::Get);
    rig.chain.get("k").await.unwrap_err();
    assert_eq!(rig.stores[0].calls_of(Operation::Get), asked);
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(rig.stores[0].calls_of(Operation::Get), asked + 2);
    clearing.abort();
}

//! Every operation, dropped at every await point, leaves a consistent chain; a write that was
//! started completes.

use std::task::{Context, Waker};

use crate::support::{Rig, settle};
use cache_chain::ChainCache;
use cache_core::{
    Expiry,
    testkit::{drop_after, yield_now},
};

/// More polls than any operation of three tiers takes here: each call of a store suspends twice.
const POLLS: usize = 64;

fn rig() -> Rig {
    let rig = Rig::new(3);
    for store in &rig.stores {
        store.at_every_step(|_, _| yield_now());
    }
    for tier in 0..3 {
        rig.put(tier, "k", "old", Expiry::Never);
        rig.put(tier, "other", "kept", Expiry::Never);
    }
    rig
}

fn values(rig: &Rig, key: &str) -> Vec<Option<String>> {
    (0..3).map(|tier| rig.value(tier, key)).collect()
}

async fn assert_works(rig: &Rig) {
    rig.chain.set("k", "after".to_owned()).await.unwrap();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("after"));
    rig.chain.del("k").await.unwrap();
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.stats().backfill.items, 0);
}

async fn dropped_write<F: Future>(expected: Option<&str>, write: impl Fn(ChainCache<String>) -> F) {
    for polls in 0..POLLS {
        let rig = rig();
        drop_after(polls, write(rig.chain.clone())).await;
        settle().await;
        settle().await;
        // Not begun, or done in every tier; nothing in between.
        let expected = if polls == 0 { Some("old") } else { expected };
        assert_eq!(values(&rig, "k"), vec![expected.map(str::to_owned); 3], "dropped after {polls} polls");
        assert_works(&rig).await;
    }
}

#[tokio::test]
async fn a_started_set_completes() {
    dropped_write(Some("new"), |chain| async move { chain.set("k", "new".to_owned()).await }).await;
    dropped_write(Some("new"), |chain| async move { chain.set_many([("k", "new".to_owned())]).await }).await;
}

#[tokio::test]
async fn a_started_del_completes() {
    dropped_write(None, |chain| async move { chain.del("k").await }).await;
    dropped_write(None, |chain| async move { chain.del_many(["k", "l"]).await }).await;
}

#[tokio::test]
async fn a_started_clear_completes() {
    dropped_write(None, |chain| async move { chain.clear().await }).await;
}

#[tokio::test]
async fn dropped_reads_leave_no_trace() {
    for polls in 0..POLLS {
        let rig = rig();
        for tier in 0..2 {
            let key = cache_core::Key::new("k").unwrap();
            cache_core::Store::del(rig.stores[tier].inner(), &key).await.unwrap();
        }
        drop_after(polls, rig.chain.get("k")).await;
        drop_after(polls, rig.chain.get_with_ttl("k")).await;
        drop_after(polls, rig.chain.get_many(["k", "absent"])).await;
        drop_after(polls, rig.chain.wait()).await;
        settle().await;
        rig.chain.wait().await.unwrap();
        // Read to the end, it is backfilled; else it is not. Either way no tier holds anything
        // else.
        for (tier, value) in values(&rig, "k").into_iter().enumerate() {
            assert!(value.is_none_or(|value| value == "old"), "tier {tier} after {polls} polls");
        }
        assert_eq!(values(&rig, "other"), vec![Some("kept".to_owned()); 3]);
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
        assert_works(&rig).await;
    }
}

/// The caller's task is aborted, as a web server does when its client goes away.
#[tokio::test]
async fn an_aborted_task_does_not_take_its_write_with_it() {
    let rig = rig();
    let gate = rig.stores[2].stall(cache_core::testkit::Operation::Set);
    let chain = rig.chain.clone();
    let caller = tokio::spawn(async move { chain.set("k", "new".to_owned()).await });
    settle().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(values(&rig, "k"), vec![Some("old".to_owned()); 3]);
    gate.open();
    settle().await;
    assert_eq!(values(&rig, "k"), vec![Some("new".to_owned()); 3]);
}

/// Its task panics elsewhere while the write is under way.
#[tokio::test]
async fn a_panic_beside_a_write_does_not_take_it_along() {
    let rig = rig();
    let gate = rig.stores[2].stall(cache_core::testkit::Operation::Set);
    let chain = rig.chain.clone();
    let caller = tokio::spawn(async move {
        let write = chain.set("k", "new".to_owned());
        let panic = async {
            settle().await;
            panic!("beside the write");
        };
        tokio::join!(write, panic).0
    });
    assert!(caller.await.unwrap_err().is_panic());
    gate.open();
    settle().await;
    assert_eq!(values(&rig, "k"), vec![Some("new".to_owned()); 3]);
}

/// A write whose caller gave up goes on; the one that comes after it has the last word all the
/// same.
#[tokio::test]
async fn a_later_write_outlasts_one_whose_caller_gave_up() {
    use cache_core::testkit::Operation;
    for polls in 1..12 {
        for (at, way) in [(0, "set"), (1, "del"), (2, "set_many"), (3, "clear")] {
            let rig = Rig::new(2);
            for store in &rig.stores {
                store.at_every_step(|_, _| yield_now());
            }
            let gate = rig.stores[at % 2].stall(if at % 2 == 0 { Operation::Lease } else { Operation::Set });
            given_up(polls, rig.chain.set("k", "given up".to_owned())).await;
            let later = async {
                match way {
                    "set" => rig.chain.set("k", "later".to_owned()).await,
                    "del" => rig.chain.del("k").await,
                    "set_many" => rig.chain.set_many([("l", "l".to_owned()), ("k", "later".to_owned())]).await,
                    _ => rig.chain.clear().await,
                }
            };
            let opening = async {
                settle().await;
                // A write of another key waits for nobody.
                rig.stores[at % 2].heal();
                gate.open();
            };
            let (later, ()) = tokio::join!(later, opening);
            later.unwrap();
            settle().await;
            rig.chain.wait().await.unwrap();
            let expected = way.starts_with("set").then(|| "later".to_owned());
            assert_eq!(values_of(&rig), [expected.clone(), expected], "{way} after {polls} polls");
        }
    }
}

/// Polls so often, whether the future asks for it or not, and drops it.
async fn given_up<F: Future>(polls: usize, future: F) {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        yield_now().await;
    }
}

fn values_of(rig: &Rig) -> [Option<String>; 2] {
    [0, 1].map(|tier| rig.value(tier, "k"))
}

#[tokio::test]
async fn a_set_outlasts_a_clear_whose_caller_gave_up() {
    use cache_core::testkit::Operation;
    let rig = Rig::new(2);
    let gate = rig.stores[1].stall(Operation::Clear);
    given_up(1, rig.chain.clear()).await;
    let (set, ()) = tokio::join!(rig.chain.set("k", "later".to_owned()), async {
        settle().await;
        gate.open();
    });
    set.unwrap();
    rig.chain.wait().await.unwrap();
    assert_eq!(values_of(&rig), [Some("later".to_owned()), Some("later".to_owned())]);
}

#[tokio::test]
async fn a_write_waits_for_no_other_keys() {
    use cache_core::testkit::Operation;
    let rig = Rig::new(2);
    let gate = rig.stores[1].stall(Operation::Set);
    given_up(1, rig.chain.set("k", "given up".to_owned())).await;
    rig.chain.del("other").await.unwrap();
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(1, "k").as_deref(), Some("given up"));
}

//! Lookups that their callers run, because the caller is a task of the chain's runtime: they get a
//! task of their own when somebody else depends on them.

use std::{future::Future, pin::pin, time::Duration};

use cache_chain::{Breaker, Error, ErrorKind};
use cache_core::{Expiry, testkit::Operation};
use tokio::runtime::Handle;

use crate::support::{Rig, owned, poll_unwoken, settle};

/// Runs the code in a task, as a server does with its handlers.
async fn in_task(code: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(code).await.unwrap();
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn a_lookup_has_no_task_until_another_caller_joins_it() {
    in_task(async {
        let rig = Rig::new(2);
        rig.put(1, "k", "v", Expiry::Never);
        let gate = rig.stores[1].stall(Operation::Get);
        let idle = tasks();
        let mut kept = pin!(rig.chain.get("k"));
        assert!(poll_unwoken(kept.as_mut()).is_pending());
        assert_eq!((rig.stores[1].calls_of(Operation::Get), tasks()), (1, idle));
        // The first caller is not polled any more.
        let (found, ()) = tokio::join!(rig.chain.get("k"), async {
            settle().await;
            assert_eq!(tasks(), idle + 1);
            gate.open();
        });
        assert_eq!(found.unwrap().as_deref(), Some("v"));
        assert_eq!(rig.stores[1].calls_of(Operation::Get), 1);
        assert_eq!(kept.await.unwrap().as_deref(), Some("v"));
    })
    .await;
}

#[tokio::test]
async fn a_lookup_that_its_caller_has_left_goes_on_in_a_task() {
    in_task(async {
        let rig = Rig::new(2);
        rig.put(1, "k", "v", Expiry::Never);
        let gate = rig.stores[1].stall(Operation::Get);
        {
            let mut left = pin!(rig.chain.get("k"));
            assert!(poll_unwoken(left.as_mut()).is_pending());
        }
        gate.open();
        settle().await;
        assert_eq!(rig.value(0, "k").as_deref(), Some("v"), "it was backfilled");
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_the_breaker_ends_although_its_caller_is_not_polled() {
    in_task(async {
        let second = Duration::from_secs(1);
        let breaker = Breaker::new().failures(1).probe_interval(second);
        let rig = Rig::with(1, |_, tier| tier.breaker(breaker));
        rig.put(0, "k", "v", Expiry::Never);
        rig.stores[0].fail(Operation::Get, ErrorKind::Unavailable);
        assert!(rig.chain.get("k").await.is_err());
        rig.stores[0].heal();
        tokio::time::sleep(2 * second).await;
        let gate = rig.stores[0].stall(Operation::Get);
        let mut probe = pin!(rig.chain.get("k"));
        assert!(poll_unwoken(probe.as_mut()).is_pending());
        settle().await;
        let skipped = rig.chain.get("other").await.unwrap_err();
        assert_eq!(skipped.kind(), ErrorKind::Unavailable, "one probe at a time: {skipped}");
        gate.open();
        settle().await;
        assert_eq!(rig.chain.get("other").await.unwrap(), None, "the tier is asked again");
    })
    .await;
}

#[tokio::test]
async fn a_repair_ends_although_its_caller_is_not_polled() {
    in_task(async {
        let rig = Rig::with(1, |_, tier| tier.no_breaker());
        rig.stores[0].fail(Operation::Set, ErrorKind::Unavailable);
        // Repairs in the background fail, so that the read has something to repair.
        rig.stores[0].fail(Operation::Del, ErrorKind::Unavailable);
        let error = rig.chain.set("k", owned("new")).await.unwrap_err();
        assert!(Error::will_be_repaired(&error));
        settle().await;
        rig.stores[0].heal();
        let gate = rig.stores[0].stall(Operation::Del);
        let mut repairs = pin!(rig.chain.get("k"));
        assert!(poll_unwoken(repairs.as_mut()).is_pending());
        assert_eq!(rig.chain.stats().tiers[0].pending_deletes, 1);
        gate.open();
        settle().await;
        assert_eq!(rig.chain.stats().tiers[0].pending_deletes, 0);
    })
    .await;
}

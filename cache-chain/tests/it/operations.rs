//! `contains`, `take`, `touch` and `expire`: failures, races and statistics.

use std::{io, time::Duration};

use crate::support::{Rig, hold_back_get, settle, stale_rig};
use cache_chain::{CallOptions, ChainBuilder, ErrorKind, ReadThrough};
use cache_core::{Expiry, testkit::Operation};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

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

/// Each call of the store fails or never answers. An operation that cannot do its work returns an
/// error, and no tier serves an older value afterwards.
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
                        // The value that may be there is not read, neither now nor after the repair.
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

/// An operation that is dropped at any await leaves nothing that a later call would wait for.
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

/// The lookup has read the value before, and a caller that comes later does not join it.
#[tokio::test]
async fn a_lookup_in_flight_does_not_tell_later_callers_of_an_older_value() {
    for call in ["take", "expire", "reload"] {
        let stale = |builder: ChainBuilder<String>| builder.read_through(ReadThrough::new().stale_for(MINUTE));
        let rig = Rig::built(1, |_, tier| tier, stale);
        rig.chain.set("k", "old".to_owned()).await.unwrap();
        // The lookup is late: its result is held back.
        let gate = hold_back_get(&rig.stores[0], 0);
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

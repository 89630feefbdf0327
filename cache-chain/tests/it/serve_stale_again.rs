//! A stale value is read again before it is served: it may be deleted, expired or out of reach.

use std::{io, pin::Pin, time::Duration};

use crate::support::{
    poll_once, settle,
    stale_value::{Load, StaleRig, stale_remote, value_of},
};
use cache_chain::{CallOptions, ChainCache, ErrorKind, ReadThrough, ServeStale};
use cache_core::testkit::{Operation, Phase};
use tokio::time::Instant;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_value_that_was_deleted_meanwhile_is_not_served() {
    // The load fails: its error is returned.
    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let (found, ()) = tokio::join!(rig.get(Load::Fails(SECOND)), async {
        settle().await;
        rig.chain.del("k").await.unwrap();
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Loader);
    // The load takes long: it is waited for.
    let rig = StaleRig::new(ServeStale::After(100 * MILLI)).await;
    let started = Instant::now();
    let (found, ()) = tokio::join!(rig.get(Load::Brings("new", SECOND)), async {
        settle().await;
        rig.chain.del("k").await.unwrap();
    });
    assert_eq!((value_of(&found.unwrap()), started.elapsed()), ((Some("new"), false), SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_of_a_remote_tier_is_read_again_before_it_is_served() {
    for is_deleted in [false, true] {
        let (chain, remote, clock) = stale_remote(None).await;
        let other = ChainCache::<String>::builder().clock(clock.shared()).tier(remote.clone()).build().unwrap();
        let load = || async {
            tokio::time::sleep(SECOND).await;
            Err::<String, _>(io::Error::other("down"))
        };
        let (found, ()) = tokio::join!(chain.get_or_load("k", load), async {
            settle().await;
            if is_deleted {
                other.del("k").await.unwrap();
            }
        });
        assert_eq!(
            found.map_err(|error| error.kind()),
            if is_deleted { Err(ErrorKind::Loader) } else { Ok("old".to_owned()) }
        );
    }
}

/// The caller waits, in all, no longer than for one load.
#[tokio::test(start_paused = true)]
async fn the_wait_for_a_key_that_was_deleted_meanwhile_is_limited() {
    for mode in [ServeStale::IfLoadFails, ServeStale::After(SECOND)] {
        let rig = StaleRig::with(ReadThrough::new().serve_stale(mode).soft_timeout(2 * SECOND)).await;
        let started = Instant::now();
        let (found, ()) = tokio::join!(rig.get(Load::Brings("new", 5 * SECOND)), async {
            settle().await;
            rig.chain.del("k").await.unwrap();
        });
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Timeout, "{mode:?}");
        assert_eq!((started.elapsed(), rig.stats().abandoned), (2 * SECOND, 1));
    }
}

/// A remote tier is read again before its stale value is served, which takes time as well.
#[tokio::test(start_paused = true)]
async fn a_call_ends_within_the_timeout_of_its_chain() {
    for is_stalled in [false, true] {
        for is_batch in [false, true] {
            let (chain, remote, _) = stale_remote(Some(SECOND)).await;
            remote.at_every_step(|operation, phase| async move {
                if operation == Operation::Get && phase == Phase::Before {
                    tokio::time::sleep(100 * MILLI).await;
                }
            });
            let started = Instant::now();
            let stalls = remote.clone();
            let call = async {
                if is_batch {
                    let load = |_: Vec<&'static str>| async {
                        tokio::time::sleep(MINUTE).await;
                        Ok::<_, io::Error>([("k", "new".to_owned())])
                    };
                    chain.get_or_load_many(["k"], load).await.map(|mut values| values.pop().flatten())
                } else {
                    let load = || async {
                        tokio::time::sleep(MINUTE).await;
                        Ok::<_, io::Error>("new".to_owned())
                    };
                    chain.get_or_load("k", load).await.map(Some)
                }
            };
            let (found, ()) = tokio::join!(call, async {
                tokio::time::sleep(200 * MILLI).await;
                if is_stalled {
                    stalls.stall(Operation::Get);
                }
            });
            let found = found.map_err(|error| error.kind());
            let expected = if is_stalled { Err(ErrorKind::Timeout) } else { Ok(Some("old".to_owned())) };
            assert_eq!(found, expected, "batch: {is_batch}");
            assert!(started.elapsed() <= SECOND, "{:?}", started.elapsed());
        }
    }
}

/// Another process has found out that there is no value.
#[tokio::test(start_paused = true)]
async fn the_news_that_there_is_no_value_does_not_replace_a_failed_load() {
    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let (found, ()) = tokio::join!(rig.get(Load::Fails(SECOND)), async {
        settle().await;
        let none = || async { Ok::<_, io::Error>(None::<String>) };
        rig.chain.del("k").await.unwrap();
        assert_eq!(rig.chain.get_or_load("k", none).await.unwrap(), None);
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Loader);
}

/// The value expires after it has been read, and before the caller is polled.
#[tokio::test]
async fn a_value_that_expires_while_its_caller_is_not_polled_is_not_served() {
    for fails in [false, true] {
        let (chain, remote, clock) = stale_remote(None).await;
        let asked = remote.calls_of(Operation::Get);
        let mut call: Pin<Box<dyn Future<Output = _> + '_>> = if fails {
            let down = || async { Err::<String, _>(io::Error::other("down")) };
            Box::pin(async move { chain.get_or_load("k", down).await.map(Some) })
        } else {
            let options = CallOptions::new().serve_stale(ServeStale::AtOnce);
            Box::pin(async move { chain.with(&options).get("k").await })
        };
        // The last read is that before the value is served.
        let reads = if fails { 2 } else { 1 };
        while remote.calls_of(Operation::Get) < asked + reads {
            assert!(poll_once(&mut call).await.is_none());
            settle().await;
        }
        clock.advance(MINUTE);
        let found = call.await.map_err(|error| error.kind());
        assert_eq!(found, if fails { Err(ErrorKind::Loader) } else { Ok(None) });
    }
}

//! The modes in which a load of several keys serves stale values.

use std::{
    io,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use crate::support::{settle, stale_value::StaleRig};
use cache_chain::{ErrorKind, ServeStale};
use tokio::time::Instant;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn several_keys_are_waited_for_together() {
    let load = |time: Duration, fails: bool| {
        move |keys: Vec<&'static str>| async move {
            tokio::time::sleep(time).await;
            if fails {
                Err(io::Error::other("down"))
            } else {
                Ok(keys.into_iter().map(|key| (key, format!("new {key}"))))
            }
        }
    };
    // Quick enough for all.
    let rig = StaleRig::new(ServeStale::After(100 * MILLI)).await;
    let found = rig.chain.get_or_load_many(["k", "other"], load(10 * MILLI, false)).await.unwrap();
    assert_eq!(found, [Some("new k".to_owned()), Some("new other".to_owned())]);
    // Not quick enough.
    let rig = StaleRig::new(ServeStale::After(100 * MILLI)).await;
    let started = Instant::now();
    let found = rig.chain.get_or_load_many(["k"], load(SECOND, false)).await.unwrap();
    assert_eq!((found, started.elapsed()), (vec![Some("old".to_owned())], 100 * MILLI));
    assert_eq!(rig.stats().stale_served, 1);
    // A key without a stale value is waited for, and by then the other key is fresh as well.
    let rig = StaleRig::new(ServeStale::After(100 * MILLI)).await;
    let started = Instant::now();
    let found = rig.chain.get_or_load_many(["k", "other"], load(SECOND, false)).await.unwrap();
    assert_eq!(found, [Some("new k".to_owned()), Some("new other".to_owned())]);
    assert_eq!((started.elapsed(), rig.stats().stale_served), (SECOND, 0));
    // Fails.
    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let found = rig.chain.get_or_load_many(["k"], load(SECOND, true)).await.unwrap();
    assert_eq!(found, [Some("old".to_owned())]);
    let failed = rig.chain.get_or_load_many(["other"], load(SECOND, true)).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Loader);
    // Deleted meanwhile.
    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let (found, ()) = tokio::join!(rig.chain.get_or_load_many(["k"], load(SECOND, true)), async {
        settle().await;
        rig.chain.del("k").await.unwrap();
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Loader);
}

/// The error is that of the load, as for a single key.
#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_the_load_of_a_key_that_was_deleted_meanwhile() {
    let rig = StaleRig::new(ServeStale::After(100 * MILLI)).await;
    rig.chain.set_with_ttl("other", "old".to_owned(), MINUTE).await.unwrap();
    rig.clock.advance(MINUTE);
    let started = Instant::now();
    let load = |keys: Vec<&'static str>| async {
        tokio::time::sleep(SECOND).await;
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "new".to_owned())))
    };
    let (found, ()) = tokio::join!(rig.chain.get_or_load_many(["k", "other"], load), async {
        settle().await;
        rig.chain.del("k").await.unwrap();
    });
    assert_eq!(found.unwrap(), [Some("new".to_owned()), Some("old".to_owned())]);
    assert_eq!((started.elapsed(), rig.stats().stale_served), (SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_serves_stale_values_leaves_its_load_running() {
    let rig = StaleRig::new(ServeStale::After(100 * MILLI)).await;
    let load = |keys: Vec<&'static str>| async {
        tokio::time::sleep(SECOND).await;
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "new".to_owned())))
    };
    assert_eq!(rig.chain.get_or_load_many(["k"], load).await.unwrap(), [Some("old".to_owned())]);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_to_the_cooldown() {
    let rig = StaleRig::new(ServeStale::IfLoadFails).await;
    let calls = Arc::clone(&rig.calls);
    let load = move |_: Vec<&'static str>| async move {
        calls.fetch_add(1, SeqCst);
        Err::<[(&'static str, String); 0], _>(io::Error::other("down"))
    };
    for (pause, calls) in [(Duration::ZERO, 1), (SECOND / 2, 1), (SECOND / 2, 2)] {
        rig.clock.advance(pause);
        assert_eq!(rig.chain.get_or_load_many(["k"], load.clone()).await.unwrap(), [Some("old".to_owned())]);
        assert_eq!(rig.calls.load(SeqCst), calls);
    }
}

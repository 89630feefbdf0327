//! `expire`.

use std::{io, pin::pin, time::Duration};

use crate::support::{
    Rig,
    claiming::{Claiming, stale_if_load_fails},
    down, hold_back_get, key, poll_once, settle, stale_rig,
};
use cache_chain::{ChainCache, ErrorKind, ManualClock, ReadThrough, Ttl};
use cache_core::{
    Entry, Expiry, LocalStore, Store as _,
    testkit::{Gate, MapStore, Operation, ScriptedStore},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_expired_value_is_invisible_and_serves_if_the_load_fails() {
    let rig = stale_rig();
    rig.chain.set_with_ttl("k", "v".to_owned(), MINUTE).await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert!(!rig.chain.contains("k").await.unwrap());
    assert_eq!(rig.chain.get_or_load("k", down).await.unwrap(), "v");
    for tier in 0..2 {
        let now = cache_core::Clock::now(&rig.clock);
        let entry = rig.held(tier, "k").unwrap();
        assert!(entry.is_stale(now) && entry.remaining(now) == Ttl::After(60 * MINUTE), "{entry:?}");
    }
    rig.clock.advance(SECOND);
    let new = || async { Ok::<_, io::Error>("new".to_owned()) };
    assert_eq!(rig.chain.get_or_load("k", new).await.unwrap(), "new");
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
}

#[tokio::test]
async fn a_value_without_a_ttl_expires_as_well() {
    let rig = stale_rig();
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    rig.clock.advance(59 * MINUTE);
    assert_eq!(rig.chain.get_or_load("k", down).await.unwrap(), "v");
    rig.clock.advance(MINUTE);
    assert_eq!(rig.chain.get_or_load("k", down).await.unwrap_err().kind(), ErrorKind::Loader);
}

/// To expire it again does not give it a new life.
#[tokio::test]
async fn to_expire_a_stale_value_changes_nothing() {
    let rig = stale_rig();
    rig.chain.set_with_ttl("k", "v".to_owned(), SECOND).await.unwrap();
    rig.clock.advance(30 * MINUTE);
    let before = [rig.held(0, "k"), rig.held(1, "k")];
    rig.chain.expire("k").await.unwrap();
    assert_eq!([rig.held(0, "k"), rig.held(1, "k")], before);
}

/// Each of two processes reads the value before the other has written the stale one.
#[tokio::test]
async fn a_value_that_two_processes_expire_is_kept() {
    let clock = ManualClock::new();
    let shared = ScriptedStore::new(Claiming::with_clock(&clock));
    let [one, two] = [(); 2].map(|()| -> ChainCache<String> {
        let chain = ChainCache::builder().clock(clock.shared()).tier(MapStore::with_clock(clock.shared()));
        chain.tier(shared.clone()).read_through(stale_if_load_fails()).build().unwrap()
    });
    one.set("k", "v".to_owned()).await.unwrap();
    let read = hold_back_get(&shared, 0);
    let second = async {
        settle().await;
        let mut second = pin!(two.expire("k"));
        let is_early = poll_once(&mut second).await.is_some();
        settle().await;
        read.open();
        assert!(!is_early);
        second.await
    };
    let (first, second) = tokio::join!(one.expire("k"), second);
    first.and(second).unwrap();
    for chain in [one, two] {
        assert_eq!(chain.get("k").await.unwrap(), None);
        assert_eq!(chain.get_or_load("k", down).await.unwrap(), "v");
    }
    assert_eq!(shared.inner().claimed(), 0);
}

/// A process that has died while it made the value stale holds up the others for a while only.
#[tokio::test(start_paused = true)]
async fn a_value_expires_although_another_process_does_not_end() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let chain: ChainCache<String> = ChainCache::builder()
        .clock(clock.shared())
        .tier(shared.clone())
        .read_through(stale_if_load_fails())
        .build()
        .unwrap();
    chain.set("k", "v".to_owned()).await.unwrap();
    assert!(shared.claim(&key("\0expire:k")).await.unwrap().granted);
    chain.expire("k").await.unwrap();
    assert_eq!(chain.get("k").await.unwrap(), None);
    assert_eq!(chain.get_or_load("k", down).await.unwrap(), "v");
}

#[tokio::test]
async fn without_a_stale_window_to_expire_is_to_delete() {
    let rig = Rig::new(2);
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!((rig.held(0, "k"), rig.held(1, "k")), (None, None));
}

#[tokio::test]
async fn the_news_that_there_is_no_value_is_deleted_by_expire() {
    let rig = stale_rig();
    let none = || async { Ok::<_, io::Error>(None::<String>) };
    assert_eq!(rig.chain.get_or_load("k", none).await.unwrap(), None);
    rig.chain.wait().await.unwrap();
    rig.chain.expire("k").await.unwrap();
    assert_eq!((rig.held(0, "k"), rig.held(1, "k")), (None, None));
}

/// A load or a backfill that began before does not bring the value back as fresh.
#[tokio::test]
async fn what_began_before_it_was_expired_does_not_make_it_fresh() {
    let rig = stale_rig();
    let gate = Gate::default();
    rig.chain.set("loaded", "v".to_owned()).await.unwrap();
    rig.chain.del("loaded").await.unwrap();
    let load = {
        let (chain, gate) = (rig.chain.clone(), gate.clone());
        let load = move || async move {
            gate.passed().await;
            Ok::<_, io::Error>("old".to_owned())
        };
        tokio::spawn(async move { chain.get_or_load("loaded", load).await })
    };
    settle().await;
    rig.chain.expire("loaded").await.unwrap();
    gate.open();
    assert_eq!(load.await.unwrap().unwrap(), "old");
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.get("loaded").await.unwrap(), None);

    rig.put(1, "read", "v", Expiry::Never);
    let gate = rig.stores[0].stall(Operation::Fill);
    assert_eq!(rig.chain.get("read").await.unwrap().as_deref(), Some("v"));
    settle().await;
    rig.chain.expire("read").await.unwrap();
    gate.open();
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.get("read").await.unwrap(), None);
}

/// The write came between the read and the write of `expire`, and is newer than what it expires.
#[tokio::test]
async fn expire_does_not_replace_a_newer_value() {
    let rig = stale_rig();
    rig.chain.set("k", "old".to_owned()).await.unwrap();
    let gate = rig.stores[1].stall(Operation::Set);
    let expire = {
        let chain = rig.chain.clone();
        tokio::spawn(async move { chain.expire("k").await })
    };
    settle().await;
    let other = ChainCache::builder().clock(rig.clock.shared()).tier(rig.stores[1].inner().clone()).build().unwrap();
    other.set("k", "new".to_owned()).await.unwrap();
    gate.open();
    expire.await.unwrap().unwrap();
    let below = rig.value(1, "k");
    assert!(below.as_deref().is_none_or(|value| value == "new"), "{below:?}");
    assert_ne!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
}

#[tokio::test]
async fn where_expire_fails_the_key_is_deleted_later() {
    let rig = stale_rig();
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.stores[1].fail(Operation::Set, ErrorKind::Unavailable);
    let error = rig.chain.expire("k").await.unwrap_err();
    assert!(error.will_be_repaired(), "{error:#}");
    rig.stores[1].heal();
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(1, "k"), None);
}

/// The data itself is not expired.
#[tokio::test]
async fn an_origin_keeps_its_value() {
    let origin = cache_core::Origin::new(|_| async { Ok::<_, io::Error>(Some("v".to_owned())) })
        .write_through(|_, _: String| async { Err(io::Error::other("must not be called")) })
        .del_through(|_| async { Err(io::Error::other("must not be called")) });
    let memory = MapStore::new();
    let chain = ChainCache::builder()
        .tier(memory.clone())
        .tier(origin)
        .read_through(ReadThrough::new().stale_for(MINUTE))
        .build()
        .unwrap();
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("v"));
    chain.wait().await.unwrap();
    chain.expire("k").await.unwrap();
    let now = cache_core::SystemClock::shared().now();
    assert!(LocalStore::get(&memory, &key("k")).is_none_or(|entry: Entry<String>| entry.is_stale(now)));
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("v"), "from the origin");
}

//! Claims of keys that are loaded again while their old value is served.

use std::{io, time::Duration};

use crate::support::{
    claiming::{Claiming, load, load_slowly, process_pair, set_stale, stale_if_load_fails},
    key, open_gate, owned, settle,
};
use cache_chain::{ChainCache, Loaded, ManualClock, ReadThrough, ServeStale};
use cache_core::{
    Entry, Expiry, LocalStore, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, ScriptedStore},
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_stale_value_is_loaded_once_by_all_processes() {
    for mode in [ServeStale::AtOnce, ServeStale::After(SECOND), ServeStale::IfLoadFails] {
        let clock = ManualClock::new();
        let shared = Claiming::with_clock(&clock);
        let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(mode);
        let [one, two] = process_pair(&shared, &clock, &settings);
        one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
        assert_eq!(two.get("k").await.unwrap().as_deref(), Some("old"));
        two.wait().await.unwrap();
        clock.advance(SECOND);
        let gate = Gate::default();
        let release = async {
            settle().await;
            tokio::time::sleep(SECOND / 10).await;
            assert_eq!(shared.claimed(), 1, "{mode:?}");
            gate.open();
        };
        let (first, second, ()) = tokio::join!(load(&one, "new", &gate), load(&two, "never", &gate), release);
        let expected = if mode == ServeStale::AtOnce { "old" } else { "new" };
        assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), (expected, expected));
        tokio::time::sleep(SECOND).await;
        let fresh = [one.get("k").await.unwrap(), two.get("k").await.unwrap()];
        assert_eq!(fresh.map(Option::unwrap), ["new", "new"], "{mode:?}");
        let loads = [&one, &two].map(|chain| chain.stats().loads);
        assert_eq!((loads[0].started, loads[1].started, loads[1].loaded_by_peer), (1, 0, 1), "{mode:?}");
        assert_eq!(shared.claimed(), 0, "the claim is returned when the value is stored");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_about_to_expire_is_loaded_once_by_all_processes() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    // So eager that every hit is a refresh.
    let settings = ReadThrough::new().early_refresh(1e6);
    let [one, two] = process_pair(&shared, &clock, &settings);
    load_slowly(&one, &clock).await;
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("old"));
    two.wait().await.unwrap();
    clock.advance(30 * SECOND);
    let gate = Gate::default();
    assert_eq!(load(&one, "new", &gate).await.unwrap(), "old");
    settle().await;
    assert_eq!(load(&two, "never", &gate).await.unwrap(), "old");
    settle().await;
    gate.open();
    tokio::time::sleep(SECOND).await;
    let fresh = [one.get("k").await.unwrap(), two.get("k").await.unwrap()];
    assert_eq!(fresh.map(Option::unwrap), ["new", "new"]);
    let loads = [&one, &two].map(|chain| chain.stats().loads);
    assert_eq!((loads[0].started, loads[1].started, loads[1].loaded_by_peer), (2, 0, 1));
    assert_eq!(shared.claimed(), 0);
}

/// The peer ended its load between this process's look and its claim.
#[tokio::test(start_paused = true)]
async fn a_refresh_with_a_granted_claim_looks_again() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let [one, _] = process_pair(&shared, &clock, &stale_if_load_fails());
    set_stale(&one, &clock).await;
    let gate = open_gate();
    shared.store_on_claim(Entry::new(owned("theirs"), Expiry::Never));
    assert_eq!(load(&one, "ours", &gate).await.unwrap(), "theirs");
    assert_eq!((one.stats().loads.started, one.stats().loads.loaded_by_peer), (0, 1));
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

/// A failed refresh leaves the claim to another process, and the value to all.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_returns_its_claim() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let settings = ReadThrough::new().stale_for(60 * SECOND);
    let [one, two] = process_pair(&shared, &clock, &settings);
    set_stale(&one, &clock).await;
    let down = || async { Err::<String, _>(io::Error::other("down")) };
    assert_eq!(one.get_or_load("k", down).await.unwrap(), "old");
    settle().await;
    assert_eq!(shared.claimed(), 0);
    let gate = open_gate();
    assert_eq!(load(&two, "new", &gate).await.unwrap(), "old");
    settle().await;
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("new"));
}

/// Before, a peer would not find the value, and load again.
#[tokio::test(start_paused = true)]
async fn the_claim_of_a_refresh_is_held_until_the_value_is_stored() {
    for has_memory in [false, true] {
        let clock = ManualClock::new();
        let shared = Claiming::with_clock(&clock);
        let remote = ScriptedStore::new(shared.clone());
        let settings = stale_if_load_fails();
        let builder = ChainCache::builder().clock(clock.shared());
        let builder = if has_memory { builder.tier(MapStore::with_clock(clock.shared())) } else { builder };
        let chain = builder.tier(remote.clone()).read_through(settings).build().unwrap();
        set_stale(&chain, &clock).await;
        let gate = remote.stall(Operation::Fill);
        let open = open_gate();
        assert_eq!(load(&chain, "new", &open).await.unwrap(), "new");
        settle().await;
        assert_eq!(shared.claimed(), 1, "memory: {has_memory}");
        gate.open();
        settle().await;
        assert_eq!(shared.claimed(), 0);
    }
}

/// The key of the marker would be too long, so each process loads by itself.
#[tokio::test(start_paused = true)]
async fn a_key_of_the_greatest_length_is_refreshed_without_a_claim() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let [one, _] = process_pair(&shared, &clock, &stale_if_load_fails());
    let long: &'static str = "k".repeat(64 * 1024).leak();
    for is_batch in [false, true] {
        one.set_with_ttl(long, "old".to_owned(), SECOND).await.unwrap();
        clock.advance(SECOND);
        let claims = shared.clone();
        let value = if is_batch {
            let load = move |keys: Vec<&'static str>| async move {
                assert_eq!(claims.claimed(), 0);
                Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "new".to_owned())))
            };
            one.get_or_load_many([long], load).await.unwrap().pop().unwrap().unwrap()
        } else {
            let load = move || async move {
                assert_eq!(claims.claimed(), 0);
                Ok::<_, io::Error>("new".to_owned())
            };
            one.get_or_load(long, load).await.unwrap()
        };
        assert_eq!(value, "new");
    }
}

/// Two copies of one entry differ a little in age.
#[tokio::test(start_paused = true)]
async fn another_copy_of_a_value_about_to_expire_is_no_newer_one() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let [one, _] = process_pair(&shared, &clock, &ReadThrough::new().early_refresh(1e6));
    load_slowly(&one, &clock).await;
    let entry = LocalStore::get(&shared.map, &key("k")).unwrap();
    let copy = |age: Duration| entry.clone().created_at(entry.created().unwrap().plus(age));
    for (difference, is_newer) in [(Duration::from_millis(50), false), (Duration::from_millis(51), true)] {
        let write = Write::new(key("k"), copy(difference), Ticket::unconditional());
        Store::set(&shared.map, write).await.unwrap();
        let before = one.stats().loads;
        let failing = || async { Err::<Loaded<String>, _>(io::Error::other("down")) };
        assert_eq!(one.get_or_load("k", failing).await.unwrap().as_deref(), Some("old"));
        settle().await;
        let loads = one.stats().loads;
        let (started, by_peer) = (loads.started - before.started, loads.loaded_by_peer - before.loaded_by_peer);
        assert_eq!((started, by_peer), if is_newer { (0, 1) } else { (1, 0) }, "{difference:?}");
        // The cooldown.
        clock.advance(SECOND);
    }
}

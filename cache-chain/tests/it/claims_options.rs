//! Claims of calls with options: a limited age, reloads, tiers left out.

use std::{io, time::Duration};

use crate::support::{
    claiming::{Claiming, load_with, process, process_pair, set_stale, stale_if_load_fails},
    each, key, owned, settle,
};
use cache_chain::{CallOptions, ChainCache, ManualClock, ReadThrough};
use cache_core::{Entry, Expiry, LocalStore};

const SECOND: Duration = Duration::from_secs(1);

/// A claim is a write, and its holder reads the key once more.
#[tokio::test(start_paused = true)]
async fn a_tier_that_a_call_leaves_out_grants_it_no_claim() {
    for is_stale in [false, true] {
        let clock = ManualClock::new();
        let shared = Claiming::with_clock(&clock);
        let [one, other] = process_pair(&shared, &clock, &stale_if_load_fails());
        if is_stale {
            set_stale(&one, &clock).await;
        }
        let loader = |value: &'static str| move || async move { Ok::<_, io::Error>(value.to_owned()) };
        // The tier has a fresh value, which is not asked for.
        other.set("k", "theirs".to_owned()).await.unwrap();
        other.set("b", "theirs".to_owned()).await.unwrap();
        let unread = CallOptions::new().skip_read("L2 map");
        assert_eq!(one.with(&unread).get_or_load("k", loader("ours")).await.unwrap(), "ours", "stale: {is_stale}");
        assert_eq!(
            one.with(&unread).get_or_load_many(["b"], each(owned("ours"))).await.unwrap(),
            [Some("ours".to_owned())]
        );
        assert_eq!(one.stats().loads.loaded_by_peer, 0);
        // Nothing is written there, a claim included.
        one.clear().await.unwrap();
        let unwritten = CallOptions::new().skip_write("L2 map");
        let claims = shared.claimed();
        shared.on_claim(|| panic!("it is claimed"));
        assert_eq!(one.with(&unwritten).get_or_load("k", loader("ours")).await.unwrap(), "ours");
        assert_eq!(
            one.with(&unwritten).get_or_load_many(["b"], each(owned("ours"))).await.unwrap(),
            [Some("ours".to_owned())]
        );
        one.wait().await.unwrap();
        for name in ["k", "b"] {
            assert_eq!(LocalStore::get(&shared.map, &key(name)), None, "{name}");
        }
        assert_eq!(shared.claimed(), claims);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_of_a_limited_age_is_loaded_once_by_all_processes_if_no_tier_has_one() {
    let shared = Claiming::default();
    let recent = CallOptions::new().max_age(60 * SECOND);
    for is_batch in [false, true] {
        let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new()));
        one.clear().await.unwrap();
        let load = async |chain: &ChainCache<String>, value: &'static str| {
            if is_batch {
                let load = move |keys: Vec<&'static str>| async move {
                    tokio::time::sleep(SECOND).await;
                    Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, value.to_owned())))
                };
                chain.with(&recent).get_or_load_many(["k"], load).await.unwrap().pop().unwrap().unwrap()
            } else {
                let load = move || async move {
                    tokio::time::sleep(SECOND).await;
                    Ok::<_, io::Error>(value.to_owned())
                };
                chain.with(&recent).get_or_load("k", load).await.unwrap()
            }
        };
        let (first, second) = tokio::join!(load(&one, "one"), async {
            settle().await;
            load(&two, "two").await
        });
        assert_eq!((first.as_str(), second.as_str()), ("one", "one"), "batch: {is_batch}");
        let loads = [&one, &two].map(|chain| chain.stats().loads);
        assert_eq!((loads[0].started, loads[1].started, loads[1].loaded_by_peer), (1, 0, 1));
        assert_eq!((loads[0].reloads, loads[1].reloads), (0, 0));
        settle().await;
        assert_eq!(shared.claimed(), 0);
    }
}

/// The value that the peer has loaded is too old for this call.
#[tokio::test(start_paused = true)]
async fn the_value_of_a_peer_has_to_be_young_enough() {
    let clock = ManualClock::new();
    let shared = Claiming::with_clock(&clock);
    let [one, _] = process_pair(&shared, &clock, &ReadThrough::new());
    let made = cache_core::Clock::now(&clock);
    clock.advance(60 * SECOND);
    for is_batch in [false, true] {
        shared.store_on_claim(Entry::new(owned("theirs"), Expiry::Never).created_at(made));
        let recent = CallOptions::new().max_age(SECOND);
        let value = load_with(&one, &recent, is_batch, "ours").await;
        assert_eq!(value, "ours", "batch: {is_batch}");
        one.clear().await.unwrap();
        settle().await;
        assert_eq!(shared.claimed(), 0);
    }
}

/// It must load, whatever other processes do.
#[tokio::test(start_paused = true)]
async fn a_reload_claims_nothing() {
    for options in [CallOptions::new().reload(), CallOptions::new().max_age(SECOND)] {
        for is_batch in [false, true] {
            let clock = ManualClock::new();
            let shared = Claiming::with_clock(&clock);
            let [one, _] = process_pair(&shared, &clock, &ReadThrough::new());
            one.set("k", "old".to_owned()).await.unwrap();
            clock.advance(60 * SECOND);
            shared.on_claim(|| panic!("it is claimed"));
            assert_eq!(load_with(&one, &options, is_batch, "new").await, "new");
        }
    }
}

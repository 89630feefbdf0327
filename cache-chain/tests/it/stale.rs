//! Soft and hard deadlines (G4), absence, jitter and early refresh, on a manual clock.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::settle;
use cache_chain::{ChainCache, ErrorKind, Loaded, ReadThrough, Source, Ttl};
use cache_core::{
    Clock, Key, LocalStore, ManualClock,
    testkit::{Gate, MapStore, ScriptedStore},
};
use proptest::prelude::*;

const TICK: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A chain of memory over a scripted store, on a manual clock, and a loader that brings the number
/// of its call.
struct Rig {
    chain: ChainCache<usize>,
    memory: MapStore<usize>,
    lower: ScriptedStore<MapStore<usize>>,
    clock: ManualClock,
    calls: Arc<AtomicUsize>,
    failing: Arc<AtomicUsize>,
}

impl Rig {
    fn new(settings: ReadThrough) -> Self {
        Self::with(settings, 0.0)
    }

    fn with(settings: ReadThrough, jitter: f64) -> Self {
        let clock = ManualClock::new();
        let memory = MapStore::with_clock(clock.shared());
        let lower = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let chain = ChainCache::builder()
            .clock(clock.shared())
            .tier(memory.clone())
            .tier(lower.clone())
            .default_ttl(MINUTE)
            .jitter(jitter)
            .read_through(settings)
            .build()
            .unwrap();
        Self { chain, memory, lower, clock, calls: Arc::default(), failing: Arc::default() }
    }

    /// The call's number, 1 for the first, which takes a second by the clock; an error if it is to
    /// fail.
    fn load(
        &self,
    ) -> impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = io::Result<usize>> + Send>> + Send + use<> {
        let (calls, failing, clock) = (Arc::clone(&self.calls), Arc::clone(&self.failing), self.clock.clone());
        move || {
            Box::pin(async move {
                clock.advance(SECOND);
                let call = 1 + calls.fetch_add(1, SeqCst);
                if failing.load(SeqCst) > 0 { Err(io::Error::other("down")) } else { Ok(call) }
            })
        }
    }

    async fn get_or_load(&self) -> (usize, bool) {
        let outcome = self.chain.get_or_load_detailed("k", self.load()).await.unwrap();
        settle().await;
        (outcome.value.unwrap(), outcome.stale)
    }
}

fn stale_for_an_hour() -> ReadThrough {
    ReadThrough::new().stale_for(60 * MINUTE)
}

#[tokio::test]
async fn past_its_soft_deadline_a_value_is_served_stale_and_loaded_once() {
    let rig = Rig::new(stale_for_an_hour());
    assert_eq!(rig.get_or_load().await, (1, false));
    rig.clock.advance(MINUTE.saturating_sub(TICK));
    assert_eq!(rig.get_or_load().await, (1, false));
    rig.clock.advance(TICK);
    assert_eq!(rig.get_or_load().await, (1, true), "served at once");
    assert_eq!(rig.calls.load(SeqCst), 2, "and loaded in the background");
    assert_eq!(rig.get_or_load().await, (2, false));
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.refreshes, stats.stale_served, stats.in_flight), (2, 1, 1, 0));
    rig.chain.wait().await.unwrap();
    let below = LocalStore::get(rig.lower.inner(), &Key::new("k").unwrap()).unwrap();
    assert_eq!(below.value(), Some(&2), "the tier below has the new value, too");
}

#[tokio::test]
async fn a_refresh_is_shared() {
    let (rig, gate) = (Rig::new(stale_for_an_hour()), Gate::default());
    assert_eq!(rig.get_or_load().await, (1, false));
    rig.clock.advance(MINUTE);
    for _ in 0..100 {
        let (calls, gate) = (Arc::clone(&rig.calls), gate.clone());
        let load = move || async move {
            calls.fetch_add(1, SeqCst);
            gate.passed().await;
            Ok::<_, io::Error>(2)
        };
        assert_eq!(rig.chain.get_or_load("k", load).await.unwrap(), 1);
    }
    settle().await;
    assert_eq!((rig.calls.load(SeqCst), rig.chain.stats().loads.in_flight), (2, 1));
    gate.open();
    settle().await;
    assert_eq!(rig.get_or_load().await, (2, false));
}

/// Whoever asks without a loader gets nothing that should have been replaced.
#[tokio::test]
async fn get_serves_nothing_stale() {
    let rig = Rig::new(stale_for_an_hour());
    rig.chain.set_with_ttl("k", 7, SECOND).await.unwrap();
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), Some((7, Ttl::After(SECOND))));
    rig.clock.advance(SECOND);
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap(), None);
    assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [None]);
    assert_eq!(rig.chain.get_detailed("k").await.unwrap().source, Source::Nowhere);
    assert_eq!(rig.get_or_load().await, (7, true), "it is still there for who can have it loaded");
}

#[tokio::test]
async fn what_is_stale_above_and_fresh_below_is_not_loaded() {
    let rig = Rig::new(stale_for_an_hour());
    assert_eq!(rig.get_or_load().await, (1, false));
    rig.chain.wait().await.unwrap();
    rig.clock.advance(MINUTE);
    // Another process has loaded it.
    let other = ChainCache::builder().clock(rig.clock.shared()).tier(rig.lower.inner().clone()).build().unwrap();
    other.set_with_ttl("k", 42, MINUTE).await.unwrap();
    assert_eq!(rig.get_or_load().await, (1, true));
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.get_or_load().await, (42, false));
    assert_eq!(rig.calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_stale_value_below_is_served_and_loaded() {
    let rig = Rig::new(stale_for_an_hour());
    assert_eq!(rig.get_or_load().await, (1, false));
    rig.chain.wait().await.unwrap();
    drop(LocalStore::remove(&rig.memory, &Key::new("k").unwrap()).unwrap());
    rig.clock.advance(MINUTE);
    let outcome = rig.chain.get_or_load_detailed("k", rig.load()).await.unwrap();
    assert_eq!((outcome.value, outcome.source, outcome.stale), (Some(1), Source::Tier("L2 map".into()), true));
    settle().await;
    assert_eq!(rig.get_or_load().await, (2, false));
}

#[tokio::test]
async fn g4_a_failing_loader_is_left_alone_and_nothing_is_served_past_the_hard_deadline() {
    let rig = Rig::new(ReadThrough::new().stale_for(MINUTE).failure_cooldown(10 * SECOND));
    assert_eq!(rig.get_or_load().await, (1, false));
    let loaded_at = rig.clock.now();
    rig.failing.store(1, SeqCst);
    rig.clock.advance(MINUTE);
    let mut calls = Vec::new();
    while rig.clock.now().since(loaded_at) < 2 * MINUTE {
        let before = rig.calls.load(SeqCst);
        assert_eq!(rig.get_or_load().await, (1, true));
        if rig.calls.load(SeqCst) > before {
            calls.push(rig.clock.now());
        }
        rig.clock.advance(SECOND);
    }
    assert!(calls.len() >= 4, "it is tried again and again: {calls:?}");
    for pair in calls.windows(2) {
        assert!(pair[1].since(pair[0]) >= 10 * SECOND, "but not too often: {calls:?}");
    }
    let error = rig.chain.get_or_load("k", rig.load()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Loader, "past the hard deadline there is nothing to serve");
    rig.failing.store(0, SeqCst);
    assert!(!rig.get_or_load().await.1);
}

/// The deletion is what its caller asked for.
#[tokio::test]
async fn a_deleted_value_is_not_served_stale() {
    let rig = Rig::new(stale_for_an_hour());
    assert_eq!(rig.get_or_load().await, (1, false));
    rig.clock.advance(MINUTE);
    rig.failing.store(1, SeqCst);
    rig.chain.del("k").await.unwrap();
    assert_eq!(rig.chain.get_or_load("k", rig.load()).await.unwrap_err().kind(), ErrorKind::Loader);
}

#[tokio::test]
async fn the_time_that_a_load_took_is_kept_with_its_value() {
    let rig = Rig::new(ReadThrough::new().early_refresh(1.0));
    assert_eq!(rig.get_or_load().await, (1, false));
    let entry = LocalStore::get(&rig.memory, &Key::new("k").unwrap()).unwrap();
    assert_eq!((entry.load_time(), entry.turns_stale()), (SECOND, false), "the load took a second by the clock");
}

/// `XFetch`: with a load of a second and a factor of 1, a value is due a second before its end with
/// a chance of 1/e, ten seconds before it with one of 1/22026, and a minute before it never, as
/// good as.
#[tokio::test]
async fn early_refresh_is_likely_towards_the_end_and_only_then() {
    let mut refreshed = [0; 3];
    let rounds = 2000;
    for _ in 0..rounds {
        for (at, before_end) in [MINUTE, 10 * SECOND, SECOND].into_iter().enumerate() {
            let rig = Rig::new(ReadThrough::new().early_refresh(1.0));
            rig.chain.get_or_load("k", rig.load()).await.unwrap();
            rig.clock.advance(MINUTE.saturating_sub(before_end));
            rig.chain.get_or_load("k", rig.load()).await.unwrap();
            refreshed[at] += rig.chain.stats().loads.refreshes;
        }
    }
    // 1/e of 2000 is 736; ten standard deviations are 216.
    assert!((520..950).contains(&refreshed[2]), "{refreshed:?}");
    assert!(refreshed[0] == 0 && refreshed[1] <= 5, "{refreshed:?}");
}

#[tokio::test]
async fn without_early_refresh_nothing_is_loaded_before_its_end() {
    let rig = Rig::new(ReadThrough::new());
    assert_eq!(rig.get_or_load().await, (1, false));
    rig.clock.advance(MINUTE.saturating_sub(TICK));
    for _ in 0..1000 {
        assert_eq!(rig.get_or_load().await, (1, false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// At any time: fresh before the soft deadline, stale up to the hard one, gone from then on;
    /// and for `get` gone from the soft one on. Jitter shortens all of that and never lengthens it.
    #[test]
    fn soft_and_hard_deadlines_and_jitter(
        ttl in 1..100_000_u64,
        stale_for in 0..100_000_u64,
        jitter in prop_oneof![Just(0.0), 0.0..=1.0],
        elapsed in 0..250_000_u64,
        negative: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let [ttl, stale_for, elapsed] = [ttl, stale_for, elapsed].map(Duration::from_millis);
            let rig = Rig::with(ReadThrough::new().stale_for(stale_for), jitter);
            let loaded = if negative { Loaded::absent() } else { Loaded::new(1) }.ttl(ttl);
            let first = rig.chain.get_or_load("k", move || async move { Ok::<_, io::Error>(loaded) }).await.unwrap();
            prop_assert_eq!(first, (!negative).then_some(1));
            let entry = LocalStore::get(&rig.memory, &Key::new("k").unwrap()).unwrap();
            let now = rig.clock.now();
            let soft = entry.stale_at().remaining(now).as_duration().unwrap();
            let hard = entry.remaining(now).as_duration().unwrap();
            prop_assert!(soft <= ttl && hard <= ttl + stale_for, "{:?} {:?}", soft, hard);
            prop_assert!(soft > Duration::ZERO && soft >= ttl.mul_f64(1.0 - jitter).saturating_sub(10 * TICK));
            // That there is nothing is not served stale.
            prop_assert_eq!(hard, if negative { soft } else { soft + stale_for });
            if jitter == 0.0 {
                prop_assert_eq!(soft, ttl);
            }

            rig.clock.advance(elapsed);
            let plain = rig.chain.get("k").await.unwrap();
            prop_assert_eq!(plain, (!negative && elapsed < soft).then_some(1));
            let outcome = rig.chain.get_or_load_detailed("k", || async { Ok::<_, io::Error>(Some(2)) }).await.unwrap();
            let expected = match elapsed {
                elapsed if elapsed < soft => ((!negative).then_some(1), false),
                elapsed if elapsed < hard => (Some(1), true),
                _ => (Some(2), false),
            };
            prop_assert_eq!((outcome.value, outcome.stale), expected);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn jitter_is_drawn_for_each_key_of_a_batch() {
    let rig = Rig::with(ReadThrough::new(), 0.5);
    let keys: Vec<String> = (0..100).map(|at| format!("k{at}")).collect();
    rig.chain.set_many(keys.iter().map(|key| (key.as_str(), 1))).await.unwrap();
    let life = |key: &String| {
        let entry = LocalStore::get(&rig.memory, &Key::new(key.as_str()).unwrap()).unwrap();
        entry.remaining(rig.clock.now()).as_duration()
    };
    let mut lives: Vec<_> = keys.iter().map(life).collect();
    lives.sort();
    lives.dedup();
    // Drawn at random from 3 * 10^10 nanoseconds.
    assert!(lives.len() > 90, "100 keys have {} different lives", lives.len());
}

/// A refresh that brings something uncacheable ends the stale value, in memory and below.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_not_to_be_cached_removes_the_stale_value() {
    for (absent, batch) in [(false, false), (true, false), (false, true), (true, true)] {
        let rig = Rig::new(stale_for_an_hour());
        rig.chain.set("k", 7).await.unwrap();
        rig.clock.advance(2 * MINUTE);
        let calls = Arc::new(AtomicUsize::new(0));
        let get = async || {
            let calls = Arc::clone(&calls);
            let load = move || async move {
                calls.fetch_add(1, SeqCst);
                let loaded = if absent { Loaded::absent() } else { Loaded::new(8) };
                Ok::<_, io::Error>(loaded.uncached())
            };
            let found = if batch {
                let load = move |keys: Vec<&'static str>| async move { Ok::<_, io::Error>([(keys[0], load().await?)]) };
                rig.chain.get_or_load_many(["k"], load).await.unwrap().remove(0)
            } else {
                rig.chain.get_or_load("k", load).await.unwrap()
            };
            settle().await;
            rig.chain.wait().await.unwrap();
            found
        };
        assert_eq!(get().await, Some(7), "the stale value is served while the refresh begins");
        let expected = if absent { None } else { Some(8) };
        for _ in 0..3 {
            assert_eq!(get().await, expected, "absent: {absent}, batch: {batch}");
        }
        assert_eq!(calls.load(SeqCst), 4, "one load for each caller, none of them wasted");
        let key = Key::new("k").unwrap();
        assert!(LocalStore::get(&rig.memory, &key).is_none());
        assert!(LocalStore::get(rig.lower.inner(), &key).is_none_or(|entry| entry.is_absent()));
    }
}

/// A write during the refresh is newer than what the refresh found.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_not_to_be_cached_removes_no_newer_value() {
    let rig = Rig::new(stale_for_an_hour());
    rig.chain.set("k", 7).await.unwrap();
    rig.clock.advance(2 * MINUTE);
    let gate = Gate::default();
    let passed = gate.passed();
    let load = || async move {
        passed.await;
        Ok::<_, io::Error>(Loaded::new(8).uncached())
    };
    assert_eq!(rig.chain.get_or_load("k", load).await.unwrap(), Some(7));
    settle().await;
    rig.chain.set("k", 9).await.unwrap();
    gate.open();
    settle().await;
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.chain.get("k").await.unwrap(), Some(9));
    let below = LocalStore::get(rig.lower.inner(), &Key::new("k").unwrap()).and_then(cache_core::Entry::into_value);
    assert_eq!(below, Some(9));
}

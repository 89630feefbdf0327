//! One load for several processes: chains over a store that grants claims.

mod support;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded, ManualClock, ReadThrough, ServeStale};
use cache_core::{
    Claim, Entry, Expiry, Key, LocalStore, Profile, Result, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, ScriptedStore},
};
use support::{key, settle};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// A remote store that grants one claim per key, until it is released or a value has come.
#[derive(Clone, Default)]
struct Claiming {
    map: MapStore<String>,
    claims: Arc<Mutex<HashMap<Key, Ticket>>>,
    /// What another process stores just before the next claim.
    arriving: Arc<Mutex<Option<String>>>,
    /// Runs just before the next claim.
    on_claim: Arc<Mutex<Option<OnClaim>>>,
    renewals: Arc<Mutex<Vec<Key>>>,
}

type OnClaim = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Claiming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claiming").field("claimed", &self.claimed()).finish_non_exhaustive()
    }
}

impl Claiming {
    fn claimed(&self) -> usize {
        self.claims.lock().unwrap().len()
    }
}

impl Store for Claiming {
    type Value = String;

    fn profile(&self) -> Profile {
        Store::profile(&self.map).claims(true)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        Store::get(&self.map, key).await
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        Store::lease(&self.map, key).await
    }

    async fn renew_claims(&self, claims: &[(Key, Ticket)], _life: Duration) -> Result<()> {
        self.renewals.lock().unwrap().extend(claims.iter().map(|(key, _)| key.clone()));
        Ok(())
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        if let Some(on_claim) = self.on_claim.lock().unwrap().take() {
            on_claim();
        }
        if let Some(value) = self.arriving.lock().unwrap().take() {
            drop(self.map.insert(key, Entry::new(value, Expiry::Never), 0)?);
        }
        let ticket = Store::lease(&self.map, key).await?;
        let granted = self.claims.lock().unwrap().insert(key.clone(), ticket).is_none();
        let vacant = LocalStore::get(&self.map, key).is_none();
        Ok(if granted { Claim::granted(ticket).vacant(vacant) } else { Claim::refused(ticket) })
    }

    async fn release(&self, key: &Key, _ticket: Ticket) -> Result<()> {
        self.claims.lock().unwrap().remove(key);
        Ok(())
    }

    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.claims.lock().unwrap().remove(&write.key);
        Store::fill(&self.map, write).await
    }

    async fn set(&self, write: Write<String>) -> Result<()> {
        Store::set(&self.map, write).await
    }

    async fn del(&self, key: &Key) -> Result<()> {
        Store::del(&self.map, key).await
    }

    async fn clear(&self) -> Result<()> {
        Store::clear(&self.map).await
    }

    async fn wait(&self) -> Result<()> {
        Store::wait(&self.map).await
    }
}

/// A process: its own memory in front of the shared store.
fn process(shared: &Claiming, settings: ReadThrough) -> ChainCache<String> {
    ChainCache::builder().tier(MapStore::new()).tier(shared.clone()).read_through(settings).build().unwrap()
}

async fn load(chain: &ChainCache<String>, value: &'static str, gate: &Gate) -> Result<String> {
    let gate = gate.clone();
    let load = move || async move {
        gate.passed().await;
        Ok::<_, io::Error>(value.to_owned())
    };
    chain.get_or_load("k", load).await
}

#[tokio::test(start_paused = true)]
async fn a_process_waits_for_what_another_loads() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new().peer_wait(Duration::MAX)));
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let second = async {
        settle().await;
        load(&two, "two", &open).await
    };
    let (first, second, ()) = tokio::join!(load(&one, "one", &gate), second, async {
        tokio::time::sleep(5 * SECOND).await;
        gate.open();
    });
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "one"));
    let loads = [&one, &two].map(|chain| chain.stats().loads);
    assert_eq!((loads[0].started, loads[0].loaded_by_peer), (1, 0));
    assert_eq!((loads[1].started, loads[1].loaded_by_peer), (0, 1));
    two.wait().await.unwrap();
    assert_eq!(
        two.get_detailed("k").await.unwrap().source,
        cache_chain::Source::Tier("L1 map".into()),
        "it is filled above"
    );
    assert_eq!(shared.claimed(), 0);
}

/// The other process has released its claim by then, so this one is granted.
#[tokio::test]
async fn a_granted_claim_looks_again_unless_the_key_was_vacant() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new());
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    *shared.arriving.lock().unwrap() = Some("theirs".to_owned());
    assert_eq!(load(&chain, "ours", &gate).await.unwrap(), "theirs");
    let loads = chain.stats().loads;
    assert_eq!((loads.started, loads.loaded_by_peer), (0, 1));
    settle().await;
    assert_eq!(shared.claimed(), 0, "the claim is returned");
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new().peer_wait(SECOND)));
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let started = Instant::now();
    let second = async {
        settle().await;
        let value = load(&two, "two", &open).await;
        let waited = started.elapsed();
        gate.open();
        (value, waited)
    };
    let (first, (second, waited)) = tokio::join!(load(&one, "one", &gate), second);
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "two"));
    assert!(waited > SECOND / 2 && waited <= SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn without_patience_nothing_is_claimed() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new().no_peer_wait());
    let gate = Gate::default();
    let claimed = async {
        settle().await;
        let claimed = shared.claimed();
        gate.open();
        claimed
    };
    let (value, claimed) = tokio::join!(load(&chain, "v", &gate), claimed);
    assert_eq!((value.unwrap().as_str(), claimed), ("v", 0));
}

/// A claim is given back by a load that fails, brings nothing to keep, or is given up.
#[tokio::test(start_paused = true)]
async fn a_claim_is_given_back_where_nothing_comes() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new());
    let failed = chain.get_or_load("k", || async { Err::<String, _>(io::Error::other("no")) }).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Loader);
    settle().await;
    assert_eq!(shared.claimed(), 0);

    let passing = chain.get_or_load("k", || async { Ok::<_, io::Error>(Loaded::new("v".to_owned()).uncached()) });
    assert_eq!(passing.await.unwrap().as_deref(), Some("v"));
    settle().await;
    assert_eq!(shared.claimed(), 0);

    let given_up = tokio::time::timeout(SECOND, load(&chain, "v", &Gate::default())).await;
    assert!(given_up.is_err());
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

/// Who gets the claim when another has just come to its end finds what that brought.
#[tokio::test]
async fn who_gets_the_claim_looks_again() {
    let shared = Claiming::default();
    let chain = process(&shared, ReadThrough::new());
    shared.claims.lock().unwrap().insert(key("k"), Ticket::unconditional());
    let other = async {
        settle().await;
        let other = process(&shared, ReadThrough::new().no_peer_wait());
        other.set("k", "theirs".to_owned()).await.unwrap();
        shared.claims.lock().unwrap().clear();
    };
    let open = Gate::default();
    open.open();
    let (value, ()) = tokio::join!(load(&chain, "ours", &open), other);
    assert_eq!(value.unwrap(), "theirs");
    settle().await;
    assert_eq!(shared.claimed(), 0, "and gives it back");
}

/// What another has loaded goes to the tiers above the shared one, and nowhere else.
#[tokio::test]
async fn what_another_loaded_is_filled_above_alone() {
    let shared = Claiming::default();
    let below = MapStore::new();
    let chain = ChainCache::builder().tier(MapStore::new()).tier(shared.clone()).tier(below.clone()).build().unwrap();
    shared.claims.lock().unwrap().insert(key("k"), Ticket::unconditional());
    let other = async {
        settle().await;
        process(&shared, ReadThrough::new()).set("k", "theirs".to_owned()).await.unwrap();
    };
    let shut = Gate::default();
    let (value, ()) = tokio::join!(load(&chain, "ours", &shut), other);
    assert_eq!(value.unwrap(), "theirs");
    chain.wait().await.unwrap();
    let backfill = chain.stats().backfill;
    assert_eq!((backfill.applied, backfill.refused, backfill.failed), (1, 0, 0));
    assert_eq!(Store::get(&below, &key("k")).await.unwrap(), None);
}

/// Two processes that have the same stale value.
fn stale_pair(shared: &Claiming, clock: &ManualClock, settings: &ReadThrough) -> [ChainCache<String>; 2] {
    [(); 2].map(|()| {
        let memory = MapStore::with_clock(clock.shared());
        let chain = ChainCache::builder().clock(clock.shared()).tier(memory).tier(shared.clone());
        chain.read_through(settings.clone()).build().unwrap()
    })
}

fn claiming(clock: &ManualClock) -> Claiming {
    Claiming { map: MapStore::with_clock(clock.shared()), ..Claiming::default() }
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_is_loaded_once_by_all_processes() {
    for mode in [ServeStale::AtOnce, ServeStale::After(SECOND), ServeStale::IfLoadFails] {
        let clock = ManualClock::new();
        let shared = claiming(&clock);
        let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(mode);
        let [one, two] = stale_pair(&shared, &clock, &settings);
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
    let shared = claiming(&clock);
    // So eager that every hit is a refresh.
    let settings = ReadThrough::new().early_refresh(1e6);
    let [one, two] = stale_pair(&shared, &clock, &settings);
    let slow = clock.clone();
    let load_slowly = move || async move {
        slow.advance(SECOND);
        Ok::<_, io::Error>(Loaded::new("old".to_owned()).ttl(60 * SECOND))
    };
    assert_eq!(one.get_or_load("k", load_slowly).await.unwrap().as_deref(), Some("old"));
    one.wait().await.unwrap();
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
    let shared = claiming(&clock);
    let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails);
    let [one, _] = stale_pair(&shared, &clock, &settings);
    one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
    clock.advance(SECOND);
    let gate = Gate::default();
    gate.open();
    let write = Write::new(key("k"), Entry::new("theirs".to_owned(), Expiry::Never), Ticket::unconditional());
    let peer = shared.clone();
    *shared.on_claim.lock().unwrap() = Some(Box::new(move || {
        cache_core::testkit::block_on(Store::set(&peer.map, write)).unwrap();
    }));
    assert_eq!(load(&one, "ours", &gate).await.unwrap(), "theirs");
    assert_eq!((one.stats().loads.started, one.stats().loads.loaded_by_peer), (0, 1));
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

/// A failed refresh leaves the claim to another process, and the value to all.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_returns_its_claim() {
    let clock = ManualClock::new();
    let shared = claiming(&clock);
    let settings = ReadThrough::new().stale_for(60 * SECOND);
    let [one, two] = stale_pair(&shared, &clock, &settings);
    one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
    clock.advance(SECOND);
    let down = || async { Err::<String, _>(io::Error::other("down")) };
    assert_eq!(one.get_or_load("k", down).await.unwrap(), "old");
    settle().await;
    assert_eq!(shared.claimed(), 0);
    let gate = Gate::default();
    gate.open();
    assert_eq!(load(&two, "new", &gate).await.unwrap(), "old");
    settle().await;
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("new"));
}

/// By default as long as a load may take: 30 s.
#[tokio::test(start_paused = true)]
async fn a_long_load_runs_once_with_the_default_settings() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new()));
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let second = async {
        settle().await;
        load(&two, "two", &open).await
    };
    let (first, second, ()) = tokio::join!(load(&one, "one", &gate), second, async {
        tokio::time::sleep(8 * SECOND).await;
        gate.open();
    });
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "one"));
    assert_eq!((one.stats().loads.started, two.stats().loads.started), (1, 0));
    let renewals = shared.renewals.lock().unwrap().len();
    assert!((7..=8).contains(&renewals), "the claim was renewed {renewals} times");
}

#[tokio::test(start_paused = true)]
async fn a_batch_loads_what_no_peer_loads_and_waits_for_the_rest() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new()));
    let gate = Gate::default();
    let load = |name: &'static str, gate: &Gate| {
        let gate = gate.clone();
        move |keys: Vec<&'static str>| async move {
            gate.passed().await;
            Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, format!("{name} {key}"))))
        }
    };
    let open = Gate::default();
    open.open();
    let second = async {
        settle().await;
        two.get_or_load_many(["b", "c"], load("two", &open)).await
    };
    let (first, second, ()) = tokio::join!(one.get_or_load_many(["a", "b"], load("one", &gate)), second, async {
        tokio::time::sleep(3 * SECOND).await;
        gate.open();
    });
    let values =
        |result: Result<Vec<Option<String>>>| result.unwrap().into_iter().map(Option::unwrap).collect::<Vec<_>>();
    assert_eq!(values(first), ["one a", "one b"]);
    assert_eq!(values(second), ["one b", "two c"]);
    let loads = [&one, &two].map(|chain| chain.stats().loads);
    assert_eq!((loads[0].started, loads[1].started, loads[1].loaded_by_peer), (1, 1, 1));
    for chain in [&one, &two] {
        chain.wait().await.unwrap();
    }
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

/// The peer fails, so this process loads the key by a call of its own.
#[tokio::test(start_paused = true)]
async fn a_batch_loads_what_a_peer_failed_to_load() {
    let shared = Claiming::default();
    let [one, two] = [(); 2].map(|()| process(&shared, ReadThrough::new()));
    let gate = Gate::default();
    let failing = {
        let gate = gate.clone();
        move |_: Vec<&'static str>| async move {
            gate.passed().await;
            Err::<[(&'static str, String); 0], _>(io::Error::other("down"))
        }
    };
    let load =
        |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, format!("two {key}")))) };
    let second = async {
        settle().await;
        two.get_or_load_many(["b", "c"], load).await
    };
    let (first, second, ()) = tokio::join!(one.get_or_load_many(["b"], failing), second, async {
        tokio::time::sleep(SECOND).await;
        gate.open();
    });
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Loader);
    assert_eq!(second.unwrap(), [Some("two b".to_owned()), Some("two c".to_owned())]);
    assert_eq!(two.stats().loads.started, 2);
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_stale_values_is_loaded_once_by_all_processes() {
    let clock = ManualClock::new();
    let shared = claiming(&clock);
    let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails);
    let [one, two] = stale_pair(&shared, &clock, &settings);
    one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("old"));
    two.wait().await.unwrap();
    clock.advance(SECOND);
    let load = |keys: Vec<&'static str>| async {
        tokio::time::sleep(SECOND).await;
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "new".to_owned())))
    };
    let (first, second) = tokio::join!(one.get_or_load_many(["k"], load), two.get_or_load_many(["k"], load));
    assert_eq!((first.unwrap(), second.unwrap()), (vec![Some("new".to_owned())], vec![Some("new".to_owned())]));
    let loads = [&one, &two].map(|chain| chain.stats().loads);
    assert_eq!(loads[0].started + loads[1].started, 1);
    settle().await;
    assert_eq!(shared.claimed(), 0);
}

/// A tier that fails takes no part in claims, and keeps no other tier from granting them.
#[tokio::test(start_paused = true)]
async fn a_tier_that_works_grants_claims_beside_one_that_fails() {
    let (shared, failing) = (Claiming::default(), ScriptedStore::new(Claiming::default()));
    failing.fail(Operation::Get, ErrorKind::Unavailable);
    let settings = || ReadThrough::new().peer_wait(Duration::MAX);
    let process = || {
        let chain = ChainCache::builder().tier(failing.clone()).tier(shared.clone()).read_through(settings());
        chain.build().unwrap()
    };
    let [one, two] = [(); 2].map(|()| process());
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let later = async {
        while shared.claimed() == 0 {
            tokio::task::yield_now().await;
        }
        load(&two, "two", &open).await
    };
    let (first, second, ()) = tokio::join!(load(&one, "one", &gate), later, async {
        tokio::time::sleep(5 * SECOND).await;
        gate.open();
    });
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("one", "one"));
    assert_eq!((one.stats().loads.started, two.stats().loads.started), (1, 0));
    assert_eq!(failing.calls_of(Operation::Claim), 0);
}

/// A claim is a write, and its holder reads the key once more.
#[tokio::test(start_paused = true)]
async fn a_tier_that_a_call_leaves_out_grants_it_no_claim() {
    for is_stale in [false, true] {
        let clock = ManualClock::new();
        let shared = claiming(&clock);
        let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails);
        let [one, other] = stale_pair(&shared, &clock, &settings);
        let open = Gate::default();
        open.open();
        if is_stale {
            one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
            clock.advance(SECOND);
        }
        let loader = |value: &'static str| move || async move { Ok::<_, io::Error>(value.to_owned()) };
        let batch = |keys: Vec<&'static str>| async {
            Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "ours".to_owned())))
        };
        // The tier has a fresh value, which is not asked for.
        other.set("k", "theirs".to_owned()).await.unwrap();
        other.set("b", "theirs".to_owned()).await.unwrap();
        let unread = CallOptions::new().skip_read("L2 map");
        assert_eq!(one.with(&unread).get_or_load("k", loader("ours")).await.unwrap(), "ours", "stale: {is_stale}");
        assert_eq!(one.with(&unread).get_or_load_many(["b"], batch).await.unwrap(), [Some("ours".to_owned())]);
        assert_eq!(one.stats().loads.loaded_by_peer, 0);
        // Nothing is written there, a claim included.
        one.clear().await.unwrap();
        let unwritten = CallOptions::new().skip_write("L2 map");
        let claims = shared.claimed();
        *shared.on_claim.lock().unwrap() = Some(Box::new(|| panic!("it is claimed")));
        assert_eq!(one.with(&unwritten).get_or_load("k", loader("ours")).await.unwrap(), "ours");
        assert_eq!(one.with(&unwritten).get_or_load_many(["b"], batch).await.unwrap(), [Some("ours".to_owned())]);
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
    let shared = claiming(&clock);
    let [one, _] = stale_pair(&shared, &clock, &ReadThrough::new());
    let made = cache_core::Clock::now(&clock);
    clock.advance(60 * SECOND);
    let entry = Entry::new("theirs".to_owned(), Expiry::Never).created_at(made);
    for is_batch in [false, true] {
        let write = Write { key: key("k"), entry: entry.clone(), ticket: Ticket::unconditional() };
        let peer = shared.clone();
        *shared.on_claim.lock().unwrap() = Some(Box::new(move || {
            cache_core::testkit::block_on(Store::set(&peer.map, write)).unwrap();
        }));
        let recent = CallOptions::new().max_age(SECOND);
        let value = if is_batch {
            let load = |keys: Vec<&'static str>| async {
                Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "ours".to_owned())))
            };
            one.with(&recent).get_or_load_many(["k"], load).await.unwrap().pop().unwrap().unwrap()
        } else {
            one.with(&recent).get_or_load("k", || async { Ok::<_, io::Error>("ours".to_owned()) }).await.unwrap()
        };
        assert_eq!(value, "ours", "batch: {is_batch}");
        one.clear().await.unwrap();
        settle().await;
        assert_eq!(shared.claimed(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_granted_claims_beside_a_tier_that_fails() {
    let (shared, failing) = (Claiming::default(), ScriptedStore::new(Claiming::default()));
    failing.fail(Operation::Get, ErrorKind::Unavailable);
    let chain = ChainCache::builder().tier(failing.clone()).tier(shared.clone()).build().unwrap();
    let claims = shared.clone();
    let load = move |keys: Vec<&'static str>| {
        let claimed = claims.claimed();
        async move { Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, claimed.to_string()))) }
    };
    assert_eq!(chain.get_or_load_many(["a", "b"], load).await.unwrap(), [Some("2".to_owned()), Some("2".to_owned())]);
    assert_eq!(failing.calls_of(Operation::Claim), 0);
}

/// The key of the marker would be too long, so each process loads by itself.
#[tokio::test(start_paused = true)]
async fn a_key_of_the_greatest_length_is_refreshed_without_a_claim() {
    let clock = ManualClock::new();
    let shared = claiming(&clock);
    let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails);
    let [one, _] = stale_pair(&shared, &clock, &settings);
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

/// A claim is returned wherever its load is dropped: at any await of the caller, who is the last.
#[tokio::test(start_paused = true)]
async fn a_dropped_caller_leaves_no_claim_and_no_load() {
    for is_batch in [false, true] {
        for is_stale in [false, true] {
            for polls in 0..12 {
                let clock = ManualClock::new();
                let shared = claiming(&clock);
                let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails);
                let [one, _] = stale_pair(&shared, &clock, &settings);
                if is_stale {
                    one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
                    clock.advance(SECOND);
                }
                let (chain, gate) = (one.clone(), Gate::default());
                let call = tokio::spawn(async move {
                    if is_batch {
                        let load = move |_: Vec<&'static str>| async move {
                            gate.passed().await;
                            Ok::<_, io::Error>([("k", "new".to_owned())])
                        };
                        chain.get_or_load_many(["k"], load).await.map(drop)
                    } else {
                        load(&chain, "new", &gate).await.map(drop)
                    }
                });
                for _ in 0..polls {
                    tokio::task::yield_now().await;
                }
                call.abort();
                settle().await;
                assert_eq!(
                    (shared.claimed(), one.stats().loads.in_flight),
                    (0, 0),
                    "batch: {is_batch}, stale: {is_stale}, polls: {polls}"
                );
            }
        }
    }
}

/// Before, a peer would not find the value, and load again.
#[tokio::test(start_paused = true)]
async fn the_claim_of_a_refresh_is_held_until_the_value_is_stored() {
    for has_memory in [false, true] {
        let clock = ManualClock::new();
        let shared = claiming(&clock);
        let remote = ScriptedStore::new(shared.clone());
        let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails);
        let builder = ChainCache::builder().clock(clock.shared());
        let builder = if has_memory { builder.tier(MapStore::with_clock(clock.shared())) } else { builder };
        let chain = builder.tier(remote.clone()).read_through(settings).build().unwrap();
        chain.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
        clock.advance(SECOND);
        let gate = remote.stall(Operation::Fill);
        let open = Gate::default();
        open.open();
        assert_eq!(load(&chain, "new", &open).await.unwrap(), "new");
        settle().await;
        assert_eq!(shared.claimed(), 1, "memory: {has_memory}");
        gate.open();
        settle().await;
        assert_eq!(shared.claimed(), 0);
    }
}

/// The claim is the lease, and the value that is stored ends it.
#[tokio::test]
async fn a_claim_is_neither_leased_nor_returned_as_well() {
    for is_batch in [false, true] {
        let remote = ScriptedStore::new(Claiming::default());
        let below = ScriptedStore::new(MapStore::new());
        let chain = ChainCache::builder().tier(remote.clone()).tier(below.clone()).build().unwrap();
        if is_batch {
            let load = |keys: Vec<&'static str>| async {
                Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "v".to_owned())))
            };
            chain.get_or_load_many(["k"], load).await.unwrap();
        } else {
            let open = Gate::default();
            open.open();
            load(&chain, "v", &open).await.unwrap();
        }
        chain.wait().await.unwrap();
        settle().await;
        let calls = [Operation::Claim, Operation::Release].map(|operation| remote.calls_of(operation));
        assert_eq!(calls, [1, 0], "batch: {is_batch}");
        assert_eq!(LocalStore::get(&remote.inner().map, &key("k")).and_then(Entry::into_value).as_deref(), Some("v"));
    }
    // The lease of the last tier, which a lookup does not take.
    for is_batch in [false, true] {
        let remote = ScriptedStore::new(Claiming::default());
        let chain = ChainCache::builder().tier(remote.clone()).build().unwrap();
        if is_batch {
            let load = |keys: Vec<&'static str>| async {
                Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "v".to_owned())))
            };
            chain.get_or_load_many(["k"], load).await.unwrap();
        } else {
            let open = Gate::default();
            open.open();
            load(&chain, "v", &open).await.unwrap();
        }
        assert_eq!(remote.calls_of(Operation::Lease), 0, "batch: {is_batch}");
    }
}

/// Another process was just about to store what it has loaded.
#[tokio::test(start_paused = true)]
async fn a_batch_with_granted_claims_looks_again() {
    for is_stale in [false, true] {
        let clock = ManualClock::new();
        let shared = claiming(&clock);
        let settings = ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails);
        let [one, _] = stale_pair(&shared, &clock, &settings);
        if is_stale {
            one.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
            clock.advance(SECOND);
        }
        let entry = Entry::new("theirs".to_owned(), Expiry::Never);
        let write = Write { key: key("k"), entry, ticket: Ticket::unconditional() };
        let peer = shared.clone();
        *shared.on_claim.lock().unwrap() = Some(Box::new(move || {
            cache_core::testkit::block_on(Store::set(&peer.map, write)).unwrap();
        }));
        let load = |keys: Vec<&'static str>| async {
            Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "ours".to_owned())))
        };
        assert_eq!(one.get_or_load_many(["k"], load).await.unwrap(), [Some("theirs".to_owned())], "stale: {is_stale}");
        assert_eq!((one.stats().loads.started, one.stats().loads.loaded_by_peer), (0, 1));
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
            let shared = claiming(&clock);
            let [one, _] = stale_pair(&shared, &clock, &ReadThrough::new());
            one.set("k", "old".to_owned()).await.unwrap();
            clock.advance(60 * SECOND);
            *shared.on_claim.lock().unwrap() = Some(Box::new(|| panic!("it is claimed")));
            let chain = one.with(&options);
            let value = if is_batch {
                let load = |keys: Vec<&'static str>| async {
                    Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "new".to_owned())))
                };
                chain.get_or_load_many(["k"], load).await.unwrap().pop().unwrap().unwrap()
            } else {
                chain.get_or_load("k", || async { Ok::<_, io::Error>("new".to_owned()) }).await.unwrap()
            };
            assert_eq!(value, "new");
        }
    }
}

/// Two copies of one entry differ a little in age.
#[tokio::test(start_paused = true)]
async fn another_copy_of_a_value_about_to_expire_is_no_newer_one() {
    let clock = ManualClock::new();
    let shared = claiming(&clock);
    let [one, _] = stale_pair(&shared, &clock, &ReadThrough::new().early_refresh(1e6));
    let slow = clock.clone();
    let first = move || async move {
        slow.advance(SECOND);
        Ok::<_, io::Error>(Loaded::new("old".to_owned()).ttl(60 * SECOND))
    };
    one.get_or_load("k", first).await.unwrap();
    one.wait().await.unwrap();
    let entry = LocalStore::get(&shared.map, &key("k")).unwrap();
    let copy = |age: Duration| entry.clone().created_at(entry.created().unwrap().plus(age));
    for (difference, is_newer) in [(Duration::from_millis(50), false), (Duration::from_millis(51), true)] {
        let write = Write { key: key("k"), entry: copy(difference), ticket: Ticket::unconditional() };
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

/// The one that a peer is loading is waited for in the background, and then is in memory.
#[tokio::test(start_paused = true)]
async fn a_batch_fills_memory_with_what_a_peer_has_refreshed() {
    let clock = ManualClock::new();
    let shared = claiming(&clock);
    let [one, two] = stale_pair(&shared, &clock, &ReadThrough::new().early_refresh(1e6));
    let slow = clock.clone();
    let first = move || async move {
        slow.advance(SECOND);
        Ok::<_, io::Error>(Loaded::new("old".to_owned()).ttl(60 * SECOND))
    };
    one.get_or_load("k", first).await.unwrap();
    one.wait().await.unwrap();
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("old"));
    two.wait().await.unwrap();
    clock.advance(30 * SECOND);
    let gate = Gate::default();
    assert_eq!(load(&one, "new", &gate).await.unwrap(), "old");
    settle().await;
    let never =
        |keys: Vec<&'static str>| async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "never".to_owned()))) };
    assert_eq!(two.get_or_load_many(["k"], never).await.unwrap(), [Some("old".to_owned())]);
    settle().await;
    gate.open();
    tokio::time::sleep(SECOND).await;
    two.wait().await.unwrap();
    assert_eq!(two.get("k").await.unwrap().as_deref(), Some("new"));
    assert_eq!((two.stats().loads.started, two.stats().loads.loaded_by_peer), (0, 1));
}

//! The blocking API.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{ChainCache, ErrorKind, ReadThrough, Source, Ttl};
use cache_core::testkit::{MapStore, ScriptedStore, SharedMap};
use tokio::runtime::{Builder, Runtime};

const MINUTE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
}

/// A chain of memory over a remote store.
fn chain(runtime: &Runtime) -> ChainCache<String> {
    let _entered = runtime.enter();
    let remote = ScriptedStore::new(MapStore::new());
    ChainCache::builder().tier(MapStore::new()).tier(remote).build().unwrap()
}

#[test]
fn every_call_works_outside_of_a_runtime() {
    let runtime = runtime();
    let chain = chain(&runtime).blocking();
    chain.set("a", "1".to_owned()).unwrap();
    chain.set_with_ttl("b", "2".to_owned(), MINUTE).unwrap();
    chain.set_many([("c", "3".to_owned())]).unwrap();
    assert_eq!(chain.get("a").unwrap().as_deref(), Some("1"));
    assert!(chain.get_with_ttl("b").unwrap().unwrap().1 <= Ttl::After(MINUTE));
    assert_eq!(chain.get_detailed("c").unwrap().source, Source::Tier("L1 map".into()));
    assert_eq!(chain.get_many(["a", "x"]).unwrap(), [Some("1".to_owned()), None]);
    assert!(chain.contains("a").unwrap() && !chain.contains("x").unwrap());
    assert!(chain.touch("a", MINUTE).unwrap());
    assert_eq!(chain.take("a").unwrap().as_deref(), Some("1"));
    chain.expire("b").unwrap();
    chain.del("c").unwrap();
    chain.del_many(["c"]).unwrap();
    assert_eq!(chain.get_many(["a", "b", "c"]).unwrap(), [None, None, None]);
    assert_eq!(chain.get_or_load("d", || Ok::<_, io::Error>("4".to_owned())).unwrap(), "4");
    let load = |keys: Vec<&'static str>| {
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, key.to_owned())).collect::<Vec<_>>())
    };
    assert_eq!(chain.get_or_load_many(["d", "e"], load).unwrap(), [Some("4".to_owned()), Some("e".to_owned())]);
    chain.wait().unwrap();
    chain.clear().unwrap();
    assert_eq!(chain.get("d").unwrap(), None);
    chain.shutdown(MINUTE).unwrap();
}

#[test]
fn concurrent_threads_share_a_load_that_may_block() {
    let runtime = runtime();
    let (chain, calls) = (chain(&runtime).blocking(), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (chain, calls) = (chain.clone(), Arc::clone(&calls));
            std::thread::spawn(move || {
                let inner = chain.clone();
                let load = move || {
                    calls.fetch_add(1, SeqCst);
                    // It blocks until the other threads have joined it, or another load has begun.
                    while inner.chain().stats().loads.joined < 7 && calls.load(SeqCst) == 1 {
                        std::thread::yield_now();
                    }
                    // The loader may call the chain.
                    inner.get_or_load("inner", || Ok::<_, io::Error>("v".to_owned()))
                };
                chain.get_or_load("outer", load)
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.join().unwrap().unwrap(), "v");
    }
    let loads = chain.chain().stats().loads;
    assert_eq!((calls.load(SeqCst), loads.started, loads.joined), (1, 2, 7));
}

#[test]
fn errors_and_panics_of_a_loader_reach_the_caller() {
    let runtime = runtime();
    let chain = chain(&runtime).blocking();
    let error = chain.get_or_load("k", || Err::<String, _>(io::Error::other("down"))).unwrap_err();
    assert_eq!(
        (error.kind(), error.source_as::<io::Error>().unwrap().to_string()),
        (ErrorKind::Loader, "down".to_owned())
    );
    let error = chain.get_or_load("k", || -> io::Result<String> { panic!("in the loader") }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
}

#[test]
fn a_thread_that_runs_async_code_is_not_blocked() {
    let runtime = runtime();
    let chain = chain(&runtime).blocking();
    chain.set("k", "v".to_owned()).unwrap();
    for flavor in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let mut flavor = flavor;
        let other = flavor.enable_time().build().unwrap();
        let blocked = chain.clone();
        let error = other.block_on(async move { blocked.get("k") }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("spawn_blocking"), "{error}");
        // Also in a task, and of the chain's own runtime.
        let blocked = chain.clone();
        let spawned = runtime.spawn(async move { blocked.set("k", "w".to_owned()) });
        assert_eq!(other.block_on(spawned).unwrap().unwrap_err().kind(), ErrorKind::InvalidInput);
        // It works on a thread where tokio allows blocking.
        let allowed = chain.clone();
        let found = other.block_on(async move { tokio::task::spawn_blocking(move || allowed.get("k")).await });
        assert_eq!(found.unwrap().unwrap().as_deref(), Some("v"));
        let _entered = other.enter();
        assert_eq!(chain.get("k").unwrap().as_deref(), Some("v"), "a runtime that is only entered runs nothing here");
    }
}

#[test]
fn after_the_runtime_has_ended_a_call_says_so() {
    let runtime = runtime();
    let chain = chain(&runtime).blocking();
    chain.set("k", "v".to_owned()).unwrap();
    drop(runtime);
    assert_eq!(chain.get("k").unwrap().as_deref(), Some("v"), "memory needs no runtime");
    assert_eq!(chain.get("other").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(chain.set("k", "w".to_owned()).unwrap_err().kind(), ErrorKind::Closed);
}

/// A blocking loader runs under the permit of its load, and is known as the caller of other loads.
#[test]
fn loaders_that_call_the_chain_lend_their_permits_and_find_cycles() {
    let runtime = runtime();
    let chain = {
        let _entered = runtime.enter();
        let settings = ReadThrough::new().concurrent_loads(1);
        ChainCache::<String>::builder().tier(MapStore::new()).read_through(settings).build().unwrap().blocking()
    };
    let inner = chain.clone();
    let nested = move || inner.get_or_load("inner", || Ok::<_, io::Error>("v".to_owned()));
    assert_eq!(chain.get_or_load("outer", nested).unwrap(), "v");
    let inner = chain.clone();
    let many = move |_: Vec<&'static str>| {
        let value = inner.get_or_load("another", || Ok::<_, io::Error>("w".to_owned()))?;
        Ok::<_, cache_chain::Error>(vec![("many", value)])
    };
    assert_eq!(chain.get_or_load_many(["many"], many).unwrap(), [Some("w".to_owned())]);
    let own = chain.clone();
    let cycle = move || own.get_or_load("k", || Ok::<_, io::Error>("never".to_owned()));
    let error = chain.get_or_load("k", cycle).unwrap_err();
    assert_eq!(error.source_as::<cache_chain::Error>().unwrap().kind(), ErrorKind::Cycle, "{error:#}");
}

#[test]
fn where_tokio_lets_a_thread_block_the_call_works() {
    let runtime = runtime();
    let chain = chain(&runtime).blocking();
    chain.set("k", "v".to_owned()).unwrap();
    // In a task that gives its thread away.
    let in_place = chain.clone();
    let found = runtime.block_on(runtime.spawn(async move { tokio::task::block_in_place(|| in_place.get("k")) }));
    assert_eq!(found.unwrap().unwrap().as_deref(), Some("v"));
    // Not in a set of tasks of one thread.
    let other = Builder::new_current_thread().enable_time().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let blocked = chain.clone();
    let error = local.block_on(&other, async move { tokio::task::spawn_local(async move { blocked.get("k") }).await });
    assert_eq!(error.unwrap().unwrap_err().kind(), ErrorKind::InvalidInput);
    // Nor in an async loader.
    let in_loader = chain.clone();
    let load = move || async move { in_loader.get("k") };
    let error = runtime.block_on(chain.chain().get_or_load("other", load)).unwrap_err();
    assert_eq!(error.source_as::<cache_chain::Error>().unwrap().kind(), ErrorKind::InvalidInput, "{error:#}");
}

/// Tasks on a runtime of one thread wait until a thread runs it.
#[test]
fn a_runtime_of_one_thread_must_be_run_by_another_thread() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let chain: ChainCache<String> = {
        let _entered = runtime.enter();
        let tiers = ChainCache::builder().tier(MapStore::new()).tier(SharedMap::new()).no_coherence();
        tiers.timeout(Duration::from_millis(50)).build().unwrap()
    };
    let blocking = chain.blocking();
    let load = || Ok::<_, io::Error>("1".to_owned());
    for idle in [
        blocking.set("k", "1".to_owned()).unwrap_err(),
        blocking.take("k").unwrap_err(),
        blocking.get_or_load("l", load).unwrap_err(),
    ] {
        assert_eq!(idle.kind(), ErrorKind::Timeout);
        assert!(idle.to_string().contains("no thread runs the runtime of the chain"), "{idle}");
    }
    // While it runs, all is as ever; a hit needs no runtime.
    let of_thread = blocking.clone();
    let set = async move { tokio::task::spawn_blocking(move || of_thread.set("m", "1".to_owned())).await.unwrap() };
    runtime.block_on(set).unwrap();
    assert_eq!(blocking.get("m").unwrap().as_deref(), Some("1"));
    assert_eq!(blocking.get_or_load("m", || Ok::<_, io::Error>("2".to_owned())).unwrap(), "1");
    drop(runtime);
    assert_eq!(blocking.set("k", "2".to_owned()).unwrap_err().kind(), ErrorKind::Closed);
}

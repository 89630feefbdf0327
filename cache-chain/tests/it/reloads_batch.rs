//! Reloads of several keys by one call.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::{hold_back_get, open_gate, remote_rig::RemoteRig, settle};
use cache_chain::{CallOptions, ChainCache, ErrorKind, Loaded};
use cache_core::testkit::Gate;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The loader has read the origin before the caller comes, and the flight of the key begins after
/// that.
#[tokio::test]
async fn a_reload_does_not_get_what_a_batch_had_read_before() {
    let rig = RemoteRig::new();
    let memory = ChainCache::builder().clock(rig.clock.shared()).tier(rig.memory.clone()).build().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let (chain, reload) = (memory.clone(), rig.loader());
    let load = move |keys: Vec<&'static str>| {
        // On a thread of its own, it is no call of this loader.
        let call = move || {
            let mut call: Pin<Box<dyn Future<Output = _> + Send>> =
                Box::pin(async move { chain.with(&CallOptions::new().reload()).get_or_load("k", reload).await });
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(call.as_mut().poll(&mut context).is_pending());
            send.send(call).unwrap();
        };
        std::thread::spawn(call).join().unwrap();
        async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 1))) }
    };
    assert_eq!(memory.get_or_load_many(["k"], load).await.unwrap(), [Some(1)]);
    assert_eq!(receive.recv().unwrap().await.unwrap(), 100);
}

#[tokio::test]
async fn a_batch_that_names_a_key_twice_reloads_it_once() {
    let rig = RemoteRig::new();
    rig.chain.set("k", 1).await.unwrap();
    rig.clock.advance(MINUTE);
    for options in [CallOptions::new().reload(), CallOptions::new().max_age(SECOND)] {
        let calls = Arc::new(AtomicUsize::new(0));
        for fails in [false, true] {
            let counted = Arc::clone(&calls);
            let load = move |keys: Vec<&'static str>| async move {
                counted.fetch_add(keys.len(), SeqCst);
                if fails { Err(io::Error::other("down")) } else { Ok(keys.into_iter().map(|key| (key, 7))) }
            };
            let found = rig.chain.with(&options).get_or_load_many(["k", "k"], load).await;
            let found = found.map_err(|error| error.kind());
            assert_eq!(found, if fails { Err(ErrorKind::Loader) } else { Ok(vec![Some(7); 2]) });
            rig.clock.advance(MINUTE);
        }
        assert_eq!(calls.load(SeqCst), 2);
    }
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.reloads, stats.joined), (4, 4, 4));
}

/// One call loads all keys whose loads had begun before.
#[tokio::test(start_paused = true)]
async fn a_batch_reloads_what_others_were_loading_by_one_call() {
    let rig = RemoteRig::new();
    let gate = Gate::default();
    let calls: Arc<std::sync::Mutex<Vec<Vec<&str>>>> = Arc::default();
    let load = |value: usize, gate: &Gate, fails: bool| {
        let (gate, calls) = (gate.clone(), Arc::clone(&calls));
        move |keys: Vec<&'static str>| async move {
            calls.lock().unwrap().push(keys.clone());
            gate.passed().await;
            let loaded = keys.into_iter().map(|key| {
                if fails && key == "a" { (key, Loaded::new(0).ttl(Duration::ZERO)) } else { (key, Loaded::new(value)) }
            });
            Ok::<_, io::Error>(loaded.collect::<Vec<_>>())
        }
    };
    let old = {
        let (chain, load) = (rig.chain.clone(), load(1, &gate, false));
        tokio::spawn(async move { chain.get_or_load_many(["a", "b"], load).await })
    };
    settle().await;
    let open = open_gate();
    let reload = CallOptions::new().reload();
    let chain = rig.chain.with(&reload);
    let (found, ()) = tokio::join!(chain.get_or_load_many(["a", "b", "c"], load(2, &open, false)), async {
        tokio::time::sleep(SECOND).await;
        gate.open();
    });
    assert_eq!(found.unwrap(), [Some(2), Some(2), Some(2)]);
    assert_eq!(old.await.unwrap().unwrap(), [Some(1), Some(1)]);
    assert_eq!(std::mem::take(&mut *calls.lock().unwrap()), [vec!["a", "b"], vec!["c"], vec!["a", "b"]]);
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.reloads, stats.joined, stats.in_flight), (3, 2, 0));
    // The first error is returned, and the other keys are loaded nevertheless.
    let gate = Gate::default();
    let old = {
        let (chain, load) = (rig.chain.clone(), load(3, &gate, false));
        tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load_many(["a", "b"], load).await })
    };
    settle().await;
    let (found, ()) = tokio::join!(chain.get_or_load_many(["a", "b"], load(4, &open, true)), async {
        tokio::time::sleep(SECOND).await;
        gate.open();
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(old.await.unwrap().unwrap(), [Some(3), Some(3)]);
    assert_eq!((rig.chain.get("a").await.unwrap(), rig.chain.get("b").await.unwrap()), (Some(3), Some(4)));
}

/// Also if others have loaded the keys during its lookup.
#[tokio::test]
async fn a_batch_reloads_its_keys_by_one_call() {
    let rig = RemoteRig::new();
    // The lookup is late: its first result is held back.
    let gate = hold_back_get(&rig.lower, 0);
    let batch = {
        let (chain, loads) = (rig.chain.clone(), Arc::clone(&rig.loads));
        let load = move |keys: Vec<&'static str>| {
            loads.fetch_add(1, SeqCst);
            async move { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7))) }
        };
        tokio::spawn(async move { chain.with(&CallOptions::new().reload()).get_or_load_many(["a", "b"], load).await })
    };
    settle().await;
    for (key, value) in [("a", 100), ("b", 101)] {
        assert_eq!(rig.chain.get_or_load(key, rig.loader()).await.unwrap(), value);
    }
    gate.open();
    assert_eq!(batch.await.unwrap().unwrap(), [Some(7), Some(7)]);
    assert_eq!(rig.loads.load(SeqCst), 3);
}

//! Fresh if quick, else stale: the modes in which a stale value is served.

mod support;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use cache_chain::{CallOptions, ChainCache, ErrorKind, Found, LoadStats, ReadThrough, ServeStale, Source};
use cache_core::{
    ManualClock, Result,
    testkit::{MapStore, Operation, Phase, ScriptedStore},
};
use support::settle;
use tokio::time::Instant;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A chain of memory over a remote store, and a value that is stale.
struct Rig {
    chain: ChainCache<String>,
    lower: ScriptedStore<MapStore<String>>,
    clock: ManualClock,
    calls: Arc<AtomicUsize>,
}

/// The end of a load, and the time until then by tokio's clock.
#[derive(Clone, Copy)]
enum Load {
    Brings(&'static str, Duration),
    Fails(Duration),
}

impl Rig {
    async fn new(mode: ServeStale) -> Self {
        Self::with(ReadThrough::new().serve_stale(mode)).await
    }

    async fn with(settings: ReadThrough) -> Self {
        let clock = ManualClock::new();
        let lower = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let chain = ChainCache::builder()
            .clock(clock.shared())
            .tier(MapStore::with_clock(clock.shared()))
            .tier(lower.clone())
            .read_through(settings.stale_for(60 * MINUTE))
            .build()
            .unwrap();
        chain.set_with_ttl("k", "old".to_owned(), MINUTE).await.unwrap();
        clock.advance(MINUTE);
        Self { chain, lower, clock, calls: Arc::default() }
    }

    async fn get(&self, load: Load) -> Result<Found<String>> {
        let calls = Arc::clone(&self.calls);
        self.chain.get_or_load_detailed("k", move || run(calls, load)).await
    }

    async fn get_with(&self, options: &CallOptions, load: Load) -> Result<Found<String>> {
        let calls = Arc::clone(&self.calls);
        self.chain.with(options).get_or_load_detailed("k", move || run(calls, load)).await
    }

    fn stats(&self) -> LoadStats {
        self.chain.stats().loads
    }
}

async fn run(calls: Arc<AtomicUsize>, load: Load) -> io::Result<String> {
    calls.fetch_add(1, SeqCst);
    match load {
        Load::Brings(value, time) => {
            tokio::time::sleep(time).await;
            Ok(value.to_owned())
        }
        Load::Fails(time) => {
            tokio::time::sleep(time).await;
            Err(io::Error::other("down"))
        }
    }
}

fn value_of(found: &Found<String>) -> (Option<&str>, bool) {
    (found.value.as_deref(), found.stale)
}

#[tokio::test(start_paused = true)]
async fn a_quick_load_is_waited_for() {
    for mode in [ServeStale::After(100 * MILLI), ServeStale::IfLoadFails] {
        let rig = Rig::new(mode).await;
        let found = rig.get(Load::Brings("new", 10 * MILLI)).await.unwrap();
        assert_eq!((value_of(&found), &found.source), ((Some("new"), false), &Source::Loaded), "{mode:?}");
        let stats = rig.stats();
        assert_eq!((stats.started, stats.refreshes, stats.stale_served, stats.abandoned), (1, 1, 0, 0));
        assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_given_time_the_stale_value_is_served_and_the_load_goes_on() {
    let rig = Rig::new(ServeStale::After(100 * MILLI)).await;
    let started = Instant::now();
    let found = rig.get(Load::Brings("new", SECOND)).await.unwrap();
    assert_eq!((value_of(&found), started.elapsed()), ((Some("old"), true), 100 * MILLI));
    assert_eq!(found.source, Source::Tier("L1 map".into()));
    // A second caller joins the load.
    let second = rig.get(Load::Brings("never", SECOND)).await.unwrap();
    assert_eq!((value_of(&second), rig.calls.load(SeqCst)), ((Some("old"), true), 1));
    tokio::time::sleep(SECOND).await;
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
    let stats = rig.stats();
    assert_eq!((stats.started, stats.joined, stats.stale_served, stats.in_flight), (1, 1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_gives_the_stale_value_and_is_not_repeated_at_once() {
    for mode in [ServeStale::After(SECOND), ServeStale::IfLoadFails] {
        let rig = Rig::new(mode).await;
        let started = Instant::now();
        let found = rig.get(Load::Fails(10 * MILLI)).await.unwrap();
        assert_eq!((value_of(&found), started.elapsed()), ((Some("old"), true), 10 * MILLI), "{mode:?}");
        // Within the cooldown it is served without another attempt.
        let found = rig.get(Load::Brings("new", MILLI)).await.unwrap();
        assert_eq!((value_of(&found), rig.calls.load(SeqCst)), ((Some("old"), true), 1));
        rig.clock.advance(SECOND);
        let found = rig.get(Load::Brings("new", MILLI)).await.unwrap();
        assert_eq!((value_of(&found), rig.calls.load(SeqCst)), ((Some("new"), false), 2));
    }
}

/// A caller waits as long as for a missing key, and gets the stale value instead of an error.
#[tokio::test(start_paused = true)]
async fn if_the_load_takes_too_long_it_counts_as_failed() {
    let settings = ReadThrough::new().serve_stale(ServeStale::IfLoadFails).soft_timeout(2 * SECOND);
    let rig = Rig::with(settings).await;
    let started = Instant::now();
    let found = rig.get(Load::Brings("new", 5 * SECOND)).await.unwrap();
    assert_eq!((value_of(&found), started.elapsed()), ((Some("old"), true), 2 * SECOND));
    tokio::time::sleep(3 * SECOND).await;
    settle().await;
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_was_deleted_meanwhile_is_not_served() {
    // The load fails: its error is returned.
    let rig = Rig::new(ServeStale::IfLoadFails).await;
    let (found, ()) = tokio::join!(rig.get(Load::Fails(SECOND)), async {
        settle().await;
        rig.chain.del("k").await.unwrap();
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Loader);
    // The load takes long: it is waited for.
    let rig = Rig::new(ServeStale::After(100 * MILLI)).await;
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
        let clock = ManualClock::new();
        let remote = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let settings = ReadThrough::new().stale_for(MINUTE).serve_stale(ServeStale::IfLoadFails);
        let chain = ChainCache::<String>::builder().clock(clock.shared()).tier(remote.clone()).read_through(settings);
        let chain = chain.build().unwrap();
        chain.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
        clock.advance(SECOND);
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

#[tokio::test(start_paused = true)]
async fn each_call_can_choose_its_mode() {
    let rig = Rig::new(ServeStale::AtOnce).await;
    let wait = CallOptions::new().serve_stale(ServeStale::After(100 * MILLI));
    let found = rig.get_with(&wait, Load::Brings("new", 10 * MILLI)).await.unwrap();
    assert_eq!(value_of(&found), (Some("new"), false));

    let rig = Rig::new(ServeStale::IfLoadFails).await;
    let at_once = CallOptions::new().serve_stale(ServeStale::AtOnce);
    let found = rig.get_with(&at_once, Load::Brings("new", SECOND)).await.unwrap();
    assert_eq!(value_of(&found), (Some("old"), true));

    let rig = Rig::new(ServeStale::AtOnce).await;
    let never = CallOptions::new().no_stale();
    let failed = rig.get_with(&never, Load::Fails(MILLI)).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Loader);
    let found = rig.get_with(&never, Load::Brings("new", SECOND)).await.unwrap();
    assert_eq!(value_of(&found), (Some("new"), false));
    assert_eq!(rig.stats().stale_served, 0);
}

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
    let rig = Rig::new(ServeStale::After(100 * MILLI)).await;
    let found = rig.chain.get_or_load_many(["k", "other"], load(10 * MILLI, false)).await.unwrap();
    assert_eq!(found, [Some("new k".to_owned()), Some("new other".to_owned())]);
    // Not quick enough.
    let rig = Rig::new(ServeStale::After(100 * MILLI)).await;
    let started = Instant::now();
    let found = rig.chain.get_or_load_many(["k"], load(SECOND, false)).await.unwrap();
    assert_eq!((found, started.elapsed()), (vec![Some("old".to_owned())], 100 * MILLI));
    assert_eq!(rig.stats().stale_served, 1);
    // A key without a stale value is waited for, and by then the other key is fresh as well.
    let rig = Rig::new(ServeStale::After(100 * MILLI)).await;
    let started = Instant::now();
    let found = rig.chain.get_or_load_many(["k", "other"], load(SECOND, false)).await.unwrap();
    assert_eq!(found, [Some("new k".to_owned()), Some("new other".to_owned())]);
    assert_eq!((started.elapsed(), rig.stats().stale_served), (SECOND, 0));
    // Fails.
    let rig = Rig::new(ServeStale::IfLoadFails).await;
    let found = rig.chain.get_or_load_many(["k"], load(SECOND, true)).await.unwrap();
    assert_eq!(found, [Some("old".to_owned())]);
    let failed = rig.chain.get_or_load_many(["other"], load(SECOND, true)).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Loader);
    // Deleted meanwhile.
    let rig = Rig::new(ServeStale::IfLoadFails).await;
    let (found, ()) = tokio::join!(rig.chain.get_or_load_many(["k"], load(SECOND, true)), async {
        settle().await;
        rig.chain.del("k").await.unwrap();
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Loader);
}

/// The load that the value waits for would wait for itself.
#[tokio::test(start_paused = true)]
async fn a_loader_that_reads_its_own_stale_key_gets_the_stale_value() {
    let rig = Rig::new(ServeStale::IfLoadFails).await;
    let chain = rig.chain.clone();
    let load = move || async move {
        let own = chain.get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await?;
        Ok::<_, cache_chain::Error>(format!("from {own}"))
    };
    assert_eq!(rig.chain.get_or_load("k", load).await.unwrap(), "from old");
}

#[tokio::test]
async fn plain_reads_get_stale_values_only_if_asked_to() {
    let rig = Rig::new(ServeStale::AtOnce).await;
    let options = CallOptions::new().serve_stale(ServeStale::AtOnce);
    let stale = rig.chain.with(&options);
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(stale.get("k").await.unwrap().as_deref(), Some("old"));
    assert_eq!(stale.get_many(["k", "other"]).await.unwrap(), [Some("old".to_owned()), None]);
    let found = stale.get_detailed("k").await.unwrap();
    assert_eq!((value_of(&found), found.age), ((Some("old"), true), Some(MINUTE)));
    assert_eq!(stale.get_with_ttl("k").await.unwrap().unwrap().1.as_duration(), Some(Duration::ZERO));
    // A fresh value below comes first.
    let other = ChainCache::builder().clock(rig.clock.shared()).tier(rig.lower.clone()).build().unwrap();
    other.set("k", "fresh".to_owned()).await.unwrap();
    assert_eq!(stale.get("k").await.unwrap().as_deref(), Some("fresh"));
    // Past the stale window there is nothing.
    let rig = Rig::new(ServeStale::AtOnce).await;
    rig.clock.advance(60 * MINUTE);
    assert_eq!(rig.chain.with(&options).get("k").await.unwrap(), None);
}

/// The tier that fails may have a fresh value, and the stale one is better than an error.
#[tokio::test]
async fn a_plain_read_gets_the_stale_value_if_a_tier_fails() {
    let rig = Rig::new(ServeStale::AtOnce).await;
    rig.lower.fail(Operation::Get, ErrorKind::Unavailable);
    assert_eq!(rig.chain.get("k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    let options = CallOptions::new().serve_stale(ServeStale::IfLoadFails);
    assert_eq!(rig.chain.with(&options).get("k").await.unwrap().as_deref(), Some("old"));
}

#[tokio::test]
async fn a_time_of_zero_is_refused() {
    let settings = ReadThrough::new().serve_stale(ServeStale::After(Duration::ZERO));
    let chain = ChainCache::<String>::builder().tier(MapStore::new()).read_through(settings).build();
    let error = chain.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("use `ServeStale::AtOnce`"), "{error}");
    let chain = ChainCache::<String>::builder().tier(MapStore::new()).build().unwrap();
    let options = CallOptions::new().serve_stale(ServeStale::After(Duration::ZERO));
    assert_eq!(chain.with(&options).get("k").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// The error is that of the load, as for a single key.
#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_the_load_of_a_key_that_was_deleted_meanwhile() {
    let rig = Rig::new(ServeStale::After(100 * MILLI)).await;
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

/// Both waits together take no longer than a caller waits for a load.
#[tokio::test(start_paused = true)]
async fn the_wait_for_a_key_that_was_deleted_meanwhile_is_limited() {
    for mode in [ServeStale::IfLoadFails, ServeStale::After(SECOND)] {
        let rig = Rig::with(ReadThrough::new().serve_stale(mode).soft_timeout(2 * SECOND)).await;
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
            let clock = ManualClock::new();
            let remote = ScriptedStore::new(MapStore::with_clock(clock.shared()));
            let settings = ReadThrough::new().stale_for(MINUTE).serve_stale(ServeStale::IfLoadFails);
            let chain = ChainCache::<String>::builder().clock(clock.shared()).tier(remote.clone());
            let chain = chain.read_through(settings).timeout(SECOND).build().unwrap();
            chain.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
            clock.advance(SECOND);
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

/// Its caller has left, so the loader is dropped at its next await.
#[tokio::test(start_paused = true)]
async fn a_loader_that_reads_its_own_stale_key_does_not_keep_itself_running() {
    let rig = Rig::new(ServeStale::IfLoadFails).await;
    let chain = rig.chain.clone();
    let load = move || async move {
        chain.get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await?;
        std::future::pending::<()>().await;
        Ok::<_, cache_chain::Error>("never".to_owned())
    };
    assert!(tokio::time::timeout(SECOND, rig.chain.get_or_load("k", load)).await.is_err());
    settle().await;
    assert_eq!(rig.stats().in_flight, 0);
}

/// In each mode, through other keys, and as a reload of the key itself.
#[tokio::test(start_paused = true)]
async fn cycles_of_stale_keys_end() {
    for mode in [ServeStale::AtOnce, ServeStale::After(SECOND), ServeStale::IfLoadFails] {
        let rig = Rig::new(mode).await;
        let chain = rig.chain.clone();
        let through_another = move || async move {
            let inner = chain.clone();
            let other = move || async move {
                inner.get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await
            };
            let own = chain.get_or_load("other", other).await?;
            Ok::<_, cache_chain::Error>(format!("from {own}"))
        };
        let started = Instant::now();
        let never = CallOptions::new().no_stale();
        assert_eq!(rig.chain.with(&never).get_or_load("k", through_another).await.unwrap(), "from old", "{mode:?}");
        assert!(started.elapsed() <= SECOND, "{mode:?}");

        let chain = rig.chain.clone();
        let reload = move || async move {
            let options = CallOptions::new().reload();
            chain.with(&options).get_or_load("k", || async { Ok::<_, io::Error>("inner".to_owned()) }).await
        };
        let options = CallOptions::new().reload();
        let error = rig.chain.with(&options).get_or_load("k", reload).await.unwrap_err();
        assert_eq!(error.source_as::<cache_chain::Error>().unwrap().kind(), ErrorKind::Cycle, "{error:#}");
        assert_eq!(rig.stats().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_serves_stale_values_leaves_its_load_running() {
    let rig = Rig::new(ServeStale::After(100 * MILLI)).await;
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
    let rig = Rig::new(ServeStale::IfLoadFails).await;
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

/// Another process has found out that there is no value.
#[tokio::test(start_paused = true)]
async fn the_news_that_there_is_no_value_does_not_replace_a_failed_load() {
    let rig = Rig::new(ServeStale::IfLoadFails).await;
    let (found, ()) = tokio::join!(rig.get(Load::Fails(SECOND)), async {
        settle().await;
        let none = || async { Ok::<_, io::Error>(None::<String>) };
        rig.chain.del("k").await.unwrap();
        assert_eq!(rig.chain.get_or_load("k", none).await.unwrap(), None);
    });
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Loader);
}

#[tokio::test]
async fn a_plain_read_gets_no_stale_value_that_is_too_old() {
    let rig = Rig::new(ServeStale::AtOnce).await;
    let options = CallOptions::new().serve_stale(ServeStale::AtOnce);
    let (old, young) = (options.clone().max_age(MINUTE), options.max_age(59 * SECOND));
    assert_eq!(rig.chain.with(&old).get("k").await.unwrap().as_deref(), Some("old"));
    assert_eq!(rig.chain.with(&young).get("k").await.unwrap(), None);
    assert_eq!(rig.chain.with(&young).get_many(["k"]).await.unwrap(), [None]);
}

/// Polls the call, and lets everything else go on.
async fn poll<T>(call: &mut Pin<Box<dyn Future<Output = T> + '_>>) -> Option<T> {
    let polled = std::future::poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    });
    let output = polled.await;
    settle().await;
    output
}

/// It expires when it has been read, and before the caller is polled.
#[tokio::test]
async fn a_value_that_expires_while_its_caller_is_not_polled_is_not_served() {
    for fails in [false, true] {
        let clock = ManualClock::new();
        let remote = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let settings = ReadThrough::new().stale_for(MINUTE).serve_stale(ServeStale::IfLoadFails);
        let chain = ChainCache::<String>::builder().clock(clock.shared()).tier(remote.clone()).read_through(settings);
        let chain = chain.build().unwrap();
        chain.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
        clock.advance(SECOND);
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
            assert!(poll(&mut call).await.is_none());
        }
        clock.advance(MINUTE);
        let found = call.await.map_err(|error| error.kind());
        assert_eq!(found, if fails { Err(ErrorKind::Loader) } else { Ok(None) });
    }
}

//! Nested calls: loaders, and closures of origins, that call a chain.

use std::{
    error::Error as StdError,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::support::settle;
use cache_chain::{ChainCache, Error, ErrorKind, ReadThrough, Result};
use cache_core::{
    Key, Origin,
    testkit::{Gate, MapStore, join_all},
};
use tokio::sync::Barrier;

type Chain = ChainCache<u64>;

fn chain() -> Chain {
    with(ReadThrough::new())
}

fn with(settings: ReadThrough) -> Chain {
    ChainCache::builder().tier(MapStore::new()).read_through(settings).build().unwrap()
}

type Loading<'a> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>>;

/// The error of a cycle, wherever it is among the causes of this one.
fn cycle_of(error: &Error) -> Option<&Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<Error>() {
            Some(found) if found.kind() == ErrorKind::Cycle => return Some(found),
            _ => cause = error.source(),
        }
    }
    None
}

fn message_of_cycle<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    cycle_of(&error).unwrap_or_else(|| panic!("no cycle: {error:?}")).to_string()
}

/// Generous: no test waits for it unless something hangs.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("it hangs")
}

#[tokio::test]
async fn a_loader_that_reads_its_own_key_fails_at_once() {
    let chain = chain();
    let own = chain.clone();
    let load = || async move { own.get_or_load("own", || async { Ok::<_, Error>(1) }).await };
    let message = message_of_cycle(in_time(chain.get_or_load("own", load)).await);
    assert!(message.contains(r#""own" -> "own";"#), "{message}");
    assert_eq!(chain.stats().loads.in_flight, 0);
}

/// Two requests whose loaders read each other's key, in one chain or in two.
async fn crossed(first: Chain, second: Chain) {
    let both = Arc::new(Barrier::new(2));
    let request = |chain: &Chain, own: &'static str, other_chain: &Chain, other: &'static str| {
        let (chain, other_chain, both) = (chain.clone(), other_chain.clone(), Arc::clone(&both));
        tokio::spawn(async move {
            let load = move || async move {
                both.wait().await;
                other_chain.get_or_load(other, || async { Ok::<_, Error>(0) }).await
            };
            chain.get_or_load(own, load).await
        })
    };
    let (one, two) = (request(&first, "one", &second, "two"), request(&second, "two", &first, "one"));
    for result in [in_time(one).await.unwrap(), in_time(two).await.unwrap()] {
        let message = message_of_cycle(result);
        assert!(message.contains(r#""one" -> "two" -> "one""#) || message.contains(r#""two" -> "one" -> "two""#));
    }
    assert_eq!((first.stats().loads.in_flight, second.stats().loads.in_flight), (0, 0));
}

#[tokio::test]
async fn two_loads_that_read_each_others_key_fail_at_once() {
    let chain = chain();
    crossed(chain.clone(), chain).await;
}

#[tokio::test]
async fn two_loads_that_read_each_others_key_in_two_chains_fail_at_once() {
    crossed(chain(), chain()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cycles_fail_at_once_on_many_threads() {
    for _ in 0..100 {
        let one = chain();
        crossed(one.clone(), one).await;
        crossed(chain(), chain()).await;
    }
}

/// A caller that only reads the key of another load is no cycle, though the load waits for others.
#[tokio::test]
async fn a_cycle_needs_more_than_a_shared_key() {
    let chain = chain();
    let load = |reads: Vec<&'static str>| {
        let chain = chain.clone();
        move || async move {
            for key in reads {
                chain.get_or_load(key, || async { Ok::<_, Error>(1) }).await?;
            }
            Ok::<_, Error>(2)
        }
    };
    let (left, right) = tokio::join!(
        chain.get_or_load("left", load(vec!["a", "b", "c"])),
        chain.get_or_load("right", load(vec!["c", "b", "a"]))
    );
    assert_eq!((left.unwrap(), right.unwrap()), (2, 2));
}

/// A long cycle is shown from both ends; a long key is cut, and what is no text is escaped.
#[tokio::test]
async fn the_message_of_a_cycle_is_short() {
    fn load(chain: Chain, number: usize) -> Loading<'static> {
        let mut key = vec![b'x'; 1000];
        key[0] = 0xff;
        key[1] = u8::try_from(b'a' as usize + number % 20).unwrap();
        let own = chain.clone();
        Box::pin(async move { chain.get_or_load(&key[..], move || load(own, number + 1)).await })
    }
    let message = message_of_cycle(in_time(load(chain(), 0)).await);
    assert!(message.contains(r"\xffax") && message.contains("(13 more)") && message.len() < 1500, "{message}");
}

#[tokio::test]
async fn an_origin_that_reads_its_own_chain_fails_at_once() {
    #[derive(Clone, Copy, Debug)]
    enum Call {
        Get,
        GetMany,
        Load,
        LoadMany,
    }
    async fn call(chain: &Chain, call: Call) -> Result<Option<u64>> {
        let one = || async { Ok::<_, Error>(Some(1)) };
        let many = |keys: Vec<&'static str>| async {
            Ok::<_, Error>(keys.into_iter().map(|key| (key, 1)).collect::<Vec<_>>())
        };
        match call {
            Call::Get => chain.get("k").await,
            Call::GetMany => chain.get_many(["k"]).await.map(|found| found[0]),
            Call::Load => chain.get_or_load("k", one).await,
            Call::LoadMany => chain.get_or_load_many(["k"], many).await.map(|found| found[0]),
        }
    }
    let calls = [Call::Get, Call::GetMany, Call::Load, Call::LoadMany];
    for (outer, inner) in calls.into_iter().flat_map(|outer| calls.map(|inner| (outer, inner))) {
        let itself = Arc::new(OnceLock::<Chain>::new());
        let met = Arc::new(AtomicUsize::new(0));
        let (chain, cycles) = (Arc::clone(&itself), Arc::clone(&met));
        let origin = Origin::new(move |_: Key| {
            let (chain, cycles) = (Arc::clone(&chain), Arc::clone(&cycles));
            async move {
                let found = call(chain.get().unwrap(), inner).await;
                if found.as_ref().is_err_and(|error| cycle_of(error).is_some()) {
                    cycles.fetch_add(1, SeqCst);
                }
                found
            }
        });
        let chain: Chain = ChainCache::builder().tier(MapStore::new()).tier(origin).build().unwrap();
        itself.set(chain.clone()).unwrap();
        let found = in_time(call(&chain, outer)).await;
        assert!(met.load(SeqCst) > 0, "{outer:?} of an origin that calls {inner:?}: {found:?}");
    }
}

#[tokio::test]
async fn a_batch_that_reads_one_of_its_keys_fails_at_once() {
    for many in [false, true] {
        let chain = chain();
        let inner = chain.clone();
        let load = move |keys: Vec<u64>| async move {
            if many {
                inner.get_or_load_many([keys[1]], |_| async { Ok::<_, Error>([(2, 2)]) }).await?;
            } else {
                inner.get_or_load(keys[1], || async { Ok::<_, Error>(2) }).await?;
            }
            Ok::<_, Error>([(1, 1)])
        };
        let message = message_of_cycle(in_time(chain.get_or_load_many([1, 2], load)).await);
        assert!(message.contains(r#""2" -> "2""#), "{message}");
        assert_eq!(chain.stats().loads.in_flight, 0);
    }
}

/// Counts its polls.
struct Counted<F>(F, Arc<AtomicUsize>);

impl<F: Future + Unpin> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.1.fetch_add(1, SeqCst);
        Pin::new(&mut self.0).poll(context)
    }
}

/// Each level of the graph waits for the two below. An event in one load wakes that load alone, and
/// its end wakes each waiter once.
#[tokio::test]
async fn the_cost_of_a_graph_of_loads_is_linear() {
    const LEVELS: u64 = 60;
    #[derive(Clone)]
    struct Levels {
        chain: Chain,
        calls: Arc<AtomicUsize>,
        polls: Arc<AtomicUsize>,
    }
    fn load(levels: Levels, level: u64) -> Loading<'static> {
        let below = levels.clone();
        let work = move || {
            below.calls.fetch_add(1, SeqCst);
            let polls = Arc::clone(&below.polls);
            let work: Loading = Box::pin(async move {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                if level < 2 {
                    return Ok(level);
                }
                let (one, two) = tokio::join!(load(below.clone(), level - 1), load(below.clone(), level - 2));
                Ok(one? + two?)
            });
            Counted(work, polls)
        };
        Box::pin(async move { levels.chain.get_or_load(level, work).await })
    }
    let levels = Levels { chain: chain(), calls: Arc::default(), polls: Arc::default() };
    assert_eq!(in_time(load(levels.clone(), LEVELS)).await.unwrap(), 1_548_008_755_920);
    let loads = usize::try_from(LEVELS).unwrap() + 1;
    assert_eq!(levels.calls.load(SeqCst), loads);
    // Its ten yields, its first poll, and one for the end of each of two loads. The timers add
    // none.
    let polls = levels.polls.load(SeqCst);
    assert!(polls <= 13 * loads, "{polls} polls");
}

/// Loaders that each load another key, all at the same time.
async fn nested(chain: &Chain, loads: u64) -> Vec<Result<u64>> {
    let all = Arc::new(Barrier::new(usize::try_from(loads).unwrap()));
    let load = |number: u64| {
        let (inner, all) = (chain.clone(), Arc::clone(&all));
        chain.get_or_load(number, move || async move {
            all.wait().await;
            inner.get_or_load(1_000_000 + number, move || async move { Ok::<_, Error>(number) }).await
        })
    };
    in_time(join_all((0..loads).map(load))).await
}

#[tokio::test]
async fn as_many_nested_loads_as_there_are_permits_succeed() {
    for (number, value) in nested(&chain(), 256).await.into_iter().enumerate() {
        assert_eq!(value.unwrap(), u64::try_from(number).unwrap());
    }
    let one = with(ReadThrough::new().concurrent_loads(1));
    assert_eq!(nested(&one, 1).await.remove(0).unwrap(), 0);
}

/// With one permit, loads nest as deep as they like, one by one and in batches.
#[tokio::test]
async fn nested_loads_take_no_permit() {
    fn deep(chain: Chain, left: u64) -> Loading<'static> {
        let inner = chain.clone();
        let below =
            move |left: u64| async move { if left == 0 { Ok(0) } else { Ok(1 + deep(inner, left - 1).await?) } };
        Box::pin(async move {
            if left.is_multiple_of(2) {
                chain.get_or_load(left, move || below(left)).await
            } else {
                let load = move |keys: Vec<u64>| async move { Ok::<_, Error>([(keys[0], below(keys[0]).await?)]) };
                Ok(chain.get_or_load_many([left], load).await?[0].unwrap())
            }
        })
    }
    let chain = with(ReadThrough::new().concurrent_loads(1));
    assert_eq!(in_time(deep(chain.clone(), 50)).await.unwrap(), 50);
    assert_eq!(chain.stats().loads.in_flight, 0);
}

/// A nested call may join a load that waits for a permit, also one of a batch, and through another
/// chain.
#[tokio::test]
async fn a_load_that_waits_for_its_turn_is_admitted_when_a_running_one_waits_for_it() {
    let other = with(ReadThrough::new().concurrent_loads(1));
    for path in ["one", "batch", "through another chain"] {
        let chain = with(ReadThrough::new().concurrent_loads(1));
        let gate = Gate::default();
        let (inner, passing, other) = (chain.clone(), gate.clone(), other.clone());
        let holder = chain.get_or_load("holder", move || async move {
            passing.passed().await;
            let never = || async { Ok::<_, Error>(0) };
            if path == "through another chain" {
                other.get_or_load("between", move || async move { inner.get_or_load("queued", never).await }).await
            } else {
                inner.get_or_load("queued", never).await
            }
        });
        let queued = async {
            settle().await;
            if path == "batch" {
                let load = |keys: Vec<&'static str>| async move { Ok::<_, Error>([(keys[0], 7)]) };
                chain.get_or_load_many(["queued"], load).await.map(|found| found[0].unwrap())
            } else {
                chain.get_or_load("queued", || async { Ok::<_, Error>(7) }).await
            }
        };
        let (held, waited, ()) = in_time(async {
            tokio::join!(holder, queued, async {
                settle().await;
                settle().await;
                gate.open();
            })
        })
        .await;
        assert_eq!((held.unwrap(), waited.unwrap()), (7, 7), "{path}");
    }
}

/// The permit is lent along all waits: the load that is joined may itself wait for one that is
/// queued.
#[tokio::test]
async fn a_permit_is_lent_along_a_chain_of_waits() {
    let (one, two) = (with(ReadThrough::new().concurrent_loads(1)), chain());
    let gate = Gate::default();
    let (inner, passing) = (two.clone(), gate.clone());
    let holder = one.get_or_load("holder", move || async move {
        passing.passed().await;
        inner.get_or_load("between", || async { Ok::<_, Error>(0) }).await
    });
    let inner = one.clone();
    // Begins, and waits for the queue of the first chain, before the holder waits for it.
    let between =
        two.get_or_load("between", || async move { inner.get_or_load("queued", || async { Ok::<_, Error>(7) }).await });
    let (held, between, ()) = in_time(async {
        tokio::join!(
            holder,
            async {
                settle().await;
                between.await
            },
            async {
                settle().await;
                settle().await;
                gate.open();
            }
        )
    })
    .await;
    assert_eq!((held.unwrap(), between.unwrap()), (7, 7));
}

/// A caller that is kept and not polled holds up nobody: neither those who wait with it nor those
/// who wait for its permit.
#[tokio::test]
async fn a_caller_that_is_not_polled_holds_up_nobody() {
    let chain = with(ReadThrough::new().concurrent_loads(1));
    let gate = Gate::default();
    let passing = gate.clone();
    let mut kept = pin!(chain.get_or_load("k", move || async move {
        passing.passed().await;
        Ok::<_, Error>(1)
    }));
    assert!(kept.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    gate.open();
    assert_eq!(in_time(chain.get_or_load("k", || async { Ok::<_, Error>(2) })).await.unwrap(), 1);
    assert_eq!(in_time(chain.get_or_load("other", || async { Ok::<_, Error>(3) })).await.unwrap(), 3);
}

/// A loader that has given up a nested call does not wait for it any more.
#[tokio::test]
async fn a_nested_call_that_was_given_up_is_no_part_of_a_cycle() {
    let chain = chain();
    let (begin, end) = (Gate::default(), Gate::default());
    let (inner, gate) = (chain.clone(), begin.clone());
    let below = chain.get_or_load("below", move || async move {
        gate.passed().await;
        inner.get_or_load("above", || async { Ok::<_, Error>(0) }).await
    });
    let (inner, gate) = (chain.clone(), end.clone());
    let above = chain.get_or_load("above", move || async move {
        {
            let mut given_up = pin!(inner.get_or_load("below", || async { Ok::<_, Error>(0) }));
            assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        gate.passed().await;
        Ok::<_, Error>(7)
    });
    let both = async {
        tokio::join!(
            below,
            async {
                settle().await;
                above.await
            },
            async {
                settle().await;
                settle().await;
                begin.open();
                settle().await;
                end.open();
            }
        )
    };
    let (below, above, ()) = in_time(both).await;
    assert_eq!((below.unwrap(), above.unwrap()), (7, 7));
}

/// A load lends the permit of its own chain alone: the bound of another chain holds for nested
/// loads, too.
#[tokio::test]
async fn no_permit_is_lent_to_a_load_of_another_chain() {
    let (one, two) = (chain(), with(ReadThrough::new().concurrent_loads(1)));
    let (gate, begun) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let passing = gate.clone();
    let running = two.get_or_load("running", move || async move {
        passing.passed().await;
        Ok::<_, Error>(1)
    });
    let (inner, counted) = (two.clone(), Arc::clone(&begun));
    let outer = one.get_or_load("outer", move || async move {
        let load = move || async move {
            counted.fetch_add(1, SeqCst);
            Ok::<_, Error>(2)
        };
        inner.get_or_load("queued", load).await
    });
    let all = async {
        tokio::join!(
            running,
            async {
                settle().await;
                outer.await
            },
            async {
                settle().await;
                settle().await;
                assert_eq!(begun.load(SeqCst), 0, "it takes a permit");
                gate.open();
            }
        )
    };
    let (running, outer, ()) = in_time(all).await;
    assert_eq!((running.unwrap(), outer.unwrap()), (1, 2));
}

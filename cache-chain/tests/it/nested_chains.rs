//! Loaders of several chains that load from each other's chains.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::settle;
use cache_chain::{ChainCache, Error, ReadThrough, Result};
use cache_core::testkit::{Gate, MapStore, Schedules, join_all};
use tokio::sync::Barrier;

type Chain = ChainCache<u64>;

type Loading = Pin<Box<dyn Future<Output = Result<u64>> + Send>>;

fn with_permits(permits: usize) -> Chain {
    let settings = ReadThrough::new().concurrent_loads(permits);
    ChainCache::builder().tier(MapStore::new()).read_through(settings).build().unwrap()
}

/// Shorter than the timeouts of a chain, so that these rescue no load.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("it hangs")
}

/// A part of the keys, so that no run finds those of another in a chain.
fn next_run() -> usize {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    RUNS.fetch_add(1, SeqCst)
}

/// So many loads of each chain at the same time. Each loads a key of the next chain, the last
/// chain's of the first.
async fn ring(chains: &[Chain], loads: usize) {
    let run = next_run();
    let all = Arc::new(Barrier::new(chains.len() * loads));
    let outer = chains.iter().zip(chains.iter().cycle().skip(1)).flat_map(|(chain, next)| {
        let all = &all;
        (0..loads).map(move |number| {
            let (next, all) = (next.clone(), Arc::clone(all));
            chain.get_or_load(("outer", run, number), move || async move {
                all.wait().await;
                next.get_or_load(("inner", run, number), || async { Ok::<_, Error>(7) }).await
            })
        })
    });
    for value in in_time(join_all(outer)).await {
        assert_eq!(value.unwrap(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn two_chains_with_one_permit_each_do_not_starve_each_other() {
    ring(&[with_permits(1), with_permits(1)], 1).await;
}

#[tokio::test(start_paused = true)]
async fn two_chains_whose_permits_are_all_taken_do_not_starve_each_other() {
    let default = || ChainCache::builder().tier(MapStore::new()).build().unwrap();
    let chains = [default(), default()];
    ring(&chains, 256).await;
    assert!(chains.iter().all(|chain| chain.stats().loads.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn three_chains_in_a_ring_do_not_starve_each_other() {
    ring(&[with_permits(1), with_permits(1), with_permits(1)], 1).await;
    ring(&[with_permits(2), with_permits(3), with_permits(1)], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chains_do_not_starve_each_other_on_many_threads() {
    for _ in 0..50 {
        ring(&[with_permits(4), with_permits(4)], 4).await;
        ring(&[with_permits(2), with_permits(2), with_permits(2)], 2).await;
    }
}

/// A loader that counts how often it runs at the same time.
fn counted(running: &Arc<AtomicUsize>, most: &Arc<AtomicUsize>) -> impl FnOnce() -> Loading + Send + use<> {
    let (running, most) = (Arc::clone(running), Arc::clone(most));
    move || {
        Box::pin(async move {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            settle().await;
            running.fetch_sub(1, SeqCst);
            Ok(7)
        })
    }
}

/// How many loads of a chain run at once if so many loads of another chain wait for them.
async fn most_at_once(outer: &Chain, inner: &Chain, loads: usize) -> usize {
    let (run, running, most) = (next_run(), Arc::default(), Arc::default());
    let load = |number: usize| {
        let (inner, load) = (inner.clone(), counted(&running, &most));
        let load = move || async move { inner.get_or_load(("below", run, number), load).await };
        outer.get_or_load(("above", run, number), load)
    };
    for value in in_time(join_all((0..loads).map(load))).await {
        assert_eq!(value.unwrap(), 7);
    }
    most.load(SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_others_load_from_keeps_its_bound() {
    assert_eq!(most_at_once(&with_permits(256), &with_permits(2), 64).await, 2);
    assert_eq!(most_at_once(&with_permits(1), &with_permits(2), 64).await, 1);
}

/// Also if those that load from it load from each other, and after it has itself been part of a
/// ring.
#[tokio::test(start_paused = true)]
async fn only_chains_of_a_ring_exceed_their_bounds() {
    let (one, two, below) = (with_permits(16), with_permits(16), with_permits(2));
    let (rings, most) = tokio::join!(
        async {
            ring(&[one.clone(), two.clone()], 8).await;
            ring(&[with_permits(1), with_permits(1)], 1).await;
        },
        most_at_once(&one, &below, 8)
    );
    assert_eq!((rings, most), ((), 2));
    ring(&[one.clone(), below.clone()], 2).await;
    assert_eq!(most_at_once(&with_permits(256), &below, 64).await, 2);
    assert_eq!(most_at_once(&one, &below, 64).await, 2);
}

/// The wait that closes the ring of chains admits the loads that are queued already, and not
/// before.
#[tokio::test(start_paused = true)]
async fn loads_that_were_queued_before_the_ring_closed_are_admitted() {
    let (one, two) = (with_permits(1), with_permits(1));
    let (first, second, begun) = (Gate::default(), Gate::default(), Arc::new(AtomicUsize::new(0)));
    let queued = |chain: &Chain, key: &'static str| {
        let (chain, begun) = (chain.clone(), Arc::clone(&begun));
        async move {
            let load = move || async move {
                begun.fetch_add(1, SeqCst);
                Ok::<_, Error>(7)
            };
            chain.get_or_load(key, load).await
        }
    };
    let holder = |chain: &Chain, gate: &Gate, inner| {
        let (chain, gate) = (chain.clone(), gate.clone());
        async move {
            let load = move || async move {
                gate.passed().await;
                inner.await
            };
            chain.get_or_load("holder", load).await
        }
    };
    let holders = [holder(&one, &first, queued(&two, "of two")), holder(&two, &second, queued(&one, "of one"))];
    // Both queues are joined by the holder of the other chain's permit.
    let plain = [queued(&one, "of one"), queued(&two, "of two")];
    let steps = async {
        settle().await;
        first.open();
        settle().await;
        assert_eq!(begun.load(SeqCst), 0, "they take permits");
        second.open();
    };
    let plain = async {
        settle().await;
        join_all(plain).await
    };
    let (held, waited, ()) = in_time(Box::pin(async { tokio::join!(join_all(holders), plain, steps) })).await;
    for value in held.into_iter().chain(waited) {
        assert_eq!(value.unwrap(), 7);
    }
    assert_eq!(begun.load(SeqCst), 2);
}

/// Keys of several chains, each of which reads some of the keys before it, by one call or by
/// several, one by one or together.
#[derive(Clone)]
struct Graph {
    chains: Arc<[Chain]>,
    /// For each key, what it reads.
    reads: Arc<[Vec<usize>]>,
}

impl Graph {
    fn new(choices: &mut Schedules) -> Self {
        let chains = (0..2 + choices.choose(3)).map(|_| with_permits(1 + choices.choose(2))).collect();
        let keys = 40;
        let reads =
            (0..keys).map(|key| (0..choices.choose(4).min(key)).map(|_| choices.choose(key)).collect()).collect();
        Self { chains, reads }
    }

    fn load(&self, key: usize) -> Loading {
        let chain = self.chains[key % self.chains.len()].clone();
        let (of_one, of_batch) = (self.clone(), self.clone());
        Box::pin(async move {
            if key.is_multiple_of(3) {
                let load = move |_: Vec<usize>| async move { Ok::<_, Error>([(key, of_batch.below(key).await?)]) };
                Ok(chain.get_or_load_many([key], load).await?[0].unwrap())
            } else {
                chain.get_or_load(key, move || async move { of_one.below(key).await }).await
            }
        })
    }

    async fn below(&self, key: usize) -> Result<u64> {
        settle().await;
        let reads = self.reads[key].iter().map(|&key| self.load(key));
        let values = if key.is_multiple_of(2) {
            join_all(reads).await
        } else {
            let mut values = Vec::new();
            for value in reads {
                values.push(value.await);
            }
            values
        };
        values.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(7)
    }
}

async fn all_graphs_come_to_an_end(graphs: usize) {
    let mut choices = Schedules::random(7, graphs);
    while choices.next() {
        let graph = Graph::new(&mut choices);
        let keys = (0..graph.reads.len()).rev();
        let loads = keys.map(|key| tokio::spawn(graph.load(key)));
        for value in in_time(join_all(loads)).await {
            assert!(matches!(value, Ok(Ok(7))), "{:?}: {value:?}", choices.path());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn loads_without_a_cycle_of_keys_come_to_an_end() {
    all_graphs_come_to_an_end(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loads_without_a_cycle_of_keys_come_to_an_end_on_many_threads() {
    all_graphs_come_to_an_end(100).await;
}

//! What a hit costs, side by side: plain stretto with its own hashing, our store on stretto, a chain
//! with it in front, and a chain that keeps it coherent with a shared tier.
//!
//! `cargo run --release --example hit_cost`

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use cache_chain::{ChainCache, Coherence};
use cache_core::{
    Clock, Entry, Expiry, Key, LocalStore, SystemClock, Ttl,
    testkit::{MapStore, SharedMap},
};
use store_stretto::StrettoStore;

const KEYS: usize = 1_000;
const READS: u32 = 20_000;
const ROUNDS: usize = 500;

type Value = std::sync::Arc<str>;

#[tokio::main]
async fn main() -> cache_core::Result<()> {
    let names: Vec<String> = (0..KEYS).map(|n| format!("users:{n}")).collect();
    let keys = Key::many(&names)?;

    let store = StrettoStore::<Value>::new(100_000)?;
    let mortal = StrettoStore::<Value>::new(100_000)?;
    let plain = stretto::Cache::<String, Value>::new(1_000_000, 100_000).expect("the sizes are fit");
    let plain_mortal = stretto::Cache::<String, Value>::new(1_000_000, 100_000).expect("the sizes are fit");
    let hour = Expiry::after(SystemClock.now(), Ttl::After(Duration::from_secs(3600)));
    for (name, key) in names.iter().zip(&keys) {
        drop(store.insert(key, Entry::new("value".into(), Expiry::Never), 1)?);
        drop(mortal.insert(key, Entry::new("value".into(), hour), 1)?);
        plain.insert(name.clone(), "value".into(), 1);
        plain_mortal.insert_with_ttl(name.clone(), "value".into(), 1, Duration::from_secs(3600));
    }
    store.wait()?;
    mortal.wait()?;
    plain.wait().expect("it runs");
    plain_mortal.wait().expect("it runs");
    let chain = ChainCache::builder().tier(store.clone()).tier(MapStore::new()).build()?;
    let alone = shared_chain(&names, false).await?;
    let coherent = shared_chain(&names, true).await?;
    let load = || async { Err::<Value, _>(std::io::Error::other("not needed")) };
    let store: &dyn LocalStore<Value = Value> = &store;
    let mortal: &dyn LocalStore<Value = Value> = &mortal;

    // The rounds take turns, so that what else the machine does strikes all of them; the fastest
    // round of each counts.
    let mut best = [f64::INFINITY; 10];
    for _ in 0..ROUNDS {
        let round = [
            nanos(|at| plain.get(&names[at]).map(|value| value.value().clone())),
            nanos(|at| store.get(&keys[at]).and_then(Entry::into_value)),
            nanos(|at| plain_mortal.get(&names[at]).map(|value| value.value().clone())),
            nanos(|at| mortal.get(&keys[at]).and_then(Entry::into_value)),
            nanos(|at| store.get(&Key::new(&names[at]).ok()?).and_then(Entry::into_value)),
            nanos(|at| at_once(chain.get(&names[at]))),
            nanos(|at| at_once(chain.get(("users", at)))),
            nanos(|at| at_once(async { chain.get_or_load(&names[at], load).await.map(Some) })),
            nanos(|at| at_once(alone.get(&names[at]))),
            nanos(|at| at_once(coherent.get(&names[at]))),
        ];
        for (best, round) in best.iter_mut().zip(round) {
            *best = best.min(round);
        }
    }
    let labels = [
        "plain stretto, its own hashing",
        "store-stretto, the key ready",
        "plain stretto, entries that expire",
        "store-stretto, entries that expire",
        "store-stretto, the key built as well",
        "chain, a string as the key",
        "chain, a tuple as the key",
        "chain, get_or_load, a string",
        "chain over a shared tier, no stream",
        "coherent chain over a shared tier",
    ];
    for (label, nanos) in labels.into_iter().zip(best) {
        println!("{label:36} {nanos:6.1} ns, {:4.2} times plain stretto", nanos / best[0]);
    }
    Ok(())
}

/// Returns a chain of stretto over a shared tier, which holds the names.
async fn shared_chain(names: &[String], is_coherent: bool) -> cache_core::Result<ChainCache<Value>> {
    let builder = ChainCache::builder().tier(StrettoStore::new(100_000)?).tier(SharedMap::new());
    // The stream of this shared tier has no heartbeats.
    let coherence = Coherence::new().heartbeat(Duration::from_secs(3600));
    let builder = if is_coherent { builder.coherence(coherence) } else { builder.no_coherence() };
    let chain = builder.build()?;
    while is_coherent && !chain.stats().coherence.trusted {
        tokio::task::yield_now().await;
    }
    chain.set_many(names.iter().map(|name| (name, Value::from("value")))).await?;
    // The echo of a write is checked at the first read.
    for _ in 0..2 {
        chain.get_many(names).await?;
        chain.wait().await?;
    }
    Ok(chain)
}

/// A hit in the first tier is there at the first poll.
fn at_once(get: impl Future<Output = cache_core::Result<Option<Value>>>) -> Option<Value> {
    match pin!(get).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(found) => found.ok().flatten(),
        Poll::Pending => None,
    }
}

/// The time of one read, over a hot set.
fn nanos(read: impl Fn(usize) -> Option<Value>) -> f64 {
    let start = Instant::now();
    let mut at = 0;
    for _ in 0..READS {
        assert!(black_box(read(black_box(at))).is_some());
        at = (at + 1) % KEYS;
    }
    start.elapsed().as_nanos() as f64 / f64::from(READS)
}

//! What a hit costs, side by side: the plain caches with their own hashing, our stores on them, chains
//! with these in front, and a chain that keeps its first tier coherent with a shared tier.
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
use store_moka::MokaStore;
use store_quick_cache::QuickCacheStore;
use store_stretto::StrettoStore;

const KEYS: usize = 1_000;
const READS: u32 = 20_000;
const ROUNDS: usize = 500;

type Value = std::sync::Arc<str>;

/// Reads the entry of the key in this place.
type Read<'a> = Box<dyn Fn(usize) -> Option<Value> + 'a>;

#[tokio::main]
async fn main() -> cache_core::Result<()> {
    let names: Vec<String> = (0..KEYS).map(|n| format!("users:{n}")).collect();
    let keys = Key::many(&names)?;
    let hour = Expiry::after(SystemClock.now(), Ttl::After(Duration::from_secs(3600)));

    let plain_stretto = stretto::Cache::<String, Value>::new(1_000_000, 100_000).expect("the sizes are valid");
    let plain_quick = quick_cache::sync::Cache::<String, Value>::new(100_000);
    let plain_moka = moka::sync::Cache::<String, Value>::new(100_000);
    for name in &names {
        plain_stretto.insert(name.clone(), "value".into(), 1);
        plain_quick.insert(name.clone(), "value".into());
        plain_moka.insert(name.clone(), "value".into());
    }
    plain_stretto.wait().expect("it runs");
    plain_moka.run_pending_tasks();
    let stretto = StrettoStore::<Value>::new(100_000)?;
    let quick = QuickCacheStore::<Value>::new(100_000)?;
    let moka = MokaStore::<Value>::new(100_000)?;
    let mortal = QuickCacheStore::<Value>::new(100_000)?;
    let never: Box<dyn Fn() -> Entry<Value>> = Box::new(|| Entry::new("value".into(), Expiry::Never));
    fill(&stretto, &keys, &never)?;
    fill(&quick, &keys, &never)?;
    fill(&moka, &keys, &never)?;
    fill(&mortal, &keys, &|| Entry::new("value".into(), hour))?;
    let on_stretto = ChainCache::builder().tier(stretto.clone()).tier(MapStore::new()).build()?;
    let on_quick = ChainCache::builder().tier(quick.clone()).tier(MapStore::new()).build()?;
    let on_moka = ChainCache::builder().tier(moka.clone()).tier(MapStore::new()).build()?;
    let on_mortal = ChainCache::builder().tier(mortal).tier(MapStore::new()).build()?;
    let alone = shared_chain(&names, false).await?;
    let coherent = shared_chain(&names, true).await?;
    let load = || async { Err::<Value, _>(std::io::Error::other("not needed")) };
    let local: [&dyn LocalStore<Value = Value>; 3] = [&stretto, &quick, &moka];

    let of_store = |store: usize| {
        let keys = &keys;
        move |at: usize| local[store].get(&keys[at]).and_then(Entry::into_value)
    };
    let rows: Vec<(&str, Read<'_>)> = vec![
        ("plain quick_cache", Box::new(|at| plain_quick.get(&names[at]))),
        ("store-quick-cache, the key ready", Box::new(of_store(1))),
        ("chain on quick_cache, string", Box::new(|at| at_once(on_quick.get(&names[at])))),
        ("chain on quick_cache, entries expire", Box::new(|at| at_once(on_mortal.get(&names[at])))),
        (
            "chain on quick_cache, get_or_load",
            Box::new(|at| at_once(async { on_quick.get_or_load(&names[at], load).await.map(Some) })),
        ),
        ("plain stretto", Box::new(|at| plain_stretto.get(&names[at]).map(|value| value.value().clone()))),
        ("store-stretto, the key ready", Box::new(of_store(0))),
        ("chain on stretto, string", Box::new(|at| at_once(on_stretto.get(&names[at])))),
        ("plain moka", Box::new(|at| plain_moka.get(&names[at]))),
        ("store-moka, the key ready", Box::new(of_store(2))),
        ("chain on moka, string", Box::new(|at| at_once(on_moka.get(&names[at])))),
        ("over a shared tier, no stream", Box::new(|at| at_once(alone.get(&names[at])))),
        ("over a shared tier, coherent", Box::new(|at| at_once(coherent.get(&names[at])))),
    ];
    // The rounds take turns, so that what else the machine does strikes all of them; the fastest
    // round of each counts.
    let mut best = vec![f64::INFINITY; rows.len()];
    for _ in 0..ROUNDS {
        for (best, (_, read)) in best.iter_mut().zip(&rows) {
            *best = best.min(nanos(read));
        }
    }
    for ((label, _), nanos) in rows.iter().zip(&best) {
        println!("{label:38} {nanos:6.1} ns, {:5.2} times plain quick_cache", nanos / best[0]);
    }
    Ok(())
}

fn fill(
    store: &impl LocalStore<Value = Value>,
    keys: &[Key],
    entry: &dyn Fn() -> Entry<Value>,
) -> cache_core::Result<()> {
    for key in keys {
        drop(store.insert(key, entry(), 1)?);
    }
    store.wait()
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
fn nanos(read: &dyn Fn(usize) -> Option<Value>) -> f64 {
    let start = Instant::now();
    let mut at = 0;
    for _ in 0..READS {
        assert!(black_box(read(black_box(at))).is_some());
        at = (at + 1) % KEYS;
    }
    start.elapsed().as_nanos() as f64 / f64::from(READS)
}

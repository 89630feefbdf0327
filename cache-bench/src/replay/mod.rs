//! Replays a trace of accesses through a chain with each first tier.

mod bounds;
mod trace;

use std::{fmt, io, path::PathBuf};

use cache_chain::ChainCache;
use cache_core::LocalStore;
use indicatif::{ProgressBar, ProgressStyle};
use store_moka::MokaStore;
use store_quick_cache::QuickCacheStore;
use store_stretto::StrettoStore;

use self::trace::Trace;

/// Replays a trace, and prints the hit ratio of each first tier, of exact LRU and of the optimum.
#[derive(clap::Args)]
pub(crate) struct Replay {
    /// A trace: ARC `.lis` files (first block, number of blocks, two ignored fields), or one key per
    /// line; `.zst` is decompressed
    file: PathBuf,
    /// The capacities, in entries
    #[arg(long, value_delimiter = ',', default_value = "1000,2000,20000")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    capacities: Vec<u64>,
    /// Replays only so many requests
    #[arg(long)]
    limit: Option<usize>,
    /// Also divides `quick_cache` into so many shards
    #[arg(long, value_delimiter = ',')]
    shards: Vec<u32>,
}

/// The result of one replay.
struct Row {
    name: String,
    capacity: u64,
    hits: u64,
    requests: u64,
    /// The most entries that it has held at once, in relation to its capacity. 0 if it was not
    /// sampled.
    residency: f64,
}

/// The number of requests between two samples of the number of entries.
const SAMPLE: usize = 100;

type Value = u64;

impl Replay {
    pub(crate) async fn run(self) -> io::Result<()> {
        let mut trace = Trace::read(&self.file)?;
        trace.truncate(self.limit.unwrap_or(usize::MAX));
        let subjects = 4 + self.shards.len();
        let bar = ProgressBar::new((subjects + 1) as u64 * self.capacities.len() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}").expect("a valid template"));
        println!("{}: {} requests, {} keys", self.file.display(), trace.len(), trace.keys());
        for capacity in &self.capacities {
            let mut rows = Vec::new();
            let lru = bounds::lru(&trace, *capacity);
            rows.push(Row::of_hits("exact LRU", &trace, *capacity, lru));
            bar.inc(1);
            let optimum = bounds::optimum(&trace, *capacity);
            rows.push(Row::of_hits("optimum (Bélády)", &trace, *capacity, optimum));
            bar.inc(1);
            let quick = || QuickCacheStore::builder().capacity(*capacity);
            rows.push(replay("quick_cache", &trace, quick().build(), QuickCacheStore::len, &bar).await);
            for shards in &self.shards {
                let name = format!("quick_cache, {shards} shards");
                rows.push(replay(&name, &trace, quick().shards(*shards).build(), QuickCacheStore::len, &bar).await);
            }
            // To count moka's entries makes it evict.
            rows.push(replay("moka", &trace, MokaStore::new(*capacity), |_: &MokaStore<_>| 0, &bar).await);
            rows.push(replay("stretto", &trace, StrettoStore::new(*capacity), StrettoStore::len, &bar).await);
            bar.suspend(|| rows.iter().for_each(|row| println!("{row}")));
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Reads each key of the trace through a chain of this store and a loader.
async fn replay<S: LocalStore<Value = Value> + Clone>(
    name: &str,
    trace: &Trace,
    store: cache_core::Result<S>,
    len: impl Fn(&S) -> u64,
    bar: &ProgressBar,
) -> Row {
    let store = store.expect("the capacity is valid");
    let capacity = LocalStore::profile(&store).entries;
    let chain = ChainCache::builder().tier(store.clone()).build().expect("a valid chain");
    bar.set_message(format!("{name}, {capacity} entries"));
    let mut most = 0;
    for (at, key) in trace.requests().iter().copied().enumerate() {
        chain.get_or_load(key, move || async move { Ok::<_, io::Error>(key) }).await.expect("the loader has it");
        if at % SAMPLE == 0 {
            most = most.max(len(&store));
        }
    }
    bar.inc(1);
    let hits = chain.stats().tiers[0].hits;
    Row { residency: most as f64 / capacity as f64, ..Row::of_hits(name, trace, capacity, hits) }
}

impl Row {
    fn of_hits(name: &str, trace: &Trace, capacity: u64, hits: u64) -> Self {
        Self { name: name.to_owned(), capacity, hits, requests: trace.len() as u64, residency: 0.0 }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, capacity, hits, requests, residency } = self;
        write!(f, "{capacity:>7} {name:<24} {:>7.2} %", 100.0 * *hits as f64 / *requests as f64)?;
        if *residency > 0.0 { write!(f, "  at most {residency:.3} x capacity") } else { Ok(()) }
    }
}

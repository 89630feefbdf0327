//! Replays a trace of accesses through a chain with each first tier.

mod bounds;
mod trace;

use std::{io, path::PathBuf};

use cache_chain::ChainCache;
use cache_core::LocalStore;
use indicatif::{ProgressBar, ProgressStyle};
use store_moka::MokaStore;
use store_quick_cache::QuickCacheStore;
use store_stretto::StrettoStore;

use self::trace::Trace;
use crate::measure::{Output, Sample, Table};

/// Replays a trace, and prints the hit ratio of each first tier, of exact LRU and of the optimum.
#[derive(clap::Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    output: Output,
    /// A trace: ARC `.lis` files (first block, number of blocks, two ignored fields), or one key per
    /// line; `.zst` is decompressed
    file: PathBuf,
    /// The lines are fields separated by commas, of which this one is the key; the first field is 1
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    column: Option<u16>,
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

/// A row of the table: a name and its only sample.
type Row = (String, Vec<Sample>);

/// The number of requests between two samples of the number of entries.
const SAMPLE: usize = 100;

type Value = u64;

impl Replay {
    pub(crate) async fn run(self) -> io::Result<()> {
        let mut trace = Trace::read(&self.file, self.column.map(usize::from))?;
        trace.truncate(self.limit.unwrap_or(usize::MAX));
        let subjects = 5 + self.shards.len();
        let bar = ProgressBar::new(subjects as u64 * self.capacities.len() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}").expect("a valid template"));
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let title = format!("{name}: {} requests of {} keys", trace.len(), trace.keys());
        for &capacity in &self.capacities {
            let mut rows = Vec::new();
            rows.push(row("exact LRU", &trace, bounds::lru(&trace, capacity)));
            bar.inc(1);
            rows.push(row("optimum (Bélády)", &trace, bounds::optimum(&trace, capacity)));
            bar.inc(1);
            let quick = || QuickCacheStore::builder().capacity(capacity);
            rows.push(replay("quick_cache", &trace, quick().build(), Some(QuickCacheStore::len), &bar).await);
            for &shards in &self.shards {
                let store = quick().shards(shards).build();
                let name = format!("quick_cache, {shards} shards");
                rows.push(replay(&name, &trace, store, Some(QuickCacheStore::len), &bar).await);
            }
            // To count moka's entries makes it evict.
            rows.push(replay("moka", &trace, MokaStore::new(capacity), None, &bar).await);
            rows.push(replay("stretto", &trace, StrettoStore::new(capacity), Some(StrettoStore::len), &bar).await);
            let table = Table::of(format!("{title}, {capacity} entries"), "hits, %", &rows);
            bar.suspend(|| self.output.print(&table))?;
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
    len: Option<fn(&S) -> u64>,
    bar: &ProgressBar,
) -> Row {
    let store = store.expect("the capacity is valid");
    let capacity = LocalStore::profile(&store).entries;
    let chain = ChainCache::builder().tier(store.clone()).build().expect("a valid chain");
    bar.set_message(format!("{name}, {capacity} entries"));
    let mut most = None;
    for (at, key) in trace.requests().iter().copied().enumerate() {
        chain.get_or_load(key, move || async move { Ok::<_, io::Error>(key) }).await.expect("the loader has it");
        if at % SAMPLE == 0 {
            most = most.max(len.map(|len| len(&store)));
        }
    }
    bar.inc(1);
    let (name, samples) = row(name, trace, chain.stats().tiers[0].hits);
    let residency = most.map(|most| most as f64 / capacity as f64);
    (name, samples.into_iter().map(|sample| sample.with_some("residency at most", residency)).collect())
}

fn row(name: &str, trace: &Trace, hits: u64) -> Row {
    (name.to_owned(), vec![Sample::of(100.0 * hits as f64 / trace.len() as f64)])
}

//! What asynchronous backfill costs the readers.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use cache_chain::{BackfillStats, ChainBuilder, ChainCache};
use cache_core::testkit::SharedMap;
use store_quick_cache::QuickCacheStore;

use crate::{
    keys,
    measure::{Contest, Options, Sample, in_task, per_call, throughput},
    peers::Text,
};

/// Measures reads that find the entry in the second tier, which is not local, and so queue a
/// backfill of the first; and a flood of such reads, which fills the queue.
#[derive(clap::Args)]
pub(crate) struct Backfill {
    #[command(flatten)]
    options: Options,
    /// The reads of one round; each is of another key
    #[arg(long, default_value_t = 100_000)]
    calls: usize,
    /// The numbers of tasks of the flood
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    tasks: Vec<usize>,
    /// The sizes of the queue in the flood
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,200000")]
    queues: Vec<usize>,
}

impl Backfill {
    pub(crate) async fn run(self) -> io::Result<()> {
        let names: Arc<[String]> = keys::names(0..self.calls).into();
        let shared = SharedMap::<Text>::new();
        let filler = ChainCache::builder().tier(shared.clone()).no_coherence().build().map_err(io::Error::other)?;
        filler.set_many(names.iter().map(|name| (name, Text::from("value")))).await.map_err(io::Error::other)?;
        self.readers(&shared, &names).await?;
        for &tasks in &self.tasks {
            self.flood(&shared, &names, tasks).await?;
        }
        Ok(())
    }

    /// One task reads in chunks, between which it waits until the queue is empty.
    async fn readers(&self, shared: &SharedMap<Text>, names: &Arc<[String]>) -> io::Result<()> {
        let mut contest = Contest::new("Backfill: reads of entries in the second tier", "ns");
        for (name, has_first) in [("no tier above", false), ("quick_cache above", true)] {
            contest.add(name, move || async move {
                let chain = built(above(has_first, self.calls).tier(shared.clone()));
                let (reading, applied) = in_task(read_in_chunks(chain.clone(), Arc::clone(names))).await;
                let sample = per_call(reading, names.len()).with("until applied", per_call(applied, names.len()).value);
                with_counts(sample, &chain, names.len())
            });
        }
        contest.add("quick_cache above, a hit there", move || async move {
            let chain = built(above(true, self.calls).tier(shared.clone()));
            in_task(read_in_chunks(chain.clone(), Arc::clone(names))).await;
            let (reading, _) = in_task(read_in_chunks(chain, Arc::clone(names))).await;
            per_call(reading, names.len())
        });
        contest.run(&self.options).await.map(drop)
    }

    /// Tasks read without a pause.
    async fn flood(&self, shared: &SharedMap<Text>, names: &Arc<[String]>, tasks: usize) -> io::Result<()> {
        let mut contest = Contest::new(format!("Backfill: a flood of reads by {tasks} tasks"), "reads/s");
        let chains = [("no tier above".to_owned(), false, 1)].into_iter();
        let queues = self.queues.iter().map(|&items| (format!("quick_cache above, a queue of {items}"), true, items));
        for (name, has_first, items) in chains.chain(queues) {
            contest.add(name, move || async move {
                let chain = built(above(has_first, self.calls).tier(shared.clone()).backfill_items(items));
                let (names, reader) = (Arc::clone(names), chain.clone());
                let calls = names.len() / tasks;
                let rate = throughput(tasks, calls, move |at| {
                    let (chain, names) = (reader.clone(), Arc::clone(&names));
                    async move { assert!(chain.get(&names[at]).await.expect("an answer").is_some()) }
                });
                let rate = rate.await;
                chain.wait().await.expect("it runs");
                with_counts(Sample::of(rate), &chain, calls * tasks)
            });
        }
        contest.run(&self.options).await.map(drop)
    }
}

/// The tiers above the shared one.
fn above(has_first: bool, entries: usize) -> ChainBuilder<Text> {
    let builder = ChainCache::builder().no_coherence();
    if has_first { builder.tier(QuickCacheStore::new(2 * entries as u64).expect("a valid capacity")) } else { builder }
}

fn built(builder: ChainBuilder<Text>) -> ChainCache<Text> {
    builder.build().expect("a valid chain")
}

/// Returns the time of the reads, and the time until their backfills had been applied.
async fn read_in_chunks(chain: ChainCache<Text>, names: Arc<[String]>) -> (Duration, Duration) {
    let (mut reading, started) = (Duration::ZERO, Instant::now());
    for names in names.chunks(1_000) {
        let started = Instant::now();
        for name in names {
            assert!(chain.get(name).await.expect("an answer").is_some());
        }
        reading += started.elapsed();
        chain.wait().await.expect("it runs");
    }
    (reading, started.elapsed())
}

/// Adds the percentage of the reads whose backfill was applied, and was dropped.
fn with_counts(sample: Sample, chain: &ChainCache<Text>, reads: usize) -> Sample {
    let BackfillStats { applied, dropped, .. } = chain.stats().backfill;
    let percent = |count: u64| 100.0 * count as f64 / reads as f64;
    sample.with("applied, %", percent(applied)).with("dropped, %", percent(dropped))
}

//! What a write to memory costs.

use std::{io, sync::Arc};

use crate::{
    keys,
    measure::{Contest, Options, nanos_in_task},
    peers::{self, Peer, Recipe, Text, filled},
};

/// Measures `set` with strings as keys: nanoseconds per call, including what a cache does later for
/// buffered writes.
#[derive(clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    options: Options,
    /// The calls of one round
    #[arg(long, default_value_t = 50_000)]
    calls: usize,
    /// Measures only this case
    #[arg(long)]
    case: Option<Case>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// One tier, in memory
    Memory,
    /// Memory above a map
    Tiers,
    /// New keys into a full cache
    Evict,
}

/// The sizes of the full caches, and the columns that show them.
const FULL: [(u64, &str); 4] =
    [(1_000, "1,000 entries"), (10_000, "10,000 entries"), (100_000, "100,000 entries"), (1_000_000, "1,000,000")];

impl Set {
    pub(crate) async fn run(self) -> io::Result<()> {
        let asked = |case| self.case.is_none_or(|only| only == case);
        if asked(Case::Memory) {
            let all = || [peers::plain(), peers::stores(), peers::chains_of_one(), peers::amalgam(false)].concat();
            self.overwrite("A set in memory: 1,000 keys overwritten", all()).await?;
            self.new_keys("A set in memory: new keys", all()).await?;
        }
        if asked(Case::Tiers) {
            let all = || [peers::amalgam(true), peers::chains(), peers::multi_tier()].concat();
            self.overwrite("A set in memory and a map: 1,000 keys overwritten", all()).await?;
            self.new_keys("A set in memory and a map: new keys", all()).await?;
        }
        if asked(Case::Evict) {
            self.evict().await?;
        }
        Ok(())
    }

    async fn overwrite(&self, title: &str, recipes: Vec<Recipe<String, Text>>) -> io::Result<()> {
        let names: Arc<[String]> = keys::names(0..1_000).into();
        let times = self.calls.div_ceil(names.len());
        let mut contest = Contest::new(title, "ns");
        for (name, recipe) in recipes {
            let cache = Cache::from(filled(recipe(100_000), &names, &Text::from("value")).await);
            let names = Arc::clone(&names);
            contest.add(name, move || {
                nanos_in_task(times * names.len(), set(Arc::clone(&cache), Arc::clone(&names), times))
            });
        }
        contest.run(&self.options).await.map(drop)
    }

    /// Each round has a cache of its own, so that all keys are new.
    async fn new_keys(&self, title: &str, recipes: Vec<Recipe<String, Text>>) -> io::Result<()> {
        let names: Arc<[String]> = keys::names(0..self.calls).into();
        let mut contest = Contest::new(title, "ns");
        for (name, recipe) in recipes {
            let names = Arc::clone(&names);
            contest.add(name, move || {
                nanos_in_task(names.len(), set(recipe(4 * names.len() as u64).into(), Arc::clone(&names), 1))
            });
        }
        contest.run(&self.options).await.map(drop)
    }

    /// The value of a row is the cost at the smallest size. Without amalgam-cache, which sorts its
    /// entries at each eviction.
    async fn evict(&self) -> io::Result<()> {
        let mut contest = Contest::new("A set of a new key in a full cache of 1,000 entries, and of more", "ns");
        let bounded = peers::plain().into_iter().filter(|(name, _)| *name != peers::UNBOUNDED).collect();
        for (name, recipe) in [bounded, peers::stores(), peers::chains_of_one()].concat() {
            let mut caches = Vec::new();
            // stretto reads all its entries at each eviction, so the largest cache would take hours.
            let sizes = if name.contains("stretto") { &FULL[..2] } else { &FULL[..] };
            for &(size, _) in sizes {
                caches.push(full(recipe, size).await);
            }
            let mut next = 2_000_000;
            contest.add(name, move || {
                let rounds: Vec<_> = caches
                    .iter()
                    .map(|cache| {
                        next += self.calls;
                        (Arc::clone(cache), next - self.calls..next)
                    })
                    .collect();
                async {
                    let mut costs = Vec::new();
                    for (cache, numbers) in rounds {
                        costs.push(nanos_in_task(numbers.len(), set(cache, keys::names(numbers).into(), 1)).await);
                    }
                    let more = costs.iter().zip(FULL).skip(1);
                    more.fold(costs[0].clone(), |sample, (cost, (_, column))| sample.with(column, cost.value))
                }
            });
        }
        contest.run(&self.options).await.map(drop)
    }
}

type Cache = Arc<dyn Peer<String, Text>>;

/// Sets the keys so many times, and waits until that has been applied.
async fn set(cache: Cache, names: Arc<[String]>, times: usize) {
    let value = Text::from("value");
    for _ in 0..times {
        cache.set_each(&names, &value).await;
    }
    cache.settle().await;
}

/// A cache in which more keys were set than it has room for.
async fn full(recipe: fn(u64) -> Box<dyn Peer<String, Text>>, size: u64) -> Cache {
    let cache = Cache::from(recipe(size));
    let keys = usize::try_from(size).expect("a small number") * 5 / 4;
    let names: Arc<[String]> = keys::names(0..keys).into();
    for names in names.chunks(1_000) {
        nanos_in_task(1, set(Arc::clone(&cache), names.into(), 1)).await;
    }
    cache
}

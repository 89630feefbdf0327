//! What a hit in memory costs.

use std::{io, sync::Arc};

use crate::{
    keys,
    measure::{Contest, Options, Sample, nanos, on_threads},
    peers::{self, AnyKey, Loader, Recipe, Text, fill, filled},
};

/// Measures hits in memory: nanoseconds per call, and with `--features allocations` what a call
/// allocates. Chains have a second tier, which is not asked.
#[derive(clap::Args)]
pub(crate) struct Hit {
    #[command(flatten)]
    options: Options,
    /// The calls of one round
    #[arg(long, default_value_t = 100_000)]
    calls: usize,
    /// Measures only this case
    #[arg(long)]
    case: Option<Case>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// 1,000 hot keys of each type
    Hot,
    /// 1,000,000 keys, of which some are popular
    Zipf,
    /// Entries that expire
    Ttl,
    /// `get_or_load`
    Load,
    /// A chain with metrics and spans
    Observed,
    /// Two threads
    Threads,
}

const HOT: u32 = 1_000;
const MANY: u32 = 1_000_000;
/// Enough that nothing is evicted.
const CAPACITY: u64 = 100_000;

impl Hit {
    pub(crate) async fn run(self) -> io::Result<()> {
        let asked = |case| self.case.is_none_or(|only| only == case);
        let hot = keys::in_turn(0..HOT, self.calls);
        let names = keys::names(0..HOT as usize);
        if asked(Case::Hot) {
            let numbers: Vec<u64> = (0..u64::from(HOT)).collect();
            let pairs: Vec<(u64, u64)> = numbers.iter().map(|&number| (7, number)).collect();
            self.time("A hit: 1,000 keys, strings", strings(), &names, &hot, CAPACITY).await?;
            self.time("A hit: 1,000 keys, u64", any_key(), &numbers, &hot, CAPACITY).await?;
            self.time("A hit: 1,000 keys, (u64, u64)", any_key(), &pairs, &hot, CAPACITY).await?;
        }
        if asked(Case::Zipf) {
            let (many, order) = (keys::names(0..MANY as usize), keys::zipf(MANY, self.calls));
            self.time("A hit: Zipf over 1,000,000 keys, strings", strings(), &many, &order, 2 * u64::from(MANY))
                .await?;
        }
        if asked(Case::Ttl) {
            self.time("A hit: entries that expire", peers::expiring(), &names, &hot, CAPACITY).await?;
        }
        if asked(Case::Load) {
            self.load(&names, &hot).await?;
        }
        if asked(Case::Observed) {
            let chains = vec![peers::chains().remove(0), peers::observed()];
            self.time("A hit: metrics and spans", chains, &names, &hot, CAPACITY).await?;
        }
        if asked(Case::Threads) {
            let half = HOT / 2;
            let halves = [0..half, half..HOT].map(|half| keys::in_turn(half, self.calls));
            self.threads("Hits by two threads: 500 keys each", &names, &halves).await?;
            let one = vec![0; self.calls];
            self.threads("Hits by two threads: one hot key", &names, &[one.clone(), one]).await?;
        }
        Ok(())
    }

    /// Times `get` on one thread.
    async fn time<K: AnyKey>(
        &self,
        title: &str,
        recipes: Vec<Recipe<K, Text>>,
        keys: &[K],
        order: &[u32],
        capacity: u64,
    ) -> io::Result<()> {
        let mut contest = Contest::new(title, "ns");
        for (name, recipe) in recipes {
            let cache = filled(recipe(capacity), keys, &Text::from("value")).await;
            contest.add_sync(name, move || nanos(order.len(), || assert_hits(cache.get_each(keys, order), order)));
        }
        contest.run(&self.options).await.map(drop)
    }

    /// Times `get_or_load` of keys that are present, beside the `get` of a chain.
    async fn load(&self, keys: &[String], order: &[u32]) -> io::Result<()> {
        let value = Text::from("value");
        let (name, recipe) = peers::chains().remove(0);
        let chain = filled(recipe(CAPACITY), keys, &value).await;
        let mut contest = Contest::new("A hit: get_or_load", "ns");
        contest.add_sync(format!("{name}, get"), || {
            nanos(order.len(), || assert_hits(chain.get_each(keys, order), order))
        });
        for (name, recipe) in peers::loaders() {
            let cache: Box<dyn Loader<String, Text>> = recipe(CAPACITY);
            fill(&*cache, keys, &value).await;
            let value = Arc::clone(&value);
            contest.add_sync(format!("{name}, get_or_load"), move || {
                nanos(order.len(), || assert_hits(cache.get_or_load_each(keys, order, &value), order))
            });
        }
        contest.run(&self.options).await.map(drop)
    }

    /// Measures two threads, each with its order of keys, and one thread alone.
    async fn threads(&self, title: &str, keys: &[String], orders: &[Vec<u32>; 2]) -> io::Result<()> {
        let value = Text::from("value");
        let mut contest = Contest::new(title, "million calls/s");
        for (name, recipe) in strings() {
            let cache = filled(recipe(CAPACITY), keys, &value).await;
            contest.add_sync(name, move || {
                let rate = |threads: usize| {
                    let took = on_threads(threads, |thread| {
                        assert_hits(cache.get_each(keys, &orders[thread]), &orders[thread]);
                    });
                    (threads * orders[0].len()) as f64 / took.as_secs_f64() / 1e6
                };
                let (one, two) = (rate(1), rate(2));
                Sample::of(two).with("one thread", one).with("two of one", two / one)
            });
        }
        contest.run(&self.options).await.map(drop)
    }
}

/// The caches that any key fits.
fn any_key<K: AnyKey>() -> Vec<Recipe<K, Text>> {
    [peers::plain(), peers::stores(), peers::chains()].concat()
}

/// These, and those that take strings alone.
fn strings() -> Vec<Recipe<String, Text>> {
    [any_key(), peers::layered()].concat()
}

fn assert_hits(hits: usize, order: &[u32]) {
    assert_eq!(hits, order.len(), "each read is a hit, since there is room for all keys");
}

//! How costs grow with the number of entries, the number of tiers, and the size of values.

use std::{env, fs, io, process::Command, sync::Arc};

use cache_chain::{ChainBuilder, ChainCache, Tier};
use cache_core::testkit::MapStore;

use crate::{
    measure::{Contest, Options, nanos, nanos_in_task},
    peers::{self, Chain, Peer, Recipe, fill, filled},
};

/// Measures hits with more and more entries, and the memory of an entry; chains of more and more
/// tiers; and larger and larger values.
#[derive(clap::Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    options: Options,
    /// The calls of one round
    #[arg(long, default_value_t = 100_000)]
    calls: usize,
    /// The largest number of entries
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
    /// Measures only this case
    #[arg(long)]
    case: Option<Case>,
    /// Prints the bytes of each entry of this cache, with the largest number of entries
    #[arg(long, hide = true)]
    bytes_of: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// Keys and values of the type u64
    Keys,
    /// Maps in a chain
    Tiers,
    /// Values of 16 bytes to 1 MiB
    Values,
}

impl Scale {
    pub(crate) async fn run(self) -> io::Result<()> {
        if let Some(name) = &self.bytes_of {
            println!("{}", bytes_of(name, self.keys).await?);
            return Ok(());
        }
        let asked = |case| self.case.is_none_or(|only| only == case);
        if asked(Case::Keys) {
            for exponent in 3..=self.keys.max(1).ilog10() {
                self.entries(10_u32.pow(exponent)).await?;
            }
        }
        if asked(Case::Tiers) {
            self.tiers("Tiers: a hit in the first", 42).await?;
            self.tiers("Tiers: a miss in all", 43).await?;
        }
        if asked(Case::Values) {
            for size in [16, 1024, 64 << 10, 1 << 20] {
                self.values(size).await?;
            }
        }
        Ok(())
    }

    async fn entries(&self, count: u32) -> io::Result<()> {
        let keys = &(0..u64::from(count)).collect::<Vec<_>>();
        let mut random = fastrand::Rng::with_seed(42);
        let order = &(0..self.calls).map(|_| random.u32(0..count)).collect::<Vec<_>>();
        let mut contest = Contest::new(format!("Scale: {count} entries, u64 keys and values"), "ns");
        for (name, recipe) in numbers() {
            let (cache, bytes) = (filled(recipe(u64::from(count)), keys, &42).await, bytes_in_child(name, count)?);
            let found = 100.0 * cache.get_each(keys, order) as f64 / order.len() as f64;
            contest.add_sync(name, move || {
                let sample = nanos(order.len(), || _ = cache.get_each(keys, order));
                sample.with("hits, %", found).with("bytes per entry", bytes)
            });
        }
        contest.run(&self.options).await.map(drop)
    }

    /// Reads the key from chains of maps, which hold 42.
    async fn tiers(&self, title: &str, key: u64) -> io::Result<()> {
        let keys: Arc<[u64]> = vec![key; self.calls].into();
        let mut contest = Contest::new(title, "ns");
        for count in 1..=5 {
            let tiers = (1..=count).map(|number| Tier::new(MapStore::new()).name(format!("map {number}")));
            let cache = Chain::new(tiers.fold(ChainCache::builder(), ChainBuilder::tier));
            fill(&cache, &[42_u64], &42_u64).await;
            let (cache, keys) = (Arc::new(cache), Arc::clone(&keys));
            contest.add(format!("{count} tiers"), move || {
                let (cache, keys) = (Arc::clone(&cache), Arc::clone(&keys));
                nanos_in_task(keys.len(), async move { _ = cache.ask_each(&keys).await })
            });
        }
        contest.run(&self.options).await.map(drop)
    }

    /// Sets and gets values, which are copied each time.
    async fn values(&self, size: usize) -> io::Result<()> {
        const KEYS: usize = 16;
        let keys: Arc<[u64]> = (0..KEYS as u64).collect();
        let value: Arc<Vec<u8>> = vec![7; size].into();
        let times = (self.calls / KEYS).min((256 << 20) / (KEYS * size)).max(1);
        let mut contest = Contest::new(format!("Scale: set and get, values of {size} bytes"), "ns");
        for (name, recipe) in peers::of_bytes() {
            let (cache, keys) = (Arc::<dyn Peer<u64, Vec<u8>>>::from(recipe(1_000)), Arc::clone(&keys));
            let value = Arc::clone(&value);
            contest.add(name, move || {
                let (cache, keys, value) = (Arc::clone(&cache), Arc::clone(&keys), Arc::clone(&value));
                nanos_in_task(times * KEYS, async move {
                    for _ in 0..times {
                        cache.set_each(&keys, &value).await;
                        cache.ask_each(&keys).await;
                    }
                    cache.settle().await;
                })
            });
        }
        contest.run(&self.options).await.map(drop)
    }
}

/// The caches whose entries are counted.
fn numbers() -> Vec<Recipe<u64, u64>> {
    [peers::plain(), peers::stores(), peers::chains_of_one()].concat()
}

/// Measures in a process of its own, whose memory has no other use.
fn bytes_in_child(name: &str, keys: u32) -> io::Result<f64> {
    let keys = keys.to_string();
    let child = Command::new(env::current_exe()?).args(["scale", "--bytes-of", name, "--keys", &keys]).output()?;
    let shown = String::from_utf8_lossy(&child.stdout);
    shown.trim().parse().map_err(|_| io::Error::other(format!("no number of bytes of {name}: {child:?}")))
}

/// The resident memory that this many entries add to the process, for each of them.
async fn bytes_of(name: &str, count: u32) -> io::Result<f64> {
    let found = numbers().into_iter().find(|(other, _)| *other == name);
    let (_, recipe) = found.ok_or_else(|| io::Error::other(format!("no cache is named {name}")))?;
    let keys: Vec<u64> = (0..u64::from(count)).collect();
    let before = resident()?;
    let cache = recipe(u64::from(count));
    fill(&*cache, &keys, &42).await;
    let entries = keys.iter().filter(|key| cache.get(key)).count();
    Ok(resident()?.saturating_sub(before) as f64 / entries as f64)
}

/// The resident memory of this process, in bytes.
fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let kilobytes = line.and_then(|line| line.parse::<u64>().ok()).ok_or_else(|| io::Error::other("no VmRSS"))?;
    Ok(1024 * kilobytes)
}

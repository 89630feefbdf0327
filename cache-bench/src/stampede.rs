//! Many callers of one key that has to be loaded.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use amalgam::EntryOptions;
use cache_chain::ChainCache;
use cache_core::testkit::MapStore;
use multi_tier_cache::{Bytes, CacheManager, CacheStrategy, DashMapCache, L1Cache, MokaCacheConfig};
use store_quick_cache::QuickCacheStore;
use tokio::{sync::Barrier, task::yield_now};

use crate::{
    measure::{Contest, Options, Sample},
    peers::Text,
};

/// Lets many callers ask for one cold key at the same time: microseconds from the first call to the
/// last answer, and how often the loader is called.
#[derive(clap::Args)]
pub(crate) struct Stampede {
    #[command(flatten)]
    options: Options,
    /// The numbers of callers
    #[arg(long, value_delimiter = ',', default_value = "1,100,10000")]
    callers: Vec<usize>,
    /// How often the loader yields to other tasks
    #[arg(long, value_delimiter = ',', default_value = "1,100")]
    yields: Vec<usize>,
}

const CAPACITY: u64 = 10_000;

impl Stampede {
    pub(crate) async fn run(self) -> io::Result<()> {
        for &yields in &self.yields {
            for &callers in &self.callers {
                self.contest(callers, yields).await?;
            }
        }
        Ok(())
    }

    async fn contest(&self, callers: usize, yields: usize) -> io::Result<()> {
        let title = format!("A stampede: {callers} callers, the loader yields {yields} times");
        let mut contest = Contest::new(title, "µs");
        let quick = Arc::new(quick_cache::sync::Cache::<String, Text>::new(10_000));
        add(&mut contest, "quick_cache", (callers, yields), move |key, load| {
            let cache = Arc::clone(&quick);
            async move { cache.get_or_insert_async(&key, load.run()).await.is_ok() }
        });
        let store = || QuickCacheStore::new(CAPACITY).expect("a valid capacity");
        let alone = ChainCache::builder().tier(store()).build().expect("a valid chain");
        let on_map = ChainCache::builder().tier(store()).tier(MapStore::new()).build().expect("a valid chain");
        for (name, chain) in [("chain of quick_cache alone", alone), ("chain on quick_cache", on_map)] {
            let ours = move |key: String, load: Load| {
                let chain: ChainCache<Text> = chain.clone();
                async move { chain.get_or_load(key, || load.run()).await.is_ok() }
            };
            contest.add(name, move || {
                let asked = storm((callers, yields), ours.clone());
                async {
                    let (took, loads) = asked.await;
                    assert_eq!(loads, 1, "a chain loads a key once");
                    sample(took, loads)
                }
            });
        }
        let moka = moka::future::Cache::<String, Text>::new(CAPACITY);
        add(&mut contest, "moka", (callers, yields), move |key, load| {
            let cache = moka.clone();
            async move { cache.try_get_with(key, load.run()).await.is_ok() }
        });
        let foyer = foyer::CacheBuilder::new(10_000).build::<foyer::CacheProperties>();
        add(&mut contest, "foyer", (callers, yields), move |key: String, load| {
            let cache: foyer::Cache<String, Text> = foyer.clone();
            async move { cache.get_or_fetch(&key, || load.run()).await.is_ok() }
        });
        let options = EntryOptions::new(Duration::from_hours(1));
        let amalgam = amalgam::Cache::<Text>::builder().max_capacity(CAPACITY).default_options(options).try_build();
        let amalgam = amalgam.expect("a valid cache");
        add(&mut contest, "amalgam-cache, memory", (callers, yields), move |key, load| {
            let cache = amalgam.clone();
            async move { cache.get_or_set(&key, |_| load.run()).await.is_ok() }
        });
        let memory = Arc::new(L1Cache::new(MokaCacheConfig::default()).expect("the defaults are valid"));
        let tiers = CacheManager::new_with_backends(memory, Arc::new(DashMapCache::new()), None);
        let tiers = Arc::new(tiers.expect("two tiers are valid"));
        add(&mut contest, "multi-tier-cache, moka over a map", (callers, yields), move |key, load| {
            let cache = Arc::clone(&tiers);
            let compute =
                || async { load.run().await.map(|_| Bytes::from_static(b"value")).map_err(|error| failed(&error)) };
            async move { cache.get_or_compute_with(&key, CacheStrategy::Default, compute).await.is_ok() }
        });
        contest.run(&self.options).await.map(drop)
    }
}

fn failed(error: &io::Error) -> multi_tier_cache::CacheError {
    multi_tier_cache::CacheError::BackendError(error.to_string())
}

/// The loader of one key.
#[derive(Clone)]
struct Load {
    calls: Arc<AtomicUsize>,
    yields: usize,
}

impl Load {
    async fn run(self) -> io::Result<Text> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        for _ in 0..self.yields {
            yield_now().await;
        }
        Ok("value".into())
    }
}

fn add<F: Future<Output = bool> + Send + 'static>(
    contest: &mut Contest<'_>,
    name: &str,
    size: (usize, usize),
    call: impl Fn(String, Load) -> F + Clone + Send + 'static,
) {
    contest.add(name, move || {
        let asked = storm(size, call.clone());
        async {
            let (took, loads) = asked.await;
            sample(took, loads)
        }
    });
}

fn sample(took: Duration, loads: usize) -> Sample {
    Sample::of(took.as_secs_f64() * 1e6).with("loader calls", loads as f64)
}

/// Lets all callers ask for a key that nobody has asked for before. Returns the time from the first
/// call to the last answer, and the number of loader calls.
async fn storm<F: Future<Output = bool> + Send + 'static>(
    (callers, yields): (usize, usize),
    call: impl Fn(String, Load) -> F + Clone + Send + 'static,
) -> (Duration, usize) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let key = format!("users:{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let load = Load { calls: Arc::default(), yields };
    let ready = Arc::new(Barrier::new(callers));
    let calls: Vec<_> = (0..callers)
        .map(|_| {
            let (call, key, load, ready) = (call.clone(), key.clone(), load.clone(), Arc::clone(&ready));
            tokio::spawn(async move {
                ready.wait().await;
                let started = Instant::now();
                assert!(call(key, load).await, "it is loaded");
                (started, Instant::now())
            })
        })
        .collect();
    let mut times = Vec::new();
    for call in calls {
        times.push(call.await.expect("an answer"));
    }
    let first = times.iter().map(|(started, _)| *started).min().expect("a caller");
    let last = times.iter().map(|(_, ended)| *ended).max().expect("a caller");
    (last - first, load.calls.load(Ordering::Relaxed))
}

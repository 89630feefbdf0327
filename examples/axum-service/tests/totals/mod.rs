//! A chain in the process of the test, whose statistics are compared with what Prometheus shows.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cache_chain::{ChainCache, ReadThrough, Stats, Tier, quick_cache::QuickCacheStore, redis::RedisStore};
use integration_tests::RedisServer;
use tokio::time::interval;

use crate::prometheus::{Prometheus, is_measured, until, whole};

const KEYS: u64 = 300;

/// A chain that publishes its metrics as `totals`, and the calls that the test has made to it.
pub(crate) struct Counted {
    chain: ChainCache<u64>,
    calls: Arc<Calls>,
}

#[derive(Default)]
struct Calls {
    loader: AtomicU64,
    set: AtomicU64,
    del: AtomicU64,
}

impl Counted {
    pub(crate) async fn new(redis: &RedisServer) -> Self {
        let store = RedisStore::builder(redis.url()).namespace("totals").connect().await.unwrap();
        let chain = ChainCache::builder()
            .tier(Tier::new(QuickCacheStore::new(200).unwrap()).name("memory"))
            .tier(Tier::new(store).name("redis"))
            .default_ttl(Duration::from_secs(5))
            .read_through(ReadThrough::new().stale_for(Duration::from_mins(1)))
            .metrics("totals")
            .build()
            .unwrap();
        Self { chain, calls: Arc::default() }
    }

    /// Makes calls of all kinds for this time.
    pub(crate) async fn load(&self, time: Duration) {
        let end = Instant::now() + time;
        let workers = (0..8).map(|_| {
            let (chain, calls) = (self.chain.clone(), Arc::clone(&self.calls));
            tokio::spawn(async move {
                let mut ticks = interval(Duration::from_millis(20));
                while Instant::now() < end {
                    ticks.tick().await;
                    call(&chain, &calls).await;
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
    }

    /// Compares each counter of the chain with Prometheus.
    pub(crate) async fn totals_are_in(&self, prometheus: &Prometheus) {
        until("a scrape at rest", async || {
            self.chain.wait().await.unwrap();
            let expected = counters(&self.chain.stats());
            self.chain.publish_metrics();
            prometheus.scrape("totals").await;
            let shown = prometheus.query(r#"{__name__=~"cache_.*_total", cache="totals"}"#).await;
            let shown: BTreeMap<String, u64> =
                shown.into_iter().map(|(labels, value)| (title(labels), whole(value))).collect();
            // The echo of the last write may have come in meanwhile.
            let after = counters(&self.chain.stats());
            if after != expected {
                return Some(format!("{after:#?} after {expected:#?}"));
            }
            // As many series as there are counters, each with its value.
            assert_eq!(shown, expected);
            println!("{shown:#?}");
            None
        })
        .await;

        let stats = self.chain.stats();
        let calls = [&self.calls.loader, &self.calls.set, &self.calls.del].map(|calls| calls.load(SeqCst));
        assert_eq!([stats.loads.started, stats.writes.set, stats.writes.deleted], calls);
        let measured = prometheus.sum(r#"cache_load_duration_seconds_count{cache="totals"}"#).await;
        assert!(is_measured(whole(measured), stats.loads.started), "{measured} loads are shown: {stats}");
        // Zeros would prove little.
        let happened = [stats.loads.failed, stats.loads.stale_served, stats.tiers[0].hits, stats.backfill.applied];
        assert!(happened.into_iter().all(|count| count > 0), "{stats}");
    }
}

/// Makes one call on a key by chance. It may fail if the machine is busy: Redis is slow then.
async fn call(chain: &ChainCache<u64>, calls: &Arc<Calls>) {
    let key = fastrand::u64(0..KEYS);
    match fastrand::u8(0..20) {
        0 => count(&calls.set, &chain.set(key, key).await),
        1 => count(&calls.del, &chain.del(key).await),
        2 => drop(chain.take(key).await),
        3 => drop(chain.touch(key, Duration::from_secs(5)).await),
        4 => drop(chain.expire(key).await),
        5 => drop(chain.get_many((0..5).map(|next| (key + next) % KEYS)).await),
        6 => drop(chain.get(key).await),
        7 => drop(chain.invalidate([key]).await),
        _ => {
            let calls = Arc::clone(calls);
            let load = move || async move {
                calls.loader.fetch_add(1, SeqCst);
                if fastrand::u8(0..10) == 0 { Err(io::Error::other("a failing load")) } else { Ok(key) }
            };
            // It fails unless there is a stale value.
            drop(chain.get_or_load(key, load).await);
        }
    }
}

/// Counts a write if it has succeeded.
fn count(writes: &AtomicU64, outcome: &cache_chain::Result<()>) {
    writes.fetch_add(u64::from(outcome.is_ok()), SeqCst);
}

/// Returns the counters of a chain, by the names and labels that they should have in Prometheus.
fn counters(stats: &Stats) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    macro_rules! events {
        ($metric:expr, $stats:expr, $($event:ident)*) => {
            $(counters.insert(format!("{} {}", $metric, stringify!($event)), $stats.$event);)*
        };
    }
    for tier in &stats.tiers {
        let name = &tier.name;
        counters.insert(format!("cache_requests_total {name} hit"), tier.hits);
        counters.insert(format!("cache_requests_total {name} miss"), tier.misses);
        events!(format!("cache_tier_failures_total {name}"), tier, undecodable errors timeouts skipped);
        if let Some(evictions) = tier.usage.and_then(|usage| usage.evictions) {
            counters.insert(format!("cache_tier_evictions_total {name}"), evictions);
        }
    }
    events!("cache_backfills_total", stats.backfill, queued coalesced applied refused expired failed dropped);
    events!("cache_loads_total", stats.loads, started loaded failed joined abandoned loaded_by_peer refreshes);
    events!("cache_loads_total", stats.loads, reloads not_modified stale_served);
    events!("cache_writes_total", stats.writes, set deleted invalidated taken touched expired cleared);
    events!("cache_coherence_total", stats.coherence, events events_unheld unknown gaps ended checks_unchanged);
    events!("cache_coherence_total", stats.coherence, checks_changed checks_gone served_in_grace audited disagreed);
    counters.insert("cache_coherence_epochs_total".to_owned(), stats.coherence.epoch);
    counters
}

/// Returns the name and the labels of a series as one text.
fn title(mut labels: BTreeMap<String, String>) -> String {
    let name = labels.remove("__name__").expect("a name");
    let labels = ["tier", "result", "event"].iter().filter_map(|label| labels.get(*label));
    [name].iter().chain(labels).map(String::as_str).collect::<Vec<_>>().join(" ")
}

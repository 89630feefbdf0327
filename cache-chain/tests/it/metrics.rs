//! The metrics that a chain publishes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex, Once,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{Breaker, ChainBuilder, Tier};
use cache_core::{ErrorKind, testkit::Operation};
use metrics::{Counter, Gauge, Histogram, HistogramFn, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::support::{Rig, down, load, settle};

/// The metrics that the chains of all tests have published. Each test has a name of its own.
#[derive(Default)]
struct Published {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    histograms: Mutex<BTreeMap<String, Arc<Values>>>,
    described: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

/// A metric as Prometheus writes it.
fn written(key: &metrics::Key) -> String {
    let mut labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    labels.sort();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

impl Recorder for &'static Published {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().push(name.as_str().to_owned());
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe_counter(name, unit, text);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe_counter(name, unit, text);
    }

    fn register_counter(&self, key: &metrics::Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::clone(self.counters.lock().unwrap().entry(written(key)).or_default()))
    }

    fn register_gauge(&self, key: &metrics::Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::clone(self.gauges.lock().unwrap().entry(written(key)).or_default()))
    }

    fn register_histogram(&self, key: &metrics::Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::clone(self.histograms.lock().unwrap().entry(written(key)).or_default()))
    }
}

static PUBLISHED: LazyLock<Published> = LazyLock::new(Published::default);

fn counter(name: &str) -> Option<u64> {
    PUBLISHED.counters.lock().unwrap().get(name).map(|counter| counter.load(SeqCst))
}

fn gauge(name: &str) -> Option<f64> {
    PUBLISHED.gauges.lock().unwrap().get(name).map(|gauge| f64::from_bits(gauge.load(SeqCst)))
}

/// How many durations were recorded.
fn durations(name: &str) -> usize {
    PUBLISHED.histograms.lock().unwrap().get(name).map_or(0, |values| values.0.lock().unwrap().len())
}

/// The name of everything that the chain of this name has published.
fn names_of(cache: &str) -> Vec<String> {
    let label = format!("cache={cache}");
    let (counters, gauges) = (PUBLISHED.counters.lock().unwrap(), PUBLISHED.gauges.lock().unwrap());
    let histograms = PUBLISHED.histograms.lock().unwrap();
    let all = counters.keys().chain(gauges.keys()).chain(histograms.keys());
    all.filter(|name| name.contains(&label)).cloned().collect()
}

fn named(cache: &str) -> impl FnOnce(ChainBuilder<String>) -> ChainBuilder<String> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| metrics::set_global_recorder(&*PUBLISHED).map_err(|_| "another one").unwrap());
    move |chain| chain.metrics(cache)
}

fn tier(place: usize, tier: Tier<String>) -> Tier<String> {
    tier.name(["upper", "lower"][place])
}

#[tokio::test]
async fn the_statistics_are_published_with_their_labels() {
    let rig = Rig::built(2, tier, named("statistics"));
    rig.chain.set("k", "v".to_owned()).await.unwrap();
    rig.chain.get("k").await.unwrap();
    rig.chain.get("absent").await.unwrap();
    rig.chain.get_or_load("loaded", || load("l")).await.unwrap();
    rig.chain.get_or_load("failed", down).await.unwrap_err();
    rig.chain.wait().await.unwrap();
    rig.chain.publish_metrics();
    for (name, value) in [
        ("cache_requests_total{cache=statistics,result=hit,tier=upper}", 1),
        ("cache_requests_total{cache=statistics,result=miss,tier=upper}", 3),
        ("cache_requests_total{cache=statistics,result=miss,tier=lower}", 3),
        ("cache_tier_failures_total{cache=statistics,event=errors,tier=lower}", 0),
        ("cache_backfills_total{cache=statistics,event=queued}", 0),
        ("cache_backfills_total{cache=statistics,event=applied}", 2),
        ("cache_loads_total{cache=statistics,event=started}", 2),
        ("cache_loads_total{cache=statistics,event=loaded}", 1),
        ("cache_loads_total{cache=statistics,event=failed}", 1),
        ("cache_writes_total{cache=statistics,event=set}", 1),
    ] {
        assert_eq!(counter(name), Some(value), "{name}");
    }
    for name in [
        "cache_backfill_queue_entries{cache=statistics}",
        "cache_backfill_queue_bytes{cache=statistics}",
        "cache_loads_in_flight{cache=statistics}",
        "cache_tier_pending_deletes{cache=statistics,tier=lower}",
    ] {
        assert_eq!(gauge(name), Some(0.0), "{name}");
    }
    let described = PUBLISHED.described.lock().unwrap().clone();
    for name in names_of("statistics") {
        let metric = name.split('{').next().unwrap();
        assert!(described.iter().any(|name| name == metric), "{metric} has no description");
        assert!(!name.contains("absent"), "a key is no label: {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_statistics_are_published_each_second_until_the_chain_ends() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (before, misses) = (alive(), "cache_requests_total{cache=regular,result=miss,tier=lower}");
    let rig = Rig::built(2, tier, named("regular"));
    settle().await;
    assert_eq!(counter(misses), Some(0));
    rig.chain.get("k").await.unwrap();
    tokio::time::sleep(Duration::from_millis(999)).await;
    assert_eq!(counter(misses), Some(0));
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(counter(misses), Some(1));
    drop(rig);
    settle().await;
    assert_eq!(alive(), before);
}

#[tokio::test]
async fn calls_to_tiers_and_loaders_are_measured_and_hits_in_memory_are_not() {
    let (chain, below) = {
        let memory = cache_core::testkit::MapStore::<String>::new();
        let below = cache_core::testkit::ScriptedStore::new(cache_core::testkit::MapStore::new());
        let tiers = cache_chain::ChainCache::builder().tier(memory).tier(Tier::new(below.clone()).name("below"));
        (named("durations")(tiers).build().unwrap(), below)
    };
    let of = |operation: &str, outcome: &str| {
        durations(&format!(
            "cache_tier_call_duration_seconds{{cache=durations,operation={operation},outcome={outcome},tier=below}}"
        ))
    };
    chain.set("k", "v".to_owned()).await.unwrap();
    chain.get("k").await.unwrap();
    assert_eq!((of("set", "ok"), of("get", "ok")), (1, 0));
    chain.get("absent").await.unwrap();
    chain.del("k").await.unwrap();
    assert_eq!((of("get", "ok"), of("del", "ok")), (1, 1));
    below.fail(Operation::Get, ErrorKind::Unavailable);
    chain.get("absent").await.unwrap_err();
    assert_eq!((of("get", "ok"), of("get", "error")), (1, 1));
    below.heal();
    chain.get_or_load("loaded", || load("l")).await.unwrap();
    chain.get_or_load("failed", down).await.unwrap_err();
    let loads = |outcome: &str| durations(&format!("cache_load_duration_seconds{{cache=durations,outcome={outcome}}}"));
    assert_eq!((loads("ok"), loads("error")), (1, 1));
    chain.wait().await.unwrap();
    assert_eq!(of("fill", "ok"), 1);
    chain.publish_metrics();
    // "loaded" alone: "k" was deleted, and there is none of "absent".
    assert_eq!(gauge("cache_tier_entries{cache=durations,tier=L1 map}"), Some(1.0));
    assert_eq!(gauge("cache_tier_weight{cache=durations,tier=L1 map}"), Some(1.0));
    assert!(names_of("durations").iter().all(|name| !name.contains("_duration_") || !name.contains("tier=L1 map")));
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_breaker_is_published() {
    let breaker = Breaker::new().failures(1).probe_interval(Duration::from_secs(1));
    let rig = Rig::built(2, |place, of| tier(place, of).breaker(breaker), named("breaker"));
    // The only one that is 1.
    let state = || {
        rig.chain.publish_metrics();
        let is_state = |state: &&str| {
            let name = format!("cache_tier_breaker_state{{cache=breaker,state={state},tier=lower}}");
            gauge(&name).expect("each state is published") > 0.5
        };
        let states: Vec<&str> = ["closed", "open", "half_open"].into_iter().filter(is_state).collect();
        states.join(" ")
    };
    assert_eq!(state(), "closed");
    rig.stores[1].fail(Operation::Get, ErrorKind::Unavailable);
    rig.chain.get("k").await.unwrap_err();
    assert_eq!(state(), "open");
    assert!(rig.chain.stats().to_string().contains("breaker open"));
    rig.stores[1].heal();
    let gate = rig.stores[1].stall(Operation::Get);
    tokio::time::advance(Duration::from_secs(1)).await;
    let chain = rig.chain.clone();
    let probe = tokio::spawn(async move { chain.get("k").await });
    settle().await;
    assert_eq!(state(), "half_open");
    gate.open();
    probe.await.unwrap().unwrap();
    assert_eq!(state(), "closed");
}

#[tokio::test]
async fn an_empty_name_is_refused() {
    let chain = cache_chain::ChainCache::<u32>::builder().tier(cache_core::testkit::MapStore::new());
    assert_eq!(chain.metrics("").build().unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// A key that awaits its deletion is not read, so the tier is not asked.
#[tokio::test(start_paused = true)]
async fn what_a_tier_was_not_asked_is_not_measured() {
    let rig = Rig::built(2, |place, of| tier(place, of).no_breaker(), named("unasked"));
    rig.stores[0].fail(Operation::Del, ErrorKind::Unavailable);
    rig.chain.del("k").await.unwrap_err();
    let asked = rig.stores[0].calls_of(Operation::Get);
    // The first attempt to repair fails; then none is made for a while.
    for _ in 0..3 {
        rig.chain.get("k").await.unwrap_err();
    }
    assert_eq!(rig.stores[0].calls_of(Operation::Get), asked);
    let of_tier = |outcome: &str| {
        durations(&format!(
            "cache_tier_call_duration_seconds{{cache=unasked,operation=get,outcome={outcome},tier=upper}}"
        ))
    };
    assert_eq!(of_tier("ok"), 0);
}

#[tokio::test]
async fn a_chain_without_a_name_publishes_nothing() {
    drop(named("")(cache_chain::ChainCache::builder()));
    let rig = Rig::with(2, |place, of| of.name(["unnamed upper", "unnamed lower"][place]));
    rig.chain.get("k").await.unwrap();
    rig.chain.publish_metrics();
    let all = PUBLISHED.counters.lock().unwrap();
    assert!(all.keys().all(|name| !name.contains("unnamed")));
}

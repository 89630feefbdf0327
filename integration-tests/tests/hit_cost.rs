//! G8: what a hit in the first tier costs.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use cache_chain::{ChainCache, Coherence, ReadThrough};
use cache_core::{
    CacheKey, Clock, Entry, ErrorKind, Expiry, Key, LocalStore, Moment, Store, SystemClock, Ticket, Write,
    testkit::{MapStore, Operation, ScriptedStore, SharedMap},
};
use store_stretto::StrettoStore;

type Value = Arc<str>;

/// What a hit gives, if it is there at the first poll: it never yields to the scheduler.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a hit in the first tier yields to the scheduler"),
    }
}

/// A chain with this first tier, in front of one that fails when it is read.
async fn chain<S: Store<Value = Value>>(first: S) -> ChainCache<Value> {
    let second = ScriptedStore::new(MapStore::<Value>::new());
    let chain = ChainCache::builder().tier(first).tier(second.clone()).build().unwrap();
    chain.set(("acme", 42), Arc::from("Ada")).await.unwrap();
    chain.wait().await.unwrap();
    second.fail(Operation::Get, ErrorKind::Unavailable);
    chain
}

/// The same with a shared tier whose changes the first one follows.
#[tokio::test]
async fn g8_a_hit_in_a_coherent_tier_allocates_nothing() {
    let (shared, coherence) = (SharedMap::new(), Coherence::new().heartbeat(Duration::from_secs(3600)));
    let chain = ChainCache::builder().tier(MapStore::new()).tier(shared).coherence(coherence).build().unwrap();
    while !chain.stats().coherence.trusted {
        tokio::task::yield_now().await;
    }
    chain.set(("acme", 42), Arc::from("Ada")).await.unwrap();
    for _ in 0..2 {
        chain.get(("acme", 42)).await.unwrap();
        chain.wait().await.unwrap();
    }
    let before = chain.stats();
    assert_eq!(allocations_of_hits(&chain, 10_000), 0);
    assert_eq!(chain.stats().tiers[0].hits - before.tiers[0].hits, 10_000);
}

/// The same with metrics and spans, and somebody who listens to them.
#[tokio::test]
async fn g8_a_hit_in_a_chain_with_metrics_and_spans_allocates_nothing() {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).with_max_level(tracing::Level::TRACE);
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let chain = ChainCache::builder().tier(MapStore::new()).tier(ScriptedStore::new(MapStore::new()));
    let chain = chain.metrics("hits").tracing_with_keys("hits").build().unwrap();
    chain.set(("acme", 42), Value::from("Ada")).await.unwrap();
    assert_eq!(allocations_of_hits(&chain, 10_000), 0);
}

fn allocations_of_hits(chain: &ChainCache<Value>, count: usize) -> u64 {
    let measured = allocation_counter::measure(|| {
        for _ in 0..count {
            let found = at_once(chain.get(("acme", 42))).unwrap();
            assert_eq!(found.as_deref(), Some("Ada"));
        }
    });
    measured.count_total
}

#[tokio::test]
async fn g8_a_hit_in_the_first_tier_allocates_nothing() {
    let chain = chain(MapStore::new()).await;
    assert_eq!(allocations_of_hits(&chain, 10_000), 0);
    let mut found = None;
    let with_ttl = allocation_counter::measure(|| found = at_once(chain.get_with_ttl(("acme", 42))).unwrap());
    assert_eq!(with_ttl.count_total, 0);
    assert_eq!(found, Some((Arc::from("Ada"), cache_chain::Ttl::Never)));
    assert_eq!(chain.stats().tiers[0].hits, 10_001);
}

/// A loader that is not needed is neither called nor boxed. Without stale serving and early refresh
/// a hit does not even look at the clock; with them it costs no allocation either.
#[tokio::test]
async fn g8_a_hit_that_could_have_been_loaded_allocates_nothing() {
    let eager = ReadThrough::new().stale_for(Duration::from_secs(60)).early_refresh(1.0);
    for (settings, reads_the_clock) in [(ReadThrough::new(), false), (eager, true)] {
        let clock = Counting::default();
        let memory = MapStore::with_clock(SystemClock::shared());
        let chain = ChainCache::<Value>::builder().clock(Arc::new(clock.clone())).tier(memory).read_through(settings);
        let chain = chain.default_ttl(Duration::from_secs(60)).build().unwrap();
        let load = || async { Ok::<_, std::io::Error>(Value::from("Ada")) };
        chain.get_or_load(("acme", 42), load).await.unwrap();
        chain.set(("acme", 43), Arc::from("Ada")).await.unwrap();
        let before = clock.0.load(Ordering::SeqCst);
        let measured = allocation_counter::measure(|| {
            for _ in 0..10_000 {
                assert_eq!(&*at_once(chain.get_or_load(("acme", 42), load)).unwrap(), "Ada");
                assert_eq!(&*at_once(chain.get_or_load(("acme", 43), load)).unwrap(), "Ada");
            }
        });
        let looked = clock.0.load(Ordering::SeqCst) > before;
        assert_eq!((measured.count_total, looked), (0, reads_the_clock));
        assert_eq!(chain.stats().loads.started, 1);
    }
}

/// The system's clock, which counts how often it is looked at.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<AtomicU64>);

impl Clock for Counting {
    fn now(&self) -> Moment {
        self.0.fetch_add(1, Ordering::SeqCst);
        SystemClock.now()
    }
}

/// Stretto hands a buffer to its policy once in 64 reads, and allocates the next, and a place in
/// the channel now and then; the chain adds nothing to that.
#[tokio::test]
async fn g8_a_hit_in_stretto_allocates_what_stretto_itself_does() {
    let store = StrettoStore::<Value>::new(1000).unwrap();
    let key = Key::new(&("acme", 42)).unwrap();
    let entry = Entry::new(Arc::from("Ada"), Expiry::Never);
    store.set(Write::new(key.clone(), entry, Ticket::unconditional())).await.unwrap();
    Store::wait(&store).await.unwrap();
    let alone = allocation_counter::measure(|| {
        for _ in 0..6400 {
            assert!(LocalStore::get(&store, &key).is_some());
        }
    });
    let chain = chain(store).await;
    let chained = allocations_of_hits(&chain, 6400);
    assert!(alone.count_total <= 6400 / 32, "stretto alone: {}", alone.count_total);
    assert!(chained <= 6400 / 32, "in the chain: {chained}; stretto alone: {}", alone.count_total);
}

/// A key of up to 48 bytes is held inline; a longer one is allocated for each call, once where it
/// has one long part.
#[tokio::test]
async fn a_long_key_allocates_once() {
    let chain = chain(MapStore::new()).await;
    let allocations = async |key: &(dyn CacheKey + Sync), value: &str| {
        chain.set(key, Arc::from(value)).await.unwrap();
        allocation_counter::measure(|| {
            assert_eq!(at_once(chain.get(key)).unwrap().as_deref(), Some(value));
        })
        .count_total
    };
    let part = |length| "k".repeat(length);
    assert_eq!(allocations(&part(48), "inline").await, 0);
    assert_eq!(allocations(&("acme", part(43)), "inline in parts").await, 0);
    assert_eq!(allocations(&part(49), "one byte more").await, 1);
    assert_eq!(allocations(&part(60_000), "much longer").await, 1);
    assert_eq!(allocations(&("acme", part(44)), "longer in parts").await, 1);
    assert_eq!(allocations(&("acme", part(1000)), "a long part").await, 1);
    assert_eq!(allocations(&(("acme", 7), part(1000), 42), "a long part among short ones").await, 1);
}

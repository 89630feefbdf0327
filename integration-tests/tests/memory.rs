//! What is allocated while a chain with a store in memory works, and after.

use std::time::Duration;

use cache_chain::ChainCache;
use integration_tests::{RedisServer, eventually};
use peak_alloc::PeakAlloc;
use store_redis::RedisStore;
use store_stretto::StrettoStore;

/// It counts for the whole process, so there is one test here.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const CAPACITY: usize = 1_000;
/// Of a value, so that a row that is kept weighs more than all else of an entry.
const SIZE: usize = 4_000;

/// Writes four times as many keys as the store keeps, other ones in each round, then clears.
async fn fill_and_clear(chain: &ChainCache<String>, store: &StrettoStore<String>, round: usize) {
    let before = ALLOCATOR.current_usage();
    for n in 0..4 * CAPACITY {
        chain.set((round, n), "v".repeat(SIZE)).await.unwrap();
    }
    chain.wait().await.unwrap();
    assert!(store.len() > CAPACITY as u64 / 2, "it keeps {}", store.len());
    let full = ALLOCATOR.current_usage().saturating_sub(before);
    assert!(full > CAPACITY / 2 * SIZE, "{full} bytes are counted");
    chain.clear().await.unwrap();
    chain.wait().await.unwrap();
    assert_eq!(store.len(), 0);
}

/// Waits until at most this is allocated: threads of the store drop some of it a little later.
async fn falls_to(what: &str, most: usize) {
    eventually(what, async || (ALLOCATOR.current_usage() <= most).then_some(())).await;
}

#[tokio::test]
async fn a_cleared_store_keeps_its_tables_and_a_dropped_one_nothing() {
    let server = RedisServer::start().await;
    // What the runtime and the process allocate once and keep is there after a first chain.
    let mut start = 0;
    for warm in [false, true] {
        let store = StrettoStore::new(CAPACITY as u64).unwrap();
        let redis = RedisStore::builder(server.url()).namespace("n").timeout(Duration::from_secs(30));
        let redis: RedisStore<String> = redis.connect().await.unwrap();
        let chain = ChainCache::builder().tier(store.clone()).tier(redis).build().unwrap();
        let empty = ALLOCATOR.current_usage();
        for round in 0..2 {
            fill_and_clear(&chain, &store, round).await;
            // Stretto keeps its maps: up to 450 bytes for each entry of the capacity.
            falls_to("a cleared store", empty + CAPACITY * 450).await;
        }
        drop((chain, store));
        if warm {
            falls_to("a dropped store", start + 100_000).await;
        } else {
            // Its counters alone are more than the process keeps.
            falls_to("a dropped store", empty).await;
            start = ALLOCATOR.current_usage();
        }
    }
}

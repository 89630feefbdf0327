//! Another process with a chain of memory, Redis and SQL (see `tests/three_tiers.rs`).
//!
//! `chain_peer <redis url> <database url> <table> <seed> <operations>` reads, sets and deletes a
//! few keys at random, several at once, and ends when all is at rest.

use cache_chain::{ChainCache, redis::RedisStore, sql::SqlStore, stretto::StrettoStore};
use cache_core::testkit::{Schedules, join_all};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, redis, database, table, seed, operations] = &arguments[..] else {
        panic!("chain_peer <redis url> <database url> <table> <seed> <operations>")
    };
    let (seed, operations): (u64, u64) = (seed.parse().expect("a seed"), operations.parse().expect("a number"));
    let chain: ChainCache<u64> = ChainCache::builder()
        .tier(StrettoStore::new(1000).expect("memory"))
        .tier(RedisStore::builder(redis).namespace("n").connect().await.expect("Redis"))
        .tier(SqlStore::builder(database).table(table).namespace("n").connect().await.expect("a database"))
        .build()
        .expect("a chain");
    let tasks = (0..4_u64).map(|task| {
        let chain = &chain;
        async move {
            let mut random = Schedules::random(seed * 4 + task, 1);
            random.next();
            for operation in 0..operations {
                let key = random.choose(4);
                // A write that the database refused for its concurrency is reported, and leaves
                // nothing above it.
                match random.choose(8) {
                    0 => drop(chain.set(key, seed << 32 | task << 24 | operation).await),
                    1 => drop(chain.del(key).await),
                    _ => drop(chain.get(key).await),
                }
            }
        }
    });
    join_all(tasks).await;
    chain.wait().await.expect("at rest");
    println!("{}", chain.stats());
}

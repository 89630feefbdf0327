//! Another process at a Redis, to be run on a machine whose wall clock is wrong (see
//! `tests/redis_clocks.rs`).
//!
//! `redis_peer <url> write` writes the key `k` to live for 60 s; `redis_peer <url> read` prints
//! what remains of it in nanoseconds. Before that, each prints what this machine takes for the
//! time, in Unix milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache_core::Store as _;
use integration_tests::{key, living, remaining};
use store_redis::RedisStore;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, action] = &arguments[..] else { panic!("redis_peer <url> write|read") };
    println!("{}", SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis());
    let store: RedisStore<u64> =
        RedisStore::builder(url).namespace("clocks").timeout(Duration::from_secs(5)).connect().await.expect("a store");
    if action == "write" {
        store.set(living(&key("k"), 1, Duration::from_secs(60))).await.expect("a write");
    } else {
        let entry = store.get(&key("k")).await.expect("a read").expect("an entry");
        println!("{}", remaining(&entry).as_nanos());
    }
}

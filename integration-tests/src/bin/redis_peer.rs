//! Another process at a Redis, to be run on a machine whose wall clock is wrong (see
//! `tests/redis_clocks.rs`).
//!
//! `redis_peer <url> write` writes the key `k` to live for 60 s; `redis_peer <url> read` prints
//! what remains of it in nanoseconds. Before that, each prints what this machine takes for the
//! time, in Unix milliseconds.
//!
//! `redis_peer <url> announce` writes 100 keys of the namespace `users` over and over, and announces
//! it by pub/sub, until it is killed (see `tests/redis_pubsub.rs`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache_core::{Store as _, Ticket};
use integration_tests::{key, living, never, remaining};
use store_redis::{Invalidations, RedisStore};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, action] = &arguments[..] else { panic!("redis_peer <url> write|read|announce") };
    println!("{}", SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis());
    if action == "announce" {
        return announce(url).await;
    }
    let store: RedisStore<u64> =
        RedisStore::builder(url).namespace("clocks").timeout(Duration::from_secs(5)).connect().await.expect("a store");
    if action == "write" {
        store.set(living(&key("k"), 1, Duration::from_secs(60))).await.expect("a write");
    } else {
        let entry = store.get(&key("k")).await.expect("a read").expect("an entry");
        println!("{}", remaining(&entry).as_nanos());
    }
}

async fn announce(url: &str) {
    let store = RedisStore::<String>::builder(url).namespace("users").invalidations(Invalidations::PubSub);
    let store = store.connections(4).connect().await.expect("a store");
    for number in 0_u64.. {
        let writes = (0..10).map(|at| {
            let key = key((number * 10 + at) % 100);
            never(&key, number.to_string(), Ticket::unconditional())
        });
        store.set_many(writes.collect()).await.into_iter().for_each(|written| written.expect("a write"));
    }
}

//! Another process with a cold cache and a thousand callers of one key (see `tests/loads_across_processes.rs`).
//!
//! `load_peer <redis url> <patience in ms> <callers>` lets all callers ask at once for a key that nobody has. It prints
//! `asking`, then `loading` when its loader is called, which goes on at the next line of its input, and at the end `loads`
//! and how often it was called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{Cache as _, ChainCache, ReadThrough, redis::RedisStore, stretto::StrettoStore};
use cache_core::testkit::join_all;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, redis, patience, callers] = &arguments[..] else {
        panic!("load_peer <redis url> <patience in ms> <callers>")
    };
    let patience = Duration::from_millis(patience.parse().expect("milliseconds"));
    let long = Duration::from_secs(120);
    let settings = ReadThrough::new().patience(patience).soft_timeout(long).hard_timeout(long);
    let chain: ChainCache<String> = ChainCache::builder()
        .tier(StrettoStore::new(1000).expect("memory"))
        .tier(RedisStore::builder(redis).namespace("n").lease_ttl(long).connect().await.expect("Redis"))
        .read_through(settings)
        .build()
        .expect("a chain");
    let loads = Arc::new(AtomicUsize::new(0));
    let callers: usize = callers.parse().expect("a number");
    println!("asking");
    let asking = (0..callers).map(|_| {
        let loads = Arc::clone(&loads);
        chain.get_or_load("cold", move || async move {
            loads.fetch_add(1, SeqCst);
            println!("loading");
            BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;
            Ok::<_, std::io::Error>("value".to_owned())
        })
    });
    for value in join_all(asking).await {
        assert_eq!(value.expect("a value"), "value");
    }
    chain.wait().await.expect("at rest");
    println!("loads {}", loads.load(SeqCst));
}

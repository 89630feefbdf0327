//! Another process with a cold cache and a thousand callers of one key (see
//! `tests/loads_across_processes.rs`).
//!
//! `load_peer <url of Redis or a database> <peer_wait in ms> <callers>` lets all callers ask at
//! once for a key that nobody has. It prints `asking`, then `loading` when its loader is called,
//! which goes on at the next line of its input, and at the end `loads` and how often it was called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{ChainCache, ReadThrough, Tier, redis::RedisStore, sql::SqlStore, stretto::StrettoStore};
use cache_core::testkit::join_all;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, peer_wait, callers] = &arguments[..] else { panic!("load_peer <url> <peer_wait in ms> <callers>") };
    let peer_wait = Duration::from_millis(peer_wait.parse().expect("milliseconds"));
    let long = Duration::from_secs(120);
    let settings = ReadThrough::new().soft_timeout(long).hard_timeout(long);
    let settings = if peer_wait.is_zero() { settings.no_peer_wait() } else { settings.peer_wait(peer_wait) };
    let shared: Tier<String> = if url.starts_with("redis:") {
        RedisStore::builder(url).namespace("n").lease_ttl(long).connect().await.expect("Redis").into()
    } else {
        SqlStore::builder(url).namespace("n").lease_ttl(long).create_table().connect().await.expect("a database").into()
    };
    let memory = StrettoStore::new(1000).expect("memory");
    let chain = ChainCache::builder().tier(memory).tier(shared).read_through(settings).build().expect("a chain");
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

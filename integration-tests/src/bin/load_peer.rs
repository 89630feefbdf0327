//! Another process with a cold cache and a thousand callers of one key (see
//! `tests/loads_across_processes.rs`).
//!
//! `load_peer <url of Redis or a database> <peer_wait in ms, or default> <callers> [batch]` lets all
//! callers ask at once for the key `cold`, whose value is absent or stale; with `batch`, for that
//! and another key by one call each. It prints `asking`, then `loading` when its loader is called,
//! which goes on at the next line of its input, and at the end `loads` and how often it was called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{ChainCache, ReadThrough, ServeStale, Tier, redis::RedisStore, sql::SqlStore, stretto::StrettoStore};
use cache_core::testkit::join_all;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, peer_wait, callers, rest @ ..] = &arguments[..] else { panic!("see the head of this file") };
    let is_batch = rest.first().is_some_and(|mode| mode == "batch");
    let long = Duration::from_secs(120);
    let settings = ReadThrough::new().stale_for(long).serve_stale(ServeStale::IfLoadFails);
    let (settings, lease_ttl) = match &peer_wait[..] {
        "default" => (settings, Duration::from_secs(10)),
        "0" => (settings.soft_timeout(long).hard_timeout(long).no_peer_wait(), long),
        millis => {
            let peer_wait = Duration::from_millis(millis.parse().expect("milliseconds"));
            (settings.soft_timeout(long).hard_timeout(long).peer_wait(peer_wait), long)
        }
    };
    let shared: Tier<String> = if url.starts_with("redis:") {
        RedisStore::builder(url).namespace("n").lease_ttl(lease_ttl).connect().await.expect("Redis").into()
    } else {
        let store = SqlStore::builder(url).namespace("n").lease_ttl(lease_ttl).create_table();
        store.connect().await.expect("a database").into()
    };
    let memory = StrettoStore::new(1000).expect("memory");
    let chain = ChainCache::builder().tier(memory).tier(shared).read_through(settings).build().expect("a chain");
    let loads = Arc::new(AtomicUsize::new(0));
    let callers: usize = callers.parse().expect("a number");
    println!("asking");
    let load = {
        let loads = Arc::clone(&loads);
        move || async move {
            loads.fetch_add(1, SeqCst);
            println!("loading");
            BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;
            Ok::<_, std::io::Error>("value".to_owned())
        }
    };
    let load_many = {
        let load = load.clone();
        move |keys: Vec<&'static str>| async move {
            let value = load().await?;
            Ok::<_, std::io::Error>(keys.into_iter().map(move |key| (key, value.clone())))
        }
    };
    let ask = async || {
        if is_batch {
            let values = chain.get_or_load_many(["cold", "other"], load_many.clone()).await;
            assert_eq!(values.expect("values"), [Some("value".to_owned()), Some("value".to_owned())]);
        } else {
            assert_eq!(chain.get_or_load("cold", load.clone()).await.expect("a value"), "value");
        }
    };
    join_all((0..callers).map(|_| ask())).await;
    chain.wait().await.expect("at rest");
    println!("loads {}", loads.load(SeqCst));
}

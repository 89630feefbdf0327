//! What entries in memory cost: `cargo run --release --example memory`.
//!
//! A million keys are written through stretto, which keeps 100,000, in front of a real Redis. Shown
//! is what is allocated and what the process has of the machine (RSS), which includes what the
//! allocator keeps. An argument is the number of writers.

use std::{fs, time::Duration};

use cache_chain::{ChainCache, Tier, redis::RedisStore, stretto::StrettoStore};
use integration_tests::RedisServer;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const CAPACITY: u64 = 100_000;
const WRITES: usize = 1_000_000;
const VALUE: &str = "eight by";
/// The machine may be too slow for the usual deadline of half a second.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let writers = std::env::args().nth(1).map_or(16, |count| count.parse().expect("a number of writers"));
    let server = RedisServer::start().await;
    let before = (ALLOCATOR.current_usage(), resident());
    let show = |what: &str, entries: u64| {
        let bytes = [ALLOCATOR.current_usage().saturating_sub(before.0), resident().saturating_sub(before.1)];
        let each =
            bytes.map(|bytes| (bytes as u64).checked_div(entries).map_or_else(String::new, |each| each.to_string()));
        println!("| {what} | {entries} | {} | {} | {} | {} |", bytes[0] / 1000, bytes[1] / 1000, each[0], each[1]);
    };
    println!("| {writers} writers | entries | allocated, kB | RSS, kB | allocated for each, B | RSS for each, B |");
    println!("|---|---|---|---|---|---|");
    let store = StrettoStore::new(CAPACITY).expect("a store");
    let redis = RedisStore::builder(server.url()).namespace("n").timeout(DEADLINE).connect().await.expect("a store");
    let chain =
        ChainCache::builder().tier(store.clone()).tier(Tier::new(redis).timeout(DEADLINE)).build().expect("a chain");
    show("empty", store.len());
    for round in 0..2 {
        write(&chain, round, writers).await;
        chain.wait().await.expect("the chain works");
        show("full", store.len());
        chain.clear().await.expect("the chain works");
        chain.wait().await.expect("the chain works");
        show("cleared", store.len());
    }
    drop((chain, store));
    // Its threads end a little later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    show("dropped", 0);
    println!("at most allocated: {} kB", (ALLOCATOR.peak_usage() - before.0) / 1000);
}

async fn write(chain: &ChainCache<String>, round: usize, writers: usize) {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let chain = chain.clone();
            tokio::spawn(async move {
                for n in (writer..WRITES).step_by(writers) {
                    chain.set((round, n), VALUE.to_owned()).await.expect("a write");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer");
    }
}

/// The resident memory of this process.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").expect("a Linux");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

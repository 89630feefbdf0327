//! The cost of announcing writes, for the server: `cargo run --example announcement_cost`.
//!
//! Writes to a real, private Redis without a stream, with client tracking and with pub/sub, heard by
//! no, one and 20 instances. Shown are the CPU time of the main thread of the server and the bytes
//! that it sent, for each write. The profile of this program does not matter for either.

use std::{sync::Arc, time::Duration};

use cache_core::{Invalidation, InvalidationSink, Store as _, Ticket};
use integration_tests::{RedisServer, key, never};
use store_redis::{Invalidations, RedisStore};
use tokio::sync::watch;

const TASKS: u64 = 32;
const WRITES: u64 = 4000;
/// The size of a value, in bytes.
const SIZE: usize = 100;

/// Tells when a stream works.
struct Works(watch::Sender<bool>);

impl InvalidationSink for Works {
    fn apply(&self, notice: Invalidation<'_>) {
        if matches!(notice, Invalidation::Proven(_)) {
            self.0.send_replace(true);
        }
    }
}

async fn store(server: &RedisServer, invalidations: Invalidations) -> RedisStore<String> {
    let builder = RedisStore::builder(server.url()).namespace("users").timeout(Duration::from_secs(10));
    builder.invalidations(invalidations).connect().await.expect("a store")
}

/// Lets another instance hear what is announced.
async fn listen(server: &RedisServer, invalidations: Invalidations) -> tokio::task::JoinHandle<()> {
    let stream = store(server, invalidations).await.invalidations().expect("a stream");
    let (works, mut working) = watch::channel(false);
    let listening = tokio::spawn(async move {
        let error = stream.run(Duration::from_millis(500), Arc::new(Works(works))).await;
        panic!("the stream has ended: {error}");
    });
    working.wait_for(|works| *works).await.expect("a proof");
    listening
}

fn field(server: &RedisServer, section: &str, name: &str) -> f64 {
    let info = server.cli(&["INFO", section]);
    let value = info.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
    value.parse().expect("a number")
}

/// The seconds of CPU time that the server has used, and the bytes that it has sent.
fn used(server: &RedisServer) -> (f64, f64) {
    let cpu = ["used_cpu_user_main_thread:", "used_cpu_sys_main_thread:"].map(|name| field(server, "cpu", name));
    (cpu[0] + cpu[1], field(server, "stats", "total_net_output_bytes:"))
}

async fn measure(invalidations: Invalidations, instances: usize) {
    let server = RedisServer::start_with(&["--client-output-buffer-limit", "pubsub 0 0 0"]).await;
    let mut listening = Vec::new();
    for _ in 0..instances {
        listening.push(listen(&server, invalidations).await);
    }
    let store = store(&server, invalidations).await;
    let value = "x".repeat(SIZE);
    let before = used(&server);
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, value) = (store.clone(), value.clone());
            tokio::spawn(async move {
                for number in 0..WRITES {
                    let write = never(&key((task, number)), value.clone(), Ticket::unconditional());
                    store.set(write).await.expect("a write");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the writes");
    }
    let after = used(&server);
    let per_write = |used: f64| used / (TASKS * WRITES) as f64;
    let (cpu, bytes) = (per_write(after.0 - before.0) * 1e6, per_write(after.1 - before.1));
    println!("| {invalidations:?} | {instances} | {cpu:.1} µs | {bytes:.0} |");
    listening.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::main]
async fn main() {
    println!("| stream | instances | CPU of the server | bytes sent |");
    println!("|---|---|---|---|");
    measure(Invalidations::Off, 0).await;
    for instances in [0, 1, 20] {
        for invalidations in [Invalidations::Tracking, Invalidations::PubSub] {
            measure(invalidations, instances).await;
        }
    }
}

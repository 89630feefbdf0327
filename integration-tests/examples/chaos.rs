//! A mixed load while a server hangs, dies and comes back at random: `cargo run --release --example
//! chaos -- <redis|mariadb|postgres> <seconds> [chains]`.
//!
//! One chain has memory in front of the server. Several chains share the server and have no memory,
//! as several processes. Every value tells which write made it, so each read is checked. The process
//! fails if anything was served that had been replaced or deleted.

use std::time::{Duration, Instant};

use cache_chain::{ChainCache, Tier, redis::RedisStore, sql::SqlStore, stretto::StrettoStore};
use cache_core::testkit::Schedules;
use integration_tests::{MariaDb, Postgres, RedisServer, Workload};

/// A server that can be hurt.
enum Server {
    Redis(RedisServer),
    MariaDb(MariaDb),
    Postgres(Postgres),
}

/// Does the same with each kind of server.
macro_rules! each {
    ($server:expr, $inner:ident => $do:expr) => {
        match $server {
            Server::Redis($inner) => $do,
            Server::MariaDb($inner) => $do,
            Server::Postgres($inner) => $do,
        }
    };
}

impl Server {
    async fn start(kind: &str) -> Self {
        match kind {
            // It is saved after each second, so that it comes back with old data.
            "redis" => Self::Redis(RedisServer::start_with(&["--dbfilename", "dump.rdb", "--save", "1 1"]).await),
            "mariadb" => Self::MariaDb(MariaDb::start().await),
            "postgres" => Self::Postgres(Postgres::start().await),
            _ => panic!("no server is called {kind}; say redis, mariadb or postgres"),
        }
    }

    async fn tier(&self) -> Tier<u64> {
        let (timeout, url) = (Duration::from_millis(500), each!(self, server => server.url()));
        match self {
            Self::Redis(_) => {
                RedisStore::builder(url).namespace("n").timeout(timeout).connect().await.expect("Redis").into()
            }
            Self::MariaDb(_) | Self::Postgres(_) => {
                let store = SqlStore::builder(url).namespace("n").timeout(timeout).create_table();
                store.connect().await.expect("a database").into()
            }
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, seconds, rest @ ..] = &arguments[..] else {
        panic!("chaos <redis|mariadb|postgres> <seconds> [chains]")
    };
    let seconds = Duration::from_secs(seconds.parse().expect("seconds"));
    let count: usize = rest.first().map_or(1, |count| count.parse().expect("a number of chains"));
    let mut server = Server::start(kind).await;
    let mut chains = Vec::new();
    for _ in 0..count {
        let mut builder = ChainCache::builder();
        if count == 1 {
            builder = builder.tier(StrettoStore::new(1000).expect("memory"));
        }
        chains.push(builder.tier(server.tier().await).timeout(Duration::from_secs(1)).build().expect("a chain"));
    }
    let load = Workload::of_chains(chains.clone(), 24);
    let tasks = load.run(8);
    let mut random = Schedules::random(u64::from(std::process::id()), 1);
    random.next();
    let (started, mut faults) = (Instant::now(), [0; 2]);
    while started.elapsed() < seconds {
        let pause = Duration::from_millis([20, 100, 400, 1500][random.choose(4)]);
        let fault = random.choose(2);
        faults[fault] += 1;
        if fault == 0 {
            each!(&server, server => server.stop());
            tokio::time::sleep(pause).await;
            each!(&server, server => server.resume());
        } else {
            each!(&mut server, server => server.kill());
            tokio::time::sleep(pause).await;
            each!(&mut server, server => server.restart());
        }
        tokio::time::sleep(Duration::from_millis([50, 500, 2000][random.choose(3)])).await;
    }
    // Until all is repaired.
    let pending =
        || chains.iter().flat_map(|chain| chain.stats().tiers).map(|tier| tier.pending_deletes).sum::<usize>();
    while pending() > 0 && started.elapsed() < seconds + Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    load.end();
    for task in tasks {
        task.await.expect("a task ends");
    }
    let seen = load.report();
    let at_rest = load.check_at_rest().await;
    let ([stops, kills], calls, failed) = (faults, seen.latencies.len(), seen.failed);
    println!("{kind}, {count} chains: {calls} calls, {failed} failed; stopped {stops} times, killed {kills} times");
    println!("outdated: {} while it ran, {} at rest", seen.outdated.len(), at_rest.len());
    for outdated in seen.outdated.iter().chain(&at_rest).take(10) {
        println!("  {outdated}");
    }
    assert!(seen.outdated.is_empty() && at_rest.is_empty(), "something outdated was served");
}

//! The throughput of a Redis Cluster of three primaries compared with that of one server, and of this
//! store compared with the driver's own clients, in turns within one run:
//!
//! ```sh
//! cargo run --release --example cluster_throughput
//! ```

use std::time::{Duration, Instant};

use cache_core::{Key, Store as _, Ticket};
use integration_tests::{RedisCluster, RedisServer, key, never};
use redis::{AsyncTypedCommands as _, Client, aio::MultiplexedConnection, cluster::ClusterClient, cluster_async};
use store_redis::{RedisStore, RedisTarget};
use tokio::task::JoinSet;

const KEYS: u64 = 10_000;
/// The calls that are in flight at once.
const CALLERS: usize = 64;
const BATCH: usize = 100;
const ROUNDS: usize = 9;
/// How long one client is measured in one round.
const TURN: Duration = Duration::from_millis(500);

/// A client of one server or of the cluster.
#[derive(Clone)]
enum Subject {
    Store(RedisStore<String>),
    Driver(MultiplexedConnection),
    DriverOfCluster(cluster_async::ClusterConnection),
}

impl Subject {
    async fn get(&mut self, key: &Key, name: &str) -> bool {
        match self {
            Self::Store(store) => store.get(key).await.unwrap().is_some(),
            Self::Driver(driver) => driver.get(name).await.unwrap().is_some(),
            Self::DriverOfCluster(driver) => driver.get(name).await.unwrap().is_some(),
        }
    }

    async fn set(&mut self, key: &Key, name: &str) {
        match self {
            Self::Store(store) => store.set(never(key, value(), Ticket::unconditional())).await.unwrap(),
            Self::Driver(driver) => driver.set(name, value()).await.unwrap(),
            Self::DriverOfCluster(driver) => driver.set(name, value()).await.unwrap(),
        }
    }

    async fn get_many(&mut self, keys: &[Key], names: &[String]) -> bool {
        match self {
            Self::Store(store) => store.get_many(keys).await.into_iter().all(|found| found.unwrap().is_some()),
            Self::Driver(driver) => driver.mget(names).await.unwrap().iter().all(Option::is_some),
            Self::DriverOfCluster(driver) => driver.mget(names).await.unwrap().iter().all(Option::is_some),
        }
    }
}

#[derive(Clone, Copy)]
enum Work {
    Get,
    Set,
    GetMany,
}

fn value() -> String {
    "v".repeat(100)
}

/// Returns the keys per second that callers get or set in one turn.
async fn turn(subject: &Subject, work: Work) -> f64 {
    let mut callers = JoinSet::new();
    let started = Instant::now();
    let callers_at_once = if matches!(work, Work::GetMany) { CALLERS / 8 } else { CALLERS };
    for caller in 0..callers_at_once {
        let mut subject = subject.clone();
        callers.spawn(async move {
            let mut count = 0_u64;
            let mut next = caller as u64 * 977;
            while started.elapsed() < TURN {
                next = (next * 7_919 + 1) % KEYS;
                let at = |offset: u64| (next + offset) % KEYS;
                match work {
                    Work::Get => assert!(subject.get(&key(at(0)), &format!("n:{}", at(0))).await),
                    Work::Set => subject.set(&key(at(0)), &format!("n:{}", at(0))).await,
                    Work::GetMany => {
                        let keys: Vec<Key> = (0..BATCH as u64).map(|offset| key(at(offset))).collect();
                        let names: Vec<String> = (0..BATCH as u64).map(|offset| format!("n:{}", at(offset))).collect();
                        assert!(subject.get_many(&keys, &names).await);
                        count += BATCH as u64 - 1;
                    }
                }
                count += 1;
            }
            count
        });
    }
    let mut count = 0;
    while let Some(counted) = callers.join_next().await {
        count += counted.unwrap();
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (server, cluster) = (RedisServer::start().await, RedisCluster::start_with(3, 0, &[]).await);
    let on_one = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    let on_three = RedisStore::builder(RedisTarget::cluster(cluster.urls())).namespace("n").connect().await.unwrap();
    let driver = Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let driver_of_cluster = ClusterClient::new(cluster.urls()).unwrap().get_async_connection().await.unwrap();
    let subjects = [
        ("store-redis, one server", Subject::Store(on_one)),
        ("store-redis, three primaries", Subject::Store(on_three)),
        ("redis-rs, one server", Subject::Driver(driver)),
        ("redis-rs, three primaries", Subject::DriverOfCluster(driver_of_cluster)),
    ];
    for (name, work) in [("set", Work::Set), ("get", Work::Get), ("get_many of 100", Work::GetMany)] {
        // Each client writes what it reads: a plain value is no record.
        let mut speeds = vec![Vec::new(); subjects.len()];
        for round in 0..=ROUNDS {
            for (subject, speeds) in subjects.iter().zip(&mut speeds) {
                if !matches!(work, Work::Set) {
                    fill(&subject.1).await;
                }
                let speed = turn(&subject.1, work).await;
                // The first round warms up.
                if round > 0 {
                    speeds.push(speed);
                }
            }
        }
        let speeds: Vec<f64> = speeds.into_iter().map(median).collect();
        println!("{name}:");
        for ((subject, _), speed) in subjects.iter().zip(&speeds) {
            println!("  {subject:<29} {speed:>9.0} keys/s");
        }
        println!("  store-redis: three primaries to one {:.2}", speeds[1] / speeds[0]);
        println!("  redis-rs: three primaries to one    {:.2}", speeds[3] / speeds[2]);
        println!("  three primaries: store-redis to redis-rs {:.2}", speeds[1] / speeds[3]);
    }
}

/// Sets all keys.
async fn fill(subject: &Subject) {
    let mut callers = JoinSet::new();
    for first in 0..CALLERS as u64 {
        let mut subject = subject.clone();
        callers.spawn(async move {
            for number in (first..KEYS).step_by(CALLERS) {
                subject.set(&key(number), &format!("n:{number}")).await;
            }
        });
    }
    while let Some(filled) = callers.join_next().await {
        filled.unwrap();
    }
}

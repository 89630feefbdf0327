//! What Redis costs below a chain, beside its driver alone.

use std::{io, sync::Arc, time::Duration};

use cache_chain::ChainCache;
use cache_core::{Entry, Expiry, Key, Store as _, SystemClock, Ticket, Write};
use integration_tests::RedisServer;
use redis::{Client, aio::MultiplexedConnection, pipe};
use rustix::time::{ClockId, clock_gettime};
use store_quick_cache::QuickCacheStore;
use store_redis::RedisStore;

use crate::measure::{Contest, Options, Sample, throughput};

/// Measures calls per second to a private Redis server, over one connection: by the driver alone,
/// by the store, and by chains.
#[derive(clap::Args)]
pub(crate) struct RedisCost {
    #[command(flatten)]
    options: Options,
    /// The numbers of tasks that call at the same time
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    tasks: Vec<usize>,
    /// The size of a value, in bytes
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// The calls of one round
    #[arg(long, default_value_t = 64_000)]
    calls: usize,
    /// Measures only this operation
    #[arg(long)]
    operation: Option<Operation>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Operation {
    Get,
    Set,
    GetMany,
    SetMany,
}

const KEYS: usize = 20_000;
const TTL: Duration = Duration::from_hours(1);

/// Everything that is measured, on one server.
#[derive(Clone)]
struct Subjects {
    server: Arc<RedisServer>,
    names: Arc<[String]>,
    value: Arc<str>,
    driver: MultiplexedConnection,
    store: RedisStore<Arc<str>>,
    keys: Arc<[Key]>,
    /// A chain of Redis alone.
    chain: ChainCache<Arc<str>>,
    /// Memory above Redis. It is far too small, so that reads miss it.
    small: ChainCache<Arc<str>>,
    /// Memory above Redis.
    both: ChainCache<Arc<str>>,
}

impl RedisCost {
    pub(crate) async fn run(self) -> io::Result<()> {
        let subjects = Subjects::start(self.size).await.map_err(io::Error::other)?;
        let asked = |operation| self.operation.is_none_or(|only| only == operation);
        for &tasks in &self.tasks {
            if asked(Operation::Get) {
                subjects.get(tasks, self.calls, &self.options).await?;
            }
            if asked(Operation::Set) {
                subjects.set(tasks, self.calls, &self.options).await?;
            }
        }
        for size in [100, 1000] {
            if asked(Operation::GetMany) {
                subjects.get_many(size, self.calls, &self.options).await?;
            }
            if asked(Operation::SetMany) {
                subjects.set_many(size, self.calls, &self.options).await?;
            }
        }
        Ok(())
    }
}

impl Subjects {
    async fn start(size: usize) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let server = RedisServer::start().await;
        let names: Arc<[String]> = (0..KEYS).map(|at| format!("users:{at}")).collect();
        let value: Arc<str> = "v".repeat(size).into();
        let mut driver = Client::open(server.url())?.get_multiplexed_async_connection().await?;
        let store =
            async |namespace: &str| RedisStore::<Arc<str>>::builder(server.url()).namespace(namespace).connect().await;
        let keys: Arc<[Key]> = Key::many(&*names)?.into();
        let memory = |entries| QuickCacheStore::<Arc<str>>::new(entries);
        let small = ChainCache::builder().tier(memory(16)?).tier(store("small").await?).default_ttl(TTL);
        let both = ChainCache::builder().tier(memory(2 * KEYS as u64)?).tier(store("both").await?).default_ttl(TTL);
        let chain = ChainCache::builder().tier(store("chain").await?).default_ttl(TTL).build()?;
        let (small, both, store) = (small.build()?, both.build()?, store("store").await?);
        for names in names.chunks(1000) {
            let mut sets = pipe();
            for name in names {
                sets.cmd("SET").arg(name).arg(&*value).arg("PX").arg(TTL.as_millis()).ignore();
            }
            sets.exec_async(&mut driver).await?;
            for chain in [&chain, &small, &both] {
                chain.set_many(names.iter().map(|name| (name, Arc::clone(&value)))).await?;
            }
        }
        let writes = keys.iter().map(|key| write(key, &value)).collect();
        store.set_many(writes).await.into_iter().collect::<cache_core::Result<Vec<()>>>()?;
        let server = Arc::new(server);
        Ok(Self { server, names, value, driver, store, keys, chain, small, both })
    }

    /// One round of `calls` calls by `tasks` tasks, with the commands that reach the server.
    async fn round<F: Future<Output = ()> + Send>(
        &self,
        (tasks, calls): (usize, usize),
        call: impl Fn(usize) -> F + Clone + Send + 'static,
    ) -> Sample {
        self.server.cli(&["CONFIG", "RESETSTAT"]);
        let each = (calls / tasks).max(1);
        let before = cpu_time();
        let rate = throughput(tasks, each, call).await;
        let cpu = (cpu_time() - before) / (tasks * each) as f64;
        let commands = self.server.cli(&["INFO", "commandstats"]);
        let commands = commands.lines().filter(|line| !line.contains("cmdstat_config|resetstat"));
        let count = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<f64>().ok();
        Sample::of(rate)
            .with("µs of CPU time", cpu * 1e6)
            .with("commands", commands.filter_map(count).sum::<f64>() / (tasks * each) as f64)
    }

    async fn get(&self, tasks: usize, calls: usize, options: &Options) -> io::Result<()> {
        let mut contest = Contest::new(format!("Redis: get, {tasks} tasks"), "calls/s");
        let work = (tasks, calls);
        contest.add("redis-rs", move || {
            let Self { driver, names, .. } = self.clone();
            self.round(work, move |at| {
                let (mut driver, names) = (driver.clone(), Arc::clone(&names));
                async move {
                    let name = &names[at % KEYS];
                    redis::cmd("GET").arg(name).query_async::<String>(&mut driver).await.expect("a value");
                }
            })
        });
        contest.add("store-redis", move || {
            let Self { store, keys, .. } = self.clone();
            self.round(work, move |at| {
                let (store, keys) = (store.clone(), Arc::clone(&keys));
                async move {
                    store.get(&keys[at % KEYS]).await.expect("an answer").expect("a value");
                }
            })
        });
        for (name, chain) in
            [("chain on Redis", &self.chain), ("chain on memory + Redis, a miss in memory", &self.small)]
        {
            contest.add(name, move || {
                let (chain, names) = (chain.clone(), Arc::clone(&self.names));
                self.round(work, move |at| {
                    let (chain, names) = (chain.clone(), Arc::clone(&names));
                    async move {
                        chain.get(&names[at % KEYS]).await.expect("an answer").expect("a value");
                    }
                })
            });
        }
        contest.run(options).await.map(drop)
    }

    async fn set(&self, tasks: usize, calls: usize, options: &Options) -> io::Result<()> {
        let mut contest = Contest::new(format!("Redis: set, {tasks} tasks"), "calls/s");
        let work = (tasks, calls);
        contest.add("redis-rs", move || {
            let Self { driver, names, value, .. } = self.clone();
            self.round(work, move |at| {
                let (mut driver, names, value) = (driver.clone(), Arc::clone(&names), Arc::clone(&value));
                async move {
                    let mut set = redis::cmd("SET");
                    set.arg(&names[at % KEYS]).arg(&*value).arg("PX").arg(TTL.as_millis());
                    set.exec_async(&mut driver).await.expect("it is set");
                }
            })
        });
        contest.add("store-redis", move || {
            let Self { store, keys, value, .. } = self.clone();
            self.round(work, move |at| {
                let (store, keys, value) = (store.clone(), Arc::clone(&keys), Arc::clone(&value));
                async move { store.set(write(&keys[at % KEYS], &value)).await.expect("it is set") }
            })
        });
        for (name, chain) in [("chain on Redis", &self.chain), ("chain on memory + Redis", &self.both)] {
            contest.add(name, move || {
                let (chain, names, value) = (chain.clone(), Arc::clone(&self.names), Arc::clone(&self.value));
                self.round(work, move |at| {
                    let (chain, names, value) = (chain.clone(), Arc::clone(&names), Arc::clone(&value));
                    async move { chain.set(&names[at % KEYS], value).await.expect("it is set") }
                })
            });
        }
        contest.run(options).await.map(drop)
    }

    async fn get_many(&self, size: usize, calls: usize, options: &Options) -> io::Result<()> {
        let mut contest = Contest::new(format!("Redis: get_many({size}), 1 task"), "calls/s");
        let work = (1, (calls / size).min(200));
        contest.add("redis-rs, MGET", move || {
            let Self { driver, names, .. } = self.clone();
            self.round(work, move |at| {
                let (mut driver, names) = (driver.clone(), Arc::clone(&names));
                async move {
                    let found: Vec<String> =
                        redis::cmd("MGET").arg(batch(&names, at, size)).query_async(&mut driver).await.expect("values");
                    assert_eq!(found.len(), size);
                }
            })
        });
        contest.add("redis-rs, a pipeline", move || {
            let Self { driver, names, .. } = self.clone();
            self.round(work, move |at| {
                let (mut driver, names) = (driver.clone(), Arc::clone(&names));
                async move {
                    let mut gets = pipe();
                    for name in batch(&names, at, size) {
                        gets.cmd("GET").arg(name);
                    }
                    let found: Vec<String> = gets.query_async(&mut driver).await.expect("values");
                    assert_eq!(found.len(), size);
                }
            })
        });
        contest.add("store-redis", move || {
            let Self { store, keys, .. } = self.clone();
            self.round(work, move |at| {
                let (store, keys) = (store.clone(), Arc::clone(&keys));
                async move {
                    let found = store.get_many(batch(&keys, at, size)).await;
                    assert!(found.iter().all(|found| matches!(found, Ok(Some(_)))));
                }
            })
        });
        for (name, chain) in
            [("chain on Redis", &self.chain), ("chain on memory + Redis, a miss in memory", &self.small)]
        {
            contest.add(name, move || {
                let (chain, names) = (chain.clone(), Arc::clone(&self.names));
                self.round(work, move |at| {
                    let (chain, names) = (chain.clone(), Arc::clone(&names));
                    async move {
                        let found = chain.get_many(batch(&names, at, size)).await.expect("an answer");
                        assert!(found.iter().all(Option::is_some));
                    }
                })
            });
        }
        contest.run(options).await.map(drop)
    }

    async fn set_many(&self, size: usize, calls: usize, options: &Options) -> io::Result<()> {
        let mut contest = Contest::new(format!("Redis: set_many({size}), 1 task"), "calls/s");
        let work = (1, (calls / size).min(200));
        contest.add("redis-rs, a pipeline", move || {
            let Self { driver, names, value, .. } = self.clone();
            self.round(work, move |at| {
                let (mut driver, names, value) = (driver.clone(), Arc::clone(&names), Arc::clone(&value));
                async move {
                    let mut sets = pipe();
                    for name in batch(&names, at, size) {
                        sets.cmd("SET").arg(name).arg(&*value).arg("PX").arg(TTL.as_millis()).ignore();
                    }
                    sets.exec_async(&mut driver).await.expect("they are set");
                }
            })
        });
        contest.add("store-redis", move || {
            let Self { store, keys, value, .. } = self.clone();
            self.round(work, move |at| {
                let (store, keys, value) = (store.clone(), Arc::clone(&keys), Arc::clone(&value));
                async move {
                    let writes = batch(&keys, at, size).iter().map(|key| write(key, &value)).collect();
                    assert!(store.set_many(writes).await.iter().all(Result::is_ok));
                }
            })
        });
        for (name, chain) in [("chain on Redis", &self.chain), ("chain on memory + Redis", &self.both)] {
            contest.add(name, move || {
                let (chain, names, value) = (chain.clone(), Arc::clone(&self.names), Arc::clone(&self.value));
                self.round(work, move |at| {
                    let (chain, names, value) = (chain.clone(), Arc::clone(&names), Arc::clone(&value));
                    async move {
                        let values = batch(&names, at, size).iter().map(|name| (name, Arc::clone(&value)));
                        chain.set_many(values).await.expect("they are set");
                    }
                })
            });
        }
        contest.run(options).await.map(drop)
    }
}

/// The seconds of CPU time that this process has used. The server is another one.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The keys of one batch.
fn batch<T>(all: &[T], at: usize, size: usize) -> &[T] {
    let first = at * size % (KEYS - size);
    &all[first..first + size]
}

fn write(key: &Key, value: &Arc<str>) -> Write<Arc<str>> {
    let expiry = Expiry::after(cache_core::Clock::now(&SystemClock), cache_core::Ttl::After(TTL));
    Write::new(key.clone(), Entry::new(Arc::clone(value), expiry), Ticket::unconditional())
}

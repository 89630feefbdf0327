//! A chain of memory, Redis and a database that loads what it lacks, step by step.
//!
//! ```sh
//! cargo run --release -p cache-chain --features stretto,redis,sqlite --example quickstart
//! ```
//!
//! Nothing needs to be installed. The database is SQLite in a temporary file, and without
//! `REDIS_URL` (`redis://[user:password@]host[:port]`) the chain has no Redis tier.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use cache_chain::{ChainCache, ReadThrough, Tier, redis::RedisStore, sql::SqlStore, stretto::StrettoStore};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
}

/// Stands for your database: a query takes 20 ms.
#[derive(Clone, Default)]
struct Users {
    queries: Arc<AtomicU32>,
}

impl Users {
    async fn find(&self, id: u32) -> std::io::Result<Option<User>> {
        self.queries.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok((id < 1000).then(|| User { name: format!("user {id}") }))
    }

    async fn find_many(&self, ids: Vec<u32>) -> std::io::Result<HashMap<u32, User>> {
        self.queries.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(ids.into_iter().map(|id| (id, User { name: format!("user {id}") })).collect())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("quickstart-{}.db", std::process::id()));
    let result = run(std::env::var("REDIS_URL").ok(), &format!("sqlite://{}", file.display())).await;
    std::fs::remove_file(file)?;
    result
}

/// Runs all steps. The first tier is memory, then Redis if there is a URL, then the database.
pub(crate) async fn run(redis_url: Option<String>, database_url: &str) -> Result<(), Box<dyn Error>> {
    let minute = Duration::from_secs(60);
    let memory = Tier::new(StrettoStore::new(100_000)?).max_ttl(minute);
    let mut builder = ChainCache::builder().tier(memory);
    if let Some(url) = redis_url {
        builder = builder.tier(RedisStore::builder(url).namespace("quickstart").connect().await?);
    }
    let sql = SqlStore::builder(database_url).namespace("quickstart").create_table().connect().await?;
    let cache: ChainCache<User> = builder
        .tier(sql)
        .default_ttl(60 * minute)
        .jitter(0.1)
        .read_through(ReadThrough::new().stale_for(10 * minute))
        .build()?;
    let users = Users::default();

    say("100 callers ask for one key that no tier has: one of them loads it, the others wait for that load.");
    let callers = (0..100).map(|_| {
        let (cache, users) = (cache.clone(), users.clone());
        tokio::spawn(async move { cache.get_or_load(42, move || async move { users.find(42).await }).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert_eq!(caller.await??, Some(User { name: "user 42".to_owned() }));
    }
    assert_eq!(users.queries.load(Relaxed), 1);
    show(&cache);

    say("The next call is a hit in memory.");
    let started = Instant::now();
    let found = cache.get_detailed(42).await?;
    println!("  {:?} from {}, in {:.1?}", found.value, found.source, started.elapsed());

    say("A missing user is cached as absent, so the second call runs no query.");
    for _ in 0..2 {
        let missing = users.clone();
        assert_eq!(cache.get_or_load(7777, move || async move { missing.find(7777).await }).await?, None);
    }
    assert_eq!(users.queries.load(Relaxed), 2);

    say("Three keys, one query for those that are missing.");
    let batch = users.clone();
    let found = cache.get_or_load_many([41, 42, 43], move |ids| async move { batch.find_many(ids).await }).await?;
    println!("  {found:?}");
    assert_eq!(users.queries.load(Relaxed), 3);

    say("After a change of the database, delete the key. No late backfill brings the old value back.");
    cache.del(42).await?;
    assert_eq!(cache.get(42).await?, None);

    say("A shutdown completes what is queued.");
    cache.clear().await?;
    cache.shutdown(Duration::from_secs(5)).await?;
    show(&cache);
    Ok(())
}

/// Prints the statistics: per tier the lookups that found an entry (hits) and did not (misses);
/// backfills, which copy an entry into the tiers above the one that had it, and loaded entries into
/// the tiers that are not local; and loads, with the callers that joined the load of another.
fn show(cache: &ChainCache<User>) {
    for line in cache.stats().to_string().lines() {
        println!("  {line}");
    }
}

fn say(step: &str) {
    println!("\n{step}");
}

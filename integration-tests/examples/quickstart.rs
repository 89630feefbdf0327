//! A typed chain of three tiers, and what happens in it, told step by step.
//!
//! `cargo run --release --example quickstart`
//!
//! Memory (stretto), then Redis, then SQL. Nothing needs to be installed: without `REDIS_URL` it starts a private
//! `redis-server` if there is one and does without that tier if not; without `DATABASE_URL` (MySQL, PostgreSQL or SQLite)
//! the last tier is SQLite in a temporary file.

use std::{
    error::Error,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cache_chain::{Cache, ChainCache, Ttl, redis::RedisStore, sql::SqlStore, stretto::StrettoStore};
use cache_core::DelegateCache;
use integration_tests::RedisServer;
use serde_derive::{Deserialize, Serialize};
use tempfile::TempDir;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    admin: bool,
}

type Key = (&'static str, u32);

/// The chain, and each of its tiers by itself, to look into it.
struct Quickstart {
    users: ChainCache<User>,
    memory: DelegateCache<StrettoStore<User>>,
    redis: Option<DelegateCache<RedisStore<User>>>,
    sql: DelegateCache<SqlStore<User>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (redis_url, _server) = redis().await;
    let (database_url, _directory) = database()?;

    let memory = StrettoStore::new(100_000)?;
    let sql = SqlStore::builder(database_url).namespace("quickstart").create_table().connect().await?;
    let mut builder = ChainCache::builder().tier(memory.clone());
    let mut redis = None;
    if let Some(url) = redis_url {
        let store = RedisStore::builder(url).namespace("quickstart").connect().await?;
        builder = builder.tier(store.clone());
        redis = Some(DelegateCache::new(store));
    }
    let users: ChainCache<User> = builder.tier(sql.clone()).build()?;
    Quickstart { users, memory: DelegateCache::new(memory), redis, sql: DelegateCache::new(sql) }.run().await
}

impl Quickstart {
    async fn run(&self) -> Result<(), Box<dyn Error>> {
        let users = &self.users;
        let key = ("acme", 42);
        let tiers: Vec<String> = users.stats().tiers.into_iter().map(|tier| tier.name).collect();
        say(&format!("The chain: {}.", tiers.join(", ")));

        say("set (\"acme\", 42) for 60 s: every tier is written, from the last up.");
        let started = Instant::now();
        let ada = User { name: "Ada".to_owned(), admin: true };
        users.set_with_ttl(key, ada, Duration::from_secs(60)).await?;
        println!("  set in {:.1?}", started.elapsed());
        users.wait().await?;
        self.show(key).await?;

        say("get: a hit in L1. Nothing is serialized, nothing allocated, nothing awaited.");
        self.get(key).await?;

        say("L1 is emptied, as by a restart of this process. get: a miss in L1, a hit in L2.");
        self.memory.clear().await?;
        self.get(key).await?;

        if let Some(redis) = &self.redis {
            users.wait().await?;
            say("L2 is emptied as well. get: a miss in L1, a miss in L2, a hit in L3.");
            self.memory.clear().await?;
            redis.clear().await?;
            self.get(key).await?;
        }

        say("The tiers above are backfilled, asynchronously, with the TTL that remains.");
        let started = Instant::now();
        users.wait().await?;
        println!("  applied within {:.1?}", started.elapsed());
        self.show(key).await?;

        say("get: a hit in L1 again.");
        self.get(key).await?;

        say("Several at once: one round trip per tier.");
        let team = ["Grace", "Edsger", "Barbara"];
        users.set_many(team.map(|name| (name, User { name: name.to_owned(), admin: false }))).await?;
        self.memory.clear().await?;
        let started = Instant::now();
        let found = users.get_many(team).await?;
        println!("  get_many found {} of {} in {:.1?}", found.iter().flatten().count(), team.len(), started.elapsed());

        say("del: gone from every tier. A backfill that is still on its way is refused.");
        users.del(key).await?;
        self.show(key).await?;
        assert_eq!(users.get(key).await?, None);

        say("clear: this namespace is empty; what else the servers hold is not touched.");
        users.clear().await?;
        assert_eq!(users.get_many(team).await?, [None, None, None]);
        println!("  get_many found nothing");

        say("shutdown: queued backfills are finished. What the chain has done:");
        users.shutdown(Duration::from_secs(5)).await?;
        for line in users.stats().to_string().lines() {
            println!("  {line}");
        }
        Ok(())
    }

    async fn get(&self, key: Key) -> Result<(), cache_chain::Error> {
        let before = self.users.stats();
        let started = Instant::now();
        let found = self.users.get_with_ttl(key).await?;
        let took = started.elapsed();
        let tiers = self.users.stats().tiers;
        let hit = tiers.iter().zip(before.tiers).find(|(now, then)| now.hits > then.hits);
        let (user, ttl) = found.expect("it was set");
        let tier = hit.map_or("nowhere", |(tier, _)| &tier.name);
        println!("  {} from {tier} in {took:.1?}, {}", user.name, life(ttl));
        Ok(())
    }

    async fn show(&self, key: Key) -> Result<(), cache_chain::Error> {
        show("memory", &self.memory, key).await?;
        if let Some(redis) = &self.redis {
            show("Redis", redis, key).await?;
        }
        show("SQL", &self.sql, key).await
    }
}

async fn show<C: Cache<Value = User>>(name: &str, tier: &C, key: Key) -> Result<(), cache_chain::Error> {
    match tier.get_with_ttl(key).await? {
        Some((user, ttl)) => println!("  {name} holds {}, {}", user.name, life(ttl)),
        None => println!("  {name} holds nothing"),
    }
    Ok(())
}

/// The Redis to use: the one that is named, a private one, or none.
async fn redis() -> (Option<String>, Option<RedisServer>) {
    if let Ok(url) = std::env::var("REDIS_URL") {
        say("Using the Redis of REDIS_URL.");
        return (Some(url), None);
    }
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        say(
            "There is no Redis, so this goes without that tier. To see all three, install one (apt-get install redis-server, \
             brew install redis), or set REDIS_URL=redis://[user:password@]host:port/ to use one that runs.",
        );
        return (None, None);
    }
    say("Starting a private redis-server on a free port of the loopback.");
    let server = RedisServer::start().await;
    (Some(server.url()), Some(server))
}

/// The database to use: the one that is named, or a file.
fn database() -> Result<(String, Option<TempDir>), Box<dyn Error>> {
    if let Ok(url) = std::env::var("DATABASE_URL") {
        say("Using the database of DATABASE_URL, table cache_entries.");
        return Ok((url, None));
    }
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite://{}", directory.path().join("quickstart.db").display());
    say("Using SQLite in a temporary file. DATABASE_URL would name another database.");
    Ok((url, Some(directory)))
}

fn life(ttl: Ttl) -> String {
    ttl.as_duration().map_or_else(|| "for ever".to_owned(), |left| format!("{:.3} s to live", left.as_secs_f64()))
}

fn say(what: &str) {
    println!("\n{what}");
}

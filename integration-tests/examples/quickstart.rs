//! A typed chain of memory and Redis, and what happens in it, told step by step.
//!
//! `cargo run --release --example quickstart`
//!
//! It runs on the Redis that `REDIS_URL` names; without one it starts a private `redis-server` and ends it again.

use std::{
    error::Error,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cache_chain::{Cache, ChainCache, Ttl, redis::RedisStore, stretto::StrettoStore};
use cache_core::DelegateCache;
use integration_tests::RedisServer;
use serde_derive::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    admin: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (url, _server) = redis().await?;

    say("A chain of two tiers: L1 in this process (stretto), L2 shared (Redis).");
    let memory = StrettoStore::new(100_000)?;
    let shared = RedisStore::builder(url).namespace("quickstart").connect().await?;
    let users: ChainCache<User> = ChainCache::builder().tier(memory.clone()).tier(shared.clone()).build()?;
    // Each tier by itself, to look into it.
    let (l1, l2) = (DelegateCache::new(memory), DelegateCache::new(shared));
    let key = ("acme", 42);
    let ada = User { name: "Ada".to_owned(), admin: true };

    say("set (\"acme\", 42) for 60 s: every tier is written, from the last up.");
    let started = Instant::now();
    users.set_with_ttl(key, ada.clone(), Duration::from_secs(60)).await?;
    done(started, "set");
    users.wait().await?;
    show("L1", &l1, key).await?;
    show("L2", &l2, key).await?;

    say("get: a hit in L1. Nothing is serialized, nothing allocated, nothing awaited.");
    get(&users, key).await?;

    say("L1 is emptied, as by a restart of this process; then get: a miss in L1, a hit in L2.");
    l1.clear().await?;
    get(&users, key).await?;

    say("The backfill arrives, asynchronously, with the TTL that remains.");
    users.wait().await?;
    show("L1", &l1, key).await?;

    say("get: a hit in L1 again.");
    get(&users, key).await?;

    say("Several at once: one round trip per tier.");
    let team = ["Grace", "Edsger", "Barbara"];
    users.set_many(team.map(|name| (name, User { name: name.to_owned(), admin: false }))).await?;
    l1.clear().await?;
    let started = Instant::now();
    let found = users.get_many(team).await?;
    done(started, &format!("get_many found {} of {}", found.iter().flatten().count(), team.len()));

    say("del: gone from every tier. A backfill that is still on its way is refused.");
    users.del(key).await?;
    show("L1", &l1, key).await?;
    show("L2", &l2, key).await?;
    assert_eq!(users.get(key).await?, None);

    say("clear: the namespace is empty; the rest of the Redis database is not touched.");
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

/// The Redis to use: the one that is named, or a private one.
async fn redis() -> Result<(String, Option<RedisServer>), Box<dyn Error>> {
    if let Ok(url) = std::env::var("REDIS_URL") {
        say("Using the Redis of REDIS_URL.");
        return Ok((url, None));
    }
    let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !installed {
        return Err("there is no Redis: install one (apt-get install redis-server, or brew install redis), or set \
                    REDIS_URL=redis://[user:password@]host:port/ to use one that runs"
            .into());
    }
    say("Starting a private redis-server on a free port of the loopback.");
    let server = RedisServer::start().await;
    Ok((server.url(), Some(server)))
}

async fn get(users: &ChainCache<User>, key: (&str, i32)) -> Result<(), cache_chain::Error> {
    let before = users.stats();
    let started = Instant::now();
    let found = users.get_with_ttl(key).await?;
    let took = started.elapsed();
    let tiers = users.stats().tiers;
    let hit = tiers.iter().zip(before.tiers).find(|(now, then)| now.hits > then.hits).map(|(tier, _)| &tier.name);
    let (user, ttl) = found.expect("it was set");
    println!("  {} from {} in {took:.1?}, {}", user.name, hit.map_or("nowhere", |name| name), life(ttl));
    Ok(())
}

async fn show<C: Cache<Value = User>>(name: &str, tier: &C, key: (&str, i32)) -> Result<(), cache_chain::Error> {
    match tier.get_with_ttl(key).await? {
        Some((user, ttl)) => println!("  {name} holds {}, {}", user.name, life(ttl)),
        None => println!("  {name} holds nothing"),
    }
    Ok(())
}

fn life(ttl: Ttl) -> String {
    ttl.as_duration().map_or_else(|| "for ever".to_owned(), |left| format!("{:.3} s to live", left.as_secs_f64()))
}

fn say(what: &str) {
    println!("\n{what}");
}

fn done(started: Instant, what: &str) {
    println!("  {what} in {:.1?}", started.elapsed());
}

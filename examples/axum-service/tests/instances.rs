//! Two instances that share a Redis and a database.

mod support;

use integration_tests::{RedisServer, eventually};
use tempfile::TempDir;

use crate::support::{Instance, sqlite, user};

async fn two_instances(redis: &RedisServer, directory: &TempDir) -> [Instance; 2] {
    let settings = [("DATABASE_URL", &sqlite(directory)[..]), ("REDIS_URL", &redis.url())];
    let instances = [Instance::start(&settings).await, Instance::start(&settings).await];
    for instance in &instances {
        // Memory is coherent from now on.
        instance.measures(r#"cache_coherence_trusted{cache="users"} 1"#).await;
    }
    instances
}

#[tokio::test]
async fn an_instance_sees_what_another_one_writes() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let [one, other] = two_instances(&redis, &directory).await;
    assert_eq!(one.put(1, "Ada").await, 201);
    assert_eq!(one.get(1).await, (200, user(1, "Ada")));
    other.shows(1, "Ada").await;

    // It has the user in memory, where the entry would stay for a minute.
    assert_eq!(one.put(1, "Ada Lovelace").await, 200);
    assert_eq!(one.get(1).await, (200, user(1, "Ada Lovelace")));
    other.shows(1, "Ada Lovelace").await;

    assert_eq!(other.send("DELETE", "/users/1", None).await.0, 204);
    eventually("no user", async || (one.get(1).await.0 == 404).then_some(())).await;
}

#[tokio::test]
async fn redis_may_hang() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let [one, other] = two_instances(&redis, &directory).await;
    for id in 1..=3 {
        assert_eq!(one.put(id, "Ada").await, 201);
    }
    one.shows(1, "Ada").await;
    other.shows(1, "Ada").await;

    redis.stop();
    // From memory, and from the database.
    for instance in [&one, &other] {
        assert_eq!(instance.get(1).await, (200, user(1, "Ada")));
        assert_eq!(instance.get(2).await, (200, user(2, "Ada")));
    }
    // A write is made, and seen at once by the instance that made it.
    assert_eq!(one.put(1, "Ada Lovelace").await, 200);
    assert_eq!(one.get(1).await, (200, user(1, "Ada Lovelace")));
    assert_eq!(one.send("DELETE", "/users/3", None).await.0, 204);
    assert_eq!(one.get(3).await.0, 404);
    // By the other one at the end of the grace.
    other.shows(1, "Ada Lovelace").await;
    // What Redis has of both is to be deleted.
    one.measures(r#"cache_tier_pending_deletes{cache="users",tier="redis"} 2"#).await;

    redis.resume();
    for instance in [&one, &other] {
        instance.measures(r#"cache_tier_pending_deletes{cache="users",tier="redis"} 0"#).await;
        // A read is the probe that closes the breaker.
        eventually("a closed breaker", async || {
            assert_eq!(instance.get(2).await, (200, user(2, "Ada")));
            let closed = r#"cache_tier_breaker_state{cache="users",tier="redis",state="closed"} 1"#;
            instance.metrics().await.lines().any(|line| line == closed).then_some(())
        })
        .await;
        instance.measures(r#"cache_coherence_trusted{cache="users"} 1"#).await;
    }
    // What Redis had before does not come back.
    for instance in [&one, &other] {
        assert_eq!(instance.get(1).await, (200, user(1, "Ada Lovelace")));
        assert_eq!(instance.get(3).await.0, 404);
    }
    assert_eq!(other.put(2, "Bo").await, 200);
    one.shows(2, "Bo").await;
}

#[tokio::test]
async fn an_instance_that_ends_while_redis_hangs_tells_what_remains_there() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let settings = [("DATABASE_URL", &sqlite(&directory)[..]), ("REDIS_URL", &redis.url())];
    let mut instance = Instance::start(&settings).await;
    assert_eq!(instance.put(1, "Ada").await, 201);
    redis.stop();
    assert_eq!(instance.put(1, "Ada Lovelace").await, 200);
    instance.terminate();
    assert_eq!(instance.ended().await.code(), Some(0));
    instance.logs("users that have changed and remain in redis until their TTL ends: 1").await;
}

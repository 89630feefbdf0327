//! A failover loses writes, because Redis replicates asynchronously. It undoes no deletion of a record,
//! and none of a plain value that a replica has confirmed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cache_core::{Entry, ErrorKind, Key, Store as _, Ticket};
use integration_tests::{RedisCluster, RedisSentinels, eventually, key, never, value};
use store_redis::{RedisConnectionBuilder, RedisStore, RedisStoreBuilder, RedisTarget};
use tokio::task::JoinSet;

type Builder = RedisStoreBuilder<u64, cache_core::codec::Bincode, RedisConnectionBuilder>;

fn builder(cluster: &RedisCluster) -> Builder {
    RedisStore::builder(RedisTarget::cluster(cluster.urls())).namespace("n")
}

/// The observations of callers.
#[derive(Default)]
struct Observed {
    is_over: AtomicBool,
    deletions: AtomicU64,
    errors: AtomicU64,
    reads: AtomicU64,
    values: AtomicU64,
}

/// Sets a key to one number after the other, and deletes each. After a deletion that has succeeded, no
/// process reads the number again.
async fn set_and_delete(key: Key, stores: [RedisStore<u64>; 2], observed: Arc<Observed>) {
    let [writer, reader] = stores;
    let mut number = 0;
    while !observed.is_over.load(SeqCst) {
        number += 1;
        let is_set = writer.set(never(&key, number, Ticket::unconditional())).await.is_ok();
        if is_set && reader.get(&key).await.is_ok_and(|found| found.is_some()) {
            observed.values.fetch_add(1, SeqCst);
        }
        if writer.del(&key).await.is_err() {
            observed.errors.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        observed.deletions.fetch_add(1, SeqCst);
        for store in [&writer, &reader, &reader] {
            let Ok(found) = store.get(&key).await else { continue };
            observed.reads.fetch_add(1, SeqCst);
            assert_eq!(found.and_then(Entry::into_value), None, "the deletion of {number} was undone");
        }
    }
}

/// Kills each primary in turn, so many times, and lets its replica take over.
async fn fail_over_again_and_again(cluster: &mut RedisCluster, times: usize) {
    for round in 0..times {
        let primaries = cluster.primaries();
        let primary = primaries[round % primaries.len()];
        let replica = cluster.replica_of(primary);
        cluster.kill(primary);
        cluster.take_over(replica).await;
        cluster.restart(primary);
        cluster.wait_until_whole().await;
    }
}

/// 50 failovers under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_no_deletion_that_was_confirmed_is_undone_by_a_failover() {
    let mut cluster = RedisCluster::start().await;
    // A record is bound to its primary, and needs no confirmation. A plain value has nothing but that.
    let records = [builder(&cluster), builder(&cluster)];
    let plain = || builder(&cluster).plain().wait_for_replicas(1);
    let plain = [plain(), plain()].map(|builder| builder.namespace("p"));
    let (mut load, mut observed) = (JoinSet::new(), Vec::new());
    for builders in [records, plain] {
        let [writer, reader] = builders;
        let stores = [writer.connect().await.unwrap(), reader.connect().await.unwrap()];
        let seen = Arc::new(Observed::default());
        for n in 0..20_u64 {
            load.spawn(set_and_delete(key(n), stores.clone(), Arc::clone(&seen)));
        }
        observed.push(seen);
    }
    let started = Instant::now();
    fail_over_again_and_again(&mut cluster, 50).await;
    let took = started.elapsed();
    for seen in &observed {
        seen.is_over.store(true, SeqCst);
    }
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    for seen in observed {
        let [deletions, reads, values, errors] =
            [&seen.deletions, &seen.reads, &seen.values, &seen.errors].map(|count| count.load(SeqCst));
        println!("50 failovers in {took:?}: {deletions} deletions, {values} values, {reads} reads, {errors} errors");
        assert!(deletions > 1000 && reads > 1000 && values > 1000, "the load has run");
        assert!(errors > 0, "callers have noticed the failovers");
    }
}

/// What a confirmation is for: a deletion that the replica has not heard of.
#[tokio::test]
async fn only_a_confirmed_deletion_of_a_plain_value_survives() {
    let cluster = RedisCluster::start_with(1, 1, &[]).await;
    let plain = builder(&cluster).plain().connect().await.unwrap();
    let confirmed = builder(&cluster).plain().wait_for_replicas(1).connect().await.unwrap();
    let records = builder(&cluster).namespace("r").connect().await.unwrap();
    let k = key("k");
    for store in [&plain, &records] {
        store.set(never(&k, 1, Ticket::unconditional())).await.unwrap();
    }
    confirmed.set(never(&key("other"), 1, Ticket::unconditional())).await.unwrap();
    cluster.wait_until_whole().await;

    // The replica is cut off: its password is wrong from now on.
    cluster.node(1).cli(&["CONFIG", "SET", "masterauth", "wrong"]);
    assert_eq!(cluster.node(0).cli(&["CLIENT", "KILL", "TYPE", "REPLICA"]), "1");
    plain.del(&k).await.unwrap();
    records.del(&k).await.unwrap();
    let started = Instant::now();
    for result in [
        confirmed.del(&key("other")).await,
        confirmed.set(never(&key("new"), 1, Ticket::unconditional())).await,
        confirmed.take(&key("new")).await.map(drop),
        confirmed.clear().await,
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("0 of 1 replicas have confirmed"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "each within its timeout");
    // The primary applies them, and serves reads meanwhile.
    assert_eq!(value(&confirmed, &key("other")).await, None);

    cluster.take_over(1).await;
    let read = async |store: &RedisStore<u64>| {
        eventually("an answer", async || store.get(&k).await.ok()).await.and_then(Entry::into_value)
    };
    assert_eq!(read(&records).await, None);
    assert_eq!(read(&plain).await, Some(1), "undone, as the README says");
}

/// A process that only deletes follows as well.
#[tokio::test]
async fn a_deletion_that_must_be_confirmed_follows_a_failover() {
    let cluster = RedisCluster::start().await;
    let store = builder(&cluster).wait_for_replicas(1).connect().await.unwrap();
    let keys: Vec<Key> = (0..30_u64).map(key).collect();
    store.del(&keys[0]).await.unwrap();
    // Written by another process, which has followed already.
    let other = builder(&cluster).connect().await.unwrap();
    for primary in cluster.primaries() {
        cluster.fail_over(cluster.replica_of(primary)).await;
    }
    cluster.wait_until_whole().await;
    for key in &keys {
        eventually("a write", async || other.set(never(key, 1, Ticket::unconditional())).await.ok()).await;
        store.del(key).await.unwrap();
        assert_eq!(value(&other, key).await, None);
    }
    assert!(store.del_many(&keys).await.into_iter().all(|deleted| deleted.is_ok()));
}

/// Writes that wait for a replica which is gone do not hold up others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_replicas_holds_up_no_read() {
    let cluster = RedisCluster::start_with(1, 0, &[]).await;
    let store = builder(&cluster).wait_for_replicas(1).connect().await.unwrap();
    let mut writes = JoinSet::new();
    for n in 0..50_u64 {
        let store = store.clone();
        writes.spawn(async move { store.set(never(&key(n), n, Ticket::unconditional())).await });
    }
    for _ in 0..20 {
        store.get(&key("other")).await.unwrap();
    }
    assert!(writes.try_join_next().is_none(), "all reads were answered before the first write has failed");
    while let Some(written) = writes.join_next().await {
        let error = written.unwrap().unwrap_err();
        assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    }
    // They were applied.
    assert_eq!(value(&store, &key(7_u64)).await, Some(7));
}

/// The same behind sentinels, with values that outlive restarts.
#[tokio::test]
async fn a_confirmed_deletion_survives_a_failover_by_sentinels() {
    let mut redis = RedisSentinels::start().await;
    let target = RedisTarget::sentinel(redis.name(), redis.sentinel_urls());
    let builder = RedisStore::<u64>::builder(target).namespace("n").trust_restarts(true).wait_for_replicas(2);
    let store = builder.connect().await.unwrap();
    let keys: Vec<Key> = (0..20_u64).map(key).collect();
    for key in &keys {
        store.set(never(key, 1, Ticket::unconditional())).await.unwrap();
    }
    for key in &keys[..10] {
        store.del(key).await.unwrap();
    }
    let primary = redis.primary();
    redis.kill(primary);
    redis.wait_until_replaced(primary).await;
    for (at, key) in keys.iter().enumerate() {
        let found = eventually("an answer", async || store.get(key).await.ok()).await.and_then(Entry::into_value);
        assert_eq!(found, (at >= 10).then_some(1));
    }
}

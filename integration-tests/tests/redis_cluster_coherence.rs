//! First tiers of several instances over one Redis Cluster: none serves what has changed longer ago
//! than W, while slots move, nodes join and primaries fail.

use std::time::{Duration, Instant};

use cache_chain::{ChainCache, Coherence, Source, Tier};
use cache_core::testkit::{StreamHarness, broken_stream_clauses};
use integration_tests::{
    RedisCluster, RedisServer, documented_cluster_permissions, documented_permissions, documented_stream_permissions,
    eventually,
};
use store_redis::{RedisStore, RedisTarget};
use store_stretto::StrettoStore;

type Chain = ChainCache<String>;

async fn store(nodes: Vec<String>) -> RedisStore<String> {
    RedisStore::builder(RedisTarget::cluster(nodes)).namespace("users").connect().await.unwrap()
}

/// An instance of a service: memory of its own over the cluster of all.
async fn instance(cluster: &RedisCluster) -> Chain {
    instance_at(cluster.urls()).await
}

async fn instance_at(nodes: Vec<String>) -> Chain {
    let memory = Tier::new(StrettoStore::new(10_000).unwrap()).name("memory");
    let chain = ChainCache::builder().tier(memory).tier(Tier::new(store(nodes).await).name("redis"));
    chain.coherence(Coherence::new().heartbeat(Duration::from_millis(100))).build().unwrap()
}

async fn trusted(chain: &Chain) {
    eventually("trust", async || chain.stats().coherence.trusted.then_some(())).await;
}

fn window(chain: &Chain) -> Duration {
    chain.stats().coherence.window
}

/// Returns `true` if this value is served from memory.
async fn serves_from_memory(chain: &Chain, key: &str, value: &str) -> bool {
    let found = chain.get_detailed(key).await;
    let is_served = |found: cache_chain::Found<String>| {
        found.source == Source::Tier("memory".into()) && found.value.as_deref() == Some(value)
    };
    found.is_ok_and(is_served)
}

/// Reads until this value is served from memory.
async fn served_from_memory(chain: &Chain, key: &str, value: &str) {
    eventually("a hit in memory", async || serves_from_memory(chain, key, value).await.then_some(())).await;
}

/// Checks that the instance does not serve `old` for longer than W.
async fn changes_in_time(chain: &Chain, key: &str, old: &str) {
    let changed = Instant::now();
    loop {
        let began = changed.elapsed();
        // An error is no old value.
        if !matches!(chain.get(key).await, Ok(Some(found)) if found == old) {
            return;
        }
        assert!(began <= window(chain), "{key}: {old} is served {began:?} later");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn slot_of(cluster: &RedisCluster, key: &str) -> u16 {
    cluster.slot_of(format!("users:{key}").as_bytes())
}

/// The node that holds the key.
fn owner<'a>(cluster: &'a RedisCluster, key: &str) -> &'a RedisServer {
    cluster.node(cluster.owner_of(slot_of(cluster, key)))
}

/// A key of this node.
fn key_of(cluster: &RedisCluster, node: usize) -> String {
    (0..1000).map(|n| format!("key-{n}")).find(|key| cluster.owner_of(slot_of(cluster, key)) == node).unwrap()
}

/// Writes until this value is served from the memory of the reader. A record from before the reader has
/// noticed a new primary, or its first replica, reads as a miss.
async fn write_until_served(writer: &Chain, reader: &Chain, key: &str, value: &str) {
    eventually("a hit in memory", async || {
        writer.set(key, value.into()).await.ok()?;
        let is_served = async || serves_from_memory(reader, key, value).await;
        (is_served().await || is_served().await || is_served().await).then_some(())
    })
    .await;
}

/// Changes the key by another instance, then by somebody else, and checks that this one sees it.
async fn sees_changes(cluster: &RedisCluster, writer: &Chain, reader: &Chain, key: &str) {
    write_until_served(writer, reader, key, "1").await;
    writer.set(key, "2".into()).await.unwrap();
    changes_in_time(reader, key, "1").await;
    write_until_served(writer, reader, key, "2").await;
    let reply = owner(cluster, key).cli(&["DEL", &format!("users:{key}")]);
    assert_eq!(reply, "1");
    changes_in_time(reader, key, "2").await;
}

#[tokio::test]
async fn g2_an_instance_sees_what_others_change_on_each_node() {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let (a, b) = (instance(&cluster).await, instance(&cluster).await);
    trusted(&b).await;
    assert_eq!(b.stats().coherence.mode, Some("tracking"));
    for node in 0..3 {
        sees_changes(&cluster, &a, &b, &key_of(&cluster, node)).await;
    }
    assert_eq!(b.stats().coherence.epoch, 1);
}

#[tokio::test]
async fn g2_while_a_slot_moves_and_at_its_new_node() {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let (a, b) = (instance(&cluster).await, instance(&cluster).await);
    trusted(&b).await;
    let key = key_of(&cluster, 0);
    let name = format!("users:{key}");
    a.set(&*key, "1".into()).await.unwrap();
    served_from_memory(&b, &key, "1").await;

    let slot = slot_of(&cluster, &key);
    cluster.begin_move(slot, 1);
    while cluster.migrate_keys(slot, 10) > 0 {}
    // At the other node already, where a client is sent by ASK.
    eventually("a write", async || a.set(&*key, "2".into()).await.ok()).await;
    assert_eq!(cluster.node(0).cli(&["EXISTS", &name]).split(' ').next(), Some("(ASK"));
    changes_in_time(&b, &key, "1").await;
    served_from_memory(&b, &key, "2").await;
    a.del(&*key).await.unwrap();
    changes_in_time(&b, &key, "2").await;
    cluster.finish_move(slot).await;
    sees_changes(&cluster, &a, &b, &key).await;
}

/// A node that did not exist when the stream began.
#[tokio::test]
async fn g2_when_slots_move_to_a_new_node() {
    let mut cluster = RedisCluster::start_with(3, 0, &[]).await;
    let (a, b) = (instance(&cluster).await, instance(&cluster).await);
    trusted(&b).await;
    let (moved, created) = (key_of(&cluster, 0), key_of(&cluster, 1));
    a.set(&*moved, "1".into()).await.unwrap();
    served_from_memory(&b, &moved, "1").await;
    let new = cluster.add_node().await;
    for key in [&moved, &created] {
        let slot = slot_of(&cluster, key);
        cluster.begin_move(slot, new);
        while cluster.migrate_keys(slot, 10) > 0 {}
        if key == &created {
            // A key that only the new node has ever had, set by somebody else.
            eventually("a write", async || a.set(&**key, "1".into()).await.ok()).await;
            served_from_memory(&b, key, "1").await;
            eventually("a write", async || a.set(&**key, "2".into()).await.ok()).await;
            changes_in_time(&b, key, "1").await;
        }
        cluster.finish_move(slot).await;
        sees_changes(&cluster, &a, &b, key).await;
    }
    assert_eq!(cluster.owner_of(slot_of(&cluster, &moved)), new);
}

#[tokio::test]
async fn g2_through_a_failover() {
    let mut cluster = RedisCluster::start().await;
    let (a, b) = (instance(&cluster).await, instance(&cluster).await);
    trusted(&b).await;
    let key = key_of(&cluster, 0);
    a.set(&*key, "1".into()).await.unwrap();
    served_from_memory(&b, &key, "1").await;
    let replica = cluster.replica_of(0);
    // In agreement, and back: the same processes.
    for next in [replica, 0] {
        cluster.wait_until_whole().await;
        cluster.fail_over(next).await;
        sees_changes(&cluster, &a, &b, &key).await;
    }
    write_until_served(&a, &b, &key, "3").await;
    cluster.wait_until_whole().await;
    // The primary dies. What it has served is not served for longer than W.
    cluster.kill(0);
    tokio::time::sleep(window(&b)).await;
    let found = b.get_detailed(&*key).await;
    assert!(!matches!(&found, Ok(found) if found.source == Source::Tier("memory".into())), "{found:?}");
    cluster.wait_until_primary(replica).await;
    sees_changes(&cluster, &a, &b, &key).await;
}

#[tokio::test]
async fn g2_when_a_node_takes_over_from_a_primary_that_lives() {
    let cluster = RedisCluster::start().await;
    let (a, b) = (instance(&cluster).await, instance(&cluster).await);
    trusted(&b).await;
    let key = key_of(&cluster, 0);
    a.set(&*key, "1".into()).await.unwrap();
    served_from_memory(&b, &key, "1").await;
    cluster.wait_until_whole().await;
    let replica = cluster.replica_of(0);
    cluster.take_over(replica).await;
    sees_changes(&cluster, &a, &b, &key).await;
}

/// The old primary does not hear that another node has taken over, and goes on.
#[tokio::test]
async fn g2_when_a_primary_does_not_know_that_it_was_replaced() {
    let cluster = RedisCluster::start().await;
    let (a, b) = (instance(&cluster).await, instance(&cluster).await);
    trusted(&b).await;
    let key = key_of(&cluster, 0);
    a.set(&*key, "1".into()).await.unwrap();
    served_from_memory(&b, &key, "1").await;
    cluster.wait_until_whole().await;
    let replica = cluster.replica_of(0);
    for node in 1..6 {
        assert_eq!(cluster.node(0).cli(&["CLUSTER", "FORGET", cluster.node_id(node)]), "OK");
    }
    assert_eq!(cluster.node(replica).cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    // From now on others write there.
    let name = format!("users:{key}");
    eventually("the new primary", async || (cluster.node(replica).cli(&["SET", &name, "other"]) == "OK").then_some(()))
        .await;
    let changed = Instant::now();
    loop {
        let began = changed.elapsed();
        let found = b.get_detailed(&*key).await;
        if !found.is_ok_and(|found| found.source == Source::Tier("memory".into())) {
            break;
        }
        assert!(began <= window(&b), "served from memory {began:?} later");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// An operator gives a slot away without its keys, which the old node drops.
#[tokio::test]
async fn g2_when_a_slot_moves_without_its_keys() {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let (a, b) = (instance(&cluster).await, instance(&cluster).await);
    trusted(&b).await;
    let key = key_of(&cluster, 0);
    let slot = slot_of(&cluster, &key).to_string();
    a.set(&*key, "1".into()).await.unwrap();
    served_from_memory(&b, &key, "1").await;
    // To the node with the highest epoch, which gets no other.
    for node in [2, 0, 1] {
        // The old one may refuse while it has keys, and hears of it from the others.
        cluster.node(node).cli(&["CLUSTER", "SETSLOT", &slot, "NODE", cluster.node_id(2)]);
    }
    changes_in_time(&b, &key, "1").await;
    write_until_served(&a, &b, &key, "2").await;
}

/// While a part of the cluster cannot be reached, nothing can be proven, and reads are checked.
#[tokio::test]
async fn g2_when_a_primary_is_down_from_the_start() {
    let mut cluster = RedisCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).await;
    let key = key_of(&cluster, 0);
    let nodes = cluster.urls();
    cluster.kill(1);
    let instance = async || {
        let target = RedisTarget::cluster(nodes.clone());
        let store = RedisStore::<String>::builder(target).namespace("users").connect_lazy().unwrap();
        let memory = Tier::new(StrettoStore::new(10_000).unwrap()).name("memory");
        let chain = ChainCache::builder().tier(memory).tier(Tier::new(store).name("redis"));
        chain.coherence(Coherence::new().heartbeat(Duration::from_millis(100))).build().unwrap()
    };
    let (a, b) = (instance().await, instance().await);
    // The first attempt of the stream has failed, and W is over.
    eventually("an attempt", async || (b.stats().coherence.epoch > 0).then_some(())).await;
    eventually("the end of trust", async || (!b.stats().coherence.trusted).then_some(())).await;
    eventually("a write", async || a.set(&*key, "1".into()).await.ok()).await;
    assert_eq!(b.get(&*key).await.unwrap().as_deref(), Some("1"));
    a.set(&*key, "2".into()).await.unwrap();
    assert_eq!(b.get(&*key).await.unwrap().as_deref(), Some("2"), "checked");
    assert!(!b.stats().coherence.trusted);
    cluster.restart(1);
    trusted(&b).await;
}

/// A primary without slots that does not answer holds up nothing.
#[tokio::test]
async fn g2_when_an_idle_primary_is_down_from_the_start() {
    let mut cluster = RedisCluster::start_with(3, 0, &["--cluster-node-timeout", "60000"]).await;
    let idle = cluster.add_node().await;
    let nodes: Vec<String> = cluster.urls()[..3].to_vec();
    cluster.kill(idle);
    let (a, b) = (instance_at(nodes.clone()).await, instance_at(nodes).await);
    trusted(&b).await;
    sees_changes(&cluster, &a, &b, &key_of(&cluster, 0)).await;
}

/// By a user with exactly the documented permissions.
#[tokio::test]
async fn the_documented_permissions_are_enough() {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let rules = [
        documented_permissions(false),
        documented_cluster_permissions(),
        documented_stream_permissions(false, "users"),
    ]
    .concat();
    let user = ["ACL", "SETUSER", "app", "on", ">hunter2", "~users:*"].into_iter();
    let user: Vec<_> = user.chain(rules.iter().map(String::as_str)).collect();
    cluster.nodes().iter().for_each(|node| assert_eq!(node.cli(&user), "OK"));
    let urls = cluster.urls().iter().map(|url| url.replace("redis://", "redis://app:hunter2@")).collect::<Vec<_>>();
    let (a, b) = (instance_at(urls.clone()).await, instance_at(urls).await);
    trusted(&b).await;
    for node in 0..3 {
        sees_changes(&cluster, &a, &b, &key_of(&cluster, node)).await;
    }
    // Without one of them there is no stream, and each read is checked.
    cluster.nodes().iter().for_each(|node| assert_eq!(node.cli(&["ACL", "SETUSER", "app", "-cluster|nodes"]), "OK"));
    eventually("the end of trust", async || (!b.stats().coherence.trusted).then_some(())).await;
    a.set("k", "1".into()).await.unwrap();
    assert_eq!(b.get("k").await.unwrap().as_deref(), Some("1"));
    a.set("k", "2".into()).await.unwrap();
    assert_eq!(b.get("k").await.unwrap().as_deref(), Some("2"));
}

struct ClusterStream(RedisCluster);

impl StreamHarness for ClusterStream {
    type Store = RedisStore<String>;

    async fn store(&self) -> RedisStore<String> {
        for node in self.0.nodes() {
            assert_eq!(node.cli(&["FLUSHALL"]), "OK");
        }
        store(self.0.urls()).await
    }

    /// Of one node only.
    async fn cut(&self) {
        assert_ne!(self.0.node(1).cli(&["CLIENT", "KILL", "TYPE", "pubsub"]), "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_a_cluster_keeps_the_contract_of_streams() {
    let harness = ClusterStream(RedisCluster::start_with(3, 0, &[]).await);
    assert_eq!(Box::pin(broken_stream_clauses(&harness)).await, []);
}

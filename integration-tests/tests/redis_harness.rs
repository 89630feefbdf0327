//! The Redis Cluster and the Redis Sentinels of the tests do what other tests rely on.

use integration_tests::{Certificates, RedisCluster, RedisSentinels, SentinelSettings};

/// Keys of one slot.
fn tagged(at: u32) -> String {
    format!("{{tag}}:{at}")
}

#[tokio::test]
async fn a_cluster_forms() {
    let mut cluster = RedisCluster::start().await;
    assert_eq!((cluster.urls().len(), cluster.primaries()), (6, vec![0, 1, 2]));
    let owners = [0, 5461, 5462, 10_921, 10_922, 10_923, 16_383].map(|slot| cluster.owner_of(slot));
    assert_eq!(owners, [0, 1, 1, 1, 2, 2, 2]);
    assert_eq!([0, 1, 2].map(|primary| cluster.replica_of(primary)), [3, 4, 5]);
    assert_eq!(cluster.slot_of(b"123456789"), 12_739);
    assert_eq!(cluster.node(2).cli(&["SET", "123456789", "1"]), "OK");
    assert_eq!(cluster.add_node().await, 6);
    assert_eq!((cluster.primaries(), cluster.node(6).cli(&["DBSIZE"])), (vec![0, 1, 2], "0".to_owned()));
}

#[tokio::test]
async fn a_slot_moves_with_its_keys() {
    let mut cluster = RedisCluster::start_with(2, 0, &[]).await;
    let slot = cluster.slot_of(tagged(0).as_bytes());
    let from = cluster.owner_of(slot);
    let to = 1 - from;
    for at in 0..50 {
        assert_eq!(cluster.node(from).cli(&["SET", &tagged(at), &at.to_string()]), "OK");
    }

    cluster.begin_move(slot, to);
    assert_eq!(cluster.migrate_keys(slot, 20), 20);
    let ask = format!("(ASK {slot} 127.0.0.1:{})", cluster.node(to).port());
    assert_eq!(cluster.node(from).cli(&["GET", "{tag}:absent"]), ask);
    assert_eq!(
        (cluster.owner_of(slot), cluster.migrate_keys(slot, 100), cluster.migrate_keys(slot, 100)),
        (from, 30, 0)
    );
    cluster.finish_move(slot).await;

    let moved = format!("(MOVED {slot} 127.0.0.1:{})", cluster.node(to).port());
    assert_eq!((cluster.owner_of(slot), cluster.node(from).cli(&["GET", &tagged(0)])), (to, moved));
    for at in 0..50 {
        assert_eq!(cluster.node(to).cli(&["GET", &tagged(at)]), at.to_string());
    }

    let third = cluster.add_node().await;
    cluster.move_slot(slot, third).await;
    assert_eq!((cluster.primaries(), cluster.node(third).cli(&["DBSIZE"])), (vec![0, 1, 2], "50".to_owned()));
}

#[tokio::test]
async fn replicas_become_primaries_when_they_are_told_to() {
    let mut cluster = RedisCluster::start().await;
    let slot = cluster.slot_of(b"key");
    let primary = cluster.owner_of(slot);
    let replica = cluster.replica_of(primary);
    assert_eq!(cluster.node(primary).cli(&["SET", "key", "1"]), "OK");

    cluster.fail_over(replica).await;
    assert_eq!((cluster.owner_of(slot), cluster.node(replica).cli(&["GET", "key"])), (replica, "1".to_owned()));
    cluster.wait_until_whole().await;
    assert_eq!(cluster.replica_of(replica), primary);

    cluster.kill(replica);
    cluster.take_over(primary).await;
    assert_eq!((cluster.owner_of(slot), cluster.node(primary).cli(&["GET", "key"])), (primary, "1".to_owned()));
    cluster.restart(replica);
    cluster.wait_until_whole().await;
    assert_eq!(cluster.replica_of(primary), replica);
}

#[tokio::test]
async fn the_replica_of_a_primary_that_is_gone_is_elected() {
    let mut cluster = RedisCluster::start().await;
    cluster.kill(0);
    cluster.wait_until_primary(3).await;
    assert_eq!((cluster.owner_of(0), cluster.primaries()), (3, vec![1, 2, 3]));

    // One that hangs is as good as gone. It follows its replica when it answers again.
    cluster.stop(1);
    cluster.wait_until_primary(4).await;
    cluster.resume(1);
    cluster.restart(0);
    cluster.wait_until_whole().await;
    assert_eq!((cluster.primaries(), cluster.replica_of(3), cluster.replica_of(4)), (vec![2, 3, 4], 0, 1));
}

#[tokio::test]
async fn sentinels_replace_a_primary() {
    let mut redis = RedisSentinels::start().await;
    assert_eq!((redis.name(), redis.sentinel_urls().len(), redis.primary()), ("cache", 3, 0));
    assert_eq!(redis.server(0).cli(&["SET", "key", "1"]), "OK");
    redis.wait_until_whole().await;

    let second = redis.fail_over().await;
    assert_eq!((redis.primary(), redis.server(second).cli(&["GET", "key"])), (second, "1".to_owned()));

    redis.kill(second);
    let third = redis.wait_until_replaced(second).await;
    assert_eq!((redis.primary(), redis.server(third).cli(&["GET", "key"])), (third, "1".to_owned()));
    redis.restart(second);
    redis.kill_sentinel(0);
    redis.wait_until_whole().await;
    assert_eq!((redis.primary(), redis.server(second).cli(&["GET", "key"])), (third, "1".to_owned()));

    redis.restart_sentinel(0);
    redis.stop(third);
    assert_ne!(redis.wait_until_replaced(third).await, third);
    redis.resume(third);
    redis.wait_until_whole().await;
}

#[tokio::test]
async fn sentinels_and_servers_have_passwords_and_certificates() {
    let settings = SentinelSettings {
        password: Some("s3rver".to_owned()),
        sentinel_password: Some("s3ntinel".to_owned()),
        certificates: Some(Certificates::new()),
        ..SentinelSettings::default()
    };
    let redis = RedisSentinels::start_with(settings).await;
    for (server, password) in [(redis.server(0), "s3rver"), (redis.sentinel(0), "s3ntinel")] {
        // `cli` has logged in.
        assert_eq!(server.cli(&["PING"]), "PONG");
        assert_eq!(server.cli(&["AUTH", "wrong"]), "(WRONGPASS invalid username-password pair or user is disabled.)");
        assert_eq!(server.cli(&["AUTH", password]), "OK");
    }
    assert_eq!((redis.sentinel_tls_urls().len(), redis.certificates().is_some()), (3, true));
    assert_ne!(redis.fail_over().await, 0);
}

//! The store on a Redis Cluster: which node it asks, while slots move and nodes fail.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use cache_chain::ChainCache;
use cache_core::{Entry, ErrorKind, Expiry, Key, Lifetime, Moment, Store as _, Ticket};
use integration_tests::{
    Certificates, RedisCluster, RedisServer, all, documented_cluster_permissions, documented_permissions,
    documented_wait_permissions, eventually, key, never, shown, value,
};
use store_redis::{Invalidations, RedisConnection, RedisStore, RedisTarget};

const HOUR: Duration = Duration::from_secs(3600);

async fn store(cluster: &RedisCluster) -> RedisStore<u64> {
    RedisStore::builder(RedisTarget::cluster(cluster.urls())).namespace("n").connect().await.unwrap()
}

/// Three primaries without replicas.
async fn primaries() -> RedisCluster {
    RedisCluster::start_with(3, 0, &[]).await
}

/// Many keys, so that every node has some.
fn keys() -> Vec<Key> {
    (0..100_u64).map(key).collect()
}

fn slot_of(cluster: &RedisCluster, key: &Key) -> u16 {
    cluster.slot_of(&[b"n:", key.as_bytes()].concat())
}

/// The number of keys on each node.
fn sizes(cluster: &RedisCluster) -> Vec<u64> {
    cluster.nodes().iter().map(|node| node.cli(&["DBSIZE"]).parse().unwrap()).collect()
}

async fn set_all(store: &RedisStore<u64>, keys: &[Key], value: u64) {
    all(store.set_many(keys.iter().map(|key| never(key, value, Ticket::unconditional())).collect()).await);
}

async fn set(store: &RedisStore<u64>, key: &Key, value: u64) {
    store.set(never(key, value, Ticket::unconditional())).await.unwrap();
}

async fn values(store: &RedisStore<u64>, keys: &[Key]) -> Vec<Option<u64>> {
    all(store.get_many(keys).await).into_iter().map(|entry| entry.and_then(Entry::into_value)).collect()
}

#[tokio::test]
async fn a_batch_goes_to_all_nodes() {
    let cluster = primaries().await;
    let store = store(&cluster).await;
    let keys = keys();
    set_all(&store, &keys, 7).await;
    let sizes_then = sizes(&cluster);
    assert!(sizes_then.iter().all(|size| *size > 10), "{sizes_then:?}");
    assert_eq!(sizes_then.iter().sum::<u64>(), 100);
    assert_eq!(values(&store, &keys).await, vec![Some(7); 100]);

    let tickets = all(store.lease_many(&keys).await);
    let fills = keys.iter().zip(&tickets).map(|(key, ticket)| never(key, 8, *ticket)).collect();
    assert!(all(store.fill_many(fills).await).into_iter().all(|filled| filled));
    let known: Vec<_> = all(store.get_many(&keys).await).into_iter().map(|entry| entry.unwrap().etag()).collect();
    let checks: Vec<_> = keys.iter().cloned().zip(known).collect();
    let checked = all(store.revalidate_many(&checks).await);
    assert!(checked.iter().all(|checked| matches!(checked, cache_core::Revalidated::NotModified)));
    all(store.del_many(&keys).await);
    assert_eq!(sizes(&cluster), [0, 0, 0]);

    // Claims are taken and given back on each node.
    let claims = all(store.claim_many_within(&keys, HOUR).await);
    assert!(claims.iter().all(|claim| claim.granted));
    let claims: Vec<_> = keys.iter().cloned().zip(claims.iter().map(|claim| claim.ticket)).collect();
    store.renew_claims(&claims, HOUR).await.unwrap();
    for (key, ticket) in &claims {
        store.release(key, *ticket).await.unwrap();
    }
    assert_eq!(sizes(&cluster), [0, 0, 0]);
}

#[tokio::test]
async fn plain_values_are_read_on_all_nodes() {
    let cluster = primaries().await;
    let target = RedisTarget::cluster(cluster.urls());
    let store: RedisStore<u64> = RedisStore::builder(target).namespace("n").plain().connect().await.unwrap();
    let keys = keys();
    set_all(&store, &keys, 7).await;
    assert_eq!(values(&store, &keys).await, vec![Some(7); 100]);
    assert_eq!(store.take(&keys[0]).await.unwrap().and_then(Entry::into_value), Some(7));
    assert_eq!(values(&store, &keys[..2]).await, [None, Some(7)]);
}

#[tokio::test]
async fn clear_empties_all_nodes_and_no_other_namespace() {
    let cluster = primaries().await;
    let connection = RedisConnection::builder(RedisTarget::cluster(cluster.urls())).connections(2);
    let connection = connection.connect().await.unwrap();
    let [own, other] = ["n", "other"].map(|name| {
        let store: RedisStore<u64> = RedisStore::builder_on(&connection).namespace(name).build().unwrap();
        store
    });
    let keys = keys();
    set_all(&own, &keys, 1).await;
    set_all(&other, &keys, 2).await;
    own.clear().await.unwrap();
    assert_eq!(values(&own, &keys).await, vec![None; 100]);
    assert_eq!(values(&other, &keys).await, vec![Some(2); 100]);
}

/// Each operation follows a key that is on its way to another node, or that was moved there.
#[tokio::test]
async fn every_operation_follows_a_slot_that_moves() {
    let cluster = primaries().await;
    let store = store(&cluster).await;
    let (plain, unmoved) = (key("plain"), key("unmoved"));
    let target = RedisTarget::cluster(cluster.urls());
    let plain_store: RedisStore<u64> = RedisStore::builder(target).namespace("p").plain().connect().await.unwrap();
    set(&store, &unmoved, 5).await;
    set(&plain_store, &plain, 5).await;
    let now = || Moment::from_nanos(0);
    for round in 0..2 {
        let moving = key(("moving", round));
        let slot = slot_of(&cluster, &moving);
        let from = cluster.owner_of(slot);
        let to = (from + 1) % 3;
        set(&store, &moving, 1).await;
        cluster.begin_move(slot, to);
        // It is still where it was.
        assert_eq!(value(&store, &moving).await, Some(1));
        while cluster.migrate_keys(slot, 100) > 0 {}
        if round == 1 {
            cluster.finish_move(slot).await;
        }
        // What the other node has written reads as a miss at this one.
        assert_eq!(value(&store, &moving).await, None);
        assert_eq!(values(&store, &[moving.clone(), unmoved.clone()]).await, [None, Some(5)]);
        let ticket = store.lease(&moving).await.unwrap();
        assert!(store.fill(never(&moving, 2, ticket)).await.unwrap());
        assert_eq!(value(&store, &moving).await, Some(2));
        set(&store, &moving, 3).await;
        assert!(store.touch(&moving, Lifetime::new(Expiry::Never), now()).await.unwrap());
        let etag = store.get(&moving).await.unwrap().unwrap().etag();
        let checked = all(store.revalidate_many(&[(moving.clone(), etag)]).await);
        assert!(matches!(checked[..], [cache_core::Revalidated::NotModified]));
        assert!(store.inspect(&moving).await.unwrap().is_some());
        assert_eq!(store.take(&moving).await.unwrap().and_then(Entry::into_value), Some(3));
        assert_eq!(store.take(&moving).await.unwrap().and_then(Entry::into_value), None);
        let claim = store.claim(&moving).await.unwrap();
        assert!(claim.granted && !store.claim(&moving).await.unwrap().granted);
        store.renew_claims(&[(moving.clone(), claim.ticket)], HOUR).await.unwrap();
        store.release(&moving, claim.ticket).await.unwrap();
        let lease = store.lease(&moving).await.unwrap();
        store.release_leases(&[(moving.clone(), lease)]).await.unwrap();
        set(&store, &moving, 4).await;
        store.del(&moving).await.unwrap();
        assert_eq!(value(&store, &moving).await, None);
        if round == 0 {
            cluster.finish_move(slot).await;
        }
    }
    // Transactions, too.
    let slot = cluster.slot_of(b"p:plain");
    cluster.begin_move(slot, (cluster.owner_of(slot) + 1) % 3);
    while cluster.migrate_keys(slot, 100) > 0 {}
    assert_eq!(value(&plain_store, &plain).await, Some(5));
    assert!(plain_store.touch(&plain, Lifetime::new(Expiry::Never), now()).await.unwrap());
    assert_eq!(plain_store.take(&plain).await.unwrap().and_then(Entry::into_value), Some(5));
    assert_eq!(value(&plain_store, &plain).await, None);
}

#[tokio::test]
async fn resharding_under_load_is_not_noticed_by_callers() {
    let cluster = primaries().await;
    let store = store(&cluster).await;
    let keys = keys();
    let load = async {
        let (mut rounds, mut hits, started) = (0_u64, 0, Instant::now());
        while started.elapsed() < Duration::from_secs(3) {
            rounds += 1;
            set_all(&store, &keys, rounds).await;
            // A value that has moved to another node since is missed, and never older.
            for found in values(&store, &keys).await {
                assert!(found.is_none_or(|found| found == rounds), "{found:?} instead of {rounds}");
                hits += u64::from(found.is_some());
            }
            let one = &keys[usize::try_from(rounds % 100).unwrap()];
            store.del(one).await.unwrap();
            assert_eq!(value(&store, one).await, None);
        }
        assert!(hits > rounds * 90, "{hits} hits in {rounds} rounds");
        rounds
    };
    let moves = async {
        let mut moved = 0;
        for key in &keys[..40] {
            let slot = slot_of(&cluster, key);
            cluster.move_slot(slot, (cluster.owner_of(slot) + 1) % 3).await;
            moved += 1;
            tokio::task::yield_now().await;
        }
        moved
    };
    let (rounds, count) = tokio::join!(load, moves);
    assert!(rounds > 10 && count == 40, "{rounds} rounds");
    // In the end it asks the right nodes at once.
    set_all(&store, &keys, 1).await;
    let refused = |node: &RedisServer| node.cli(&["INFO", "errorstats"]).contains("errorstat_MOVED");
    cluster.nodes().iter().for_each(|node| assert_eq!(node.cli(&["CONFIG", "RESETSTAT"]), "OK"));
    assert_eq!(values(&store, &keys).await, vec![Some(1); 100]);
    assert!(!cluster.nodes().iter().any(refused));
}

/// A scan misses a key that moves from a node that is not scanned yet to one that is.
#[tokio::test]
async fn clear_fails_while_a_slot_is_on_its_way() {
    let cluster = primaries().await;
    let store = store(&cluster).await;
    let keys = keys();
    set_all(&store, &keys, 1).await;
    let slot = slot_of(&cluster, &keys[0]);
    cluster.begin_move(slot, (cluster.owner_of(slot) + 1) % 3);
    let error = store.clear().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("on their way"), "{error}");
    while cluster.migrate_keys(slot, 100) > 0 {}
    cluster.finish_move(slot).await;
    store.clear().await.unwrap();
    assert_eq!(sizes(&cluster), [0, 0, 0]);
}

#[tokio::test]
async fn the_replica_of_a_dead_primary_takes_over_without_its_entries() {
    let mut cluster = RedisCluster::start().await;
    let store = store(&cluster).await;
    let keys = keys();
    set_all(&store, &keys, 1).await;
    cluster.wait_until_whole().await;
    let dead = cluster.primaries()[0];
    let of_dead: Vec<Key> =
        keys.iter().filter(|key| cluster.owner_of(slot_of(&cluster, key)) == dead).cloned().collect();
    let replica = cluster.replica_of(dead);
    cluster.kill(dead);
    // Each call ends within its timeout.
    let started = Instant::now();
    let error = store.get(&of_dead[0]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2));
    cluster.wait_until_primary(replica).await;
    eventually("the new primary", async || store.set(never(&of_dead[0], 2, Ticket::unconditional())).await.ok()).await;
    assert_eq!(value(&store, &of_dead[0]).await, Some(2));
    // The others are on the new primary, but of another run.
    assert_eq!(values(&store, &of_dead[1..]).await, vec![None; of_dead.len() - 1]);
    cluster.restart(dead);
    cluster.wait_until_whole().await;
    assert_eq!(value(&store, &of_dead[0]).await, Some(2));
}

/// There and back, without a restart: the first primary has again what it has confirmed the deletion
/// of, and a process that did not notice would read it.
#[tokio::test]
async fn a_failover_and_back_does_not_undo_a_deletion() {
    let cluster = RedisCluster::start_with(1, 1, &[]).await;
    let (own, asleep) = (store(&cluster).await, store(&cluster).await);
    let k = key("k");
    set(&own, &k, 1).await;
    assert_eq!(value(&asleep, &k).await, Some(1));
    cluster.wait_until_whole().await;
    // The replica does not hear of the deletion, and takes over.
    let log_in_with = |password| assert_eq!(cluster.node(1).cli(&["CONFIG", "SET", "masterauth", password]), "OK");
    log_in_with("wrong");
    assert_eq!(cluster.node(0).cli(&["CLIENT", "KILL", "TYPE", "REPLICA"]), "1");
    own.del(&k).await.unwrap();
    cluster.take_over(1).await;
    log_in_with("");
    cluster.wait_until_whole().await;
    cluster.take_over(0).await;
    cluster.wait_until_whole().await;
    assert_eq!(cluster.node(0).cli(&["EXISTS", "n:k"]), "1", "it has the value again");
    // So often each process asks whether its primary has been one all the time.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for (who, store) in [("own", &own), ("asleep", &asleep), ("new", &store(&cluster).await)] {
        assert_eq!(eventually("an answer", async || store.get(&k).await.ok()).await, None, "{who}");
    }
}

#[tokio::test]
async fn one_node_that_answers_is_enough_to_find_the_others() {
    let mut cluster = RedisCluster::start().await;
    let replica = cluster.replica_of(0);
    cluster.kill(1);
    let dead_and_replica = [cluster.node(1).url(), cluster.node(replica).url()];
    let target = RedisTarget::cluster(dead_and_replica);
    let store: RedisStore<u64> = RedisStore::builder(target).namespace("n").connect_lazy().unwrap();
    let of_first = keys().into_iter().find(|key| cluster.owner_of(slot_of(&cluster, key)) == 0).unwrap();
    set(&store, &of_first, 1).await;
    assert_eq!(value(&store, &of_first).await, Some(1));
}

#[tokio::test]
async fn what_is_no_cluster_or_needs_one_is_said() {
    let (cluster, server) = (primaries().await, RedisServer::start().await);
    let build = |target: RedisTarget| RedisStore::<u64>::builder(target).namespace("n");
    let fails = async |target: RedisTarget| build(target).connect().await.unwrap_err();

    let error = fails(RedisTarget::cluster([server.url()])).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("no node of a cluster"), "{error}");
    let error = fails(RedisTarget::cluster([format!("{}3", server.url())])).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("only database 0"), "{error}");
    for nodes in [vec![], vec!["unix:///tmp/a.sock".to_owned()], vec!["nonsense".to_owned()]] {
        assert_eq!(fails(RedisTarget::cluster(nodes)).await.kind(), ErrorKind::InvalidInput);
    }
    let nested = RedisTarget::cluster([RedisTarget::cluster(cluster.urls())]);
    assert_eq!(fails(nested).await.kind(), ErrorKind::InvalidInput);
    let pubsub = build(RedisTarget::cluster(cluster.urls())).invalidations(Invalidations::PubSub).connect().await;
    assert_eq!(pubsub.unwrap_err().kind(), ErrorKind::InvalidInput);

    // A node by its URL alone.
    let node: RedisStore<u64> = build(cluster.node(0).url().into()).connect_lazy().unwrap();
    let of_another = keys().into_iter().find(|key| cluster.owner_of(slot_of(&cluster, key)) != 0).unwrap();
    let error = node.get(&of_another).await.unwrap_err();
    assert!(error.to_string().contains("RedisTarget::cluster"), "{error}");
}

/// Calls until one fails with this text, and checks that each ends within its timeout.
async fn fails_with(store: &RedisStore<u64>, key: &Key, text: &str) {
    eventually(text, async || {
        let started = Instant::now();
        let error = store.get(key).await.err();
        assert!(started.elapsed() < Duration::from_secs(2), "{error:?}");
        error.filter(|error| error.kind() == ErrorKind::Unavailable && error.to_string().contains(text))
    })
    .await;
}

#[tokio::test]
async fn a_cluster_without_majority_is_said() {
    let mut cluster = primaries().await;
    let store = store(&cluster).await;
    let of_last = keys().into_iter().find(|key| cluster.owner_of(slot_of(&cluster, key)) == 2).unwrap();
    set(&store, &of_last, 1).await;
    cluster.kill(0);
    cluster.kill(1);
    fails_with(&store, &of_last, "most of its primaries are not reachable").await;
    // Also one that connects now.
    let lazy: RedisStore<u64> =
        RedisStore::builder(RedisTarget::cluster(cluster.urls())).namespace("n").connect_lazy().unwrap();
    fails_with(&lazy, &of_last, "most of its primaries are not reachable").await;
    cluster.kill(2);
    fails_with(&lazy, &of_last, "").await;
}

#[tokio::test]
async fn a_slot_without_an_owner_is_said() {
    let cluster = RedisCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).await;
    let (k, other) = (key("k"), key("other"));
    let slot = slot_of(&cluster, &k);
    assert_ne!(slot, slot_of(&cluster, &other));
    let before = store(&cluster).await;
    for node in cluster.nodes() {
        node.cli(&["CLUSTER", "DELSLOTS", &slot.to_string()]);
    }
    fails_with(&before, &k, "no node holds").await;
    let after: RedisStore<u64> =
        RedisStore::builder(RedisTarget::cluster(cluster.urls())).namespace("n").connect_lazy().unwrap();
    fails_with(&after, &k, &format!("holds slot {slot}")).await;
    set(&after, &other, 1).await;
    assert_eq!(value(&after, &other).await, Some(1));
}

/// Each of two nodes holds that the other has the slot.
#[tokio::test]
async fn nodes_that_do_not_agree_are_said() {
    let cluster = primaries().await;
    let store = store(&cluster).await;
    let k = key("k");
    let slot = slot_of(&cluster, &k);
    let (owner, other) = (cluster.owner_of(slot), (cluster.owner_of(slot) + 1) % 3);
    let give = |node: usize, holder: usize| {
        let give = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", cluster.node_id(holder)];
        assert_eq!(cluster.node(node).cli(&give), "OK");
    };
    give(owner, other);
    give(other, owner);
    let started = Instant::now();
    let error = store.set(never(&k, 1, Ticket::unconditional())).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(600), "within the timeout");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("do not agree"), "{error}");
    give(other, other);
    eventually("an agreement", async || store.set(never(&k, 2, Ticket::unconditional())).await.ok()).await;
}

/// A user of all nodes with these rules, who may access the keys of the namespace.
fn create_user(cluster: &RedisCluster, rules: &[String]) -> RedisTarget {
    let rules = rules.iter().map(String::as_str);
    let user: Vec<_> = ["ACL", "SETUSER", "app", "reset", "on", ">hunter2", "~n:*"].into_iter().chain(rules).collect();
    cluster.nodes().iter().for_each(|node| assert_eq!(node.cli(&user), "OK"));
    RedisTarget::cluster(cluster.urls().iter().map(|url| url.replace("redis://", "redis://app:hunter2@")))
}

/// Each permission that the README lists for a cluster and for confirmed writes is needed.
#[tokio::test]
async fn connecting_names_the_permissions_that_are_missing() {
    let cluster = RedisCluster::start_with(1, 1, &[]).await;
    cluster.wait_until_whole().await;
    let (of_cluster, of_wait) = (documented_cluster_permissions(), documented_wait_permissions());
    let rules = [documented_permissions(true), of_cluster, of_wait].concat();
    let connect = async |rules: &[String]| {
        let builder = RedisStore::<u64>::builder(create_user(&cluster, rules)).namespace("n");
        builder.plain().wait_for_replicas(1).connect().await
    };
    let store = connect(&rules).await.unwrap();
    set(&store, &key("k"), 1).await;
    assert_eq!(store.take(&key("k")).await.unwrap().and_then(Entry::into_value), Some(1));
    store.clear().await.unwrap();
    for missing in ["+cluster|slots", "+cluster|info", "+cluster|nodes", "+asking", "+wait", "+evalsha", "+script|load"]
    {
        let rest: Vec<String> = rules.iter().filter(|rule| *rule != missing).cloned().collect();
        let error = connect(&rest).await.expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::Denied, "{missing}: {error}");
        let command = missing[1..].to_uppercase().replace('|', " ");
        // Without the slots there is nobody to ask for the others.
        let is_named = error.to_string().contains(&command) || missing == "+cluster|slots";
        assert!(is_named, "{missing}: {error}");
        assert!(!shown(&error).contains("hunter2"), "{}", shown(&error));
    }
}

/// A user whose permissions differ from node to node.
#[tokio::test]
async fn permissions_are_checked_on_each_node() {
    let cluster = primaries().await;
    let target = create_user(&cluster, &[documented_permissions(false), documented_cluster_permissions()].concat());
    assert_eq!(cluster.node(2).cli(&["ACL", "SETUSER", "app", "-getrange"]), "OK");
    let error = RedisStore::<u64>::builder(target).namespace("n").connect().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("GETRANGE"), "{error}");
}

/// The first node tells how to log in to all, also if it does not answer.
#[tokio::test]
async fn the_login_of_the_first_node_is_used_for_all() {
    let mut cluster = RedisCluster::start().await;
    let rules = [documented_permissions(false), documented_cluster_permissions()].concat();
    create_user(&cluster, &rules);
    // Nobody else may do anything.
    let with_login = cluster.node(0).url().replace("redis://", "redis://app:hunter2@");
    let nodes = [with_login, cluster.node(1).url()];
    let replica = cluster.replica_of(0);
    cluster.kill(0);
    cluster.wait_until_primary(replica).await;
    for node in [1, 2, replica] {
        assert_eq!(cluster.node(node).cli(&["ACL", "SETUSER", "default", "-@all", "+acl", "+info", "+cluster"]), "OK");
    }
    let store: RedisStore<u64> =
        RedisStore::builder(RedisTarget::cluster(nodes)).namespace("n").connect_lazy().unwrap();
    for key in keys() {
        eventually("a write", async || store.set(never(&key, 1, Ticket::unconditional())).await.ok()).await;
    }
}

#[test]
fn outside_of_a_runtime_and_after_its_end_it_is_an_error_and_no_panic() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let mut cluster = second.block_on(primaries());
    let target = RedisTarget::cluster(cluster.urls());
    let outside = RedisStore::<u64>::builder(target.clone()).namespace("n").connect_lazy();
    assert_eq!(outside.unwrap_err().kind(), ErrorKind::Closed);
    let store: RedisStore<u64> =
        first.block_on(async { RedisStore::builder(target).namespace("n").connect_lazy() }).unwrap();
    let of_last = keys().into_iter().find(|key| cluster.owner_of(slot_of(&cluster, key)) == 2).unwrap();
    // Nothing is known yet.
    let unread = block_on(store.get(&of_last));
    assert_eq!(unread.unwrap_err().kind(), ErrorKind::Closed);
    // The runtime ends during an attempt to connect, between two tries.
    first.block_on(store.get(&of_last)).unwrap();
    cluster.kill(2);
    for _ in 0..20 {
        assert!(first.block_on(store.get(&of_last)).is_err());
    }
    drop(first);
    for _ in 0..3 {
        let error = second.block_on(store.get(&of_last)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Closed | ErrorKind::Timeout), "{error}");
    }
    cluster.restart(2);
    second.block_on(eventually("an answer", async || store.get(&of_last).await.ok()));
}

/// Polls a future outside of any runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// Nothing was sent to the dead primary, so the call follows to the new one.
#[tokio::test]
async fn a_call_that_was_not_sent_follows_a_failover() {
    let mut cluster = RedisCluster::start().await;
    // With RESP3 a broken connection is noticed before the next command is sent.
    let nodes: Vec<String> = cluster.urls().iter().map(|url| format!("{url}?protocol=resp3")).collect();
    let store: RedisStore<u64> =
        RedisStore::builder(RedisTarget::cluster(nodes)).namespace("n").connect().await.unwrap();
    let keys = keys();
    set_all(&store, &keys, 1).await;
    let dead = cluster.primaries()[0];
    let replica = cluster.replica_of(dead);
    cluster.kill(dead);
    cluster.wait_until_primary(replica).await;
    cluster.wait_until_whole().await;
    set_all(&store, &keys, 2).await;
    assert_eq!(values(&store, &keys).await, vec![Some(2); 100]);
}

/// The failures of one node do not open the circuit breaker of a chain for the others, and calls to it
/// are kept off.
#[tokio::test]
async fn the_keys_of_other_nodes_are_served_while_one_is_down() {
    let cluster = RedisCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).await;
    let store = store(&cluster).await;
    let chain = ChainCache::builder().tier(store.clone()).build().unwrap();
    let [dead, healthy] = [0, 1].map(|node| {
        let is_on = |key: &&Key| cluster.owner_of(slot_of(&cluster, key)) == node;
        let keys = keys();
        keys.iter().find(is_on).unwrap().clone()
    });
    set(&store, &healthy, 1).await;
    // It hangs, so each call to it would wait for the timeout.
    cluster.stop(0);
    for _ in 0..5 {
        assert_eq!(chain.get(dead.as_bytes()).await.unwrap_err().kind(), ErrorKind::Timeout);
    }
    let refused = chain.get(dead.as_bytes()).await.unwrap_err();
    assert!(refused.to_string().contains("does not answer"), "{refused}");
    for _ in 0..50 {
        assert_eq!(chain.get(healthy.as_bytes()).await.unwrap(), Some(1));
    }
    cluster.resume(0);
    // A process that only writes finds out as well.
    eventually("a write", async || store.set(never(&dead, 2, Ticket::unconditional())).await.ok()).await;
}

#[tokio::test]
async fn a_cluster_speaks_tls() {
    let certificates = Certificates::new();
    let path = |file: &str| certificates.path(file).to_str().unwrap().to_owned();
    let (certificate, private, authority) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let cluster = RedisCluster::start_with(
        3,
        0,
        &[
            "--tls-port",
            "{free_port}",
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &private,
            "--tls-ca-cert-file",
            &authority,
            "--tls-auth-clients",
            "no",
            "--tls-cluster",
            "yes",
            "--tls-replication",
            "yes",
        ],
    )
    .await;
    let builder = RedisStore::builder(RedisTarget::cluster(cluster.tls_urls())).namespace("n");
    let store = builder.root_certificate(certificates.read("ca.crt")).connect().await.unwrap();
    let keys = keys();
    set_all(&store, &keys, 1).await;
    let slot = slot_of(&cluster, &keys[0]);
    cluster.move_slot(slot, (cluster.owner_of(slot) + 1) % 3).await;
    set_all(&store, &keys, 2).await;
    assert_eq!(values(&store, &keys).await, vec![Some(2); 100]);
}

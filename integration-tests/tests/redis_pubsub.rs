//! Coherence by pub/sub: the stores announce their own writes.

use std::{process::Stdio, time::Duration};

use cache_chain::{ChainCache, Coherence, ErrorKind, Source, Tier, Ttl};
use cache_core::{Entry, Expiry, Store as _, Ticket, Write};
use integration_tests::{
    Logs, MessageProxy, RedisServer, documented_permissions, documented_stream_permissions, eventually, key, never,
};
use store_redis::{Invalidations, RedisConnection, RedisStore};
use store_stretto::StrettoStore;

type Chain = ChainCache<String>;

const CHANNEL: &[u8] = br"users:\invalidate/0";

async fn store(url: &str, invalidations: Invalidations) -> RedisStore<String> {
    RedisStore::builder(url).namespace("users").invalidations(invalidations).connect().await.unwrap()
}

/// Memory above this store.
fn chain(redis: RedisStore<String>) -> Chain {
    chain_with(redis, Coherence::new())
}

fn chain_with(redis: RedisStore<String>, coherence: Coherence) -> Chain {
    let memory = Tier::new(StrettoStore::new(10_000).unwrap()).name("memory");
    ChainCache::builder().tier(memory).tier(Tier::new(redis).name("redis")).coherence(coherence).build().unwrap()
}

/// An instance of a service that announces its writes.
async fn instance(url: &str) -> Chain {
    let chain = chain(store(url, Invalidations::PubSub).await);
    trusted(&chain).await;
    assert_eq!(chain.stats().coherence.mode, Some("pub/sub"));
    chain
}

/// Two instances, after the first write of all.
async fn pair(a: &str, b: &str) -> (Chain, Chain) {
    let (a, b) = (instance(a).await, instance(b).await);
    set_seen(&a, &b, "first", "1").await;
    (a, b)
}

async fn trusted(chain: &Chain) {
    eventually("trust", async || chain.stats().coherence.trusted.then_some(())).await;
}

fn gaps(chain: &Chain) -> u64 {
    chain.stats().coherence.gaps
}

/// Reads until this value is in memory and is served from there.
async fn in_memory(chain: &Chain, key: &str, value: &str) {
    eventually("a hit in memory", async || {
        let found = chain.get_detailed(key).await.unwrap();
        (found.source == Source::Tier("memory".into()) && found.value.as_deref() == Some(value)).then_some(())
    })
    .await;
}

/// Writes by one instance, and waits until the value is in the memory of the other.
async fn set_seen(a: &Chain, b: &Chain, key: &str, value: &str) {
    a.set(key, value.into()).await.unwrap();
    in_memory(b, key, value).await;
}

/// Waits until the instance has noticed that the value has gone.
async fn gone(chain: &Chain, key: &str) {
    eventually("the removal", async || chain.get(key).await.unwrap().is_none().then_some(())).await;
}

async fn instances_see_each_other(a: &Chain, b: &Chain) {
    set_seen(a, b, "ada", "1").await;
    let before = gaps(b);
    set_seen(a, b, "ada", "2").await;
    a.del("ada").await.unwrap();
    gone(b, "ada").await;
    set_seen(a, b, "ada", "3").await;
    assert_eq!(a.take("ada").await.unwrap().as_deref(), Some("3"));
    gone(b, "ada").await;
    set_seen(a, b, "ada", "4").await;
    assert!(a.touch("ada", Duration::from_secs(3600)).await.unwrap());
    eventually("the new lifetime", async || {
        let (value, ttl) = b.get_with_ttl("ada").await.unwrap().unwrap();
        assert_eq!(value, "4");
        matches!(ttl, Ttl::After(life) if life <= Duration::from_secs(3600)).then_some(())
    })
    .await;
    a.set_many((0..5).map(|at| (format!("many{at}"), "1".to_owned()))).await.unwrap();
    for at in 0..5 {
        in_memory(b, &format!("many{at}"), "1").await;
    }
    a.del_many((0..5).map(|at| format!("many{at}"))).await.unwrap();
    for at in 0..5 {
        gone(b, &format!("many{at}")).await;
    }
    // A value that was loaded fills Redis.
    assert_eq!(a.get_or_load("loaded", || async { Ok::<_, std::io::Error>("1".to_owned()) }).await.unwrap(), "1");
    in_memory(b, "loaded", "1").await;
    // No announcement was lost: none of this was noticed by a heartbeat.
    assert_eq!(gaps(b), before);
    a.clear().await.unwrap();
    gone(b, "ada").await;
    gone(b, "loaded").await;
}

#[tokio::test]
async fn g2_instances_see_what_others_announce() {
    let server = RedisServer::start().await;
    let (a, b) = pair(&server.url(), &server.url()).await;
    instances_see_each_other(&a, &b).await;
    instances_see_each_other(&b, &a).await;
}

#[tokio::test]
async fn g2_instances_see_plain_values_as_well() {
    let server = RedisServer::start().await;
    let mut instances = Vec::new();
    for _ in 0..2 {
        let builder = RedisStore::builder(server.url()).namespace("users").plain().invalidations(Invalidations::PubSub);
        let instance = chain(builder.connect().await.unwrap());
        trusted(&instance).await;
        instances.push(instance);
    }
    set_seen(&instances[0], &instances[1], "first", "1").await;
    instances_see_each_other(&instances[0], &instances[1]).await;
}

/// Each key has a connection of its own, and any bytes.
#[tokio::test]
async fn announcements_of_several_connections_have_one_order() {
    let server = RedisServer::start().await;
    let connection = RedisConnection::builder(server.url()).connections(8).connect().await.unwrap();
    let store = RedisStore::<String>::builder_on(&connection).namespace("users");
    let store = store.invalidations(Invalidations::PubSub).build().unwrap();
    let reader = instance(&server.url()).await;
    let keys: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte, b'\r', b'\n', byte]).collect();
    let writes = |value: &str| keys.iter().map(|bytes| (bytes.clone(), value.to_owned())).collect::<Vec<_>>();
    reader.set_many(writes("1")).await.unwrap();
    let first = gaps(&reader);
    for value in ["2", "3"] {
        let writes = keys.iter().map(|bytes| never(&key(bytes), value.to_owned(), Ticket::unconditional())).collect();
        assert!(store.set_many(writes).await.iter().all(Result::is_ok));
        for bytes in &keys {
            eventually("the change", async || {
                (reader.get(bytes.clone()).await.unwrap().as_deref() == Some(value)).then_some(())
            })
            .await;
        }
    }
    assert_eq!(gaps(&reader), first);
    assert_eq!(reader.stats().coherence.unknown, 0);
}

/// The last announcement is lost, and nothing is written after it: only the heartbeat can tell.
#[tokio::test]
async fn g2_a_lost_announcement_is_a_gap() {
    let server = RedisServer::start().await;
    let proxy = MessageProxy::start(server.port()).await;
    let (a, b) = pair(&server.url(), &proxy.url()).await;
    for (value, next) in [("1", "2"), ("3", "4")] {
        set_seen(&a, &b, "ada", value).await;
        let before = gaps(&b);
        proxy.drop_announcements(1);
        let changed = std::time::Instant::now();
        a.set("ada", next.into()).await.unwrap();
        in_memory(&b, "ada", next).await;
        assert!(changed.elapsed() < b.stats().coherence.window);
        assert_eq!(gaps(&b), before + 1);
    }
    assert_eq!(proxy.dropped(), 2);
    // The announcement of a clear, followed by another one.
    let before = gaps(&b);
    proxy.drop_announcements(1);
    a.clear().await.unwrap();
    a.set("other", "1".into()).await.unwrap();
    gone(&b, "ada").await;
    assert_eq!((proxy.dropped(), gaps(&b) > before), (3, true));
}

#[tokio::test]
async fn a_forged_number_is_a_gap() {
    let server = RedisServer::start().await;
    let (a, b) = pair(&server.url(), &server.url()).await;
    set_seen(&a, &b, "ada", "1").await;
    let number: u64 = server.cli(&["GET", "users:"]).parse().unwrap();
    for forged in [number + 1, number + 100, 0, u64::MAX] {
        let before = gaps(&b);
        let message = [b"MLI\x01K", forged.to_le_bytes().as_slice(), b"ada"].concat();
        assert_eq!(server.raw(&[b"PUBLISH", CHANNEL, &message]), b"2");
        // If the number fits, that of the next heartbeat does not.
        eventually("the gap", async || (gaps(&b) > before).then_some(())).await;
        in_memory(&b, "ada", "1").await;
    }
    set_seen(&a, &b, "ada", "2").await;
}

#[tokio::test]
async fn without_the_server_nothing_unproven_is_served() {
    let mut server = RedisServer::start().await;
    let redis = store(&server.url(), Invalidations::PubSub).await;
    let chain = chain_with(redis, Coherence::new().heartbeat(Duration::from_millis(100)));
    trusted(&chain).await;
    set_seen(&chain, &chain, "ada", "1").await;
    server.kill();
    let failed = eventually("an error", async || chain.get("ada").await.err()).await;
    assert!(matches!(failed.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{failed}");
    // The restarted server has lost the value.
    server.restart();
    eventually("the loss", async || (chain.get("ada").await.ok()?.is_none()).then_some(())).await;
    trusted(&chain).await;
    set_seen(&chain, &chain, "ada", "2").await;
}

#[tokio::test]
async fn a_demoted_primary_ends_the_stream() {
    for invalidations in [Invalidations::PubSub, Invalidations::Tracking] {
        let (server, other) = (RedisServer::start().await, RedisServer::start().await);
        let chain = chain(store(&server.url(), invalidations).await);
        trusted(&chain).await;
        server.cli(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
        eventually("the end", async || (chain.stats().coherence.ended >= 2).then_some(())).await;
        assert_eq!(chain.stats().coherence.epoch, 1, "it has not begun again");
        server.cli(&["REPLICAOF", "NO", "ONE"]);
        eventually("another epoch", async || (chain.stats().coherence.epoch == 2).then_some(())).await;
        trusted(&chain).await;
    }
}

/// The stream reconnects to another server than the one that the store goes on writing to.
#[tokio::test]
async fn a_stream_of_another_server_proves_nothing() {
    for invalidations in [Invalidations::PubSub, Invalidations::Tracking] {
        let (server, other) = (RedisServer::start().await, RedisServer::start().await);
        let proxy = MessageProxy::start(server.port()).await;
        let chain = chain(store(&proxy.url(), invalidations).await);
        trusted(&chain).await;
        proxy.lead_to(other.port());
        server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        eventually("attempts", async || (chain.stats().coherence.ended >= 3).then_some(())).await;
        assert_eq!(chain.stats().coherence.epoch, 1, "it has not begun again");
        chain.set("ada", "1".into()).await.unwrap();
        assert_eq!(server.cli(&["EXISTS", "users:ada"]), "1");
        // The store follows.
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        eventually("a write", async || chain.set("ada", "2".into()).await.ok()).await;
        assert_eq!(other.cli(&["EXISTS", "users:ada"]), "1");
        eventually("another epoch", async || (chain.stats().coherence.epoch == 2).then_some(())).await;
        trusted(&chain).await;
    }
}

#[tokio::test]
async fn a_flushed_database_is_noticed() {
    let server = RedisServer::start().await;
    let (a, b) = pair(&server.url(), &server.url()).await;
    set_seen(&a, &b, "ada", "1").await;
    server.cli(&["FLUSHALL"]);
    gone(&b, "ada").await;
    gone(&a, "ada").await;
}

/// Nothing was ever announced then.
#[tokio::test]
async fn a_flush_is_noticed_by_those_that_only_read() {
    let server = RedisServer::start().await;
    let silent = store(&server.url(), Invalidations::Off).await;
    let reader = instance(&server.url()).await;
    for _ in 0..2 {
        silent
            .set(Write::new(key("ada"), Entry::new("1".into(), Expiry::Never), Ticket::unconditional()))
            .await
            .unwrap();
        in_memory(&reader, "ada", "1").await;
        server.cli(&["FLUSHALL"]);
        gone(&reader, "ada").await;
    }
}

/// Databases share the channels of a server.
#[tokio::test]
async fn other_databases_and_namespaces_disturb_nothing() {
    let server = RedisServer::start().await;
    let (a, b) = pair(&server.url(), &server.url()).await;
    set_seen(&a, &b, "ada", "1").await;
    let before = b.stats().coherence;
    for (url, namespace) in [(server.url_as("", "1"), "users"), (server.url(), "orders"), (server.url(), "users/a")] {
        let builder = RedisStore::<u64>::builder(url).namespace(namespace).invalidations(Invalidations::PubSub);
        let other = builder.connect().await.unwrap();
        for number in 0..3 {
            other.set(never(&key("ada"), number, Ticket::unconditional())).await.unwrap();
        }
    }
    set_seen(&a, &b, "ada", "2").await;
    let after = b.stats().coherence;
    assert_eq!((after.gaps, after.unknown), (before.gaps, before.unknown));
    assert_eq!(after.events + after.events_unheld, before.events + before.events_unheld + 1);
}

/// Writes and announcements are atomic: whatever a writer that was killed has written is seen.
#[tokio::test]
async fn g2_the_writes_of_a_killed_process_are_announced() {
    let server = RedisServer::start().await;
    let b = instance(&server.url()).await;
    let redis = store(&server.url(), Invalidations::Off).await;
    let mut gaps_before = 0;
    for round in 0..5 {
        let mut peer = std::process::Command::new(env!("CARGO_BIN_EXE_redis_peer"));
        let mut peer = peer.args([&server.url(), "announce"]).stdout(Stdio::null()).spawn().unwrap();
        let all = async |chain: &Chain| chain.get_many(0..100).await.unwrap();
        eventually("all keys", async || all(&b).await.iter().all(Option::is_some).then_some(())).await;
        if round == 0 {
            gaps_before = gaps(&b);
        }
        let events = || b.stats().coherence.events;
        let start = events();
        eventually("writes", async || {
            all(&b).await;
            (events() > start + 500).then_some(())
        })
        .await;
        peer.kill().unwrap();
        peer.wait().unwrap();
        for number in 0..100 {
            eventually("the last write", async || {
                let current = redis.get(&key(number)).await.unwrap().unwrap().into_value();
                (b.get(number).await.unwrap() == current).then_some(())
            })
            .await;
        }
    }
    assert_eq!(gaps(&b), gaps_before);
}

#[tokio::test]
async fn hostile_messages_are_counted_and_change_nothing() {
    let server = RedisServer::start().await;
    let (a, b) = pair(&server.url(), &server.url()).await;
    set_seen(&a, &b, "ada", "1").await;
    let before = b.stats().coherence;
    let number = 7_u64.to_le_bytes();
    let large = vec![b'x'; 1 << 20];
    let random: Vec<u8> = (0..1000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let hostile: Vec<Vec<u8>> = vec![
        Vec::new(),
        random,
        large.clone(),
        b"MLI".to_vec(),
        b"MLI\x01K1234567".to_vec(),
        [b"MLI\x01K", number.as_slice()].concat(),
        [b"MLI\x01K", number.as_slice(), &large].concat(),
        [b"MLX\x01K", number.as_slice(), b"ada"].concat(),
        [b"MLI\x02K", number.as_slice(), b"ada"].concat(),
        [b"MLI\x01A", number.as_slice(), b"ada"].concat(),
        [b"MLI\x01B", number.as_slice(), number.as_slice()].concat(),
    ];
    for message in &hostile {
        assert_eq!(server.raw(&[b"PUBLISH", CHANNEL, message]), b"2");
    }
    eventually("the count", async || {
        (b.stats().coherence.unknown == before.unknown + hostile.len() as u64).then_some(())
    })
    .await;
    set_seen(&a, &b, "ada", "2").await;
    assert_eq!((gaps(&b), b.stats().coherence.epoch), (before.gaps, before.epoch));
    // The number in Redis.
    for damage in [&["SET", "users:", "x"][..], &["SET", "users:", "9223372036854775807"], &["LPUSH", "users:", "x"]] {
        server.cli(&["DEL", "users:"]);
        server.cli(damage);
        set_seen(&a, &b, "ada", damage[2]).await;
        a.del("ada").await.unwrap();
        gone(&b, "ada").await;
    }
}

#[tokio::test]
async fn a_full_server_announces_what_it_removes() {
    let server = RedisServer::start().await;
    let (a, b) = pair(&server.url(), &server.url()).await;
    set_seen(&a, &b, "ada", "1").await;
    set_seen(&a, &b, "bob", "1").await;
    let before = gaps(&b);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    a.del("ada").await.unwrap();
    gone(&b, "ada").await;
    assert_eq!(a.set("bob", "2".into()).await.unwrap_err().kind(), ErrorKind::Full);
    gone(&b, "bob").await;
    assert_eq!(gaps(&b), before);
    a.clear().await.unwrap();
}

/// A user with the documented permissions of a store and these.
fn create_user(server: &RedisServer, more: &[String]) -> String {
    let permissions = documented_permissions(false);
    let rules = permissions.iter().chain(more).map(String::as_str);
    let user = ["ACL", "SETUSER", "app", "reset", "on", ">hunter2", "~users:*"].into_iter().chain(rules);
    assert_eq!(server.cli(&user.collect::<Vec<_>>()), "OK");
    server.url_as("app:hunter2", "")
}

const WARNING: &str = "Redis refused CLIENT TRACKING";

#[tokio::test]
async fn the_documented_permissions_are_enough() {
    let server = RedisServer::start().await;
    for (pubsub, mode) in [(false, "tracking"), (true, "pub/sub")] {
        let logs = Logs::capture();
        let permissions = documented_stream_permissions(pubsub, "users");
        let url = create_user(&server, &permissions);
        let invalidations = if pubsub { Invalidations::PubSub } else { Invalidations::Tracking };
        let (a, b) = (chain(store(&url, invalidations).await), chain(store(&url, invalidations).await));
        trusted(&a).await;
        trusted(&b).await;
        set_seen(&a, &b, "first", "1").await;
        instances_see_each_other(&a, &b).await;
        assert_eq!(b.stats().coherence.mode, Some(mode));
        assert_eq!(logs.with(""), [""; 0]);
        // They allow no other channel.
        for command in [&["PUBLISH", "orders:x", ""][..], &["SUBSCRIBE", "orders:x"], &["PUBSUB", "CHANNELS"]] {
            let answer = server.cli(&[&["ACL", "DRYRUN", "app"], command].concat());
            assert_ne!(answer, "OK", "{command:?}");
        }
    }
    // Each is needed.
    let permissions = documented_stream_permissions(true, "users");
    for missing in ["+incr", "+publish", "&users:*"] {
        let rest: Vec<_> = permissions.iter().filter(|rule| *rule != missing).cloned().collect();
        let url = create_user(&server, &rest);
        let builder = RedisStore::<u64>::builder(url).namespace("users").invalidations(Invalidations::PubSub);
        let error = builder.connect().await.expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::Denied, "{missing}");
        let expected = if missing == "+incr" { "may not run INCR on" } else { "may not run PUBLISH on" };
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(server.cli(&["EXISTS", "users:"]), "1");
    assert_eq!(server.cli(&["DBSIZE"]), "1", "the check leaves nothing behind");
}

async fn fallen_back(url: &str) -> (Chain, RedisStore<String>) {
    let redis = store(url, Invalidations::Tracking).await;
    let chain = chain(redis.clone());
    eventually("the fallback", async || (chain.stats().coherence.mode == Some("pub/sub")).then_some(())).await;
    trusted(&chain).await;
    (chain, redis)
}

#[tokio::test]
async fn a_user_without_client_tracking_falls_back_on_pubsub() {
    let server = RedisServer::start().await;
    let logs = Logs::capture();
    let url = create_user(&server, &documented_stream_permissions(true, "users"));
    let (a, _) = fallen_back(&url).await;
    assert_eq!(logs.with(WARNING).len(), 1);
    let (b, _) = fallen_back(&url).await;
    set_seen(&a, &b, "first", "1").await;
    instances_see_each_other(&a, &b).await;
    // Once for each store, also if the stream connects again.
    server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    for chain in [&a, &b] {
        eventually("another connection", async || {
            let stats = chain.stats().coherence;
            (stats.ended >= 1 && stats.mode == Some("pub/sub")).then_some(())
        })
        .await;
    }
    set_seen(&a, &b, "ada", "2").await;
    assert_eq!(logs.with(WARNING).len(), 2);
    assert!(logs.with(WARNING)[0].contains("namespace=\"users\""), "{:?}", logs.with(WARNING));
}

/// Before it fell back, a store announced nothing.
#[tokio::test]
async fn what_was_written_before_the_fallback_is_announced_then() {
    let server = RedisServer::start().await;
    let url = create_user(&server, &documented_stream_permissions(true, "users"));
    let (a, redis) = fallen_back(&url).await;
    set_seen(&a, &a, "ada", "1").await;
    let late = store(&url, Invalidations::Tracking).await;
    late.set(never(&key("ada"), "2".to_owned(), Ticket::unconditional())).await.unwrap();
    assert_eq!(redis.get(&key("ada")).await.unwrap().unwrap().into_value().as_deref(), Some("2"));
    in_memory(&a, "ada", "1").await;
    let before = gaps(&a);
    let _late = chain(late);
    in_memory(&a, "ada", "2").await;
    assert_eq!(gaps(&a), before);
}

#[tokio::test]
async fn servers_and_proxies_without_client_tracking_are_noticed() {
    let server = RedisServer::start_with(&["--rename-command", "HELLO", ""]).await;
    let (a, _) = fallen_back(&server.url()).await;
    let (b, _) = fallen_back(&server.url()).await;
    set_seen(&a, &b, "first", "1").await;
    instances_see_each_other(&a, &b).await;

    // It accepts everything, and announces nothing.
    let server = RedisServer::start().await;
    let proxy = MessageProxy::start(server.port()).await;
    proxy.hide_tracking();
    let (a, _) = fallen_back(&proxy.url()).await;
    let (b, _) = fallen_back(&proxy.url()).await;
    assert!(proxy.dropped() > 0);
    set_seen(&a, &b, "first", "1").await;
    instances_see_each_other(&a, &b).await;
}

/// A request that is not answered is no reason to fall back: others would go on with client tracking.
#[tokio::test]
async fn a_connection_that_hangs_is_no_refusal() {
    let server = RedisServer::start().await;
    let proxy = MessageProxy::start(server.port()).await;
    proxy.lose_tracking(true);
    let chain = chain(store(&proxy.url(), Invalidations::Tracking).await);
    eventually("attempts", async || (chain.stats().coherence.ended >= 2).then_some(())).await;
    assert_eq!(chain.stats().coherence.epoch, 0);
    proxy.lose_tracking(false);
    trusted(&chain).await;
    assert_eq!(chain.stats().coherence.mode, Some("tracking"));
    // It announces nothing.
    chain.set("ada", "1".into()).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "users:"]), "0");
}

/// Client tracking announces every change, also those that are announced by pub/sub.
#[tokio::test]
async fn an_instance_with_client_tracking_sees_those_with_pubsub() {
    let server = RedisServer::start().await;
    let a = instance(&server.url()).await;
    let b = chain(store(&server.url(), Invalidations::Tracking).await);
    trusted(&b).await;
    instances_see_each_other(&a, &b).await;
    assert_eq!((b.stats().coherence.mode, b.stats().coherence.unknown), (Some("tracking"), 0));
}

#[tokio::test]
async fn without_any_permission_there_is_one_warning_and_a_working_chain() {
    let server = RedisServer::start().await;
    for (invalidations, more) in [
        (Invalidations::Tracking, &[][..]),
        // It may subscribe, but not publish.
        (Invalidations::Tracking, &["+subscribe", "&users:*"]),
        // It may not count.
        (Invalidations::Tracking, &["+publish", "+subscribe", "&users:*"]),
        // It may not ask whether the server still tracks it.
        (Invalidations::Tracking, &["+client|tracking", "+subscribe", "&users:*"]),
        // It may not subscribe.
        (Invalidations::PubSub, &["+incr", "+publish", "&users:*"]),
    ] {
        let more: Vec<String> = more.iter().map(|&rule| rule.to_owned()).collect();
        let url = create_user(&server, &more);
        let logs = Logs::capture();
        let chain = chain(store(&url, invalidations).await);
        eventually("attempts", async || (chain.stats().coherence.ended >= 4).then_some(())).await;
        assert_eq!((chain.stats().coherence.mode, chain.stats().coherence.trusted), (None, false));
        let warnings = logs.with("");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for remedy in ["README of store-redis", "Tier::max_ttl", "Invalidations::Off"] {
            assert!(warnings[0].contains(remedy), "{warnings:?}");
        }
        chain.set("ada", "1".into()).await.unwrap();
        assert_eq!(chain.get("ada").await.unwrap().as_deref(), Some("1"));
        assert_eq!(chain.take("ada").await.unwrap().as_deref(), Some("1"));
        chain.clear().await.unwrap();
        assert_eq!(chain.get("ada").await.unwrap(), None);
    }
}

#[tokio::test]
async fn without_invalidations_a_store_has_no_stream() {
    let server = RedisServer::start().await;
    let off = store(&server.url(), Invalidations::Off).await;
    assert!(off.invalidations().is_none());
    assert!(store(&server.url(), Invalidations::Tracking).await.invalidations().is_some());
    let chain = chain(off);
    chain.set("ada", "1".into()).await.unwrap();
    assert_eq!(chain.get("ada").await.unwrap().as_deref(), Some("1"));
    assert_eq!(chain.stats().coherence.mode, None);
    assert_eq!(server.cli(&["EXISTS", "users:"]), "0");
}

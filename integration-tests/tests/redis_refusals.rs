//! What Redis refuses, and what of it is shown.

use std::time::Duration;

use cache_core::{Clock as _, Error, ErrorKind, Expiry, Lifetime, Store as _, SystemClock, Ticket};
use integration_tests::{RedisServer, documented_permissions, eventually, key, never, shown};
use store_redis::{RedisConnection, RedisStore};
use tokio::runtime::Runtime;

#[tokio::test]
async fn a_full_server_refuses_and_the_older_value_goes() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]).await;
    let store: RedisStore<Vec<u64>> = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    let keys = [key("a"), key("b"), key("c")];
    let mut tickets = Vec::new();
    for key in &keys {
        store.set(never(key, vec![1], Ticket::unconditional())).await.unwrap();
        tickets.push(store.lease(key).await.unwrap());
    }
    let fresh = store.lease(&key("fresh")).await.unwrap();
    store.set(never(&key("kept"), vec![1], Ticket::unconditional())).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);

    let check = |error: &Error| {
        assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
        assert!(error.to_string().contains("was removed"), "{error}");
    };
    check(&store.set(never(&keys[0], vec![2], Ticket::unconditional())).await.unwrap_err());
    assert_eq!(store.get(&keys[0]).await.unwrap(), None);
    // By script as well, and in a batch.
    check(&store.set(never(&keys[1], vec![2], tickets[1])).await.unwrap_err());
    assert_eq!(store.get(&keys[1]).await.unwrap(), None);
    store.del(&keys[1]).await.unwrap();
    let writes = vec![never(&keys[2], vec![2], tickets[2]), never(&keys[1], vec![2], Ticket::unconditional())];
    for result in store.set_many(writes).await {
        check(&result.unwrap_err());
    }
    assert_eq!(store.get(&keys[2]).await.unwrap(), None);
    assert_eq!(store.lease(&keys[2]).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(store.fill(never(&key("fresh"), vec![3], fresh)).await.unwrap_err().kind(), ErrorKind::Full);
    store.del(&key("fresh")).await.unwrap();
    // A touch changes nothing then, and a take works.
    let (now, hour) = (SystemClock.now(), Duration::from_secs(3600));
    let lifetime = Lifetime::new(Expiry::after(now, hour.into()));
    let error = store.touch(&key("kept"), lifetime, now).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    let kept = store.take(&key("kept")).await.unwrap().unwrap();
    assert_eq!((kept.expiry(), kept.into_value().unwrap()), (Expiry::Never, vec![1]));
    store.clear().await.unwrap();

    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    store.set(never(&keys[0], vec![3], Ticket::unconditional())).await.unwrap();
    assert_eq!(store.get(&keys[0]).await.unwrap().unwrap().into_value().unwrap(), [3]);
}

#[tokio::test]
async fn a_replica_is_read_only() {
    let primary = RedisServer::start().await;
    let port = primary.port().to_string();
    let replica =
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]).await;
    let writer: RedisStore<u64> = RedisStore::builder(primary.url()).namespace("n").connect().await.unwrap();
    writer.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
    let reader: RedisStore<u64> = RedisStore::builder(replica.url()).namespace("n").connect().await.unwrap();
    let got = eventually("the replication", async || reader.get(&key(1)).await.ok().flatten()).await;
    assert_eq!(got.into_value().unwrap(), 1);
    let kind = |error: Error| error.kind();
    assert_eq!(kind(reader.set(never(&key(1), 2, Ticket::unconditional())).await.unwrap_err()), ErrorKind::ReadOnly);
    assert_eq!(kind(reader.set(never(&key(1), 2, Ticket::at(1))).await.unwrap_err()), ErrorKind::ReadOnly);
    assert_eq!(kind(reader.del(&key(1)).await.unwrap_err()), ErrorKind::ReadOnly);
    assert_eq!(kind(reader.take(&key(1)).await.unwrap_err()), ErrorKind::ReadOnly);
    let lifetime = Lifetime::new(Expiry::after(SystemClock.now(), Duration::from_secs(3600).into()));
    assert_eq!(kind(reader.touch(&key(1), lifetime, SystemClock.now()).await.unwrap_err()), ErrorKind::ReadOnly);
    assert_eq!(kind(reader.lease(&key(2)).await.unwrap_err()), ErrorKind::ReadOnly);
    assert_eq!(kind(reader.clear().await.unwrap_err()), ErrorKind::ReadOnly);
}

#[tokio::test]
async fn a_server_that_cannot_persist_is_read_only() {
    let server = RedisServer::start_with(&["--save", "3600", "1", "--dbfilename", "dump.rdb"]).await;
    let store: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
    std::fs::create_dir_all(server.directory().join("dump.rdb/in-the-way")).unwrap();
    server.cli(&["BGSAVE"]);
    let error =
        eventually("the failure to save", async || store.set(never(&key(1), 2, Ticket::unconditional())).await.err())
            .await;
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
}

/// The documented permissions, also those of plain mode, do not let the application harm its
/// neighbours.
#[tokio::test]
async fn the_documented_permissions_allow_nothing_else() {
    let server = RedisServer::start().await;
    let permissions = documented_permissions(true);
    let mut user = vec!["ACL", "SETUSER", "app", "on", ">hunter2", "~users:*"];
    user.extend(permissions.iter().map(String::as_str));
    assert_eq!(server.cli(&user), "OK");
    let may = |command: &[&str]| server.cli(&[&["ACL", "DRYRUN", "app"], command].concat()) == "OK";
    assert!(may(&["GET", "users:1"]) && may(&["CLIENT", "ID"]));
    for refused in [
        &["FLUSHALL"][..],
        &["FLUSHDB"],
        &["FUNCTION", "FLUSH"],
        &["SCRIPT", "FLUSH"],
        &["SCRIPT", "KILL"],
        &["CLIENT", "LIST"],
        &["CLIENT", "PAUSE", "1000"],
        &["CONFIG", "GET", "requirepass"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["ACL", "LIST"],
        &["EVAL", "return 1", "0"],
        &["KEYS", "*"],
        &["SHUTDOWN"],
        &["DEBUG", "SLEEP", "1"],
        &["SWAPDB", "0", "1"],
        &["GET", "orders:1"],
    ] {
        assert!(!may(refused), "{refused:?}");
    }
}

#[tokio::test]
async fn credentials_by_url_and_none_shown() {
    let server = RedisServer::start().await;
    let permissions = documented_permissions(false);
    let mut user = vec!["ACL", "SETUSER", "alice", "on", ">s3cret%pass", "~users:*"];
    user.extend(permissions.iter().map(String::as_str));
    assert_eq!(server.cli(&user), "OK");
    server.cli(&["CONFIG", "SET", "requirepass", "t0psecret"]);

    let url = server.url_as("alice:s3cret%25pass", "");
    let builder = RedisStore::<u64>::builder(&url).namespace("users");
    assert!(!format!("{builder:?}").contains("s3cret"), "{builder:?}");
    let store = builder.connect().await.unwrap();
    // These permissions, which the README names, are enough.
    let ticket = store.lease(&key(1)).await.unwrap();
    assert!(store.fill(never(&key(1), 1, ticket)).await.unwrap());
    store.set(never(&key(1), 2, ticket)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value().unwrap(), 2);
    let both = store.lease_many(&[key(1), key(2)]).await;
    assert!(both.into_iter().all(|ticket| ticket.is_ok()));
    store.del(&key(1)).await.unwrap();
    store.clear().await.unwrap();
    let debug = format!("{store:?} {store:#?}");
    assert!(debug.contains(&format!("127.0.0.1:{}", server.port())) && debug.contains("users"), "{debug}");
    assert!(!debug.contains("s3cret") && !debug.contains("alice"), "{debug}");

    let others: RedisStore<u64> = RedisStore::builder(&url).namespace("orders").connect_lazy().unwrap();
    for error in [
        others.get(&key(1)).await.unwrap_err(),
        others.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap_err(),
        others.lease(&key(1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
    }

    for wrong in [
        server.url_as("alice:wr0ng", ""),
        server.url_as(":wr0ng", ""),
        server.url_as("alice:wr0ng", "?protocol=resp3"),
        server.url_as("mallory:wr0ng", ""),
        server.url(),
    ] {
        let error = RedisConnection::builder(wrong).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        let shown = shown(&error);
        assert!(!shown.contains("wr0ng") && !shown.contains("t0psecret"), "{shown}");
    }
}

/// Each permission that the README lists is needed, and connecting names the one that is missing.
#[tokio::test]
async fn connecting_names_the_permissions_that_are_missing() {
    let server = RedisServer::start().await;
    for plain in [false, true] {
        let permissions = documented_permissions(plain);
        let builder = RedisStore::<u64>::builder(server.url_as("app:hunter2", "")).namespace("users");
        let builder = if plain { builder.plain() } else { builder };
        let user = |without: &str| {
            let granted = permissions.iter().map(String::as_str).filter(|&rule| rule != without);
            let rules = ["ACL", "SETUSER", "app", "reset", "on", ">hunter2", "~users:*"].into_iter().chain(granted);
            assert_eq!(server.cli(&rules.collect::<Vec<_>>()), "OK");
        };
        user("");
        builder.clone().connect().await.unwrap();
        for missing in ["+get", "+mget", "+set", "+unlink", "+persist", "+scan", "+ping"] {
            user(missing);
            let error = builder.clone().connect().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{missing}: {error:?}");
            let expected = format!("may not run {} on", missing[1..].to_uppercase());
            assert!(shown(&error).contains(&expected), "{missing}: {}", shown(&error));
        }
        let particular = ["+getrange", "+setrange", "+strlen", "+pexpire", "+script|load", "+evalsha"];
        for missing in if plain { &["+pttl", "+pexpireat", "+exec", "+multi"][..] } else { &particular[..] } {
            user(missing);
            let error = builder.clone().connect().await.expect_err(missing);
            let expected = missing[1..].to_uppercase().replace('|', " ");
            assert!(error.kind() == ErrorKind::Denied && shown(&error).contains(&expected), "{}", shown(&error));
        }
    }
    // No access to the namespace, on a connection that others share.
    let connection = RedisConnection::builder(server.url_as("app:hunter2", "")).connect().await.unwrap();
    let orders: RedisStore<u64> = RedisStore::builder_on(&connection).namespace("orders").build().unwrap();
    let error = orders.check_permissions().await.unwrap_err();
    assert!(
        shown(&error).contains("GET, MGET, SET, UNLINK, PERSIST") && shown(&error).contains("`orders:*`"),
        "{}",
        shown(&error)
    );
    assert_eq!(server.cli(&["DBSIZE"]), "0", "the check leaves nothing behind");
}

#[tokio::test]
async fn a_renamed_command_is_an_error_that_shows_no_value() {
    let server = RedisServer::start_with(&["--rename-command", "SET", "", "--rename-command", "UNLINK", ""]).await;
    let builder = RedisStore::<String>::builder(server.url()).namespace("n");
    let builder = builder.codec(cache_core::codec::Json).plain();
    let refused = builder.clone().connect().await.unwrap_err();
    // Which quotation marks there are depends on the version.
    let shown_refused = shown(&refused);
    assert!(shown_refused.contains("unknown command") && shown_refused.contains("SET"), "{shown_refused}");
    let store = builder.connect_lazy().unwrap();
    let error = store.set(never(&key(1), "s3cret".to_owned(), Ticket::unconditional())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
    assert!(shown(&error).contains("unknown command"), "{}", shown(&error));
}

#[tokio::test]
async fn what_cannot_be_used_is_said_before_anything_is_sent() {
    for url in [
        "",
        "s3cret",
        "http://user:s3cret@127.0.0.1/",
        "redis://user:s3cret@/",
        "redis://user:s3cret@127.0.0.1:port/",
        "redis://user:s3cret@127.0.0.1/database",
        "redis://user:s3cret@127.0.0.1/?protocol=s3cret",
        "redis://user:s3cret@0.0.0.0/",
        "redis://user:s3/cret@127.0.0.1/",
    ] {
        let error = RedisConnection::builder(url).connect_lazy().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}: {error}");
        assert!(!shown(&error).contains("s3"), "{}", shown(&error));
        assert!(error.to_string().contains("redis://"), "{error}");
    }
    let server = RedisServer::start().await;
    let connection = RedisConnection::builder(server.url()).connect().await.unwrap();
    for namespace in ["", "a:b", "a*", "a b", "[", &"x".repeat(65)] {
        let error = RedisStore::<u64>::builder_on(&connection).namespace(namespace).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{namespace}");
        let error = RedisStore::<u64>::builder(server.url()).namespace(namespace).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{namespace}");
    }
    let unnamed = RedisStore::<u64>::builder_on(&connection).build().unwrap_err();
    assert!(unnamed.to_string().contains(".namespace("), "{unnamed}");
    for ttl in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let error = RedisStore::<u64>::builder_on(&connection).namespace("n").lease_ttl(ttl).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{ttl:?}");
    }
    for builder in [
        RedisConnection::builder(server.url()).timeout(Duration::ZERO),
        RedisConnection::builder(server.url()).connections(0),
        RedisConnection::builder(server.url()).connections(65),
    ] {
        assert_eq!(builder.connect_lazy().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn outside_of_a_runtime_it_is_an_error_and_no_panic() {
    let error = RedisConnection::builder("redis://127.0.0.1/").connect_lazy().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// Its handle can still be entered then, and a connection that lived there has lost its driver.
#[test]
fn after_the_end_of_its_runtime_a_connection_is_closed_until_another_calls() {
    for protocol in ["", "?protocol=resp3"] {
        let first = Runtime::new().unwrap();
        let server = first.block_on(RedisServer::start());
        let url = format!("{}{protocol}", server.url());
        let store: RedisStore<u64> = first.block_on(RedisStore::builder(&url).namespace("n").connect()).unwrap();
        let idle = first.block_on(async { RedisConnection::builder(&url).connect_lazy().unwrap() });
        let idle = RedisStore::<u64>::builder_on(&idle).namespace("n").build().unwrap();
        let ended = first.handle().clone();
        drop(first);
        let key = key(1);
        let set = |store: &RedisStore<u64>, value| {
            ended.block_on(store.set(never(&key, value, Ticket::unconditional()))).map_err(|error| error.kind())
        };
        for _ in 0..3 {
            assert_eq!(set(&store, 1), Err(ErrorKind::Closed));
            assert_eq!(set(&idle, 1), Err(ErrorKind::Closed));
        }
        // Another runtime connects anew; a connection that nobody has used since is found broken
        // first.
        let second = Runtime::new().unwrap();
        second.block_on(store.set(never(&key, 2, Ticket::unconditional()))).unwrap();
        second.block_on(idle.set(never(&key, 3, Ticket::unconditional()))).unwrap();
        drop(second);
        let third = Runtime::new().unwrap();
        let error = third.block_on(store.set(never(&key, 4, Ticket::unconditional()))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
        assert_eq!(third.block_on(store.get(&key)).unwrap().unwrap().into_value().unwrap(), 3);
    }
}

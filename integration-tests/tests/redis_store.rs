//! What `RedisStore` keeps and how, against a real Redis.

use std::time::Duration;

use cache_core::{
    Clock as _, Codec, ErrorKind, Expiry, Key, Lifetime, MAX_TTL, Store as _, SystemClock, Ticket,
    backend::{Binding, Envelope, Life},
    codec,
};
use integration_tests::{CutProxy, RedisServer, command_of, eventually, key, living, never, remaining, value};
use serde_derive::{Deserialize, Serialize};
use store_redis::{RedisConnection, RedisStore};

async fn texts(server: &RedisServer, namespace: &str) -> RedisStore<String> {
    RedisStore::builder(server.url()).namespace(namespace).connect().await.unwrap()
}

fn owned(text: &str) -> String {
    text.to_owned()
}

#[tokio::test]
async fn every_operation_is_one_round_trip() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let store: RedisStore<String> = RedisStore::builder(proxy.url()).namespace("users").connect().await.unwrap();
    let keys: Vec<Key> = (0..50).map(key).collect();
    let hour = Duration::from_secs(3600);
    let unconditional = || keys.iter().map(|key| living(key, owned("v"), hour)).collect::<Vec<_>>();
    let with = |tickets: &[Ticket]| {
        let pairs = unconditional().into_iter().zip(tickets);
        pairs.map(|(write, &ticket)| write.with_ticket(ticket)).collect::<Vec<_>>()
    };

    macro_rules! one_round_trip {
        ($operation:expr, $($command:literal: $calls:literal),*) => {{
            server.cli(&["CONFIG", "RESETSTAT"]);
            let before = proxy.round_trips();
            let result = $operation.await;
            assert_eq!(proxy.round_trips() - before, 1, stringify!($operation));
            $(assert_eq!(server.calls(&[$command]), [$calls], "{} in {}", $command, stringify!($operation));)*
            // And nothing else: CONFIG and INFO are the test's own.
            let all = server.cli(&["INFO", "commandstats"]);
            let known = [$($command,)* "config|resetstat", "info"];
            let is_known = |name| known.iter().any(|&known| known == name || command_of(known) == name);
            for line in all.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
                let name = line.split(':').next().unwrap();
                assert!(is_known(name), "{name} ran in {}", stringify!($operation));
            }
            result
        }};
    }

    // The scripts are new to the server, so each runs once before.
    let ticket = store.lease(&keys[0]).await.unwrap();
    store.fill(never(&keys[0], owned("v"), ticket)).await.unwrap();
    store.set(never(&keys[0], owned("v"), ticket)).await.unwrap();
    store.del(&keys[0]).await.unwrap();

    one_round_trip!(store.get(&keys[0]), "get": 1).unwrap();
    let ticket = one_round_trip!(store.lease(&keys[0]), "evalsha": 1, "getrange": 1, "set": 1).unwrap();
    let write = never(&keys[0], owned("v"), ticket);
    assert!(one_round_trip!(store.fill(write.clone()), "evalsha": 1, "getrange": 1, "set": 1).unwrap());
    one_round_trip!(store.set(write), "evalsha": 1, "getrange": 1, "set": 1).unwrap();
    one_round_trip!(store.set(living(&keys[0], owned("v"), hour)), "set": 1).unwrap();
    assert!(one_round_trip!(store.get(&keys[0]), "get": 1).unwrap().is_some());
    one_round_trip!(store.del(&keys[0]), "unlink": 1).unwrap();

    for result in one_round_trip!(store.set_many(unconditional()), "set": 50) {
        result.unwrap();
    }
    for result in one_round_trip!(store.get_many(&keys), "mget": 1) {
        assert_eq!(result.unwrap().unwrap().into_value().unwrap(), "v");
    }
    for result in one_round_trip!(store.del_many(&keys), "unlink": 50) {
        result.unwrap();
    }
    let tickets: Vec<Ticket> =
        one_round_trip!(store.lease_many(&keys), "script|load": 1, "evalsha": 50, "getrange": 50, "set": 50)
            .into_iter()
            .map(Result::unwrap)
            .collect();
    let fills = with(&tickets);
    for result in one_round_trip!(store.fill_many(fills), "script|load": 1, "evalsha": 50, "getrange": 50, "set": 50) {
        assert!(result.unwrap());
    }
    let sets = with(&tickets);
    for result in one_round_trip!(store.set_many(sets), "script|load": 1, "evalsha": 50, "getrange": 50, "set": 50) {
        result.unwrap();
    }
}

#[tokio::test]
async fn an_empty_batch_asks_nothing() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let store: RedisStore<String> = RedisStore::builder(proxy.url()).namespace("users").connect().await.unwrap();
    let before = proxy.round_trips();
    assert_eq!(store.get_many(&[]).await.len(), 0);
    assert_eq!(store.lease_many(&[]).await.len(), 0);
    assert_eq!(store.del_many(&[]).await.len(), 0);
    assert_eq!(store.set_many(vec![]).await.len(), 0);
    assert_eq!(store.fill_many(vec![]).await.len(), 0);
    assert_eq!(proxy.round_trips(), before);
}

/// The command of that name, which Redis has since 7.0: when the key expires, in Unix milliseconds.
const PEXPIRETIME: &str = "
    local now = redis.call('TIME')
    return now[1] * 1000 + math.floor(now[2] / 1000) + redis.call('PTTL', KEYS[1])
";

#[tokio::test]
async fn lives_are_exact_to_the_millisecond_in_redis() {
    let server = RedisServer::start().await;
    let clock = cache_core::ManualClock::new();
    let store: RedisStore<String> =
        RedisStore::builder(server.url()).namespace("users").clock(clock.shared()).connect().await.unwrap();
    let now = cache_core::Clock::now(&clock);
    let years = Duration::from_secs(10 * 365 * 24 * 3600);
    for (ttl, millis) in [
        (Duration::from_millis(999), 999),
        (Duration::from_micros(7_654_321), 7_654),
        (Duration::from_secs(60), 60_000),
        (years, u64::try_from(years.as_millis()).unwrap()),
        (Duration::MAX, u64::try_from(MAX_TTL.as_millis()).unwrap()),
    ] {
        let mut write = never(&key(1), owned("v"), Ticket::unconditional());
        write.entry = write.entry.expiring_by(cache_core::Expiry::after(now, ttl.into()));
        store.set(write).await.unwrap();
        // Exactly: the deadline that Redis keeps is the record's own, but for the time that the
        // write took to arrive.
        let record = server.raw(&[b"GET", b"users:1"]);
        let created = u64::from_le_bytes(record[18..26].try_into().unwrap());
        let expires = u64::from_le_bytes(record[26..34].try_into().unwrap());
        assert_eq!(expires - created, millis);
        let kept: u64 = server.cli(&["EVAL", PEXPIRETIME, "1", "users:1"]).parse().unwrap();
        assert!((expires..expires + 5_000).contains(&kept), "{kept} is not soon after {expires}");
        // The clock stands still, so nothing of it has passed but the way of the measurement.
        let got = store.get(&key(1)).await.unwrap();
        if let Some(entry) = got {
            let left = entry.remaining(now).as_duration().unwrap();
            assert!(left <= Duration::from_millis(millis), "{left:?} of {millis} ms");
            assert!(left + Duration::from_millis(2) >= Duration::from_millis(millis), "{left:?} of {millis} ms");
        }
    }
}

#[tokio::test]
async fn a_life_is_neither_lengthened_nor_lost_on_the_way() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    for ttl in [Duration::from_secs(60), Duration::from_secs(10 * 365 * 24 * 3600), Duration::MAX] {
        let started = std::time::Instant::now();
        store.set(living(&key(1), owned("v"), ttl)).await.unwrap();
        let entry = store.get(&key(1)).await.unwrap().unwrap();
        let (left, ttl) = (remaining(&entry), ttl.min(MAX_TTL));
        assert!(left <= ttl, "{left:?} of {ttl:?}");
        assert!(left + started.elapsed() + store.profile().ttl_resolution >= ttl, "{left:?} of {ttl:?}");
    }
    store.set(never(&key(1), owned("v"), Ticket::unconditional())).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().expiry(), cache_core::Expiry::Never);
    assert_eq!(server.cli(&["PTTL", "users:1"]), "-1");
}

#[tokio::test]
async fn what_lives_for_a_millisecond_is_written_and_goes() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    for ttl in [Duration::from_millis(1), Duration::from_nanos(1)] {
        store.set(never(&key(1), owned("old"), Ticket::unconditional())).await.unwrap();
        store.set(living(&key(1), owned("new"), ttl)).await.unwrap();
        assert_ne!(value(&store, &key(1)).await, Some(owned("old")));
        eventually("the end of a millisecond", async || store.get(&key(1)).await.unwrap().is_none().then_some(()))
            .await;
        eventually("the deletion", async || (server.cli(&["EXISTS", "users:1"]) == "0").then_some(())).await;
    }
}

#[tokio::test]
async fn an_expired_entry_replaces_by_nothing_and_fills_nothing() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    store.set(never(&key(1), owned("old"), Ticket::unconditional())).await.unwrap();
    store.set(living(&key(1), owned("new"), Duration::ZERO)).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "users:1"]), "0");
    let ticket = store.lease(&key(1)).await.unwrap();
    for ttl in [Duration::ZERO, Duration::from_nanos(1)] {
        let late = living(&key(1), owned("late"), ttl).with_ticket(ticket);
        assert!(!store.fill(late).await.unwrap());
    }
    assert_eq!(value(&store, &key(1)).await, None);
}

#[tokio::test]
async fn a_record_whose_life_is_over_is_a_miss_even_if_redis_still_has_it() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    let envelope = Envelope::new(
        codec::Bincode,
        Envelope::shaped_tag(
            Envelope::schema_tag(std::any::type_name::<String>()),
            Codec::<String>::shape(&codec::Bincode),
        ),
    );
    store.set(never(&key(1), owned("v"), Ticket::unconditional())).await.unwrap();
    let epoch = Envelope::epoch(&server.raw(&[b"GET", b"users:1"])).unwrap();
    let binding = Binding::new(b"users:1", epoch);
    let put = |life| server.raw(&[b"SET", b"users:1", &envelope.seal(binding, &owned("v"), life, 1).unwrap()]);
    put(Life::new(1_000, Some(61_000)));
    assert_eq!(value(&store, &key(1)).await, None);
    let lifetime = Lifetime::new(Expiry::after(SystemClock.now(), Duration::from_secs(60).into()));
    assert!(!store.touch(&key(1), lifetime, SystemClock.now()).await.unwrap());
    assert_eq!(value(&store, &key(1)).await, None, "a touch has revived it");
    put(Life::new(1_000, None));
    assert_eq!(value(&store, &key(1)).await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_record_of_an_older_format_is_read() {
    /// What this test knows of the value in the file.
    #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
    struct Named {
        name: String,
    }
    let server = RedisServer::start().await;
    let builder = RedisStore::<Named>::builder(server.url()).namespace("users").schema("golden user");
    let store = builder.codec(codec::Json).connect().await.unwrap();
    server.raw(&[b"SET", b"users:1", include_bytes!("../../cache-core/tests/golden/v1-json-value.bin")]);
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value(), Some(Named { name: "Zoë \u{1F980}".into() }));
    // A touch must not make it a record of this run of the server.
    let lifetime = Lifetime::new(Expiry::after(SystemClock.now(), Duration::from_secs(60).into()));
    assert!(!store.touch(&key(1), lifetime, SystemClock.now()).await.unwrap());
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().expiry(), Expiry::Never);
    // A lease takes it for nothing: it does not say which life of the server it is of.
    let ticket = store.lease(&key(1)).await.unwrap();
    let write = never(&key(1), Named { name: "Zoë".into() }, ticket);
    assert!(store.fill(write.clone()).await.unwrap());
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value(), write.entry.into_value());
}

#[tokio::test]
async fn a_record_under_another_key_is_an_error_and_no_value() {
    let server = RedisServer::start().await;
    let (users, others) = (texts(&server, "users").await, texts(&server, "others").await);
    for command in ["RENAME", "COPY"] {
        for (place, name, store) in [(key(2), "users:2", &users), (key(1), "others:1", &others)] {
            users.set(living(&key(1), owned("alice's"), Duration::from_secs(60))).await.unwrap();
            server.cli(&["DEL", name]);
            assert!(matches!(server.cli(&[command, "users:1", name]).as_str(), "OK" | "1"));
            let error = store.get(&place).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Codec, "{command} to {name}");
            assert!(error.to_string().contains("belongs to another key"), "{error}");
            // It is replaced like any other bytes that cannot be read.
            store.set(never(&place, owned("bob's"), Ticket::unconditional())).await.unwrap();
            assert_eq!(value(store, &place).await.as_deref(), Some("bob's"));
        }
    }
}

#[tokio::test]
async fn keys_are_readable_and_of_any_bytes() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    let long = vec![b'k'; Key::MAX_LEN];
    let keys =
        [key(42), key(("acme", 42)), key(&b"\xff\x00\r\n"[..]), key("a*b?[c]\\"), key("\u{fc} x"), key(&long[..])];
    for (at, key) in keys.iter().enumerate() {
        store.set(never(key, at.to_string(), Ticket::unconditional())).await.unwrap();
        let stored = [b"users:", key.as_bytes()].concat();
        assert_eq!(server.raw(&[b"EXISTS", &stored]), b"1", "{key:?}");
    }
    for (at, result) in store.get_many(&keys).await.into_iter().enumerate() {
        assert_eq!(result.unwrap().unwrap().into_value().unwrap(), at.to_string());
    }
    for key in &keys {
        store.del(key).await.unwrap();
        store.del(key).await.unwrap();
        assert_eq!(value(&store, key).await, None);
    }
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn clear_removes_its_namespace_and_nothing_else() {
    let server = RedisServer::start().await;
    let users = texts(&server, "users").await;
    let neighbours = [texts(&server, "users2").await, texts(&server, "user").await, texts(&server, "a.users").await];
    for store in &neighbours {
        store.set(never(&key("users:1"), owned("v"), Ticket::unconditional())).await.unwrap();
    }
    server.cli(&["SET", "users", "foreign"]);
    server.cli(&["SET", "xusers:1", "foreign"]);
    let writes = |range: std::ops::Range<u32>| {
        range.map(|at| never(&key(("*", at)), owned("v"), Ticket::unconditional())).collect::<Vec<_>>()
    };
    // More than three pages of the scan.
    for result in users.set_many(writes(0..3_500)).await {
        result.unwrap();
    }
    users.set(never(&key(&b"\xff["[..]), owned("v"), Ticket::unconditional())).await.unwrap();
    users.lease(&key("marker")).await.unwrap();
    assert_eq!(server.cli(&["DBSIZE"]), "3507");

    server.cli(&["CONFIG", "RESETSTAT"]);
    users.clear().await.unwrap();
    assert_eq!(server.cli(&["DBSIZE"]), "5");
    for store in &neighbours {
        assert_eq!(value(store, &key("users:1")).await, Some(owned("v")));
    }
    assert_eq!(server.calls(&["flushdb", "flushall", "keys", "del"]), [0; 4]);
    users.clear().await.unwrap();
}

#[tokio::test]
async fn stores_of_several_types_share_a_connection() {
    #[derive(Clone, Serialize, Deserialize, PartialEq, Debug)]
    struct Order {
        total: u64,
    }
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let redis = RedisConnection::builder(proxy.url()).connect().await.unwrap();
    let users = RedisStore::<String>::builder_on(&redis).namespace("users").build().unwrap();
    let orders = RedisStore::<Order>::builder_on(&redis).namespace("orders").codec(codec::Json).build().unwrap();
    users.set(never(&key(1), owned("u"), Ticket::unconditional())).await.unwrap();
    orders.set(never(&key(1), Order { total: 7 }, Ticket::unconditional())).await.unwrap();
    assert_eq!(value(&users, &key(1)).await, Some(owned("u")));
    assert_eq!(orders.get(&key(1)).await.unwrap().unwrap().into_value().unwrap(), Order { total: 7 });
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn several_connections_work_as_one() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let store: RedisStore<String> =
        RedisStore::builder(proxy.url()).namespace("users").connections(4).connect().await.unwrap();
    assert_eq!(proxy.connections(), 4);
    let keys: Vec<Key> = (0..200).map(key).collect();
    let writes = keys.iter().enumerate().map(|(at, key)| never(key, at.to_string(), Ticket::unconditional()));
    for result in store.set_many(writes.collect()).await {
        result.unwrap();
    }
    // The answers come in the order of the keys, whichever connection they took.
    for (at, result) in store.get_many(&keys).await.into_iter().enumerate() {
        assert_eq!(result.unwrap().unwrap().into_value().unwrap(), at.to_string());
    }
    for (at, result) in store.lease_many(&keys).await.into_iter().enumerate() {
        let stored = server.raw(&[b"GETRANGE", format!("users:{at}").as_bytes(), b"10", b"17"]);
        assert_eq!(result.unwrap().version().unwrap().to_le_bytes(), stored[..]);
    }
    for result in store.del_many(&keys[..100]).await {
        result.unwrap();
    }
    assert_eq!(server.cli(&["DBSIZE"]), "100");
    store.clear().await.unwrap();
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn what_is_no_value_of_this_store_is_an_error_and_can_be_replaced() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    let numbers: RedisStore<u64> = RedisStore::builder(server.url()).namespace("users").connect().await.unwrap();
    let json: RedisStore<String, _> =
        RedisStore::builder(server.url()).namespace("users").codec(codec::Json).connect().await.unwrap();
    let renamed: RedisStore<String> =
        RedisStore::builder(server.url()).namespace("users").schema("text/2").connect().await.unwrap();
    let key = key(1);

    store.set(never(&key, owned("v"), Ticket::unconditional())).await.unwrap();
    let record = server.raw(&[b"GET", b"users:1"]);
    assert_eq!(numbers.get(&key).await.unwrap_err().kind(), ErrorKind::Codec, "another type");
    assert_eq!(json.get(&key).await.unwrap_err().kind(), ErrorKind::Codec, "another codec");
    assert_eq!(renamed.get(&key).await.unwrap_err().kind(), ErrorKind::Codec, "another schema");

    let mut flipped = record.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut later = record.clone();
    later[3] = 2;
    let longer = [&record[..], b"x"].concat();
    for bad in
        [&b""[..], b"v", b"MLC", &record[..17], &record[..30], &record[..record.len() - 1], &flipped, &longer, &later]
    {
        server.raw(&[b"SET", b"users:1", bad]);
        assert_eq!(store.get(&key).await.unwrap_err().kind(), ErrorKind::Codec, "{bad:?}");
        let batch = store.get_many(&[key.clone(), key.clone()]).await;
        assert_eq!(batch[1].as_ref().unwrap_err().kind(), ErrorKind::Codec, "{bad:?}");
        let ticket = store.lease(&key).await.unwrap();
        assert!(store.fill(never(&key, owned("new"), ticket)).await.unwrap(), "{bad:?}");
        assert_eq!(value(&store, &key).await, Some(owned("new")));
    }
}

#[tokio::test]
async fn a_key_of_another_redis_type_is_an_error_and_can_be_replaced() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    let key = key(1);
    let list = || {
        server.cli(&["DEL", "users:1"]);
        server.cli(&["RPUSH", "users:1", "a"]);
    };
    list();
    let error = store.get(&key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("list"), "{error}");
    let ticket = store.lease(&key).await.unwrap();
    assert!(store.fill(never(&key, owned("new"), ticket)).await.unwrap());
    list();
    assert!(!store.fill(never(&key, owned("late"), ticket)).await.unwrap());
    store.set(never(&key, owned("late"), ticket)).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "users:1"]), "0");
    list();
    store.set(never(&key, owned("v"), Ticket::unconditional())).await.unwrap();
    assert_eq!(value(&store, &key).await, Some(owned("v")));
}

#[tokio::test]
async fn a_value_too_large_is_an_error_and_the_older_one_goes() {
    let server = RedisServer::start().await;
    let store = texts(&server, "users").await;
    store.set(never(&key(1), owned("old"), Ticket::unconditional())).await.unwrap();
    let large = "x".repeat(Envelope::MAX_PAYLOAD + 1);
    let error = store.set(never(&key(1), large, Ticket::unconditional())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert_eq!(value(&store, &key(1)).await, None);
}

#[tokio::test]
async fn plain_values_are_shared_with_programs_that_know_nothing_of_the_cache() {
    let server = RedisServer::start().await;
    let store: RedisStore<String, _> =
        RedisStore::builder(server.url()).namespace("users").codec(codec::Json).plain().connect().await.unwrap();
    assert!(!store.profile().leases);
    let key = key(1);
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert_eq!(store.lease(&key).await.unwrap(), Ticket::unconditional());
    assert_eq!(server.cli(&["EXISTS", "users:1"]), "0", "a lease leaves nothing");

    server.cli(&["SET", "users:1", "\"by others\"", "PX", "60000"]);
    let entry = store.get(&key).await.unwrap().unwrap();
    let left = remaining(&entry);
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
    assert_eq!(entry.into_value().unwrap(), "by others");

    store.set(living(&key, owned("ours"), Duration::from_secs(60))).await.unwrap();
    assert_eq!(server.cli(&["GET", "users:1"]), "\"ours\"");
    let left: u64 = server.cli(&["PTTL", "users:1"]).parse().unwrap();
    assert!((50_000..=60_000).contains(&left), "{left}");
    let stale = Ticket::at(7);
    assert!(store.fill(never(&key, owned("filled"), stale)).await.unwrap());
    store.set(never(&key, owned("set"), stale)).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap().expiry(), cache_core::Expiry::Never);

    server.cli(&["SET", "users:2", "no json"]);
    server.cli(&["RPUSH", "users:3", "a"]);
    let keys = [key, integration_tests::key(2), integration_tests::key(3), integration_tests::key(4)];
    let results = store.get_many(&keys).await;
    assert_eq!(results[0].as_ref().unwrap().as_ref().unwrap().value().unwrap(), "set");
    assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(results[2].as_ref().unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(*results[3].as_ref().unwrap(), None);
    assert_eq!(store.get_many(&[]).await.len(), 0);
}

#[tokio::test]
async fn resp3_and_databases_by_url() {
    let server = RedisServer::start().await;
    let url = format!("{}3?protocol=resp3", server.url());
    let store: RedisStore<String> = RedisStore::builder(url).namespace("users").connect().await.unwrap();
    let ticket = store.lease(&key(1)).await.unwrap();
    assert!(store.fill(never(&key(1), owned("v"), ticket)).await.unwrap());
    assert_eq!(value(&store, &key(1)).await, Some(owned("v")));
    assert_eq!(server.cli(&["EXISTS", "users:1"]), "0");
    assert!(server.cli(&["INFO", "keyspace"]).contains("db3:keys=1"));
    assert!(format!("{store:?}").contains("db: 3"), "{store:?}");
    store.clear().await.unwrap();
    assert_eq!(value(&store, &key(1)).await, None);
}

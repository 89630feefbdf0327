//! `take` and `touch` in Redis.

use std::{pin::pin, time::Duration};

use cache_core::{
    Clock as _, Codec, Entry, ErrorKind, Expiry, Key, Lifetime, ManualClock, Store, SystemClock, Ticket, Write, codec,
};
use integration_tests::{
    CutProxy, RedisServer, eventually, key, living, never, poll_once, remaining,
    takes::{race_takes, race_takes_and_sets, race_takes_of_what_is_written},
};
use store_redis::{DefaultCodec, RedisConnection, RedisStore};

const HOUR: Duration = Duration::from_secs(3600);

async fn store<V: Clone + Send + Sync + 'static>(server: &RedisServer) -> RedisStore<V>
where
    DefaultCodec: Codec<V>,
{
    RedisStore::builder(server.url()).namespace("n").connect().await.unwrap()
}

async fn plain(server: &RedisServer) -> RedisStore<u32, codec::Json> {
    RedisStore::builder(server.url()).namespace("n").codec(codec::Json).plain().connect().await.unwrap()
}

/// The lifetime that ends in an hour.
fn an_hour() -> Lifetime {
    Lifetime::new(Expiry::after(SystemClock.now(), HOUR.into()))
}

async fn touch<S: Store>(store: &S, key: &Key, lifetime: Lifetime) -> bool {
    store.touch(key, lifetime, SystemClock.now()).await.unwrap()
}

/// Returns the remaining TTL of the key `k`, in milliseconds.
fn pttl(server: &RedisServer) -> i64 {
    server.cli(&["PTTL", "n:k"]).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_takes_of_two_processes_one_returns_the_entry() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    race_takes(&ours, &theirs, 50).await;
    race_takes_and_sets(&ours, &theirs, 200).await;
    race_takes_of_what_is_written(&ours, &theirs, 50).await;
    assert_eq!(server.cli(&["DBSIZE"]), "0");
    let (ours, theirs) = (plain(&server).await, plain(&server).await);
    race_takes(&ours, &theirs, 50).await;
    race_takes_and_sets(&ours, &theirs, 200).await;
    race_takes_of_what_is_written(&ours, &theirs, 50).await;
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn a_take_removes_what_it_does_not_return() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store::<u32>(&server).await, store::<u32>(&server).await);
    // A marker, whose ticket is void then.
    let lease = theirs.lease(&key("k")).await.unwrap();
    assert_eq!(ours.take(&key("k")).await.unwrap(), None);
    assert!(!theirs.fill(never(&key("k"), 1, lease)).await.unwrap());
    // Bytes, types and records that are not this store's.
    let json: RedisStore<u32, _> =
        RedisStore::builder(server.url()).namespace("n").codec(codec::Json).connect().await.unwrap();
    for foreign in [&["SET", "n:k", "foreign"][..], &["RPUSH", "n:k", "a"], &[]] {
        if foreign.is_empty() {
            json.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
        } else {
            server.cli(foreign);
        }
        assert_eq!(ours.take(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec, "{foreign:?}");
        assert_eq!(server.cli(&["DBSIZE"]), "0", "{foreign:?}");
    }
    let plain = plain(&server).await;
    for foreign in [&["SET", "n:k", "foreign"][..], &["RPUSH", "n:k", "a"]] {
        server.cli(foreign);
        assert_eq!(plain.take(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec, "{foreign:?}");
        assert_eq!(server.cli(&["DBSIZE"]), "0", "{foreign:?}");
    }
    plain.set(living(&key("k"), 7, HOUR)).await.unwrap();
    let taken = plain.take(&key("k")).await.unwrap().unwrap();
    assert!(taken.value() == Some(&7) && remaining(&taken) <= HOUR && remaining(&taken) > HOUR / 2, "{taken:?}");
}

#[tokio::test]
async fn what_a_restart_has_brought_back_is_neither_taken_nor_touched() {
    let mut server = RedisServer::start_with(&["--dbfilename", "dump.rdb"]).await;
    let store = store::<u32>(&server).await;
    for name in ["k", "l"] {
        store.set(living(&key(name), 1, HOUR)).await.unwrap();
    }
    assert_eq!(server.cli(&["SAVE"]), "OK");
    server.kill();
    server.restart();
    let touched =
        eventually("an answer", async || store.touch(&key("l"), an_hour(), SystemClock.now()).await.ok()).await;
    assert!(!touched);
    assert_eq!(store.take(&key("k")).await.unwrap(), None);
    assert_eq!(server.cli(&["EXISTS", "n:k", "n:l"]), "1", "it is removed all the same");
}

/// A failover in the middle of a call: one connection still leads to the old primary, whose clock
/// it has read, while another one connects to the new one. That has the records of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_to_the_server_that_it_was_made_for() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let proxy = CutProxy::start(old.port()).await;
    let builder = RedisConnection::builder(proxy.url()).timeout(Duration::from_secs(30));
    let connection = builder.connections(2).connect().await.unwrap();
    let store: RedisStore<u32> = RedisStore::builder_on(&connection).namespace("n").build().unwrap();
    let keys: Vec<Key> = (0..64_u32).map(key).collect();
    for (number, key) in keys.iter().enumerate() {
        store.set(living(key, 1, HOUR)).await.unwrap();
        let name = format!("n:{number}");
        new.raw(&[b"SET", name.as_bytes(), &old.raw(&[b"GET", name.as_bytes()])]);
    }
    let clients = old.cli(&["CLIENT", "LIST"]);
    let of_the_store = clients.split_whitespace().find_map(|field| field.strip_prefix("id=")).unwrap();
    proxy.lead_to(new.port());
    proxy.hold_new_connections();
    assert_eq!(old.cli(&["CLIENT", "KILL", "ID", of_the_store]), "1");
    let broken = eventually("an error of the connection that was closed", async || {
        for key in &keys {
            if store.get(key).await.is_err() {
                return Some(key);
            }
        }
        None
    });
    let broken = broken.await;
    // The other connection reads the clock of the old primary.
    let leases = keys.iter().cloned().map(|key| {
        let store = store.clone();
        tokio::spawn(async move { store.lease(&key).await })
    });
    let leases: Vec<_> = leases.collect();
    eventually("a lease", async || leases.iter().any(tokio::task::JoinHandle::is_finished).then_some(())).await;
    // Those that wait for the new primary would leave markers there.
    for lease in leases {
        lease.abort();
        let _ = lease.await;
    }
    let lifetime = an_hour().fresh_until(an_hour().expiry);
    let (mut take, mut touch) = (pin!(store.take(broken)), pin!(store.touch(broken, lifetime, SystemClock.now())));
    assert!(poll_once(take.as_mut()).await.is_none() && poll_once(touch.as_mut()).await.is_none());
    proxy.release();
    assert_eq!(touch.await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(take.await.unwrap_err().kind(), ErrorKind::Unavailable);
    let name = format!("n:{}", String::from_utf8_lossy(broken.as_bytes()));
    assert_eq!((new.cli(&["EXISTS", &name]), new.cli(&["PTTL", &name])), ("1".to_owned(), "-1".to_owned()));
}

#[tokio::test]
async fn a_touch_does_not_transfer_the_value() {
    let server = RedisServer::start().await;
    let store = store::<String>(&server).await;
    let value = "v".repeat(1 << 20);
    store.set(living(&key("k"), value.clone(), HOUR)).await.unwrap();
    let bytes = || {
        let stats = server.cli(&["INFO", "stats"]);
        let field = |name| stats.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<u64>().unwrap();
        (field("total_net_output_bytes:"), field("total_net_input_bytes:"))
    };
    // The script is new to the server.
    assert!(touch(&store, &key("k"), an_hour()).await);
    for lifetime in [an_hour(), Lifetime::new(Expiry::Never)] {
        let first = bytes();
        let second = bytes();
        assert!(touch(&store, &key("k"), lifetime).await);
        let third = bytes();
        // Each reading of the statistics is counted in the next.
        let (out, into) = (third.0 - second.0, third.1 - second.1);
        let (own_out, own_in) = (second.0 - first.0, second.1 - first.1);
        assert!(out < own_out + 1024, "{} bytes were sent", out - own_out);
        assert!(into < own_in + 1024, "{} bytes were received", into - own_in);
    }
    let found = store.get(&key("k")).await.unwrap().unwrap();
    assert_eq!(found.expiry(), Expiry::Never);
    assert!(found.value() == Some(&value), "the value has changed");
}

/// The record is that which a fill with the new lifetime would have left, and the key lives as
/// long.
#[tokio::test]
async fn a_touch_changes_the_record_and_the_life_of_the_key() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store::<String>(&server).await, store::<String>(&server).await);
    let now = SystemClock.now();
    let at = |seconds| Expiry::after(now, Duration::from_secs(seconds).into());
    let entry = Entry::new("v".to_owned(), at(100)).loaded_in(Duration::from_millis(1500)).created_at(now);
    ours.set(Write::new(key("k"), entry, Ticket::unconditional())).await.unwrap();
    let ticket = ours.lease(&key("k")).await.unwrap();
    let raw = || server.raw(&[b"GET", b"n:k"]);
    let before = raw();
    for (lifetime, ttl) in [
        (Lifetime::new(at(1000)), Some(1_000_000)),
        (Lifetime::new(at(50)).fresh_until(at(20)), Some(50_000)),
        (Lifetime::new(Expiry::Never), None),
        (Lifetime::new(at(70)), Some(70_000)),
    ] {
        assert!(touch(&theirs, &key("k"), lifetime).await);
        let after = raw();
        let left = pttl(&server);
        match ttl {
            Some(ttl) => assert!(left <= ttl && left > ttl - 10_000, "{left} ms instead of {ttl}"),
            None => assert_eq!(left, -1),
        }
        // Only the flags, the lifetime and the checksum differ.
        assert_eq!(after.len(), before.len());
        for at in (0..before.len()).filter(|at| ![4..5, 26..34, 38..50].iter().any(|range| range.contains(at))) {
            assert_eq!(after[at], before[at], "byte {at}");
        }
        let found = ours.get(&key("k")).await.unwrap().unwrap();
        assert!(found.expiry() <= lifetime.expiry && found.stale_at() <= lifetime.fresh_until, "{found:?}");
        assert_eq!(found.turns_stale(), lifetime.fresh_until != Expiry::Never);
    }
    assert_eq!(ours.lease(&key("k")).await.unwrap(), ticket);
    assert!(ours.fill(never(&key("k"), "new".to_owned(), ticket)).await.unwrap(), "a touch voids no ticket");
}

/// Between reading and writing, a touch holds no lock. Any write in between wins, also a fill,
/// which keeps the write id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_touch_changes_only_what_it_has_read() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let builder = RedisStore::builder(proxy.url()).namespace("n").timeout(Duration::from_secs(30));
    let (slow, other): (RedisStore<u32>, RedisStore<u32>) = (builder.connect().await.unwrap(), store(&server).await);
    let now = SystemClock.now();
    // The head is replaced after one round trip, and a whole record after two.
    let stales = an_hour().fresh_until(Expiry::after(now, (HOUR / 2).into()));
    for (lifetime, steps) in [(an_hour(), 1), (stales, 2)] {
        // The scripts are new to the server.
        other.set(living(&key("other"), 1, HOUR)).await.unwrap();
        assert!(touch(&other, &key("other"), lifetime).await);
        for write in ["set", "fill", "del", "claim", "touch", "append", "list"] {
            server.cli(&["DEL", "n:k"]);
            other.set(living(&key("k"), 1, HOUR)).await.unwrap();
            let ticket = other.lease(&key("k")).await.unwrap();
            proxy.hold_after(steps);
            let (slow, begun) = (slow.clone(), proxy.round_trips());
            let touching = tokio::spawn(async move { touch(&slow, &key("k"), lifetime).await });
            eventually("the last step", async || (proxy.round_trips() == begun + steps + 1).then_some(())).await;
            match write {
                "set" => other.set(living(&key("k"), 2, HOUR)).await.unwrap(),
                "fill" => assert!(other.fill(living(&key("k"), 2, HOUR).with_ticket(ticket)).await.unwrap()),
                "del" => other.del(&key("k")).await.unwrap(),
                "claim" => {
                    other.del(&key("k")).await.unwrap();
                    assert!(other.claim(&key("k")).await.unwrap().granted);
                }
                "touch" => assert!(touch(&other, &key("k"), Lifetime::new(Expiry::Never)).await),
                // The head stays the same.
                "append" => drop(server.cli(&["APPEND", "n:k", "x"])),
                _ => {
                    server.cli(&["DEL", "n:k"]);
                    server.cli(&["RPUSH", "n:k", "a"]);
                }
            }
            let (stored, life) = (server.cli(&["DUMP", "n:k"]), pttl(&server));
            proxy.release();
            assert!(!touching.await.unwrap(), "{write}, {steps}");
            assert_eq!(server.cli(&["DUMP", "n:k"]), stored, "{write}, {steps}");
            assert!(pttl(&server) <= life, "{write}, {steps}");
        }
    }
}

/// A record that is replaced as a whole is read after its head, and may be another one by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_record_is_looked_at_like_a_head() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let builder = RedisStore::builder(proxy.url()).namespace("n").timeout(Duration::from_secs(30));
    let (slow, other): (RedisStore<u32>, RedisStore<u32>) = (builder.connect().await.unwrap(), store(&server).await);
    let now = SystemClock.now();
    let fresh = Entry::new(2, an_hour().expiry);
    let absent = Entry::absent(an_hour().expiry);
    for (entry, touched) in [(fresh, true), (absent, false)] {
        other.set(living(&key("k"), 1, HOUR)).await.unwrap();
        proxy.hold_after(1);
        let (slow, begun) = (slow.clone(), proxy.round_trips());
        let stales = an_hour().fresh_until(Expiry::after(now, (HOUR / 2).into()));
        let touching = tokio::spawn(async move { touch(&slow, &key("k"), stales).await });
        eventually("the second step", async || (proxy.round_trips() == begun + 2).then_some(())).await;
        other.set(Write::new(key("k"), entry.clone(), Ticket::unconditional())).await.unwrap();
        let stored = server.cli(&["DUMP", "n:k"]);
        proxy.release();
        assert_eq!(touching.await.unwrap(), touched, "{entry:?}");
        assert_eq!(server.cli(&["DUMP", "n:k"]) != stored, touched, "{entry:?}");
        assert_eq!(other.get(&key("k")).await.unwrap().unwrap().value(), entry.value());
    }
}

/// A touch must not lengthen a life, so what remains is rounded down to whole milliseconds.
#[tokio::test]
async fn less_than_a_millisecond_is_no_lifetime() {
    let server = RedisServer::start().await;
    let clock = ManualClock::new();
    let builder = || RedisStore::<u32>::builder(server.url()).namespace("n").clock(clock.shared());
    let now = clock.now();
    let lifetime = |micros| Lifetime::new(Expiry::after(now, Duration::from_micros(micros).into()));
    let records = builder().connect().await.unwrap();
    let plain = builder().codec(codec::Json).plain().connect().await.unwrap();
    macro_rules! check {
        ($store:expr) => {
            $store.set(never(&key("k"), 7, Ticket::unconditional())).await.unwrap();
            assert!(!$store.touch(&key("k"), lifetime(999), now).await.unwrap());
            assert_eq!(pttl(&server), -1);
            assert!($store.touch(&key("k"), lifetime(60_000_999), now).await.unwrap());
            assert!(pttl(&server) <= 60_000, "{}", pttl(&server));
        };
    }
    check!(records);
    check!(plain);
}

/// A record that has no place for the time from which it is stale is read and filled.
#[tokio::test]
async fn a_head_of_another_length_is_no_obstacle() {
    let server = RedisServer::start().await;
    let store = store::<u32>(&server).await;
    store.set(living(&key("k"), 1, HOUR)).await.unwrap();
    let now = SystemClock.now();
    let stale_at = Expiry::after(now, (HOUR / 2).into());
    let length = || server.cli(&["STRLEN", "n:k"]).parse::<usize>().unwrap();
    let before = length();
    assert!(touch(&store, &key("k"), an_hour().fresh_until(stale_at)).await);
    let found = store.get(&key("k")).await.unwrap().unwrap();
    assert!(found.value() == Some(&1) && found.turns_stale() && found.stale_at() <= stale_at, "{found:?}");
    assert_eq!(length(), before + 16);
    assert!((3_500_000..=3_600_000).contains(&pttl(&server)), "{}", pttl(&server));
    // Its age was written anew, so there is a place for it now.
    assert!(touch(&store, &key("k"), an_hour()).await);
    assert!(!store.get(&key("k")).await.unwrap().unwrap().turns_stale());
}

#[tokio::test]
async fn a_touch_leaves_markers_and_foreign_values_alone() {
    let server = RedisServer::start().await;
    let store = store::<u32>(&server).await;
    assert!(!touch(&store, &key("k"), an_hour()).await);
    assert_eq!(server.cli(&["DBSIZE"]), "0", "no marker is left");
    let tickets = [store.lease(&key("lease")).await.unwrap(), store.claim(&key("claim")).await.unwrap().ticket];
    for (name, ticket) in ["lease", "claim"].into_iter().zip(tickets) {
        let life = server.cli(&["PTTL", &format!("n:{name}")]).parse::<i64>().unwrap();
        assert!(!touch(&store, &key(name), an_hour()).await);
        assert!(server.cli(&["PTTL", &format!("n:{name}")]).parse::<i64>().unwrap() <= life);
        assert!(store.fill(never(&key(name), 1, ticket)).await.unwrap(), "{name}");
    }
    for foreign in [&["SET", "n:k", "foreign"][..], &["RPUSH", "n:k", "a"]] {
        server.cli(&["DEL", "n:k"]);
        server.cli(foreign);
        let error = store.touch(&key("k"), an_hour(), SystemClock.now()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec, "{foreign:?}");
        assert_eq!(pttl(&server), -1, "{foreign:?}");
    }
}

#[tokio::test]
async fn a_plain_value_is_touched_by_its_ttl() {
    let server = RedisServer::start().await;
    let store = plain(&server).await;
    assert!(!touch(&store, &key("k"), an_hour()).await);
    assert!(!touch(&store, &key("k"), Lifetime::new(Expiry::Never)).await);
    assert_eq!(server.cli(&["DBSIZE"]), "0");
    store.set(never(&key("k"), 7, Ticket::unconditional())).await.unwrap();
    for _ in 0..2 {
        assert!(touch(&store, &key("k"), Lifetime::new(Expiry::Never)).await);
        assert_eq!(pttl(&server), -1);
        assert!(touch(&store, &key("k"), an_hour()).await);
        assert!((3_500_000..=3_600_000).contains(&pttl(&server)), "{}", pttl(&server));
    }
    // It cannot tell that it is stale, so it lives until then.
    let now = SystemClock.now();
    let stale_at = Expiry::after(now, (HOUR / 2).into());
    assert!(touch(&store, &key("k"), an_hour().fresh_until(stale_at)).await);
    assert!((1_700_000..=1_800_000).contains(&pttl(&server)), "{}", pttl(&server));
    assert_eq!(store.get(&key("k")).await.unwrap().and_then(Entry::into_value), Some(7));
    assert!(!touch(&store, &key("k"), an_hour().fresh_until(Expiry::At(now))).await);
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

/// A take is dated by the reading of the server's clock from before it. If that is not recent
/// enough any more when the reply comes, another reading could fail, and the entry would be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_asks_for_nothing_after_it() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let clock = ManualClock::new();
    let builder = RedisStore::builder(proxy.url()).namespace("n").clock(clock.shared());
    let store: RedisStore<u32> = builder.timeout(Duration::from_secs(30)).connect().await.unwrap();
    // The script is new to the server.
    assert_eq!(store.take(&key("k")).await.unwrap(), None);
    store.set(never(&key("k"), 7, Ticket::unconditional())).await.unwrap();
    proxy.delay(Duration::ZERO, Duration::from_millis(500));
    let before = proxy.round_trips();
    let ages = async {
        eventually("the removal", async || (server.cli(&["DBSIZE"]) == "0").then_some(())).await;
        clock.advance(Duration::from_secs(61));
    };
    let key = key("k");
    let (taken, ()) = tokio::join!(store.take(&key), ages);
    assert_eq!(taken.unwrap().and_then(Entry::into_value), Some(7));
    assert_eq!(proxy.round_trips() - before, 1);
}

#[tokio::test]
async fn a_take_that_cannot_tell_the_time_removes_nothing() {
    let server = RedisServer::start().await;
    let clock = ManualClock::new();
    let builder = RedisStore::builder(server.url()).namespace("n").clock(clock.shared());
    let store: RedisStore<u32> = builder.connect().await.unwrap();
    store.set(never(&key("k"), 7, Ticket::unconditional())).await.unwrap();
    clock.advance(Duration::from_secs(61));
    server.cli(&["ACL", "SETUSER", "default", "-time"]);
    assert_eq!(store.take(&key("k")).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(server.cli(&["EXISTS", "n:k"]), "1");
    server.cli(&["ACL", "SETUSER", "default", "+time"]);
    assert_eq!(store.take(&key("k")).await.unwrap().and_then(Entry::into_value), Some(7));
}

/// Takes and touches send what the README says.
#[tokio::test]
async fn takes_and_touches_take_one_round_trip_and_two() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let records: RedisStore<u32> = RedisStore::builder(proxy.url()).namespace("n").connect().await.unwrap();
    let plain: RedisStore<u32, _> =
        RedisStore::builder(proxy.url()).namespace("n").codec(codec::Json).plain().connect().await.unwrap();
    macro_rules! round_trips {
        ($store:expr, take: $take:literal, touch: $touch:literal) => {
            let before = proxy.round_trips();
            assert!(!touch(&$store, &key("absent"), an_hour()).await);
            assert_eq!(proxy.round_trips() - before, 1);
            // The scripts are new to the server, and the connection to the server's time.
            for first in [true, false] {
                $store.set(living(&key("k"), 7, HOUR)).await.unwrap();
                let before = proxy.round_trips();
                assert!(touch(&$store, &key("k"), an_hour()).await);
                let touched = proxy.round_trips();
                assert!($store.take(&key("k")).await.unwrap().is_some());
                let taken = proxy.round_trips();
                assert!(first || (touched - before, taken - touched) == ($touch, $take));
            }
        };
    }
    round_trips!(records, take: 1, touch: 2);
    round_trips!(plain, take: 1, touch: 1);
}

//! A Redis that restarts from an old file has again what was deleted and replaced since. The store
//! does not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_core::{Entry, Expiry, Key, Store as _, Ticket, Write};
use integration_tests::{RedisServer, all, eventually, key, living, never};
use store_redis::{RedisConnection, RedisStore};

const HOUR: Duration = Duration::from_secs(3600);

/// A server whose data is in a file once it was told to SAVE.
async fn saving() -> RedisServer {
    RedisServer::start_with(&["--dbfilename", "dump.rdb"]).await
}

fn restart(server: &mut RedisServer) {
    server.kill();
    server.restart();
}

async fn entry(store: &RedisStore<u64>, key: &Key) -> Option<Entry<u64>> {
    eventually("an answer", async || store.get(key).await.ok()).await
}

async fn value(store: &RedisStore<u64>, key: &Key) -> Option<u64> {
    entry(store, key).await.and_then(Entry::into_value)
}

async fn put(store: &RedisStore<u64>, write: Write<u64>) {
    eventually("a write", async || store.set(write.clone()).await.ok()).await;
}

/// Many keys, so that every connection has some.
fn keys() -> Vec<Key> {
    (0..32_u64).map(key).collect()
}

/// Writes old values, has them saved, replaces and deletes them, and kills the server, which then
/// has the old ones again.
async fn forget_to_forget(server: &mut RedisServer, store: &RedisStore<u64>) {
    for (at, key) in keys().iter().enumerate() {
        let write = if at % 4 < 2 { never(key, 1, Ticket::unconditional()) } else { living(key, 1, HOUR) };
        put(store, write).await;
    }
    assert_eq!(server.cli(&["SAVE"]), "OK");
    let saved = server.cli(&["DBSIZE"]);
    for (at, key) in keys().iter().enumerate() {
        if at % 2 == 0 {
            put(store, never(key, 2, Ticket::unconditional())).await;
        } else {
            store.del(key).await.unwrap();
        }
    }
    restart(server);
    assert_eq!(server.cli(&["DBSIZE"]), saved, "they are back");
}

#[tokio::test]
async fn what_was_deleted_or_replaced_stays_so() {
    let mut server = saving().await;
    for protocol in ["", "?protocol=resp3"] {
        for connections in [1, 3] {
            server.cli(&["FLUSHALL"]);
            let url = format!("{}{protocol}", server.url());
            let builder = RedisStore::<u64>::builder(url).namespace("n").connections(connections);
            let store = builder.connect().await.unwrap();
            forget_to_forget(&mut server, &store).await;
            for (at, key) in keys().iter().enumerate() {
                // Each is asked for alone, and then with the others.
                assert_eq!(value(&store, key).await, None, "{at}, {connections}{protocol}");
            }
            assert!(all(store.get_many(&keys()).await).iter().all(Option::is_none));
            // What is written now counts, be it set, or filled where an old record lies.
            for (at, key) in keys().iter().enumerate() {
                if at % 2 == 0 {
                    put(&store, never(key, 3, Ticket::unconditional())).await;
                } else {
                    let ticket = store.lease(key).await.unwrap();
                    assert!(store.fill(never(key, 3, ticket)).await.unwrap());
                }
                assert_eq!(value(&store, key).await, Some(3), "{at}, {connections}{protocol}");
            }
            assert!(all(store.get_many(&keys()).await).into_iter().flatten().all(|entry| entry.value() == Some(&3)));
        }
    }
}

#[tokio::test]
async fn the_first_answer_after_the_restart_is_right_already() {
    let mut server = saving().await;
    for protocol in ["", "?protocol=resp3"] {
        for first in ["get", "get_many"] {
            server.cli(&["FLUSHALL"]);
            let store: RedisStore<u64> =
                RedisStore::builder(format!("{}{protocol}", server.url())).namespace("n").connect().await.unwrap();
            forget_to_forget(&mut server, &store).await;
            let found = eventually("an answer", async || match first {
                "get" => store.get(&key(0)).await.ok(),
                _ => store.get_many(&keys()).await.swap_remove(0).ok(),
            });
            assert_eq!(found.await, None, "{first} {protocol}");
        }
    }
}

/// Whatever calls are under way when the server dies, and in whichever order they learn of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_at_once_see_no_old_value() {
    let mut server = saving().await;
    for protocol in ["", "?protocol=resp3"] {
        server.cli(&["FLUSHALL"]);
        let builder = RedisStore::<u64>::builder(format!("{}{protocol}", server.url())).namespace("n").connections(2);
        let store = builder.connect().await.unwrap();
        for key in keys() {
            put(&store, never(&key, 1, Ticket::unconditional())).await;
        }
        assert_eq!(server.cli(&["SAVE"]), "OK");
        all(store.del_many(&keys()).await);
        let back = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..8_usize)
            .map(|reader| {
                let (store, back) = (store.clone(), Arc::clone(&back));
                tokio::spawn(async move {
                    let keys = keys();
                    let mut answered = 0;
                    // Until it has been answered for a while by the server that came back.
                    while answered < 200 {
                        let came_back = back.load(Ordering::Acquire);
                        if let Ok(found) = store.get(&keys[(reader + answered) % keys.len()]).await {
                            assert_eq!(found, None);
                            answered += usize::from(came_back);
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        server = tokio::task::spawn_blocking(move || {
            restart(&mut server);
            server
        })
        .await
        .unwrap();
        back.store(true, Ordering::Release);
        for reader in readers {
            reader.await.unwrap();
        }
    }
}

#[tokio::test]
async fn all_stores_of_a_connection_notice() {
    let mut server = saving().await;
    let redis = RedisConnection::builder(server.url()).connect().await.unwrap();
    let store = |name: &str| RedisStore::<u64>::builder_on(&redis).namespace(name).build().unwrap();
    let (one, other) = (store("n"), store("m"));
    put(&other, never(&key(0), 1, Ticket::unconditional())).await;
    forget_to_forget(&mut server, &one).await;
    assert_eq!(value(&one, &key(0)).await, None);
    assert_eq!(value(&other, &key(0)).await, None);
}

#[tokio::test]
async fn a_value_older_than_the_restart_can_be_filled_after_it() {
    let mut server = saving().await;
    let store: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    let made = cache_core::Clock::now(&cache_core::SystemClock).minus(HOUR).unwrap();
    restart(&mut server);
    assert_eq!(value(&store, &key(0)).await, None);
    let ticket = store.lease(&key(0)).await.unwrap();
    let entry_of = Entry::new(1, Expiry::Never).created_at(made);
    assert!(store.fill(Write::new(key(0), entry_of, ticket)).await.unwrap());
    let found = entry(&store, &key(0)).await.unwrap();
    assert!(found.created().unwrap() <= made, "when it was made and when it was written are two things");
}

#[tokio::test]
async fn tickets_and_claims_from_before_are_void() {
    let mut server = saving().await;
    let builder = || RedisStore::<u64>::builder(server.url()).namespace("n");
    let (ours, theirs) = (builder().connect().await.unwrap(), builder().connect().await.unwrap());
    let (filled, set, claimed) = (key("filled"), key("set"), key("claimed"));
    let tickets = all(ours.lease_many(&[filled.clone(), set.clone()]).await);
    let claim = ours.claim(&claimed).await.unwrap();
    put(&ours, never(&key("value"), 1, Ticket::unconditional())).await;
    let ticket = ours.lease(&key("value")).await.unwrap();
    assert_eq!(server.cli(&["SAVE"]), "OK");
    // Voided, which the file does not know.
    for key in [&filled, &set, &claimed, &key("value")] {
        theirs.del(key).await.unwrap();
    }
    restart(&mut server);
    assert_eq!(server.cli(&["DBSIZE"]), "4", "the markers are back");
    let fill = |key: &Key, ticket| never(key, 7, ticket);
    let late = eventually("an answer", async || ours.fill(fill(&filled, tickets[0])).await.ok()).await;
    assert!(!late, "a fill from before the deletion");
    assert!(!ours.fill(fill(&key("value"), ticket)).await.unwrap(), "a fill by the id of an old value");
    ours.set(fill(&set, tickets[1])).await.unwrap();
    assert_eq!(value(&ours, &set).await, None, "nobody knows what came between");
    assert!(!ours.fill(fill(&claimed, claim.ticket)).await.unwrap());
    let next = ours.claim(&claimed).await.unwrap();
    assert!(next.granted && next.ticket != claim.ticket);
    let fresh = eventually("an answer", async || theirs.claim(&key("value")).await.ok()).await;
    assert!(fresh.granted && !ours.claim(&key("value")).await.unwrap().granted, "an old value is nothing to a claim");
    assert!(theirs.fill(fill(&key("value"), fresh.ticket)).await.unwrap());
    assert_eq!(value(&ours, &key("value")).await, Some(7));
}

#[tokio::test]
async fn a_cut_connection_is_no_restart() {
    let server = RedisServer::start().await;
    let proxy = integration_tests::CutProxy::start(server.port()).await;
    for protocol in ["", "?protocol=resp3"] {
        let store: RedisStore<u64> =
            RedisStore::builder(format!("{}{protocol}", proxy.url())).namespace("n").connect().await.unwrap();
        put(&store, never(&key(0), 1, Ticket::unconditional())).await;
        let before = proxy.connections();
        proxy.hang_up();
        eventually("the reconnection", async || {
            let _ = store.get(&key(0)).await;
            (proxy.connections() > before).then_some(())
        })
        .await;
        assert_eq!(value(&store, &key(0)).await, Some(1));
    }
}

/// Ids of the connections that last ran another command than CLIENT, as the command line does.
fn clients(server: &RedisServer) -> Vec<String> {
    let list = server.cli(&["CLIENT", "LIST", "TYPE", "normal"]);
    let others = list.lines().filter(|line| !line.contains(" cmd=client"));
    others.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_lost_connection_is_closed_even_if_the_first_attempt_to_close_it_breaks() {
    let server = RedisServer::start().await;
    let proxy = integration_tests::CutProxy::start(server.port()).await;
    for protocol in ["", "?protocol=resp3"] {
        let url = format!("{}{protocol}", proxy.url());
        let builder = RedisStore::<u64>::builder(url).namespace("n").timeout(Duration::from_millis(50)).connections(1);
        let store = builder.connect().await.unwrap();
        put(&store, never(&key(0), 1, Ticket::unconditional())).await;
        let lost = clients(&server);
        assert_eq!(lost.len(), 1, "{lost:?}");
        proxy.cut_at_kill();
        proxy.forget();
        eventually("an answer", async || store.get(&key(0)).await.ok()).await;
        assert!(!proxy.awaits_kill(), "the first attempt broke {protocol}");
        assert!(!clients(&server).contains(&lost[0]), "{lost:?} could still write {protocol}");
    }
}

/// It shows that the tests above can fail, too.
#[tokio::test]
async fn a_server_that_is_trusted_is_taken_at_its_word() {
    let mut server = saving().await;
    for connections in [1, 3] {
        server.cli(&["FLUSHALL"]);
        let builder = RedisStore::<u64>::builder(server.url()).namespace("n").connections(connections);
        let store = builder.trust_restarts(true).connect().await.unwrap();
        forget_to_forget(&mut server, &store).await;
        for key in keys() {
            assert_eq!(value(&store, &key).await, Some(1));
        }
    }
}

#[tokio::test]
async fn who_may_not_ask_for_the_run_id_takes_each_reconnection_for_a_restart() {
    let server = RedisServer::start().await;
    let rules = "ACL SETUSER app on >hunter2 ~n:* +@read +@write +@scripting +@connection +time";
    assert_eq!(server.cli(&rules.split(' ').collect::<Vec<_>>()), "OK");
    let url = server.url_as("app:hunter2", "");
    let store: RedisStore<u64> = RedisStore::builder(&url).namespace("n").connections(2).connect().await.unwrap();
    let trusting: RedisStore<u64> =
        RedisStore::builder(&url).namespace("n").trust_restarts(true).connect().await.unwrap();
    for key in keys() {
        put(&store, never(&key, 1, Ticket::unconditional())).await;
        assert_eq!(value(&store, &key).await, Some(1), "the first connections are no reconnections");
    }
    server.cli(&["CLIENT", "KILL", "USER", "app"]);
    for key in keys() {
        eventually("the reconnection", async || matches!(store.get(&key).await, Ok(None)).then_some(())).await;
        assert_eq!(value(&trusting, &key).await, Some(1));
    }
    put(&store, never(&key(0), 2, Ticket::unconditional())).await;
    assert_eq!(value(&store, &key(0)).await, Some(2));
}

#[tokio::test]
async fn a_plain_value_tells_nothing_and_is_read() {
    let mut server = saving().await;
    let store: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").plain().connect().await.unwrap();
    forget_to_forget(&mut server, &store).await;
    assert_eq!(value(&store, &key(0)).await, Some(1));
}

#[tokio::test]
async fn what_was_deleted_stays_so_on_a_server_whose_clock_is_behind() {
    let mut server = saving().await;
    let proxy = integration_tests::CutProxy::start(server.port()).await;
    for rules in ["+@all", "+@all -info"] {
        server.cli(&["FLUSHALL"]);
        proxy.shift_time(0);
        let login = |server: &RedisServer| {
            let command = format!("ACL SETUSER app on >hunter2 ~n:* {rules}");
            assert_eq!(server.cli(&command.split(' ').collect::<Vec<_>>()), "OK");
        };
        login(&server);
        let url = proxy.url().replace("redis://", "redis://app:hunter2@");
        let store: RedisStore<u64> = RedisStore::builder(&url).namespace("n").connect().await.unwrap();
        put(&store, living(&key(0), 1, HOUR)).await;
        put(&store, never(&key(1), 1, Ticket::unconditional())).await;
        assert_eq!(server.cli(&["SAVE"]), "OK");
        store.del(&key(0)).await.unwrap();
        store.del(&key(1)).await.unwrap();
        proxy.shift_time(-10);
        server.kill();
        server.restart();
        login(&server);
        assert_eq!(server.cli(&["DBSIZE"]), "2", "they are back");
        assert_eq!((value(&store, &key(0)).await, value(&store, &key(1)).await), (None, None), "{rules}");
        // What is written now lives no longer than it was told, and is there at once where the
        // server tells its run id.
        put(&store, living(&key(0), 2, HOUR)).await;
        let entry = entry(&store, &key(0)).await;
        assert!(entry.as_ref().is_none_or(|entry| integration_tests::remaining(entry) <= HOUR));
        assert_eq!(entry.and_then(Entry::into_value), (rules == "+@all").then_some(2));
        put(&store, never(&key(1), 2, Ticket::unconditional())).await;
        assert_eq!(value(&store, &key(1)).await, Some(2));
    }
}

#[tokio::test]
async fn a_process_that_starts_after_a_restart_reads_nothing_of_before() {
    let mut server = saving().await;
    let builder = RedisStore::<u64>::builder(server.url()).namespace("n");
    let store = builder.clone().connect().await.unwrap();
    forget_to_forget(&mut server, &store).await;
    let fresh = builder.clone().connect().await.unwrap();
    let trusting = builder.trust_restarts(true).connect().await.unwrap();
    for key in keys() {
        assert_eq!((value(&fresh, &key).await, value(&store, &key).await), (None, None));
        assert_eq!(value(&trusting, &key).await, Some(1), "it is taken at its word");
        assert!(fresh.fill(never(&key, 3, fresh.lease(&key).await.unwrap())).await.unwrap());
        assert_eq!(value(&store, &key).await, Some(3), "both name the server's life alike");
    }
}

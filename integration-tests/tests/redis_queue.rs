//! Calls to Redis that are made at the same time go out together.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::Poll,
};

use cache_core::{Clock as _, ErrorKind, Expiry, Key, Lifetime, Store as _, SystemClock, Ticket};
use integration_tests::{RedisServer, key, never};
use store_redis::{RedisConnection, RedisStore};
use tokio::task::JoinSet;

const CALLS: u64 = 200;

async fn store(server: &RedisServer) -> RedisStore<String> {
    RedisStore::builder(server.url()).namespace("queue").connect().await.unwrap()
}

async fn set(store: &RedisStore<String>, key: &Key, value: &str) {
    store.set(never(key, value.to_owned(), Ticket::unconditional())).await.unwrap();
}

/// Polls the future once, and drops it.
async fn abandon(call: impl Future) {
    let mut call = pin!(call);
    std::future::poll_fn(|context| {
        let _ = call.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_reads_share_commands_and_each_gets_its_own_value() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    for number in 0..CALLS {
        if number % 10 > 0 {
            set(&store, &key(number), &number.to_string()).await;
        }
    }
    server.cli(&["CONFIG", "RESETSTAT"]);
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let store = store.clone();
        calls.spawn(async move { (number, store.get(&key(number)).await.unwrap()) });
    }
    for (number, entry) in calls.join_all().await {
        let expected = (number % 10 > 0).then(|| number.to_string());
        assert_eq!(entry.and_then(cache_core::Entry::into_value), expected);
    }
    let [gets, mgets] = server.calls(&["get", "mget"])[..] else { panic!("two counts") };
    assert!(gets + mgets < CALLS / 4, "{gets} GET, {mgets} MGET");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_that_of_its_own_call() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    // No value that this store has written.
    server.cli(&["LPUSH", "queue:3", "x"]);
    server.cli(&["SET", "queue:4", "x"]);
    set(&store, &key(5), "five").await;
    let mut calls = JoinSet::new();
    for number in (0..CALLS).map(|number| number % 8) {
        let store = store.clone();
        calls.spawn(async move {
            let read = store.get(&key(number)).await;
            (number, read, store.touch(&key(number), Lifetime::new(Expiry::Never), SystemClock.now()).await)
        });
    }
    for (number, read, touched) in calls.join_all().await {
        match (number, read) {
            // GET refuses a list, and MGET says that there is no string.
            (3, read) => assert!(read.is_err() || read.is_ok_and(|entry| entry.is_none())),
            (4, read) => assert_eq!(read.unwrap_err().kind(), ErrorKind::Codec),
            (5, read) => assert_eq!(read.unwrap().unwrap().into_value().unwrap(), "five"),
            (_, read) => assert!(read.unwrap().is_none()),
        }
        // Neither of the two has a head to replace.
        assert_eq!(touched.is_err(), [3, 4].contains(&number), "{number}: {touched:?}");
    }
}

/// One read for several keys is refused because of any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_permission_does_not_disturb_another_one_on_its_connection() {
    let server = RedisServer::start().await;
    server.cli(&["ACL", "SETUSER", "app", "on", ">secret", "~mine:*", "+@all"]);
    let connection = RedisConnection::builder(server.url_as("app:secret", "")).connect().await.unwrap();
    let on = |namespace: &str| RedisStore::<String>::builder_on(&connection).namespace(namespace).build().unwrap();
    let (mine, others) = (on("mine"), on("others"));
    set(&mine, &key(1), "one").await;
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let (is_mine, store) = (number % 3 > 0, if number % 3 > 0 { mine.clone() } else { others.clone() });
        calls.spawn(async move { (is_mine, store.get(&key(1)).await) });
    }
    for (is_mine, result) in calls.join_all().await {
        match result {
            Ok(entry) => assert_eq!((is_mine, entry.unwrap().into_value().unwrap().as_str()), (true, "one")),
            Err(error) => assert_eq!((is_mine, error.kind()), (false, ErrorKind::Denied)),
        }
    }
}

/// Otherwise the older of two values could stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_does_not_overtake_an_abandoned_one() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let mut others = JoinSet::new();
    for task in 0..8_u64 {
        let store = store.clone();
        others.spawn(async move {
            for number in 0..CALLS {
                store.get(&key((task, number))).await.unwrap();
            }
        });
    }
    for number in 0..CALLS {
        for abandoned in 0..5 {
            let value = format!("{number}, abandoned {abandoned}");
            abandon(store.set(never(&key("k"), value, Ticket::unconditional()))).await;
        }
        set(&store, &key("k"), &number.to_string()).await;
        let value = store.get(&key("k")).await.unwrap().unwrap().into_value().unwrap();
        assert_eq!(value, number.to_string());
        tokio::task::yield_now().await;
        let value = store.get(&key("k")).await.unwrap().unwrap().into_value().unwrap();
        assert_eq!(value, number.to_string());
    }
    others.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_plain_stores_mix_with_other_calls() {
    let server = RedisServer::start().await;
    let store: RedisStore<String> =
        RedisStore::builder(server.url()).namespace("plain").plain().connect().await.unwrap();
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let store = store.clone();
        calls.spawn(async move {
            set(&store, &key(number), &number.to_string()).await;
            let read = store.get(&key(number)).await.unwrap().unwrap().into_value().unwrap();
            let taken = store.take(&key(number)).await.unwrap().unwrap().into_value().unwrap();
            assert_eq!([read, taken], [number.to_string(), number.to_string()]);
            assert!(store.get(&key(number)).await.unwrap().is_none());
        });
    }
    calls.join_all().await;
}

/// Polls the futures once, and keeps them.
async fn keep<F: Future>(calls: impl Iterator<Item = F>) -> Vec<Pin<Box<F>>> {
    let mut kept: Vec<_> = calls.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        for call in &mut kept {
            let _ = call.as_mut().poll(context);
        }
        Poll::Ready(())
    })
    .await;
    kept
}

/// No call depends on another one being polled, also if there are more of them than the queue holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_kept_without_being_polled_block_nobody() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let keys: Vec<Key> = (0..4000).map(key).collect();
    server.stop();
    let kept = keep(keys.iter().map(|key| store.get(key))).await;
    server.resume();
    for number in 0..CALLS {
        set(&store, &key(number), "value").await;
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let store = store.clone();
            calls.spawn(async move { store.get(&key(number)).await.unwrap().is_some() });
        }
        assert_eq!(calls.join_all().await, [true; 8]);
    }
    drop(kept);
}

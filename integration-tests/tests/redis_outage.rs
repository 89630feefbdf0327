//! What `RedisStore` does while its server or the way to it is gone, and afterwards.

use std::time::{Duration, Instant};

use cache_core::{ErrorKind, Key, Store as _, Ticket};
use integration_tests::{CutProxy, RedisServer, eventually, key, living, never, poll_once};
use store_redis::{RedisConnection, RedisStore};

/// Far beyond any deadline here: how long a call may take on a busy machine before it counts as
/// hanging.
const HANGING: Duration = Duration::from_secs(10);

/// On every connection: the keys are enough to reach them all.
async fn recovered(store: &RedisStore<u64>) {
    for at in 100..116 {
        let key = &key(at);
        eventually("the recovery", async || store.set(never(key, 7, Ticket::unconditional())).await.ok()).await;
        let got = eventually("the recovery", async || store.get(key).await.ok()).await;
        assert_eq!(got.unwrap().into_value().unwrap(), 7);
    }
}

#[tokio::test]
async fn a_hanging_server_is_a_timeout_and_no_reply_is_taken_for_another() {
    let server = RedisServer::start().await;
    let store: RedisStore<u64> =
        RedisStore::builder(server.url()).namespace("n").timeout(Duration::from_millis(100)).connect().await.unwrap();
    let keys: Vec<Key> = (0..100_u64).map(key).collect();
    for (value, key) in (0_u64..).zip(&keys) {
        eventually("a write", async || store.set(never(key, value, Ticket::unconditional())).await.ok()).await;
    }
    server.stop();
    let started = Instant::now();
    for key in &keys[..5] {
        assert_eq!(store.get(key).await.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert_eq!(store.set(never(&keys[0], 0, Ticket::unconditional())).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(store.del(&key("other")).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(store.lease(&keys[0]).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(store.clear().await.unwrap_err().kind(), ErrorKind::Timeout);
    for result in store.get_many(&keys).await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert!(started.elapsed() >= Duration::from_secs(1), "ten calls of 100 ms each");
    assert!(started.elapsed() < HANGING, "{:?}", started.elapsed());
    server.resume();
    // The answers to what timed out arrive now, in front of those to what is asked next.
    for (value, key) in (0_u64..).zip(&keys) {
        let got = eventually("an answer", async || store.get(key).await.ok()).await;
        assert_eq!(got.unwrap().into_value().unwrap(), value);
    }
}

#[tokio::test]
async fn a_killed_server_is_unavailable_and_the_store_recovers_by_itself() {
    let mut server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    for url in [server.url(), format!("{}?protocol=resp3", server.url()), proxy.url()] {
        // A refused connection is known long before the deadline, also on a busy machine.
        let builder = RedisStore::<u64>::builder(url).namespace("n").connections(2).timeout(HANGING);
        let store = builder.connect().await.unwrap();
        recovered(&store).await;
        for _ in 0..2 {
            server.kill();
            for _ in 0..20 {
                let started = Instant::now();
                let error = store.get(&key(1)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert!(started.elapsed() < HANGING);
                let error = store.set(living(&key(1), 1, Duration::from_secs(60))).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                let error = store.lease(&key(1)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
            server.restart();
            recovered(&store).await;
            // The scripts are unknown to the new server, and its clock to us.
            let ticket = store.lease(&key(2)).await.unwrap();
            assert!(store.fill(never(&key(2), 2, ticket)).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_is_an_error_and_never_a_part_of_a_value() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let store: RedisStore<Vec<u64>> = RedisStore::builder(proxy.url()).namespace("n").connect().await.unwrap();
    let value: Vec<u64> = (0..100).collect();
    store.set(never(&key(1), value.clone(), Ticket::unconditional())).await.unwrap();
    for bytes in [1, 3, 6, 7, 40, 49, 500, 840] {
        eventually("the recovery", async || store.get(&key(1)).await.ok()).await;
        proxy.cut_after(bytes);
        let error = store.get(&key(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "after {bytes}: {error:?}");
        let got = eventually("the recovery", async || store.get(&key(1)).await.ok()).await;
        assert_eq!(got.unwrap().into_value().unwrap(), value);
    }
}

#[tokio::test]
async fn a_connection_that_was_forgotten_on_the_way_is_replaced() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let store: RedisStore<u64> =
        RedisStore::builder(proxy.url()).namespace("n").timeout(Duration::from_millis(50)).connect().await.unwrap();
    recovered(&store).await;
    proxy.forget();
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Timeout);
    recovered(&store).await;
    assert!(proxy.connections() >= 2);
}

/// What was sent in vain and lingers on the way does not arrive after what a newer connection
/// sends.
#[tokio::test]
async fn a_late_write_of_a_replaced_connection_does_not_arrive() {
    let server = RedisServer::start().await;
    let lingering = Duration::from_secs(2);
    for protocol in ["", "?protocol=resp3"] {
        let proxy = CutProxy::start(server.port()).await;
        let url = format!("{}{protocol}", proxy.url());
        let store: RedisStore<u64> =
            RedisStore::builder(url).namespace("n").timeout(Duration::from_millis(50)).connect().await.unwrap();
        recovered(&store).await;
        let connections = proxy.connections();
        proxy.delay(lingering, Duration::ZERO);
        let started = Instant::now();
        let late = store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);
        proxy.delay(Duration::ZERO, Duration::ZERO);
        recovered(&store).await;
        assert!(proxy.connections() > connections, "it was replaced");
        eventually("a removal", async || store.del(&key(1)).await.ok()).await;
        assert!(started.elapsed() < lingering, "too slow a machine for this test");
        tokio::time::sleep(lingering.saturating_sub(started.elapsed()) + Duration::from_millis(200)).await;
        let got = eventually("an answer", async || store.get(&key(1)).await.ok()).await;
        assert_eq!(got.and_then(cache_core::Entry::into_value), None);
    }
}

#[tokio::test]
async fn an_application_starts_while_redis_is_down() {
    let mut server = RedisServer::start().await;
    server.kill();
    let eager = RedisConnection::builder(server.url()).connect().await;
    assert_eq!(eager.unwrap_err().kind(), ErrorKind::Unavailable);
    let store: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").connect_lazy().unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    server.restart();
    recovered(&store).await;
    store.set(living(&key(1), 1, Duration::from_secs(60))).await.unwrap();
    let left = integration_tests::remaining(&store.get(&key(1)).await.unwrap().unwrap());
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(40), "{left:?}");
}

#[tokio::test]
async fn a_server_that_refused_the_handshake_is_tried_again() {
    let server = RedisServer::start_with(&["--maxclients", "1"]).await;
    let occupant = {
        let occupant = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        std::io::Write::write_all(&mut &occupant, b"*1\r\n$4\r\nPING\r\n").unwrap();
        let mut pong = [0; 7];
        std::io::Read::read_exact(&mut &occupant, &mut pong).unwrap();
        occupant
    };
    let store: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").connect_lazy().unwrap();
    for _ in 0..3 {
        let error = store.get(&key(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    drop(occupant);
    recovered(&store).await;
}

#[tokio::test]
async fn a_password_that_is_put_right_is_noticed() {
    let server = RedisServer::start().await;
    let url = server.url_as("app:right", "");
    let store: RedisStore<u64> = RedisStore::builder(url).namespace("n").connect_lazy().unwrap();
    for _ in 0..3 {
        let error = store.get(&key(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    }
    server.cli(&["ACL", "SETUSER", "app", "on", ">right", "~*", "+@all"]);
    recovered(&store).await;
}

#[tokio::test]
async fn an_address_that_never_answers_is_a_timeout() {
    // It listens and says nothing.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let started = Instant::now();
    let error = RedisConnection::builder(url).timeout(Duration::from_millis(50)).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(started.elapsed() < HANGING);
}

#[tokio::test]
async fn what_answers_without_being_a_redis_is_an_error() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("redis://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let serving = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client, answer).await;
        }
    });
    let error = RedisConnection::builder(url).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    serving.abort();
}

#[tokio::test]
async fn dropped_calls_leave_nothing_behind() {
    let server = RedisServer::start().await;
    let store: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    let key = key(1);
    for round in 0..10_u64 {
        server.stop();
        for sent in [false, true].repeat(10) {
            // Begun, then dropped before or after it is on its way.
            let mut writing = std::pin::pin!(store.set(never(&key, round, Ticket::unconditional())));
            assert!(poll_once(writing.as_mut()).await.is_none());
            let mut reading = std::pin::pin!(store.get(&key));
            assert!(poll_once(reading.as_mut()).await.is_none());
            if sent {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        server.resume();
        eventually("a write", async || store.set(never(&key, 1_000 + round, Ticket::unconditional())).await.ok()).await;
        let got = eventually("a read", async || store.get(&key).await.ok()).await;
        assert_eq!(got.unwrap().into_value().unwrap(), 1_000 + round, "a dropped write took effect after a later one");
    }
    assert_eq!(server.cli(&["DBSIZE"]), "1");
}

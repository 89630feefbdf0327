//! What `SqlStore` does while its database is gone, hangs or is busy, and afterwards.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use cache_core::{ErrorKind, Key, Store as _, Ticket};
use integration_tests::{DatabaseServer, Product, SqlKind, SqlPlace, all, eventually, key, living, never, poll_once};
use store_sql::{DefaultCodec, SqlStore, SqlStoreBuilder};

/// Far beyond any deadline here: how long a call may take on a busy machine before it counts as
/// hanging.
const HANGING: Duration = Duration::from_secs(20);

fn builder(url: String) -> SqlStoreBuilder<u64, DefaultCodec> {
    SqlStore::builder(url).namespace("n").create_table().sweep_every(None)
}

async fn recovered(store: &SqlStore<u64>) {
    eventually("the recovery", async || store.set(never(&key("r"), 7, Ticket::unconditional())).await.ok()).await;
    let got = eventually("the recovery", async || store.get(&key("r")).await.ok()).await;
    assert_eq!(got.unwrap().into_value().unwrap(), 7);
}

/// Each on a server of its own.
macro_rules! on_each_server {
    ($($name:ident),* $(,)?) => {
        on_each_server! { @server mysql MariaDb $($name)* }
        on_each_server! { @server postgres Postgres $($name)* }
    };
    (@server $module:ident $server:ident $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(integration_tests::$server::start().await).await;
                }
            )*
        }
    };
}

on_each_server!(
    a_hanging_server_is_a_timeout,
    a_killed_server_is_unavailable_and_the_store_recovers,
    an_application_starts_while_the_database_is_down,
    dropped_calls_take_no_effect_after_later_writes,
);

async fn a_hanging_server_is_a_timeout(server: DatabaseServer<impl Product>) {
    let store = builder(server.url()).connect().await.unwrap();
    let quick = SqlStore::<u64>::builder_on(&store).namespace("n").sweep_every(None);
    let quick = quick.timeout(Duration::from_millis(300)).connect().await.unwrap();
    let keys: Vec<Key> = (0..20_u64).map(key).collect();
    all(store.set_many(keys.iter().map(|key| never(key, 1, Ticket::unconditional())).collect()).await);
    server.stop();
    let started = Instant::now();
    assert_eq!(quick.get(&keys[0]).await.unwrap_err().kind(), ErrorKind::Timeout);
    let write = || never(&keys[0], 2, Ticket::unconditional());
    assert_eq!(quick.set(write()).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(quick.fill(write()).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(quick.del(&keys[0]).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(quick.lease(&keys[0]).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(quick.clear().await.unwrap_err().kind(), ErrorKind::Timeout);
    for result in quick.get_many(&keys).await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
    }
    // More of them than there are connections.
    let many = (0..15)
        .map(|_| (quick.clone(), keys[0].clone()))
        .map(|(store, key)| tokio::spawn(async move { store.get(&key).await.unwrap_err().kind() }));
    for call in many.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), ErrorKind::Timeout);
    }
    assert!(started.elapsed() >= Duration::from_millis(8 * 300), "eight calls of 300 ms each");
    assert!(started.elapsed() < HANGING, "{:?}", started.elapsed());
    server.resume();
    recovered(&store).await;
    // A write without an answer has been rolled back or was never begun.
    for found in all(store.get_many(&keys).await) {
        assert_eq!(found.unwrap().into_value().unwrap(), 1);
    }
}

async fn a_killed_server_is_unavailable_and_the_store_recovers(mut server: DatabaseServer<impl Product>) {
    let store = builder(server.url()).timeout(Duration::from_secs(10)).connect().await.unwrap();
    // Several connections, all of which break.
    let writes = (0..8_u64).map(|at| {
        let store = store.clone();
        tokio::spawn(async move { store.set(living(&key(at), at, Duration::from_secs(600))).await.unwrap() })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    // Restarted between two calls, it is not noticed.
    server.kill();
    server.restart();
    assert_eq!(store.get(&key(3)).await.unwrap().unwrap().into_value().unwrap(), 3);
    store.set(never(&key(3), 4, Ticket::unconditional())).await.unwrap();
    server.kill();
    for _ in 0..3 {
        let started = Instant::now();
        let error = store.get(&key(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let error = store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let error = store.lease(&key(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        // It knocks, and does not wait for the deadline.
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
    server.restart();
    recovered(&store).await;
    assert_eq!(store.get(&key(3)).await.unwrap().unwrap().into_value().unwrap(), 4);
    let ticket = store.lease(&key("new")).await.unwrap();
    assert!(store.fill(never(&key("new"), 2, ticket)).await.unwrap());
}

async fn an_application_starts_while_the_database_is_down(mut server: DatabaseServer<impl Product>) {
    builder(server.url()).connect().await.unwrap();
    server.kill();
    let error = builder(server.url()).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let builder = SqlStore::<u64>::builder(server.url()).namespace("n").sweep_every(None);
    let store = builder.connect_lazy().unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    server.restart();
    recovered(&store).await;
}

async fn dropped_calls_take_no_effect_after_later_writes(server: DatabaseServer<impl Product>) {
    let store = builder(server.url()).max_connections(40).connect().await.unwrap();
    let key = key(1);
    recovered(&store).await;
    for round in 0..6_u64 {
        // At whatever point each has come to when the server stops.
        let mut writes: Vec<_> = (0..12)
            .map(|at| {
                let (store, key) = (store.clone(), key.clone());
                tokio::spawn(async move {
                    if at % 3 == 0 {
                        let _ = store.del(&key).await;
                    } else {
                        let _ = store.set(never(&key, round, Ticket::unconditional())).await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(700 * round)).await;
        server.stop();
        for write in &writes {
            write.abort();
        }
        for write in writes.drain(..) {
            let _ = write.await;
        }
        let mut writing = std::pin::pin!(store.set(never(&key, round, Ticket::unconditional())));
        assert!(poll_once(writing.as_mut()).await.is_none());
        server.resume();
        let last = 1_000 + round;
        eventually("a write", async || store.set(never(&key, last, Ticket::unconditional())).await.ok()).await;
        for _ in 0..20 {
            let got = eventually("a read", async || store.get(&key).await.ok()).await;
            assert_eq!(
                got.and_then(cache_core::Entry::into_value),
                Some(last),
                "a dropped write came after a later one"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// With a lock that another holds; how long it holds depends on no clock.
async fn locked(place: &SqlPlace) -> (SqlStore<u64>, Pin<Box<dyn Future<Output = ()> + Send>>) {
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
    let store: SqlStore<u64> =
        place.builder().max_connections(2).timeout(Duration::from_millis(600)).connect().await.unwrap();
    store.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
    let table = &place.table;
    macro_rules! lock {
        ($connection:ty, $begin:expr) => {{
            let mut wire = <$connection>::connect(&place.url).await.unwrap();
            wire.execute(sqlx::raw_sql(AssertSqlSafe(format!("{}; UPDATE {table} SET write_id = write_id", $begin))))
                .await
                .unwrap();
            Box::pin(async move {
                wire.execute(sqlx::raw_sql("ROLLBACK")).await.unwrap();
            })
        }};
    }
    let release: Pin<Box<dyn Future<Output = ()> + Send>> = match place.kind {
        SqlKind::MySql => lock!(sqlx::MySqlConnection, "START TRANSACTION"),
        SqlKind::Postgres => lock!(sqlx::PgConnection, "BEGIN"),
        SqlKind::Sqlite => lock!(sqlx::SqliteConnection, "BEGIN IMMEDIATE"),
    };
    (store, release)
}

mod exhaustion {
    use super::*;

    integration_tests::on_each_database!(a_locked_row_and_an_exhausted_pool_are_timeouts);

    async fn a_locked_row_and_an_exhausted_pool_are_timeouts(place: SqlPlace) {
        let (store, release) = locked(&place).await;
        let set = |store: SqlStore<u64>| async move {
            store.set(never(&key("k"), 2, Ticket::unconditional())).await.unwrap_err().kind()
        };
        let calls: Vec<_> = (0..5).map(|_| tokio::spawn(set(store.clone()))).collect();
        for call in calls {
            let kind = call.await.unwrap();
            // SQLite says itself that it is busy, if its patience ends before the deadline.
            let busy = place.kind == SqlKind::Sqlite && kind == ErrorKind::Unavailable;
            assert!(kind == ErrorKind::Timeout || busy, "{kind:?}");
        }
        release.await;
        recovered(&store).await;
        assert_eq!(store.get(&key("k")).await.unwrap().unwrap().into_value().unwrap(), 1);
    }
}

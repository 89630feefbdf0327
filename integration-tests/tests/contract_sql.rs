//! The contract of `Store`, kept by the store on a real MariaDB, a real PostgreSQL and SQLite in a
//! file.

use std::{sync::OnceLock, time::Duration};

use cache_core::{Key, SharedClock, SystemClock, testkit::Harness};
use integration_tests::{SqlKind, SqlPlace};
use store_sql::SqlStore;
use tokio::runtime::Runtime;

/// A table of its own for each clause.
struct OnSql {
    kind: SqlKind,
    runtime: Runtime,
    place: OnceLock<SqlPlace>,
}

impl OnSql {
    fn new(kind: SqlKind) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { kind, runtime, place: OnceLock::new() }
    }
}

impl Harness for OnSql {
    type Store = SqlStore<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        self.runtime.block_on(test)
    }

    fn clock(&self) -> SharedClock {
        SystemClock::shared()
    }

    async fn store(&self) -> Self::Store {
        let place = self.place.get_or_init(|| {
            std::thread::scope(|scope| {
                let start = || Runtime::new().unwrap().block_on(SqlPlace::of(self.kind));
                scope.spawn(start).join().unwrap()
            })
        });
        place.builder().connect().await.unwrap()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn oversized(&self) -> Option<String> {
        // A record holds at most 16 MiB.
        Some("v".repeat(17 << 20))
    }

    async fn corrupt(&self, _store: &Self::Store, key: &Key) -> bool {
        let place = self.place.get().expect("made with the store");
        let junk = place.bytes(b"\x07junk");
        let id = place.bytes(key.as_bytes());
        place.execute(&format!("UPDATE {{t}} SET value = {junk} WHERE namespace = 'n' AND id = {id}")).await;
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["app:".to_owned(), "hunter2".to_owned()]
    }
}

mod mysql {
    cache_core::store_contract!(super::OnSql::new(integration_tests::SqlKind::MySql));
}

mod postgres {
    cache_core::store_contract!(super::OnSql::new(integration_tests::SqlKind::Postgres));
}

mod sqlite {
    cache_core::store_contract!(super::OnSql::new(integration_tests::SqlKind::Sqlite));
}

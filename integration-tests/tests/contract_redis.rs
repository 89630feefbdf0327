//! The contract of `Store`, kept by the store on a real Redis.

use std::{sync::OnceLock, time::Duration};

use cache_core::{Key, SharedClock, SystemClock, testkit::Harness};
use integration_tests::{RedisServer, documented_permissions};
use store_redis::RedisStore;
use tokio::runtime::Runtime;

/// A server of its own for each clause.
struct OnRedis {
    plain: bool,
    runtime: Runtime,
    server: OnceLock<RedisServer>,
}

const USER: &str = "app";
const PASSWORD: &str = "hunter2";

impl OnRedis {
    fn with_records() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { plain: false, runtime, server: OnceLock::new() }
    }

    fn with_plain_values() -> Self {
        Self { plain: true, ..Self::with_records() }
    }

    fn server(&self) -> &RedisServer {
        self.server.get().expect("started with the store")
    }
}

impl Harness for OnRedis {
    type Store = RedisStore<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        self.runtime.block_on(test)
    }

    fn clock(&self) -> SharedClock {
        SystemClock::shared()
    }

    async fn store(&self) -> Self::Store {
        let password = format!(">{PASSWORD}");
        // The documented permissions are enough for every clause.
        let permissions = documented_permissions(self.plain);
        let mut user = vec!["--user", USER, "on", &password, "~contract:*", "resetchannels"];
        user.extend(permissions.iter().map(String::as_str));
        let server = RedisServer::start_with(&user).await;
        let url = server.url_as(&format!("{USER}:{PASSWORD}"), "");
        self.server.set(server).expect("one store per clause");
        let builder = RedisStore::builder(url).namespace("contract");
        let builder = if self.plain { builder.plain() } else { builder };
        builder.connect().await.unwrap()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn oversized(&self) -> Option<String> {
        // A record holds at most 16 MiB; a plain value has no limit but that of Redis.
        (!self.plain).then(|| "v".repeat(17 << 20))
    }

    async fn corrupt(&self, _store: &Self::Store, key: &Key) -> bool {
        let name = [b"contract:", key.as_bytes()].concat();
        self.server().raw(&[b"SET", &name, b"\x07junk"]) == b"OK"
    }

    fn secrets(&self) -> Vec<String> {
        vec![format!("{USER}:"), PASSWORD.to_owned()]
    }
}

mod records {
    cache_core::store_contract!(super::OnRedis::with_records());
}

mod plain {
    cache_core::store_contract!(super::OnRedis::with_plain_values());
}

//! The contract of `Store`, kept by the store on a Redis Cluster by a user with exactly the documented
//! permissions.

use std::{sync::OnceLock, time::Duration};

use cache_core::{Key, SharedClock, SystemClock, testkit::Harness};
use integration_tests::{RedisCluster, documented_cluster_permissions, documented_permissions};
use store_redis::{RedisStore, RedisTarget};
use tokio::runtime::Runtime;

/// A cluster of its own for each clause.
struct OnCluster {
    plain: bool,
    runtime: Runtime,
    cluster: OnceLock<RedisCluster>,
}

const USER: &str = "app";
const PASSWORD: &str = "hunter2";

impl OnCluster {
    fn with_records() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { plain: false, runtime, cluster: OnceLock::new() }
    }

    fn with_plain_values() -> Self {
        Self { plain: true, ..Self::with_records() }
    }
}

impl Harness for OnCluster {
    type Store = RedisStore<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        self.runtime.block_on(test)
    }

    fn clock(&self) -> SharedClock {
        SystemClock::shared()
    }

    async fn store(&self) -> Self::Store {
        let password = format!(">{PASSWORD}");
        let permissions = [documented_permissions(self.plain), documented_cluster_permissions()].concat();
        let mut user = vec!["--user", USER, "on", &password, "~contract:*", "resetchannels"];
        user.extend(permissions.iter().map(String::as_str));
        let cluster = RedisCluster::start_with(3, 0, &user).await;
        let login = format!("redis://{USER}:{PASSWORD}@");
        let urls: Vec<String> = cluster.urls().iter().map(|url| url.replace("redis://", &login)).collect();
        self.cluster.set(cluster).expect("one store per clause");
        let builder = RedisStore::builder(RedisTarget::cluster(urls)).namespace("contract");
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
        let cluster = self.cluster.get().expect("started with the store");
        let name = [b"contract:", key.as_bytes()].concat();
        cluster.node(cluster.owner_of(cluster.slot_of(&name))).raw(&[b"SET", &name, b"\x07junk"]) == b"OK"
    }

    fn secrets(&self) -> Vec<String> {
        vec![format!("{USER}:"), PASSWORD.to_owned()]
    }
}

mod records {
    cache_core::store_contract!(super::OnCluster::with_records());
}

mod plain {
    cache_core::store_contract!(super::OnCluster::with_plain_values());
}

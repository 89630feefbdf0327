//! The alerts of `ops/` on a real Prometheus: each fires in a real fault and ends after it.

mod exposed;
mod faults;
mod prometheus;
mod support;

use std::{collections::BTreeSet, net::SocketAddr};

use integration_tests::{RedisServer, promtool};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    prometheus::{Prometheus, path, shipped, until},
    support::{Instance, sqlite},
};

#[test]
fn the_files_are_valid() {
    for (arguments, file) in
        [(["check", "rules"], "prometheus/alerts.yml"), (["check", "config"], "prometheus/prometheus.yml")]
    {
        promtool(&arguments, &path(file));
    }
}

#[test]
fn the_readme_lists_each_alert() {
    let names = |text: &str, before: &str, after: char| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(before));
        lines.filter_map(|line| Some(line.split(after).next()?.to_owned())).collect()
    };
    let alerts = names(&shipped("prometheus/alerts.yml"), "- alert: ", ' ');
    assert!(!alerts.is_empty());
    assert_eq!(names(&shipped("README.md"), "| `", '`'), alerts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_alert_fires_in_a_fault_and_ends_after_it() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let settings = [("DATABASE_URL", &sqlite(&directory)[..]), ("REDIS_URL", &redis.url())];
    let (instance, other) = (Instance::start(&settings).await, Instance::start(&settings).await);
    let exposed = exposed::expose().await;
    let prometheus = Prometheus::start(&[("users", &[instance.address, other.address]), ("staged", &[exposed])]).await;
    let loads = [load(instance.address), load(other.address)];
    let addresses = [instance.address, other.address].map(|address| address.to_string());
    until("a load", async || {
        let hits = prometheus.query(r#"rate(cache_requests_total{tier="redis", result="hit"}[2s]) > 0"#).await;
        (hits.len() < 2).then(|| format!("{hits:?}"))
    })
    .await;
    until("a time without alerts", async || {
        let firing = prometheus.firing().await;
        (!firing.is_empty()).then(|| format!("{firing:?}"))
    })
    .await;

    let of_service = async {
        redis_hangs(&prometheus, &redis, &addresses).await;
        redis_is_full(&prometheus, &redis).await;
        connections_are_cut(&prometheus, &redis, &addresses).await;
        the_table_is_missing(&prometheus, &directory).await;
        an_instance_ends(&prometheus, other, &settings).await;
    };
    let of_chains = async {
        tokio::join!(
            faults::bursts_of_backfills(&prometheus),
            faults::writes_that_are_not_announced(&prometheus),
            faults::keys_that_are_nowhere(&prometheus),
        )
    };
    tokio::join!(of_service, of_chains);
    assert_eq!(prometheus.not_staged().await, [""; 0]);
    drop(loads);
}

/// Requests for a service, until they are dropped.
fn load(address: SocketAddr) -> Child {
    let mut load = Command::new(env!("CARGO_BIN_EXE_load"));
    load.args(["--address", &address.to_string(), "--seconds", "300", "--users", "2000", "--rate", "200"]);
    load.kill_on_drop(true).spawn().expect("a load")
}

const REDIS: (&str, &str) = ("tier", "redis");

async fn redis_hangs(prometheus: &Prometheus, redis: &RedisServer, addresses: &[String; 2]) {
    redis.stop();
    for address in addresses {
        let instance = ("instance", &address[..]);
        prometheus.fires("CacheTierDown", &[instance, REDIS]).await;
        prometheus.fires("CacheStreamLost", &[instance]).await;
        prometheus.fires("CachePendingDeletes", &[instance, REDIS]).await;
    }
    tracks(prometheus, 0.0).await;
    redis.resume();
    prometheus.resolves("CacheTierDown", &[]).await;
    prometheus.resolves("CacheStreamLost", &[]).await;
    prometheus.resolves("CachePendingDeletes", &[]).await;
    tracks(prometheus, 2.0).await;
}

/// Waits until so many instances hear of changes by client tracking.
async fn tracks(prometheus: &Prometheus, instances: f64) {
    until("the mode", async || {
        let modes = prometheus.query(r#"cache_coherence_mode{cache="users", mode="tracking"}"#).await;
        let now: f64 = modes.iter().map(|(_, is_now)| is_now).sum();
        (modes.len() != 2 || (now - instances).abs() > 0.0).then(|| format!("{modes:?}"))
    })
    .await;
}

/// Redis refuses to store.
async fn redis_is_full(prometheus: &Prometheus, redis: &RedisServer) {
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    prometheus.fires("CacheTierFailing", &[REDIS]).await;
    prometheus.fires("CacheBackfillsFailing", &[("cache", "users")]).await;
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    prometheus.resolves("CacheTierFailing", &[]).await;
    prometheus.resolves("CacheBackfillsFailing", &[]).await;
}

/// Redis closes the connections of the streams as soon as they are there.
async fn connections_are_cut(prometheus: &Prometheus, redis: &RedisServer, addresses: &[String; 2]) {
    for epochs in 0..8 {
        for class in ["normal", "pubsub"] {
            redis.cli(&["CLIENT", "KILL", "TYPE", class]);
        }
        for address in addresses {
            let query = format!("cache_coherence_epochs_total{{instance={address:?}}}");
            until("a new stream", async || {
                let begun = prometheus.sum(&query).await;
                (begun < f64::from(epochs)).then(|| format!("{begun}"))
            })
            .await;
        }
    }
    for address in addresses {
        prometheus.fires("CacheStreamUnstable", &[("instance", address)]).await;
    }
    prometheus.resolves("CacheStreamUnstable", &[]).await;
}

async fn the_table_is_missing(prometheus: &Prometheus, directory: &TempDir) {
    let mut database = SqliteConnection::connect(&sqlite(directory)).await.unwrap();
    database.execute("ALTER TABLE users RENAME TO users_elsewhere").await.unwrap();
    prometheus.fires("CacheLoadsFailing", &[("cache", "users")]).await;
    database.execute("ALTER TABLE users_elsewhere RENAME TO users").await.unwrap();
    prometheus.resolves("CacheLoadsFailing", &[]).await;
}

async fn an_instance_ends(prometheus: &Prometheus, mut instance: Instance, settings: &[(&str, &str)]) {
    let address = instance.address.to_string();
    instance.terminate();
    assert_eq!(instance.ended().await.code(), Some(0), "{}", instance.log());
    prometheus.fires("CacheMetricsMissing", &[("instance", &address)]).await;
    let _again = Instance::start(&[&[("LISTEN", &address[..])], settings].concat()).await;
    prometheus.resolves("CacheMetricsMissing", &[]).await;
}

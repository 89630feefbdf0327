//! The dashboard of `ops/` on a real Prometheus, and totals in Prometheus that are those of the caches.

mod exposed;
mod prometheus;
mod support;
mod totals;

use std::{collections::BTreeMap, env, time::Duration};

use integration_tests::RedisServer;
use serde_json::Value;
use tokio::process::Command;

use crate::{
    prometheus::{Prometheus, shipped, until, whole},
    support::{Instance, sqlite},
    totals::Counted,
};

/// How long the load lasts. `CACHE_TEST_LOAD_SECONDS` sets another time.
fn load_time() -> Duration {
    let seconds = env::var("CACHE_TEST_LOAD_SECONDS").map_or(10, |seconds| seconds.parse().expect("a number"));
    Duration::from_secs(seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_panel_has_data_and_totals_are_exact() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let settings = [("DATABASE_URL", &sqlite(&directory)[..]), ("REDIS_URL", &redis.url())];
    let instances = [Instance::start(&settings).await, Instance::start(&settings).await];
    let addresses = instances.each_ref().map(|instance| instance.address);
    let exposed = exposed::expose().await;
    let prometheus = Prometheus::start(&[("users", &addresses), ("totals", &[exposed])]).await;

    let names = addresses.map(|address| address.to_string()).join("|");
    let chain = Counted::new(&redis).await;
    let (one, other, (), ()) = tokio::join!(
        load(&instances[0]),
        load(&instances[1]),
        chain.load(load_time()),
        each_panel_has_data(&prometheus, &names),
    );
    for (instance, responses) in instances.iter().zip([one, other]) {
        the_service_has_counted(&prometheus, &instance.address.to_string(), &responses).await;
    }
    chain.totals_are_in(&prometheus).await;
}

/// Fails if a query of a panel or of a variable returns nothing, or no number.
async fn each_panel_has_data(prometheus: &Prometheus, instances: &str) {
    let dashboard: Value = serde_json::from_str(&shipped("grafana/cache.json")).unwrap();
    let set = |query: &str| {
        let set = query.replace("$__rate_interval", "5s").replace("$job", "users").replace("$cache", "users");
        let set = set.replace("$instance", &instances.replace('.', r"\\."));
        assert!(!set.contains('$'), "a variable that the test does not set: {query}");
        set
    };
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let targets = panels.flat_map(|panel| {
        assert_ne!(panel["description"].as_str().unwrap_or_default(), "", "{}", panel["title"]);
        let targets = panel["targets"].as_array().unwrap().iter();
        targets.map(|target| (panel["title"].to_string(), set(target["expr"].as_str().unwrap())))
    });
    let mut targets: Vec<(String, String)> = targets.collect();
    assert!(!targets.is_empty());
    until("data for each panel", async || {
        let mut empty = Vec::new();
        for (title, query) in targets.drain(..) {
            if !prometheus.query(&query).await.iter().any(|(_, value)| value.is_finite()) {
                empty.push((title, query));
            }
        }
        targets = empty;
        (!targets.is_empty()).then(|| format!("{targets:#?}"))
    })
    .await;

    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables: Vec<&Value> = variables.filter(|variable| variable["type"] == "query").collect();
    assert_eq!(variables.len(), 3);
    for variable in variables {
        let query = set(variable["definition"].as_str().unwrap());
        let arguments = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
        let (selector, label) = arguments.and_then(|arguments| arguments.rsplit_once(", ")).expect("label_values");
        let mut values = prometheus.values(selector, label).await;
        if label == "job" {
            values.retain(|job| job == "users");
        }
        let mut expected: Vec<&str> = if label == "instance" { instances.split('|').collect() } else { vec!["users"] };
        expected.sort_unstable();
        assert_eq!(values, expected, "{query}");
    }
}

/// The responses that the load has counted, by status.
async fn load(instance: &Instance) -> BTreeMap<u16, u64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.args(["--address", &instance.address.to_string(), "--seconds", &load_time().as_secs().to_string()]);
    command.args(["--users", "500", "--workers", "8", "--rate", "300"]).kill_on_drop(true);
    let output = command.output().await.expect("a load");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let counts = text.split_once('{').and_then(|(_, rest)| rest.trim().strip_suffix('}')).expect("counts");
    let counts = counts.split(", ").map(|count| count.split_once(": ").expect("a status and a count"));
    counts.map(|(status, count)| (status.parse().expect("a status"), count.parse().expect("a count"))).collect()
}

/// Compares what an instance has counted with the requests that were sent to it.
async fn the_service_has_counted(prometheus: &Prometheus, instance: &str, responses: &BTreeMap<u16, u64>) {
    let series = |metric: &str, labels: &str| format!("{metric}{{instance={instance:?}, {labels}}}");
    let requests = |labels: &str| series("http_request_duration_seconds_count", labels);
    // The load counts one response for a user who is missing and is created.
    let counted = format!(
        "sum by (status) ({} or {})",
        requests(r#"status!="404""#),
        requests(r#"method="DELETE", status="404""#)
    );
    until("the totals of the service", async || {
        let shown = prometheus.query(&counted).await.into_iter();
        let shown: BTreeMap<u16, u64> =
            shown.map(|(labels, value)| (labels["status"].parse().expect("a status"), whole(value))).collect();
        println!("{instance}: responses {responses:?}");
        (shown != *responses).then(|| format!("{instance}: the load counts {responses:?}, Prometheus shows {shown:?}"))
    })
    .await;
    // Each write deletes its user from the cache once.
    let (writes, deleted) = (requests(r#"method=~"PUT|DELETE""#), series("cache_writes_total", r#"event="deleted""#));
    until("the totals of the cache", async || {
        let (writes, deleted) = (whole(prometheus.sum(&writes).await), whole(prometheus.sum(&deleted).await));
        println!("{instance}: {writes} writes, {deleted} deleted from the cache");
        (writes == 0 || writes != deleted).then(|| format!("{instance}: {writes} writes, {deleted} deleted"))
    })
    .await;
}

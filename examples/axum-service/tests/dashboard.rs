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
    prometheus::{Prometheus, is_measured, shipped, until, whole},
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
    prometheus.scrape("users").await;
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

/// The number of responses by method and status.
type Responses = BTreeMap<(String, u16), u64>;

/// Loads an instance, and returns what the load has counted.
async fn load(instance: &Instance) -> Responses {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.args(["--address", &instance.address.to_string(), "--seconds", &load_time().as_secs().to_string()]);
    command.args(["--users", "500", "--workers", "8", "--rate", "300"]).kill_on_drop(true);
    let output = command.output().await.expect("a load");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().skip(1).map(|line| {
        let (response, count) = line.split_once(": ").expect("a count");
        let (method, status) = response.split_once(' ').expect("a status");
        ((method.to_owned(), status.parse().expect("a status")), count.parse().expect("a count"))
    });
    lines.collect()
}

/// Compares what an instance has counted with the requests that were sent to it.
async fn the_service_has_counted(prometheus: &Prometheus, instance: &str, responses: &Responses) {
    println!("{instance}: {responses:?}");
    // Each write deletes its user from the cache once. Those that failed in Redis, because the machine
    // is busy, do not count.
    let writes: u64 = responses.iter().filter(|((method, _), _)| method != "GET").map(|(_, count)| count).sum();
    assert!(writes > 0, "{responses:?}");
    let series = |metric: &str, labels: &str| format!("{metric}{{instance={instance:?}, {labels}}}");
    let deleted = series("cache_writes_total", r#"event="deleted""#);
    let failed = series("cache_tier_failures_total", r#"event=~"errors|skipped""#);
    until("the totals of the cache", async || {
        let [deleted, failed] = [prometheus.sum(&deleted).await, prometheus.sum(&failed).await].map(whole);
        let is_right = deleted <= writes && writes - deleted <= failed;
        (!is_right).then(|| format!("{instance}: {writes} writes, {deleted} deleted, {failed} failed"))
    })
    .await;
    let requests = format!("sum by (method, status) (http_request_duration_seconds_count{{instance={instance:?}}})");
    let shown = prometheus.query(&requests).await.into_iter();
    let shown: Responses = shown
        .map(|(labels, count)| ((labels["method"].clone(), labels["status"].parse().unwrap()), whole(count)))
        .collect();
    assert!(shown.keys().eq(responses.keys()), "the load counts {responses:?}, Prometheus shows {shown:?}");
    for (response, count) in responses {
        assert!(is_measured(shown[response], *count), "{response:?}: {count} were sent, {} are shown", shown[response]);
    }
}

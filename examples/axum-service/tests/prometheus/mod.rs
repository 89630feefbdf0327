//! A real Prometheus with the configuration and the alerts of `ops/`, sixty times as fast.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use integration_tests::PrometheusServer;
use serde_json::Value;
use tokio::time::sleep;

use crate::support::Client;

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// The time between two looks at Prometheus: that between two evaluations of the rules, since no one
/// is told of them.
const LOOK: Duration = Duration::from_millis(250);

/// A running Prometheus. It ends with this value.
pub(crate) struct Prometheus {
    server: PrometheusServer,
    /// The alerts that have fired and were resolved.
    staged: Mutex<BTreeSet<String>>,
}

/// A series of the result of a query: its labels, `__name__` among them, and its value.
pub(crate) type Series = (BTreeMap<String, String>, f64);

impl Prometheus {
    /// Starts a Prometheus that scrapes these jobs.
    pub(crate) async fn start(jobs: &[(&str, &[SocketAddr])]) -> Self {
        let configuration = sixty_times_as_fast(&shipped("prometheus/prometheus.yml"));
        let (settings, _) = configuration.split_once("scrape_configs:").expect("the jobs are at the end");
        let mut configuration = format!("{settings}scrape_configs:\n");
        for (job, targets) in jobs {
            let targets: Vec<String> = targets.iter().map(|target| format!("{:?}", target.to_string())).collect();
            let targets = targets.join(", ");
            write!(configuration, "  - job_name: {job}\n    static_configs:\n      - targets: [{targets}]\n")
                .expect("a string");
        }
        let alerts = sixty_times_as_fast(&shipped("prometheus/alerts.yml"));
        let files = [("prometheus.yml", configuration), ("alerts.yml", alerts)];
        Self { server: PrometheusServer::start(&files).await, staged: Mutex::default() }
    }

    async fn api(&self, path: &str) -> Value {
        let mut client = Client::connect(self.server.address()).await.expect("a connection");
        let response = client.send("GET", &format!("/api/v1/{path}"), None).await.expect("a response");
        let body: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(body["status"], "success", "{path}: {body}");
        body["data"].clone()
    }

    /// Returns what a query gives now.
    pub(crate) async fn query(&self, query: &str) -> Vec<Series> {
        let data = self.api(&format!("query?query={}", escaped(query))).await;
        let results = data["result"].as_array().expect("results").iter();
        let series = results.map(|result| {
            let labels = serde_json::from_value(result["metric"].clone()).expect("labels");
            (labels, result["value"][1].as_str().expect("a value").parse().expect("a number"))
        });
        series.collect()
    }

    /// Returns the sum of what a query gives now.
    pub(crate) async fn sum(&self, query: &str) -> f64 {
        self.query(query).await.iter().map(|(_, value)| value).sum()
    }

    /// Returns the values of a label of the series that a selector matches.
    pub(crate) async fn values(&self, selector: &str, label: &str) -> Vec<String> {
        let data = self.api(&format!("label/{label}/values?match[]={}", escaped(selector))).await;
        serde_json::from_value(data).expect("texts")
    }

    /// Waits until all targets of a job have been scraped after this call.
    pub(crate) async fn scrape(&self, job: &str) {
        let called = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs_f64();
        // Zero for a target that did not answer.
        let query = format!("min(timestamp(up{{job={job:?}}}) * up{{job={job:?}}})");
        until(&format!("a scrape of {job}"), async || {
            let last = self.query(&query).await;
            last.iter().all(|(_, at)| *at <= called).then(|| format!("{last:?}"))
        })
        .await;
    }

    /// Waits until an alert fires with these labels.
    pub(crate) async fn fires(&self, alert: &str, labels: &[(&str, &str)]) {
        until(&format!("{alert} {labels:?}"), async || {
            let active = self.active(alert, labels).await;
            let Some(firing) = active.iter().find(|active| active["state"] == "firing") else {
                return Some(format!("{active:?}"));
            };
            for name in ["summary", "description", "action"] {
                let text = firing["annotations"][name].as_str().unwrap_or_default();
                let is_rendered =
                    !text.is_empty() && !["{{", "<error", "<no value>"].iter().any(|bad| text.contains(bad));
                assert!(is_rendered, "{alert}, {name}: {text}");
            }
            println!("{alert}: {}", firing["annotations"]["summary"]);
            None
        })
        .await;
    }

    /// Waits until an alert that has fired is neither firing nor pending with these labels.
    pub(crate) async fn resolves(&self, alert: &str, labels: &[(&str, &str)]) {
        until(&format!("an end of {alert} {labels:?}"), async || {
            let active = self.active(alert, labels).await;
            (!active.is_empty()).then(|| format!("{active:?}"))
        })
        .await;
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).insert(alert.to_owned());
    }

    /// Returns the alerts of this name that are pending or firing with these labels.
    async fn active(&self, alert: &str, labels: &[(&str, &str)]) -> Vec<Value> {
        let data = self.api("alerts").await;
        let all = data["alerts"].as_array().expect("alerts").iter();
        let is_meant = |active: &&Value| {
            active["labels"]["alertname"] == alert
                && labels.iter().all(|(name, value)| active["labels"][name] == *value)
        };
        all.filter(is_meant).cloned().collect()
    }

    /// Returns the alerts that are firing.
    pub(crate) async fn firing(&self) -> Vec<Series> {
        self.query(r#"ALERTS{alertstate="firing"}"#).await
    }

    /// Returns the alerts that have not fired and been resolved.
    pub(crate) async fn not_staged(&self) -> Vec<String> {
        let data = self.api("rules?type=alert").await;
        let groups = data["groups"].as_array().expect("groups").iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
        let names = rules.map(|rule| rule["name"].as_str().expect("a name").to_owned());
        let names: BTreeSet<String> = names.collect();
        assert!(!names.is_empty());
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        names.difference(&staged).cloned().collect()
    }
}

/// Waits until `missing` returns nothing.
///
/// # Panics
///
/// If that takes too long, with what is missing.
pub(crate) async fn until(what: &str, mut missing: impl AsyncFnMut() -> Option<String>) {
    let started = Instant::now();
    while let Some(missing) = missing().await {
        assert!(started.elapsed() < PATIENCE, "{what} did not come about within {PATIENCE:?}: {missing}");
        sleep(LOOK).await;
    }
}

/// Returns the path of a file of `ops/`.
pub(crate) fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops").join(file)
}

/// Returns the text of a file of `ops/`.
pub(crate) fn shipped(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Divides each duration in a text, such as `5m`, by sixty, and changes nothing else.
fn sixty_times_as_fast(text: &str) -> String {
    let is_of_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split_inclusive(|character| !is_of_word(character));
    let faster = words.map(|word| {
        let end = word.find(|character| !is_of_word(character)).unwrap_or(word.len());
        let (word, separator) = word.split_at(end);
        let (number, unit) = word.split_at(word.len().saturating_sub(1));
        let seconds = ["s", "m", "h"].iter().position(|of| *of == unit).map(|power| [1, 60, 3600][power]);
        match (number.parse::<u32>(), seconds) {
            (Ok(number), Some(seconds)) => format!("{}ms{separator}", number * seconds * 1000 / 60),
            _ => format!("{word}{separator}"),
        }
    });
    faster.collect()
}

/// Returns a count that Prometheus shows.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
pub(crate) fn whole(count: f64) -> u64 {
    assert!(count.fract().abs() < f64::EPSILON && count >= 0.0, "{count} is no count");
    count as u64
}

/// Whether a histogram shows these events. The recorder loses a value that is recorded while it
/// collects those so far, if the recording thread is suspended in the wrong moment; that happens about
/// once in 100,000 (`AtomicBucket::clear_with` of metrics-util 0.20). Counters are exact.
pub(crate) fn is_measured(shown: u64, events: u64) -> bool {
    shown <= events && events - shown <= 1 + events / 10_000
}

/// Escapes a text for the query of a URL.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a string");
        }
        escaped
    })
}

#[test]
fn each_duration_is_divided_by_sixty() {
    let rule = "expr: up[5m] > 15 offset 1h # p15s, 3rd\nfor: 15s";
    assert_eq!(sixty_times_as_fast(rule), "expr: up[5000ms] > 15 offset 60000ms # p15s, 3rd\nfor: 250ms");
}

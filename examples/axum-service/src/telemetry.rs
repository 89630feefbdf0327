//! The log, and the metrics for Prometheus.

use metrics::{Unit, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::requests;

/// The upper limits of the buckets of all durations, in seconds. Redis answers in some 100 µs; the
/// limits around 250 ms and 2 s are those of the calls to Redis and of callers that wait for a load.
const BUCKETS: [f64; 14] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Logs to the standard error.
pub(crate) fn log() {
    let levels = Targets::new()
        .with_default(LevelFilter::INFO)
        // It warns of parameters of a URL that it does not know, with their values. One may be a password.
        .with_target("sqlx_postgres::options", LevelFilter::ERROR);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
}

/// Installs the recorder of metrics, and returns the handle that shows them.
pub(crate) fn record_metrics() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &BUCKETS)?
        .install_recorder()?;
    describe_histogram!(requests::DURATIONS, Unit::Seconds, "Requests for users, by method and status.");
    Ok(recorder)
}

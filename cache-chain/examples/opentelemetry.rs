//! The metrics of a chain in OpenTelemetry, by a recorder of the `metrics` facade that hands them on.
//!
//! `cargo run -p cache-chain --features metrics,quick-cache --example opentelemetry` prints them. In a
//! service, take the exporter of `opentelemetry-otlp` instead of the one that prints.

use std::{error::Error, io};

use cache_chain::{ChainCache, quick_cache::QuickCacheStore};
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_stdout::MetricExporter;

/// The metrics that are durations.
const DURATIONS: [&str; 2] = ["cache_tier_call_duration_seconds", "cache_load_duration_seconds"];

/// The upper limits of their buckets.
const SECONDS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Exports once a minute, and at its end.
    let provider = SdkMeterProvider::builder().with_periodic_exporter(MetricExporter::default()).build();
    let mut recorder = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(provider.meter("cache-chain")));
    // OpenTelemetry's own limits begin at 5 s, because they are meant for milliseconds.
    recorder.set_histogram_bounds_mut(DURATIONS.into_iter(), &SECONDS);
    // Before the first chain is built, which tells the recorder its metrics.
    metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;

    let users: ChainCache<String> =
        ChainCache::builder().tier(QuickCacheStore::new(10_000)?).metrics("users").build()?;
    for id in [1, 2, 1] {
        users.get_or_load(id, move || async move { Ok::<_, io::Error>(format!("user {id}")) }).await?;
    }
    // What has been counted since the last publication, at most a second ago.
    users.publish_metrics();
    provider.shutdown()?;
    Ok(())
}

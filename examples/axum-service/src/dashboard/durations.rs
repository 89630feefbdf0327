//! The durations of requests, of calls to tiers and of loads, from the histograms of the recorder.
//!
//! The recorder can only be asked for the text that Prometheus reads.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::requests;

/// The histograms so far, by what was measured.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Durations(BTreeMap<Measured, Histogram>);

/// What was measured.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(super) struct Measured {
    pub(super) kind: Kind,
    /// The method of a request, or the tier and the operation.
    pub(super) name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Request,
    Tier,
    Load,
}

/// The counts of durations.
#[derive(Clone, PartialEq, Debug, Default)]
struct Histogram {
    /// The upper limit of each bucket in seconds, and how many durations are not above it.
    buckets: Vec<(f64, u64)>,
    /// Those that ended with an error.
    failed: u64,
}

/// The durations of an interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    pub(super) measured: Measured,
    pub(super) per_second: f64,
    pub(super) failed_per_second: f64,
    /// The limit of the bucket of the median in milliseconds. `None` without a duration, or if it is
    /// above all limits.
    pub(super) median_ms: Option<f64>,
    /// The same for the 99th percentile.
    pub(super) p99_ms: Option<f64>,
}

impl Durations {
    /// Reads the text for Prometheus.
    pub(super) fn read(text: &str) -> Self {
        let mut durations = Self::default();
        for line in text.lines() {
            if let Some((measured, failed, bucket)) = parse(line) {
                durations.0.entry(measured).or_default().add(bucket, failed);
            }
        }
        durations
    }

    /// Summarizes the interval between two readings.
    pub(super) fn since(&self, before: &Self, interval: Duration) -> Vec<Summary> {
        let nothing = Histogram::default();
        let summaries = self.0.iter().map(|(measured, histogram)| {
            let before = before.0.get(measured).unwrap_or(&nothing);
            histogram.since(before).summary(measured.clone(), interval.as_secs_f64())
        });
        summaries.collect()
    }
}

impl Histogram {
    /// Adds the count of a bucket. Series that differ in their outcome alone are added up.
    fn add(&mut self, (limit, count): (f64, u64), failed: bool) {
        match self.buckets.iter_mut().find(|(of, _)| of.total_cmp(&limit).is_eq()) {
            Some((_, sum)) => *sum += count,
            None => self.buckets.push((limit, count)),
        }
        if failed && limit.is_infinite() {
            self.failed += count;
        }
    }

    fn since(&self, before: &Self) -> Self {
        let count_before = |at: usize| before.buckets.get(at).map_or(0, |(_, count)| *count);
        let buckets = self.buckets.iter().enumerate();
        Self {
            buckets: buckets.map(|(at, (limit, count))| (*limit, count.saturating_sub(count_before(at)))).collect(),
            failed: self.failed.saturating_sub(before.failed),
        }
    }

    fn summary(&self, measured: Measured, seconds: f64) -> Summary {
        Summary {
            measured,
            per_second: self.count() as f64 / seconds,
            failed_per_second: self.failed as f64 / seconds,
            median_ms: self.quantile_ms(0.5),
            p99_ms: self.quantile_ms(0.99),
        }
    }

    fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }

    fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let rank = self.count() as f64 * quantile;
        let (limit, _) = self.buckets.iter().find(|(_, count)| *count > 0 && *count as f64 >= rank)?;
        limit.is_finite().then_some(limit * 1000.0)
    }
}

/// Parses the line of a bucket, such as
/// `cache_tier_call_duration_seconds_bucket{tier="redis",operation="get",outcome="ok",le="0.001"} 7`.
fn parse(line: &str) -> Option<(Measured, bool, (f64, u64))> {
    let (name, rest) = line.split_once("_bucket{")?;
    let (labels, count) = rest.rsplit_once("} ")?;
    let label = |name: &str| {
        let mut labels = labels.split("\",").filter_map(|label| label.split_once("=\""));
        labels.find(|(of, _)| *of == name).map(|(_, value)| value.trim_end_matches('"'))
    };
    let (kind, name, failed) = match name {
        requests::DURATIONS => (Kind::Request, label("method")?.to_owned(), label("status")?.starts_with('5')),
        "cache_tier_call_duration_seconds" => {
            (Kind::Tier, format!("{} {}", label("tier")?, label("operation")?), label("outcome")? == "error")
        }
        "cache_load_duration_seconds" => (Kind::Load, "database".to_owned(), label("outcome")? == "error"),
        _ => return None,
    };
    // The last limit is "+Inf", which parses as well.
    Some((Measured { kind, name }, failed, (label("le")?.parse().ok()?, count.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ok: [u64; 3], failed: [u64; 3]) -> String {
        let series = [("ok", ok), ("error", failed)];
        let lines = series.into_iter().flat_map(|(outcome, counts)| {
            ["0.001", "0.01", "+Inf"].into_iter().zip(counts).map(move |(limit, count)| {
                let labels = format!(r#"tier="redis",operation="get",cache="users",outcome="{outcome}",le="{limit}""#);
                format!("cache_tier_call_duration_seconds_bucket{{{labels}}} {count}\n")
            })
        });
        format!("# TYPE x histogram\nother 1\n{}", lines.collect::<String>())
    }

    #[test]
    fn an_interval_is_summarized() {
        let before = Durations::read(&text([10, 10, 10], [0, 0, 1]));
        let after = Durations::read(&text([13, 16, 16], [0, 0, 3]));
        let summaries = after.since(&before, Duration::from_secs(2));
        let expected = Summary {
            measured: Measured { kind: Kind::Tier, name: "redis get".to_owned() },
            per_second: 4.0,
            failed_per_second: 1.0,
            median_ms: Some(10.0),
            p99_ms: None,
        };
        assert_eq!(summaries, [expected]);
    }

    #[test]
    fn nothing_measured_has_no_median() {
        let same = Durations::read(&text([10, 10, 10], [0, 0, 0]));
        let summaries = same.since(&same, Duration::from_secs(1));
        assert_eq!((summaries[0].per_second, summaries[0].median_ms, summaries[0].p99_ms), (0.0, None, None));
    }

    #[test]
    fn requests_and_loads_are_read() {
        let read = Durations::read(
            "http_request_duration_seconds_bucket{method=\"GET\",status=\"503\",le=\"+Inf\"} 4\n\
             cache_load_duration_seconds_bucket{cache=\"users\",outcome=\"ok\",le=\"+Inf\"} 5\n",
        );
        let summaries = read.since(&Durations::default(), Duration::from_secs(1));
        let shown =
            summaries.iter().map(|s| (s.measured.kind, &s.measured.name[..], s.per_second, s.failed_per_second));
        assert_eq!(shown.collect::<Vec<_>>(), [(Kind::Request, "GET", 4.0, 4.0), (Kind::Load, "database", 5.0, 0.0)]);
    }
}

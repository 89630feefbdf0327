//! Metrics: the durations of calls as they end, and the statistics of a chain once a second, for the
//! recorder of the `metrics` facade that the application has installed.

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod publish;

use std::time::{Duration, Instant};

#[cfg(not(feature = "metrics"))]
use self::off as publish;
use self::publish::Histograms;
pub(crate) use self::publish::Publisher;

/// The time between two publications of the statistics.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// The durations of calls of one kind. Measures nothing, and reads no clock, unless the application
/// has asked for metrics.
#[derive(Debug, Default)]
pub(crate) struct Durations(Option<Histograms>);

impl Durations {
    /// Returns the start of a call that starts now, if it is measured.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    /// Records the duration of a call that has started then and ends now.
    pub(crate) fn end(&self, started: Option<Instant>, is_ok: bool) {
        if let Some(started) = started {
            self.record(started.elapsed(), is_ok);
        }
    }

    /// Records the duration of a call.
    pub(crate) fn record(&self, duration: Duration, is_ok: bool) {
        if let Some(histograms) = &self.0 {
            histograms.record(duration, is_ok);
        }
    }
}

//! The metrics themselves: their names, labels and values.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::{
    Label, SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::stats::{BreakerState, Stats, TierStats};

const TIER_CALLS: &str = "cache_tier_call_duration_seconds";
const LOADS: &str = "cache_load_duration_seconds";

/// The metrics of one chain, which all have its name as the label `cache`.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    cache: SharedString,
    /// The mechanisms by which changes have been announced so far.
    modes: Arc<Mutex<Vec<&'static str>>>,
}

impl Publisher {
    /// Describes the metrics to the recorder.
    pub(crate) fn new(cache: String) -> Self {
        describe();
        Self { cache: SharedString::from_shared(Arc::from(cache)), modes: Arc::default() }
    }

    pub(crate) fn is_named(&self) -> bool {
        !self.cache.is_empty()
    }

    /// The durations of the calls of one operation to the tier.
    pub(crate) fn tier_calls(&self, tier: &Arc<str>, operation: &'static str) -> super::Durations {
        let labels = vec![label_of(tier), Label::from_static_parts("operation", operation)];
        self.durations(TIER_CALLS, labels)
    }

    /// The durations of loader calls.
    pub(crate) fn loads(&self) -> super::Durations {
        self.durations(LOADS, Vec::new())
    }

    fn durations(&self, name: &'static str, mut labels: Vec<Label>) -> super::Durations {
        labels.push(self.cache());
        super::Durations(Some(Histograms { name, labels }))
    }

    fn cache(&self) -> Label {
        Label::new("cache", self.cache.clone())
    }

    /// Tells the recorder the values of the statistics.
    pub(crate) fn publish(&self, stats: &Stats) {
        for tier in &stats.tiers {
            self.publish_tier(tier);
        }
        self.count_each("cache_backfills_total", "event", stats.backfill.counts());
        self.gauge("cache_backfill_queue_entries", stats.backfill.items as f64);
        self.gauge("cache_backfill_queue_bytes", stats.backfill.bytes as f64);
        self.count_each("cache_loads_total", "event", stats.loads.counts());
        self.gauge("cache_loads_in_flight", stats.loads.in_flight as f64);
        self.count_each("cache_writes_total", "event", stats.writes.counts());
        let coherence = &stats.coherence;
        if coherence.window.is_zero() {
            // No tier follows a stream.
            return;
        }
        self.count_each("cache_coherence_total", "event", coherence.counts());
        counter!("cache_coherence_epochs_total", vec![self.cache()]).absolute(coherence.epoch);
        self.publish_mode(coherence.mode);
        self.gauge("cache_coherence_trusted", f64::from(u8::from(coherence.trusted)));
        self.gauge("cache_coherence_window_seconds", coherence.window.as_secs_f64());
        // Infinite before the first proof, so that an alert on the age fires.
        let age = coherence.heartbeat_age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        self.gauge("cache_coherence_heartbeat_age_seconds", age);
    }

    /// Tells the recorder which mechanism announces changes now, and which does no longer.
    fn publish_mode(&self, now: Option<&'static str>) {
        let modes = {
            let mut modes = self.modes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(mode) = now.filter(|mode| !modes.contains(mode)) {
                modes.push(mode);
            }
            modes.clone()
        };
        for mode in modes {
            let is_now = f64::from(u8::from(now == Some(mode)));
            gauge!("cache_coherence_mode", vec![self.cache(), Label::from_static_parts("mode", mode)]).set(is_now);
        }
    }

    fn publish_tier(&self, tier: &TierStats) {
        let name: Arc<str> = tier.name.as_str().into();
        let labels = |label: Label| vec![self.cache(), label_of(&name), label];
        for (result, count) in [("hit", tier.hits), ("miss", tier.misses)] {
            counter!("cache_requests_total", labels(Label::from_static_parts("result", result))).absolute(count);
        }
        for (event, count) in tier.counts().skip(2) {
            counter!("cache_tier_failures_total", labels(Label::from_static_parts("event", event))).absolute(count);
        }
        gauge!("cache_tier_pending_deletes", vec![self.cache(), label_of(&name)]).set(tier.pending_deletes as f64);
        if let Some(usage) = tier.usage {
            let of_tier = || vec![self.cache(), label_of(&name)];
            gauge!("cache_tier_entries", of_tier()).set(usage.entries as f64);
            gauge!("cache_tier_weight", of_tier()).set(usage.weight as f64);
            if let Some(evictions) = usage.evictions {
                counter!("cache_tier_evictions_total", of_tier()).absolute(evictions);
            }
        }
        let Some(breaker) = tier.breaker else { return };
        for (state, title) in
            [(BreakerState::Closed, "closed"), (BreakerState::Open, "open"), (BreakerState::HalfOpen, "half_open")]
        {
            let is_state = f64::from(u8::from(breaker == state));
            gauge!("cache_tier_breaker_state", labels(Label::from_static_parts("state", title))).set(is_state);
        }
    }

    fn count_each(&self, name: &'static str, label: &'static str, counts: impl Iterator<Item = (&'static str, u64)>) {
        for (value, count) in counts {
            counter!(name, vec![self.cache(), Label::from_static_parts(label, value)]).absolute(count);
        }
    }

    fn gauge(&self, name: &'static str, value: f64) {
        gauge!(name, vec![self.cache()]).set(value);
    }
}

/// The label of a tier.
fn label_of(name: &Arc<str>) -> Label {
    Label::new("tier", SharedString::from_shared(Arc::clone(name)))
}

/// The durations of calls of one kind, by their outcome.
#[derive(Debug)]
pub(super) struct Histograms {
    name: &'static str,
    labels: Vec<Label>,
}

impl Histograms {
    /// Records a duration. The histogram is registered each time: a recorder may forget one that is
    /// idle. A recorder that panics must not break the call.
    pub(super) fn record(&self, duration: Duration, is_ok: bool) {
        let outcome = Label::from_static_parts("outcome", if is_ok { "ok" } else { "error" });
        let _ = catch_unwind(AssertUnwindSafe(|| {
            histogram!(self.name, [&self.labels[..], &[outcome]].concat()).record(duration.as_secs_f64());
        }));
    }
}

fn describe() {
    for (name, description) in [
        ("cache_requests_total", "Lookups of keys in a tier, by result (hit, miss)."),
        ("cache_tier_failures_total", "Failures of a tier, by event; a timeout is an error as well."),
        ("cache_tier_evictions_total", "Entries that a tier in memory has removed to make room for others."),
        ("cache_backfills_total", "Entries to be copied into the tiers above the one that had them, by event."),
        ("cache_loads_total", "Loader calls, and what happened to them and to their callers, by event."),
        ("cache_writes_total", "Keys written in every tier, by event; `cleared` counts calls."),
        ("cache_coherence_total", "Announced changes and the checks that they caused, by event."),
        ("cache_coherence_epochs_total", "Times that the invalidation stream has begun."),
    ] {
        describe_counter!(name, Unit::Count, description);
    }
    for (name, unit, description) in [
        ("cache_tier_pending_deletes", Unit::Count, "Keys to be deleted from a tier after a failed write."),
        ("cache_tier_entries", Unit::Count, "Entries in a tier in memory."),
        ("cache_tier_weight", Unit::Count, "The total weight of the entries of a tier in memory."),
        ("cache_tier_breaker_state", Unit::Count, "1 for the state in which the circuit breaker of a tier is."),
        ("cache_backfill_queue_entries", Unit::Count, "Backfills in the queue."),
        ("cache_backfill_queue_bytes", Unit::Bytes, "Bytes in the backfill queue, as the weigher counts them."),
        ("cache_loads_in_flight", Unit::Count, "Keys that are being loaded."),
        ("cache_coherence_mode", Unit::Count, "1 for the mechanism by which changes are announced now."),
        ("cache_coherence_trusted", Unit::Count, "1 if entries in memory are served without a check."),
        ("cache_coherence_window_seconds", Unit::Seconds, "The longest time for which a changed entry is served."),
        ("cache_coherence_heartbeat_age_seconds", Unit::Seconds, "Time since the stream has proven to be alive."),
    ] {
        describe_gauge!(name, unit, description);
    }
    describe_histogram!(TIER_CALLS, Unit::Seconds, "Calls to the store of a tier that is not in this process.");
    describe_histogram!(LOADS, Unit::Seconds, "Loader calls, without the wait for a permit.");
}

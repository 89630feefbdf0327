//! One event of the page: what the cache did in the last interval and in total.

use std::time::{Duration, Instant};

use cache_chain::{BackfillStats, BreakerState, CoherenceStats, LoadStats, Stats, TierStats};
use serde::Serialize;

use super::durations::{Durations, Kind, Summary};

/// The state at a moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) stats: Stats,
    pub(super) durations: Durations,
}

/// The fields that end in `per_second`, and the hit ratio, are those of the interval. The others are
/// the state at its end, or totals since the start.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    requests_per_second: f64,
    failed_requests_per_second: f64,
    tiers: Vec<Tier>,
    durations: Vec<Summary>,
    backfill: Backfill,
    loads: Loads,
    /// `None` for a cache in memory alone.
    coherence: Option<Coherence>,
}

#[derive(Debug, Serialize)]
struct Tier {
    name: String,
    lookups_per_second: f64,
    /// `None` without a lookup.
    hit_ratio: Option<f64>,
    hit_ratio_total: Option<f64>,
    errors: u64,
    skipped: u64,
    /// `None` for a tier in memory, as is `pending_deletes`.
    breaker: Option<&'static str>,
    pending_deletes: Option<usize>,
    /// `None` for a tier that is not in memory.
    memory: Option<Memory>,
}

#[derive(Debug, Serialize)]
struct Memory {
    entries: u64,
    weight: u64,
    evictions: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Backfill {
    applied_per_second: f64,
    items: usize,
    bytes: usize,
    dropped: u64,
    failed: u64,
}

#[derive(Debug, Serialize)]
struct Loads {
    started_per_second: f64,
    joined_per_second: f64,
    in_flight: usize,
    failed: u64,
    stale_served: u64,
}

#[derive(Debug, Serialize)]
struct Coherence {
    mode: Option<&'static str>,
    trusted: bool,
    heartbeat_age_ms: Option<u64>,
    window_ms: u64,
    events_per_second: f64,
    checks_per_second: f64,
    epoch: u64,
    served_in_grace: u64,
}

impl Sample {
    pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Self {
        // Not zero, by which rates are divided.
        let interval = (after.at - before.at).max(Duration::from_millis(1));
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / interval.as_secs_f64();
        let durations = after.durations.since(&before.durations, interval);
        let requests = durations.iter().filter(|summary| summary.measured.kind == Kind::Request);
        let tiers = before.stats.tiers.iter().zip(&after.stats.tiers);
        Self {
            requests_per_second: requests.clone().map(|summary| summary.per_second).sum(),
            failed_requests_per_second: requests.map(|summary| summary.failed_per_second).sum(),
            tiers: tiers.map(|(before, after)| Tier::between(before, after, rate)).collect(),
            durations,
            backfill: Backfill::between(&before.stats.backfill, &after.stats.backfill, rate),
            loads: Loads::between(&before.stats.loads, &after.stats.loads, rate),
            coherence: Coherence::between(&before.stats.coherence, &after.stats.coherence, rate),
        }
    }
}

impl Tier {
    fn between(before: &TierStats, after: &TierStats, rate: impl Fn(u64, u64) -> f64) -> Self {
        let lookups = |stats: &TierStats| stats.hits + stats.misses;
        Self {
            name: after.name.clone(),
            lookups_per_second: rate(lookups(before), lookups(after)),
            hit_ratio: ratio(after.hits.saturating_sub(before.hits), after.misses.saturating_sub(before.misses)),
            hit_ratio_total: ratio(after.hits, after.misses),
            errors: after.errors,
            skipped: after.skipped,
            breaker: after.breaker.map(title),
            pending_deletes: after.usage.is_none().then_some(after.pending_deletes),
            memory: after.usage.map(|usage| Memory {
                entries: usage.entries,
                weight: usage.weight,
                evictions: usage.evictions,
            }),
        }
    }
}

impl Backfill {
    fn between(before: &BackfillStats, after: &BackfillStats, rate: impl Fn(u64, u64) -> f64) -> Self {
        Self {
            applied_per_second: rate(before.applied, after.applied),
            items: after.items,
            bytes: after.bytes,
            dropped: after.dropped,
            failed: after.failed,
        }
    }
}

impl Loads {
    fn between(before: &LoadStats, after: &LoadStats, rate: impl Fn(u64, u64) -> f64) -> Self {
        Self {
            started_per_second: rate(before.started, after.started),
            joined_per_second: rate(before.joined, after.joined),
            in_flight: after.in_flight,
            failed: after.failed,
            stale_served: after.stale_served,
        }
    }
}

impl Coherence {
    /// Returns `None` if no tier follows a stream.
    fn between(before: &CoherenceStats, after: &CoherenceStats, rate: impl Fn(u64, u64) -> f64) -> Option<Self> {
        let events = |stats: &CoherenceStats| stats.events + stats.events_unheld;
        let checks = |stats: &CoherenceStats| stats.checks_unchanged + stats.checks_changed + stats.checks_gone;
        (!after.window.is_zero()).then(|| Self {
            mode: after.mode,
            trusted: after.trusted,
            heartbeat_age_ms: after.heartbeat_age.map(millis),
            window_ms: millis(after.window),
            events_per_second: rate(events(before), events(after)),
            checks_per_second: rate(checks(before), checks(after)),
            epoch: after.epoch,
            served_in_grace: after.served_in_grace,
        })
    }
}

fn ratio(hits: u64, misses: u64) -> Option<f64> {
    let lookups = hits + misses;
    (lookups > 0).then(|| hits as f64 / lookups as f64)
}

fn title(breaker: BreakerState) -> &'static str {
    match breaker {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half open",
        _ => "unknown",
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use cache_chain::{ChainCache, quick_cache::QuickCacheStore};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn ratios_are_those_of_the_interval_and_of_all_time() {
        let cache: ChainCache<u64> = ChainCache::builder().tier(QuickCacheStore::new(10).unwrap()).build().unwrap();
        let at = Instant::now();
        let snapshot = |seconds| Snapshot {
            at: at + Duration::from_secs(seconds),
            stats: cache.stats(),
            durations: Durations::default(),
        };
        assert_eq!(cache.get(1).await.unwrap(), None);
        let before = snapshot(0);
        cache.set(1, 1).await.unwrap();
        for key in [1, 1, 1, 2] {
            cache.get(key).await.unwrap();
        }
        let sample = serde_json::to_value(Sample::between(&before, &snapshot(2))).unwrap();
        let tier = json!({
            "name": "L1 quick_cache", "lookups_per_second": 2.0, "hit_ratio": 0.75, "hit_ratio_total": 0.6,
            "errors": 0, "skipped": 0, "breaker": null, "pending_deletes": null,
            "memory": { "entries": 1, "weight": 1, "evictions": 0 },
        });
        assert_eq!(sample["tiers"], json!([tier]));
        assert_eq!(sample["coherence"], json!(null));
    }
}

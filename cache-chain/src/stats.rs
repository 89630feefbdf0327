//! Counters.

use std::{
    cell::Cell,
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// What a chain has done since it was built, read at one time; the counters are not one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Per tier, from the first down.
    pub tiers: Vec<TierStats>,
    /// Of the backfill queue.
    pub backfill: BackfillStats,
    /// Of loads.
    pub loads: LoadStats,
}

/// What one tier has answered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TierStats {
    /// The tier's name.
    pub name: String,
    /// Reads that it answered with a value.
    pub hits: u64,
    /// Reads that it answered without one.
    pub misses: u64,
    /// Reads of bytes that did not decode; each counts as a miss as well.
    pub undecodable: u64,
    /// Calls that failed, late ones included.
    pub errors: u64,
    /// Calls that did not end within the tier's timeout, or whose store said so.
    pub timeouts: u64,
    /// Calls that were not made, since the tier had failed too often; see [`Tier::breaker`](crate::Tier::breaker).
    pub skipped: u64,
    /// Keys that the tier may hold wrongly now, since a write failed; see [`Tier::journal`](crate::Tier::journal).
    pub distrusted: usize,
}

/// What became of loads; see [`ChainCache::get_or_load`](crate::ChainCache::get_or_load).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LoadStats {
    /// Loads that were begun; that of a batch of keys counts once.
    pub begun: u64,
    /// Loads that brought a value, or that there is none.
    pub loaded: u64,
    /// Loads that failed, those that panicked or took too long included.
    pub failed: u64,
    /// Callers that waited for a load which another had begun.
    pub joined: u64,
    /// Callers that lost patience with a load; see [`ReadThrough::soft_timeout`](crate::ReadThrough::soft_timeout).
    pub abandoned: u64,
    /// Keys that another process loaded meanwhile.
    pub elsewhere: u64,
    /// Stale values that were served.
    pub stale: u64,
    /// Loads begun in the background, for a value that was stale or about to be.
    pub refreshes: u64,
    /// Keys that are being loaded now.
    pub under_way: usize,
}

/// What became of backfills. A backfill is one entry on its way into one or more tiers above the one that had it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct BackfillStats {
    /// Taken into the queue.
    pub queued: u64,
    /// Replaced in the queue by a newer one of the same key.
    pub coalesced: u64,
    /// Not taken or thrown away: the queue was full or closed.
    pub dropped: u64,
    /// Installed in a tier.
    pub applied: u64,
    /// Refused by a tier since the key was written meanwhile.
    pub refused: u64,
    /// Expired while queued.
    pub expired: u64,
    /// Failed in a tier, or could not be made since the tier answered the read and gave no lease, for example because the command
    /// is denied.
    pub failed: u64,
    /// In the queue now.
    pub items: usize,
    /// Bytes in the queue now, as the weigher counts them.
    pub bytes: usize,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for TierStats { name, hits, misses, undecodable, errors, timeouts, skipped, distrusted } in &self.tiers {
            write!(f, "{name}: {hits} hits, {misses} misses")?;
            let distrusted = *distrusted as u64;
            for (count, what) in [
                (undecodable, "undecodable"),
                (errors, "errors"),
                (timeouts, "timeouts"),
                (skipped, "skipped"),
                (&distrusted, "distrusted"),
            ] {
                if *count > 0 {
                    write!(f, ", {count} {what}")?;
                }
            }
            writeln!(f)?;
        }
        let BackfillStats { queued, coalesced, dropped, applied, refused, expired, failed, .. } = self.backfill;
        write!(f, "backfill: {queued} queued, {coalesced} coalesced, {applied} applied, ")?;
        write!(f, "{refused} refused, {expired} expired, {failed} failed, {dropped} dropped")?;
        let LoadStats { begun, loaded, failed, joined, abandoned, elsewhere, stale, refreshes, .. } = self.loads;
        if begun > 0 || stale > 0 {
            write!(
                f,
                "\nloads: {begun} begun, {loaded} loaded, {failed} failed, {joined} joined, {abandoned} abandoned, "
            )?;
            write!(f, "{elsewhere} elsewhere, {refreshes} refreshes; {stale} stale served")?;
        }
        Ok(())
    }
}

/// A counter that many threads raise at once without sharing a cache line.
#[derive(Default)]
pub(crate) struct Counter([Shard; SHARDS]);

#[derive(Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

const SHARDS: usize = 8;

thread_local! {
    static SHARD: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS)
    };
}

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        let shard = SHARD.with(Cell::get);
        self.0[shard].0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

#[derive(Default)]
pub(crate) struct TierCounters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) undecodable: Counter,
    pub(crate) errors: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) skipped: Counter,
}

impl TierCounters {
    pub(crate) fn snapshot(&self, name: &str, distrusted: usize) -> TierStats {
        TierStats {
            name: name.to_owned(),
            hits: self.hits.sum(),
            misses: self.misses.sum(),
            undecodable: self.undecodable.sum(),
            errors: self.errors.sum(),
            timeouts: self.timeouts.sum(),
            skipped: self.skipped.sum(),
            distrusted,
        }
    }
}

#[derive(Default)]
pub(crate) struct BackfillCounters {
    pub(crate) queued: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) dropped: Counter,
    pub(crate) applied: Counter,
    pub(crate) refused: Counter,
    pub(crate) expired: Counter,
    pub(crate) failed: Counter,
}

impl BackfillCounters {
    pub(crate) fn snapshot(&self, items: usize, bytes: usize) -> BackfillStats {
        BackfillStats {
            queued: self.queued.sum(),
            coalesced: self.coalesced.sum(),
            dropped: self.dropped.sum(),
            applied: self.applied.sum(),
            refused: self.refused.sum(),
            expired: self.expired.sum(),
            failed: self.failed.sum(),
            items,
            bytes,
        }
    }
}

#[derive(Default)]
pub(crate) struct LoadCounters {
    pub(crate) begun: Counter,
    pub(crate) loaded: Counter,
    pub(crate) failed: Counter,
    pub(crate) joined: Counter,
    pub(crate) abandoned: Counter,
    pub(crate) elsewhere: Counter,
    pub(crate) stale: Counter,
    pub(crate) refreshes: Counter,
}

impl LoadCounters {
    pub(crate) fn snapshot(&self, under_way: usize) -> LoadStats {
        LoadStats {
            begun: self.begun.sum(),
            loaded: self.loaded.sum(),
            failed: self.failed.sum(),
            joined: self.joined.sum(),
            abandoned: self.abandoned.sum(),
            elsewhere: self.elsewhere.sum(),
            stale: self.stale.sum(),
            refreshes: self.refreshes.sum(),
            under_way,
        }
    }
}

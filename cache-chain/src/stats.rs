//! Statistics.

use std::{fmt, time::Duration};

use cache_core::Usage;

use crate::util::counter::Counter;

/// Defines the statistics of one part of a chain together with their counters.
macro_rules! statistics {
    (
        $(#[$meta:meta])*
        $stats:ident, $counters:ident {
            $($(#[$count_doc:meta])* $count:ident,)*
        }
        now {
            $($(#[$gauge_doc:meta])* $gauge:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct $stats {
            $($(#[$count_doc])* pub $count: u64,)*
            $($(#[$gauge_doc])* pub $gauge: $type,)*
        }

        impl $stats {
            pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($count), self.$count)),*].into_iter()
            }
        }

        #[derive(Default)]
        pub(crate) struct $counters {
            $(pub(crate) $count: Counter,)*
        }

        impl $counters {
            pub(crate) fn snapshot(&self, $($gauge: $type),*) -> $stats {
                $stats { $($count: self.$count.sum(),)* $($gauge,)* }
            }
        }
    };
}

/// Statistics of a chain since it was built. The counters are read one after the other, not at one
/// moment.
///
/// `Display` writes them as text, one line for each tier and one for the backfills.
///
/// # Examples
///
/// ```
/// use cache_chain::{ChainCache, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
///     users.set(42, "Ada".to_owned()).await?;
///     users.get(42).await?;
///     users.get(43).await?;
///
///     let stats = users.stats();
///     assert_eq!((stats.tiers[0].hits, stats.tiers[0].misses), (1, 1));
///     assert!(stats.to_string().starts_with("L1 stretto: 1 hits, 1 misses"));
///     Ok(())
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The tiers, from the first down.
    pub tiers: Vec<TierStats>,
    /// The backfill queue.
    pub backfill: BackfillStats,
    /// Loads.
    pub loads: LoadStats,
    /// Writes.
    pub writes: WriteStats,
    /// The coherence of the first tiers with the shared tier below them.
    pub coherence: CoherenceStats,
}

/// The state of a circuit breaker; see [`Tier::breaker`](crate::Tier::breaker).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BreakerState {
    /// All calls are made.
    Closed,
    /// No calls are made.
    Open,
    /// One call is made, to see whether the tier answers again.
    HalfOpen,
}

statistics! {
    /// Statistics of one tier.
    ///
    /// A key that is looked up counts once as a hit or a miss, however many callers share the
    /// lookup. An entry that is stale, or older than the call accepts, is a hit for
    /// [`get_or_load`](crate::ChainCache::get_or_load) and a miss for plain reads.
    TierStats, TierCounters {
        /// Lookups that found an entry.
        hits,
        /// Lookups that found none, or none that is fresh.
        misses,
        /// Lookups that found bytes which do not decode. Each is a miss as well.
        undecodable,
        /// Calls that failed.
        errors,
        /// Calls that timed out. Each is an error as well.
        timeouts,
        /// Calls that were not made because the circuit breaker was open; see
        /// [`Tier::breaker`](crate::Tier::breaker).
        skipped,
    }
    now {
        /// Keys to be deleted from the tier after a failed write; see
        /// [`Tier::pending_deletes`](crate::Tier::pending_deletes).
        pending_deletes: usize,
        /// What the store holds; `None` if it is not in this process, or does not know.
        usage: Option<Usage>,
        /// The state of the circuit breaker; `None` if the tier has none or is in this process.
        breaker: Option<BreakerState>,
        /// The name of the tier.
        name: String,
    }
}

statistics! {
    /// Statistics of backfills. A backfill is one entry that is copied into the tiers above the one
    /// that had it.
    #[derive(Copy)]
    BackfillStats, BackfillCounters {
        /// Queued.
        queued,
        /// Replaced in the queue by a newer backfill of the same key.
        coalesced,
        /// Installed in a tier.
        applied,
        /// Refused by a tier because the key was written since the lookup began.
        refused,
        /// Expired in the queue.
        expired,
        /// Failed in a tier, or impossible without a lease: the tier answered the lookup and
        /// granted none, or too many leases wait to be released.
        failed,
        /// Dropped because the queue was full or closed.
        dropped,
    }
    now {
        /// Backfills in the queue.
        items: usize,
        /// Bytes in the queue, as the weigher counts them.
        bytes: usize,
    }
}

statistics! {
    /// Statistics of loads; see [`ChainCache::get_or_load`](crate::ChainCache::get_or_load).
    #[derive(Copy)]
    LoadStats, LoadCounters {
        /// Loader calls. A call for a batch of keys counts once.
        started,
        /// Loader calls that returned a value or its absence.
        loaded,
        /// Loader calls that failed, panicked or timed out.
        failed,
        /// Callers that joined the load of another caller.
        joined,
        /// Callers that stopped waiting for a load; see
        /// [`ReadThrough::soft_timeout`](crate::ReadThrough::soft_timeout).
        abandoned,
        /// Keys that a peer, another process, loaded while this one waited for it.
        loaded_by_peer,
        /// Loads started for a value that is stale or about to expire.
        refreshes,
        /// Loads started because the caller wanted a new value; see
        /// [`CallOptions::reload`](crate::CallOptions::reload) and
        /// [`CallOptions::max_age`](crate::CallOptions::max_age).
        reloads,
        /// Loads that found the previous value unmodified.
        not_modified,
        /// Stale values served, also those by plain reads.
        stale_served,
    }
    now {
        /// Keys that are being loaded.
        in_flight: usize,
    }
}

statistics! {
    /// Statistics of writes. A key counts if every tier was written; the errors of the others count
    /// in the statistics of the tiers.
    #[derive(Copy)]
    WriteStats, WriteCounters {
        /// Keys set.
        set,
        /// Keys deleted.
        deleted,
        /// Keys invalidated; see [`ChainCache::invalidate`](crate::ChainCache::invalidate).
        invalidated,
        /// Keys whose value was taken; see [`ChainCache::take`](crate::ChainCache::take).
        taken,
        /// Keys whose value got a new TTL; see [`ChainCache::touch`](crate::ChainCache::touch).
        touched,
        /// Keys whose value was made stale; see [`ChainCache::expire`](crate::ChainCache::expire).
        expired,
        /// Calls of [`ChainCache::clear`](crate::ChainCache::clear) and
        /// [`ChainCache::invalidate_all`](crate::ChainCache::invalidate_all).
        cleared,
    }
    now {}
}

statistics! {
    /// Statistics of the coherence of the first tiers; see
    /// [`ChainBuilder::coherence`](crate::ChainBuilder::coherence). All are zero for a chain whose
    /// shared tier has no invalidation stream.
    #[derive(Copy)]
    CoherenceStats, CoherenceCounters {
        /// Changes of keys that a first tier held, and changes of all keys.
        events,
        /// Changes of keys that no first tier held.
        events_unheld,
        /// Events that are not of this stream, such as a key that is too long.
        unknown,
        /// Losses of events that the stream has noticed without ending.
        gaps,
        /// Runs of the stream that have ended, and attempts to begin one that have failed.
        ended,
        /// Checks of suspect entries that the shared tier has confirmed.
        checks_unchanged,
        /// Checks of suspect entries that have found another entry, or one of an unknown version.
        checks_changed,
        /// Checks of suspect entries that have found none.
        checks_gone,
        /// Suspect entries served while the shared tier could not be reached; see
        /// [`Coherence::grace`](crate::Coherence::grace).
        served_in_grace,
        /// Hits that the auditor has compared with the shared tier; see
        /// [`Coherence::audit`](crate::Coherence::audit).
        audited,
        /// Audited hits of entries that were served longer than W after the shared tier had
        /// replaced them.
        disagreed,
    }
    now {
        /// The mechanism by which changes are announced now, such as "tracking"; `None` if there is
        /// none or it is not connected.
        mode: Option<&'static str>,
        /// The number of times that the stream has begun.
        epoch: u64,
        /// The time since the last heartbeat by which the stream has proven that it is alive.
        heartbeat_age: Option<Duration>,
        /// `true` if entries of the first tiers are served without a check.
        trusted: bool,
        /// W: the longest time for which an entry is served that was changed in the shared tier.
        window: Duration,
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tier in &self.tiers {
            write!(f, "{}: ", tier.name)?;
            let pending = ("pending_deletes", tier.pending_deletes as u64);
            let rare = tier.counts().skip(2).chain([pending]).filter(|(_, count)| *count > 0);
            counts(f, tier.counts().take(2).chain(rare))?;
            match tier.breaker {
                Some(BreakerState::Open) => f.write_str(", breaker open")?,
                Some(BreakerState::HalfOpen) => f.write_str(", breaker half open")?,
                Some(BreakerState::Closed) | None => {}
            }
            writeln!(f)?;
        }
        f.write_str("backfill: ")?;
        counts(f, self.backfill.counts())?;
        if self.loads.counts().any(|(_, count)| count > 0) {
            f.write_str("\nloads: ")?;
            counts(f, self.loads.counts())?;
        }
        if self.writes.counts().any(|(_, count)| count > 0) {
            f.write_str("\nwrites: ")?;
            counts(f, self.writes.counts().filter(|(_, count)| *count > 0))?;
        }
        if self.coherence.epoch > 0 {
            write!(f, "\ncoherence: {}, ", self.coherence.mode.unwrap_or("not connected"))?;
            counts(f, self.coherence.counts())?;
        }
        Ok(())
    }
}

/// Writes "12 hits, 3 misses".
fn counts(f: &mut fmt::Formatter<'_>, counts: impl Iterator<Item = (&'static str, u64)>) -> fmt::Result {
    for (at, (name, count)) in counts.enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        write!(f, "{comma}{count} {}", name.replace('_', " "))?;
    }
    Ok(())
}

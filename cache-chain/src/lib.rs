#![doc = include_str!("../README.md")]

// From the bottom up: each module uses those above it only.
mod util;

mod flight;
mod freshness;
mod lifetime;
mod outcome;
mod stats;

mod coherence;
mod metrics;
mod spans;
mod tier;

mod backfill;
mod repair;

mod audit;
mod invalidation;

mod read;

mod load;
mod write;

mod explain;

mod chain;

pub use cache_core::backend::{Content, Description, Inspection};
#[cfg(feature = "testkit")]
pub use cache_core::testkit;
pub use cache_core::{
    Cache, Clock, DelegateCache, DisplayKey, Error, ErrorKind, Failure, Key, KeyWriter, MAX_TTL, ManualClock, Moment,
    Origin, Result, SharedClock, Store, SystemClock, Ttl, Usage, codec, without_derive::CacheKey,
};
#[cfg(feature = "derive")]
pub use cache_derive::CacheKeyOfCacheChain as CacheKey;
#[cfg(feature = "moka")]
pub use store_moka as moka;
#[cfg(feature = "quick-cache")]
pub use store_quick_cache as quick_cache;
#[cfg(feature = "redis")]
pub use store_redis as redis;
#[cfg(feature = "sql")]
pub use store_sql as sql;
#[cfg(feature = "stretto")]
pub use store_stretto as stretto;

pub use crate::{
    chain::{BlockingChain, CallOptions, ChainBuilder, ChainCache, WithOptions},
    coherence::Coherence,
    explain::{Action, Decision, ExplainedTier, Explanation, Held, Trust},
    freshness::FreshnessToken,
    load::{Load, LoadContext, Loaded, Previous, ReadThrough, ServeStale},
    outcome::{Found, Source},
    stats::{BackfillStats, BreakerState, CoherenceStats, LoadStats, Stats, TierStats, WriteStats},
    tier::{Tier, breaker::Breaker},
};

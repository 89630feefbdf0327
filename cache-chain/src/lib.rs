#![doc = include_str!("../README.md")]

mod backfill;
mod breaker;
mod budget;
mod builder;
mod calls;
mod chain;
mod claim;
mod completion;
mod detached;
mod erased;
mod flight;
mod flights;
mod guard;
mod journal;
mod keep;
mod leases;
mod left_out;
mod load;
mod load_many;
mod loaded;
mod mend;
mod nesting;
mod outcome;
mod panics;
mod pauses;
mod random;
mod read;
mod read_through;
mod runtime;
mod stats;
mod sync;
mod through;
mod tier;
mod tier_write;
mod write;

pub use cache_core::{
    Cache, CacheKey, Clock, DelegateCache, Error, ErrorKind, Failure, Key, KeyWriter, MAX_TTL, Origin, Result,
    SharedClock, Store, Ttl, codec,
};
#[cfg(feature = "redis")]
pub use store_redis as redis;
#[cfg(feature = "sql")]
pub use store_sql as sql;
#[cfg(feature = "stretto")]
pub use store_stretto as stretto;

pub use crate::{
    builder::ChainBuilder,
    chain::ChainCache,
    loaded::{Load, Loaded},
    outcome::{Outcome, Source},
    read_through::ReadThrough,
    stats::{BackfillStats, LoadStats, Stats, TierStats},
    tier::Tier,
};

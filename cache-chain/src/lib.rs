#![doc = include_str!("../README.md")]

mod backfill;
mod builder;
mod chain;
mod completion;
mod erased;
mod guard;
mod read;
mod stats;
mod tier;
mod write;

pub use cache_core::{Cache, CacheKey, Error, ErrorKind, Failure, Key, KeyWriter, MAX_TTL, Result, Ttl, codec};
#[cfg(feature = "redis")]
pub use store_redis as redis;
#[cfg(feature = "sql")]
pub use store_sql as sql;
#[cfg(feature = "stretto")]
pub use store_stretto as stretto;

pub use crate::{
    builder::ChainBuilder,
    chain::ChainCache,
    stats::{BackfillStats, Stats, TierStats},
    tier::Tier,
};
